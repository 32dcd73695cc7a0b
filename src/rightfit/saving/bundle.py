"""A trained model as files, and back: architecture and weights apart, both together, and golden logits.

architecture.yaml, architecture.json   the same content twice: what the model is
weights.safetensors                    its weights, by layer and variable
model.keras                            both, for plain Keras without rightfit
golden.npz                             a few inputs and their float32 logits, checked on load
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import ModelFileError, RunError
from rightfit.evaluation.infer import Predicts, plain_graph
from rightfit.files import write_text, write_with, yaml_of
from rightfit.formats.model_file import Tensor, opened
from rightfit.runtime import exact_float32

if TYPE_CHECKING:
    import keras

FORMAT = 1
# Largest distance from the golden logits, relative to the largest of them: float32 through 152
# layers on another backend stays a hundred times below, a wrong weight or padding far above.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Description:
    """What a model needs to be used: what it is called, sees and says."""

    model: str
    classes: tuple[str, ...]
    label_mode: str
    image_size: tuple[int, int]  # height, width in pixels
    resize: str

    def to_dict(self) -> dict[str, Any]:
        height, width = self.image_size
        return {
            "format": FORMAT,
            "model": self.model,
            "classes": list(self.classes),
            "label_mode": self.label_mode,
            "outputs": "logits: " + OUTPUTS[self.label_mode],
            "image": {"height": height, "width": width, "resize": self.resize, "values": "0..255, RGB"},
        }


OUTPUTS = {
    "binary": "one, its sigmoid is the probability of the second class",
    "categorical": "one a class, their softmax is the probability of each class",
    "multilabel": "one a class, the sigmoid of each is the probability of that class",
}


def save(folder: Path, model: keras.Model, description: Description, golden: NDArray[np.uint8]) -> None:
    """Write all artefacts of `model` (fused or stock) into `folder`; golden (B, H, W, 3) inputs."""
    from rightfit.nets.layers import stock
    from rightfit.saving.architecture import to_config

    plain = stock(model)
    content = {**description.to_dict(), "keras": to_config(plain)}
    write_text(folder / "architecture.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "architecture.yaml", yaml_of(content, sort_keys=False))
    save_weights(folder / "weights.safetensors", plain)
    write_with(folder / "model.keras", plain.save)
    with exact_float32():
        logits = np.asarray(plain_graph(plain).predict_on_batch(golden), np.float32)
    write_with(folder / "golden.npz", lambda path: np.savez_compressed(path, inputs=golden, logits=logits))


def synthetic_images(height: int, width: int, count: int = 4) -> NDArray[np.uint8]:
    """(count, height, width, 3): smooth random colours, so that golden.npz shows nobody's photographs."""
    import cv2

    coarse = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC) for image in coarse])


def load(folder: Path, precision: str = "float32") -> tuple[keras.Model, Description]:
    """The model of `folder` on the running backend and its description, checked against the golden logits.

    Raises RunError when a file is missing or damaged, or the logits are not those that were saved.
    """
    from rightfit.nets.layers import fused
    from rightfit.saving.architecture import from_config

    content = _read_architecture(folder)
    description = _description(content, folder)
    model = from_config(content.get("keras"))
    load_weights(folder / "weights.safetensors", model)
    model = plain_graph(fused(model, precision))
    exact = model if precision == "float32" else plain_graph(fused(model))
    check_golden(folder / "golden.npz", exact)
    return model, description


def describe(folder: Path) -> Description:
    """What the model of `folder` is, without building it. RunError as of `load`."""
    return _description(_read_architecture(folder), folder)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The architecture of `folder` as it was written, unchecked, and its weights by `layer/variable`; no model is
    built. RunError as of `load`."""
    path = folder / "weights.safetensors"
    with _weights_file(path) as tensors:
        weights = {name: tensor.read() for name, tensor in tensors.items()}
    return _read_architecture(folder).get("keras", {}), weights


def check_golden(path: Path, model: Predicts, engine: str = "") -> float:
    """RunError unless `model` (float32) gives the logits kept in `path` within TOLERANCE; the largest distance."""
    try:
        with opened(path) as kept:
            inputs = kept.tensors["inputs"].read()
            expected = kept.tensors["logits"].read().astype(np.float32)
    except ModelFileError as error:
        raise RunError(f"{error}; the run is incomplete or damaged") from error
    except KeyError as error:
        raise RunError(f"{path}: holds no {error}; the run is incomplete or damaged") from error
    if not len(inputs) or inputs.dtype != np.uint8 or inputs.shape[1:] != model.input_shape[1:]:
        raise RunError(
            f"{path}: holds {inputs.dtype} inputs of shape {inputs.shape}, the model takes {model.input_shape}; "
            "architecture.json and golden.npz do not belong together, or one is damaged"
        )
    with exact_float32():
        logits = np.asarray(model.predict_on_batch(inputs), np.float32)
    distance = float(np.abs(logits - expected).max()) if logits.shape == expected.shape else float("inf")
    if not distance <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise RunError(
            f"{path.parent}: the weights give other logits {f'on {engine} ' if engine else ''}than when they were "
            f"saved (off by {distance:.3g}); architecture.json and weights.safetensors do not belong together, or "
            "one is damaged"
        )
    return distance


def save_weights(path: Path, model: keras.Model) -> None:
    """`layer/variable` -> tensor, in the safetensors format. RightfitError when the disk is full."""
    from rightfit.saving import weights

    weights.save_weights(model, path)


def load_weights(path: Path, model: keras.Model) -> None:
    """Fill `model` from `path`; every name and shape must agree, nothing missing, nothing left over.

    All of that is checked before a number is read. RunError when it does not, or the file is damaged or refused.
    """
    from rightfit.saving import weights

    with _weights_file(path) as tensors:
        weights.assign(dict(weights.named_weights(model)), tensors, str(path))


@contextmanager
def _weights_file(path: Path) -> Iterator[Mapping[str, Tensor]]:
    try:
        with opened(path) as file:
            if file.kind != "safetensors":
                raise RunError(f"{path}: is of the kind {file.kind!r}, not safetensors; the run is damaged")
            yield file.tensors
    except ModelFileError as error:
        raise RunError(f"{error}; the run is incomplete or damaged") from error


def _read_architecture(folder: Path) -> dict[str, Any]:
    path = folder / "architecture.json"
    if not path.exists():
        raise RunError(f"{folder} holds no trained model (no architecture.json); did training finish?")
    try:
        with opened(path) as file:
            content = file.architecture or {}
    except ModelFileError as error:
        raise RunError(f"{error}; the run is damaged") from error
    if content.get("format") != FORMAT:
        raise RunError(f"{path}: not an architecture of format {FORMAT}; a newer rightfit may be needed")
    return content


def _description(content: dict[str, Any], folder: Path) -> Description:
    try:
        image = content["image"]
        size = (int(image["height"]), int(image["width"]))
        classes = tuple(map(str, content["classes"]))
        return Description(str(content["model"]), classes, content["label_mode"], size, image["resize"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{folder / 'architecture.json'}: incomplete, {error!r} is missing or wrong"
        ) from error
