"""ImageDataGenerator's transforms as pure functions of one image and its parameters.

Each computes what the function of the same name in Keras 2's `preprocessing/image.py` defines, within a
grey level; images are (H, W, C) float32. Affine maps of order 1 run in OpenCV, which gives
SciPy's values to 0.005 grey levels in a twentieth of the time; other orders run in SciPy, as they did.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
PRECISE = (1, 3, 4)  # channels; of others OpenCV is up to 5 grey levels off
FILL_MODES = ("nearest", "constant", "reflect", "wrap")


def affine_matrix(
    height: int, width: int, theta: float, tx: float, ty: float, shear: float, zx: float, zy: float
) -> NDArray[np.float64] | None:
    """(2, 3) from an output pixel's (row, column, 1) to where in the input it is looked up; None for "as it is".

    theta and shear in degrees, tx down and ty right in pixels, zx and zy the sizes that a pixel becomes; turned,
    shifted, sheared and zoomed around the centre, in this order. Keras 2 built the matrix for (x, y) and swapped
    both axes of it, so zx is the zoom of columns and tx the shift of rows stays; that is kept.
    """
    if (theta, tx, ty, shear, zx, zy) == (0, 0, 0, 0, 1, 1):
        return None
    turn, slant = np.deg2rad(theta), np.deg2rad(shear)
    matrix = np.eye(3)
    matrix = matrix @ [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    matrix = matrix @ [[1, 0, tx], [0, 1, ty], [0, 0, 1]]
    matrix = matrix @ [[1, -np.sin(slant), 0], [0, np.cos(slant), 0], [0, 0, 1]]
    matrix = matrix @ np.diag([zx, zy, 1])
    middle = np.array([[1, 0, height / 2 - 0.5], [0, 1, width / 2 - 0.5], [0, 0, 1]])
    matrix = middle @ matrix @ np.linalg.inv(middle)
    return matrix[np.ix_([1, 0], [1, 0, 2])]


def affine(x: Image, matrix: NDArray[np.float64], fill_mode: str, cval: float, order: int) -> Image:
    """`x` looked up through `affine_matrix`; beyond its edges as SciPy's modes of these names."""
    if order != 1:
        return _spline(x, matrix, fill_mode, cval, order)
    if x.shape[-1] not in PRECISE:
        channels = [np.ascontiguousarray(x[..., c : c + 1]) for c in range(x.shape[-1])]
        return np.concatenate([affine(c, matrix, fill_mode, cval, order) for c in channels], axis=-1)
    rows, columns = matrix
    for_opencv = np.array([[columns[1], columns[0], columns[2]], [rows[1], rows[0], rows[2]]])
    height, width, channels = x.shape
    if fill_mode == "wrap":
        places = _places(matrix, height, width)
        down, right = _wrapped(places[0], height), _wrapped(places[1], width)
        found = cv2.remap(
            x, right.astype(np.float32), down.astype(np.float32), cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE
        )
    else:
        border = cv2.BORDER_REFLECT if fill_mode == "reflect" else cv2.BORDER_REPLICATE
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        found = cv2.warpAffine(x, for_opencv, (width, height), None, flags, border)
    found = np.asarray(found, np.float32).reshape(height, width, channels)
    if fill_mode == "constant":
        down, right = _places(matrix, height, width)
        found[(down < 0) | (down > height - 1) | (right < 0) | (right > width - 1)] = cval
    return found


def _places(matrix: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """(2, H, W): row and column in the input of each output pixel."""
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    return np.stack([a * rows + b * columns + c for a, b, c in matrix])


def _wrapped(place: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Into 0..length-1 with that period: the first and last pixel count as one, in SciPy's "wrap"."""
    period = max(length - 1, 1)
    below, above = place < 0, place > length - 1
    place = np.where(below, place + period * (np.trunc(-place / period) + 1), place)
    return np.where(above, place - period * np.trunc(place / period), place).clip(0, length - 1)


def _spline(x: Image, matrix: NDArray[np.float64], fill_mode: str, cval: float, order: int) -> Image:
    from scipy.ndimage import affine_transform

    def channel(values: Any) -> Any:
        return affine_transform(
            values, matrix[:, :2], matrix[:, 2], order=order, mode=fill_mode, cval=cval, output=np.float32
        )

    return np.stack([channel(x[..., c]) for c in range(x.shape[-1])], axis=-1)


def channel_shift(x: Image, intensity: float) -> Image:
    """Every channel moved by `intensity`, within the image's own range."""
    return np.clip(x + np.float32(intensity), x.min(), x.max())


def brightness_shift(x: Image, brightness: float) -> Image:
    """Pillow's ImageEnhance.Brightness on whole grey levels; values beyond 0..255 are scaled into it and back."""
    low, high = float(x.min()), float(x.max())
    scaled = low < 0 or high > 255
    if scaled:
        x = (x - low) * np.float32(255 / ((high - low) or 1))
    levels = np.trunc(x)
    colours = levels[..., :3]
    colours[:] = np.trunc(np.clip(colours * np.float32(brightness), 0, 255))
    if scaled:
        levels = levels * np.float32((high - low) / 255) + np.float32(low)
    return levels.astype(np.float32, copy=False)


def flipped(x: Image, horizontal: bool, vertical: bool) -> Image:
    return x[:: -1 if vertical else 1, :: -1 if horizontal else 1]
