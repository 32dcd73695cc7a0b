"""Paths in, decoded batches out, a batch at a time: a million files take no more memory than a thousand."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rightfit.console import Console, counted
from rightfit.data.image import decode, read_bytes
from rightfit.data.listing import IMAGE_SUFFIXES, below
from rightfit.data.loader import prefetch
from rightfit.data.remote import filesystem, is_listable, is_url, reaching
from rightfit.data.resize import ImageSpec
from rightfit.errors import ImageError, UsageError
from rightfit.runtime import cpu_count


class Decoded(NamedTuple):
    paths: list[str]
    images: NDArray[np.uint8]  # (len(paths), H, W, 3)
    unreadable: list[tuple[str, str]]  # path, reason


def images_of(
    files: Iterable[str], height: int, width: int, resize: str, batch_size: int
) -> Iterator[Decoded]:
    """Batches of up to `batch_size` of the files, as `files_of` names them."""
    spec = ImageSpec(height, width, resize)
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="rightfit-decode") as pool:
        makers = (functools.partial(_decode, chunk, spec, pool) for chunk in chunks(files, batch_size))
        yield from prefetch(makers, ahead=2, workers=1)


def readable(
    files: Iterable[str],
    height: int,
    width: int,
    resize: str,
    batch_size: int,
    console: Console,
    unreadable: list[tuple[str, str]],
) -> Iterator[Decoded]:
    """The batches of `images_of` that hold images; what cannot be read is said, and added to `unreadable`."""
    for batch in images_of(files, height, width, resize, batch_size):
        for path, reason in batch.unreadable:
            console.say(f"left out: {path}: {reason}")
        unreadable += batch.unreadable
        if batch.paths:
            yield batch


def said_left_out(console: Console, unreadable: Sequence[object], done: int, what: str) -> None:
    """At the end: how many files were `unreadable`, and how many images are done, "labelled" or whatever else."""
    if unreadable:
        console.say(left_out(len(unreadable), "named above", done, what))


def left_out(files: int, named: str, done: int, what: str) -> str:
    """2, "named above", 1, "labelled" -> "2 files were left out, named above; 1 image is labelled"."""
    went = counted(files, "file was", "files were")
    return f"{went} left out, {named}; {counted(done, 'image is', 'images are')} {what}"


def files_of(paths: Any) -> Iterator[str]:
    """Every image file of `paths`, files, folders (walked, sorted) or URLs; a file that is named is always taken.

    Raises UsageError for a path that does not exist, or when there are no images at all.
    """
    named = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if isinstance(named, Sequence):  # say it before the first is read, not after a million
        for path in named:
            _there(path)
    found = False
    for path in named:
        for file in _walk(_there(path)):
            found = True
            yield file
    if not found:
        raise UsageError(f"no images in {', '.join(map(os.fspath, named))}")


def _there(named: Any) -> str:
    """The path as text; UsageError for what is none, or is not there."""
    try:
        path = os.fspath(named)
    except TypeError:
        raise UsageError(
            f"{type(named).__name__} is no path: give image files, folders or URLs; of pixels (N, H, W, 3) in memory "
            "`run.model` makes logits"
        ) from None
    if not is_url(path) and not os.path.exists(path):
        raise UsageError(f"{path} does not exist; give image files or folders")
    return path


def _walk(path: str) -> Iterator[str]:
    if _is_file(path):
        yield path
        return
    for kind, name in below(path):
        if kind != "other" and name.lower().endswith(IMAGE_SUFFIXES):  # a broken link is said to be one
            yield f"{path.rstrip('/')}/{name}" if is_url(path) else os.path.join(path, *name.split("/"))


def _is_file(path: str) -> bool:
    if not is_url(path):
        return not os.path.isdir(path)
    system, name = filesystem(path)  # says what to install
    if not is_listable(path):  # whether it is there, reading it will tell
        return True
    with reaching(path):
        return bool(system.isfile(name))


def chunks(files: Iterable[str], size: int) -> Iterator[list[str]]:
    """Lists of `size` of them, the last perhaps of fewer."""
    iterator = iter(files)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _decode(paths: list[str], spec: ImageSpec, pool: ThreadPoolExecutor) -> Decoded:
    good: list[str] = []
    images: list[NDArray[np.uint8]] = []
    unreadable: list[tuple[str, str]] = []
    for path, outcome in zip(paths, pool.map(functools.partial(_one, spec=spec), paths), strict=True):
        if isinstance(outcome, ImageError):
            unreadable.append((path, outcome.reason))
        else:
            good.append(path)
            images.append(outcome)
    stacked = np.stack(images) if images else np.empty((0, spec.height, spec.width, 3), np.uint8)
    return Decoded(good, stacked, unreadable)


def _one(path: str, spec: ImageSpec) -> NDArray[np.uint8] | ImageError:
    try:
        path.encode()
    except UnicodeEncodeError:  # no CSV could hold its row
        return ImageError(path, "the name is not valid UTF-8")
    try:
        return decode(read_bytes(path), spec, path)
    except ImageError as error:
        return error
