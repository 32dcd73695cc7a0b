"""TensorFlow's checkpoints and NumPy's archives in, tensors by name out; nothing in them is ever executed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from rightfit.errors import BackendError
from rightfit.formats.model_file import TABLE_END, opened
from rightfit.nets.importers.core import Array, WeightsError, as_weights
from rightfit.runtime import INSTALL

PART = re.compile(r"(.+)\.(?:index|meta|data-\d{5}-of-\d{5})")


def is_checkpoint(path: str | Path) -> bool:
    """Whether `path` is a checkpoint of TensorFlow: a prefix, one of its files, version 1's only one, or a folder."""
    path = Path(path)
    if path.is_dir():
        return (path / "checkpoint").is_file()
    if Path(f"{prefix(path)}.index").is_file():
        return True
    if not path.is_file() or path.stat().st_size < len(TABLE_END):
        return False
    with path.open("rb") as file:
        file.seek(-len(TABLE_END), 2)
        return file.read() == TABLE_END


def read(path: str | Path) -> dict[str, Array]:
    """Every numeric variable of a version 1 or 2 checkpoint.

    `path` is its prefix, one of its files (.index, .meta, .data-...), or a folder with a file
    `checkpoint`, which names the latest. WeightsError when it is none or damaged; BackendError
    without TensorFlow.
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise BackendError(
            f"{path}: reading TensorFlow's checkpoints takes TensorFlow; `{INSTALL['tensorflow']}` brings it"
        ) from error

    place = tf.train.latest_checkpoint(str(path)) if Path(path).is_dir() else prefix(path)
    if place is None:
        raise WeightsError(f"{path}: no checkpoint in this folder (its file `checkpoint` names the latest)")
    try:
        reader = tf.train.load_checkpoint(place)
        kinds = reader.get_variable_to_dtype_map()
        names = sorted(name for name, kind in kinds.items() if kind.is_floating or kind.is_integer)
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: cannot be read as a TensorFlow checkpoint ({reason}); version 2 is an .index and "
            "all .data-... files of one name, so see that all are there and whole"
        ) from error


def prefix(path: str | Path) -> str:
    """`model.ckpt-7.index` -> `model.ckpt-7`, which is how TensorFlow names a checkpoint."""
    match = PART.fullmatch(str(path))
    return match[1] if match else str(path)


def read_npz(path: str | Path) -> dict[str, Array]:
    """The arrays of a NumPy archive by name.

    WeightsError when it is damaged or holds pickled objects, as TensorLayer's `save_npz` writes
    (one list, `params`): unpickling can run code, so that is left to whoever trusts the file.
    """
    with as_weights(), opened(path) as file:
        if file.kind != "npz":
            raise WeightsError(f"{path} is of the kind {file.kind!r}, no .npz")
        return {name: tensor.read() for name, tensor in file.tensors.items()}
