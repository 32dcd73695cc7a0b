"""The images of a list of files, opened: row numbers in, pictures out; which cannot be read, and why."""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rightfit.data.resize import Pixels
from rightfit.data.stamps import Digests, Rows, digest
from rightfit.errors import DataError


class Opened(Protocol):
    """Row i is image i of the list; a row that is not `ok` has a reason."""

    @property
    def ok(self) -> npt.NDArray[np.bool_]: ...  # (N,)
    @property
    def reasons(self) -> dict[int, str]: ...
    @property
    def contents(self) -> Digests: ...  # (N, DIGEST) of each image's file
    @property
    def fingerprint(self) -> str: ...  # over the contents of all images in order, and the spec
    def __len__(self) -> int: ...
    def gather(self, rows: npt.NDArray[np.integer[Any]]) -> Pixels:
        """(B,) row numbers -> (B, H, W, 3) uint8, a copy. Safe from any thread."""
        ...


class Pages:
    """A file of images, mapped into memory and read row by row without the map.

    What is read through a map counts as the process's own memory, with its neighbours, all of the file in the
    end; and a disk that fails kills the process. A plain read copies what was asked for, and fails with an error.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """`shape` of the uint8 array that the file holds; at least one byte."""
        self.path = path
        self.file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        weakref.finalize(self, os.close, self.file)
        self.map = mmap.mmap(self.file, 0, access=mmap.ACCESS_READ)
        self.array: Pixels = np.frombuffer(self.map, np.uint8).reshape(shape)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> Pixels:
        """A copy of `rows`. Safe from any thread. DataError where the file cannot be read any more."""
        if not hasattr(os, "preadv"):  # Windows
            return self.array.take(rows, axis=0)
        out = np.empty((len(rows), *self.array.shape[1:]), np.uint8)
        size, pixels = self.array[0].nbytes, out.reshape(-1).data
        ends = [
            *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(),
            len(rows),
        ]  # of rows that follow each other
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            if start < end:
                self._fill(pixels[start * size : end * size], int(rows[start]) * size)
        return out

    def _fill(self, pixels: memoryview, start: int) -> None:
        done = 0
        while done < len(pixels):
            try:
                count = os.preadv(self.file, [pixels[done:]], start + done)
            except OSError as error:
                raise DataError(f"{self.path}: cannot be read any more: {error.strerror}") from error
            if not count:
                raise DataError(
                    f"{self.path}: was cut short since it was opened; the next command decodes anew"
                )
            done += count


@dataclass(frozen=True)
class Store:
    """Opened images that are decoded already; a row that is not `ok` is black."""

    images: Pixels  # (M, H, W, C), a memory map when it comes from the cache
    ok: npt.NDArray[np.bool_]
    reasons: dict[int, str]
    fingerprint: str
    contents: Digests
    order: Rows | None = None  # (N,) where each row lies in `images`, if not in its place
    pages: Pages | None = None  # that `images` lie in

    def __len__(self) -> int:
        return len(self.ok)

    def gather(self, rows: npt.NDArray[np.integer[Any]]) -> Pixels:
        rows = rows if self.order is None else self.order[rows]
        return self.images.take(rows, axis=0) if self.pages is None else self.pages.take(rows)


def fingerprint_of(contents: Digests, spec: object) -> str:
    return digest(spec, contents.tobytes()).hex()


def quarantine(
    images: Opened, names: Sequence[str], labels: Sequence[object], allow_bad: bool, limit: float = 0.05
) -> Rows:
    """The rows whose image is readable.

    Raises DataError when more than `limit` of them are not and `allow_bad` is not set: so many have a
    common cause, and a class may be losing its images. Raises it too when none is readable.
    """
    bad, good = np.flatnonzero(~images.ok), np.flatnonzero(images.ok)
    if len(good) and (allow_bad or len(bad) <= limit * len(images)):
        return good
    if not len(images):
        raise DataError("there are no images")
    listed = [f"  {names[row]} ({labels[row]}): {images.reasons[int(row)]}" for row in bad[:10]]
    if len(bad) > 10:
        listed.append(f"  and {len(bad) - 10:,} more")
    found = f"{len(bad):,} of {len(images):,} images cannot be read"
    advice = (
        f" (more than {limit:.0%}); repair or remove them, or leave them out with --allow-bad"
        if len(good)
        else ""
    )
    raise DataError("\n".join([found + advice, *listed]))
