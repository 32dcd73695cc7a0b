"""A search for settings: trials go on rung by rung, one is chosen by mean and interval, and a run is trained with it.

Everything that is decided follows from the journal (tuning/journal.py), so a search that was killed goes on where it
was; a trial goes on from its checkpoint, or, where that is gone, from its start, to the same numbers.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, fitting
from rightfit.config import TrainSettings, parse_seconds, train_settings
from rightfit.console import Console, duration
from rightfit.errors import DataError, RightfitError, RunError, UsageError
from rightfit.provenance import Job
from rightfit.records import SEARCHED
from rightfit.run import Run

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.training.recipe import Decision
    from rightfit.training.state import Progress
    from rightfit.tuning.halving import Task
    from rightfit.tuning.journal import Trial
    from rightfit.tuning.space import Space

FOLDER, JOURNAL = "search", "journal.jsonl"
IN_A_TRIAL = {"doctor": "off", "report": "none"}
TRAININGS = 8  # that are to fit into the time at least
SEARCH = 0.6  # of the time; the rest is for more seeds of the finalists and the run at the end
FEWEST = 20  # validation images, to be halved


@dataclass
class Search:
    place: Path  # of the run that it ends in
    dataset: Dataset
    asked: TrainSettings
    base: TrainSettings  # the default recipe's, resolved
    space: Space
    trials_at_most: int | None
    seconds: float | None
    console: Console
    backend: str
    precision: str

    def __post_init__(self) -> None:
        from rightfit.tuning.parts import halves

        self.journal = self.place / FOLDER / JOURNAL
        self._read()
        table = self.dataset.table
        rows = table.rows("val")
        codes = table.codes()[rows]
        codes = codes.argmax(axis=1) if codes.ndim > 1 else codes
        self.selection, self.reporting = halves(rows, codes, table.groups(rows), self.asked.seed)

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
        while not self._late(SEARCH) and (
            task := halving.next_task(self.trials, self.levels, self.trials_at_most)
        ):
            self._take(task)
        while not self._late(1.0) and (task := halving.next_seed(self.trials, self.levels)):
            self._take(task)

    def _fit_epochs(self) -> None:
        """So few epochs that several trainings fit into the time, by one epoch of the default recipe; once."""
        from rightfit.tuning import journal

        if self.seconds is None or self.asked.epochs is not None or self.record.epochs:
            return
        began = time.monotonic()
        asked = self.asked.model_copy(update={"time_limit": f"{self.seconds / TRAININGS:.0f}s", **IN_A_TRIAL})
        progress, _, _ = self.train(asked, "pace", 1)
        seconds = round(time.monotonic() - began, 1)
        journal.write(self.journal, "epochs", epochs=progress.epochs, seconds=seconds)
        if progress.shortened:
            self.console.say(
                f"{progress.epochs} epochs a training in place of {self.base.epochs}, as {TRAININGS} are to fit into "
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
        try:
            found = self._trained(trial, task)
        except (RightfitError, MemoryError) as error:
            trial.failed = str(error) or "memory is short"
            journal.write(self.journal, "failed", trial=task.trial, seed=task.seed, why=trial.failed)
            self.console.say(f"trial {task.trial} failed and is left out: {trial.failed}")
            return
        finally:
            _free()
        seconds = round(time.monotonic() - began, 1)
        line = {"trial": task.trial, "seed": task.seed, "epochs": task.epochs, **found, "seconds": seconds}
        journal.write(self.journal, "rung", **line)
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
        from rightfit.tuning.space import settings_of

        assert self.base.batch_size
        asked = self.asked.model_copy(update={"epochs": self.levels[-1], "seed": self.asked.seed + seed})
        return settings_of(chosen, asked, self.base.batch_size)

    def _trained(self, trial: Trial, task: Task) -> dict[str, Any]:
        """Loss of the selection half after `task.epochs` epochs; of a trial's end also what the reporting half says."""
        asked = self.settings_of(trial.chosen, task.seed).model_copy(update=IN_A_TRIAL)
        last = task.epochs == self.levels[-1]
        progress, job, steps = self.train(
            asked, f"{trial.number:03d}-{task.seed}", None if last else task.epochs
        )
        found: dict[str, Any] = {"loss": progress.best_loss, "steps": progress.epoch * steps}
        if last:
            found["reported"] = self.figures_of(job, progress, self.reporting)
        return found

    def train(self, asked: TrainSettings, name: str, until: int | None) -> tuple[Progress, Job, int]:
        """From its checkpoint, where it has one, up to the epoch `until`; with the steps of an epoch."""
        from rightfit.training.checkpoints import Checkpoints

        place = self.place / FOLDER / "trials" / name
        place.mkdir(parents=True, exist_ok=True)
        quiet = Console(quiet=True)
        dataset = self._parted()
        model, settings, facts, _ = beginning.planned(dataset, asked, quiet)
        changes = {"backend": self.backend, "precision": self.precision, "output": str(place)}
        settings = settings.model_copy(update={**changes, "label_mode": dataset.table.label_mode})
        dataset.table.write_csv(place / "data.csv")
        job = Job(place, dataset, model, asked, settings, facts)
        checkpoints = Checkpoints(place, quiet)
        progress, _ = fitting.trained(job, quiet, checkpoints, checkpoints.newest(), _unrecorded, until)
        if progress.stopped:
            raise Interrupted(progress.stopped)
        checkpoints.keep_the_last_only()
        return progress, job, -(-facts.images // (settings.batch_size or 1))

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
            (s for t in self.trials if t.loss(0, self.levels[-1]) for s in t.seconds.values()), default=0.0
        )
        return self.record.seconds >= min(share * self.seconds, self.seconds - 2 * whole)

    def _say(self, task: Task, loss: float) -> None:
        last = self.levels[-1]
        done = [x for t in self.trials if (x := t.loss(0, last)) is not None]
        best = f", best to the end {min(done):.4f}" if done else ""
        left = (
            f", {duration(max(0.0, self.seconds - self.record.seconds))} left"
            if self.seconds is not None
            else ""
        )
        seed = f" with seed {self.asked.seed + task.seed}" if task.seed else ""
        self.console.say(
            f"trial {task.trial}{seed}, {task.epochs} of {last} epochs: loss {loss:.4f}{best}{left}"
        )


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the trial has its checkpoint, and the search its journal."""


def tune(
    dataset: Dataset,
    asked: TrainSettings,
    console: Console,
    backend: str,
    precision: str,
    reasons: dict[str, str],
    held: ExitStack,
    knobs: Space | None,
    trials: int | None,
    time_limit: str | None,
    place: Path | None = None,
) -> Run:
    """Search, choose, and train a run with what was chosen; `place` is a search's that is locked already."""
    from rightfit.saving import folder
    from rightfit.tuning import journal, space

    logging.getLogger("tensorflow").setLevel(
        "ERROR"
    )  # it warns of functions made again: each trial's net has its own
    if trials is None and time_limit is None:
        raise UsageError("a search without an end: give --time-limit, such as 2h, or --trials")
    if len(dataset.table.rows("val")) < FEWEST:
        count = len(dataset.table.rows("val"))
        raise DataError(
            f"{count:,} validation images are too few to choose by; a search takes {FEWEST} (--split)"
        )
    _, base, facts, _ = beginning.planned(dataset, asked, Console(quiet=True))
    assert base.epochs
    if knobs is None:
        knobs = space.default_space(base, asked, facts.images, facts.pretrained)
    if place is None:
        place = folder.new_folder(asked.output, asked.data)
        held.enter_context(folder.locked(place))
        (place / FOLDER).mkdir()
        dataset.table.write_csv(place / "data.csv")
        journal.write(
            place / FOLDER / JOURNAL,
            "begun",
            asked=asked.model_dump(),
            space=[dataclasses.asdict(knob) for knob in knobs],
            trials=trials,
            time_limit=time_limit,
            backend=backend,
            precision=precision,
            reasons=reasons,
            images=dataset.images.fingerprint,
        )
    seconds = parse_seconds(time_limit) if time_limit else None
    search = Search(place, dataset, asked, base, knobs, trials, seconds, console, backend, precision)
    try:
        search.run()
    except Interrupted as stopped:
        console.say(f"{stopped}; `rightfit resume {place}` goes on with the search")
        return Run(place, unfinished=True)
    return _ended(search, reasons, held)


