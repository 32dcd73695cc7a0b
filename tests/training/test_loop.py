"""Training learns what can be learnt, repeats by its seed, keeps the best epoch, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import threading
import types
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.data.augment import POLICIES
from rightfit.data.loader import Batch, TrainLoader
from rightfit.errors import RightfitError
from rightfit.evaluation.infer import all_logits, plain_graph
from rightfit.evaluation.metrics import quick
from rightfit.nets.layers import fused
from rightfit.nets.resnet import build, initialise
from rightfit.training import loop, running, signals, speed, treatment
from rightfit.training.diagnosis import diagnose, evidence
from rightfit.training.judging import Validation
from rightfit.training.optimizers import FusedSGD, make_optimizer
from rightfit.training.schedule import WarmupCosine, averaging_decay
from rightfit.training.workers import Workers

SIDE = 8  # px
CLASSES = 3
STEPS = 6  # an epoch
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])


class Toy:
    """Noisy images whose colour is their class: 96 to train on, 48 to validate."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.codes = np.arange(144) % CLASSES
        noise = generator.normal(0, 40, (144, SIDE, SIDE, 3))
        self.images = np.clip(COLOURS[self.codes][:, None, None] + noise, 0, 255).astype(np.uint8)
        self.train, self.validate = np.arange(96), np.arange(96, 144)

    def gather(self, rows):
        return self.images[rows]

    def targets(self, rows, mode="categorical"):
        one_hot = np.eye(CLASSES, dtype=np.float32)[self.codes[rows]]
        return one_hot[:, :1] if mode == "binary" else one_hot

    def loader(self, mode="categorical", seed=0):
        weights = np.ones(len(self.train), np.float32)
        return TrainLoader(
            self, self.train, self.targets(self.train, mode), weights, 16, seed, POLICIES["light"]
        )

    def validation(self, mode="categorical", rows=None, mislabelled=False):
        rows = self.validate if rows is None else rows
        targets = self.targets(rows, mode)
        return Validation(self, rows, np.roll(targets, 1, axis=-1) if mislabelled else targets, None)


TOY = Toy()
NOBODY = np.arange(0)


def small_net(outputs=CLASSES, seed=0):
    """One convolution: what the laws below need, compiled in a moment."""
    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(inputs)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = layers.Dense(outputs, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(inputs, x, name="small")
    initialise(model, seed)
    return model


def settled(**changes):
    values = {
        "data": "toy",
        "model": "resnet8",
        "augment": "light",
        "epochs": 3,
        "batch_size": 16,
        "learning_rate": 0.1,
        "warmup_epochs": 0.5,
        "weight_decay": 0.001,
        "ema": 0.0,
        "patience": 99,
        **changes,
    }
    return TrainSettings(**values)


def train(
    model=None, validation=None, mode="categorical", loader=None, after_epoch=lambda progress: None, **changes
):
    return loop.train(
        model or small_net(),
        loader or TOY.loader(mode),
        validation or TOY.validation(mode),
        settled(**changes),
        mode,
        Console(quiet=True),
        after_epoch,
        "float32",
        settings_for=lambda epochs: settled(**changes | {"epochs": epochs, "warmup_epochs": 0.1 * epochs}),
    )


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.fixture(scope="module")
def learnt():
    """A resnet8, trained twice alike."""
    return [train(build("resnet8", CLASSES, (SIDE, SIDE)), epochs=8, learning_rate=0.05) for _ in range(2)]


def test_it_learns_what_can_be_learnt(learnt):
    assert learnt[0].history[learnt[0].best_epoch - 1]["val_accuracy"] >= 0.95
    assert learnt[0].history[-1]["loss"] < 0.8 * learnt[0].history[0]["loss"]


def test_the_same_seed_gives_the_same_weights_bit_for_bit(learnt):
    first, second = learnt
    assert same(first.weights, second.weights)
    measured = [
        [{k: v for k, v in row.items() if "seconds" not in k} for row in run.history] for run in learnt
    ]
    assert measured[0] == measured[1]


def test_the_doctor_looks_and_changes_nothing():
    seen, unseen = train(), train(doctor="off")
    assert same(seen.weights, unseen.weights) and seen.kept and not unseen.kept

    def told(run):
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in run.history]

    assert told(unseen) == [
        {k: v for k, v in row.items() if "probe" not in k and k != "update_ratio"} for row in told(seen)
    ]


def diagnosis_of(run, images, shares=1 / CLASSES):
    return diagnose(evidence(run.kept, images, shares, classes=CLASSES))


