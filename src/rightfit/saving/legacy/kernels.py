"""How one layer's arrays are turned so that Keras 3 computes with them what the older library did."""

from __future__ import annotations

import numpy as np

from rightfit.saving.legacy.graph import Array, Recipe

# Keras 1 and 2: clip(0.2 x + 0.5, 0, 1); Keras 3: clip(x / 6 + 0.5, 0, 1). So x grows by 6 / 5.
HARD_SIGMOID = 1.2


def turned(kernels: int) -> Recipe:
    """Theano convolves, all others correlate: the first `kernels` arrays are flipped along their space."""

    def recipe(arrays: list[Array]) -> list[Array]:
        return [flipped(array) for array in arrays[:kernels]] + arrays[kernels:]

    return recipe


def flipped(kernel: Array) -> Array:
    """(*space, in, out) -> the same, read backwards along each axis of space."""
    return np.ascontiguousarray(kernel[(slice(None, None, -1),) * (kernel.ndim - 2)])


def for_hard_sigmoid(first: int = 0) -> Recipe:
    """Kernel and bias, from array `first` on, grow so that Keras 3's hard sigmoid gives Keras 2's values."""

    def recipe(arrays: list[Array]) -> list[Array]:
        return arrays[:first] + [(array * HARD_SIGMOID).astype(array.dtype) for array in arrays[first:]]

    return recipe


def from_keras1(spatial: int, channels_first: bool, transposed: bool = False) -> Recipe:
    """Keras 1's kernels, (out, in, *space) where channels come first, as (*space, in, out)."""

    def recipe(arrays: list[Array]) -> list[Array]:
        kernel = arrays[0]
        if channels_first:
            ends = (0, 1) if transposed else (1, 0)
            kernel = np.transpose(kernel, (*range(2, 2 + spatial), *ends))
        elif transposed:
            kernel = np.swapaxes(kernel, -1, -2)
        return [np.ascontiguousarray(kernel), *arrays[1:]]

    return recipe


def row_from_keras1(filters: int, length: int) -> Recipe:
    """Keras 1's Conv1D kept (length, 1, in, out), and before 1.2 (out, in, length, 1)."""

    def recipe(arrays: list[Array]) -> list[Array]:
        kernel = arrays[0]
        if kernel.ndim == 4 and (kernel.shape[:2] != (length, 1) or kernel.shape[3] != filters):
            kernel = np.transpose(kernel, (2, 3, 1, 0))
        return [np.ascontiguousarray(kernel[:, 0]) if kernel.ndim == 4 else kernel, *arrays[1:]]

    return recipe
