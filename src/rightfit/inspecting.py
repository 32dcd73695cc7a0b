"""A model file or a run folder in, what is in it and whether rightfit would load it out; nothing is built."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rightfit.errors import RightfitError, UsageError
from rightfit.formats.judged import CODE, strange_globals, strange_operations
from rightfit.formats.model_file import ModelFile, opened

FIRST = 10  # tensors that are shown
MODELS = ("Functional", "Sequential", "Model")
NO_WEIGHTS = ("optimizer", "optimizer_weights", "metrics", "vars", "seed_generator")
WITHOUT_TENSORS = {
    "pytorch": "names and shapes of its tensors are in a pickle, which only torch reads",
    "checkpoint": "only TensorFlow reads names and shapes of a checkpoint",
    "saved model": "a SavedModel is a program; only its operations are listed",
}


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Facts of a file as JSON types: see docs/reference.md for each. Raises ModelFileError for a file that is damaged,
    of no known kind, or refused for what it is (a bomb, links, `..`), UsageError when there is no such file.

    `loads` says whether rightfit would load it, `refused` what it would refuse it for.
    """
    place = Path(path)
    if not place.exists():
        raise UsageError(f"{place} is not there; name a model file or a run folder")
    if place.is_dir() and (place / "architecture.json").exists():
        return _run(place)
    with opened(place) as file:
        return _facts(file, file.architecture, _bytes(place))


def _run(folder: Path) -> dict[str, Any]:
    """A run's architecture and weights as one."""
    with opened(folder / "architecture.json") as described:
        content = described.architecture or {}
    with opened(folder / "weights.safetensors") as weights:
        found = _facts(weights, content.get("keras"), _bytes(folder))
    classes = content.get("classes")
    return found | {
        "path": str(folder),
        "kind": "run",
        "model": str(content.get("model"))[:80],
        "classes": [str(name)[:80] for name in classes[:1000]] if isinstance(classes, list) else [],
    }


def _facts(file: ModelFile, architecture: Any, size: int) -> dict[str, Any]:
    layers = Counter(_layers(architecture))
    weights = {name: tensor for name, tensor in file.tensors.items() if not _is_beside(name)}
    refused = _refused(file, architecture)
    return {
        "path": str(file.path),
        "kind": file.kind,
        "bytes": size,
        "keras_version": file.keras_version,
        "backend": file.backend,
        "model": _model(architecture),
        "layers": dict(layers.most_common()),
        "custom": sorted(set(_custom(architecture))),
        "parameters": sum(tensor.size for tensor in weights.values()),
        "tensors": len(file.tensors),
        "tensor_bytes": file.total_bytes,
        "first_tensors": [
            {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype}
            for name, tensor in list((weights | dict(file.tensors)).items())[:FIRST]
        ],
        "optimizer_tensors": len(file.tensors) - len(weights),
        "calls": list(file.calls),
        "note": WITHOUT_TENSORS.get(file.kind),
        "loads": refused is None,
        "refused": refused,
    }


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(
            part.stat().st_size for part in path.rglob("*") if part.is_file() and not part.is_symlink()
        )
    return path.stat().st_size


def _is_beside(name: str) -> bool:
    """A tensor of the optimizer, the metrics or a dropout's dice, which is no weight."""
    first, _, rest = name.partition("/")
    return first in NO_WEIGHTS or "/seed_generator" in f"/{rest}"


def _dicts(content: Any) -> Iterator[dict[str, Any]]:
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _layers(architecture: Any) -> Iterator[str]:
    """The class of each layer, those of nested models too: what stands in a list of layers."""
    for node in _dicts(architecture):
        listed = node.get("layers", node.get("config") if node.get("class_name") == "Sequential" else None)
        for layer in listed if isinstance(listed, list) else ():
            if isinstance(layer, dict) and isinstance(layer.get("class_name"), str):
                yield layer["class_name"][:80]


def _custom(architecture: Any) -> Iterator[str]:
    """Classes that are not Keras' own by what the file says of them, or that hold code."""
    for node in _dicts(architecture):
        name, module = node.get("class_name"), node.get("module")
        if not isinstance(name, str):
            continue
        foreign = isinstance(module, str) and module.partition(".")[0] not in ("keras", "builtins")
        registered = str(node.get("registered_name") or "")
        if name in CODE or ">" in name or ">" in registered or foreign:
            yield f"{module}.{name}"[:160] if foreign else name[:160]


def _model(architecture: Any) -> str | None:
    if not isinstance(architecture, dict):
        return None
    inside = architecture.get("config")
    name = inside.get("name") if isinstance(inside, dict) else None
    kind = str(architecture.get("class_name"))[:80]
    return f"{kind} {name[:80]!r}" if isinstance(name, str) else kind


def _refused(file: ModelFile, architecture: Any) -> str | None:
    """What in the file rightfit refuses before it builds anything; None when that is nothing."""
    if file.kind == "saved model":
        strange = strange_operations(file.calls)
        return f"it runs {_some(strange)}, which may do more than compute" if strange else None
    if file.kind == "pytorch":
        strange = strange_globals(file.calls)
        return f"its pickle calls {_some(strange)}, more than tensors alone need" if strange else None
    if not isinstance(architecture, dict):
        return "it holds no architecture and no tensors" if file.kind == "architecture" else None
    if isinstance(architecture.get("keras"), dict) and "class_name" not in architecture:
        architecture = architecture["keras"]
    try:
        _check_architecture(architecture, file)
    except RightfitError as error:
        return str(error)
    return None


def _check_architecture(architecture: dict[str, Any], file: ModelFile) -> None:
    if architecture.get("class_name") in MODELS and "module" in architecture:
        from rightfit.saving.checked import checked

        checked(architecture)
        return
    from rightfit.runtime import choose_backend

    choose_backend()  # what translates old layers knows them by Keras' own
    from rightfit.saving.checked import checked
    from rightfit.saving.legacy.reading import translated

    translation = translated(architecture, file.keras_version or "", file.backend or "")
    checked(translation.graph.serialized())


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
