"""model_from_yaml, model_from_json and load_model, and the model's methods for files: read and written through checks.

What was a way to run code (YAML's tags, Lambda, pickled functions) is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np

from rightfit.console import Console
from rightfit.errors import ArchitectureError, ModelFileError
from rightfit.files import write_with
from rightfit.formats.model_file import opened
from rightfit.nets.importers.files import KERAS
from rightfit.saving import architecture, loading, weights

Path = str | os.PathLike[str]
OLD_SUFFIXES = (".h5", ".hdf5")
ATTRIBUTE_BYTES = 60_000  # HDF5 holds 64 KB in an attribute


def model_from_yaml(yaml_string: str, custom_objects: Any = None) -> keras.Model:
    """The model, with first weights, that a YAML text of Keras 1 or 2 or of `to_yaml` describes.

    ArchitectureError names a layer that is not on the closed list, or any custom object.
    """
    _refuse(custom_objects)
    return architecture.from_yaml(yaml_string)


def model_from_json(json_string: str, custom_objects: Any = None) -> keras.Model:
    """As `model_from_yaml`, of a JSON text."""
    _refuse(custom_objects)
    return architecture.from_json(json_string)


def load_model(filepath: Path, custom_objects: Any = None, compile: bool = True) -> keras.Model:
    """The model of an `.h5` of Keras 1, 2 or 3 or of a `.keras` file, compiled as it was saved.

    What could not be carried is said on stderr. ModelFileError and ArchitectureError as of `rightfit.load_model`.
    """
    _refuse(custom_objects)
    found = loading.read_model(filepath, compile=compile)
    for line in found.lines():
        Console().say(f"{os.fspath(filepath)}: {line}")
    return found.model


def _refuse(custom_objects: Any) -> None:
    if custom_objects:
        raise ArchitectureError(
            f"custom objects ({', '.join(map(str, custom_objects))}) are not loaded: only Keras' own layers are. Where "
            "you trust the file, keras.models.load_model(..., custom_objects=...) reads it with them"
        )


def to_yaml(self: keras.Model, **_: Any) -> str:
    """Keras 2's method: the architecture as YAML, `rightfit.to_yaml`."""
    return architecture.to_yaml(self)


Method = Callable[..., Any]


def saving_weights(of_keras_3: Method) -> Method:
    """Keras 3's `save_weights`, which also takes the names that Keras 2 took: weights.h5, weights.hdf5."""

    def save_weights(self: keras.Model, filepath: Path, overwrite: bool = True, **options: Any) -> None:
        if not _is_old(filepath):
            of_keras_3(self, filepath, overwrite=overwrite, **options)
        elif not overwrite and os.path.exists(filepath):
            raise ModelFileError(f"{os.fspath(filepath)} is there already and overwrite=False")
        else:
            write_with(os.fspath(filepath), lambda path: _write(self, path))

    return save_weights


def loading_weights(of_keras_3: Method) -> Method:
    """`rightfit.load_weights`, which also knows Keras 2's files; by name, or past what does not fit, Keras' own after
    the file was looked into."""

    def load_weights(
        self: keras.Model, filepath: Path, by_name: bool = False, skip_mismatch: bool = False, **options: Any
    ) -> None:
        options |= {"by_name": by_name, "skip_mismatch": skip_mismatch}
        options = {name: value for name, value in options.items() if value}
        if not options:
            return weights.load_weights(self, filepath)
        with opened(filepath) as file:
            if file.kind not in KERAS:
                raise ModelFileError(
                    f"{os.fspath(filepath)} is of the kind {file.kind!r} and no weights of Keras"
                )
            if file.backend == "theano" or (file.layers and (file.keras_version or "1").startswith("1")):
                raise ModelFileError(
                    f"{os.fspath(filepath)} has weights of Keras {file.keras_version or 1} on "
                    f"{file.backend or 'an unknown backend'}, which Keras 3 would take for its own; `rightfit convert` "
                    "turns them, with --architecture FILE"
                )
            if not (file.keras_version or "3").startswith("3") and _has_hard_sigmoid(self):
                raise ModelFileError(
                    f"{os.fspath(filepath)} has weights for the hard sigmoid of Keras {file.keras_version}, which is "
                    "another in Keras 3: load them without by_name and skip_mismatch, which turns them, or "
                    "`rightfit convert` them with --architecture FILE and take layers of the new file"
                )
        of_keras_3(self, filepath, **options)

    return load_weights


def _has_hard_sigmoid(model: keras.Model) -> bool:
    """In any layer, those within wrappers and nested models too."""
    parts = [
        (part, name) for part in model._flatten_layers() for name in ("activation", "recurrent_activation")
    ]
    return any(getattr(part, name, None) is keras.activations.hard_sigmoid for part, name in parts)


def _is_old(filepath: Path) -> bool:
    name = os.fspath(filepath)
    return name.endswith(OLD_SUFFIXES) and not name.endswith(".weights.h5")


def _write(model: keras.Model, path: os.PathLike[str]) -> None:
    """The layers' weights by name in HDF5, as Keras 2 laid them out and Keras 1 to 3 read them."""
    with h5py.File(path, "w") as file:
        _name(file, "layer_names", [layer.name for layer in model.layers])
        file.attrs["backend"] = keras.config.backend().encode()
        file.attrs["keras_version"] = keras.__version__.encode()
        for layer in model.layers:
            group = file.create_group(layer.name)
            variables = [*layer.trainable_weights, *layer.non_trainable_weights]
            names = [f"{name}:0" for name in _distinct(variable.path for variable in variables)]
            _name(group, "weight_names", names)
            for name, variable in zip(names, variables, strict=True):
                group.create_dataset(name, data=keras.ops.convert_to_numpy(variable))


def _distinct(names: Iterator[str]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}_{seen[name] - 1}"


def _name(group: Any, attribute: str, names: list[str]) -> None:
    """A list of names as an attribute, in parts where it is longer than one can be."""
    data = np.array([name.encode() for name in names]) if names else np.array([], "S1")
    parts = np.array_split(data, max(1, -(-data.nbytes // ATTRIBUTE_BYTES)))
    for number, part in enumerate(parts):
        group.attrs[attribute if len(parts) == 1 else f"{attribute}{number}"] = part
