"""Every net by its name: our own ResNets, `keras:NAME` of keras.applications, `hub:PRESET` of KerasHub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from rightfit.errors import UsageError
from rightfit.nets import hub, keras_models, resnet
from rightfit.nets.flat import Flat
from rightfit.nets.importers import flat_files
from rightfit.nets.importers.bring import bring as bring_resnet
from rightfit.nets.importers.core import Array
from rightfit.nets.variants import VARIANTS, variant_named


def check(name: str) -> None:
    """UsageError unless there is a net called `name`; it names near ones, or what has to be installed."""
    if name.startswith(keras_models.PREFIX):
        keras_models.constructor(name)
    elif name.startswith(hub.PREFIX):
        hub.check(name)
    else:
        variant_named(name)


def build(
    name: str,
    outputs: int,
    image_size: tuple[int, int],
    seed: int = 0,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """The net called `name` for images of (height, width): (B, H, W, 3) 0..255 -> (B, outputs) logits.

    Its first weights are drawn from the seed, the same on every backend. Raises UsageError for an
    unknown name, images that are too small for the net, or dropout and stochastic depth asked of
    another library's net, which has its own.
    """
    if not is_flat(name):
        return resnet.build(name, outputs, image_size, seed, dropout, stochastic_depth)
    if dropout or stochastic_depth:
        raise UsageError(
            f"--dropout and --stochastic-depth are for rightfit's own ResNets; {name} has its own"
        )
    model = _flat(name, outputs, image_size).model
    resnet.initialise(model, seed)
    return model


def bring(
    path: str | Path, name: str, outputs: int | None, image_size: tuple[int, int] | None = None
) -> tuple[str, dict[str, Array]]:
    """The library that the weights in `path` come from, and those weights by our `layer/variable`.

    With `outputs` a last layer of another width is left out. Raises UsageError for an unknown net,
    WeightsError when the file does not fit it.
    """
    if not is_flat(name):
        return bring_resnet(path, name, outputs)
    turned = name.startswith(keras_models.PREFIX) and keras_models.preprocessing(name)[1]
    made = _flat(name, outputs or 1, image_size or (96, 96))
    return flat_files.bring(path, made, outputs, turned, name)


def is_flat(name: str) -> bool:
    """Whether the net is another library's, made flat."""
    return name.startswith((keras_models.PREFIX, hub.PREFIX))


def _flat(name: str, outputs: int, image_size: tuple[int, int]) -> Flat:
    library = keras_models if name.startswith(keras_models.PREFIX) else hub
    return library.flat(name, outputs, image_size)


def listing(outputs: int, image_size: tuple[int, int]) -> list[dict[str, Any]]:
    """Every model that can be built. What ours cost is counted; the others would have to be built for it."""
    from rightfit.nets.pretrained import counterpart

    rows = [resnet.describe(name, outputs, image_size) for name in VARIANTS]
    for name in keras_models.classifiers():
        module = keras_models.classifiers()[name].__module__.rpartition(".")[2]
        where = f"keras.applications.{module}"
        row = {"name": keras_models.PREFIX + name, "parameters": None, "multiply_adds": None, "paper": where}
        rows.append(row)
    return [row | {"weights": ["imagenet"] if counterpart(row["name"]) else []} for row in rows]
