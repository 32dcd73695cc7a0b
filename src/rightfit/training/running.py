"""What the training loop does in one epoch, and where it goes on: steps, validation, what is kept, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings, parse_seconds
from rightfit.console import Console, duration
from rightfit.data.loader import TrainLoader
from rightfit.evaluation.infer import plain_graph
from rightfit.memory import words
from rightfit.nets.layers import fused
from rightfit.training import race, treatment
from rightfit.training.backend_steps import make_step
from rightfit.training.doctor import BRIEF
from rightfit.training.interrupt import Interrupt
from rightfit.training.judging import Judged, Validation, columns, is_kept, judged_on, remember
from rightfit.training.optimizers import make_optimizer
from rightfit.training.phases import Phase, Span, schedule_of, span_at, thawed
from rightfit.training.probe import Probe, choose
from rightfit.training.recipe import Decision, default_epochs
from rightfit.training.safety import Safety, highest
from rightfit.training.schedule import averaging_decay
from rightfit.training.signals import moved
from rightfit.training.speed import epoch_line, epochs_that_fit, idle, seconds_of_an_epoch
from rightfit.training.state import Progress, Saved
from rightfit.training.step import Step
from rightfit.training.strength import START, restraint
from rightfit.training.workers import ALONE, Workers

WORTH_SAYING = 600  # seconds to wait


class Diverged(Exception):
    """A loss or weight that is no number any more, or a loss above `limit`; says which and where."""

    def __init__(self, what: str, limit: float = math.inf) -> None:
        super().__init__(what)
        self.limit = limit


@dataclass
class Training:
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
    workers: Workers = ALONE
    interrupt: Interrupt = field(default_factory=Interrupt)

    def __post_init__(self) -> None:
        self.judge = plain_graph(fused(self.model, self.precision))
        self.began = time.monotonic() - self.progress.seconds
        limit = self.settings.time_limit
        self.limit = parse_seconds(limit) if limit else math.inf
        self.step: Step | None = None
        looks_at = self.settings.doctor != "off" and len(self.validation.rows) > 0
        self.probe: Probe | None = choose(self.loader, self.settings.seed) if looks_at else None
        self.acts = self.probe is not None and self.settings.doctor == "act"
        if self.settings.doctor == "act" and not self.acts:
            self.console.say("doctor: there are no validation images, so it cannot act")
        smoothing, exclusive = self.settings.label_smoothing, self.label_mode == "categorical"
        part = None if self.workers.alone else self.workers.part(self.loader.batch_size)
        self.loader = replace(self.loader, smoothing=smoothing, exclusive=exclusive, part=part)
        self.plain = self.loader  # by the settings alone; `loader` is what strength makes of it
        if self.acts and not self.progress.doctor:
            assert self.probe
            looks = self.progress.epochs // self.probe.every
            treatment.begin(self.progress, self.settings.strength, looks)

    # Where it goes on ---------------------------------------------------------------------------------

    def go_on_from(self, saved: Saved) -> None:
        """The step of the phase that the checkpoint is of, in the state it was in."""
        self.progress = saved.progress
        phase = self.phases[min(self.progress.phase, len(self.phases) - 1)]
        self.step = self._made(phase, self.model.get_weights())
        self.step.restore(saved.tensors)
        self.restrain()

    def enter(self) -> Span:
        """Make the step of the next epoch's phase, unless it is there."""
        span = span_at(self.phases, self.progress)
        if self.step is None or span.number != self.progress.phase:
            weights = self.step.weights() if self.step else self.model.get_weights()
            if span.annealed:
                weights = self.progress.weights
            self.progress.phase = span.number
            self.step = self._made(span.phase, weights)
            self.restrain()
        return span

    def restrain(self) -> None:
        """Training images, targets and weight decay as the doctor's strength has them."""
        strength = self.progress.doctor["strength"] if self.acts else self.settings.strength
        if strength == START and not self.acts:
            return
        assert self.step
        side = max(self.model.input_shape[1:3])
        found = restraint(strength, self.plain.policy, self.settings, side)
        targets = self.progress.arrays.get("targets", self.plain.targets)
        self.loader = replace(self.plain, policy=found.policy, smoothing=found.smoothing, targets=targets)
        self.step.decay_by(found.weight_decay)

    def _made(self, phase: Phase, weights: list[NDArray[Any]]) -> Step:
        seed = [self.settings.seed, self.progress.phase]
        runner = thawed(self.model, weights, phase, self.precision, seed)
        optimizer = make_optimizer(self.settings, runner)
        step = make_step(
            runner, optimizer, self.label_mode, bool(self.settings.ema), phase.rates, self.workers
        )
        step.micro = self.progress.micro
        return step

    # An epoch -----------------------------------------------------------------------------------------

    def one_epoch(self) -> dict[str, Any] | None:
        """Train, validate, keep or not, and decide whether that was the last; None: no step was taken."""
        span = self.enter()
        progress, settings, validation = self.progress, self.settings, self.validation
        assert self.step
        # Borrowed weights have a rate of their own, and a time limit is known to be kept after an epoch only.
        if self.acts and not (progress.raced or progress.fitted or settings.time_limit):
            self._race()
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
            raise Diverged(
                f"a weight became no number in epoch {epoch}, though the loss is {row['loss']:.4g}"
            )
        judged = time.monotonic()
        losses, kept, stale, epochs = None, True, 0, progress.epochs
        decisions: list[Decision | None] = []
        if len(validation.rows):
            self.judge.set_weights(weights)
            val = self.judged(validation)
            row |= columns("val", val)
            self._check(row, "val_loss")
            # Strength changes how sure a net is; what is kept is calibrated on these images in any case. The fit of
            # a head, which borrowed weights have to beat, is compared as it is.
            losses = val.losses(val.temperature if self.acts and not progress.fitted else 1.0)
            agreed = self.workers.agreed
            kept = bool(agreed(is_kept(progress, losses, validation.groups)))
            # Where no time is left, nothing begins.
            stale = 0 if kept or not self._in_time() else epoch - max(progress.best_epoch, span.first)
            if self.acts:
                row["strength"] = progress.doctor["strength"]
            if self.probe and self.probe.due(epoch, epochs):
                train = self.judged(self.probe.images)
                row |= columns("probe", train)
                if self.acts:
                    assert settings.learning_rate
                    peak, look = settings.learning_rate, self._all_judged
                    # In this order: a look may be broken off, and where labels are doubted no fit is treated.
                    decisions = [
                        *treatment.doubt(progress, epoch, train, val, stale, peak, look, agreed),
                        treatment.treat(progress, epoch, span.first, self._is_brief(), train, val),
                    ]
        row["validation_seconds"] = round(time.monotonic() - judged, 3)
        if self.safety and self.safety.exploded(progress, row["loss"]):
            raise Diverged(f"loss rose to {row['loss']:.4g} in epoch {epoch}", highest(progress))
        progress.history.append(row)
        if losses is not None:
            remember(progress, losses, epoch)
        if kept:
            progress.best_loss, progress.best_epoch = row.get("val_loss", -math.inf), epoch
            progress.weights = weights
        progress.epoch, progress.step, progress.part = epoch, 0, {}
        self.console.say(epoch_line(row, epochs, self.loader.steps))
        for decision in filter(None, decisions):
            self._decided(decision)
            self.restrain()
        if not self._in_time():
            progress.ended = f"time limit of {settings.time_limit} reached in epoch {epoch}"
        elif not len(validation.rows) or span.annealed or progress.doctor.get("changed"):
            pass  # who learns something else from here on may take the whole schedule for it
        elif stale >= (settings.patience or 1) and not (self.acts and self._last_descent()):
            progress.ended = f"no validation loss as good as the best for {settings.patience} epochs"
        return row

    def _race(self) -> None:
        """Whether another learning rate learns faster, before the first step; a run that goes on knows."""
        assert self.step
        if steps := race.length(self.progress.epochs * self.loader.steps):
            self.console.say(f"doctor: trying other learning rates, {steps} steps each")
        found = treatment.try_rates(
            self.progress, self.step, self.loader, self.settings, self.interrupt.check
        )
        if found:
            self._decided(found)
        self.save()

    def _last_descent(self) -> bool:
        """Did the doctor make the schedule's end come now, from the weights that are kept?"""
        assert self.settings.learning_rate
        found = treatment.last_descent(self.progress, self.progress.epoch, self.settings.learning_rate)
        if found:
            self._decided(found)
        return found is not None

    def _decided(self, decision: Decision) -> None:
        if self.safety:
            self.safety.record(decision)
        when = f"after epoch {decision.epoch}: " if decision.epoch else ""
        value = f"{decision.value:.3g}" if isinstance(decision.value, float) else decision.value
        self.console.say(f"doctor: {when}{decision.setting} {value}: {decision.because}")

    def _steps(self, span: Span) -> dict[str, Any]:
        """The rest of the epoch's steps, and what the whole epoch measured. Stop where that was asked for."""
        progress, step, loader, ema = self.progress, self.step, self.loader, self.settings.ema
        assert step
        schedule = schedule_of(self.settings, span, self.loader.steps)
        if progress.step == 0:
            step.begin()
            progress.part = dict.fromkeys(("train_seconds", "input_seconds", "saving_seconds"), 0.0)
        part = progress.part
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
            while progress.step < loader.steps and self._in_time():
                asked = time.monotonic()
                part["train_seconds"] += asked - since
                since = asked
                self.interrupt.check()
                batch = next(batches)
                part["input_seconds"] += time.monotonic() - asked
                position = (progress.epoch - span.first) * loader.steps + progress.step
                last = self.probe is not None and progress.step == loader.steps - 1
                before = step.weights(averaged=False) if last else []
                step(batch, schedule(position) * progress.rate_factor, averaging_decay(ema, position))
                progress.step += 1
                if before:
                    part["update_ratio"] = moved(before, step.weights(averaged=False))
                part.setdefault("first_step_seconds", time.monotonic() - asked)
                if bar.due():
                    sums = totals()
                    bar.update(progress.step, f"loss {sums[0] / sums[2]:.4f} acc {sums[1] / sums[2]:.3f}")
                if self.safety and progress.step < loader.steps and self.safety.checkpoints.due():
                    if self.workers.alone:  # the others would not know; a lost state is not written either
                        self._check({"loss": float(totals()[0]), "epoch": progress.epoch + 1}, "loss")
                    part["train_seconds"] += time.monotonic() - since
                    self.save()
                    since = time.monotonic()
        sums = totals()
        part["train_seconds"] += time.monotonic() - since
        end = (progress.epoch - span.first) * loader.steps + max(0, progress.step - 1)
        return {
            "epoch": progress.epoch + 1,
            "steps": progress.step,
            "loss": float(sums[0] / sums[2]) if sums[2] else math.nan,
            "accuracy": float(sums[1] / sums[2]) if sums[2] else math.nan,
            "learning_rate": schedule(end) * progress.rate_factor,
            "train_seconds": round(part["train_seconds"], 3),
            "input_seconds": round(part["input_seconds"], 3),
            "first_step_seconds": round(part.get("first_step_seconds", 0.0), 3),
            "saving_seconds": round(part["saving_seconds"], 3),
            **({"update_ratio": part["update_ratio"]} if "update_ratio" in part else {}),
        }

    def judged(self, images: Validation) -> Judged:
        """What the judge's weights say of `images`."""
        micro, check = self.progress.micro, self.interrupt.check
        return judged_on(self.judge, images, self.settings, self.label_mode, micro, check, self.workers)

    def _all_judged(self, kept: bool) -> tuple[Judged, float | None]:
        """What the weights of now, or those that are `kept`, say of all training images, by the labels that they came
        with, and the temperature at which the kept ones suit validation."""
        plain = self.plain
        if kept:
            self.judge.set_weights(self.progress.weights)
        every = Validation(plain.images, plain.rows, plain.targets[:], plain.groups)
        return self.judged(every), self.judged(self.validation).temperature if kept else None

    def _is_brief(self) -> bool:
        """Has it less than `BRIEF` of the epochs that the recipe takes for so many images?"""
        usual, _ = default_epochs(len(self.plain.rows), pretrained=bool(self.progress.fitted))
        return (self.settings.epochs or 0) < BRIEF * usual

    def shorten(self, row: dict[str, Any], settings_for: Callable[[int], TrainSettings]) -> None:
        """After the first epoch: what fits into the time limit becomes the whole schedule."""
        progress, left = self.progress, self.limit - self._elapsed()
        fit = progress.epochs if left == math.inf else int(self.workers.agreed(epochs_that_fit(row, left)))
        if progress.ended or fit >= progress.epochs:
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
        if not self.safety or not self.workers.writes:
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
            # Without a step nothing has changed since the checkpoint that was read.
            if self.step and self.safety.checkpoints.saved_at != (progress.epoch, progress.step):
                self.save()

    def _check(self, row: dict[str, Any], name: str) -> None:
        if not math.isfinite(row[name]):
            raise Diverged(f"{name} became {row[name]} in epoch {row['epoch']}")

    def _in_time(self) -> bool:
        return self.limit == math.inf or self.workers.agreed(self.limit - self._elapsed()) > 0

    def _elapsed(self) -> float:
        return time.monotonic() - self.began
