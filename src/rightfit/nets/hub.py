"""Image backbones of KerasHub as `hub:PRESET`, flattened, with the preset's own scale of pixels inside.

A preset is a name that KerasHub knows or a folder that `save_to_preset` wrote. Only backbones of stock
Keras layers are taken: the saved model has to open where KerasHub is not installed.
"""

from __future__ import annotations

import importlib.util
import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rightfit.errors import ModelFileError, RightfitError, UsageError
from rightfit.formats.judged import CODE, LOOKUPS
from rightfit.formats.model_file import opened
from rightfit.formats.text import json_file
from rightfit.nets.flat import Flat, Pixels, flatten
from rightfit.nets.layers import channels_last
from rightfit.nets.variants import DEVIATION, MEAN

PREFIX = "hub:"
INSTALL = "pip install 'rightfit[hub]'"
MODULES = ("keras_hub", "keras", "builtins")


def check(name: str) -> None:
    """UsageError when KerasHub is not installed, or knows no such preset."""
    preset = name.removeprefix(PREFIX)
    if importlib.util.find_spec("keras_hub") is None:
        raise UsageError(f"{name} takes KerasHub, which is not installed; `{INSTALL}` brings it")
    if os.path.isdir(preset) or "://" in preset:
        return
    known = _library().models.Backbone.presets
    if preset not in known:
        near = get_close_matches(preset, known, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(PREFIX + row for row in near)}?" if near else ""
        raise UsageError(f"{name}: no folder, and no preset that KerasHub knows{hint}")


@channels_last()
def flat(name: str, outputs: int, image_size: tuple[int, int], load_weights: bool = False) -> Flat:
    """`hub:PRESET` for images of (height, width) as one flat model.

    Raises UsageError for an unknown preset, RightfitError when its files cannot be had or it holds layers
    that are not Keras' own.
    """
    check(name)
    preset = name.removeprefix(PREFIX)
    if os.path.isdir(preset):
        _check_configs(Path(preset))
        if load_weights:
            _check_weights(Path(preset))
    try:
        source = _library().models.Backbone.from_preset(preset, load_weights=load_weights)
    except Exception as error:  # requests, kagglehub and Keras have a dozen kinds
        raise RightfitError(_absent(preset, error)) from error
    if not isinstance(source.input, keras.KerasTensor) or len(source.outputs[0].shape) != 4:
        raise UsageError(f"{name} is no backbone that makes a map of an image")
    short = Path(preset).name.replace(":", "_")
    try:
        return flatten(source, short, outputs, image_size, pixels(preset))
    except ValueError as error:
        reason = (str(error).strip().splitlines() or ["?"])[0]
        height, width = image_size
        raise UsageError(f"image size {height}x{width}: {name} cannot be built ({reason})") from None


def pixels(preset: str) -> Pixels:
    """The scale and offset of the preset's own image converter; ImageNet's usual ones when it has none.

    RightfitError when it cannot be had, which is not the same.
    """
    try:
        converter = _library().layers.ImageConverter.from_preset(preset)
    except Exception as error:  # as above
        if not isinstance(error, FileNotFoundError) and "Unable to find a subclass" not in str(error):
            raise RightfitError(_absent(preset, error)) from error
        return Pixels().then(1 / np.array(DEVIATION), -np.array(MEAN) / DEVIATION)
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return Pixels().then(np.broadcast_to(scale, 3), np.broadcast_to(offset, 3))


def weights_absent(name: str) -> str:
    """Why the preset's own weights cannot be had; empty when they can. Fetches them where need be."""
    from keras_hub.src.utils.preset_utils import get_file

    preset = name.removeprefix(PREFIX)
    try:
        try:
            get_file(preset, "model.weights.h5")
        except FileNotFoundError:  # larger ones are cut up
            get_file(preset, "model.weights.json")
    except Exception as error:  # as above
        return _absent(preset, error)
    return ""


def _library() -> Any:
    import keras_hub

    return keras_hub


def _check_configs(folder: Path) -> None:
    """A folder's JSON may name classes of Keras and KerasHub only, as others would be imported, and none that hold code
    or read a file. RightfitError otherwise, UsageError when it cannot be read."""
    if not (folder / "config.json").exists():
        raise UsageError(f"{folder}: no config.json is there; `save_to_preset` writes such folders")
    for path in sorted(folder.glob("*.json")):
        try:
            _check_classes(json_file(path), path)
        except (OSError, ModelFileError) as error:
            raise UsageError(f"{error}; `save_to_preset` writes such folders") from None


def _check_weights(folder: Path) -> None:
    """KerasHub reads HDF5 in this process, so it is looked into first. ModelFileError as of `opened`."""
    for path in sorted(folder.glob("*.h5")):
        with opened(path):
            pass


def _check_classes(content: Any, path: Path) -> None:
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            module, kind = node.get("module"), node.get("class_name")
            foreign = isinstance(module, str) and module.partition(".")[0] not in MODULES
            registered = str(node.get("registered_name")).rpartition(">")[2]
            if foreign or kind in (*CODE, *LOOKUPS) or registered in (*CODE, *LOOKUPS):
                raise RightfitError(f"{path} asks for {module}.{kind}, which is never run")
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _absent(preset: str, error: Exception) -> str:
    if os.path.isdir(preset):
        return f"{preset}: KerasHub cannot open it: {(str(error).splitlines() or ['?'])[0]}"
    kind = type(error).__name__
    handle = _library().models.Backbone.presets.get(preset, {}).get("kaggle_handle", preset)
    return (
        f"{PREFIX}{preset}: the preset {handle} is not in KerasHub's cache and could not be fetched ({kind}); where "
        f"there is a network, fetch it once by `keras_hub.models.Backbone.from_preset({preset!r})`, write it "
        f"with `.save_to_preset(FOLDER)`, bring the folder here and give --model {PREFIX}FOLDER"
    )
