"""Recurrent layers of Keras 1 and 2: gates, their order, cuDNN's layout and the hard sigmoid."""

from __future__ import annotations

from typing import Any

import numpy as np

from rightfit.errors import ArchitectureError
from rightfit.saving.legacy.graph import Array, Recipe
from rightfit.saving.legacy.kernels import HARD_SIGMOID

# Gates along the last axis of every array, and which of them the recurrent activation shuts.
GATES = {"LSTM": (4, (0, 1, 3)), "GRU": (3, (0, 1)), "ConvLSTM": (4, (0, 1, 3))}
LAYERS = (
    "SimpleRNN", "SimpleRNNCell", "LSTM", "LSTMCell", "GRU", "GRUCell", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D",
)  # fmt: skip


def settle(old: str, new: str, found: dict[str, Any], keras: int) -> None:
    """What Keras 3 would take for granted otherwise than the library that wrote the file."""
    if new in ("GRU", "GRUCell") and keras < 3:
        found.setdefault("reset_after", old == "CuDNNGRU")
    if old.startswith("CuDNN"):
        found |= {"activation": "tanh", "recurrent_activation": "sigmoid"}


def recipes(new: str, name: str, found: dict[str, Any], keras: int) -> list[Recipe]:
    """[] or the step that makes Keras 3's hard sigmoid give Keras 2's values."""
    if keras >= 3:
        return []
    if found.get("activation") == "hard_sigmoid":
        raise ArchitectureError(f"{name}: a hard sigmoid of its state computes something else in Keras 3")
    if found.get("recurrent_activation") != "hard_sigmoid":
        return []
    gates, shut = GATES[next(kind for kind in ("ConvLSTM", "LSTM", "GRU") if new.startswith(kind))]

    def recipe(arrays: list[Array]) -> list[Array]:
        scaled = []
        for array in arrays:
            parts = np.split(array, gates, axis=-1)
            parts = [part * HARD_SIGMOID if place in shut else part for place, part in enumerate(parts)]
            scaled.append(np.concatenate(parts, axis=-1).astype(array.dtype))
        return scaled

    return [recipe]


def from_cudnn(gates: int) -> Recipe:
    """cuDNN keeps each gate's kernels transposed, and two biases of each gate: GRU keeps them, LSTM adds them."""

    def recipe(arrays: list[Array]) -> list[Array]:
        kernel, recurrent, bias = arrays
        if bias.ndim != 1 or bias.shape[0] != 2 * recurrent.shape[1]:
            return arrays  # Keras writes LSTM's own layout where it ran without cuDNN
        kernel = np.hstack([part.T.reshape(part.shape, order="F") for part in np.hsplit(kernel, gates)])
        recurrent = np.hstack([part.T for part in np.hsplit(recurrent, gates)])
        halves = bias.reshape(2, -1)
        return [kernel, recurrent, halves.sum(axis=0) if gates == 4 else halves]

    return recipe


def gathered(gates: int) -> Recipe:
    """Keras 1 kept a kernel, a recurrent kernel and a bias for each gate: LSTM i, c, f, o; GRU z, r, h."""
    order = (0, 2, 1, 3) if gates == 4 else (0, 1, 2)

    def recipe(arrays: list[Array]) -> list[Array]:
        if len(arrays) != 3 * gates:
            return arrays  # consume_less="gpu" kept them together, in Keras 2's order
        return [np.concatenate([arrays[3 * gate + part] for gate in order], axis=-1) for part in range(3)]

    return recipe
