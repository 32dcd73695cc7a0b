"""Where training stands: all that a killed run needs to go on as if it had not been, in one place.

`Progress` and the step's own `state()` (training/step.py) are that whole; the rest of a run is a pure
function of data, settings and seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import RunError

Tensors = Mapping[str, NDArray[Any]]
ARRAYS = ("weights", "fitted", "arrays")  # fields that are kept as tensors
NOT_SAVED = ("stopped", "logits")


@dataclass
class Progress:
    """The best weights so far, what each epoch measured, and the place of the next step."""

    history: list[dict[str, Any]] = field(default_factory=list)
    best_loss: float = math.inf  # validation loss of the epoch that is kept
    best_epoch: int = 0  # the one that is kept; counts from 1, 0 is none yet, or the head's fit
    weights: list[NDArray[Any]] = field(default_factory=list)
    # What later epochs depend on. The loss of each image at moments that later ones are compared with: `lowest`,
    # validation images in the epoch of the lowest mean; and the doctor's. `targets`, where labels are in doubt.
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    lowest_epoch: int = 0
    ended: str = ""  # why training ended, in words
    lost: bool = False  # it ended because its losses were no numbers any more
    stopped: str = ""  # where it was stopped, to be gone on from; in words
    epochs: int = 0  # planned; fewer than asked for once a time limit has shortened the schedule
    shortened: int = 0  # what a time limit left of `epochs`
    restarts: list[int] = field(default_factory=list)  # epochs done when the schedule began again
    annealed: float = 0.0  # share of the peak rate that the last restart goes down from; 0: it warms up again

    epoch: int = 0  # epochs done
    step: int = 0  # steps done of the next one
    phase: int = -1  # of the weights, optimizer and sums; -1 is before the first
    part: dict[str, float] = field(
        default_factory=dict
    )  # of the epoch that is begun, by column: seconds, update_ratio
    seconds: float = 0.0  # of training so far, in whatever processes
    rate_factor: float = 1.0  # of the learning rate; set by the race, halved by each setback
    setbacks: int = 0
    micro: int = 0  # images a gradient is taken of at a time, where memory is short; 0 is the whole batch

    doctor: dict[str, Any] = field(default_factory=dict)  # training/doctor.py's condition
    raced: bool = False  # learning rates were tried against each other

    fitted: list[NDArray[Any]] = field(default_factory=list)  # the model with the head's fit
    fitted_loss: float = math.inf
    logits: NDArray[np.float32] | None = None  # of validation images, by the head's fit alone
    kept: dict[str, float] = field(default_factory=dict)  # of its weights, on training and validation images
    decided: list[list[Any]] = field(default_factory=list)  # setting, value, evidence: on record at the end

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, in JSON's own kinds."""
        kept = [f.name for f in fields(self) if f.name not in ARRAYS + NOT_SAVED]
        content = {name: getattr(self, name) for name in kept}
        return {name: _plain(value) for name, value in content.items()}

    @property
    def lowest(self) -> NDArray[np.float64] | None:
        return self.arrays.get("lowest")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Progress:
        """RunError when it is not what `to_json` gave."""
        names = {f.name for f in fields(cls)} - {*ARRAYS, *NOT_SAVED}
        if set(content) != names:
            odd = ", ".join(sorted(set(content) ^ names))
            raise RunError(f"the state of training is of another version of rightfit: {odd}")
        return cls(**content)


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's, which JSON writes and reads back exactly."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


@dataclass
class Saved:
    """A checkpoint that was read and found whole."""

    name: str
    progress: Progress
    tensors: dict[str, NDArray[Any]]  # the step's
    about: dict[str, Any]  # what describes the run
    changed: bool = False  # since it was read: to be saved before the next step

    @property
    def steps(self) -> int:
        """Of the run, as its name has them."""
        return int(self.name.removeprefix("step-").removesuffix(".safetensors"))
