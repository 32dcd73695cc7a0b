"""Weights files for another library's net that we hold flat: by name, or for Keras' old `.h5` by its order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rightfit.formats.model_file import opened
from rightfit.nets.flat import Flat, Slot, counted
from rightfit.nets.importers.core import Array, WeightsError, as_weights
from rightfit.nets.importers.files import read
from rightfit.nets.importers.files_keras import is_legacy
from rightfit.nets.variants import DEVIATION, MEAN

MOST_OF_A_HEAD = 6  # tensors after the features: VGG has three dense layers there
HEAD = ("logits/kernel", "logits/bias")
FIRST = "normalise"  # the layer that tells our files from other nets whose last layer is called logits, too


def bring(
    path: str | Path, made: Flat, outputs: int | None, turned: bool, name: str
) -> tuple[str, dict[str, Array]]:
    """Where the file comes from, and its float32 tensors by our `layer/variable`.

    Safetensors, `.keras` and `.weights.h5` go by name; the old `.h5` layer by layer in the order in which
    Keras stores a model, as Keras itself does. `turned`: the other library's net sees blue, green, red, so
    its first kernel's channels are turned. Our own last layer is kept if it has `outputs` (any, if None);
    another's is left out, and nothing else may be left over.
    WeightsError names the first three tensors that do not fit.
    """
    path = Path(path)
    kind, tensors = read(path, by_index=True)
    if kind not in ("keras", "safetensors"):
        raise WeightsError(
            f"{path}: {name} takes .safetensors, .keras, .weights.h5 or Keras' .h5, not {kind}"
        )
    keys: Sequence[str | None]
    if kind == "safetensors":
        keys, heads = [slot.ours for slot in made.slots], HEAD
        problems, rest = _by_name(keys, made, tensors)
    elif is_legacy(path):
        keys, heads = list(tensors)[: len(made.slots)], HEAD
        problems, rest = _by_order(made.slots, tensors)
    else:
        indexed, heads = _indexed(made.slots), ("logits/0", "logits/1")
        keys, tensors = indexed, _with_names_of(indexed, tensors)
        problems, rest = _by_name(keys, made, tensors)
    has_head = set(heads) <= set(rest) and tensors[heads[0]].ndim == 2
    own = kind == "safetensors" or (has_head and _names_layer(path, FIRST))
    rest = [n for n in rest if n not in heads] if own else rest
    if own or len(rest) > MOST_OF_A_HEAD or not all(_of_a_head(tensors[n]) for n in rest):
        problems += [f"{n} is left over in the file" for n in rest]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"{path} does not fit {name}: {'; '.join(problems[:3])}{more}")
    found = {slot: tensors[key] for slot, key in zip(made.slots, keys, strict=True) if key is not None}
    _check_pixels(found, f"{path}: {name}")
    shapes = made.shapes()
    weights = {s.ours: tensor.reshape(shapes[s.ours]) for s, tensor in found.items() if s.ours}
    if turned and not own:
        first = next(n for n in weights if n.endswith("/kernel"))
        weights[first] = weights[first][:, :, ::-1]
    if own and has_head and outputs in (None, len(tensors[heads[1]])):
        weights |= {ours: tensors[theirs] for ours, theirs in zip(HEAD, heads, strict=True)}
    source = "rightfit" if own else "keras.applications" if name.startswith("keras:") else "KerasHub"
    return source, {n: np.ascontiguousarray(tensor, np.float32) for n, tensor in weights.items()}


def _names_layer(path: Path, name: str) -> bool:
    """Whether Keras' file has the layer, of which it may keep the name alone."""
    with as_weights(), opened(path) as file:
        return any(
            name in (group.rpartition("/")[2], beside.get("name"))
            for group, beside in file.attributes.items()
        )


def _of_a_head(tensor: Array) -> bool:
    """Of a dense layer, a convolution over a map of one pixel, or of what belongs to these: no filter has a size."""
    return tensor.ndim < 4 or tensor.shape[:2] == (1, 1)


def _indexed(slots: Sequence[Slot]) -> list[str]:
    """layer/0, layer/1, ...: what `files_keras` calls each slot's tensor in a file of Keras 3."""
    seen: Counter[str] = Counter()
    keys = []
    for slot in slots:
        layer = slot.theirs.rpartition("/")[0]
        keys.append(f"{layer}/{seen[layer]}")
        seen[layer] += 1
    return keys


def _with_names_of(keys: Sequence[str], tensors: dict[str, Array]) -> dict[str, Array]:
    """The tensors by our names, where names in the file came from counters that had run on."""
    if set(keys) <= set(tensors):
        return tensors
    ours, theirs = ({n.rpartition("/")[0] for n in names} for names in (keys, tensors))
    back = {count: name for name, count in counted(ours).items()}
    name = {stored: back.get(count, stored) for stored, count in counted(theirs).items()}
    again = {f"{name[n.rpartition('/')[0]]}/{n.rpartition('/')[2]}": tensor for n, tensor in tensors.items()}
    return again if set(keys) <= set(again) else tensors


def _by_name(
    keys: Sequence[str | None], made: Flat, tensors: Mapping[str, Array]
) -> tuple[list[str], list[str]]:
    """What does not fit, in words; and the file's tensors that nothing asked for."""
    problems = []
    shapes = made.shapes()
    for slot, key in zip(made.slots, keys, strict=True):
        if key is None:
            continue
        wanted = {slot.shape, shapes[slot.ours] if slot.ours else slot.shape}
        if key not in tensors:
            problems.append(f"{key} is missing from the file")
        elif tensors[key].shape not in wanted:
            problems.append(f"{key} has shape {tensors[key].shape} in the file, {slot.shape} in the net")
    asked = set(keys)
    return problems, [n for n in tensors if n not in asked]


def _by_order(slots: Sequence[Slot], tensors: Mapping[str, Array]) -> tuple[list[str], list[str]]:
    problems = [
        f"{stored} of shape {tensor.shape} stands where {slot.theirs} of shape {slot.shape} belongs"
        for slot, (stored, tensor) in zip(slots, tensors.items(), strict=False)
        if tensor.shape != slot.shape
    ]
    problems += [f"{slot.theirs} is missing from the file" for slot in slots[len(tensors) :]]
    return problems, list(tensors)[len(slots) :]


def _check_pixels(found: Mapping[Slot, Array], place: str) -> None:
    """Statistics that a normalisation in the file was adapted to must be those our net holds as constants."""
    wanted = {"mean": np.array(MEAN) / 255, "variance": np.array(DEVIATION) / 255}  # as Keras stores them
    for slot, tensor in found.items():
        expected = wanted.get(slot.theirs.rpartition("/")[2]) if slot.ours is None else None
        if expected is not None and not np.allclose(tensor, expected, rtol=0, atol=1e-3):
            raise WeightsError(
                f"{place} normalises pixels by ImageNet's mean and deviation, the file's {slot.theirs} is "
                f"{np.round(tensor, 4).tolist()}; its weights belong to another scale of pixels"
            )
