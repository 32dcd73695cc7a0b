"""One trial of a search: trained up to a rung, from its checkpoint, to what it reached. Here, or on any node."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, learning, memory
from rightfit.aside import Interrupted, figures_of, free, job_aside, trained_aside
from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, WriteError
from rightfit.provenance import Job

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.training.recipe import Facts
    from rightfit.training.state import Progress
    from rightfit.tuning.halving import Task

FOLDER, JOURNAL = "search", "journal.jsonl"  # in the run that a search ends in
IN_A_TRIAL = {"doctor": "off", "report": "none"}
FEWEST = 10  # validation images in each half
RANGE = 100.0  # times below and above the recipe's learning rate
RANGE_STEPS = 100


@dataclass
class Trials:
    place: Path  # of the run that the search ends in
    prepared: beginning.Prepared
    base: TrainSettings  # the default recipe's, resolved
    facts: Facts

    def __post_init__(self) -> None:
        from rightfit.tuning.space import usual

        self.dataset, self.asked = self.prepared.dataset, self.prepared.asked
        self.selection, self.reporting = parts_of(self.dataset, self.asked.seed)
        self.usual = usual(self.asked, self.base, self.facts)
        self._sizes: dict[str, Dataset] = {}

    def attempt(self, task: Task, chosen: dict[str, Any], last: int) -> dict[str, Any]:
        """`task` of a trial of `last` epochs: {"loss" of the selection half, "steps", "seconds"}, at the end with what
        the reporting half says ("reported"); or {"failed": why} where the settings are to blame, or memory is short."""
        asked = self.settings_of(chosen, task.seed, last).model_copy(update=IN_A_TRIAL)
        whole = task.epochs == last

        def reached() -> dict[str, Any]:
            name = _name(task.trial, task.seed)
            progress, job, steps = self.train(asked, name, None if whole else task.epochs)
            return {**self.told(job, progress, whole), "steps": progress.epoch * steps}

        return _timed(reached)

    def ask(self, what: str) -> dict[str, Any]:
        """Of the default recipe, "pace": {"row" of the history of one epoch, None where none was, "seconds"}; or
        "range_test" of its learning rate: {"rates", "losses", "suggested", "steps", "seconds"}; or {"failed": why}."""
        return _timed({"pace": self._pace, "range_test": self._range_test}[what])

    def _pace(self) -> dict[str, Any]:
        progress, _, _ = self.train(self.asked.model_copy(update=IN_A_TRIAL), "pace", 1)
        shutil.rmtree(self._folder("pace"), ignore_errors=True)
        return {"row": next((row for row in progress.history if row.get("steps")), None)}

    def _range_test(self) -> dict[str, Any]:
        from rightfit.training.interrupt import Stop

        rate = self.base.learning_rate
        assert rate
        job = self._job(self.asked.model_copy(update=IN_A_TRIAL), "range-test")
        try:
            found = learning.range_tested(job, rate / RANGE, rate * RANGE, RANGE_STEPS)
        except Stop:
            raise Interrupted("stopped in the range test of the learning rate") from None
        finally:
            shutil.rmtree(self._folder("range-test"), ignore_errors=True)
        return {**dataclasses.asdict(found), "steps": len(found.rates)}

    def told(self, job: Job, progress: Progress, whole: bool) -> dict[str, Any]:
        """The selection half's "loss", and what the reporting half says of a `whole` training ("reported"); both at the
        temperature that suits the selection half, as a run is calibrated at its end: a net that is held back more is
        less sure of itself, which is no fault of its answers."""
        parts = (self.selection, self.reporting) if whole else (self.selection,)
        selected, *reported = figures_of(job, progress, *parts, calibrated=True)
        return {"loss": selected["loss"], **({"reported": reported[0]} if whole else {})}

    def forget(self, trial: int, seed: int) -> None:
        """What an attempt goes on from: once what it reached is in the journal, nobody needs it."""
        shutil.rmtree(self._folder(_name(trial, seed)), ignore_errors=True)

    def settings_of(self, chosen: dict[str, Any], seed: int, epochs: int) -> TrainSettings:
        """To train with what was `chosen`, for as long as all trials are."""
        from rightfit.tuning.parts import seed_of
        from rightfit.tuning.space import settings_of

        if "batch_size" in chosen:  # the learning rate goes with the batch that there will be
            chosen = {**chosen, "batch_size": min(chosen["batch_size"], self.facts.images)}
        changes = {"epochs": epochs, "seed": seed_of(self.asked.seed, seed)}
        return settings_of(chosen, self.asked.model_copy(update=changes), self.base, self.usual)

    def train(self, asked: TrainSettings, name: str, until: int | None) -> tuple[Progress, Job, int]:
        """From the checkpoint of this name, where there is one, up to the epoch `until`; with the steps of an epoch."""
        job = self._job(asked, name)
        try:
            progress = trained_aside(job, until)
        except Interrupted as stopped:
            raise Interrupted(f"trial {name} {stopped}") from None
        return progress, job, -(-job.facts.images // (job.settings.batch_size or 1))

    def _job(self, asked: TrainSettings, name: str) -> Job:
        prepared = self.prepared
        return job_aside(self._folder(name), self._parted(asked), asked, prepared.backend, prepared.precision)

    def _folder(self, name: str) -> Path:
        return self.place / FOLDER / "trials" / name

    def at(self, asked: TrainSettings) -> Dataset:
        """The images at the size that is asked for; each size is opened once."""
        from rightfit.data.dataset import at_size

        if asked.image_size not in self._sizes:
            self._sizes[asked.image_size] = at_size(self.dataset, asked)
        return self._sizes[asked.image_size]

    def _parted(self, asked: TrainSettings) -> Dataset:
        """The images with the selection half as validation; reporting and test images are no trial's."""
        import numpy as np

        table = self.dataset.table
        splits = table.frame["split"].astype(str).to_numpy().copy()
        splits[self.reporting] = "test"
        return dataclasses.replace(self.at(asked), table=table.with_splits(np.asarray(splits)))


