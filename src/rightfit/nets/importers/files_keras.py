"""Keras' files in, their tensors as `layer/variable` out: HDF5 of Keras 1 to 3, and `.keras` archives.

The bytes are read by `rightfit.formats`; here only names are given. No layer is built and no code runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rightfit.formats.model_file import ModelFile, Tensor, opened
from rightfit.nets.importers.core import Array, WeightsError, as_weights, single

# The order in which Keras 3 numbers a layer's variables, by the layer's class.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read(path: Path, by_index: bool = False) -> dict[str, Array]:
    """As `tensors_of`, of a file by its path. WeightsError when it is damaged, or refused by `rightfit.formats`."""
    with as_weights(), opened(path) as file:
        return tensors_of(file, by_index)


def tensors_of(file: ModelFile, by_index: bool = False) -> dict[str, Array]:
    """The tensors of an open file by `layer/variable`, as in conv1_bn/gamma; halves of any kind become float32.

    With `by_index` files of Keras 3 give `layer/0`, `layer/1`, ... in the order of the layer's variables.

    Optimizer slots are left out. Where Keras 3 kept no layer's name, layers are called after their
    class, in the order of the model that was saved: conv2d, conv2d_1, ...; see `numbered`.
    WeightsError when two tensors would have one name, or there are none.
    """
    found = _legacy(file) if file.kind.startswith("hdf5") else _keras3(file, by_index)
    tensors: dict[str, Array] = {}
    for name, tensor in found:
        if name in tensors:
            raise WeightsError(f"{file.path}: two tensors are called {name}; save the ResNet by itself")
        tensors[name] = single(tensor.read())
    if not tensors:
        raise WeightsError(
            f"{file.path} holds no weights of Keras' layers; save with model.save_weights(...)"
        )
    return tensors


def numbered(layers: Sequence[tuple[str, str]], names: Mapping[str, Any]) -> dict[str, str]:
    """What the file calls each of `layers`, (class, name) in their model's order: itself, or conv2d_3.

    Keras 3 files older than the one that kept names number a model's layers within their class.
    """
    if not any(name.startswith("conv2d/") for name in names):
        return {name: name for _, name in layers}
    count: Counter[str] = Counter()
    found = {}
    for kind, name in layers:
        found[name] = f"{kind}_{count[kind]}" if count[kind] else kind
        count[kind] += 1
    return found


def _names(config: Any, place: str = "layers") -> dict[str, str]:
    """Where Keras 3 stores each layer -> its name, from a model's config: layers/conv2d_1 -> conv2_block1_1_conv."""
    listed = config.get("layers") if isinstance(config, dict) else None
    found, count = {}, Counter[str]()
    for layer in listed if isinstance(listed, list) and place.count("/") < 20 else ():
        kind = _snake_case(layer["class_name"])
        stored = f"{place}/{kind}_{count[kind]}" if count[kind] else f"{place}/{kind}"
        count[kind] += 1
        found[stored] = str(layer["config"]["name"])
        found |= _names(layer["config"], f"{stored}/layers")
    return found


def _snake_case(name: str) -> str:
    """As Keras names a class within files: BatchNormalization -> batch_normalization, Conv2D -> conv2d."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def is_legacy(path: Path) -> bool:
    """Whether a file that `read` has read is an `.h5` of the old kind, whose layers have an order."""
    with as_weights(), opened(path) as file:
        return file.kind.startswith("hdf5")


def _legacy(file: ModelFile) -> Iterator[tuple[str, Tensor]]:
    """Keras 1 and 2, and `.h5` of Keras 3: each layer's tensors are listed, and named in many spellings."""
    for layer, weights in file.layers:
        for weight in weights:
            *above, variable = weight.split("/")
            name = f"{above[-1] if above else layer}/{re.sub(r':[0-9]+$', '', variable)}"
            yield name, file.tensors[f"{layer}/{weight}"]


def _keras3(file: ModelFile, by_index: bool) -> Iterator[tuple[str, Tensor]]:
    """Keras 3 (and `.keras` of TensorFlow 2.12 on): layers/conv2d_1/vars/0, with the layer's name beside or not."""
    try:
        names = _names((file.architecture or {}).get("config"))
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"{file.path}: its configuration lacks {error}; download or copy it again"
        ) from error
    for path, tensor in sorted(file.tensors.items()):
        place = path.replace("_layer_checkpoint_dependencies", "layers").replace("\\", "/")
        stored, _, index = place.rpartition("/vars/")
        group = stored.rpartition("/")[2]
        if not stored.startswith("layers/") or group.startswith("seed_generator"):
            continue  # variables of the optimizer, the metrics or a dropout's dice
        beside = file.attributes.get(path.rpartition("/")[0], {}).get("name")
        layer = beside or names.get(stored) or group
        order = () if by_index else VARIABLES.get(re.sub(r"_[0-9]+$", "", group), ())
        yield f"{layer}/{order[int(index)] if index.isdigit() and int(index) < len(order) else index}", tensor
