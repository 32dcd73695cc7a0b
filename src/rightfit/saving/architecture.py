"""A model's architecture as plain data, JSON or YAML, and back: nothing but a closed list of layers is built.

The text is what `keras.Model.to_json` writes, so plain Keras reads it too; in a run's architecture.json it stands
under the key "keras". Text of Keras 1 and 2 is read as well (`saving/legacy`).
"""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import yaml

from rightfit.errors import ArchitectureError
from rightfit.files import yaml_of
from rightfit.saving.building import built
from rightfit.saving.checked import checked
from rightfit.saving.texts import read_json, read_yaml

Source = str | os.PathLike[str]


def to_json(model: keras.Model) -> str:
    """The architecture of `model` as JSON, without weights; ArchitectureError for a layer not on the list."""
    return json.dumps(to_config(model), indent=1, ensure_ascii=False) + "\n"


def to_yaml(model: keras.Model) -> str:
    """The architecture of `model` as YAML, without weights; ArchitectureError for a layer not on the list."""
    return yaml_of(to_config(model), _Dumper, sort_keys=False)


def from_json(source: Source) -> keras.Model:
    """The model that `source` describes: JSON text, or the path of a file of it; with first weights.

    A string is a path unless it begins with a brace or a bracket, or has several lines. Raises ArchitectureError for
    text that is no JSON, a layer not on the list, or a model too large.
    """
    return from_config(read_json(source))


def from_yaml(source: Source) -> keras.Model:
    """The model that `source` describes: YAML text, or the path of a file of it. As `from_json`; no tag is obeyed."""
    return from_config(read_yaml(source))


def to_config(model: keras.Model) -> dict[str, Any]:
    """The configuration of `model` as JSON types only."""
    try:
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ArchitectureError(f"{model.name} cannot be written as plain data: {error}") from error
    found: dict[str, Any] = checked(config)
    return found


def from_config(config: Any) -> keras.Model:
    """Build the model; ArchitectureError names what is not on the list. No code, module or path in it is ever run."""
    if isinstance(config, dict) and isinstance(config.get("keras"), dict) and "class_name" not in config:
        config = config["keras"]
    if not isinstance(config, dict) or "class_name" not in config:
        raise ArchitectureError("the architecture describes no model")
    if "module" not in config:
        from rightfit.saving.legacy.reading import translated

        return translated(config).build()
    return built(checked(config))


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # libyaml's when it is there
    """Every value in its own place: no anchors, which readers would have to follow."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
