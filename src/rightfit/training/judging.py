"""An epoch's validation: the images it is judged on, what they say, and whether its weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings
from rightfit.data.loader import Images, Targets
from rightfit.data.table import OneHot
from rightfit.evaluation.calibration import fitted_temperature
from rightfit.evaluation.infer import all_logits
from rightfit.evaluation.intervals import Z, half_width
from rightfit.evaluation.metrics import Quick, image_losses, quick
from rightfit.training.state import Progress
from rightfit.training.workers import ALONE, Workers

ENOUGH = 2_000  # images that a temperature is fitted to
FAR = 10.0  # nats: an image given a probability of 0.00005 or less


@dataclass(frozen=True)
class Validation:
    """The images an epoch is judged on; `rows` may be empty."""

    images: Images
    rows: NDArray[np.int64]
    targets: NDArray[np.float32]  # (N, outputs)
    groups: NDArray[np.int64] | None


def codes_of(held: Targets) -> NDArray[np.int64]:
    """(N,) a class for each image: of several labels, the first that it has."""
    if isinstance(held, OneHot):
        return held.codes.astype(np.int64)
    targets = held[:]
    return targets.argmax(axis=1) if targets.shape[1] > 1 else targets[:, 0].astype(np.int64)


@dataclass(frozen=True)
class Judged:
    """What weights say of images, each once."""

    logits: NDArray[np.float32]  # (N, outputs)
    images: Validation
    label_mode: str

    @cached_property
    def result(self) -> Quick:
        return quick(self.logits, self.images.targets, self.label_mode, self.images.groups)

    def losses(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """(N,) the loss of each image, in nats."""
        return image_losses(self.logits / np.float32(temperature), self.images.targets, self.label_mode)

    @cached_property
    def temperature(self) -> float:
        """The one at which the loss is least, by every so many of the images."""
        every = max(1, len(self.logits) // ENOUGH)
        return fitted_temperature(self.logits[::every], self.images.targets[::every], self.label_mode)


def columns(name: str, judged: Judged) -> dict[str, float]:
    """Of history.csv: loss and accuracy, each with half its 95 % interval."""
    result = judged.result
    return {
        f"{name}_loss": result.loss,
        f"{name}_accuracy": result.accuracy,
        f"{name}_accuracy_half_width": result.accuracy_half_width,
        f"{name}_loss_half_width": half_width(judged.losses(), judged.images.groups),
    }


def judged_on(
    model: keras.Model,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
    micro: int,
    on_batch: Callable[[int], None] | None = None,
    workers: Workers = ALONE,
) -> Judged:
    """By the weights that `model` holds, over every image of `validation`, of which each of `workers` takes its part.

    `micro` images at a time where memory is short, else 0.
    """
    assert settings.batch_size
    batch_size = micro or max(-(-settings.batch_size // workers.count), 32)
    rows = validation.rows[workers.part(len(validation.rows))]
    logits = all_logits(model, validation.images, rows, batch_size, on_batch)
    return Judged(workers.gathered(logits, len(validation.rows)), validation, label_mode)


def is_kept(progress: Progress, losses: NDArray[np.float64], groups: NDArray[np.int64] | None) -> bool:
    """Whether the weights of an epoch with these losses replace those kept so far: where their mean is the lowest yet,
    or higher by no more than the standard error of the difference on the same images.

    The lowest of many noisy numbers is luck as much as merit, and of epochs that cannot be told apart the later has
    seen more of the schedule (the one-standard-error rule by which Breiman et al. 1984, section 3.4.3, choose among
    trees). benchmarks/luckiest_epoch.py weighs this rule against others.
    """
    if _is_lowest(progress, losses):
        return True
    assert progress.lowest is not None
    # One image that is very far off widens an interval without end, and would make all epochs alike.
    worse = np.minimum(losses, FAR) - np.minimum(progress.lowest, FAR)
    return bool(worse.mean() <= half_width(worse, groups) / Z)  # of one group, which has no interval, never


def remember(progress: Progress, losses: NDArray[np.float64], epoch: int) -> None:
    """The losses of an epoch whose mean is the lowest yet, for later ones to be compared with."""
    if _is_lowest(progress, losses):
        progress.arrays["lowest"], progress.lowest_epoch = losses, epoch


def _is_lowest(progress: Progress, losses: NDArray[np.float64]) -> bool:
    return progress.lowest is None or bool(losses.mean() < progress.lowest.mean())
