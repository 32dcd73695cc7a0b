"""Images that are not in the cache folder: arrays, files decoded into memory, and files decoded at each use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from rightfit.data.decoding import Decoding, workers_for
from rightfit.data.image import decode, read_bytes
from rightfit.data.memory import available
from rightfit.data.opened import Store, fingerprint_of
from rightfit.data.resize import ImageSpec, Pixels, fit
from rightfit.data.stamps import DIGEST, Digests, as_row, digest
from rightfit.errors import DataError, ImageError, UsageError

SHARE = 0.8  # of the available memory at most: the net and its activations need the rest

Progress = Callable[[int, int], None]  # rows done, of how many


def in_memory(paths: Sequence[str], spec: ImageSpec, progress: Progress | None = None) -> Store:
    """The files, decoded into one array. UsageError before any is read, if that does not fit."""
    free = available()
    if free is not None and bytes_of(paths, spec) > SHARE * free:
        raise UsageError(
            f"the decoded images take {megabytes(bytes_of(paths, spec))} of memory, and of the "
            f"{megabytes(int(free))} available the net needs a part; --cache disk keeps them on disk, "
            "--cache none decodes them in each epoch, a smaller --image-size takes less"
        )
    images = np.empty((len(paths), spec.height, spec.width, 3), np.uint8)
    decoding, done = Decoding(paths, spec, progress=progress), 0
    with closing(decoding.batches()) as batches:
        for pixels in batches:
            images[done : done + len(pixels)] = pixels
            done += len(pixels)
    images.flags.writeable = False
    fingerprint = fingerprint_of(decoding.contents, spec)
    return Store(images, decoding.ok, decoding.reasons, fingerprint, decoding.contents)


def bytes_of(paths: Sequence[str], spec: ImageSpec) -> int:
    return len(paths) * spec.height * spec.width * 3


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


class Files:
    """Opened images of which none is kept: each is read and decoded when it is asked for."""

    def __init__(
        self,
        paths: Sequence[str],
        spec: ImageSpec,
        checked: Decoding | None = None,
        contents: Digests | None = None,
    ) -> None:
        """`checked` has read them all; without it all are taken for readable until they are read, and for what they
        were where their `contents` are known from then."""
        self.paths, self.spec = paths, spec
        self.ok = np.ones(len(paths), bool) if checked is None else checked.ok
        self.reasons = {} if checked is None else checked.reasons
        self._pool = ThreadPoolExecutor(workers_for(paths), thread_name_prefix="decode")
        self._known = contents if checked is None else checked.contents

    @classmethod
    def checked(cls, paths: Sequence[str], spec: ImageSpec, progress: Progress | None = None) -> Files:
        """Every file decoded once, to know which can be."""
        decoding = Decoding(paths, spec, progress=progress)
        with closing(decoding.batches()) as batches:
            for _ in batches:
                pass
        return cls(paths, spec, decoding)

    def __len__(self) -> int:
        return len(self.ok)

    @property
    def contents(self) -> Digests:
        if self._known is None:
            self._known = np.array(list(self._pool.map(_content, self.paths)), np.uint8).reshape(-1, DIGEST)
        return self._known

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.contents, self.spec)

    def gather(self, rows: npt.NDArray[np.integer[Any]]) -> Pixels:
        """DataError that names a file which can no longer be read, or is not what it was."""
        images = np.zeros((len(rows), self.spec.height, self.spec.width, 3), np.uint8)
        for image, pixels in zip(images, self._pool.map(self._image, rows.tolist()), strict=True):
            image[:] = pixels
        return images

    def _image(self, row: int) -> Pixels | int:
        """A row that is not ok is black."""
        path = self.paths[row]
        if not self.ok[row]:
            return 0
        try:
            data = read_bytes(path)
            if self._known is not None and digest(data) != self._known[row].tobytes():
                raise DataError(f"{path} was changed since it was first looked at")
            return decode(data, self.spec, path)
        except ImageError as error:
            raise DataError(f"{path} can no longer be read: {error.reason}") from error


def _content(path: str) -> Digests:
    """(DIGEST,) of a file's bytes; zeros if it cannot be read."""
    try:
        return as_row(digest(read_bytes(path)))
    except ImageError:
        return np.zeros(DIGEST, np.uint8)


def from_arrays(images: Pixels, spec: ImageSpec) -> Store:
    """(N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8 -> a store in memory, resized where the size differs."""
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or (images.ndim == 4 and images.shape[3] not in (1, 3))
    ):
        raise DataError(
            f"images are {images.dtype} {images.shape}; give uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3)"
        )
    if 0 in images.shape[1:]:
        raise DataError(f"images of shape {images.shape} have no pixels")
    contents = np.array([as_row(digest(image.shape, image.tobytes())) for image in images], np.uint8)
    images = np.broadcast_to(images if images.ndim == 4 else images[..., None], (*images.shape[:3], 3))
    if images.shape[1:3] != (spec.height, spec.width):
        fitted = np.empty((len(images), spec.height, spec.width, 3), np.uint8)
        for row, image in enumerate(images):
            fitted[row] = fit(np.ascontiguousarray(image), spec)
        images = fitted
    contents = contents.reshape(len(images), DIGEST)
    fingerprint = fingerprint_of(contents, spec)
    return Store(np.ascontiguousarray(images), np.ones(len(images), bool), {}, fingerprint, contents)
