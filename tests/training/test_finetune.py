"""Borrowed weights: the head first, then layers from the top at their own rates; what is kept has earned it."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.data.augment import POLICIES
from rightfit.data.loader import TrainLoader
from rightfit.evaluation.infer import all_logits
from rightfit.evaluation.metrics import quick
from rightfit.nets.layers import fused
from rightfit.nets.resnet import build
from rightfit.training import finetune
from rightfit.training.backend_steps import make_step
from rightfit.training.head import Extractor
from rightfit.training.judging import Validation
from rightfit.training.optimizers import make_optimizer
from rightfit.training.phases import Phase

SIDE, CLASSES = 8, 3
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])


class Toy:
    """Noisy images whose colour is their class; with `secret`, whose class no image shows."""

    def __init__(self, secret=False):
        generator = np.random.default_rng(0)
        self.codes = np.arange(240) % CLASSES
        shown = generator.integers(0, CLASSES, 240) if secret else self.codes
        noise = generator.normal(0, 60, (240, SIDE, SIDE, 3))
        self.images = np.clip(COLOURS[shown][:, None, None] + noise, 0, 255).astype(np.uint8)

    def gather(self, rows):
        return self.images[rows]

    def parts(self, images=160):
        targets = np.eye(CLASSES, dtype=np.float32)[self.codes]
        train, held = np.arange(images), np.arange(180, 240)
        ones = np.ones(images, np.float32)
        loader = TrainLoader(self, train, targets[train], ones, 16, 0, POLICIES["light"])
        return loader, Validation(self, held, targets[held], None)


def settled(**changes):
    values = {"data": "toy", "model": "resnet8", "augment": "light", "epochs": 5, "batch_size": 16}
    values |= {
        "learning_rate": 0.01,
        "warmup_epochs": 0.5,
        "weight_decay": 0.0005,
        "ema": 0.0,
        "patience": 99,
    }
    return TrainSettings(**values | changes)


@pytest.fixture
def tuned(tmp_path):
    """tuned(toy, how, ...) -> model before, progress, decisions."""

    def run(toy, how, images=160, rows=None, **changes):
        model = build("resnet8", CLASSES, (SIDE, SIDE))
        before = model.get_weights()
        loader, validation = toy.parts(images)
        if rows is not None:
            validation = Validation(toy, rows, validation.targets[: len(rows)], None)
        seen = []
        progress, decisions = finetune.train(
            model,
            Extractor(model, "float32", toy, "toy", tmp_path),
            loader,
            validation,
            settled(finetune=how, **changes),
            "categorical",
            Console(quiet=True),
            lambda progress: seen.append([row["trainable"] for row in progress.history]),
            "float32",
            settings_for=lambda epochs: settled(finetune=how, **changes | {"epochs": epochs}),
        )
        return model, before, progress, decisions, seen

    return run


def changed_layers(model, before, after):
    names = [f"{layer.name}/{v.name}" for layer in model.layers for v in layer.weights]
    order = [f"{v.path.split('/')[-2]}/{v.name}" for v in model.weights]
    assert sorted(names) == sorted(order)
    return {
        name.partition("/")[0]
        for name, a, b in zip(order, before, after, strict=True)
        if not np.array_equal(a, b)
    }


def test_head_changes_the_head_alone_and_is_epoch_zero(tuned):
    model, before, progress, decisions, seen = tuned(Toy(), "head")
    assert changed_layers(model, before, progress.weights) == {"logits"}
    assert [(row["epoch"], row["trainable"]) for row in progress.history] == [(0, "head")]
    assert seen == [["head"]]
    assert [decision.setting for decision in decisions] == ["head penalty"]


def test_the_row_of_the_head_is_what_the_net_with_its_weights_measures(tuned):
    toy = Toy()
    model, _, progress, _, _ = tuned(toy, "head")
    model.set_weights(progress.weights)
    loader, validation = toy.parts()
    for rows, targets, loss, accuracy in (
        (loader.rows, loader.targets, "loss", "accuracy"),
        (validation.rows, validation.targets, "val_loss", "val_accuracy"),
    ):
        logits = all_logits(model, toy, rows, 64)
        measured = quick(logits, targets, "categorical")
        assert progress.history[0][loss] == pytest.approx(measured.loss, rel=1e-3)
        assert progress.history[0][accuracy] == measured.accuracy
    assert np.abs(progress.logits - logits).max() < 1e-4 * np.abs(logits).max()


def test_gradual_says_what_was_trainable_when(tuned):
    _, _, progress, _, _ = tuned(Toy(), "gradual")
    assert [row["trainable"] for row in progress.history] == [
        "head",
        "stage3 and above",
        "stage2 and above",
        *3 * ["all, lower parts slower"],
    ]
    assert [row["epoch"] for row in progress.history] == [0, 1, 2, 3, 4, 5]


def test_frozen_layers_keep_every_weight_and_statistic(tuned, monkeypatch):
    top = finetune.phases(build("resnet8", CLASSES, (SIDE, SIDE)), "gradual")[0]
    monkeypatch.setattr(finetune, "phases", lambda model, how: (Phase(top.name, 1.0, top.rates),))
    model, before, progress, _, _ = tuned(Toy(), "gradual", rows=np.arange(0), epochs=1)
    assert progress.best_epoch == 1
    changed = changed_layers(model, before, progress.weights)
    assert {name.partition("_")[0] for name in changed} == {"stage3", "logits"}


def test_auto_keeps_the_head_when_training_below_it_shows_no_gain(tuned):
    """Nothing in the images tells the class, so no net can be better than chance."""
    _, _, progress, decisions, _ = tuned(Toy(secret=True), "auto", learning_rate=0.05)
    assert (decisions[-1].setting, decisions[-1].value) == ("finetune", "head")
    assert progress.best_epoch == 0


def test_auto_leaves_few_images_to_the_head(tuned):
    _, _, progress, decisions, _ = tuned(Toy(), "auto", images=90)
    assert decisions[-1].value == "head"
    assert "90 training images are too few" in decisions[-1].because
    assert len(progress.history) == 1


@pytest.mark.parametrize("how", ["head", "auto"])
def test_without_validation_images_all_of_it_still_works(tuned, how):
    _, _, progress, decisions, _ = tuned(Toy(), how, rows=np.arange(0))
    assert len(progress.weights) > 0
    assert progress.best_epoch == (0 if how == "head" else 5)
    assert "val_loss" not in progress.history[0]
    assert decisions[0].setting == "head penalty"


@pytest.mark.parametrize("name", ["resnet50", "resnet50v2", "resnet50d"])
def test_parts_of_a_resnet_are_its_stages_from_the_input_to_the_head(name):
    groups = finetune.parts(build(name, 3, (32, 32)))
    assert [group[0].partition("_")[0] for group in groups] == [
        "stem",
        "stage1",
        "stage2",
        "stage3",
        "stage4",
        "logits",
    ]


def test_parts_hold_every_layer_with_weights_once():
    for name in ("resnet20", "resnet50v2", "resnet18d"):
        model = build(name, 3, (32, 32))
        named = [name for group in finetune.parts(model) for name in group]
        assert sorted(named) == sorted(layer.name for layer in model.layers if layer.weights)


def test_parts_of_a_net_without_stages_are_five_and_the_head():
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for index in range(12):
        x = keras.layers.Conv2D(4, 1, name=f"c{index}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    groups = finetune.parts(model)
    assert [len(group) for group in groups] == [3, 3, 2, 2, 2, 1]
    phases = finetune.phases(model, "gradual")
    assert set(phases[0].rates) == {"c10", "c11", "logits"}
    assert set(phases[-1].rates) == {f"c{i}" for i in range(12)} | {"logits"}
    assert phases[-1].rates["logits"] == phases[-1].rates["c11"] == 1.0
    assert phases[-1].rates["c0"] == pytest.approx(finetune.SLOWER**4)
    assert sum(phase.share for phase in phases) == pytest.approx(1)


def test_a_rate_of_a_tenth_moves_a_layer_a_tenth_as_far():
    toy = Toy()
    loader, _ = toy.parts()
    moved = []
    for rate in (1.0, 0.1):
        model = fused(build("resnet8", CLASSES, (SIDE, SIDE)))
        before = model.get_layer("stem_conv").kernel.numpy()
        settings = settled(weight_decay=0.0)
        step = make_step(model, make_optimizer(settings, model), "categorical", False, {"stem_conv": rate})
        step(loader.batch(0, 0), 0.01, None)
        after = dict(zip([v.path for v in model.weights], step.weights(averaged=False), strict=True))
        moved.append(after[model.get_layer("stem_conv").kernel.path] - before)
    assert np.abs(moved[0]).max() > 1e-5
    assert np.allclose(moved[1], 0.1 * moved[0], rtol=1e-3, atol=1e-7)
