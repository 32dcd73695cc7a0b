"""One layer of Keras 2 (or tf.keras, or an `.h5` of Keras 3) in, the layers of Keras 3 that compute the same out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras

from rightfit.errors import ArchitectureError
from rightfit.saving.allowed import LAYERS
from rightfit.saving.legacy import keras1, recurrent, settings
from rightfit.saving.legacy.graph import Node, Recipe, as_they_are, named
from rightfit.saving.legacy.kernels import HARD_SIGMOID, for_hard_sigmoid, turned


@dataclass
class Era:
    """What wrote a file, and what could not be carried over from it."""

    keras: int = 2  # 1, 2 (tf.keras too) or 3
    backend: str = ""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


RENAMED = {
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D",
    "Convolution2DTranspose": "Conv2DTranspose", "Convolution3DTranspose": "Conv3DTranspose",
    "SeparableConvolution1D": "SeparableConv1D", "SeparableConvolution2D": "SeparableConv2D",
    "AvgPool1D": "AveragePooling1D", "AvgPool2D": "AveragePooling2D", "AvgPool3D": "AveragePooling3D",
    "MaxPool1D": "MaxPooling1D", "MaxPool2D": "MaxPooling2D", "MaxPool3D": "MaxPooling3D",
    "GlobalAvgPool1D": "GlobalAveragePooling1D", "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GlobalMaxPool1D": "GlobalMaxPooling1D", "GlobalMaxPool2D": "GlobalMaxPooling2D",
    "CuDNNLSTM": "LSTM", "CuDNNGRU": "GRU", "SyncBatchNormalization": "BatchNormalization",
    "BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization",
    "LSTMV1": "LSTM", "LSTMV2": "LSTM", "GRUV1": "GRU", "GRUV2": "GRU", "DenseV2": "Dense",
    "ThresholdedReLU": "ReLU",
}  # fmt: skip
KEYS = {
    "LeakyReLU": {"alpha": "negative_slope"},
    "ThresholdedReLU": {"theta": "threshold"},
    "HashedCrossing": {},
}
ANY = object()
# Settings that Keras 3 no longer has, and the values with which nothing is lost.
DROPPED: dict[str, tuple[Any, ...]] = {
    "batch_input_shape": (ANY,), "input_shape": (ANY,), "input_dim": (ANY,), "input_length": (ANY,),
    "input_dtype": (ANY,), "implementation": (ANY,), "fused": (ANY,), "autocast": (ANY,), "use_cudnn": (ANY,),
    "time_major": (False,), "groups": (1,), "filters": (None,), "virtual_batch_size": (None,),
    "adjustment": (None,), "renorm": (False,), "ragged": (False, None), "sparse": (False, None),
    "dynamic": (False,), "synchronized": (False,), "count_include_pad": (ANY,), "seed_generator": (ANY,),
    "kernel_initializer": (ANY,), "input_spec": (ANY,), "type_spec": (ANY,), "zero_output_for_mask": (ANY,),
    "trainable": (True,), "dtype": (ANY,), "rng_type": (ANY,), "auto_vectorize": (ANY,), "mode": (0,),
    "query_shape": (ANY,), "key_shape": (ANY,), "value_shape": (ANY,),
}  # fmt: skip
REFUSED = {
    "renorm": "batch renormalisation",
    "time_major": "time before batch",
    "ragged": "ragged inputs",
    "sparse": "sparse inputs",
    "groups": "groups in a transposed or depthwise convolution",
    "virtual_batch_size": "ghost batches",
}
SCALED = ("Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
SCALED_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")
WRAPPERS = ("TimeDistributed", "Bidirectional", "RNN", "StackedRNNCells", "SpectralNormalization")


def made(class_name: Any, config: Any, era: Era) -> list[Node]:
    """The Keras 3 layers for one of Keras 2, in the order in which they are called; the last has its name.

    ArchitectureError for a layer that Keras 3 does not have, or a setting that changes what it computes.
    """
    if not isinstance(class_name, str) or not isinstance(config, dict):
        raise ArchitectureError(f"the architecture has {str(class_name)[:80]!r} for a layer")
    class_name = class_name.rpartition(">")[2]  # Custom>relu6 keeps its name
    first: Recipe = as_they_are
    if era.keras == 1:
        class_name, config, first = keras1.modern(class_name, config, era)
    old, new = class_name, RENAMED.get(class_name, class_name)
    name = named(config.get("name", old.lower()))
    if old in SPECIAL:
        return SPECIAL[old](name, config, era)
    if new not in LAYERS:
        raise ArchitectureError(
            f"{name} is a {old[:80]}, which is not among the layers rightfit carries; "
            "take it out, or rebuild the model without it"
        )
    recipe: Recipe = as_they_are
    if new in WRAPPERS:
        settled, recipe = _wrapped(new, name, config, era)
    else:
        settled = _settled(old, new, name, config, era)
        recipe = _recipe(new, name, settled, era)
        if old in ("CuDNNLSTM", "CuDNNGRU"):
            recipe = recurrent.from_cudnn(4 if new == "LSTM" else 3)
    recipe = combined([step for step in (first, recipe) if step is not as_they_are])
    node = Node(name, new, settled, recipe=recipe)
    return _as_theano_pads(node, era) if era.backend == "theano" else [node]


def _as_theano_pads(node: Node, era: Era) -> list[Node]:
    """Theano pads half a kernel before and the rest after; TensorFlow shares what the strides need."""
    config = node.config
    if config.get("padding") != "same":
        return [node]
    if "Pooling" in node.class_name:
        era.note(f"{node.name}: Theano pooled the border of 'same' otherwise; predictions may differ there")
        return [node]
    rank = {"Conv1D": 1, "Conv2D": 2}.get(node.class_name)
    if rank is None:
        era.note(f"{node.name}: Theano padded 'same' otherwise; predictions may differ at the border")
        return [node]
    sizes, strides, dilations = (
        _each(config.get(key, 1), rank) for key in ("kernel_size", "strides", "dilation_rate")
    )
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=True)]
    if all(span % 2 and stride == 1 for span, stride in zip(spans, strides, strict=True)):
        return [node]
    sides = [[span // 2, (span - 1) // 2] for span in spans]
    name = f"{node.name}_pad"
    pad = {"name": name, "padding": sides if rank == 2 else sides[0]}
    if rank == 2 and "data_format" in config:
        pad["data_format"] = config["data_format"]
    config["padding"] = "valid"
    return [Node(name, f"ZeroPadding{rank}D", pad), node]


def _each(value: Any, rank: int) -> list[int]:
    return [int(v) for v in value] if isinstance(value, list) else [int(value or 1)] * rank


def serialized(class_name: str, config: dict[str, Any], era: Era) -> tuple[dict[str, Any], Recipe]:
    """A layer within a wrapper, as Keras 3 writes it, and how its weights are turned."""
    nodes = made(class_name, config, era)
    if len(nodes) > 1:
        raise ArchitectureError(f"{nodes[-1].name}, a {class_name}, cannot be carried within another layer")
    return nodes[0].serialized(), nodes[0].recipe


def _settled(old: str, new: str, name: str, config: dict[str, Any], era: Era) -> dict[str, Any]:
    """The settings that Keras 3's layer takes, each in its own form."""
    taken = accepted(new)
    found: dict[str, Any] = {"name": name}
    for key, value in config.items():
        if key == "name":
            continue
        key = KEYS.get(old, {}).get(key, key)
        if key in taken:
            found[key] = settings.translated(key, value, f"{name}'s {key}", era)
        elif key in REFUSED and value not in DROPPED[key]:
            raise ArchitectureError(
                f"{name} asks for {REFUSED[key]} ({key}={value!r}), which Keras 3 has not"
            )
        elif value not in (None, False) and not any(value == v or v is ANY for v in DROPPED.get(key, ())):
            era.note(f"{name}: {key}={str(value)[:60]} is not carried; Keras 3's {new} has no such setting")
    if new == "BatchNormalization":
        _normalisation(old, name, found)
    if new in recurrent.LAYERS:
        recurrent.settle(old, new, found, era.keras)
    if isinstance(found.get("axis"), list) and len(found["axis"]) == 1 and new != "LayerNormalization":
        found["axis"] = found["axis"][0]
    return found


