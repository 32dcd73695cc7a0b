"""A finished run in, what more images like its own would bring out: nets that learn from halves and quarters of its
training images as the run did, and the line through their errors.

They are trained in a folder of the run, which is removed in the end; what is broken off goes on when it is asked for
again. The validation images are the run's, and the test stays sealed.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import reporting, resuming
from rightfit.aside import Interrupted, figures_of, free, job_aside, tensorflow_quiet, trained_aside
from rightfit.beginning import BEGUN
from rightfit.config import TrainSettings
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
    from rightfit.training.state import Saved

FOLDER = "learning-curve"  # of the run, while parts are trained
FEWEST = 40  # training images: a quarter of fewer says nothing
PASSES = 0.7  # a part of 1/k of the images is passed over k to this power as often, where the epochs were set
TIMES = (2, 4)  # as many images, of which it is said what they would bring


@dataclass(frozen=True)
class Point:
    """A net that learnt from so many images, and the share of the validation images that it gets right."""

    images: int
    accuracy: float


@dataclass(frozen=True)
class LearningCurve:
    run: str
    validation: int  # images
    half: float  # of the 95 % interval of the run's accuracy on them
    points: tuple[Point, ...]  # the last is the run
    forecasts: tuple[Forecast, ...]  # of validation accuracy

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def learning_curve(run: Run, console: Console) -> LearningCurve:
    """Train what is missing, and remember the result in the run. UsageError for a run that is not finished, has no
    validation images, or was trained on arrays that are gone; DataError for too few training images, or where they are
    gone or were changed."""
    from rightfit.saving import folder
    from rightfit.training.checkpoints import Checkpoints

    place = run.path
    with folder.locked(place):
        checkpoints = Checkpoints(place, Console(quiet=True))
        saved = checkpoints.newest()
        if not resuming.is_finished(checkpoints):
            raise UsageError(f"{place} is not trained to its end; `rightfit resume {place}` goes on")
        identity = checkpoints.identity()
        known = learning_curve_of(place)
        if known and known.get("of") == identity:
            return _from_record(run, known)
        asked, dataset = _begun(run, saved)
        apart = (
            place / FOLDER / (identity or ["", "head"])[1][:12]
        )  # parts of the run as it was before are not its own
        with tensorflow_quiet():
            found = _measured(run, asked, dataset, apart, console)
        folder.write_json(place / LEARNING_CURVE, {"of": identity} | _record_of(found))
        shutil.rmtree(place / FOLDER, ignore_errors=True)
    reporting.draw(run, console)
    return found


def _begun(run: Run, saved: Saved | None) -> tuple[TrainSettings, Dataset]:
    """What was asked for the run, and its images. What was left open follows from the number of images, but for the
    net, and the epochs of a run that a clock has shortened count as set."""
    from rightfit.saving.folder import read_json

    place, settings = run.path, run.settings
    resuming.backend_of(str(settings.backend))
    if saved is None:  # only the head was fitted
        began, dataset = read_json(place / "checkpoints" / BEGUN)["asked"], run.seen_images()
    else:
        began, dataset = saved.about["asked"], resuming.job_of(place, saved).dataset
    kept: dict[str, Any] = {
        "model": settings.model,
        "report": "none",
        "tensorboard": False,
        "time_limit": None,
    }
    kept |= {"backend": settings.backend, "precision": settings.precision}
    if saved and began["time_limit"]:
        kept["epochs"] = saved.progress.epochs
    return TrainSettings(**(began | kept)), dataset


def _measured(
    run: Run, asked: TrainSettings, dataset: Dataset, apart: Path, console: Console
) -> LearningCurve:
    held_out, trained = dataset.table.rows("val"), dataset.table.rows("train")
    whole = (run.metrics.get("validation") or {}).get("accuracy")
    if whole is None:
        raise UsageError(f"{run.path} has no validation images, by which nets could be compared")
    if len(trained) < FEWEST:
        raise DataError(
            f"{len(trained):,} training images are too few to learn from a quarter of; it takes {FEWEST}"
        )
    points = []
    parts = dict(_parts(dataset.table, trained, asked.seed))
    for number, (name, rows) in enumerate(parts.items()):
        console.say(f"training on {len(rows):,} of {len(trained):,} images ({number + 1} of {len(parts)})")
        try:
            points.append(Point(len(rows), _accuracy(apart / name, dataset, rows, held_out, asked)))
        except KeyboardInterrupt:
            console.say("stopped; the same command goes on")
            raise
    points = [*sorted(points, key=lambda point: point.images), Point(len(trained), whole["value"])]
    ahead = forecasts(
        [point.images for point in points],
        [_error(point.accuracy, len(held_out)) for point in points],
        [times * len(trained) for times in TIMES],
    )
    half = (whole["high"] - whole["low"]) / 2
    return LearningCurve(str(run.path), len(held_out), half, tuple(points), tuple(ahead))


def _parts(table: Table, rows: NDArray[np.int64], seed: int) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Both halves of the training images, by class and whole groups, and a half of each."""
    from rightfit.tuning.parts import halves

    codes = table.codes()
    codes = codes.argmax(axis=1) if codes.ndim > 1 else codes

    def halved(of: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return halves(of, codes[of], table.groups(of), seed)

    for number, half in enumerate(halved(rows), 1):
        yield f"quarter-{number}", halved(half)[0]
        yield f"half-{number}", half


def _accuracy(
    place: Path, dataset: Dataset, rows: NDArray[np.int64], held_out: NDArray[np.int64], asked: TrainSettings
) -> float:
    """On the rows `held_out`, of a net that learns from `rows` in `place`."""
    import numpy as np

    share = len(rows) / len(dataset.table.rows("train"))
    if asked.epochs:
        asked = asked.model_copy(update={"epochs": round(asked.epochs / share**PASSES)})
    splits = np.full(len(dataset.table.frame), "", object)
    splits[rows], splits[held_out] = "train", "val"
    part = dataclasses.replace(dataset, table=dataset.table.with_splits(splits.astype(str)))
    job = job_aside(place, part, asked, str(asked.backend), asked.precision)
    try:
        return float(figures_of(job, trained_aside(job), held_out)["accuracy"])
    except Interrupted:
        raise KeyboardInterrupt from None
    finally:
        free()


def _error(accuracy: float, images: int) -> float:
    """Above 0, where none of so many is wrong, too."""
    return ((1 - accuracy) * images + 0.5) / (images + 1)


def _record_of(found: LearningCurve) -> dict[str, Any]:
    return {name: value for name, value in found.to_dict().items() if name != "run"}


def _from_record(run: Run, known: dict[str, Any]) -> LearningCurve:
    try:
        points = tuple(Point(**point) for point in known["points"])
        ahead = tuple(Forecast(**forecast) for forecast in known["forecasts"])
        return LearningCurve(str(run.path), known["validation"], known["half"], points, ahead)
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{run.path / LEARNING_CURVE}: cannot be read ({error!r}); remove it to have it made again"
        ) from error