def opened(place: Path) -> Trials:
    """Of the search in `place` as its journal says it was begun, on any node that reaches it and the images."""
    from rightfit.tuning import journal

    begun = journal.read(place / FOLDER / JOURNAL).begun
    prepared = beginning.prepared_again(place, begun, None, None, Console(quiet=True))
    if prepared.dataset.images.fingerprint != begun["images"]:
        raise DataError(
            f"the images on {platform.node()} are not those that the search in {place} began with"
        )
    _, base, facts, _ = beginning.planned(prepared.dataset, prepared.asked, Console(quiet=True))
    refuse_other_weights(begun, facts)
    return Trials(place, prepared, base, facts)


def refuse_other_weights(begun: Mapping[str, Any], facts: Facts) -> None:
    """DataError where a search that was `begun` with borrowed weights would go on from scratch, or the other way."""
    if begun["pretrained"] != facts.pretrained:
        raise DataError(
            f"the search began with borrowed weights, which cannot be had on {platform.node()}; bring them to Keras' "
            "cache there"
            if begun["pretrained"]
            else f"the search began from scratch, and {platform.node()} has weights to borrow; begin another one with "
            "--weights none or imagenet"
        )


def _name(trial: int, seed: int) -> str:
    return f"{trial:03d}-{seed}"


def _timed(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` found and its "seconds"; or {"failed": why}, where settings are to blame or memory is short."""
    began = time.monotonic()
    try:
        found = work()
    except (DataError, WriteError):  # of no settings' making: once it is mended, the search goes on
        raise
    except Exception as error:
        if not isinstance(error, RightfitError) and not memory.is_short(error):
            raise
        found = {"failed": str(error) if isinstance(error, RightfitError) else memory.words(error)}
    finally:
        free()
    return {**found, "seconds": round(time.monotonic() - began, 1)}


def parts_of(dataset: Dataset, seed: int) -> tuple[Any, Any]:
    """Rows of the validation images that choose, and of those that report. DataError where these are too few."""
    from rightfit.tuning.parts import halves_of

    table = dataset.table
    rows = table.rows("val")
    found = halves_of(table, rows, seed)
    if min(map(len, found)) < FEWEST:
        together = " of whole groups" if table.groups(rows) is not None else ""
        raise DataError(
            f"{len(rows):,} validation images, halved into {len(found[0]):,} to choose by and {len(found[1]):,} to "
            f"report{together}, are too few; a search takes {FEWEST} in each half (--split)"
        )
    return found
