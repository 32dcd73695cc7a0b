"""One trial of a search: trained up to a rung, from its checkpoint, to what it reached. Here, or on any node."""

from __future__ import annotations

import dataclasses
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, learning, memory
from rightfit.config import TrainSettings, parse_seconds
from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, WriteError
from rightfit.provenance import Job

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.training.recipe import Decision, Facts
    from rightfit.training.state import Progress

FOLDER, JOURNAL = "search", "journal.jsonl"  # in the run that a search ends in
IN_A_TRIAL = {"doctor": "off", "report": "none"}
FEWEST = 10  # validation images in each half


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: the trial has its checkpoint, and the search its journal."""


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

    def attempt(
        self, trial: int, chosen: dict[str, Any], seed: int, epochs: int, last: int
    ) -> dict[str, Any]:
        """Train up to `epochs` of `last`: {"loss" of the selection half, "steps", "seconds"}, at the end with what the
        reporting half says ("reported"); or {"failed": why} where the settings are to blame, or memory is short."""
        began, name = time.monotonic(), _name(trial, seed)
        try:
            asked = self.settings_of(chosen, seed, last).model_copy(update=IN_A_TRIAL)
            progress, job, steps = self._train(asked, name, None if epochs == last else epochs)
            found: dict[str, Any] = {"loss": progress.best_loss, "steps": progress.epoch * steps}
            if epochs == last:
                found["reported"] = self._figures_of(job, progress, self.reporting)
        except (DataError, WriteError):  # of no settings' making: once it is mended, the search goes on
            raise
        except Exception as error:
            if not isinstance(error, RightfitError) and not memory.is_short(error):
                raise
            found = {"failed": str(error) if isinstance(error, RightfitError) else memory.words(error)}
        finally:
            _free()
        return {**found, "seconds": round(time.monotonic() - began, 1)}

    def pace(self) -> dict[str, Any]:
        """{"row": of the history of one epoch of the default recipe, None where none was, "seconds"}."""
        began = time.monotonic()
        try:
            progress, _, _ = self._train(self.asked.model_copy(update=IN_A_TRIAL), "pace", 1)
        finally:
            _free()
        shutil.rmtree(self._folder("pace"), ignore_errors=True)
        row = next((row for row in progress.history if row.get("steps")), None)
        return {"row": row, "seconds": round(time.monotonic() - began, 1)}

    def forget(self, trial: int, seed: int) -> None:
        """What an attempt goes on from: once what it reached is in the journal, nobody needs it."""
        shutil.rmtree(self._folder(_name(trial, seed)), ignore_errors=True)

    def settings_of(self, chosen: dict[str, Any], seed: int, epochs: int) -> TrainSettings:
        """To train with what was `chosen`, for as long as all trials are."""
        from rightfit.tuning.parts import seed_of
        from rightfit.tuning.space import settings_of

        changes = {"epochs": epochs, "seed": seed_of(self.asked.seed, seed)}
        return settings_of(chosen, self.asked.model_copy(update=changes), self.base, self.usual)

    def _train(self, asked: TrainSettings, name: str, until: int | None) -> tuple[Progress, Job, int]:
        """From its checkpoint, where it has one, up to the epoch `until`; with the steps of an epoch."""
        from rightfit.training.checkpoints import Checkpoints

        place = self._folder(name)
        place.mkdir(parents=True, exist_ok=True)
        quiet = Console(quiet=True)
        dataset = self._parted(asked)
        model, settings, facts, _ = beginning.planned(dataset, asked, quiet)
        computes = {"backend": self.prepared.backend, "precision": self.prepared.precision}
        changes = {**computes, "output": str(place)}
        settings = settings.model_copy(update={**changes, "label_mode": dataset.table.label_mode})
        dataset.table.write_csv(place / "data.csv")
        job = Job(place, dataset, model, asked, settings, facts)
        checkpoints = Checkpoints(place, quiet)
        checkpoints.every = parse_seconds(settings.checkpoint_every)
        progress, _ = learning.trained(job, quiet, checkpoints, checkpoints.newest(), _unrecorded, until)
        if progress.stopped:
            raise Interrupted(f"trial {name} {progress.stopped}")
        checkpoints.keep_the_last_only()
        return progress, job, -(-facts.images // (settings.batch_size or 1))

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

    def _figures_of(self, job: Job, progress: Progress, rows: Any) -> dict[str, Any]:
        """Accuracy and loss of the table's `rows` (N,) by the weights that a trial kept, with half their 95 %
        intervals."""
        from rightfit.evaluation.infer import all_logits, plain_graph
        from rightfit.evaluation.intervals import half_width
        from rightfit.evaluation.metrics import image_losses, quick
        from rightfit.nets.layers import fused

        judge = plain_graph(fused(job.model))
        judge.set_weights(progress.weights)
        dataset, mode = job.dataset, job.dataset.table.label_mode
        targets, groups = dataset.targets(rows), dataset.groups(rows)
        logits = all_logits(judge, dataset.images, dataset.image_rows[rows], 64)
        result = quick(logits, targets, mode, groups)
        return {
            "accuracy": result.accuracy,
            "accuracy_half": result.accuracy_half_width,
            "loss": result.loss,
            "loss_half": half_width(image_losses(logits, targets, mode), groups),
        }


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
    return Trials(place, prepared, base, facts)


def _name(trial: int, seed: int) -> str:
    return f"{trial:03d}-{seed}"


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
