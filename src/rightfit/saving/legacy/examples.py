"""Inputs that a model takes, made of its own shapes: for comparing two forms of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

COUNT = 4
UNKNOWN = {2: 12, 3: 12, 5: 16}  # a side that the model leaves open, by the tensor's rank


def examples(model: keras.Model, side: int = 48) -> list[Any]:
    """(B, ...) for each input: uniform 0..1, or integers below every vocabulary, as its type asks.

    Images whose size the model leaves open are of `side` pixels.
    """
    generator = np.random.default_rng(0)
    below = _vocabulary(model)
    found = []
    for tensor in model.inputs:
        batch, *rest = tensor.shape
        shape = (batch or COUNT, *(known or UNKNOWN.get(len(tensor.shape), side) for known in rest))
        kind = keras.backend.standardize_dtype(tensor.dtype)
        if "int" in kind or (below and len(shape) == 2 and _feeds_embedding(model, tensor)):
            found.append(generator.integers(0, below or 2, shape).astype(kind))
        else:
            found.append(generator.uniform(0, 1, shape).astype("float32" if "float" in kind else kind))
    return found


def _vocabulary(model: keras.Model) -> int:
    """The smallest vocabulary of any embedding; 0 without one."""
    sizes = [layer.input_dim for layer in _all(model) if isinstance(layer, keras.layers.Embedding)]
    return min(sizes, default=0)


def _feeds_embedding(model: keras.Model, tensor: Any) -> bool:
    readers = [
        layer
        for layer in model.layers
        for node in getattr(layer, "_inbound_nodes", ())
        if any(t is tensor for t in node.input_tensors)
    ]
    return any(isinstance(layer, (keras.layers.Embedding, keras.Model)) for layer in readers)


def _all(model: keras.Model) -> list[Any]:
    found = []
    for layer in model.layers:
        found += _all(layer) if isinstance(layer, keras.Model) else [layer]
    return found
