"""Arrays computed once and kept: (N, D) float32 features in the cache, by what they were computed from.

    <cache>/features/<key>.npy

A file is written beside its place and renamed into it; the least recently used ones make room.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]

LIMIT = 8 * 2**30  # bytes of all files together


def digest(*parts: bytes | str) -> str:
    """A key over `parts`, 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def kept_or_computed(
    cache: Path, key: str, shape: tuple[int, int], compute: Callable[[], Iterator[Features]]
) -> Features:
    """The (N, D) array kept under `key`, else that of the batches (B, D) of `compute`, kept from now on.

    The result is a read-only memory map; an array in memory where the cache cannot be written.
    """
    path = cache / "features" / f"{key}.npy"
    found = _load(path, shape)
    if found is not None:
        with suppress(OSError):
            os.utime(path)
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{key}-", dir=path.parent)
        os.close(descriptor)
    except OSError:
        return _filled(np.empty(shape, np.float32), compute)
    temporary = Path(name)
    try:
        try:
            _check_room(temporary, shape)
            mapped = np.lib.format.open_memmap(name, "w+", np.float32, shape)
        except (OSError, ValueError):  # a full disk; a map of no bytes
            return _filled(np.empty(shape, np.float32), compute)
        _filled(mapped, compute)
        mapped.flush()
        del mapped
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _tidy(path)
    found = _load(path, shape)
    return found if found is not None else _filled(np.empty(shape, np.float32), compute)


def _check_room(path: Path, shape: tuple[int, int]) -> None:
    """OSError now, where writing through a map to a full disk would be a bus error later."""
    needed = 4 * shape[0] * shape[1] + 4096
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, needed)


def _filled(array: Features, compute: Callable[[], Iterator[Features]]) -> Features:
    done = 0
    for batch in compute():
        array[done : done + len(batch)] = batch
        done += len(batch)
    if done != len(array):
        raise ValueError(f"{done} rows were computed, {len(array)} are needed")
    return array


def _load(path: Path, shape: tuple[int, int]) -> Features | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(found, np.ndarray) and found.shape == shape and found.dtype == np.float32
    return found if fits else None


def _tidy(newest: Path) -> None:
    """Removes the least recently used files over LIMIT, and what killed runs left; never `newest`."""
    dated = []
    for path in newest.parent.iterdir():
        with suppress(OSError):  # another process may be tidying too
            status = path.stat()
            if not path.name.startswith(".") or newest.stat().st_mtime - status.st_mtime > 24 * 3600:
                dated.append((status.st_mtime_ns, status.st_size, path))
    total = 0
    for _, size, path in sorted(dated, reverse=True):
        total += size
        if path != newest and (total > LIMIT or path.name.startswith(".")):
            with suppress(OSError):
                path.unlink()
