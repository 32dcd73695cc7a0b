"""A model in; one of its layers' maps and the gradient of logits by it, on each backend, out.

A model is split at a layer that all of its logits come from; models within it are taken apart.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.errors import UsageError
from rightfit.evaluation.heat import grad_cam, grad_cam_plus_plus, normalised, upsampled
from rightfit.memory import is_short

Floats = NDArray[np.float32]
GRADIENT_METHODS = ("grad-cam", "grad-cam++")


class InnerMap:
    """A layer's output within a model, and the gradient of logits by it; compiled once for each size of batch."""

    def __init__(self, model: keras.Model, layer: str | None = None) -> None:
        """`layer` as in `heat_maps`. Raises UsageError that names layers that can be taken."""
        flat = _flat(model)
        maps = _bottlenecks(flat)
        if layer is None:
            if not maps:
                raise UsageError(
                    f"{model.name} has no inner map (B, H, W, C) that all of its logits come from"
                )
            layer = list(maps)[-1]
        elif layer not in maps:
            raise UsageError(f"{model.name}: {_why_not(flat, layer)}; take {_some(maps)}")
        self.layer = layer
        self.size: tuple[int, int] = tuple(maps[layer].shape[1:3])
        self.outputs: int = model.output_shape[-1]
        below = keras.Model(flat.inputs[0], maps[layer])
        above = keras.Model(maps[layer], flat.outputs[0])
        self._compute = _GRADIENTS[keras.backend.backend()](below, above)

    def heat_maps(
        self,
        images: NDArray[np.uint8],
        outputs: NDArray[np.int64],
        method: str = "grad-cam",
        signs: Floats | None = None,
        batch_size: int = 32,
    ) -> Floats:
        """As the function `heat_maps`, with the layer that was given."""
        if method not in GRADIENT_METHODS:
            raise UsageError(f"unknown method {method!r}; there are {', '.join(GRADIENT_METHODS)}")
        weigh = grad_cam if method == "grad-cam" else grad_cam_plus_plus
        height, width = images.shape[1:3]
        asked = np.eye(self.outputs, dtype=np.float32)[outputs]
        if signs is not None:
            asked = asked * signs[:, None]
        heat = np.empty((len(images), height, width), np.float32)
        done = 0
        for maps, gradients in self.gradients(images, asked, batch_size):
            found = normalised(upsampled(weigh(maps, gradients), height, width))
            heat[done : done + len(found)] = found
            done += len(found)
        return heat

    def gradients(
        self, images: NDArray[np.uint8], asked: Floats, batch_size: int
    ) -> Iterator[tuple[Floats, Floats]]:
        """For batches of `images`: the map (b, h, w, C), and the gradient by it of the sum of logits times
        `asked` (B, outputs); in halves where memory is too short for the whole batch."""
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            try:
                found = self._at_once(images[part], asked[part], batch_size)
            except Exception as error:  # each backend has a type of its own for memory
                if batch_size == 1 or not is_short(error):
                    raise
            else:
                yield found
                continue
            gc.collect()  # as in infer.py: what failed is held by cycles
            yield from self.gradients(images[part], asked[part], -(-batch_size // 2))

    def _at_once(self, images: NDArray[np.uint8], asked: Floats, batch_size: int) -> tuple[Floats, Floats]:
        """A short batch is filled up, so one shape is compiled only."""
        count = len(images)
        filled = np.zeros((batch_size, *images.shape[1:]), np.float32)
        filled[:count] = images
        wanted = np.zeros((batch_size, self.outputs), np.float32)
        wanted[:count] = asked
        maps, gradients = self._compute(filled, wanted)
        return np.asarray(maps, np.float32)[:count], np.asarray(gradients, np.float32)[:count]


# The model as a graph -------------------------------------------------------------------------------


def _flat(model: keras.Model) -> Any:
    """The same layers as one functional graph, models within it taken apart."""
    model = _functional(model)
    if not any(isinstance(layer, keras.Model) for layer in model.layers):
        return model

    def inside(operation: Any) -> Any:
        return functools.partial(through, operation) if isinstance(operation, keras.Model) else operation

    def through(source: Any, x: Any, **_: Any) -> Any:  # Keras gives masks, which images have not
        return _functional(source)._run_through_graph(x, operation_fn=inside)

    image = keras.Input(model.input_shape[1:], dtype="float32")
    return keras.Model(image, keras.tree.flatten(through(model, image))[0], name=model.name)


def _functional(model: keras.Model) -> Any:
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0])
    if not hasattr(model, "_nodes_by_depth"):
        raise UsageError(f"{model.name} is no functional model, so no layer of it can be looked into")
    return model


