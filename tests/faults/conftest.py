"""A toy run that takes a second, whose checkpoints and decisions the tests of faults look at."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.data.augment import POLICIES
from rightfit.data.loader import TrainLoader
from rightfit.training import loop, running
from rightfit.training.checkpoints import Checkpoints
from rightfit.training.judging import Validation
from rightfit.training.safety import Safety

SIDE, CLASSES = 8, 3


class Toy:
    def __init__(self):
        generator = np.random.default_rng(0)
        self.codes = np.arange(144) % CLASSES
        colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[self.codes]
        noise = generator.normal(0, 40, (144, SIDE, SIDE, 3))
        self.images = np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)
        self.targets = np.eye(CLASSES, dtype=np.float32)[self.codes]

    def gather(self, rows):
        return self.images[rows]


TOY = Toy()


def small_net():
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(layers.Conv2D(8, 3, name="conv")(x)))
    x = layers.Dense(CLASSES, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(inputs, x, name="small")
    generator = np.random.default_rng(1)
    conv = model.get_layer("conv").kernel
    conv.assign(generator.normal(0, 0.2, conv.shape))
    model.get_layer("logits").kernel.assign(generator.normal(0, 0.3, (8, CLASSES)))
    return model


@pytest.fixture
def training(tmp_path, capsys):
    """training(...) -> progress, what was said, decisions, and the checkpoints; in tmp_path/run."""

    def run(
        after_epoch=lambda progress: None,
        weights=None,
        go_on=False,
        every=1e9,
        model=None,
        held=range(96, 144),
        toy=TOY,
        on_decision=lambda decision: None,
        change=lambda saved: None,
        **changes,
    ):
        values = {"data": "toy", "model": "resnet8", "augment": "light", "epochs": 4, "batch_size": 16}
        values |= {
            "learning_rate": 0.1,
            "warmup_epochs": 0.5,
            "weight_decay": 0.001,
            "ema": 0.0,
            "patience": 99,
        }
        settings = TrainSettings(**values | changes)
        place = run.folder.parent
        place.mkdir(exist_ok=True)
        kept = Checkpoints(place, Console())
        kept.every = every
        run.decisions = decisions = []

        def decided(decision):
            decisions.append(decision)
            on_decision(decision)

        held = np.array(held, np.int64)
        saved = kept.newest() if go_on else None
        if saved:
            change(saved)
        ones = np.ones(96, np.float32) if weights is None else weights
        progress = loop.train(
            model or small_net(),
            run.loader(ones, toy),
            Validation(toy, held, toy.targets[held], None),
            settings,
            "categorical",
            Console(quiet=True),
            after_epoch,
            "float32",
            lambda epochs: settings,
            safety=Safety(kept, decided, lambda positions: [f"{p}.png" for p in positions]),
            saved=saved,
        )
        return SimpleNamespace(
            progress=progress, said=capsys.readouterr().err, decisions=decisions, checkpoints=kept
        )

    def loader(weights, toy=TOY):
        return TrainLoader(toy, np.arange(96), toy.targets[:96], weights, 16, 0, POLICIES["light"])

    run.loader, run.toy = loader, Toy
    run.folder = tmp_path / "run" / "checkpoints"
    return run


@pytest.fixture
def after_steps(monkeypatch):
    """after_steps(do): from now on `do(step, batch, number)` follows each step, counted from 1, within its call."""

    def plant(do):
        count = itertools.count(1)
        make = running.make_step

        def making(*given):
            step = make(*given)
            call = step.__class__.__call__

            def stepping(self, batch, rate, decay):
                call(self, batch, rate, decay)
                do(self, batch, next(count))

            step.__class__ = type("Planted", (step.__class__,), {"__call__": stepping})
            return step

        monkeypatch.setattr(running, "make_step", making)

    return plant
