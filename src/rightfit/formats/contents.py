"""What every reader here gives: tensors that are read when asked for, beside plain facts of their file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds

Array = NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """Numbers in a file; they are read by `read`, while the file is open."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, bfloat16 and the float8 kinds of ml_dtypes among them
    reader: Callable[[], Array] = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """How many numbers."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * dtype_of(self.dtype).itemsize

    def read(self) -> Array:
        """The array, of `shape` and `dtype`; ModelFileError when the file has changed or is damaged there."""
        try:
            return self.reader()
        except MemoryError as error:
            raise ModelFileError(
                f"{self.nbytes:,} bytes for one tensor are more than there is memory"
            ) from error
        except (OSError, ValueError) as error:
            raise ModelFileError(f"a tensor of shape {self.shape} cannot be read: {error}") from error


@dataclass(frozen=True)
class ModelFile:
    """A model file as plain facts. Nothing was built and nothing in it was run; names are as the file has them."""

    path: Path
    # "keras" (.keras), "hdf5 model" and "hdf5 weights" (Keras 1 and 2, and .h5 of Keras 3), "keras weights"
    # (.weights.h5 of Keras 3), "safetensors", "architecture" (JSON or YAML), "saved model", "checkpoint" (TensorFlow),
    # "pytorch", "npz"
    kind: str
    keras_version: str | None = None
    backend: str | None = None  # "theano", "tensorflow", ... where the file says
    architecture: dict[str, Any] | None = None  # dict, list, str, int, float, bool, None
    training: dict[str, Any] | None = None
    # Of the legacy HDF5 kinds, in the file's order: layer -> the names of its weights.
    layers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # By full name: "layer/weight" with the names of `layers`, "optimizer_weights/weight" with those of `optimizer`;
    # of Keras 3 the path in the HDF5 file, "layers/conv2d/vars/0".
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    optimizer: tuple[str, ...] = ()
    # HDF5: text and numbers that stand beside a group, by the group's path ("" is the file itself).
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # What a program would run that opened the file without care: a SavedModel's operations, a pickle's globals.
    calls: tuple[str, ...] = ()

    @property
    def total_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())


def dtype_of(name: str) -> np.dtype[Any]:
    """NumPy's dtype of a name; ml_dtypes brings bfloat16 and float8."""
    if name.startswith(("bfloat", "float8", "int4", "uint4")):
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def check_tensor(name: str, shape: tuple[int, ...], dtype: str, place: str, bounds: Bounds) -> int:
    """The bytes of a tensor that was declared so; ModelFileError when the declaration is beyond the bounds."""
    check_name(name, place, bounds)
    if len(shape) > bounds.dimensions or any(extent < 0 for extent in shape):
        raise ModelFileError(f"{place}: {name} declares the shape {shape[:8]}; the file is damaged")
    declared = prod(shape) * dtype_of(dtype).itemsize
    if declared > bounds.tensor_bytes:
        raise ModelFileError(
            f"{place}: {name} declares {declared:,} bytes, more than {bounds.tensor_bytes:,} a tensor"
        )
    return declared


def check_name(name: str, place: str, bounds: Bounds) -> None:
    """ModelFileError for a name that is long, holds control characters or leads out of where it stands."""
    if len(name) > bounds.name_length:
        raise ModelFileError(
            f"{place}: a name of {len(name):,} characters, more than {bounds.name_length:,} ({name[:40]!r}...)"
        )
    parts = name.replace("\\", "/").split("/")
    if not name.isprintable() or name.startswith(("/", "\\")) or ".." in parts or "." in parts:
        raise ModelFileError(f"{place}: the name {name!r} is refused; the file is not to be trusted")
