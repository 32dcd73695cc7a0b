"""The trials of a search: each is trained up to a rung, from its checkpoint; what it reached goes into the journal."""

from __future__ import annotations

import dataclasses
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, fitting, memory
from rightfit.config import TrainSettings, parse_seconds
from rightfit.console import Console, duration
from rightfit.errors import DataError, RightfitError, RunError, WriteError
from rightfit.provenance import Job

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.training.recipe import Decision, Facts
    from rightfit.training.state import Progress
    from rightfit.tuning.halving import Task
    from rightfit.tuning.journal import Trial
    from rightfit.tuning.space import Space

FOLDER, JOURNAL = "search", "journal.jsonl"
IN_A_TRIAL = {"doctor": "off", "report": "none"}
TRAININGS = 16  # to the end that are to fit into the time
SEARCH = 0.5  # of the time; the rest is for more seeds of the finalists and the run at the end
FEWEST = 10  # validation images in each half
FAILURES = 3  # in a row end a search: what is wrong is not the settings


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the trial has its checkpoint, and the search its journal."""


@dataclass
class Search:
    place: Path  # of the run that it ends in
    dataset: Dataset
    asked: TrainSettings
    base: TrainSettings  # the default recipe's, resolved
    facts: Facts
    space: Space
    trials_at_most: int | None
    seconds: float | None
    console: Console
    backend: str
    precision: str

    def __post_init__(self) -> None:
        from rightfit.tuning.space import usual

        self.journal = self.place / FOLDER / JOURNAL
        self._read()
        self.selection, self.reporting = parts_of(self.dataset, self.asked.seed)
        self.usual = usual(self.asked, self.base, self.facts)

    def _read(self) -> None:
        from rightfit.tuning import halving, journal

        self.record = journal.read(self.journal)
        self.trials = self.record.trials
        assert self.base.epochs
        self.levels = halving.rungs(self.record.epochs or self.base.epochs)

    # Trials -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until the trials asked for are done with, or the search's share of the time is used; then more seeds of the
        finalists."""
        from rightfit.tuning import halving

        self._fit_epochs()
        self.console.say(
            f"tuning {', '.join(knob.name for knob in self.space)}; rungs at "
            f"{', '.join(map(str, self.levels))} epochs; {len(self.selection):,} validation images to choose by, "
            f"{len(self.reporting):,} to report"
        )
        while task := halving.next_task(self.trials, self.levels, self.trials_at_most):
            if (
                self._late(SEARCH) and task.trial
            ):  # the default recipe goes to its end whatever the clock says
                break
            self._take(task)
        while task := halving.next_seed(self.trials, self.levels):
            if self._late(1.0):
                self.console.say(
                    "no time is left for more trainings of the finalists; a longer --time-limit has them"
                )
                break
            self._take(task)

    def _fit_epochs(self) -> None:
        """So few epochs that several trainings fit into the time, by one epoch of the default recipe; once."""
        from rightfit.tuning import journal

        if self.seconds is None or self.asked.epochs is not None or self.record.epochs:
            return
        from rightfit.training.speed import epochs_that_fit

        assert self.base.epochs
        began = time.monotonic()
        progress, _, _ = self.train(self.asked.model_copy(update=IN_A_TRIAL), "pace", 1)
        shutil.rmtree(self._place("pace"), ignore_errors=True)
        rows = [row for row in progress.history if row.get("steps")]
        fit = epochs_that_fit(rows[0], self.seconds / TRAININGS) if rows else self.base.epochs
        epochs = min(self.base.epochs, fit)
        journal.write(self.journal, "epochs", epochs=epochs, seconds=round(time.monotonic() - began, 1))
        if epochs < self.base.epochs:
            self.console.say(
                f"{epochs} epochs a training in place of {self.base.epochs}, as {TRAININGS} are to fit into "
                f"{duration(self.seconds)}; --epochs asks for others"
            )
        self._read()

    def _take(self, task: Task) -> None:
        from rightfit.tuning import journal

        if task.trial == len(self.trials):
            chosen = self._next()
            journal.write(self.journal, "trial", trial=task.trial, chosen=chosen)
            self.trials.append(journal.Trial(task.trial, chosen))
        trial, began = self.trials[task.trial], time.monotonic()
        line: dict[str, Any] = {"trial": task.trial, "seed": task.seed}
        name = f"{trial.number:03d}-{task.seed}"
        try:
            found = self._trained(trial, task, name)
        except (DataError, WriteError):  # of no settings' making: once it is mended, the search goes on
            raise
        except Exception as error:
            if not isinstance(error, RightfitError) and not memory.is_short(error):
                raise
            why = str(error) if isinstance(error, RightfitError) else memory.words(error)
            journal.write(self.journal, "failed", **line, why=why, seconds=round(time.monotonic() - began, 1))
            shutil.rmtree(self._place(name), ignore_errors=True)
            self._read()
            self.console.say(f"trial {task.trial} failed and is left out: {why}")
            if all(t.failed for t in self.trials[-FAILURES:]) and len(self.trials) >= FAILURES:
                raise RunError(f"the last {FAILURES} trials failed, the last one as follows: {why}") from None
            return
        finally:
            _free()
        line |= {"epochs": task.epochs, **found, "seconds": round(time.monotonic() - began, 1)}
        journal.write(self.journal, "rung", **line)
        if task.epochs == self.levels[-1]:
            shutil.rmtree(self._place(name), ignore_errors=True)
        self._read()
        self._say(task, found["loss"])

    def _next(self) -> dict[str, Any]:
        """What the next trial tries: the default recipe first."""
        from rightfit.tuning.space import defaults_of
        from rightfit.tuning.suggest import suggest

        if not self.trials:
            return defaults_of(self.space, self.base)
        return suggest(self.trials, self.space, self.levels, self.asked.seed)

    def settings_of(self, chosen: dict[str, Any], seed: int) -> TrainSettings:
        """To train with what was `chosen`, for as long as all trials are."""
        from rightfit.tuning.parts import seed_of
        from rightfit.tuning.space import settings_of

        changes = {"epochs": self.levels[-1], "seed": seed_of(self.asked.seed, seed)}
        return settings_of(chosen, self.asked.model_copy(update=changes), self.base, self.usual)

    def _trained(self, trial: Trial, task: Task, name: str) -> dict[str, Any]:
        """Loss of the selection half after `task.epochs` epochs; of a trial's end also what the reporting half says."""
        asked = self.settings_of(trial.chosen, task.seed).model_copy(update=IN_A_TRIAL)
        last = task.epochs == self.levels[-1]
        progress, job, steps = self.train(asked, name, None if last else task.epochs)
        found: dict[str, Any] = {"loss": progress.best_loss, "steps": progress.epoch * steps}
        if last:
            found["reported"] = self.figures_of(job, progress, self.reporting)
        return found

    def train(self, asked: TrainSettings, name: str, until: int | None) -> tuple[Progress, Job, int]:
        """From its checkpoint, where it has one, up to the epoch `until`; with the steps of an epoch."""
        from rightfit.training.checkpoints import Checkpoints

        place = self._place(name)
        place.mkdir(parents=True, exist_ok=True)
        quiet = Console(quiet=True)
        dataset = self._parted()
        model, settings, facts, _ = beginning.planned(dataset, asked, quiet)
        changes = {"backend": self.backend, "precision": self.precision, "output": str(place)}
        settings = settings.model_copy(update={**changes, "label_mode": dataset.table.label_mode})
        dataset.table.write_csv(place / "data.csv")
        job = Job(place, dataset, model, asked, settings, facts)
        checkpoints = Checkpoints(place, quiet)
        checkpoints.every = parse_seconds(settings.checkpoint_every)
        progress, _ = fitting.trained(job, quiet, checkpoints, checkpoints.newest(), _unrecorded, until)
        if progress.stopped:
            raise Interrupted(f"trial {name} {progress.stopped}")
        checkpoints.keep_the_last_only()
        return progress, job, -(-facts.images // (settings.batch_size or 1))

    def _place(self, name: str) -> Path:
        return self.place / FOLDER / "trials" / name

    def _parted(self) -> Dataset:
        """The images with the selection half as validation; reporting and test images are no trial's."""
        import numpy as np

        table = self.dataset.table
        splits = table.frame["split"].astype(str).to_numpy().copy()
        splits[self.reporting] = "test"
        return dataclasses.replace(self.dataset, table=table.with_splits(np.asarray(splits)))

    def figures_of(self, job: Job, progress: Progress, rows: Any) -> dict[str, Any]:
        """Accuracy and loss of the table's `rows` (N,) by the weights that a trial kept, with half their 95 %
        intervals."""
        from rightfit.evaluation.infer import all_logits, plain_graph
        from rightfit.evaluation.intervals import half_width
        from rightfit.evaluation.metrics import image_losses, quick
        from rightfit.nets.layers import fused

        judge = plain_graph(fused(job.model))
        judge.set_weights(progress.weights)
        dataset, mode = self.dataset, self.dataset.table.label_mode
        targets, groups = dataset.targets(rows), dataset.groups(rows)
        logits = all_logits(judge, dataset.images, dataset.image_rows[rows], 64)
        result = quick(logits, targets, mode, groups)
        return {
            "accuracy": result.accuracy,
            "accuracy_half": result.accuracy_half_width,
            "loss": result.loss,
            "loss_half": half_width(image_losses(logits, targets, mode), groups),
        }

    # Time ---------------------------------------------------------------------------------------------

    def _late(self, share: float) -> bool:
        """Whether a share of the time is used, or what is left is needed for one more training and the last one."""
        if self.seconds is None:
            return False
        whole = max(
            (s for t in self.trials if t.loss(0, self.levels[-1]) is not None for s in t.seconds.values()),
            default=0.0,
        )
        return self.record.seconds >= min(share * self.seconds, self.seconds - 2 * whole)

    def _say(self, task: Task, loss: float) -> None:
        from rightfit.tuning import halving

        last = self.levels[-1]
        done = [x for t in self.trials if (x := t.loss(0, last)) is not None]
        best = f", best to the end {min(done):.4f}" if done else ""
        left = (
            f", {duration(max(0.0, self.seconds - self.record.seconds))} left"
            if self.seconds is not None
            else ""
        )
        seed = f", training {task.seed + 1} of {halving.SEEDS}" if task.seed else ""
        self.console.say(
            f"trial {task.trial}{seed}, {task.epochs} of {last} epochs: loss {loss:.4f}{best}{left}"
        )


def _unrecorded(decision: Decision) -> None:
    """What a trial decides by itself is no decision of the run's."""


def _free() -> None:
    """A net that was trained is a cycle, and TensorFlow's graphs stay until they are told to go."""
    import keras

    keras.utils.clear_session(free_memory=True)


def parts_of(dataset: Dataset, seed: int) -> tuple[Any, Any]:
    """Rows of the validation images that choose, and of those that report. DataError where these are too few."""
    from rightfit.tuning.parts import halves

    table = dataset.table
    rows = table.rows("val")
    codes = table.codes()[rows]
    codes = codes.argmax(axis=1) if codes.ndim > 1 else codes
    found = halves(rows, codes, table.groups(rows), seed)
    if min(map(len, found)) < FEWEST:
        together = " of whole groups" if table.groups(rows) is not None else ""
        raise DataError(
            f"{len(rows):,} validation images, halved into {len(found[0]):,} to choose by and {len(found[1]):,} to "
            f"report{together}, are too few; a search takes {FEWEST} in each half (--split)"
        )
    return found
