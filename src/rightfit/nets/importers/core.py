"""The bookkeeping every importer shares: each foreign tensor is taken once, and none is left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import ModelFileError, RightfitError

Array = NDArray[Any]


class WeightsError(RightfitError):
    """A weights file does not fit the net it was meant for, or cannot be read."""


@contextmanager
def as_weights() -> Iterator[None]:
    """What `rightfit.formats` says of a file, as the WeightsError of whoever asked for its weights."""
    try:
        yield
    except ModelFileError as error:
        raise WeightsError(str(error)) from error


def single(array: Array) -> Array:
    """Two-byte and narrower floats as float32, bfloat16 among them (to NumPy of kind V)."""
    return array.astype(np.float32) if array.dtype.kind in "fV" and array.dtype.itemsize < 4 else array


class Tensors:
    """A file's tensors by name; remembers which were taken.

    `ignored` are patterns (re.fullmatch) of names that are no weights of the net: step counters,
    optimizer slots and the like. Everything else must be taken.
    """

    def __init__(self, tensors: Mapping[str, Array], ignored: Iterable[str] = ()) -> None:
        self.tensors = dict(tensors)
        self.ignored = [re.compile(pattern) for pattern in ignored]
        self.taken: set[str] = set()
        self.missing: list[str] = []
        self.missing_head: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def take(self, name: str, head: bool = False) -> Array | None:
        """The tensor; None, and remembered as missing, when there is none of that name.

        `head` marks a tensor of the last layer, which `checked` may do without.
        """
        if name not in self.tensors:
            (self.missing_head if head else self.missing).append(name)
            return None
        self.taken.add(name)
        return self.tensors[name]

    def left_over(self) -> list[str]:
        return [
            name
            for name in self.tensors
            if name not in self.taken and not any(pattern.fullmatch(name) for pattern in self.ignored)
        ]


# (our names, the file's tensors) -> our weights by name; a name that could not be had is absent.
Translate = Callable[[list[str], Tensors], dict[str, Array]]


def checked(
    ours: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    translate: Translate,
    source: str,
    head: bool = True,
) -> dict[str, Array]:
    """Translate and prove complete: float32 arrays for every name of `ours` (name -> shape).

    With `head` false, `logits/...` may have another shape or be missing, and is left out then.
    WeightsError names the first three of whatever is missing, left over or of another shape.
    """
    found = translate(list(ours), tensors)
    missing = tensors.missing + (tensors.missing_head if head else [])
    problems = [f"{name} is missing from the file" for name in missing]
    weights: dict[str, Array] = {}
    for name, shape in ours.items():
        needed = head or not name.startswith("logits/")
        if name not in found:
            problems += [f"nothing in the file is our {name}"] if needed and not missing else []
        elif found[name].shape == tuple(shape):
            weights[name] = np.ascontiguousarray(found[name], np.float32)
        elif needed:
            problems.append(f"{name} has shape {found[name].shape} in the file, {tuple(shape)} in the net")
    problems += [f"{name} is left over in the file" for name in tensors.left_over()]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise WeightsError(f"{source} does not fit: {'; '.join(problems[:3])}{more}")
    return weights
