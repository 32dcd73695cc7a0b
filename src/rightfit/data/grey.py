"""A loaded picture of 12 to 32 bits of grey in, 8 bits a pixel out, in little more memory than the picture itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from rightfit.data.resize import Pixels

AT_A_TIME = 2**18  # pixels that are scaled at a time


def eight_bits(image: ImageFile) -> Pixels:
    """(H, W) of 12- and 16-bit grey over the full scale, of 32-bit integers and floats over their own range."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    values = np.asarray(image)
    kind: type[np.floating[Any]]
    if image.mode.startswith("I;16"):
        kind, low, high = np.float32, 0.0, float(2 ** tags.get(258, (16,))[0] - 1)  # BitsPerSample
    else:
        kind, (low, high) = np.float64, _range(values)
    white_is_zero = tags.get(262) == 0  # PhotometricInterpretation, which Pillow applies to 8 bits only
    grey = np.empty(values.size, np.uint8)
    for start, some in _parts(values):  # the whole picture as float64 takes far more than its file
        some = some.astype(kind)
        scaled = (np.where(np.isfinite(some), some, low) - low) * (255.0 / ((high - low) or 1.0))
        if white_is_zero:
            scaled = 255.0 - scaled
        grey[start : start + len(some)] = np.rint(scaled).astype(np.uint8)
    return grey.reshape(values.shape)


def _range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The least and the largest finite value; 0 and 0 where there is none."""
    finite = (some[np.isfinite(some)] for _, some in _parts(values))
    ends = [(float(some.min()), float(some.max())) for some in finite if len(some)]
    return (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 0.0)


def _parts(values: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(H, W) -> (start, so many of its pixels), in their order."""
    flat = values.reshape(-1)
    return ((start, flat[start : start + AT_A_TIME]) for start in range(0, len(flat), AT_A_TIME))
