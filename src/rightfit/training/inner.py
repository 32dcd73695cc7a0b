"""Looks into a net on training images as they are: its two ways to normalise, and channels that never fire."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from rightfit.evaluation.metrics import image_hits
from rightfit.nets.layers import fused
from rightfit.training.judging import Validation

BATCHES = 20  # at most, by which hits are counted
# Images whose maps are looked at, and how many at a time, as all maps of a net are in memory then.
FIRING, TOGETHER = 64, 8
STREAM = 9  # of random numbers; training/phases.py names where the others are


def hits_by_batch(
    model: keras.Model,
    weights: list[NDArray[Any]],
    precision: str,
    images: Validation,
    batch_size: int,
    label_mode: str,
    seed: int,
    check: Callable[[], None],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places (n,) of some of `images`, and which of their answers are right (n,) where batch normalisation takes the
    mean and variance of a batch of `batch_size` as in training, with nothing left out."""
    twin = _twin(model, weights, precision)
    order = np.random.default_rng([seed, STREAM]).permutation(len(images.rows))
    size = min(batch_size, len(order))
    count = min(BATCHES, len(order) // size) * size
    places = order[:count]
    found = []
    for start in range(0, count, size):
        check()
        some = places[start : start + size]
        with _without_gradients():
            logits = twin(images.images.gather(images.rows[some]), training=True)
        logits = np.asarray(ops.convert_to_numpy(logits), np.float64)
        found.append(image_hits(logits, images.targets[some], label_mode))
    return places, np.concatenate(found)


def dead_share(
    model: keras.Model,
    weights: list[NDArray[Any]],
    images: Validation,
    check: Callable[[], None],
) -> float | None:
    """The share of channels behind a ReLU that are zero everywhere in some of `images`; None without a ReLU."""
    twin = _twin(model, weights)
    outputs = [layer.output for layer in twin.layers if _is_relu(layer) and len(layer.output.shape) == 4]
    if not outputs:
        return None
    looking = keras.Model(twin.input, outputs)
    rows = images.rows[:: max(1, len(images.rows) // FIRING)]
    highest: list[NDArray[Any]] = []
    for start in range(0, len(rows), TOGETHER):
        check()
        with _without_gradients():
            maps = looking(images.images.gather(rows[start : start + TOGETHER]), training=False)
            maps = maps if isinstance(maps, (list, tuple)) else [maps]
            now = [ops.convert_to_numpy(ops.max(found, axis=(0, 1, 2))) for found in maps]
        highest = now if not highest else [np.maximum(a, b) for a, b in zip(highest, now, strict=True)]
    return float(np.mean(np.concatenate(highest) <= 0))


def _without_gradients() -> AbstractContextManager[Any]:
    """PyTorch would keep every map of a net that is called; the others only where they are told to."""
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _is_relu(layer: keras.Layer) -> bool:
    return (
        isinstance(layer, keras.layers.ReLU) or getattr(layer, "activation", None) is keras.activations.relu
    )


def _twin(model: keras.Model, weights: list[NDArray[Any]], precision: str = "float32") -> keras.Model:
    """A copy to run as it stands, which drops nothing."""
    twin = fused(model, precision)
    twin.set_weights(weights)
    for layer in twin.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    return twin
