"""tf-keras, Keras 2 as it is still published: what it predicts with a file whose architecture has passed the checks."""

from __future__ import annotations

import importlib.util
import json
import warnings
from importlib import metadata
from typing import Any

import numpy as np

from rightfit.formats.contents import ModelFile
from rightfit.formats.model_file import opened
from rightfit.saving.allowed import MODULES
from rightfit.saving.legacy.layers import RENAMED
from rightfit.saving.legacy.operators import OPERATOR_LAYERS
from rightfit.saving.legacy.reading import MODELS
from rightfit.saving.loading import Loaded

KNOWN = {*MODULES, *RENAMED, *OPERATOR_LAYERS, *MODELS, "Policy", "__tuple__"}


def absent(file: ModelFile, found: Loaded) -> str:
    """Why tf-keras cannot run the old file; empty when it can."""
    if found.graph is None:
        return "not compared: the file is of Keras 3 already"
    if found.age != 2:
        return f"not compared: nothing that is installed runs Keras {found.age}'s files as they are"
    if file.backend not in (None, "tensorflow") or found.reordered:
        return "not compared: tf-keras convolves otherwise than Theano, and not channels first on a processor"
    if file.kind not in ("hdf5 model", "hdf5 weights"):
        return "not compared: tf-keras reads .h5 alone here"
    if importlib.util.find_spec("tf_keras") is None:
        return "not compared: tf-keras is not installed (pip install --no-deps tf-keras)"
    return ""


def version() -> str:
    return metadata.version("tf-keras")


def predictions(file: ModelFile, architecture: Any, inputs: list[Any]) -> list[Any] | str:
    """What tf-keras predicts, an array for each output; or why it does not.

    The model is made of the architecture that the bounded reader gave, and only when every class in it is on the lists
    and no module is named, as tf-keras would import it.
    """
    config = file.architecture
    if architecture is not None:
        with opened(architecture) as beside:
            config = beside.architecture
    if not _is_known(config):
        return "not compared: tf-keras would look for classes or modules that are not Keras' own"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tf_keras

            model = tf_keras.models.model_from_json(json.dumps(config))
            _fill(model, file)
            outputs = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
    except Exception as error:  # it is only asked for a second opinion
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return f"not compared: tf-keras does not run it ({reason[:120]})"
    flat = (
        outputs
        if isinstance(outputs, (list, tuple))
        else [*outputs.values()]
        if isinstance(outputs, dict)
        else [outputs]
    )
    return [np.asarray(output, np.float32) for output in flat]


def _fill(model: Any, file: ModelFile) -> None:
    """The arrays that the bounded reader gave, in the order in which Keras 2 keeps a layer's weights."""
    layers = {layer.name: layer for layer in model.layers}
    for name, weights in file.layers:
        if not weights:
            continue
        arrays = [file.tensors[f"{name}/{weight}"].read() for weight in weights]
        layer = layers[name]
        for variable, array in zip(
            layer.trainable_weights + layer.non_trainable_weights, arrays, strict=True
        ):
            variable.assign(array)


def _is_known(node: Any) -> bool:
    if isinstance(node, dict):
        name, module = node.get("class_name"), node.get("module")
        if "class_name" in node and str(name).rpartition(">")[2] not in KNOWN:
            return False
        if module is not None and module not in MODULES.get(RENAMED.get(str(name), str(name)), ()):
            return False
        return all(map(_is_known, node.values()))
    return all(map(_is_known, node)) if isinstance(node, list) else True
