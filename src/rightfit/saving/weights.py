"""A model's weights into a file of their own and back: `.safetensors`, or Keras 3's `.weights.h5`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rightfit.errors import ModelFileError, UsageError
from rightfit.files import write_tensors, write_with
from rightfit.formats.contents import Tensor
from rightfit.formats.model_file import opened
from rightfit.saving.legacy import weights as legacy

METADATA = {"format": "rightfit 1"}
SUFFIXES = (".safetensors", ".weights.h5")


def save_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Write the weights of `model` to `path`: `.safetensors` (by layer and variable) or `.weights.h5` (Keras' own).

    UsageError for another suffix, WriteError when it cannot be written.
    """
    place = Path(path)
    if place.name.endswith(".weights.h5"):
        write_with(place, model.save_weights)
        return
    if place.suffix != ".safetensors":
        raise UsageError(f"{place}: weights are written as {' or '.join(SUFFIXES)}")
    arrays = {name: keras.ops.convert_to_numpy(v) for name, v in named_weights(model)}
    tensors = {
        name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()
    }  # () stays
    write_tensors(place, tensors, METADATA)


def load_weights(model: keras.Model, path: str | os.PathLike[str]) -> None:
    """Fill `model` from `path`, which `save_weights` or Keras 3 wrote, or from an `.h5` of Keras 2, whatever its name.

    Every name and shape must agree, nothing may be missing or left over, or ModelFileError names the first three (and
    nothing is changed, but by an `.h5` of Keras 2, which goes layer by layer). Weights of Keras 1 need their
    architecture: `rightfit.convert`.
    """
    with opened(path) as file:
        if file.kind == "safetensors":
            assign(dict(named_weights(model)), file.tensors, str(path))
            finalize(model)
        elif file.kind in ("keras weights", "keras"):
            fill_keras3(model, file.tensors, str(path))
        elif file.layers:
            legacy.load(model, file)
        else:
            raise ModelFileError(
                f"{path} is of the kind {file.kind!r}; weights are read from {' and '.join(SUFFIXES)}, and "
                "`rightfit convert` makes new files of old ones"
            )


def fill_keras3(model: keras.Model, tensors: Mapping[str, Tensor], place: str) -> None:
    """Fill `model` from the tensors of a file of Keras 3, by where Keras keeps each variable."""
    variables, others = stored_variables(model)
    weights = {}
    for name, tensor in tensors.items():
        name = name.replace("_layer_checkpoint_dependencies", "layers")  # of TensorFlow 2.12
        # Neither the optimizer's state, nor sums of metrics, nor a dropout's dice.
        if name not in others and not re.search(r"(^|/)(_?optimizer|metrics|seed_generator\w*)/", name):
            weights[name] = tensor
    assign(variables, weights, place)
    finalize(model)


def finalize(model: keras.Model) -> None:
    """Normalisation keeps in plain tensors what its weights say."""
    for layer in leaves(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def assign(variables: Mapping[str, Any], tensors: Mapping[str, Tensor], place: str) -> None:
    """Each variable from the tensor of its name; ModelFileError, and nothing changed, unless all of them fit."""
    wrong = [f"{name} is missing" for name in variables if name not in tensors]
    wrong += [f"{name} is left over" for name in tensors if name not in variables]
    wrong += [
        f"{name} has shape {tensors[name].shape}, not {tuple(variable.shape)}"
        for name, variable in variables.items()
        if name in tensors and tensors[name].shape != tuple(variable.shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise ModelFileError(f"{place} does not fit the architecture: {'; '.join(wrong[:3])}{more}")
    values = {name: tensors[name].read() for name in variables}  # all of them, before the first is changed
    for name, variable in variables.items():
        variable.assign(values.pop(name))


def named_weights(model: keras.Model) -> list[tuple[str, Any]]:
    """`layer/variable` of every weight, once, `outer/inner/variable` in nested models; twins are numbered."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    for path, layer in _paths(model, ()):
        weights = [v for v in layer.weights if id(v) not in seen]
        seen.update(map(id, weights))
        count: Counter[str] = Counter()
        for variable in weights:
            name = re.sub(r"^variable_\d+$", "variable", variable.name)  # drawn from Keras' counter
            count[name] += 1
            number = f".{count[name]}" if count[name] > 1 else ""
            found.append(("/".join((*path, name)) + number, variable))
    return found


def _paths(model: keras.Model, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _paths(layer, (*above, layer.name))
        else:
            yield (*above, layer.name), layer


def leaves(model: keras.Model) -> Iterator[Any]:
    """Every layer that is no model."""
    for _, layer in _paths(model, ()):
        yield layer


def stored_variables(model: keras.Model) -> tuple[dict[str, Any], set[str]]:
    """Where Keras 3 keeps each weight in its HDF5 files, `layers/conv2d_1/vars/0`; and the places of other state."""
    lib = keras.src.saving.saving_lib

    class Places(lib.H5IOStore):  # type: ignore[name-defined]  # Keras' own walk, writing nothing
        def __init__(self) -> None:
            self.found: dict[str, Any] = {}

        def __bool__(self) -> bool:
            return True

        def make(self, path: str, metadata: Any = None) -> Any:
            return _Place(path.replace("\\", "/").strip("/"), self.found)

    places = Places()
    lib._save_state(model, places, None, "", set())
    wanted = {id(variable) for variable in model.weights}
    weights = {name: variable for name, variable in places.found.items() if id(variable) in wanted}
    return weights, set(places.found) - set(weights)


class _Place(dict[str, Any]):
    """What a layer writes its variables into: remembers where each would stand."""

    def __init__(self, path: str, found: dict[str, Any]) -> None:
        super().__init__()
        self.path, self.all = path, found

    def __setitem__(self, name: str, variable: Any) -> None:
        self.all["/".join(filter(None, (self.path, "vars", name)))] = variable