def _bottlenecks(model: Any) -> dict[str, Any]:
    """Layer -> its map (B, h, w, C), of more than one place, that the logits depend on the image through alone,
    in their order; the last is what the layer "pool" reads, where it has several places."""
    levels = model._nodes_by_depth
    nodes = [node for depth in sorted(levels, reverse=True) for node in levels[depth]]
    last = {id(tensor): place for place, node in enumerate(nodes) for tensor in node.input_tensors}
    found: dict[str, Any] = {}
    alive: set[int] = set()  # tensors that a later layer reads
    for place, node in enumerate(nodes):
        alive = {t for t in alive if last[t] > place} | {id(t) for t in node.output_tensors if id(t) in last}
        (output,) = node.output_tensors if len(node.output_tensors) == 1 else (None,)
        if isinstance(node.operation, keras.layers.InputLayer) or output is None or alive != {id(output)}:
            continue
        if len(output.shape) == 4 and None not in output.shape[1:] and output.shape[1] * output.shape[2] > 1:
            found[node.operation.name] = output
    return found


def _why_not(model: Any, layer: str) -> str:
    names = {operation.name: operation for operation in model.operations}
    if layer not in names:
        return f"no layer is called {layer!r}"
    shape = tuple(names[layer].output.shape) if not isinstance(names[layer].output, list) else ()
    if len(shape) != 4 or shape[1] * shape[2] == 1:
        return f"the output of {layer} is no map (B, H, W, C) of several places"
    return f"not all that the logits come from goes through {layer}"


def _some(maps: dict[str, Any]) -> str:
    """The last layer of each size of map, but for the image's own."""
    last = {tuple(tensor.shape[1:3]): name for name, tensor in maps.items()}
    return ", ".join(list(last.values())[-4:]) or "another model: none of its layers can be"


# The gradient of each backend: (images (B, H, W, 3) float32, asked (B, outputs)) -> map, gradient ----


def _by_tensorflow(below: Any, above: Any) -> Any:
    import tensorflow as tf

    def compute(images: Any, asked: Any) -> Any:
        maps = below(images, training=False)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            score = tf.reduce_sum(tf.cast(above(maps, training=False), tf.float32) * asked)
        return tf.cast(maps, tf.float32), tf.cast(tape.gradient(score, maps), tf.float32)

    # XLA on CPU is slow at convolutions; the plain graph takes oneDNN's kernels.
    compiled = tf.function(compute, jit_compile=False, autograph=False)
    return lambda images, asked: [t.numpy() for t in compiled(tf.constant(images), tf.constant(asked))]


def _by_torch(below: Any, above: Any) -> Any:
    import torch

    def compute(images: Any, asked: Any) -> Any:
        with torch.no_grad():
            maps = below(keras.ops.convert_to_tensor(images), training=False)
        maps = maps.detach().requires_grad_()
        with torch.enable_grad():
            score = (above(maps, training=False).float() * keras.ops.convert_to_tensor(asked)).sum()
            (gradient,) = torch.autograd.grad(score, maps)
        return [t.detach().float().cpu().numpy() for t in (maps, gradient)]

    return compute


def _by_jax(below: Any, above: Any) -> Any:
    import jax

    def values(model: Any) -> Any:
        return [
            [v.value for v in group] for group in (model.trainable_variables, model.non_trainable_variables)
        ]

    def score(maps: Any, state: Any, asked: Any) -> Any:
        logits, _ = above.stateless_call(*state, maps, training=False)
        return (logits.astype("float32") * asked).sum()

    @jax.jit
    def compute(states: Any, images: Any, asked: Any) -> Any:
        maps, _ = below.stateless_call(*states[0], images, training=False)
        return maps.astype("float32"), jax.grad(score)(maps, states[1], asked).astype("float32")

    return lambda images, asked: compute((values(below), values(above)), images, asked)


_GRADIENTS = {"tensorflow": _by_tensorflow, "torch": _by_torch, "jax": _by_jax}
