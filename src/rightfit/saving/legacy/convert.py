"""An old model file in, a `.keras` file out, checked against itself and, where both run, against what it was."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rightfit.errors import ModelFileError, UsageError
from rightfit.files import write_with
from rightfit.formats.contents import ModelFile
from rightfit.formats.model_file import opened
from rightfit.saving.folder import check_output
from rightfit.saving.legacy import reference
from rightfit.saving.legacy.examples import examples
from rightfit.saving.loading import Loaded, loaded

Source = str | os.PathLike[str]
# Of one and the same model on the same backend, saved and opened again.
TOLERANCE = 1e-6
SIDES = (48, 128, 320)  # of images whose size the model leaves open


@dataclass(frozen=True)
class Conversion:
    """What became of an old file."""

    output: str
    source: str  # what wrote the old file
    parameters: int
    compiled: bool  # with the old file's optimizer, loss and metrics
    optimizer_state: bool
    channels: str  # what became of channels that came first
    notes: tuple[str, ...]  # what was not carried, or had to be assumed
    distance: float | None  # the largest between old and new outputs, relative to the largest output
    compared: str  # with what, or why not

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"notes": list(self.notes)}


def convert(
    old: Source,
    output: Source,
    *,
    architecture: Source | None = None,
    backend: str | None = None,
    compare: bool = True,
) -> Conversion:
    """Write `old` (`.h5` of Keras 1, 2, tf.keras or 3, or `.keras`) as the Keras 3 file `output` (`.keras`).

    `architecture` is the JSON or YAML file of weights that stand alone; `backend` says what trained them ("theano",
    "tensorflow") where the file does not. With `compare`, tf-keras predicts with the old file where it is installed
    and can run it. Raises UsageError for a wrong request, ModelFileError and ArchitectureError as of `load_model`, and
    ModelFileError when the file that was written is not the model in memory.
    """
    place = Path(output)
    if place.suffix != ".keras":
        raise UsageError(f"{place}: the new file's name has to end in .keras")
    check_output(place)
    if backend not in (None, "theano", "tensorflow", "cntk"):
        raise UsageError(f"unknown backend {backend!r}; Keras 1 and 2 ran on theano, tensorflow and cntk")
    with opened(old) as file:
        found = loaded(file, architecture, backend)
        inputs, ours, reason = _tried(found.model)
        if reason:
            found.notes.append(
                f"the model does not predict here, so its weights alone were checked: {reason}"
            )
        distance, compared = (
            None,
            "not compared: " + ("it does not predict here" if reason else "not asked for"),
        )
        if compare and not reason:
            distance, compared = _distance(file, architecture, found, inputs, ours)
    write_with(place, lambda temporary: _write(found.model, temporary, inputs, ours))
    return Conversion(
        str(place),
        found.source,
        found.model.count_params(),
        found.compiled,
        found.optimizer_state,
        found.reordered,
        tuple(found.notes),
        distance,
        compared,
    )


def _tried(model: keras.Model) -> tuple[list[Any], list[Any], str]:
    """Inputs of the smallest size with which the model predicts, its outputs, and why there are none."""
    reason = "it has no input shape"
    for side in SIDES if model.inputs else ():
        inputs = examples(model, side)
        try:
            return inputs, predictions(model, inputs), ""
        except (
            Exception
        ) as error:  # each backend has its own for what a processor or a small image does not allow
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return [], [], reason


def predictions(model: keras.Model, inputs: list[Any]) -> list[Any]:
    """Every output of the model for `inputs`, one array an input, in inference mode."""
    given = inputs[0] if len(inputs) == 1 else inputs
    if isinstance(getattr(model, "input", None), dict):
        given = dict(zip(sorted(model.input), inputs, strict=True))
    return [
        np.asarray(keras.ops.convert_to_numpy(o), np.float32)
        for o in keras.tree.flatten(model(given, training=False))
    ]


def largest_distance(theirs: list[Any], ours: list[Any]) -> float:
    """Of two models' outputs, relative to the largest output (at least 1); infinite when they do not compare."""
    if [a.shape for a in theirs] != [a.shape for a in ours]:
        return float("inf")
    largest = max([1.0, *(float(np.abs(a).max()) for a in theirs if a.size)])
    distance = max([0.0, *(float(np.abs(a - b).max()) for a, b in zip(theirs, ours, strict=True) if a.size)])
    return distance / largest if np.isfinite(distance) else float("inf")


def _write(model: keras.Model, path: Path, inputs: list[Any], ours: list[Any]) -> None:
    """Save, open again by the checks that every file passes, and predict: it is the same model, or an error."""
    model.save(path)
    with opened(path) as file:
        again = loaded(file, compile=False).model
    if ours:
        distance = largest_distance(ours, predictions(again, inputs))
    else:
        distance = largest_distance(model.get_weights(), again.get_weights())
    if not distance <= TOLERANCE:
        raise ModelFileError(
            f"the model that was written is not the one in memory (off by {distance:.3g}); nothing was kept"
        )


def _distance(
    file: ModelFile, architecture: Source | None, found: Loaded, inputs: list[Any], ours: list[Any]
) -> tuple[float | None, str]:
    reason = reference.absent(file, found)
    if reason:
        return None, reason
    theirs = reference.predictions(file, architecture, inputs)
    if isinstance(theirs, str):
        return None, theirs
    return largest_distance(theirs, ours), f"with tf-keras {reference.version()}"
