"""A model file of any Keras in, a Keras model out, by the checks alone: nothing in the file is run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import keras

from rightfit.errors import ModelFileError, UsageError
from rightfit.formats.contents import ModelFile
from rightfit.formats.model_file import opened
from rightfit.saving.architecture import from_config
from rightfit.saving.legacy import channels, optimizer
from rightfit.saving.legacy.graph import Graph
from rightfit.saving.legacy.reading import Translation, translated
from rightfit.saving.legacy.saved_model import hint
from rightfit.saving.legacy.weights import fill, turn
from rightfit.saving.training_state import compiled
from rightfit.saving.weights import assign, fill_keras3, finalize, named_weights

Path = str | os.PathLike[str]
OPTIMIZER = "optimizer/vars/"


@dataclass
class Loaded:
    """A model, where it came from, and what of its file it does not have."""

    model: keras.Model
    source: str  # what wrote the file: "Keras 2.2.4 on theano"
    notes: list[str] = field(default_factory=list)
    compiled: bool = False
    optimizer_state: bool = False
    graph: Graph | None = None  # of a file older than Keras 3
    age: int = 3
    reordered: str = ""  # what became of channels that came first

    def lines(self) -> list[str]:
        """What a person is to be told of it."""
        return [note for note in (self.reordered, *self.notes) if note]


def load_model(path: Path, *, compile: bool = True) -> keras.Model:
    """The model of a `.keras` file, or of an `.h5` of Keras 1, 2 (tf.keras) or 3, as a Keras 3 model.

    It is compiled as the file says, with the optimizer's state, where all of that is Keras' own; `compile=False` leaves
    that out. ModelFileError when the file is damaged, beyond the bounds or of another kind; ArchitectureError (a
    RunError) for a layer not on the closed list. What was not carried is in `rightfit.convert`'s report.
    """
    return read_model(path, compile=compile).model


def read_model(path: Path, *, compile: bool = True) -> Loaded:
    """As `load_model`, with what of the file was not carried."""
    with opened(path) as file:
        return loaded(file, compile=compile)


def loaded(
    file: ModelFile, architecture: Path | None = None, backend: str | None = None, compile: bool = True
) -> Loaded:
    """The model of an open file. `architecture` is a JSON or YAML file for weights alone; `backend` the one that
    Keras 1 and 2 ran on, where the file does not say (a file of Keras 1 never does). Errors as of `load_model`."""
    config = _architecture(file, architecture)
    if _is_keras3(file, config):
        return _keras3(file, config, compile)
    translation = translated(config, file.keras_version or "", backend or file.backend or "")
    era, graph = translation.era, translation.graph
    if era.keras == 1 and not era.backend:
        era.note(
            "the file does not say which backend trained it: taken as TensorFlow's; for Theano's kernels say so "
            "(--backend theano)"
        )
    reordered = channels.reordered(graph)
    model = translation.build()
    if file.layers:
        fill(model, graph, file, era)
    else:
        _weights_of_keras3(model, file)
        if file.kind != "safetensors":  # of tf-keras since 2.13, in the layout of Keras 3
            turn(model, graph)
    found = Loaded(
        model, _source(file, translation), era.notes, graph=graph, age=era.keras, reordered=reordered
    )
    if compile:
        found.compiled = compiled(model, file.training, found.notes)
        found.optimizer_state = found.compiled and optimizer.carry(model, graph, file, era.keras, found.notes)
    return found


def _architecture(file: ModelFile, architecture: Path | None) -> dict[str, Any]:
    if file.kind == "architecture":
        raise ModelFileError(f"{file.path} is an architecture without weights; name the file that has them")
    if file.kind == "saved model":
        raise ModelFileError(
            f"{file.path} is a TensorFlow SavedModel, a program and not a model's description; {hint(file.path)}"
        )
    if architecture is not None:
        with opened(architecture) as beside:
            if beside.architecture is None:
                raise ModelFileError(f"{architecture} is no architecture of Keras")
            config = beside.architecture
            return config["keras"] if isinstance(config.get("keras"), dict) else config
    if file.architecture is None:
        if file.kind not in ("hdf5 weights", "keras weights", "safetensors"):
            raise ModelFileError(f"{file.path} is of the kind {file.kind!r}, which holds no Keras model")
        raise UsageError(
            f"{file.path} holds weights alone; name the architecture they belong to (--architecture FILE.json or .yaml)"
        )
    return file.architecture


def _is_keras3(file: ModelFile, config: dict[str, Any]) -> bool:
    """Whether the architecture is as Keras 3 writes it (an `.h5` of Keras 3 is written as Keras 2 did)."""
    return (
        "module" in config
        and file.kind in ("keras", "keras weights", "safetensors")
        and not (file.keras_version or "3").startswith(("1", "2"))
    )


def _keras3(file: ModelFile, config: dict[str, Any], compile: bool) -> Loaded:
    model = from_config(config)
    _weights_of_keras3(model, file)
    found = Loaded(model, f"Keras {file.keras_version or 3}")
    if not compile:
        return found
    found.compiled = compiled(model, file.training, found.notes)
    places = [name.removeprefix(OPTIMIZER) for name in file.tensors if name.startswith(OPTIMIZER)]
    if found.compiled and places and all(place.isdecimal() for place in places):
        state = [file.tensors[f"{OPTIMIZER}{place}"] for place in sorted(places, key=int)]
        found.optimizer_state = optimizer.carry_in_order(model, state, found.notes)
    return found


def _weights_of_keras3(model: keras.Model, file: ModelFile) -> None:
    if file.kind == "safetensors":
        assign(dict(named_weights(model)), file.tensors, str(file.path))
        finalize(model)
    else:
        fill_keras3(model, file.tensors, str(file.path))


def _source(file: ModelFile, translation: Translation) -> str:
    version = file.keras_version or f"{translation.era.keras}.x"
    backend = translation.era.backend
    return f"Keras {version}" + (f" on {backend}" if backend else "")
