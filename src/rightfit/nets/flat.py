"""Another library's functional model in, one flat model of stock Keras layers out, shaped like our ResNets.

Nested models are taken apart, operators and a few classes of keras.applications become stock layers
that compute the same, and names that Keras drew from its counters are counted within the model, so
that a net's layer names are always the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from rightfit.errors import RightfitError
from rightfit.nets.variants import DEVIATION, MEAN

Triple = NDArray[np.float64]


@dataclass(frozen=True)
class Slot:
    """One tensor of the other library's net, in the order in which Keras stores a model's weights."""

    theirs: str  # layer/variable
    ours: str | None  # layer/variable; None for the statistics of a normalisation that we hold as constants
    shape: tuple[int, ...]  # of theirs


@dataclass
class Flat:
    """The flat model, and where each tensor of the net it was made from belongs."""

    model: keras.Model
    slots: list[Slot]
    variables: list[Any]  # of the net it was made from, one a slot

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """`layer/variable` -> shape of every weight of the flat model."""
        return {
            f"{layer.name}/{v.name}": tuple(v.shape) for layer in self.model.layers for v in layer.weights
        }

    def carried(self) -> dict[str, NDArray[np.float32]]:
        """What the other net's variables hold, by our `layer/variable`; without the head."""
        shapes = self.shapes()
        return {
            slot.ours: keras.ops.convert_to_numpy(variable).reshape(shapes[slot.ours])
            for slot, variable in zip(self.slots, self.variables, strict=True)
            if slot.ours
        }


@dataclass(frozen=True)
class Pixels:
    """What happens to (r, g, b) in 0..255 before the first layer: scale times them plus offset."""

    scale: Triple = field(default_factory=lambda: np.ones(3))
    offset: Triple = field(default_factory=lambda: np.zeros(3))

    def then(self, scale: Any, offset: Any) -> Pixels:
        scale, offset = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
        return Pixels(self.scale * scale, self.offset * scale + offset)


def flatten(source: keras.Model, name: str, outputs: int, size: tuple[int, int], pixels: Pixels) -> Flat:
    """(B, H, W, 3) 0..255 -> normalise, the layers of `source`, pool, (B, outputs) logits; float32.

    `source` ends in a map (B, h, w, C), or in features (B, C) after a global average pooling. The scaling
    it begins with joins `pixels` in the layer "normalise". Weights are left as the layers' own
    initialisers make them. RightfitError names a layer that plain Keras could not open.
    """
    image = keras.Input((*size, 3), dtype="float32", name="image")
    first = [o for o in _operations(source) if not isinstance(o, layers.InputLayer)]
    scaling = list(takewhile(lambda o: isinstance(o, (layers.Rescaling, layers.Normalization)), first))
    for layer in scaling:
        pixels = pixels.then(*_affine(layer))
    scale, offset = ([float(v) for v in values] for values in (pixels.scale, pixels.offset))
    normalised = layers.Rescaling(scale, offset, name="normalise")(image)
    twins = _Twins(source, name)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if operation in scaling:
            return args[0]
        return twins.applied(operation, *(normalised if a is image else a for a in args), **kwargs)

    wrapped = [image] if isinstance(source.input, (list, tuple)) else image
    traced = keras.models.clone_model(
        source, input_tensors=wrapped, clone_function=lambda layer: layer, call_function=call
    )
    x = traced.outputs[0]
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(outputs, name="logits")(x), name=name)
    variables = [v for layer in source.layers for v in layer.trainable_weights + layer.non_trainable_weights]
    known: dict[int, tuple[str, str | None]] = {
        id(v): (f"{twins.names[o.name]}/{v.name}", None) for o in scaling for v in o.weights
    } | twins.places
    slots = [Slot(*known[id(v)], tuple(v.shape)) for v in variables]
    return Flat(model, slots, variables)


def counted(names: Iterable[str]) -> dict[str, str]:
    """Names as a fresh process would have drawn them: conv2d_188, conv2d_190 -> conv2d, conv2d_1.

    Only names that end in a number, or equal such a name less its number, are counted anew, in the order
    of their numbers.
    """
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?)(?:_(\d+))?", name)
        assert match is not None
        groups.setdefault(match[1], []).append((int(match[2] or 0), name))
    return {
        name: f"{stem}_{rank}" if rank else stem
        for stem, members in groups.items()
        for rank, (_, name) in enumerate(sorted(members))
    }


def drawn(operation: Any) -> bool:
    """Whether Keras drew the name from its counters, as in conv2d_7."""
    kind = re.sub(
        r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(operation).__name__)
    )
    return re.fullmatch(rf"{kind.lower()}(_\d+)?", operation.name) is not None


def _operations(model: Any) -> Iterator[Any]:
    """Every layer and operator in the model's order, nested models taken apart."""
    for operation in model.layers if isinstance(model, keras.Sequential) else model.operations:
        if isinstance(operation, keras.Model):
            yield from _operations(operation)
        else:
            yield operation