def test_of_labels_drawn_at_random_it_says_that_nothing_carries_over():
    toy = Toy()
    toy.codes = np.random.default_rng(2).integers(0, CLASSES, 144)
    model = build("resnet8", CLASSES, (SIDE, SIDE))
    run = train(model, toy.validation(), loader=toy.loader(), epochs=40, learning_rate=0.05, augment="none")
    assert diagnosis_of(run, 48).word == "label noise"


def test_a_planted_leak_is_suspected():
    """Validation holds training images, with labels that were corrected there alone."""
    toy = Toy()
    truth = toy.codes.copy()
    toy.codes[:40] = np.random.default_rng(1).permutation(toy.codes[:40])
    loader = toy.loader()
    toy.codes = truth
    run = train(validation=toy.validation(rows=toy.train), loader=loader, epochs=6)
    assert diagnosis_of(run, 96).word == "leak suspected"


def test_looks_that_memory_is_too_short_for_are_left_out_and_the_run_stands(monkeypatch):
    def short(*given, **named):
        raise MemoryError

    whole = train()
    assert {"shift_brightness", "sure_wrong"} <= set(whole.kept)
    monkeypatch.setattr(signals, "shifts", short)
    cut = train()
    assert cut.kept["sure_wrong"] == whole.kept["sure_wrong"] and "shift_brightness" not in cut.kept
    assert same(whole.weights, cut.weights) and cut.ended == whole.ended
    monkeypatch.setattr(signals, "shifts", lambda *given: pytest.fail("no look where parts are taken"))
    assert "sure_wrong" in train(micro_batch=8).kept


def test_the_probe_is_measured_as_validation_is():
    run = train()
    judge = plain_graph(fused(small_net()))
    judge.set_weights(run.weights)
    logits = all_logits(judge, TOY, TOY.train, 32)
    expected = quick(logits, TOY.targets(TOY.train), "categorical")  # so few images are all in the probe
    assert run.kept["probe_loss"] == pytest.approx(expected.loss, rel=1e-4)
    assert run.kept["probe_accuracy"] == expected.accuracy
    assert run.kept["val_loss"] == run.history[run.best_epoch - 1]["val_loss"]


def test_another_seed_gives_other_weights():
    first, second = (train(epochs=1, loader=TOY.loader(seed=seed)) for seed in (0, 1))
    assert not same(first.weights, second.weights)


@pytest.mark.parametrize("mode, outputs", [("binary", 1), ("multilabel", CLASSES)])
def test_it_learns_the_other_label_modes(mode, outputs):
    progress = train(small_net(outputs), mode=mode, epochs=6, learning_rate=1.0)
    assert progress.history[progress.best_epoch - 1]["val_accuracy"] >= 0.95


def test_the_model_that_came_in_is_left_as_it_is_and_no_thread_stays():
    model = small_net()
    before = model.get_weights()
    progress = train(model, epochs=1)
    assert same(model.get_weights(), before)
    assert not same(progress.weights, before)
    assert [t.name for t in threading.enumerate() if t.name.startswith("rightfit")] == []


def test_an_epoch_is_measured_over_all_its_images():
    seen = []
    progress = train(epochs=2, after_epoch=lambda progress: seen.append(len(progress.history)))
    assert seen == [1, 2]
    assert [row["epoch"] for row in progress.history] == [1, 2]
    assert [row["steps"] for row in progress.history] == [STEPS, STEPS]
    for row in progress.history:
        assert (row["accuracy"] * 96) == pytest.approx(round(row["accuracy"] * 96))
        assert (row["val_accuracy"] * 48) == pytest.approx(round(row["val_accuracy"] * 48))
    assert progress.ended == "all 2 epochs done"


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_the_weights_that_come_out_are_those_of_the_best_epoch(ema):
    """Validation images with wrong labels: the better it learns, the worse its validation loss."""
    model = small_net()
    validation = TOY.validation(mislabelled=True)
    progress = train(model, validation, epochs=4, learning_rate=0.05, ema=ema)
    losses = [row["val_loss"] for row in progress.history]
    assert progress.best_epoch == 1 + int(np.argmin(losses)) < 4, "the last epoch is not the best here"
    assert progress.best_loss == min(losses)
    model.set_weights(progress.weights)
    again = quick(all_logits(model, TOY, validation.rows, 48), validation.targets, "categorical")
    assert again.loss == pytest.approx(progress.best_loss, rel=1e-5)
    assert again.accuracy == progress.history[progress.best_epoch - 1]["val_accuracy"]


