"""Arrays computed once and kept: (N, D) float32 features in the cache, by what they were computed from.

    <cache>/features/<key>.npy

A file is written beside its place and renamed into it; the least recently used ones make room.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import WriteError
from rightfit.files import replacing, reserve

Features = NDArray[np.float32]

LIMIT = 8 * 2**30  # bytes of all files together
USED: set[Path] = set()  # by this process, which may come back to them


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
    ValueError when the batches are not N rows together; what `compute` raises passes.
    """
    path = cache / "features" / f"{key}.npy"
    USED.add(path)
    found = _load(path, shape)
    if found is not None:
        with suppress(OSError):
            os.utime(path)
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            reserve(file.fileno(), file.tell() + 4 * shape[0] * shape[1])
            done = 0
            for batch in compute():
                file.write(np.ascontiguousarray(batch, "<f4").data)
                done += len(batch)
            _check_rows(done, shape)
    except (OSError, WriteError):
        return _in_memory(shape, compute)
    _tidy(path)
    found = _load(path, shape)
    return found if found is not None else _in_memory(shape, compute)


def _in_memory(shape: tuple[int, int], compute: Callable[[], Iterator[Features]]) -> Features:
    batches = list(compute())
    _check_rows(sum(map(len, batches)), shape)
    return np.concatenate(batches) if batches else np.empty(shape, np.float32)


def _check_rows(done: int, shape: tuple[int, int]) -> None:
    if done != shape[0]:
        raise ValueError(f"{done} rows were computed, {shape[0]} are needed")


def _load(path: Path, shape: tuple[int, int]) -> Features | None:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = isinstance(found, np.ndarray) and found.shape == shape and found.dtype == np.float32
    return found if fits else None


def _tidy(newest: Path) -> None:
    """Removes the least recently used files over LIMIT, and what killed runs left; never what is in use here."""
    dated = []
    for path in newest.parent.iterdir():
        with suppress(OSError):  # another process may be tidying too
            status = path.stat()
            if not path.name.startswith(".") or newest.stat().st_mtime - status.st_mtime > 24 * 3600:
                dated.append((status.st_mtime_ns, status.st_size, path))
    total = 0
    for _, size, path in sorted(dated, reverse=True):
        total += size
        if path not in USED and (total > LIMIT or path.name.startswith(".")):
            with suppress(OSError):
                path.unlink()
