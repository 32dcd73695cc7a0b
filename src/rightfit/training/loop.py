"""The training loop: batches in, best weights and a history out, one line an epoch on the way."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings, parse_seconds
from rightfit.console import Console, duration
from rightfit.data.loader import Images, TrainLoader
from rightfit.errors import RightfitError
from rightfit.evaluation.infer import all_logits, plain_graph
from rightfit.evaluation.intervals import half_width
from rightfit.evaluation.metrics import Quick, image_losses, quick
from rightfit.nets.layers import fused
from rightfit.training.optimizers import make_optimizer
from rightfit.training.schedule import WarmupCosine, averaging_decay
from rightfit.training.step import Step, make_step


@dataclass(frozen=True)
class Validation:
    """The images an epoch is judged on; `rows` may be empty."""

    images: Images
    rows: NDArray[np.int64]
    targets: NDArray[np.float32]  # (N, outputs)
    groups: NDArray[np.int64] | None


@dataclass(frozen=True)
class Phase:
    """A part of training: what it is called, its share of the epochs, and which layers learn."""

    name: str
    share: float = 1.0
    rates: Mapping[str, float] | None = None  # layer -> multiple of the learning rate, the others frozen


ALL = Phase("all")  # every layer alike


@dataclass
class Progress:
    """Where training stands: the best weights so far and what each epoch measured."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float = math.inf  # validation loss of the epoch that is kept
    best_epoch: int = 0  # the one that is kept; counts from 1, 0 is none yet
    weights: list[NDArray[Any]] = field(default_factory=list)
    lowest: NDArray[np.float64] | None = None  # each validation image's loss in the epoch of the lowest mean
    lowest_epoch: int = 0
    ended: str = ""  # why training ended, in words
    epochs: int = 0  # planned; fewer than asked for once a time limit has shortened the schedule


