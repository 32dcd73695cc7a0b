"""Which files lie below a folder or a URL, and which of the files that a table names are not there."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from rightfit.data import remote
from rightfit.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")

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


def missing(paths: Sequence[str]) -> list[str]:
    """Those of the paths and URLs that do not exist; the web is not asked.

    Lists each folder once: on a network disk that is far cheaper than asking for each file.
    """
    if not paths:
        return []
    folders: dict[str, int] = {}
    codes = np.array([folders.setdefault(posixpath.dirname(path), len(folders)) for path in paths], np.int64)
    by_folder = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    gone: list[str] = []
    for folder, rows in zip(folders, by_folder, strict=True):
        if not remote.is_listable(folder):
            remote.filesystem(folder)  # says what to install
            continue
        present, exists = _present(folder)
        absent = [paths[row] for row in rows if posixpath.basename(paths[row]) not in present]
        # asked again: a disk may hold the name in another case or Unicode form
        gone += [path for path in absent if not (present and exists(path))]
    return gone


def _present(folder: str) -> tuple[set[str], Callable[[str], bool]]:
    """The names in a folder, and what to ask for one more."""
    if remote.is_url(folder):
        system, root = remote.filesystem(folder)
        with remote.reaching(folder):
            try:
                names = system.ls(root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                names = []
        return {posixpath.basename(name) for name in names}, _url_exists
    try:
        with os.scandir(folder or "/") as entries:
            return {entry.name for entry in entries}, os.path.exists
    except (FileNotFoundError, NotADirectoryError):
        return set(), os.path.exists
    except PermissionError:
        raise DataError(f"{folder}: no permission to read this folder") from None


def _url_exists(url: str) -> bool:
    system, name = remote.filesystem(url)
    with remote.reaching(url):
        try:
            system.info(name)
        except FileNotFoundError:
            return False
    return True