def _affine(layer: Any) -> tuple[Any, Any]:
    """(scale, offset) of a layer that scales pixels; one that waits for statistics gets ImageNet's."""
    if isinstance(layer, layers.Rescaling):
        return layer.scale, layer.offset
    if layer.input_mean is None:
        mean, deviation = np.array(MEAN) / 255, np.array(DEVIATION) / 255
    else:
        mean, deviation = np.ravel(layer.input_mean), np.sqrt(np.ravel(layer.input_variance))
    return 1 / deviation, -mean / deviation


class _Twins:
    """Stock layers for the operations of one model, each made once."""

    def __init__(self, source: keras.Model, model_name: str) -> None:
        operations = list(_operations(source))
        self.names = {o.name: o.name for o in operations}
        self.names |= counted(o.name for o in operations if drawn(o))
        self.numbers = {id(o): number for number, o in enumerate(operations)}
        pools = [o for o in operations if isinstance(o, layers.GlobalAveragePooling2D) and not o.keepdims]
        if pools and len(source.outputs[0].shape) == 2:
            self.names[pools[-1].name] = "pool"
        self.model_name = model_name
        self.made: dict[int, Any] = {}
        self.padded: dict[int, Any] = {}  # tensors whose padding the pool that reads them is to make up for
        self.places: dict[int, tuple[str, str | None]] = {}  # id of their variable -> (its name, our name)

    def applied(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the twin of `operation`."""
        kind, name = type(operation).__name__, self.names.get(operation.name, operation.name)
        if isinstance(operation, keras.Sequential):
            (x,) = args
            for layer in operation.layers:
                x = self.applied(layer, x)
            return x
        if kind == "CustomScaleLayer":  # of InceptionResNetV2: first + scale * second
            first, second = args[0]
            scaled = layers.Rescaling(operation.scale, name=f"{name}_scale")(second)
            return layers.Add(name=name)([first, scaled])
        if type(operation).__module__ == "keras.src.ops.numpy":
            return self._operator(operation, kind, name, *args, **kwargs)
        if kind == "MaxPooling2D" and id(args[0]) in self.padded:
            return self._padded_pool(operation, name, *args)
        if id(operation) not in self.made:
            self.made[id(operation)] = self._twin(operation, kind, name)
        twin = self.made[id(operation)]
        x = twin(*args)
        theirs, ours = (layer.trainable_weights + layer.non_trainable_weights for layer in (operation, twin))
        for v, w in zip(theirs, ours, strict=True):
            self.places[id(v)] = (f"{name}/{v.name}", f"{name}/{w.name}")
        return x

    def _operator(self, operation: Any, kind: str, name: str, first: Any, *rest: Any, **named: Any) -> Any:
        """a + b, a * b, a + 3, a * 0.5 as a layer; padding with minus infinity waits for its pool."""
        second = rest[0] if rest else None
        if kind in ("Add", "Multiply") and isinstance(second, keras.KerasTensor):
            return getattr(layers, kind)(name=name)([first, second])
        if kind in ("Add", "Multiply") and isinstance(second, (int, float)):
            scale, offset = (second, 0.0) if kind == "Multiply" else (1.0, second)
            return layers.Rescaling(float(scale), float(offset), name=name)(first)
        infinite = kind == "Pad" and (*rest, *named.values()) == (float("-inf"),)
        if infinite and np.array_equal(operation.pad_width, [(0, 0), (1, 1), (1, 1), (0, 0)]):
            self.padded[id(first)] = first
            return first
        raise RightfitError(f"{self.model_name}: the operator {name} ({kind}) has no stock layer")

    def _padded_pool(self, pool: Any, name: str, x: Any) -> Any:
        """3x3 maximum with stride 2 over x with infinitely small borders: every second place of stride 1's."""
        if tuple(pool.pool_size) != (3, 3) or tuple(pool.strides) != (2, 2) or pool.padding != "valid":
            raise RightfitError(
                f"{self.model_name}: the pool {name} after infinite padding has no stock layer"
            )
        x = layers.MaxPooling2D(3, 1, "same", name=name)(x)
        return layers.MaxPooling2D(1, 2, name=f"{name}_stride")(x)

    def _twin(self, layer: Any, kind: str, name: str) -> Any:
        if kind == "LayerScale":  # a weight a channel, of ConvNeXt
            start = keras.initializers.Constant(layer.init_values)
            return layers.DepthwiseConv2D(1, use_bias=False, depthwise_initializer=start, name=name)
        if kind == "StochasticDepth":  # of ConvNeXt
            seed = self.numbers[id(layer)]
            return layers.Dropout(layer.drop_path_rate, noise_shape=(None, 1, 1, 1), seed=seed, name=name)
        if getattr(layers, kind, None) is not type(layer):
            raise RightfitError(
                f"{self.model_name}: the layer {name} is a {type(layer).__module__}.{kind}, not one of Keras' own; "
                "a model that holds it would not open in plain Keras"
            )
        config = layer.get_config() | {"name": name, "dtype": "float32"}
        if "seed" in config:  # else drawn from the clock; one for all would drop the same blocks together
            config["seed"] = self.numbers[id(layer)]
        if kind == "BatchNormalization":
            config["momentum"] = 0.9  # as in our ResNets: runs here are short
        return type(layer).from_config(config)
