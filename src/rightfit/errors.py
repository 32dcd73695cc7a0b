"""Typed errors; each message says what was found, where, and what to do."""

from __future__ import annotations

import json


class RightfitError(Exception):
    """The work failed. Exit code 1."""

    exit_code = 1


class WriteError(RightfitError):
    """A file could not be written; what was there before is untouched."""


class UsageError(RightfitError):
    """The request itself is wrong: an unknown model, key or flag, a run folder that exists. Exit code 2."""

    exit_code = 2


class DataError(RightfitError):
    """The data cannot be trained on as they are. Exit code 3."""

    exit_code = 3


class ImageError(RightfitError):
    """One file could not be decoded; `reason` is short enough for a table cell."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class RunError(RightfitError):
    """A run folder is missing or damaged."""


class ArchitectureError(RunError):
    """An architecture asks for what rightfit does not build: an unknown layer, a module, too much memory."""


class BackendError(UsageError):
    """A backend or precision that this machine does not have."""


class ModelFileError(RightfitError):
    """A model file is damaged, of no known kind, beyond the bounds, or asks for what is never done."""


def as_text(error: Exception, where: str = "") -> str:
    """An error for another process to raise: one of ours as its kind, any other as RightfitError that names it."""
    kind, message = type(error).__name__, str(error)
    if not isinstance(error, RightfitError):
        kind, message = RightfitError.__name__, f"{kind}: {message}"
    return json.dumps([kind, f"{where}{message}"])


def from_text(text: str) -> RightfitError:
    """What `as_text` made; ValueError for other text."""
    kind, message = json.loads(text)
    found: RightfitError = RightfitError.__new__(globals()[kind])
    found.args = (message,)
    return found
