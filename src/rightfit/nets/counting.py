"""Keras' layers by name, but they only follow shapes and count: parameters and multiply-adds, in no time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tensor:
    """The shape of a tensor for one image: (None, H, W, C), or (None, C)."""

    shape: tuple[int | None, ...]


Layer = Callable[[Any], Tensor]


class Counter:
    """Stands in for `keras.layers`; the sums are over all layers that were applied."""

    def __init__(self) -> None:
        self.parameters = 0  # trainable
        self.multiply_adds = 0

    def image(self, height: int, width: int) -> Tensor:
        return Tensor((None, height, width, 3))

    def Conv2D(
        self,
        channels: int,
        kernel: int,
        stride: int = 1,
        padding: str = "valid",
        groups: int = 1,
        use_bias: bool = True,
        activation: str | None = None,
        name: str = "",
    ) -> Layer:
        def apply(x: Tensor) -> Tensor:
            _, height, width, before = _sizes(x)
            rows, columns = (_strided(side, kernel, stride, padding) for side in (height, width))
            weights = kernel * kernel * before // groups * channels
            self.parameters += weights + (channels if use_bias else 0)
            self.multiply_adds += weights * rows * columns
            return Tensor((None, rows, columns, channels))

        return apply

    def Dense(self, units: int, name: str = "") -> Layer:
        def apply(x: Tensor) -> Tensor:
            before = x.shape[-1] or 0
            self.parameters += before * units + units
            self.multiply_adds += before * units
            return Tensor((None, units))

        return apply

    def BatchNormalization(self, name: str = "", **settings: Any) -> Layer:
        def apply(x: Tensor) -> Tensor:
            self.parameters += 2 * (x.shape[-1] or 0)
            return x

        return apply

    def ZeroPadding2D(self, margin: int, name: str = "") -> Layer:
        def apply(x: Tensor) -> Tensor:
            _, height, width, channels = _sizes(x)
            return Tensor((None, height + 2 * margin, width + 2 * margin, channels))

        return apply

    def MaxPooling2D(self, size: int, stride: int, padding: str = "valid", name: str = "") -> Layer:
        def apply(x: Tensor) -> Tensor:
            _, height, width, channels = _sizes(x)
            rows, columns = (_strided(side, size, stride, padding) for side in (height, width))
            return Tensor((None, rows, columns, channels))

        return apply

    AveragePooling2D = MaxPooling2D

    def GlobalAveragePooling2D(self, keepdims: bool = False, name: str = "") -> Layer:
        return lambda x: Tensor((None, 1, 1, x.shape[-1]) if keepdims else (None, x.shape[-1]))

    def ReLU(self, name: str = "") -> Layer:
        return lambda x: x

    def Add(self, name: str = "") -> Layer:
        return lambda xs: xs[0]

    Multiply = Add


def _sizes(x: Tensor) -> tuple[None, int, int, int]:
    _, height, width, channels = x.shape
    return None, height or 0, width or 0, channels or 0


def _strided(side: int, kernel: int, stride: int, padding: str) -> int:
    """Places of a window along a side, by TensorFlow's "same" or "valid"."""
    return -(-side // stride) if padding == "same" else (side - kernel) // stride + 1
