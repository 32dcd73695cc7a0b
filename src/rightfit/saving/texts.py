"""Where an architecture stands, as text or as the path of a file, and its plain data out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rightfit.errors import ModelFileError
from rightfit.formats import text
from rightfit.formats.bounds import BOUNDS


def read_json(source: str | os.PathLike[str]) -> Any:
    """The data of JSON text or of the file at a path; ModelFileError when it is none."""
    return text.from_json(*_text(source))


def read_yaml(source: str | os.PathLike[str]) -> Any:
    """The data of YAML text or of the file at a path; ModelFileError when it is none, or asks for an object."""
    return text.from_yaml(*_text(source))


def _text(source: str | os.PathLike[str]) -> tuple[str | bytes, str]:
    """The text, and what to call it. A string with several lines, or that opens a brace, is the text itself."""
    if isinstance(source, str) and ("\n" in source or source.lstrip()[:1] in ("{", "[")):
        return source, "the text"
    path = Path(source)
    try:
        if path.stat().st_size > BOUNDS.json_bytes:
            raise ModelFileError(f"{path}: larger than any architecture ({path.stat().st_size:,} bytes)")
        return path.read_bytes(), str(path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
