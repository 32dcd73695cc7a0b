"""Keras' HDF5 files and archives as `ModelFile`: which layer has which tensors, in the file's own words."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rightfit.errors import ModelFileError
from rightfit.formats import hdf5
from rightfit.formats.archive import Archive
from rightfit.formats.bounds import Bounds
from rightfit.formats.contents import ModelFile, Tensor
from rightfit.formats.text import from_json

WEIGHTS, CONFIG, METADATA = "model.weights.h5", "config.json", "metadata.json"


def of_archive(archive: Archive, path: Path, bounds: Bounds) -> ModelFile:
    """A `.keras` file."""

    archive.check_keras()
    if WEIGHTS not in archive.members or CONFIG not in archive.members:
        raise ModelFileError(f"{path}: no {WEIGHTS} with its {CONFIG} in it; is it a .keras file?")
    config = _mapping(archive.read(CONFIG, bounds.json_bytes), f"{path}: {CONFIG}", bounds)
    metadata = {}
    if METADATA in archive.members:
        metadata = _mapping(archive.read(METADATA, bounds.json_bytes), f"{path}: {METADATA}", bounds)
    data = archive.read(WEIGHTS, bounds.total_bytes)
    place = f"{path}: {WEIGHTS}"
    found = hdf5.survey(io.BytesIO(data), data, len(data), place, bounds)
    training = config.get("compile_config")
    return ModelFile(
        path,
        "keras",
        keras_version=_text(metadata.get("keras_version")),
        architecture=config,
        training=training if isinstance(training, dict) else None,
        tensors=found.tensors,
        attributes=found.groups,
    )


def of_hdf5(file: IO[bytes], path: Path, length: int, bounds: Bounds) -> ModelFile:
    """An `.h5` file of Keras 1 to 3, with a model or weights alone."""
    found = hdf5.survey(file, path, length, str(path), bounds)
    root = found.groups[""]
    place = "model_weights" if "model_weights" in found.groups else ""
    architecture = _config(root, "model_config", path, bounds)
    layers = _layers(found, place, path)
    if layers is None and architecture is None:
        return ModelFile(path, "keras weights", tensors=found.tensors, attributes=found.groups)
    tensors: dict[str, Tensor] = {}
    for layer, weights in layers or ():
        for weight in weights:
            _take(
                tensors,
                f"{layer}/{weight}",
                found.tensors,
                "/".join(filter(None, (place, layer, weight))),
                path,
            )
    optimizer = tuple(_names(found.groups.get("optimizer_weights", {}), "weight_names", path))
    for name in optimizer:
        _take(tensors, f"optimizer_weights/{name}", found.tensors, f"optimizer_weights/{name}", path)
    beside = found.groups.get(place, {})
    return ModelFile(
        path,
        "hdf5 weights" if architecture is None else "hdf5 model",
        keras_version=_text(root.get("keras_version") or beside.get("keras_version")),
        backend=_text(root.get("backend") or beside.get("backend")),
        architecture=architecture,
        training=_config(root, "training_config", path, bounds),
        layers=layers or (),
        tensors=tensors,
        optimizer=optimizer,
        attributes=found.groups,
    )


def _layers(found: hdf5.Hdf5, place: str, path: Path) -> tuple[tuple[str, tuple[str, ...]], ...] | None:
    """Layer and names of its weights, in the file's order; None when the file has no such order."""
    groups = found.groups
    top = groups[place]
    inside = f"{place}/" if place else ""
    if isinstance(top.get("nb_layers"), int):  # Keras before 1.0 numbered both
        names = [f"layer_{i}" for i in range(min(top["nb_layers"], len(groups)))]
        counts = [groups.get(f"{inside}{name}", {}).get("nb_params", 0) for name in names]
        _check_counts(counts, len(found.tensors), path)
        return tuple(
            (name, tuple(f"param_{i}" for i in range(count)))
            for name, count in zip(names, counts, strict=True)
        )
    if "layer_names" not in top and "layer_names0" not in top:
        return None
    layers: dict[str, tuple[str, ...]] = {}
    for layer in _names(top, "layer_names", path):
        if f"{inside}{layer}" not in groups:
            raise ModelFileError(f"{path}: the layer {layer} is named and not there; the file is damaged")
        if layer in layers:
            raise ModelFileError(f"{path}: the layer {layer} is named twice; the file is damaged")
        layers[layer] = tuple(_names(groups[f"{inside}{layer}"], "weight_names", path))
    return tuple(layers.items())


def _check_counts(counts: list[Any], tensors: int, path: Path) -> None:
    """ModelFileError when numbered layers declare other than counts, or more weights than the file has tensors."""
    for count in counts:
        if not isinstance(count, int) or count < 0:
            raise ModelFileError(f"{path}: nb_params is {str(count)[:80]!r}, no count; the file is damaged")
    if sum(counts) > tensors:
        raise ModelFileError(
            f"{path}: its layers declare {sum(counts):,} weights where {tensors:,} are stored; the file is damaged"
        )


def _names(attributes: Mapping[str, Any], name: str, path: Path) -> list[str]:
    """An attribute of names; a long one is cut up into name0, name1, ..."""
    values: Any = attributes.get(name)
    if values is None:
        values, part = [], 0
        while f"{name}{part}" in attributes:
            more = attributes[f"{name}{part}"]
            values += more if isinstance(more, list) else [more]
            part += 1
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        if values == []:
            return []
        raise ModelFileError(f"{path}: the attribute {name} is no list of names; the file is damaged")
    return values


def _take(
    tensors: dict[str, Tensor], name: str, found: Mapping[str, Tensor], stored: str, path: Path
) -> None:
    if stored not in found:
        raise ModelFileError(f"{path}: the tensor {stored} is named and not there; the file is damaged")
    if name in tensors:
        raise ModelFileError(f"{path}: the tensor {name} is named twice; the file is damaged")
    tensors[name] = found[stored]


def _config(root: Mapping[str, Any], name: str, path: Path, bounds: Bounds) -> dict[str, Any] | None:
    text = root.get(name)
    return None if text is None else _mapping(str(text), f"{path}: {name}", bounds)


def _mapping(text: str | bytes, place: str, bounds: Bounds) -> dict[str, Any]:
    content = from_json(text, place, bounds)
    if not isinstance(content, dict):
        raise ModelFileError(f"{place}: no mapping; the file is damaged")
    return content


def _text(value: Any) -> str | None:
    return value[:80] if isinstance(value, str) else None