def test_without_validation_images_the_last_epoch_is_kept():
    kept = []
    progress = train(
        validation=TOY.validation(rows=NOBODY),
        patience=1,
        after_epoch=lambda progress: kept.append(progress.weights),
    )
    assert progress.best_epoch == len(progress.history) == 3
    assert same(progress.weights, kept[-1])
    assert not same(kept[-2], kept[-1])
    assert "val_loss" not in progress.history[0]


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_ends_training_after_so_many_epochs_without_a_better_loss(patience):
    progress = train(
        validation=TOY.validation(mislabelled=True), epochs=50, learning_rate=0.05, patience=patience
    )
    assert len(progress.history) == progress.best_epoch + patience < 50
    assert progress.ended == f"no validation loss as good as the best for {patience} epochs"


class Watched:
    """A step that lets a test look on: `before(n)` and `after(n)` are called around the n-th step, from 1."""

    def __init__(self, step, before, after):
        self.step, self.before, self.after = step, before, after
        self.rates = []

    def __call__(self, batch, learning_rate, decay):
        self.rates.append(learning_rate)
        self.before(len(self.rates))
        self.step(batch, learning_rate, decay)
        self.after(len(self.rates))

    def __getattr__(self, name):
        return getattr(self.step, name)


@pytest.fixture
def watch(monkeypatch):
    """watch(before=..., after=...) -> the list that the Watched step will be in."""

    def start(before=lambda step: None, after=lambda step: None):
        steps = []
        make = running.make_step
        monkeypatch.setattr(
            running,
            "make_step",
            lambda *given: steps.append(Watched(make(*given), before, after)) or steps[-1],
        )
        return steps

    return start