def accepted(new: str) -> set[str]:
    """The settings of a layer's constructor, and those that every layer has."""
    parameters = inspect.signature(getattr(keras.layers, new).__init__).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    own = {n for n, p in parameters.items() if p.kind in kinds and n not in ("self", "weights")}
    further = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return own | ({"name", "trainable", "dtype"} if further else set())


def _normalisation(old: str, name: str, found: dict[str, Any]) -> None:
    if found.get("renorm"):
        raise ArchitectureError(f"{name} asks for batch renormalisation, whose statistics are not carried")
    for key in ("renorm", "renorm_clipping", "renorm_momentum"):
        found.pop(key, None)
    if old == "SyncBatchNormalization":
        found["synchronized"] = True


def _recipe(new: str, name: str, found: dict[str, Any], era: Era) -> Recipe:
    """How the weights of a layer are turned: Theano's kernels, and the steps of Keras 2's hard sigmoid."""
    steps: list[Recipe] = []
    if era.backend == "theano" and new in ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "ConvLSTM2D"):
        steps.append(turned(2 if new == "ConvLSTM2D" else 1))
    scaled: list[Recipe] = []
    if new in recurrent.LAYERS:
        scaled = recurrent.recipes(new, name, found, era.keras)
    elif found.get("activation") == "hard_sigmoid" and era.keras < 3 and new in (*SCALED, *SCALED_DEPTHWISE):
        depthwise = new.startswith("Separable")
        scaled = [for_hard_sigmoid(first=1 if depthwise else 0)]
    if scaled and any(_binds(key) for key, value in found.items() if value is not None):
        era.note(
            f"{name}: its penalties and constraints see weights that grew by 6/5 for the hard sigmoid, and hold them "
            "otherwise than before in further training"
        )
    return combined(steps + scaled)


