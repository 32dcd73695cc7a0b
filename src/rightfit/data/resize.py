"""Pixels of any size in, a picture of the asked size out: cropped, padded or stretched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rightfit.errors import UsageError

Pixels = npt.NDArray[np.uint8]

RESIZES = ("crop", "pad", "stretch")


@dataclass(frozen=True)
class ImageSpec:
    """The picture asked for, in pixels.

    `crop` fits the short side and cuts the centre, `pad` fits the long side and adds black bars,
    `stretch` changes the aspect.
    """

    height: int
    width: int
    resize: str = "crop"

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UsageError(f"image size {self.height} x {self.width}: both sides must be at least 1 pixel")
        if self.resize not in RESIZES:
            raise UsageError(f"resize {self.resize!r}: choose one of {', '.join(RESIZES)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3


def fit(pixels: Pixels, spec: ImageSpec) -> Pixels:
    """(H, W, 3) uint8 of any size -> (spec.height, spec.width, 3), cropped, padded or stretched."""
    h, w = pixels.shape[:2]
    if spec.resize == "stretch":
        return np.ascontiguousarray(_scale(pixels, spec.height, spec.width))
    if spec.resize == "crop":
        scale = max(spec.height / h, spec.width / w)
        # At most four times what is kept is scaled: a 1 x 60,000 strip is never enlarged whole.
        pixels = _middle(pixels, math.ceil(4 * spec.height / scale), math.ceil(4 * spec.width / scale))
        h, w = pixels.shape[:2]
        pixels = _scale(pixels, max(spec.height, round(h * scale)), max(spec.width, round(w * scale)))
        return np.ascontiguousarray(_middle(pixels, spec.height, spec.width))
    rows, columns = inside(h, w, spec)
    top, left = (spec.height - rows) // 2, (spec.width - columns) // 2
    framed = np.zeros((spec.height, spec.width, 3), np.uint8)
    framed[top : top + rows, left : left + columns] = _scale(pixels, rows, columns)
    return framed


def _middle(pixels: Pixels, height: int, width: int) -> Pixels:
    """The centre of at most (height, width)."""
    top, left = max(0, pixels.shape[0] - height) // 2, max(0, pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def inside(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """The largest (rows, columns) of the same aspect that fit in the asked size."""
    scale = min(spec.height / height, spec.width / width)
    return (
        min(spec.height, max(1, round(height * scale))),
        min(spec.width, max(1, round(width * scale))),
    )


def _scale(pixels: Pixels, height: int, width: int) -> Pixels:
    """Sides that shrink are averaged first, sides that grow are interpolated after."""
    h, w = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    if (h, w) != pixels.shape[:2]:
        pixels = np.asarray(cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
    if (h, w) != (height, width):
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return pixels