@pytest.fixture
def clock(monkeypatch, watch):
    """A clock on which a step takes one second and nothing else takes any."""
    now = [0.0]
    monkeypatch.setattr(running, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def tick(step):
        now[0] += 1

    return watch(after=tick)


def test_a_time_limit_within_an_epoch_ends_it_at_the_next_step(clock):
    progress = train(time_limit="4s")
    assert [row["steps"] for row in progress.history] == [4]
    assert progress.ended == "time limit of 4s reached in epoch 1"
    assert len(progress.weights) == len(small_net().weights)


def test_a_time_limit_shortens_the_schedule_to_the_epochs_that_fit_warm_up_included(clock):
    progress = train(epochs=100, warmup_epochs=5, time_limit="20s")
    assert [row["steps"] for row in progress.history] == [STEPS] * 3, (
        "three times six seconds fit into twenty"
    )
    rates = clock[0].rates
    assert rates[-1] < 0.02 * 0.1, "the schedule came to its end"
    assert max(rates) > 0.5 * 0.1, "and had left the warm-up before"
    assert progress.ended == "all 3 epochs done"


def test_a_time_limit_that_is_not_reached_changes_nothing(clock):
    free, limited = train(epochs=2), train(epochs=2, time_limit="1h")
    assert same(free.weights, limited.weights)
    assert limited.ended == "all 2 epochs done"


def test_the_learning_rate_of_every_step_is_the_schedules(watch):
    steps = watch()
    train(epochs=3)
    schedule = WarmupCosine(0.1, 3, 3 * STEPS)
    assert steps[0].rates == [schedule(step) for step in range(3 * STEPS)]


@pytest.mark.parametrize("rows", [NOBODY, None], ids=["without validation", "with validation"])
def test_a_loss_that_is_no_number_is_an_error_that_names_a_lower_rate(rows):
    with pytest.raises(RightfitError, match=r"became (nan|inf) in epoch \d; try --learning-rate 1e\+37"):
        train(validation=TOY.validation(rows=rows), learning_rate=1e38, warmup_epochs=0)


def test_weights_that_are_lost_in_the_last_step_are_not_kept():
    """The loss of a step is that of the weights before it: only validation sees the last ones."""
    rows = np.arange(16)
    loader = TrainLoader(TOY, rows, TOY.targets(rows), np.ones(16, np.float32), 16, 0, POLICIES["none"])
    with pytest.raises(RightfitError, match="val_loss became nan in epoch 1"):
        train(loader=loader, epochs=1, learning_rate=3e38, warmup_epochs=0)


@pytest.fixture
def handlers():
    """Python's own handlers for the length of the test; asserts that training put them back."""
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    try:
        yield
        assert {number: signal.getsignal(number) for number in ours} == ours
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_at_the_next_step_and_changes_nothing_that_was_kept(number, handlers, watch):
    kept = []

    def interrupt(step):
        if step == STEPS + 2:
            os.kill(os.getpid(), number)

    steps = watch(before=interrupt, after=lambda step: kept.append(steps[0].weights()))
    progress = train(epochs=9)
    assert len(kept) == STEPS + 2
    assert [row["steps"] for row in progress.history] == [STEPS], "the epoch broken off is not judged"
    assert progress.stopped == "stopped at step 2 of epoch 2"
    assert progress.ended == ""
    assert progress.best_epoch == 1
    assert same(progress.weights, kept[STEPS - 1])


def test_an_interrupt_from_outside_between_steps_stops_training(handlers, watch):
    """As a terminal sends it: from elsewhere, while the step is at work."""
    begun = threading.Event()
    steps = watch(after=lambda step: len(steps[0].rates) > STEPS and begun.set())
    killer = threading.Thread(target=lambda: begun.wait() and os.kill(os.getpid(), signal.SIGINT))
    killer.start()
    progress = train(epochs=5000, patience=5000)
    killer.join()
    done = len(steps[0].rates)
    assert STEPS < done < 5000 * STEPS
    assert (progress.epoch * STEPS + progress.step) == done
    assert progress.stopped == f"stopped at step {progress.step} of epoch {progress.epoch + 1}"
    assert progress.weights


def test_an_interrupt_while_an_epoch_is_judged_does_not_wait_for_the_end(handlers, monkeypatch):
    judged_on = running.judged_on

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return judged_on(*given)

    monkeypatch.setattr(running, "judged_on", interrupted)
    progress = train(epochs=3)
    assert progress.stopped == f"stopped at step {STEPS} of epoch 1"
    assert progress.history == [] and progress.weights == []


def test_a_second_interrupt_is_not_held_back(handlers, watch):
    def twice(step):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    watch(before=twice)
    with pytest.raises(KeyboardInterrupt):
        train()


def test_outside_the_main_thread_signals_are_left_alone(handlers):
    done = []
    thread = threading.Thread(target=lambda: done.append(train(epochs=1).ended))
    thread.start()
    thread.join()
    assert done == ["all 1 epochs done"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_shrinks_kernels_and_nothing_else(optimizer):
    """With all sample weights zero there is no gradient, so decay alone moves anything."""
    model = small_net()
    step = running.make_step(
        model,
        make_optimizer(settled(optimizer=optimizer, weight_decay=0.2), model),
        "categorical",
        False,
    )
    before = {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables}
    images, targets, weights = TOY.loader().batch(0, 0)
    step(Batch(images, targets, 0 * weights), 0.5, None)
    after = dict(zip((v.path for v in model.weights), step.weights(), strict=True))
    for path, value in before.items():
        if path.endswith("/kernel"):
            assert np.allclose(after[path], value * (1 - 0.5 * 0.2), rtol=1e-6, atol=0), path
        else:
            assert np.array_equal(after[path], value), path
    assert sum(path.endswith("/kernel") for path in before) == 2 < len(before)


def test_weight_decay_is_what_it_was_last_said_to_be():
    model = small_net()
    step = running.make_step(model, make_optimizer(settled(weight_decay=0.2), model), "categorical", False)
    before = model.get_layer("conv").kernel.numpy()
    images, targets, weights = TOY.loader().batch(0, 0)
    step.decay_by(0.4)
    step(Batch(images, targets, 0 * weights), 0.5, None)
    assert np.allclose(step.weights()[0], before * (1 - 0.5 * 0.4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weight_decay_zero_moves_nothing_without_a_gradient(optimizer):
    model = small_net()
    step = running.make_step(
        model,
        make_optimizer(settled(optimizer=optimizer, weight_decay=0.0), model),
        "categorical",
        False,
    )
    before = [keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables]
    images, targets, weights = TOY.loader().batch(0, 0)
    step(Batch(images, targets, 0 * weights), 0.5, None)
    after = dict(zip((v.path for v in model.weights), step.weights(), strict=True))
    assert same(before, [after[v.path] for v in model.trainable_variables])


def test_what_is_kept_is_what_the_first_worker_says(monkeypatch):
    said = iter([1.0, 1.0, 0.0])
    monkeypatch.setattr(Workers, "agreed", lambda self, value: next(said))
    assert train(epochs=3).best_epoch == 2


def test_a_doctor_that_acts_ends_patience_with_a_descent_to_zero():
    """Labels of validation are wrong, so that nothing gets better after the first epochs."""
    progress = train(
        validation=TOY.validation(mislabelled=True), epochs=40, patience=3, doctor="act", ema=0.9
    )
    assert progress.annealed > treatment.NEARLY_ZERO and len(progress.restarts) == 1
    first = progress.restarts[0]
    rates = [row["learning_rate"] for row in progress.history if row["epoch"] > first]
    assert progress.epoch == progress.epochs < 40 and len(rates) == progress.epochs - first
    assert rates == sorted(rates, reverse=True) and rates[-1] < 0.05 * rates[0]
    kept = next(row for row in progress.history if row["epoch"] == progress.best_epoch)
    assert "strength" in kept


def test_after_a_change_the_whole_schedule_is_taken(monkeypatch):
    asked = {
        "validation": TOY.validation(mislabelled=True),
        "epochs": 20,
        "patience": 9,
        "doctor": "act",
        "ema": 0.9,
    }

    def changed(progress, epoch, *seen):
        progress.doctor["changed"] = epoch
        return []

    monkeypatch.setattr(treatment, "treat", lambda *seen: None)
    ended = train(**asked)
    assert ended.epoch < 20 and ended.restarts
    monkeypatch.setattr(treatment, "doubt", changed)
    whole = train(**asked)
    assert whole.epoch == 20 and not whole.restarts


@pytest.fixture(scope="module")
def trajectory():
    """All weights before the first step and after each of two epochs' steps, walked by hand."""
    settings, model = settled(epochs=2), fused(small_net(), "float32")
    loader = replace(TOY.loader(), smoothing=settings.label_smoothing)
    step = running.make_step(model, make_optimizer(settings, model), "categorical", False)
    schedule = WarmupCosine(0.1, 3, 2 * STEPS)
    weights = [model.get_weights()]
    for position in range(2 * STEPS):
        step(loader.batch(*divmod(position, STEPS)), schedule(position), None)
        weights.append([np.array(w) for w in step.weights()])
    return weights


def test_without_averaging_the_weights_of_the_last_step_come_out(trajectory):
    progress = train(validation=TOY.validation(rows=NOBODY), epochs=2, ema=0.0)
    assert same(progress.weights, trajectory[-1])


def test_with_averaging_the_average_over_the_steps_comes_out(trajectory):
    progress = train(validation=TOY.validation(rows=NOBODY), epochs=2, ema=0.6)
    expected = [w.astype(np.float64) for w in trajectory[0]]
    for position, weights in enumerate(trajectory[1:]):
        decay = averaging_decay(0.6, position)
        expected = [decay * mean + (1 - decay) * w for mean, w in zip(expected, weights, strict=True)]
    for found, mean, last in zip(progress.weights, expected, trajectory[-1], strict=True):
        assert np.allclose(found, mean, rtol=1e-5, atol=1e-6)
        assert not np.allclose(found, last, rtol=1e-5, atol=1e-6)


def test_the_epochs_line_is_what_the_documents_show():
    row = {
        "epoch": 3,
        "steps": 1137,
        "train_seconds": 42.3,
        "loss": 0.37121,
        "accuracy": 0.8244,
        "val_loss": 0.37701,
        "val_accuracy": 0.8052,
        "val_accuracy_half_width": 0.0099,
    }
    line = "Epoch 3/100 · 42s · loss 0.3712 acc 0.824 · val_loss 0.3770 val_acc 0.805 ±0.010"
    assert speed.epoch_line(row, 100, 1137) == line
    assert len(line) <= 80
    for name in ("val_loss", "val_accuracy", "val_accuracy_half_width"):
        del row[name]
    assert speed.epoch_line(row, 100, 1137) == line.partition(" · val_loss")[0]


def test_an_epoch_that_was_cut_short_shows_its_steps():
    row = {"epoch": 1, "steps": 4, "train_seconds": 2.0, "loss": 1.0, "accuracy": 0.5}
    assert speed.epoch_line(row, 5, 6) == "Epoch 1/5 · 4 of 6 steps · 2.0s · loss 1.0000 acc 0.500"


def test_the_fused_update_is_keras_own_update():
    gradients = [
        np.random.default_rng([1, i]).normal(0, 1, w.shape).astype("float32") for i, w in enumerate(NET)
    ]
    results = []
    for kind in (keras.optimizers.SGD, FusedSGD):
        optimizer = kind(0.1, momentum=0.9, nesterov=True, weight_decay=0.2)
        variables = [keras.Variable(w) for w in NET]
        optimizer.build(variables)
        for scale in (1.0, -0.5, 2.0):
            optimizer.apply([keras.ops.convert_to_tensor(scale * g) for g in gradients], variables)
        results.append([keras.ops.convert_to_numpy(v) for v in variables])
    for own, fused_one in zip(*results, strict=True):
        np.testing.assert_allclose(fused_one, own, rtol=1e-5, atol=1e-6)


NET = [
    np.random.default_rng([0, i]).normal(0, 1, shape).astype("float32")
    for i, shape in enumerate([(3, 3), (5,)])
]
