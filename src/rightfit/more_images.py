"""A learning curve: a finished run in, what more images like its own would bring out. Nets learn from halves and
quarters of its training images as the run did from all, and a line goes through their errors.

They are trained in a folder of the run, which is removed in the end; what is broken off goes on when it is asked for
again. The validation images are the run's; a test image is not looked for.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import reporting, resuming
from rightfit.aside import Interrupted, figures_of, free, job_aside, trained_aside
from rightfit.beginning import BEGUN
from rightfit.config import TrainSettings, train_settings
from rightfit.console import Console
from rightfit.errors import DataError, RunError, UsageError
from rightfit.evaluation.power_law import Forecast, forecasts
from rightfit.records import LEARNING_CURVE, learning_curve_of
from rightfit.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.data.dataset import Dataset
    from rightfit.data.table import Table
    from rightfit.training.state import Progress

FOLDER = "learning-curve"  # of the run, while parts are trained
FEWEST = 40  # training images: a quarter of fewer says nothing
PASSES = (
    0.7  # where epochs were set, 1/k of the images is passed over k to this power as often, as in the recipe
)
TIMES = (2, 4)  # as many images, of which it is said what they would bring


@dataclass(frozen=True)
class Point:
    """A net that learnt from so many images, and its accuracy on the validation images."""

    images: int
    accuracy: float


@dataclass(frozen=True)
class LearningCurve:
    run: str
    validation: int  # images
    half_width: float  # of the 95 % interval of the run's accuracy on them, which all points share
    points: tuple[Point, ...]  # the last is the run
    forecasts: tuple[Forecast, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def learning_curve(run: Run, console: Console) -> LearningCurve:
    """Train what is missing, and remember the result in the run.

    UsageError for a run that is not finished, was taken further by `resume --epochs`, has no validation images, or was
    trained on arrays that are gone; DataError for too few training images, or where images are gone or were changed.
    """
    from rightfit.saving import folder
    from rightfit.training.checkpoints import Checkpoints

    place = run.path
    checkpoints = Checkpoints(place, Console(quiet=True))
    identity = checkpoints.identity()
    if not resuming.is_finished(checkpoints):
        raise UsageError(f"{place} is not trained to its end; `rightfit resume {place}` goes on")
    known = learning_curve_of(place)
    if known and known["of"] == identity:
        return _from_record(run, known)
    whole = (run.metrics.get("validation") or {}).get("accuracy")
    if whole is None:
        raise UsageError(
            f"{place} has no validation images, by which nets could be compared; train with some, as --split 6:1:2 does"
        )
    with folder.locked(place):
        saved = checkpoints.newest()
        if identity and saved is None:
            raise RunError(f"{place}: {identity[0]} is damaged, so what was asked of the run is not known")
        asked = _asked(run, saved.progress if saved else None)
        dataset = run.seen_images()
        apart = place / FOLDER / (identity or ["", "head"])[1][:12]
        for other in (place / FOLDER).glob("*"):
            if other != apart:  # of the run as it was before
                shutil.rmtree(other, ignore_errors=True)
        found = _measured(run, whole, asked, dataset, apart, console)
        record = {name: value for name, value in found.to_dict().items() if name != "run"}
        folder.write_json(place / LEARNING_CURVE, {"of": identity, **record})
        shutil.rmtree(place / FOLDER, ignore_errors=True)
    if (place / reporting.NAME).exists() and (drawn := reporting.draw(run, console)):
        console.say(f"report: {drawn}")
    return found


def _asked(run: Run, progress: Progress | None) -> TrainSettings:
    """What was asked for the run, of the same net with the same start. What was left open follows from the number of
    images; but epochs that a clock has cut short count as set, unlike those that early stopping left. UsageError for
    more than one schedule."""
    from rightfit.saving.folder import read_json
    from rightfit.training.checkpoints import FOLDER as CHECKPOINTS

    settings = run.settings
    if progress and len(progress.restarts) > bool(progress.annealed):
        raise UsageError(
            f"{run.path} was taken further by `resume --epochs`; a learning curve is of a run with one schedule"
        )
    resuming.backend_of(str(settings.backend))
    began = read_json(run.path / CHECKPOINTS / BEGUN)["asked"]
    kept = {
        **{name: getattr(settings, name) for name in ("model", "weights", "backend", "precision")},
        **{"report": "none", "tensorboard": False, "time_limit": None},
        **({"epochs": epochs} if (epochs := _left_by_a_clock(progress)) else {}),
    }
    return train_settings({**began, **kept})


def _left_by_a_clock(progress: Progress | None) -> int:
    """Epochs of the schedule, where a time limit shortened it or broke it off; else 0."""
    if progress is None:
        return 0
    return progress.epoch if progress.ended.startswith("time limit") else progress.shortened


def _measured(
    run: Run,
    whole: Mapping[str, float],
    asked: TrainSettings,
    dataset: Dataset,
    apart: Path,
    console: Console,
) -> LearningCurve:
    held_out, trained = dataset.table.rows("val"), dataset.table.rows("train")
    parts = dict(_parts(dataset.table, trained, asked.seed))
    points = []
    for number, (name, rows) in enumerate(parts.items(), 1):
        console.say(f"training on {len(rows):,} of {len(trained):,} images ({number} of {len(parts)})")
        try:
            points.append(Point(len(rows), _accuracy(apart / name, dataset, rows, asked, console)))
            console.say(f"validation accuracy {100 * points[-1].accuracy:.1f} %")
        except Interrupted:
            console.say("stopped; the same command goes on")
            raise KeyboardInterrupt from None
    points = [*sorted(points, key=lambda point: point.images), Point(len(trained), whole["value"])]
    ahead = forecasts(
        [point.images for point in points],
        [1 - point.accuracy for point in points],
        [times * len(trained) for times in TIMES],
        one=1 / len(held_out),
    )
    half_width = (whole["high"] - whole["low"]) / 2
    return LearningCurve(str(run.path), len(held_out), half_width, tuple(points), tuple(ahead))


def _parts(table: Table, rows: NDArray[np.int64], seed: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Both halves of the training images, by class and whole groups, and a half of each. DataError where a part would
    be without a class."""
    from rightfit.tuning.parts import halves_of

    classes = _classes(table, rows)
    together, units = (" of whole groups", "groups") if table.groups(rows) is not None else ("", "images")
    for number, half in enumerate(halves_of(table, rows, seed), 1):
        quarter = halves_of(table, half, seed)[0]
        if len(rows) < FEWEST or len(quarter) == len(half):
            raise DataError(
                f"{len(rows):,} training images{together} are too few to learn from quarters of them: it takes "
                f"{FEWEST}, and four {units} of each class"
            )
        if absent := sorted(classes - _classes(table, quarter)):
            names = ", ".join(table.classes[code] for code in absent[:5])
            raise DataError(
                f"a quarter of the {len(rows):,} training images{together} would be without {names}: it takes four "
                f"{units} of each class, and more where they have other classes, too"
            )
        yield f"quarter-{number}", quarter
        yield f"half-{number}", half


