"""JSON and YAML text in, plain data out: bounded, and without a tag that makes anything."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml

from rightfit.errors import ArchitectureError

MOST_BYTES = 64 * 2**20
# What Keras 2 wrote with yaml.dump: plain Python values under names of their own.
PLAIN_TAGS = {
    "tuple": "seq",
    "list": "seq",
    "dict": "map",
    "unicode": "str",
    "str": "str",
    "int": "int",
    "long": "int",
    "float": "float",
    "bool": "bool",
    "none": "null",
}
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_json(source: str | os.PathLike[str]) -> Any:
    """The data of JSON text or of the file at a path; ArchitectureError when it is none."""
    text, place = _text(source)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArchitectureError(f"{place} is no JSON: {error}") from error


def read_yaml(source: str | os.PathLike[str]) -> Any:
    """The data of YAML text or of the file at a path; ArchitectureError when it is none, or asks for an object."""
    text, place = _text(source)
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ArchitectureError(f"{place} is no YAML of plain data: {reason}") from error


def _text(source: str | os.PathLike[str]) -> tuple[str, str]:
    """The text, and what to call it. A string with several lines, or that opens a brace, is the text itself."""
    if isinstance(source, str) and ("\n" in source or source.lstrip()[:1] in ("{", "[")):
        if len(source) > MOST_BYTES:
            raise ArchitectureError(f"an architecture of {len(source):,} characters is too large")
        return source, "the text"
    path = Path(source)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ArchitectureError(f"{path}: larger than any architecture ({path.stat().st_size:,} bytes)")
        return path.read_text(encoding="utf-8"), str(path)
    except (OSError, ValueError) as error:
        raise ArchitectureError(f"{path}: cannot be read: {error}") from error


class _Loader(_Safe):  # type: ignore[misc]  # libyaml's when it is there
    """Safe, and Python's plain types by the names that Keras 2 gave them."""


def _as(kind: str) -> Any:
    def construct(loader: Any, node: yaml.Node) -> Any:
        node.tag = f"tag:yaml.org,2002:{kind}"
        if kind == "seq":
            return loader.construct_sequence(node, deep=True)
        if kind == "map":
            return loader.construct_mapping(node, deep=True)
        return loader.construct_object(node, deep=True)

    return construct


for _name, _kind in PLAIN_TAGS.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:python/{_name}", _as(_kind))
