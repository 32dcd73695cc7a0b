"""An epoch's validation: the images it is judged on, what they say, and whether its weights are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings
from rightfit.data.loader import Images
from rightfit.evaluation.infer import all_logits
from rightfit.evaluation.intervals import half_width
from rightfit.evaluation.metrics import Quick, image_losses, quick
from rightfit.training.state import Progress

FAR = 10.0  # nats: an image given a probability of 0.00005 or less


@dataclass(frozen=True)
class Validation:
    """The images an epoch is judged on; `rows` may be empty."""

    images: Images
    rows: NDArray[np.int64]
    targets: NDArray[np.float32]  # (N, outputs)
    groups: NDArray[np.int64] | None


def judged_on(
    model: keras.Model,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
    micro: int,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Quick, NDArray[np.float64]]:
    """Loss and accuracy over every validation image, each once; and the loss of each (N,).

    `micro` images at a time where memory is short, else 0.
    """
    assert settings.batch_size
    batch_size = micro or max(settings.batch_size, 32)
    logits = all_logits(model, validation.images, validation.rows, batch_size, on_batch)
    result = quick(logits, validation.targets, label_mode, validation.groups)
    return result, image_losses(logits, validation.targets, label_mode)


def is_kept(
    progress: Progress, losses: NDArray[np.float64], epoch: int, groups: NDArray[np.int64] | None
) -> bool:
    """Whether the weights of `epoch` replace those kept so far: unless an earlier epoch's loss was lower
    beyond the 95 % interval of the difference on the same images.

    The lowest of many noisy numbers is luck as much as merit, and of epochs that cannot be told apart
    the later has seen more of the schedule. (Breiman et al. 1984, section 3.4.3, choose so among trees.)
    """
    if progress.lowest is None or losses.mean() < progress.lowest.mean():
        progress.lowest, progress.lowest_epoch = losses, epoch
        return True
    # One image that is very far off widens an interval without end, and would make all epochs alike.
    worse = np.minimum(losses, FAR) - np.minimum(progress.lowest, FAR)
    return not worse.mean() > half_width(worse, groups)
