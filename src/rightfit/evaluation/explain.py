"""A model, images and a class of each in; where in the image its logit comes from out: heat maps, checked by occlusion.

Grad-CAM and Grad-CAM++ weigh the channels of an inner map by the gradient of the logit. Occlusion covers parts
of the image and needs no gradient, so the one is a check of the other.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.errors import UsageError
from rightfit.evaluation.infer import logits_of
from rightfit.evaluation.inner_map import GRADIENT_METHODS, InnerMap

Floats = NDArray[np.float32]
METHODS = (*GRADIENT_METHODS, "occlusion")


def heat_maps(
    model: keras.Model,
    images: NDArray[np.uint8],
    outputs: NDArray[np.int64],
    method: str = "grad-cam",
    layer: str | None = None,
    signs: Floats | None = None,
    batch_size: int = 32,
) -> Floats:
    """(B, H, W) float32 in 0..1, the largest of each map 1: what in `images` speaks for the logit.

    `images` (B, H, W, 3) uint8; `outputs` (B,) the logit that is explained for each; `signs` (B,) +1, or -1
    where its negative is, as for the first of two classes (`logits_for`). `method` is "grad-cam" (Selvaraju
    et al. 2017) or "grad-cam++" (Chattopadhay et al. 2018). `layer` gives the map, by default the last before
    the pooling. A map that nothing speaks for is 0 everywhere. Raises UsageError for a method or a layer that
    cannot be explained by.
    """
    return InnerMap(model, layer).heat_maps(images, outputs, method, signs, batch_size)


def logits_for(classes: NDArray[np.int64], label_mode: str) -> tuple[NDArray[np.int64], Floats]:
    """Classes (N,) -> the logit (N,) that is each class's and its sign (N,): two classes share one logit, which
    speaks against the first."""
    ones = np.ones(len(classes), np.float32)
    if label_mode == "binary":
        return np.zeros(len(classes), np.int64), np.where(classes == 1, ones, -ones)
    return classes, ones


def occlusion_maps(
    model: keras.Model,
    images: NDArray[np.uint8],
    outputs: NDArray[np.int64],
    signs: Floats | None = None,
    size: int | None = None,
    stride: int | None = None,
    batch_size: int = 32,
) -> Floats:
    """(B, H, W) float32: by how much the logit falls where a patch covers the pixel, the mean over such patches.

    Zeiler and Fergus 2014, section 4.2. Patches of `size` px a side, `stride` px apart, in the mean colour of
    their image; by default a quarter of the short side, and half of that: about 50 patches of a square image.
    `images`, `outputs` and `signs` as in `heat_maps`. Negative where the logit rises: what is covered spoke
    against it. Raises UsageError for a size or stride that leaves pixels uncovered.
    """
    height, width = images.shape[1:3]
    size = max(1, min(height, width) // 4) if size is None else size
    stride = max(1, size // 2) if stride is None else stride
    if not 1 <= stride <= size <= min(height, width):
        raise UsageError(
            f"patches of {size} px, {stride} px apart, do not cover {height}x{width} px; "
            "the stride is at most the size, and the size at most the short side"
        )
    places = [(y, x) for y in _starts(height, size, stride) for x in _starts(width, size, stride)]
    rows = np.arange(len(images))
    signs = np.ones(len(images), np.float32) if signs is None else signs
    whole = [
        logits_of(model, images[s : s + batch_size], batch_size) for s in range(0, len(images), batch_size)
    ]
    before = np.concatenate(whole)[rows, outputs] if whole else np.empty(0, np.float32)
    colours = images.mean(axis=(1, 2)).round().astype(np.uint8)
    drops = np.zeros((len(images), height, width), np.float64)
    covered = np.zeros((height, width))
    for y, x in places:
        covered[y : y + size, x : x + size] += 1
    for start in range(0, len(images) * len(places), batch_size):
        pairs = [
            divmod(n, len(places)) for n in range(start, min(start + batch_size, len(images) * len(places)))
        ]
        batch = images[[image for image, _ in pairs]]
        for patched, (image, place) in zip(batch, pairs, strict=True):
            y, x = places[place]
            patched[y : y + size, x : x + size] = colours[image]
        logits = logits_of(model, batch, batch_size)
        for row, (image, place) in zip(logits, pairs, strict=True):
            y, x = places[place]
            drops[image, y : y + size, x : x + size] += signs[image] * (before[image] - row[outputs[image]])
    return (drops / covered).astype(np.float32)


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Where patches start, so that the last ends with the image."""
    return sorted({*range(0, length - size + 1, stride), length - size})