def _binds(key: str) -> bool:
    """Whether a setting is a penalty or a constraint on weights."""
    return key.endswith(("_regularizer", "_constraint")) and key != "activity_regularizer"


def combined(steps: list[Recipe]) -> Recipe:
    if not steps:
        return as_they_are

    def recipe(arrays: list[Any]) -> list[Any]:
        for step in steps:
            arrays = step(arrays)
        return arrays

    return recipe


def _wrapped(new: str, name: str, config: dict[str, Any], era: Era) -> tuple[dict[str, Any], Recipe]:
    """Settings of a layer that holds others; each inner one is translated as if it stood alone."""
    inner: list[Recipe] = []
    found: dict[str, Any] = {"name": name}
    for key, value in config.items():
        if key == "name":
            continue
        if key in ("layer", "backward_layer", "cell"):
            if value is None:
                continue
            found[key], recipe = _inner(value, era)
            inner.append(recipe)
        elif key == "cells":
            pairs = [_inner(cell, era) for cell in value]
            found[key] = [pair[0] for pair in pairs]
            inner += [pair[1] for pair in pairs]
        elif key in accepted(new):
            found[key] = settings.translated(key, value, f"{name}'s {key}", era)
        elif key in REFUSED and value not in DROPPED[key]:
            raise ArchitectureError(
                f"{name} asks for {REFUSED[key]} ({key}={value!r}), which Keras 3 has not"
            )
    if new == "Bidirectional":
        inner = inner * 2 if len(inner) == 1 else inner
    if all(recipe is as_they_are for recipe in inner):
        return found, as_they_are
    return found, _parted(inner)


def _inner(value: Any, era: Era) -> tuple[dict[str, Any], Recipe]:
    if not isinstance(value, dict) or not isinstance(value.get("config"), (dict, list)):
        raise ArchitectureError(f"the architecture holds {value!r:.60} for a layer within another")
    if value.get("class_name") in ("Sequential", "Model", "Functional"):
        from rightfit.saving.legacy.reading import graph_of

        graph = graph_of(value, era)
        if any(leaf.recipe is not as_they_are for _, leaf in graph.leaves()):
            raise ArchitectureError(f"{graph.name} stands within another layer and cannot be turned there")
        return graph.serialized(), as_they_are
    return serialized(str(value.get("class_name")), value["config"], era)


def _parted(recipes: list[Recipe]) -> Recipe:
    """Each of the inner layers turns its equal share."""

    def recipe(arrays: list[Any]) -> list[Any]:
        share = len(arrays) // len(recipes)
        return [
            array
            for place, turn in enumerate(recipes)
            for array in turn(arrays[place * share : (place + 1) * share])
        ]

    return recipe


def _input(name: str, config: dict[str, Any], era: Era) -> list[Node]:
    shape = config.get("batch_input_shape") or config.get("batch_shape")
    if not isinstance(shape, list):
        raise ArchitectureError(f"the input {name} has no shape")
    for key in ("sparse", "ragged"):
        if config.get(key):
            raise ArchitectureError(f"the input {name} is {key}, which is not carried")
    dtype = settings.dtype(config.get("dtype") or config.get("input_dtype") or "float32")
    return [Node(name, "InputLayer", {"batch_shape": shape, "dtype": dtype, "name": name})]


def _hard_sigmoid(name: str, config: dict[str, Any], era: Era) -> list[Node]:
    """An Activation; Keras 1 and 2's hard sigmoid is clip(0.2 x + 0.5, 0, 1), Keras 3's clip(x / 6 + 0.5, 0, 1)."""
    if config.get("activation") != "hard_sigmoid" or era.keras >= 3:
        settled = _settled("Activation", "Activation", name, config, era)
        return [Node(name, "Activation", settled)]
    return [
        Node(f"{name}_scale", "Rescaling", {"name": f"{name}_scale", "scale": HARD_SIGMOID, "offset": 0.0}),
        Node(name, "Activation", {"name": name, "activation": "hard_sigmoid"}),
    ]


SPECIAL: dict[str, Callable[[str, dict[str, Any], Era], list[Node]]] = {
    "InputLayer": _input,
    "Activation": _hard_sigmoid,
}
