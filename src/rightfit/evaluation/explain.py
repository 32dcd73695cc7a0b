"""A model, images and a class of each in; where in the image its logit comes from out: heat maps, checked by occlusion.

Grad-CAM and Grad-CAM++ weigh the channels of an inner map by the gradient of the logit. Occlusion covers parts
of the image and needs no gradient, so the one is a check of the other.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.errors import UsageError
from rightfit.evaluation.infer import logits_of
from rightfit.memory import is_short

Floats = NDArray[np.float32]
GRADIENT_METHODS = ("grad-cam", "grad-cam++")
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


def grad_cam(maps: Floats, gradients: Floats) -> Floats:
    """(B, h, w, C) twice -> (B, h, w): channels weighed by their mean gradient, what is negative cut off.

    Selvaraju et al. 2017, equations 1 and 2.
    """
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return np.maximum((maps * weights).sum(axis=3), 0)


def grad_cam_plus_plus(maps: Floats, gradients: Floats) -> Floats:
    """(B, h, w, C) twice -> (B, h, w): channels weighed by their positive gradients, each place by its alpha.

    Chattopadhay et al. 2018, equations 10 and 19, of the score exp(logit), whose factor drops out of a map
    that is normalised: alpha = g^2 / (2 g^2 + g^3 sum(A)) = 1 / (2 + g sum(A)), which a small g does not
    divide by 0. The paper's maps follow a ReLU; where a map does not, its negative values are left out of
    the sum, which else could bring the denominator to 0.
    """
    positive = np.maximum(gradients, 0)
    total = np.maximum(maps, 0).sum(axis=(1, 2), keepdims=True)
    weights = (positive / (2 + positive * total)).sum(axis=(1, 2), keepdims=True)
    return np.maximum((maps * weights).sum(axis=3), 0)


def upsampled(maps: Floats, height: int, width: int) -> Floats:
    """(B, h, w) -> (B, height, width), bilinear between the centres of the map's places."""
    import cv2

    grown = [cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps]
    return np.stack(grown) if grown else np.empty((0, height, width), np.float32)


def normalised(maps: Floats) -> Floats:
    """(B, H, W) -> what is positive, over the map's maximum: 0..1; a map without any stays 0."""
    positive = np.maximum(maps, 0).astype(np.float64)
    largest = positive.max(axis=(1, 2), keepdims=True)
    return np.divide(positive, largest, out=np.zeros_like(positive), where=largest > 0).astype(np.float32)


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
    their image; by default a quarter of the short side, and half of that: 49 patches of a square image.
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


def agreement(first: Floats, second: Floats) -> NDArray[np.float64]:
    """(B, H, W) twice -> (B,) Spearman's rank correlation of each pair of maps over their pixels, -1..1.

    0 where a map is the same everywhere and so ranks nothing.
    """
    from scipy.stats import rankdata

    if not len(first):
        return np.empty(0)
    a, b = (rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0)


def overlay(image: NDArray[np.uint8], heat: Floats) -> NDArray[np.uint8]:
    """(H, W, 3) and heat (H, W) in 0..1 -> (H, W, 3) uint8: the image in dark grey, the more covered by the
    colour of its heat (viridis, whose lightness rises evenly) the hotter; so heat is lightest in grey print too."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] * 0.6
    levels = np.round(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    opacity = np.clip(heat, 0, 1)[..., None] * 0.75
    return np.round(grey * (1 - opacity) + colour * opacity).astype(np.uint8)


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
