"""Models as text and files, for other programs and from other ages: each verb settles the backend, then does it.

`import rightfit` brings these names without Keras; the first call imports it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rightfit.console import Console
from rightfit.runtime import choose_backend

if TYPE_CHECKING:
    import keras

    from rightfit.saving.legacy.convert import Conversion

Source = str | os.PathLike[str]


def to_yaml(model: keras.Model) -> str:
    """The architecture of `model` as YAML, without weights: `rightfit.saving.architecture.to_yaml`."""
    from rightfit.saving import architecture

    return architecture.to_yaml(model)


def to_json(model: keras.Model) -> str:
    """The architecture of `model` as JSON, which `keras.models.model_from_json` reads too:
    `rightfit.saving.architecture.to_json`."""
    from rightfit.saving import architecture

    return architecture.to_json(model)


def from_yaml(source: Source) -> keras.Model:
    """The model that YAML text, or the file at a path, describes; no tag is obeyed and only a closed list of layers is
    built: `rightfit.saving.architecture.from_yaml`. Text of Keras 2 and 1 is read too."""
    choose_backend()
    from rightfit.saving import architecture

    return architecture.from_yaml(source)


def from_json(source: Source) -> keras.Model:
    """The model that JSON text, or the file at a path, describes, a run's architecture.json among them; only a closed
    list of layers is built: `rightfit.saving.architecture.from_json`. Text of Keras 2 and 1 is read too."""
    choose_backend()
    from rightfit.saving import architecture

    return architecture.from_json(source)


def save_weights(model: keras.Model, path: Source) -> None:
    """Write the weights of `model` as `.safetensors` or `.weights.h5`: `rightfit.saving.weights.save_weights`."""
    from rightfit.saving import weights

    weights.save_weights(model, path)


def load_weights(model: keras.Model, path: Source) -> None:
    """Fill `model` from `.safetensors` or `.weights.h5`: every name and shape fits, or nothing is changed (but by
    an `.h5` of Keras 2, which goes layer by layer).
    `rightfit.saving.weights.load_weights`."""
    from rightfit.saving import weights

    weights.load_weights(model, path)


def load_model(path: Source, *, compile: bool = True, quiet: bool = False) -> keras.Model:
    """The model of a `.keras` file, or of an `.h5` of any Keras, through the checks; what was not carried is said on
    stderr unless `quiet`: `rightfit.saving.loading.load_model`."""
    choose_backend()
    from rightfit.saving import loading

    found = loading.read_model(path, compile=compile)
    console = Console(quiet)
    for line in found.lines():
        console.say(f"{os.fspath(path)}: {line}")
    return found.model


def convert(
    old: Source,
    output: Source,
    *,
    architecture: Source | None = None,
    backend: str | None = None,
    compare: bool = True,
) -> Conversion:
    """Write a model of Keras 1, 2 or tf.keras as a Keras 3 file, and say what could not be carried:
    `rightfit.saving.legacy.convert.convert`, which lists the arguments and errors."""
    choose_backend()
    from rightfit.saving.legacy import convert as verb

    return verb.convert(old, output, architecture=architecture, backend=backend, compare=compare)


def open_saved_model(path: Source, *, trusted: bool = False, endpoint: str = "serving_default") -> Any:
    """A TensorFlow SavedModel to predict with. It is a program and will be run, so it has to be `trusted`:
    `rightfit.saving.legacy.saved_model.open_saved_model`."""
    choose_backend()
    from rightfit.saving.legacy import saved_model

    return saved_model.open_saved_model(path, trusted=trusted, endpoint=endpoint)
