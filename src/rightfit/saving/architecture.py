"""A model's architecture as plain data, and back: nothing but a closed list of Keras' own layers is built."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from rightfit.errors import RunError

if TYPE_CHECKING:
    import keras

LAYERS = frozenset(
    {
        "InputLayer", "Rescaling", "Conv2D", "ZeroPadding2D", "BatchNormalization", "ReLU", "Add",
        "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "Dense", "Multiply", "Dropout",
        # what the nets of keras.applications need besides
        "Activation", "Concatenate", "Cropping2D", "DepthwiseConv2D", "LayerNormalization", "Reshape",
        "SeparableConv2D",
    }
)  # fmt: skip
# What a layer's configuration may hold besides: initialisers, precision, and references to tensors.
PARTS = frozenset(
    {
        "Functional", "VarianceScaling", "GlorotUniform", "HeNormal", "Constant", "Zeros", "Ones", "DTypePolicy",
        "__keras_tensor__", "__tuple__", "__numpy__",
    }
)  # fmt: skip
MODULES = (
    "keras",
    "keras.layers",
    "keras.initializers",
    "keras.src.models.functional",
    "keras.models",
    "builtins",
)


def to_config(model: keras.Model) -> dict[str, Any]:
    """The configuration of a functional model made of stock layers, as JSON types only."""
    import keras

    config: dict[str, Any] = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    check(config)
    return config


def from_config(config: Any) -> keras.Model:
    """Build the model; RunError names what is not on the list. No code, module or path in it is ever run."""
    check(config)
    import keras

    try:
        # A copy, as Keras takes keys out of what it is given.
        model: keras.Model = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise RunError(f"the architecture cannot be built: {error}") from error
    if not isinstance(model, keras.Model):
        raise RunError("the architecture describes no model")
    return model


def check(node: Any, depth: int = 0) -> None:
    """Walk the whole configuration; RunError for any class or module that is not on the lists."""
    if depth > 40:
        raise RunError("the architecture is nested more than 40 deep")
    if isinstance(node, dict):
        name, module = node.get("class_name"), node.get("module")
        if "class_name" in node and (not isinstance(name, str) or name not in LAYERS | PARTS):
            raise RunError(
                f"the architecture asks for {name!r}, which is not among the layers rightfit loads"
            )
        if module is not None and module not in MODULES:
            raise RunError(f"the architecture asks for the module {module!r}, which rightfit never imports")
        if node.get("registered_name") not in (None, name):
            raise RunError(f"the architecture asks for the registered object {node['registered_name']!r}")
        for value in node.values():
            check(value, depth + 1)
    elif isinstance(node, list):
        for value in node:
            check(value, depth + 1)
    elif not isinstance(node, (str, int, float, bool, type(None))):
        raise RunError(f"the architecture holds a {type(node).__name__}, which is no plain data")