class Interrupt:
    """Set by the first Ctrl-C or SIGTERM; a second one is not held back."""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def interruptible(console: Console) -> Iterator[Interrupt]:
    interrupt = Interrupt()

    def ask(number: int, frame: Any) -> None:
        interrupt.asked = True
        signal.signal(number, previous[signal.Signals(number)])
        console.say("stopping after this step and saving; once more ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    model: keras.Model,
    loader: TrainLoader,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
    console: Console,
    after_epoch: Callable[[Progress], None],
    precision: str,
    settings_for: Callable[[int], TrainSettings],
    phases: Sequence[Phase] = (ALL,),
    before: Progress | None = None,
) -> Progress:
    """Train `model` (left as it is; its weights are read) by the resolved `settings`.

    Returns the weights of the last epoch whose validation loss cannot be told from the lowest (of the
    last epoch without validation images), averaged over steps when `settings.ema` is set. `after_epoch` is called with
    the progress after each epoch. When a time limit leaves room for fewer epochs, the settings are
    those of `settings_for(epochs)`, whose schedule ends there. Ctrl-C ends the epoch at the next step,
    which is validated and kept.
    Each of `phases` has a schedule of its own and starts from the averaged weights of the one before;
    frozen batch normalisation stays in inference mode. `before` is what was reached already, with
    the epoch called 0: better weights have to beat it.
    A loss that is no longer finite ends training; RightfitError if no epoch had a finite one.
    """
    _assert_resolved(settings)
    started = time.monotonic()
    limit = parse_seconds(settings.time_limit) if settings.time_limit else math.inf
    judge = plain_graph(fused(model, precision))
    progress = before or Progress()
    progress.epochs = settings.epochs or 0
    weights = model.get_weights()
    phase, step = None, None
    with interruptible(console) as interrupt:
        epoch = 0
        while epoch < progress.epochs and not progress.ended:
            epochs = progress.epochs
            now, first, last = _phase_at(phases, epoch, epochs)
            if now is not phase:
                phase = now
                runner = _thawed(model, weights, phase, precision)
                step = make_step(
                    runner,
                    make_optimizer(settings, runner),
                    label_mode,
                    settings.label_smoothing,
                    bool(settings.ema),
                    phase.rates,
                )
            assert step is not None
            schedule = WarmupCosine(
                settings.learning_rate or 0.0,
                round((settings.warmup_epochs or 0.0) * (last - first) / epochs * loader.steps),
                (last - first) * loader.steps,
            )
            row = _one_epoch(
                step, loader, schedule, settings, epoch, epochs, first, console, interrupt, started + limit
            )
            row["trainable"] = phase.name
            if row["steps"] == 0:
                why = "interrupted" if interrupt.asked else f"time limit of {settings.time_limit} reached"
                progress.ended = f"{why} before epoch {epoch + 1}"
                break
            epoch += 1
            if diverged := _not_finite(row, "loss", settings):
                _end_diverged(progress, diverged)
                break
            weights = step.weights(averaged=True)
            judged = time.monotonic()
            if len(validation.rows):
                judge.set_weights(weights)
                result, losses = judged_on(judge, validation, settings, label_mode)
                row |= {"val_loss": result.loss, "val_accuracy": result.accuracy}
                row["val_accuracy_half_width"] = result.accuracy_half_width
                if diverged := _not_finite(row, "val_loss", settings):
                    _end_diverged(progress, diverged)
                    break
            row["validation_seconds"] = round(time.monotonic() - judged, 3)
            progress.history.append(row)
            if not len(validation.rows) or _is_kept(progress, losses, epoch, validation.groups):
                progress.best_loss, progress.best_epoch = row.get("val_loss", -math.inf), epoch
                progress.weights = weights
            console.say(epoch_line(row, epochs, loader.steps))
            elapsed = time.monotonic() - started
            if interrupt.asked:
                progress.ended = f"interrupted in epoch {epoch}"
            elif elapsed >= limit:
                progress.ended = f"time limit of {settings.time_limit} reached in epoch {epoch}"
            elif len(validation.rows) and epoch - max(progress.lowest_epoch, first) >= (
                settings.patience or 1
            ):
                progress.ended = f"no better validation loss for {settings.patience} epochs"
            elif epoch == 1 and (fit := _epochs_that_fit(row, limit - elapsed)) < epochs:
                progress.epochs = fit
                settings = settings_for(fit)
                console.say(
                    f"{fit} epochs fit into the time limit of {settings.time_limit}; the schedule ends there"
                )
            after_epoch(progress)
    progress.ended = progress.ended or f"all {progress.epochs} epochs done"
    return progress


def _phase_at(phases: Sequence[Phase], epoch: int, epochs: int) -> tuple[Phase, int, int]:
    """The phase of `epoch` (from 0), its first epoch and the one after its last."""
    ends = [round(epochs * sum(phase.share for phase in phases[: i + 1])) for i in range(len(phases))]
    ends[-1] = epochs
    index = next(i for i, end in enumerate(ends) if epoch < end)
    return phases[index], ends[index - 1] if index else 0, ends[index]


def _thawed(model: keras.Model, weights: list[NDArray[Any]], phase: Phase, precision: str) -> keras.Model:
    """A clone of `model` to train, holding `weights`, in which only the layers of `phase` learn."""
    runner = fused(model, precision)
    runner.set_weights(weights)
    if phase.rates is not None:
        for layer in runner.layers:
            layer.trainable = layer.name in phase.rates
    return runner


def _assert_resolved(settings: TrainSettings) -> None:
    assert settings.epochs and settings.learning_rate and settings.patience and settings.batch_size
    assert settings.warmup_epochs is not None


def _epochs_that_fit(row: dict[str, Any], left: float) -> int:
    """Epochs for the whole schedule when `left` seconds remain after the first, whose first step compiled."""
    steps = row["steps"]
    pace = (row["train_seconds"] - row["first_step_seconds"]) / (steps - 1) if steps > 1 else math.inf
    each = min(row["train_seconds"], pace * steps) + row["validation_seconds"]
    return 1 + int(min(left / each, 1e9)) if each > 0 else 10**9