def go_on(place: Path, data: Any, console: Console, held: ExitStack) -> Run:
    """A search that was stopped or killed, from its journal. UsageError for data in memory that are not given again."""
    from rightfit.data.dataset import prepare
    from rightfit.data.recorded import splits_of
    from rightfit.resuming import backend_of
    from rightfit.tuning import journal
    from rightfit.tuning.space import Knob

    record = journal.read(place / FOLDER / JOURNAL)
    begun = record.begun
    if not begun:
        raise RunError(f"{place}: its journal says nothing of how the search was begun; begin another one")
    asked = train_settings(begun["asked"])
    if asked.data.startswith("<") and data is None:
        raise UsageError(f"{place} is of data in memory; rightfit.resume(run, data=...) takes them again")
    console.say(f"{place}: a search of {len(record.trials):,} trials goes on")
    known = splits_of(place / "data.csv") if (place / "data.csv").exists() else None
    dataset, asked = prepare(asked.data if data is None else data, asked, console, known)
    if dataset.images.fingerprint != begun["images"]:
        raise DataError(f"{place}: the images have changed since the search began; begin another one")
    knobs = tuple(Knob(**{**knob, "choices": tuple(knob["choices"])}) for knob in begun["space"])
    return tune(
        dataset, asked, console, backend_of(begun["backend"]), begun["precision"], begun["reasons"], held, knobs,
        begun["trials"], begun["time_limit"], place,
    )  # fmt: skip


