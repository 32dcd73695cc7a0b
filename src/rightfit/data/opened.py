"""The images of a list of files, opened: row numbers in, pictures out; which cannot be read, and why."""

from __future__ import annotations

import mmap
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


RESIDENT = 256 * 2**20  # bytes


class Pages:
    """A file mapped into memory for reading, of which the process holds about RESIDENT bytes at most.

    What has been read counts as the process's own memory, all of the file in the end, until it is given
    back; the system's cache keeps it, so that reading it again costs no disk.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """`shape` of the uint8 array that the file holds; at least one byte."""
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: Pixels = np.frombuffer(self.map, np.uint8).reshape(shape)
        self.read = 0

    def touched(self, count: int) -> None:
        """`count` more bytes were read. Threads may lose a count to each other, which delays giving back."""
        self.read += count
        if self.read > RESIDENT and hasattr(mmap, "MADV_DONTNEED"):
            self.read = 0
            self.map.madvise(mmap.MADV_DONTNEED)


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
        pixels = self.images.take(rows if self.order is None else self.order[rows], axis=0)
        if self.pages is not None:
            self.pages.touched(pixels.nbytes)
        return pixels


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
