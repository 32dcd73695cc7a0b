"""Keras' files in, their tensors as `layer/variable` out: HDF5 of Keras 1 to 3, and `.keras` archives.

Only numbers and names are read. No layer is built, no code runs, and no link is followed.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from rightfit.nets.importers.core import Array, WeightsError

MOST_DATASETS = 5_000
MOST_OBJECTS = 50_000
MOST_BYTES = 4 * 2**30
MOST_CONFIG_BYTES = 64 * 2**20
ARCHIVE = re.compile(r"config\.json|metadata\.json|model\.weights\.h5|assets/.*")

# The order in which Keras 3 numbers a layer's variables, by the layer's class.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}


def read(path: Path, by_index: bool = False) -> dict[str, Array]:
    """The tensors of `path` by `layer/variable`, as in conv1_bn/gamma; halves of any kind become float32.

    With `by_index` files of Keras 3 give `layer/0`, `layer/1`, ... in the order of the layer's variables.

    Optimizer slots are left out. Where Keras 3 kept no layer's name, layers are called after their
    class, in the order of the model that was saved: conv2d, conv2d_1, ...; see `numbered`.
    WeightsError when the file is damaged, no weights of Keras, too large, or points outside itself.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        if zipped:
            with zipfile.ZipFile(path) as archive:
                weights, config = _open_archive(archive, path)
                return _read_hdf5(weights, path, _names(config.get("config")), by_index)
        return _read_hdf5(path, path, {}, by_index)
    # h5py and zipfile have a dozen kinds for a damaged file; MemoryError is left alone.
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: cannot be read as Keras' weights ({reason}); download or copy it again"
        ) from error


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


def _open_archive(archive: zipfile.ZipFile, path: Path) -> tuple[BytesIO, dict[str, Any]]:
    """The weights and config.json of a `.keras` file, which holds nothing else."""
    members = archive.infolist()
    names = [member.filename for member in members]
    for name, times in Counter(names).items():
        if times > 1 or not ARCHIVE.fullmatch(name) or ".." in re.split(r"[/\\]", name):
            raise WeightsError(
                f"{path}: {name!r} has no place in a .keras file; the file is not to be trusted"
            )
    sizes = {member.filename: member.file_size for member in members}
    if "model.weights.h5" not in sizes or "config.json" not in sizes:
        raise WeightsError(f"{path}: no model.weights.h5 with its config.json in it; is it a .keras file?")
    if sizes["model.weights.h5"] > MOST_BYTES or sizes["config.json"] > MOST_CONFIG_BYTES:
        raise WeightsError(f"{path}: larger than any ResNet ({sum(sizes.values()):,} bytes unpacked)")
    try:
        config = json.loads(archive.read("config.json"))
    except RecursionError as error:
        raise WeightsError(f"{path}: config.json is nested too deeply") from error
    return BytesIO(archive.read("model.weights.h5")), config if isinstance(config, dict) else {}


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
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as root:
        return _has_order(root.get("model_weights", root))


def _has_order(group: Any) -> bool:
    return "layer_names" in group.attrs or "layer_names0" in group.attrs


def _read_hdf5(
    file: Path | BytesIO, path: Path, names: Mapping[str, str], by_index: bool
) -> dict[str, Array]:
    import h5py

    with h5py.File(file, "r") as root:
        datasets = _datasets(root, path)
        group = root.get("model_weights", root)
        if _has_order(group):
            found = _legacy(group, datasets)
        else:
            found = _keras3(root, datasets, names, by_index)
        tensors: dict[str, Array] = {}
        for name, dataset in found:
            if name in tensors:
                raise WeightsError(f"{path}: two tensors are called {name}; save the ResNet by itself")
            tensors[name] = _array(dataset, f"{path}: {name}")
    if not tensors:
        raise WeightsError(f"{path} holds no weights of Keras' layers; save with model.save_weights(...)")
    return tensors


def _datasets(root: Any, path: Path) -> dict[str, Any]:
    """Every dataset by its path, when all of them are plain arrays inside this file."""
    import h5py

    datasets: dict[str, Any] = {}
    seen: set[int] = set()
    total = 0
    waiting = [("", root)]
    while waiting:
        place, group = waiting.pop()
        for name in group:
            inside = f"{place}/{name}" if place else name
            if not isinstance(group.get(name, getlink=True), h5py.HardLink) or name in ("..", "."):
                raise WeightsError(f"{path}: {inside} is a link elsewhere; the file is not to be trusted")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or len(seen) > MOST_OBJECTS:
                raise WeightsError(
                    f"{path}: {inside} occurs twice, or is one of over {MOST_OBJECTS:,} groups"
                )
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((inside, item))
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise WeightsError(
                        f"{path}: {inside} keeps its numbers elsewhere; the file is not to be trusted"
                    )
                datasets[inside] = item
                total += int(item.size or 0) * item.dtype.itemsize
            if len(datasets) > MOST_DATASETS or total > MOST_BYTES:
                raise WeightsError(
                    f"{path}: larger than any ResNet ({len(datasets)} tensors, {total:,} bytes)"
                )
    return datasets


def _legacy(group: Any, datasets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keras 1 and 2, and `.h5` of Keras 3: attributes list each layer's tensors, named in many spellings."""
    place = group.name.strip("/")
    for layer in _listed(group, "layer_names"):
        for weight in _listed(group[layer], "weight_names"):
            *above, variable = weight.split("/")
            name = f"{above[-1] if above else layer}/{re.sub(r':[0-9]+$', '', variable)}"
            yield name, datasets["/".join(filter(None, (place, layer, weight)))]


def _listed(group: Any, name: str) -> list[str]:
    """An attribute of names; a long one is cut up into name0, name1, ..."""
    if name in group.attrs:
        values = list(group.attrs[name])
    else:
        values = []
        while f"{name}{len(values)}" in group.attrs:
            values.append(group.attrs[f"{name}{len(values)}"])
        values = [value for part in values for value in part]
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _keras3(
    root: Any, datasets: Mapping[str, Any], names: Mapping[str, str], by_index: bool
) -> Iterator[tuple[str, Any]]:
    """Keras 3 (and `.keras` of TensorFlow 2.12 on): layers/conv2d_1/vars/0, with the layer's name beside or not."""
    for place, dataset in sorted(datasets.items()):
        place = place.replace("_layer_checkpoint_dependencies", "layers").replace("\\", "/")
        stored, _, index = place.rpartition("/vars/")
        group = stored.rpartition("/")[2]
        if not stored.startswith("layers/") or group.startswith("seed_generator"):
            continue  # variables of the optimizer, the metrics or a dropout's dice
        layer = dataset.parent.attrs.get("name") or names.get(stored) or group
        order = () if by_index else VARIABLES.get(re.sub(r"_[0-9]+$", "", group), ())
        yield (
            f"{layer}/{order[int(index)] if index.isdigit() and int(index) < len(order) else index}",
            dataset,
        )


def _array(dataset: Any, place: str) -> Array:
    """The numbers, halves as float32; Keras stores bfloat16 as two opaque bytes and says so."""
    kind, width = dataset.dtype.kind, dataset.dtype.itemsize
    if kind == "V" and width == 2 and dataset.attrs.get("dtype") == "bfloat16":
        return np.asarray((dataset[()].view(np.uint16).astype(np.uint32) << 16).view(np.float32))
    if kind not in "fiu":
        raise WeightsError(f"{place} holds no numbers but {dataset.dtype}; the file is not to be trusted")
    array = np.asarray(dataset[()])
    return array.astype(np.float32) if kind == "f" and width < 4 else array