def _ended(search: Search, reasons: dict[str, str], held: ExitStack) -> Run:
    from rightfit.saving import folder
    from rightfit.tuning.choosing import choose
    from rightfit.tuning.space import edges, place_of
    from rightfit.tuning.suggest import importances

    choice = choose(search.trials, search.levels)
    if choice is None:
        raise RunError(f"{search.place}: no trial was trained to its end; a longer --time-limit is needed")
    trial = search.trials[choice.trial]
    reported = list(trial.reported.values())
    told = {
        name: sum(each[name] for each in reported) / len(reported)
        for name in ("accuracy", "accuracy_half", "loss", "loss_half")
    }
    search.console.say(
        f"chosen: trial {choice.trial} ({choice.because}); on {len(search.reporting):,} images that chose nothing it "
        f"gets {100 * told['accuracy']:.1f} ±{100 * told['accuracy_half']:.1f} % right"
    )
    last = search.levels[-1]
    content = {
        "chosen": choice.trial, "settings": trial.chosen, "default": search.trials[0].chosen, "epochs": last,
        "because": choice.because, "reported": told, "seeds": len(reported), "images": len(search.reporting),
        "importances": importances(search.trials, search.space, search.levels),
        "edges": edges(search.space, trial.chosen),
        "steps": sum(sum(t.steps.values()) for t in search.trials),
        "best": search.record.best(last),
        "space": [dataclasses.asdict(knob) for knob in search.space],
        "trials": [
            {"trial": t.number, "chosen": t.chosen, "epochs": t.epochs(0), "loss": t.loss(0, t.epochs(0)),
             "at": {knob.name: place_of(knob, t.chosen[knob.name]) for knob in search.space}, "failed": t.failed}
            for t in search.trials
        ],
    }  # fmt: skip
    folder.write_json(search.place / SEARCHED, content)
    shutil.rmtree(search.place / FOLDER / "trials", ignore_errors=True)
    for name in ("decisions.jsonl", "history.csv"):  # of a run with this choice that was killed as it began
        (search.place / name).unlink(missing_ok=True)
    asked = search.settings_of(trial.chosen, 0)
    return beginning.begin(
        search.dataset, asked, search.console, search.backend, search.precision, reasons, held, search.place
    )


def _unrecorded(decision: Decision) -> None:
    """What a trial decides by itself is no decision of the run's."""


def _free() -> None:
    """A net that was trained is a cycle, and TensorFlow's graphs stay until they are told to go."""
    import keras

    keras.utils.clear_session(free_memory=True)
