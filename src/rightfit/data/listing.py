"""Which files lie below a folder or a URL, and which of the files that a table names are not there."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from rightfit.data import remote
from rightfit.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")

THERE, ASK, GONE = np.int8(0), np.int8(1), np.int8(2)

Kind = Literal["image", "other", "broken"]  # by the name alone; broken: a link that leads nowhere or back


def below(root: str) -> Iterator[tuple[Kind, str]]:
    """Kind and name, relative to root with "/", of every file below it that is not hidden, in sorted order.

    A folder's files come before its folders. Links are followed; one that leads back to a folder above is
    broken. A name may be no valid UTF-8: see `decodable`. Raises DataError when a folder cannot be read.
    """
    return _below_url(root) if remote.is_url(root) else _below_folder(root)


def _below_folder(root: str) -> Iterator[tuple[Kind, str]]:
    waiting: list[tuple[str, str, frozenset[tuple[int, int]]]] = [(root, "", frozenset())]
    while waiting:
        folder, prefix, above = waiting.pop()
        try:
            status = Path(folder).stat()
            here = (status.st_dev, status.st_ino)
            if here in above:
                yield "broken", prefix[:-1]
                continue
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            raise DataError(f"{folder}: no such file or folder") from None
        except NotADirectoryError:
            raise DataError(f"{folder}: not a folder") from None
        except PermissionError:
            raise DataError(f"{folder}: no permission to read this folder") from None
        folders = []
        for entry in found:
            if _hidden(entry.name):
                continue
            try:
                if entry.is_dir():
                    folders.append((entry.path, f"{prefix}{entry.name}/", above | {here}))
                    continue
                is_file = entry.is_file()
            except OSError:  # a link to itself
                is_file = False
            yield _kind(entry.name) if is_file else "broken", prefix + entry.name
        waiting += reversed(folders)


def _below_url(url: str) -> Iterator[tuple[Kind, str]]:
    from fsspec.implementations.local import LocalFileSystem

    system, root = remote.filesystem(url)
    if isinstance(system, LocalFileSystem):  # it would not follow links
        yield from _below_folder(root)
        return
    with remote.reaching(url):
        system.info(root)  # `exists` would hide the client's error
        found = system.find(root)
    start = len(root.rstrip("/")) + 1
    for name in sorted(path[start:] for path in found):
        if not any(map(_hidden, name.split("/"))):
            yield _kind(name), name


def folders_in(root: str) -> list[str]:
    """The names, sorted, of the folders right in a folder that are not hidden; of a URL none: it has no empty ones."""
    if remote.is_url(root):
        return []
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if _is_folder(entry) and not _hidden(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _kind(name: str) -> Kind:
    return "image" if name.lower().endswith(IMAGE_SUFFIXES) else "other"


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def decodable(name: str) -> bool:
    """Whether the name is valid UTF-8, so that it can be printed and written into a table."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def missing(paths: Collection[str]) -> list[str]:
    """Those of the paths and URLs that do not exist; the web is not asked.

    Lists each folder once: on a network disk that is far cheaper than asking for each file. A million
    names are kept as their hashes: 8 bytes each, not 100.
    """
    folders: dict[str, int] = {}
    folder_codes = np.empty(len(paths), np.int32)
    hashes = np.empty(len(paths), np.int64)
    for row, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        folder_codes[row], hashes[row] = folders.setdefault(folder, len(folders)), hash(name)
    by_folder = np.argsort(folder_codes, kind="stable")
    starts = np.searchsorted(folder_codes[by_folder], np.arange(len(folders) + 1))
    states = np.full(len(paths), THERE)
    for folder, start, stop in zip(folders, starts, starts[1:], strict=False):
        if not remote.is_listable(folder):
            remote.filesystem(folder)  # says what to install
            continue
        present, rows = _present(folder), by_folder[start:stop]
        if not len(present):
            states[rows] = GONE
            continue
        nearest = np.searchsorted(present, hashes[rows]).clip(max=len(present) - 1)
        # asked again: a disk may hold the name in another case or Unicode form
        states[rows[present[nearest] != hashes[rows]]] = ASK
    asked = zip(paths, states, strict=True)
    return [path for path, state in asked if state == GONE or (state == ASK and not _exists(path))]


def _present(folder: str) -> npt.NDArray[np.int64]:
    """The hashes of the names in a folder, sorted; none if there is no such folder."""
    return np.sort(np.fromiter(map(hash, _names_in(folder)), np.int64))


def _names_in(folder: str) -> Iterator[str]:
    try:
        if remote.is_url(folder):
            system, root = remote.filesystem(folder)
            with remote.reaching(folder), suppress(FileNotFoundError, NotADirectoryError):
                yield from [name.rpartition("/")[2] for name in system.ls(root, detail=False)]
        else:
            with os.scandir(folder or "/") as entries:
                yield from (entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    except PermissionError:
        raise DataError(f"{folder}: no permission to read this folder") from None


def _exists(path: str) -> bool:
    return _url_exists(path) if remote.is_url(path) else os.path.exists(path)


def _url_exists(url: str) -> bool:
    system, name = remote.filesystem(url)
    with remote.reaching(url):
        try:
            system.info(name)
        except FileNotFoundError:
            return False
    return True