def _one_epoch(
    step: Step,
    loader: TrainLoader,
    schedule: WarmupCosine,
    settings: TrainSettings,
    epoch: int,
    epochs: int,
    first: int,
    console: Console,
    interrupt: Interrupt,
    deadline: float,
) -> dict[str, Any]:
    started = time.monotonic()
    sums = np.zeros(3)
    done = 0
    waited = first_step = 0.0
    with (
        closing(loader.epoch(epoch)) as batches,  # ends its threads, whatever happens
        console.bar(f"Epoch {epoch + 1}/{epochs}", loader.steps) as bar,
    ):
        while done < loader.steps and not interrupt.asked and time.monotonic() < deadline:
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            position = (epoch - first) * loader.steps + done
            step(batch, schedule(position), averaging_decay(settings.ema, position))
            done += 1
            first_step = first_step or time.monotonic() - started
            if bar.due():
                sums += step.totals()
                bar.update(done, f"loss {sums[0] / sums[2]:.4f} · acc {sums[1] / sums[2]:.3f}")
    sums += step.totals()
    seconds = time.monotonic() - started
    return {
        "epoch": epoch + 1,
        "steps": done,
        "loss": sums[0] / sums[2] if sums[2] else math.nan,
        "accuracy": sums[1] / sums[2] if sums[2] else math.nan,
        "learning_rate": schedule((epoch - first) * loader.steps + max(0, done - 1)),
        "train_seconds": round(seconds, 3),
        "input_seconds": round(waited, 3),
        "first_step_seconds": round(first_step, 3),
    }


def _not_finite(row: dict[str, Any], name: str, settings: TrainSettings) -> str:
    """What to say when a loss is no number any more; empty while it is one."""
    assert settings.learning_rate
    if math.isfinite(row[name]):
        return ""
    rate = settings.learning_rate / 10
    return f"{name} became {row[name]} in epoch {row['epoch']}; try --learning-rate {rate:g}"


def _end_diverged(progress: Progress, diverged: str) -> None:
    """The best epoch so far is kept; without one there is nothing to keep."""
    if not progress.weights:
        raise RightfitError(diverged)
    progress.ended = diverged


def judged_on(
    model: keras.Model, validation: Validation, settings: TrainSettings, label_mode: str
) -> tuple[Quick, NDArray[np.float64]]:
    """Loss and accuracy over every validation image, each once; and the loss of each (N,)."""
    assert settings.batch_size
    logits = all_logits(model, validation.images, validation.rows, max(settings.batch_size, 32))
    result = quick(logits, validation.targets, label_mode, validation.groups)
    return result, image_losses(logits, validation.targets, label_mode)


def _is_kept(
    progress: Progress, losses: NDArray[np.float64], epoch: int, groups: NDArray[np.int64] | None
) -> bool:
    """Whether the weights of `epoch` replace those kept so far: unless an earlier epoch's loss was lower
    beyond the 95 % interval of the difference on the same images.

    The lowest of many noisy numbers is luck as much as merit, and of epochs that cannot be told apart
    the later has seen more of the schedule. (Breiman et al. 1984, section 3.4.3, choose so among trees.)
    """
    if progress.lowest is None or losses.mean() < progress.lowest.mean():
        progress.lowest, progress.lowest_epoch = losses, epoch
        return True
    worse = losses - progress.lowest
    return not worse.mean() > half_width(worse, groups)


def epoch_line(row: dict[str, Any], epochs: int, steps: int) -> str:
    """Epoch 3/100  1137/1137 · 42s 37ms/step · loss 0.3712 · acc 0.824 · val_loss 0.3770 · val_acc 0.805 ±0.010"""
    seconds = row["train_seconds"]
    pace = 1000 * seconds / max(1, row["steps"])
    line = (
        f"Epoch {row['epoch']}/{epochs}  {row['steps']}/{steps} · {duration(seconds)} {pace:.0f}ms/step"
        f" · loss {row['loss']:.4f} · acc {row['accuracy']:.3f}"
    )
    if "val_loss" in row:
        line += f" · val_loss {row['val_loss']:.4f} · val_acc {row['val_accuracy']:.3f}"
        line += f" ±{row['val_accuracy_half_width']:.3f}"
    return line
