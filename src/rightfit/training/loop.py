"""The training loop: batches in, best weights and a history out, one line an epoch on the way.

It may be broken off anywhere and gone on with from a checkpoint: what comes out is the same.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings, parse_seconds
from rightfit.console import Console, duration
from rightfit.data.loader import TrainLoader
from rightfit.errors import DataError, RightfitError
from rightfit.evaluation.infer import plain_graph
from rightfit.evaluation.intervals import half_width
from rightfit.memory import is_short, words
from rightfit.nets.layers import fused
from rightfit.training.backend_steps import make_step
from rightfit.training.interrupt import Interrupt, Stop, interruptible
from rightfit.training.judging import Validation, is_kept, judged_on
from rightfit.training.optimizers import make_optimizer
from rightfit.training.phases import ALL, Phase, Span, schedule_of, span_at, thawed
from rightfit.training.probe import Probe, choose
from rightfit.training.safety import Safety, highest, images_of_the_first_lost_step
from rightfit.training.schedule import averaging_decay
from rightfit.training.speed import epoch_line, epochs_that_fit, idle, seconds_of_an_epoch
from rightfit.training.state import Progress, Saved
from rightfit.training.step import Step


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
    safety: Safety | None = None,
    saved: Saved | None = None,
) -> Progress:
    """Train `model` (left as it is; its weights are read) by the resolved `settings`.

    Returns the weights of the last epoch whose validation loss cannot be told from the lowest (of the
    last epoch without validation images), averaged over steps when `settings.ema` is set. `after_epoch` is
    called with the progress after each epoch. When a time limit leaves room for fewer epochs, the settings
    are those of `settings_for(epochs)`, whose schedule ends there.
    Each of `phases` has a schedule of its own and starts from the averaged weights of the one before;
    frozen batch normalisation stays in inference mode. `before` is what was reached already, with
    the epoch called 0: better weights have to beat it.
    `safety` keeps checkpoints: at the start, at each epoch's end and when its interval has passed. `saved` is
    one to go on from, and the result is that of a run which was never broken off. Ctrl-C and SIGTERM end
    training at the next step with a checkpoint; `stopped` of the result then says where. DataError, after a
    checkpoint, when an image can no longer be read.
    A loss that is no longer finite sends training back to the last whole epoch at half the learning rate,
    three times; then, or without `safety`, it ends training; RightfitError if no epoch had a finite one.
    Where memory is too short for a step, its gradient is taken of half as many images at a time, from the last
    checkpoint on; RightfitError without `safety`, or when one image is too many.
    """
    _assert_resolved(settings)
    progress = saved.progress if saved else before or Progress()
    if not saved:
        progress.epochs, progress.micro = settings.epochs or 0, settings.micro_batch or 0
    elif progress.shortened:
        settings = settings_for(progress.shortened)
    training = _Training(
        model, loader, validation, settings, label_mode, console, precision, phases, progress, safety
    )
    if saved and not progress.ended:
        training.go_on_from(saved)
    with interruptible(console) as interrupt:
        training.interrupt = interrupt
        if safety and (saved is None or saved.changed) and not training.progress.ended:
            training.enter()
            training.save()
            safety.checkpoints.wait()  # not beside the first step, in which memory runs short if ever
        while training.progress.epoch < training.progress.epochs and not training.progress.ended:
            short = ""
            try:
                row = training.one_epoch()
            except Stop:
                training.stop()
                break
            except DataError:  # an image that is read at each use is gone, or another one by now
                training.stop()
                if safety:
                    safety.checkpoints.wait()
                raise
            except _Diverged as diverged:
                training.set_back(str(diverged), diverged.limit)
                continue
            except Exception as error:  # each backend has a type of its own for memory
                if not is_short(error):
                    raise
                short = words(error)
            if short:  # out here the error is gone, and the arrays of the frames that it held
                training.halve(short)
                continue
            if row is None:
                break
            progress = training.progress
            if progress.epoch == 1:
                training.shorten(row, settings_for)
                training.foretell(row)
            if progress.epoch >= progress.epochs:
                progress.ended = progress.ended or f"all {progress.epochs} epochs done"
            training.save(row)
            after_epoch(progress)
        if not training.progress.stopped:
            training.look_at_the_kept()
    if safety:
        safety.checkpoints.wait()
    return training.progress


WORTH_SAYING = 600  # seconds to wait


class _Diverged(Exception):
    """A loss or weight that is no number any more, or a loss above `limit`; says which and where."""

    def __init__(self, what: str, limit: float = math.inf) -> None:
        super().__init__(what)
        self.limit = limit


@dataclass
class _Training:
    model: keras.Model
    loader: TrainLoader
    validation: Validation
    settings: TrainSettings
    label_mode: str
    console: Console
    precision: str
    phases: Sequence[Phase]
    progress: Progress
    safety: Safety | None
    interrupt: Interrupt = field(default_factory=Interrupt)

    def __post_init__(self) -> None:
        self.judge = plain_graph(fused(self.model, self.precision))
        self.began = time.monotonic() - self.progress.seconds
        limit = self.settings.time_limit
        self.limit = parse_seconds(limit) if limit else math.inf
        self.step: Step | None = None
        looks = self.settings.doctor != "off" and len(self.validation.rows) > 0
        self.probe: Probe | None = choose(self.loader, self.settings.seed) if looks else None

    # Where it goes on ---------------------------------------------------------------------------------

    def go_on_from(self, saved: Saved) -> None:
        """The step of the phase that the checkpoint is of, in the state it was in."""
        self.progress = saved.progress
        phase = self.phases[min(self.progress.phase, len(self.phases) - 1)]
        self.step = self._made(phase, self.model.get_weights())
        self.step.restore(saved.tensors)

    def enter(self) -> Span:
        """Make the step of the next epoch's phase, unless it is there."""
        span = span_at(self.phases, self.progress)
        if self.step is None or span.number != self.progress.phase:
            weights = self.step.weights() if self.step else self.model.get_weights()
            self.progress.phase = span.number
            self.step = self._made(span.phase, weights)
        return span

    def _made(self, phase: Phase, weights: list[NDArray[Any]]) -> Step:
        seed = [self.settings.seed, self.progress.phase]
        runner = thawed(self.model, weights, phase, self.precision, seed)
        smoothing, averaging = self.settings.label_smoothing, bool(self.settings.ema)
        optimizer = make_optimizer(self.settings, runner)
        step = make_step(runner, optimizer, self.label_mode, smoothing, averaging, phase.rates)
        step.micro = self.progress.micro
        return step

    # An epoch -----------------------------------------------------------------------------------------

    def one_epoch(self) -> dict[str, Any] | None:
        """Train, validate, keep or not, and decide whether that was the last; None: no step was taken."""
        span = self.enter()
        progress, settings, validation = self.progress, self.settings, self.validation
        assert self.step
        row = self._steps(span)
        row["trainable"] = span.phase.name
        if row["steps"] == 0:
            progress.ended = f"time limit of {settings.time_limit} reached before epoch {progress.epoch + 1}"
            return None
        epoch = progress.epoch + 1
        self._check(row, "loss")
        weights = self.step.weights(averaged=True)
        # A lost gradient leaves lost weights, for good; after the last step no loss would show them.
        if not all(np.isfinite(weight).all() for weight in self.step.weights(averaged=False)):
            raise _Diverged(
                f"a weight became no number in epoch {epoch}, though the loss is {row['loss']:.4g}"
            )
        judged = time.monotonic()
        losses = None
        if len(validation.rows):
            self.judge.set_weights(weights)
            on_batch = self.interrupt.check
            result, losses = judged_on(
                self.judge, validation, settings, self.label_mode, progress.micro, on_batch
            )
            row |= {"val_loss": result.loss, "val_accuracy": result.accuracy}
            row["val_accuracy_half_width"] = result.accuracy_half_width
            row["val_loss_half_width"] = half_width(losses, validation.groups)
            self._check(row, "val_loss")
            if self.probe and self.probe.due(epoch, progress.epochs):
                row |= self._look()
        row["validation_seconds"] = round(time.monotonic() - judged, 3)
        if self.safety and self.safety.exploded(progress, row["loss"]):
            raise _Diverged(f"loss rose to {row['loss']:.4g} in epoch {epoch}", highest(progress))
        progress.history.append(row)
        if losses is None or is_kept(progress, losses, epoch, validation.groups):
            progress.best_loss, progress.best_epoch = row.get("val_loss", -math.inf), epoch
            progress.weights = weights
        progress.epoch, progress.step, progress.part = epoch, 0, {}
        self.console.say(epoch_line(row, progress.epochs, self.loader.steps))
        stale = epoch - max(progress.lowest_epoch, span.first)
        if self._elapsed() >= self.limit:
            progress.ended = f"time limit of {settings.time_limit} reached in epoch {epoch}"
        elif len(validation.rows) and stale >= (settings.patience or 1):
            progress.ended = f"no better validation loss for {settings.patience} epochs"
        return row

    def _steps(self, span: Span) -> dict[str, Any]:
        """The rest of the epoch's steps, and what the whole epoch measured. Stop where that was asked for."""
        progress, step, loader, ema = self.progress, self.step, self.loader, self.settings.ema
        assert step
        schedule = schedule_of(self.settings, span, self.loader.steps)
        if progress.step == 0:
            step.begin()
            progress.part = dict.fromkeys(("train_seconds", "input_seconds", "saving_seconds"), 0.0)
        part, deadline = progress.part, self.began + self.limit
        title = f"Epoch {progress.epoch + 1}/{progress.epochs}"
        since = time.monotonic()

        def totals() -> NDArray[Any]:
            began = time.monotonic()
            sums = step.totals()
            now = time.monotonic()
            pace = (part["train_seconds"] + now - since) / max(1, progress.step)
            part["input_seconds"] = idle(part["input_seconds"], now - began, pace)
            return sums

        with (
            closing(
                loader.epoch(progress.epoch, progress.step)
            ) as batches,  # ends its threads, whatever happens
            self.console.bar(title, loader.steps) as bar,
        ):
            while progress.step < loader.steps and time.monotonic() < deadline:
                asked = time.monotonic()
                part["train_seconds"] += asked - since
                since = asked
                self.interrupt.check()
                batch = next(batches)
                part["input_seconds"] += time.monotonic() - asked
                position = (progress.epoch - span.first) * loader.steps + progress.step
                step(batch, schedule(position) * progress.rate_factor, averaging_decay(ema, position))
                progress.step += 1
                part.setdefault("first_step_seconds", time.monotonic() - asked)
                if bar.due():
                    sums = totals()
                    bar.update(progress.step, f"loss {sums[0] / sums[2]:.4f} · acc {sums[1] / sums[2]:.3f}")
                if self.safety and progress.step < loader.steps and self.safety.checkpoints.due():
                    self._check({"loss": float(totals()[0]), "epoch": progress.epoch + 1}, "loss")
                    part["train_seconds"] += time.monotonic() - since
                    self.save()
                    since = time.monotonic()
        sums = totals()
        part["train_seconds"] += time.monotonic() - since
        last = (progress.epoch - span.first) * loader.steps + max(0, progress.step - 1)
        return {
            "epoch": progress.epoch + 1,
            "steps": progress.step,
            "loss": float(sums[0] / sums[2]) if sums[2] else math.nan,
            "accuracy": float(sums[1] / sums[2]) if sums[2] else math.nan,
            "learning_rate": schedule(last) * progress.rate_factor,
            "train_seconds": round(part["train_seconds"], 3),
            "input_seconds": round(part["input_seconds"], 3),
            "first_step_seconds": round(part.get("first_step_seconds", 0.0), 3),
            "saving_seconds": round(part["saving_seconds"], 3),
        }

    def look_at_the_kept(self) -> None:
        """At the end: what the weights that are kept say of training images, beside the validation of their epoch."""
        progress = self.progress
        if not self.probe or not progress.weights or not progress.best_epoch:
            return
        row = next(row for row in progress.history if row["epoch"] == progress.best_epoch)
        if "probe_loss" not in row:
            self.judge.set_weights(progress.weights)
            try:
                row = row | self._look()
            except Stop:
                return self.stop()
        progress.kept = {name: value for name, value in row.items() if name.startswith(("val_", "probe_"))}

    def _look(self) -> dict[str, float]:
        """What the probe of training images says of the judge's weights."""
        assert self.probe
        result, losses = judged_on(
            self.judge,
            self.probe.images,
            self.settings,
            self.label_mode,
            self.progress.micro,
            self.interrupt.check,
        )
        return {
            "probe_loss": result.loss,
            "probe_loss_half_width": half_width(losses, self.probe.images.groups),
            "probe_accuracy": result.accuracy,
            "probe_accuracy_half_width": result.accuracy_half_width,
        }

    def shorten(self, row: dict[str, Any], settings_for: Callable[[int], TrainSettings]) -> None:
        """After the first epoch: what fits into the time limit becomes the whole schedule."""
        progress, left = self.progress, self.limit - self._elapsed()
        if progress.ended or (fit := epochs_that_fit(row, left)) >= progress.epochs:
            return
        progress.epochs, progress.shortened = fit, fit
        limit, self.settings = self.settings.time_limit, settings_for(fit)
        self.console.say(f"{fit} epochs fit into the time limit of {limit}; the schedule ends there")

    def foretell(self, row: dict[str, Any]) -> None:
        """After the first epoch: how long all of them will take, where that is long."""
        left = (self.progress.epochs - 1) * seconds_of_an_epoch(row)
        if not self.progress.ended and WORTH_SAYING < left < math.inf:
            self.console.say(
                f"about {duration(left)} more for all {self.progress.epochs} epochs; a --time-limit shortens the "
                "schedule, and Ctrl-C stops at any step for `rightfit resume`"
            )

    # Checkpoints --------------------------------------------------------------------------------------

    def save(self, row: dict[str, Any] | None = None) -> None:
        """A checkpoint of the state as it is; the time that takes goes to `row`, else to the epoch begun."""
        if not self.safety:
            return
        progress, began = self.progress, time.monotonic()
        assert self.step
        progress.seconds = self._elapsed()
        steps = progress.epoch * self.loader.steps + progress.step
        try:
            state = self.step.state()
        except MemoryError as error:
            return self.safety.checkpoints.not_saved(words(error))
        self.safety.checkpoints.save(progress, state, steps)
        spent = time.monotonic() - began
        if row is not None:
            row["saving_seconds"] = round(row["saving_seconds"] + spent, 3)
        elif progress.part:
            progress.part["saving_seconds"] += spent

    def stop(self) -> None:
        """A checkpoint of where it stands, unless there is one."""
        progress = self.progress
        progress.stopped = f"stopped at step {progress.step} of epoch {progress.epoch + 1}"
        if self.safety:
            self.safety.checkpoints.wait()
            if self.safety.checkpoints.saved_at != (progress.epoch, progress.step):
                self.save()

    # Setbacks -----------------------------------------------------------------------------------------

    def set_back(self, what: str, limit: float) -> None:
        """Back to the last whole epoch at half the learning rate; without one, or three times after, the end:
        the best epoch so far is kept, and without one there is nothing to keep. A step's loss above `limit`
        is lost too."""
        failed, found = self.progress, self.safety.last_good(self.progress) if self.safety else None
        if self.safety is None or found is None:
            assert self.settings.learning_rate
            advice = f"{what}; try --learning-rate {self.settings.learning_rate / 10:g}"
            if not failed.weights:
                raise RightfitError(advice)
            failed.ended, failed.lost = advice, True
            return
        found.progress.micro = failed.micro
        self.go_on_from(found)
        lost: list[str] = []
        if found.progress.epoch == failed.epoch:
            span = self.enter()
            assert self.step
            rate, ema = schedule_of(self.settings, span, self.loader.steps), self.settings.ema
            positions = images_of_the_first_lost_step(
                self.step, self.loader, rate, span.first, failed, ema, self.interrupt, limit
            )
            lost = self.safety.files(positions) if len(positions) else []
            again = self.safety.last_good(failed)
            assert again is not None
            again.progress.micro = failed.micro
            self.go_on_from(again)
        self.safety.set_back(self.progress, failed, what, lost, self.console)

    def halve(self, what: str) -> None:
        """Half as many images a gradient from the last checkpoint on: the step that failed may have changed
        some variables and not others, and on JAX its state is gone."""
        batch_size = self.settings.batch_size or 1
        images = min(self.progress.micro or batch_size, batch_size)
        self.step = None
        gc.collect()  # models are cycles; their memory is needed now
        found = self.safety.checkpoints.newest() if self.safety and images > 1 else None
        if self.safety is None or found is None:
            raise RightfitError(
                f"memory is too short for a gradient of {images} image{'s' if images > 1 else ''}: {what}; "
                "a smaller --image-size or --model needs less"
            )
        found.progress.micro = -(-images // 2)
        self.go_on_from(found)
        self.safety.halved(self.progress, batch_size, what, self.console)
        self.save()  # a run that is killed now takes the same parts
        self.safety.checkpoints.wait()

    def _check(self, row: dict[str, Any], name: str) -> None:
        if not math.isfinite(row[name]):
            raise _Diverged(f"{name} became {row[name]} in epoch {row['epoch']}")

    def _elapsed(self) -> float:
        return time.monotonic() - self.began


def _assert_resolved(settings: TrainSettings) -> None:
    assert settings.epochs and settings.learning_rate and settings.patience and settings.batch_size
    assert settings.warmup_epochs is not None
