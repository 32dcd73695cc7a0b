"""A file's path, size and times as 16 bytes: equal stamps are the same unchanged file, and none had to be read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rightfit.data import remote

DIGEST = 16  # bytes

Rows = npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint8]  # (N, DIGEST)


def stamps_of(paths: Sequence[str]) -> Digests:
    """(N, DIGEST) of local paths and URLs; zeros where a change could not be noticed."""
    listed = _Listed()
    facts: tuple[object, ...]
    stamps = np.empty((len(paths), DIGEST), np.uint8)
    for row, path in enumerate(paths):
        if remote.is_url(path):
            facts = listed.facts(path)
        else:
            try:
                status = os.stat(path)
                facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            except (OSError, ValueError) as error:
                facts = (str(error),)
        stamps[row] = as_row(digest(path, facts)) if facts else 0
    return stamps


def matches(old: Digests, new: Digests) -> Rows:
    """(N,) for each new stamp the row of the same old one, or -1."""
    if not len(old) or not len(new):
        return np.full(len(new), -1, np.int64)
    old_starts, new_starts = old.view(np.uint64)[:, 0], new.view(np.uint64)[:, 0]
    order = np.argsort(old_starts, kind="stable")
    nearest = order[np.searchsorted(old_starts, new_starts, sorter=order).clip(max=len(old) - 1)]
    return np.where((old[nearest] == new).all(axis=1) & new.any(axis=1), nearest, -1)


def digest(*parts: object) -> bytes:
    text = [part if isinstance(part, bytes) else repr(part).encode() for part in parts]
    return hashlib.blake2b(b"\0".join(text), digest_size=DIGEST).digest()


def as_row(value: bytes) -> Digests:
    return np.frombuffer(value, np.uint8)


class _Listed:
    """What an fsspec file system says of a file; each folder is listed once."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, dict[str, Any]]] = {}

    def facts(self, url: str) -> tuple[object, ...]:
        if not remote.is_listable(url):
            return ()
        folder, _, name = url.rpartition("/")
        if folder not in self.folders:
            system, root = remote.filesystem(folder)
            with remote.reaching(folder):
                system.invalidate_cache(root)
                try:
                    listing = system.ls(root, detail=True)
                except FileNotFoundError:
                    listing = []
            self.folders[folder] = {entry["name"].rpartition("/")[2]: entry for entry in listing}
        info = self.folders[folder].get(name, {})
        changed = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
        times = [str(info[key]) for key in changed if key in info]
        return (info.get("size"), *times) if times else ()
