"""A job and perhaps a checkpoint in, what the training loop made of it out; on the way history, decisions, the page.

What a run, a trial of a search and a worker of a team have in common.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import reporting
from rightfit.config import parse_seconds
from rightfit.console import Console
from rightfit.errors import RightfitError
from rightfit.files import append_line
from rightfit.provenance import Job, describe, lines_of
from rightfit.runtime import cache_folder

if TYPE_CHECKING:
    from rightfit.data.loader import TrainLoader
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.judging import Validation
    from rightfit.training.range_test import Ranged
    from rightfit.training.recipe import Decision
    from rightfit.training.state import Progress, Saved
    from rightfit.training.workers import Workers


def trained(
    job: Job,
    console: Console,
    checkpoints: Checkpoints,
    saved: Saved | None,
    record: Callable[[Decision], None],
    until: int | None = None,
    workers: Workers | None = None,
) -> tuple[Progress, list[Decision]]:
    """What the loop made of it, up to the epoch `until`, and the decisions to put on record after it; of several
    `workers` all call this."""
    from rightfit.saving import folder
    from rightfit.saving.tensorboard import TensorBoard
    from rightfit.training import finetune, recipe
    from rightfit.training.head import Extractor
    from rightfit.training.safety import Safety
    from rightfit.training.workers import ALONE

    workers = workers or ALONE
    settings, dataset, place = job.settings, job.dataset, job.place
    table = dataset.table
    loader, validation = images_of(job)
    board = TensorBoard(place / "tensorboard") if settings.tensorboard and workers.writes else None
    counts = {split: len(table.rows(split)) for split in ("train", "val", "test")}
    follower = reporting.Follower(place, settings, counts, table.classes, table.label_mode, console)

    def after_epoch(progress: Progress) -> None:
        if not workers.writes:
            return
        try:
            folder.write_table(place / "history.csv", progress.history)
            if board:
                board.write(progress.history[-1])
            if settings.report != "none":
                follower.after_epoch(progress)
        except (RightfitError, OSError) as error:  # the checkpoint has it too
            console.say(f"{error}; training goes on")

    safety = Safety(checkpoints, record, lambda positions: table.paths(table.rows("train")[positions]))
    settings_for = functools.partial(recipe.shortened, job.asked, job.facts, settings)
    precision = settings.precision
    learning = (settings, table.label_mode, console, after_epoch, precision, settings_for)
    if job.facts.pretrained:
        extractor = None
        if saved is None:
            cache = cache_folder(settings.cache_folder)
            extractor = Extractor(job.model, precision, dataset.images, dataset.images.fingerprint, cache)
        train = functools.partial(finetune.train, job.model, extractor)
    else:
        train = functools.partial(_from_scratch, job.model)
    reached = train(loader, validation, *learning, safety=safety, saved=saved, until=until, workers=workers)
    if board:
        board.close()
    return reached


def images_of(job: Job) -> tuple[TrainLoader, Validation]:
    """To learn from, with their weights, and to look at after each epoch."""
    from rightfit.data.augment import policy_named
    from rightfit.data.loader import TrainLoader
    from rightfit.training import recipe
    from rightfit.training.judging import Validation

    settings, dataset, table = job.settings, job.dataset, job.dataset.table
    rows, held_out = table.rows("train"), table.rows("val")
    weights, _ = recipe.sample_weights(
        settings, table.codes()[rows], job.facts.class_counts, table.label_mode
    )
    assert settings.batch_size is not None
    loader = TrainLoader(
        dataset.images,
        dataset.image_rows[rows],
        table.held_targets(rows),
        weights,
        settings.batch_size,
        settings.seed,
        policy_named(settings.augment, settings.mirror, settings.upright),
        dataset.groups(rows),
    )
    validation = Validation(
        dataset.images, dataset.image_rows[held_out], dataset.targets(held_out), dataset.groups(held_out)
    )
    return loader, validation


def range_tested(job: Job, low: float, high: float, steps: int) -> Ranged:
    """A learning-rate range test of a job from scratch. Stop after Ctrl-C or SIGTERM."""
    from rightfit.training.interrupt import interruptible
    from rightfit.training.phases import ALL
    from rightfit.training.range_test import range_test
    from rightfit.training.running import Training
    from rightfit.training.state import Progress

    loader, validation = images_of(job)
    settings, quiet = job.settings, Console(quiet=True)
    progress = Progress(epochs=settings.epochs or 1, micro=settings.micro_batch or 0)
    training = Training(
        job.model, loader, validation, settings, job.dataset.table.label_mode, quiet, settings.precision, (ALL,),
        progress, None,
    )  # fmt: skip
    training.enter()
    assert training.step
    with interruptible(quiet) as interrupt:
        return range_test(training.step, training.loader, low, high, steps, interrupt.check)


def _from_scratch(*given: Any, **how: Any) -> tuple[Progress, list[Decision]]:
    """As `finetune.train`, which decides something on the way."""
    from rightfit.training import loop

    return loop.train(*given, **how), []


def train_together(
    job: Job, console: Console, checkpoints: Checkpoints, saved: Saved, workers: Workers
) -> None:
    """As one of `workers`, on from `saved` to the checkpoint of the end, which all that follows is made from."""
    record = on_record(job, console, checkpoints)
    trained(
        job,
        console,
        checkpoints,
        saved,
        record.or_later if workers.writes else lambda decision: None,
        workers=workers,
    )


class Record:
    """Decisions, one line each; what the disk did not take yet waits."""

    def __init__(self, place: Path, console: Console) -> None:
        self.path, self.console = place / "decisions.jsonl", console
        self.waiting: list[str] = []

    def __call__(self, decision: Decision) -> None:
        from rightfit.saving import folder

        line = {"setting": decision.setting, "value": decision.value, "evidence": decision.because}
        if decision.epoch is not None:
            line["epoch"] = decision.epoch
        self.waiting.append(folder.stamped(**line))
        while self.waiting:
            append_line(self.path, self.waiting[0])
            del self.waiting[0]

    def or_later(self, decision: Decision) -> None:
        try:
            self(decision)
        except (RightfitError, OSError) as error:
            self.console.say(f"{error}; the decision goes on record with the next one, and training goes on")


def on_record(job: Job, console: Console, checkpoints: Checkpoints) -> Record:
    """Where decisions go; `checkpoints` hold them too, with what the run is a function of."""
    record, about = Record(job.place, console), describe(job)
    checkpoints.every = parse_seconds(job.settings.checkpoint_every)
    checkpoints.describe = lambda: {**about, "decisions": [*lines_of(record.path), *record.waiting]}
    return record