def _classes(table: Table, rows: NDArray[np.int64]) -> set[int]:
    import numpy as np

    codes = table.codes()[rows]
    return set(np.unique(codes if codes.ndim == 1 else np.flatnonzero(codes.any(axis=0))).tolist())


def _accuracy(
    place: Path, dataset: Dataset, rows: NDArray[np.int64], asked: TrainSettings, console: Console
) -> float:
    """On the validation images, of a net that learns from `rows` in `place`. Interrupted."""
    import numpy as np

    held_out = dataset.table.rows("val")
    if asked.epochs:
        asked = _longer(asked, len(dataset.table.rows("train")) / len(rows))
    splits = np.full(len(dataset.table.frame), "", object)
    splits[rows], splits[held_out] = "train", "val"
    part = dataclasses.replace(dataset, table=dataset.table.with_splits(splits.astype(str)))
    job = job_aside(place, part, asked, str(asked.backend), asked.precision)
    try:
        return float(figures_of(job, trained_aside(job, console=console), held_out)[0]["accuracy"])
    finally:
        free()


def _longer(asked: TrainSettings, fewer: float) -> TrainSettings:
    """For so many times fewer images: more epochs, and what was set in epochs with them."""
    assert asked.epochs
    epochs = round(asked.epochs * fewer**PASSES)
    changes: dict[str, Any] = {"epochs": epochs}
    if asked.warmup_epochs is not None:
        changes["warmup_epochs"] = asked.warmup_epochs * epochs / asked.epochs
    if asked.patience is not None:
        changes["patience"] = round(asked.patience * epochs / asked.epochs)
    return asked.model_copy(update=changes)


def _from_record(run: Run, known: Mapping[str, Any]) -> LearningCurve:
    points = tuple(Point(**point) for point in known["points"])
    ahead = tuple(Forecast(**forecast) for forecast in known["forecasts"])
    return LearningCurve(str(run.path), known["validation"], known["half_width"], points, ahead)
