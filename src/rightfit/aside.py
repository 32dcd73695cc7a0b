"""A training beside a run: on its images or part of them, in a folder of its own, from its checkpoint to what it
reached. Trials of a search and points of a learning curve are such; what they decide is no decision of the run's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, learning
from rightfit.config import TrainSettings, parse_seconds
from rightfit.console import Console
from rightfit.provenance import Job

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.training.recipe import Decision
    from rightfit.training.state import Progress


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: what was under way has its checkpoint."""


def job_aside(place: Path, dataset: Dataset, asked: TrainSettings, backend: str, precision: str) -> Job:
    """What to train in `place`, which is made."""
    place.mkdir(parents=True, exist_ok=True)
    model, settings, facts, _ = beginning.planned(dataset, asked, Console(quiet=True))
    computes = {"backend": backend, "precision": precision}
    changes = {**computes, "output": str(place), "label_mode": dataset.table.label_mode}
    dataset.table.write_csv(place / "data.csv")
    return Job(place, dataset, model, asked, settings.model_copy(update=changes), facts)


def trained_aside(job: Job, until: int | None = None, console: Console | None = None) -> Progress:
    """From the job's checkpoint, where there is one, to its end or up to the epoch `until`, in silence unless there is
    a `console` for its epochs. Interrupted."""
    from rightfit.training.checkpoints import Checkpoints

    console = console or Console(quiet=True)
    checkpoints = Checkpoints(job.place, console)
    checkpoints.every = parse_seconds(job.settings.checkpoint_every)
    progress, _ = learning.trained(job, console, checkpoints, checkpoints.newest(), _unrecorded, until)
    if progress.stopped:
        raise Interrupted(progress.stopped)
    checkpoints.keep_the_last_only()
    return progress


def figures_of(job: Job, progress: Progress, *parts: Any, calibrated: bool = False) -> list[dict[str, float]]:
    """Of each of the `parts`, rows (N,) of the table: accuracy and loss by the weights that were kept, with half their
    95 % intervals; `calibrated`, at the temperature that suits the first part."""
    import numpy as np

    from rightfit.evaluation.calibration import fitted_temperature
    from rightfit.evaluation.infer import all_logits, plain_graph
    from rightfit.evaluation.intervals import half_width
    from rightfit.evaluation.metrics import image_losses, quick
    from rightfit.nets.layers import fused

    judge = plain_graph(fused(job.model))
    judge.set_weights(progress.weights)
    dataset, mode = job.dataset, job.dataset.table.label_mode
    temperature, found = 0.0, []
    for rows in parts:
        targets, groups = dataset.targets(rows), dataset.groups(rows)
        logits = all_logits(judge, dataset.images, dataset.image_rows[rows], 64)
        temperature = temperature or (fitted_temperature(logits, targets, mode) if calibrated else 1.0)
        result = quick(logits / np.float32(temperature), targets, mode, groups)
        losses = image_losses(logits / np.float32(temperature), targets, mode)
        found.append(
            {
                "accuracy": result.accuracy,
                "accuracy_half": result.accuracy_half_width,
                "loss": result.loss,
                "loss_half": half_width(losses, groups),
            }
        )
    return found


def free() -> None:
    """A net that was trained is a cycle, and TensorFlow's graphs stay until they are told to go."""
    import keras

    keras.utils.clear_session(free_memory=True)


def _unrecorded(decision: Decision) -> None:
    pass
