"""The image classifiers of keras.applications as `keras:NAME`: found there, flattened, pixels scaled inside."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import Any

import keras
import numpy as np

from rightfit.errors import UsageError
from rightfit.nets.flat import Flat, Pixels, flatten
from rightfit.nets.layers import channels_last

PREFIX = "keras:"


@cache
def classifiers() -> dict[str, Callable[..., Any]]:
    """Name -> constructor of every classifier in keras.applications."""
    found = {}
    for name, thing in vars(keras.applications).items():
        if inspect.isfunction(thing) and {"include_top", "pooling"} <= set(
            inspect.signature(thing).parameters
        ):
            found[name] = thing
    return dict(sorted(found.items()))


def constructor(name: str) -> Callable[..., Any]:
    """Of `keras:NAME`; UsageError names the nearest when there is none. Upper and lower case matter."""
    wanted, known = name.removeprefix(PREFIX), classifiers()
    if wanted in known:
        return known[wanted]
    lower = {row.lower(): row for row in known}
    near = [lower[row] for row in get_close_matches(wanted.lower(), lower, n=3, cutoff=0.4)] or list(known)[
        :8
    ]
    listed = ", ".join(PREFIX + row for row in near)
    raise UsageError(f"unknown model {name!r}; did you mean {listed}? `rightfit models` lists all")


@channels_last()
def flat(name: str, outputs: int, image_size: tuple[int, int]) -> Flat:
    """`keras:NAME` for images of (height, width) as one flat model; UsageError when they are too small for it.

    Features are those of `NAME(include_top=False, pooling="avg")` on what its module's preprocess_input
    makes of the images; where that turns RGB into BGR, the first kernel's channels are meant turned instead.
    """
    make = constructor(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that no published weights are of
        try:
            source = make(include_top=False, weights=None, pooling="avg", input_shape=(*image_size, 3))
        except ValueError as error:
            raise _too_small(name, image_size, error) from None
    return flatten(source, name.removeprefix(PREFIX), outputs, image_size, preprocessing(name)[0])


def _too_small(name: str, image_size: tuple[int, int], error: ValueError) -> UsageError:
    height, width = image_size
    least = re.search(r"at least (\d+)", str(error))
    if least:
        return UsageError(f"image size {height}x{width}: {name} needs at least {least[1]} px a side")
    reason = (str(error).strip().splitlines() or ["?"])[0]
    return UsageError(f"image size {height}x{width}: {name} cannot be built ({reason}); take a larger one")


@cache
@channels_last()
def preprocessing(name: str) -> tuple[Pixels, bool]:
    """What preprocess_input of the net's module does to (r, g, b): scale and offset of each, and whether it
    then turns them into (b, g, r). Found by trying it on black and on pure colours."""
    function = sys.modules[constructor(name).__module__].preprocess_input
    colours = np.concatenate([np.zeros((1, 3)), 255 * np.eye(3)])
    out = np.asarray(function(colours.reshape(4, 1, 1, 3).astype("float64"))).reshape(4, 3)
    turned = bool(abs(out[1] - out[0]).argmax() == 2)
    if turned:
        out = out[:, ::-1]
    scale = (out[1:] - out[0]) / 255
    if not np.allclose(scale, np.diag(np.diag(scale)), atol=1e-9):
        raise UsageError(f"{name}: its preprocess_input mixes colours, which no layer here does")
    return Pixels(np.diag(scale), out[0]), turned
