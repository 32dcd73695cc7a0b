"""Files in, batches of decoded images out in their order, and what was found on the way: contents, reasons."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod
from typing import Any, Protocol

import cv2
import numpy as np

from rightfit.data.image import decode, read_bytes
from rightfit.data.opened import Store
from rightfit.data.resize import Pixels
from rightfit.data.stamps import DIGEST, Digests, Rows, as_row, digest
from rightfit.errors import ImageError
from rightfit.runtime import cpu_count

BATCH_BYTES = 4 * 2**20  # one task's pixels; about two tasks per worker are in memory at once


class Spec(Protocol):
    """What is asked of every picture; equal ones have equal reprs, which name what the cache keeps."""

    @property
    def shape(self) -> tuple[int, int, int]: ...  # height, width, channels


Decoder = Callable[[bytes, Any, str], Pixels]  # a file's bytes, the spec, its path -> spec.shape; ImageError


class Decoding:
    """Decodes rows in threads, a bounded number ahead; what is known of each file afterwards.

    `origins` are stores with (N,) the row of each file there, or -1: those rows are copied.
    """

    def __init__(
        self,
        paths: Sequence[str],
        spec: Spec,
        stamps: Digests | None = None,
        origins: Sequence[tuple[Store, Rows]] = (),
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.paths, self.spec, self.progress = paths, spec, progress
        self.decoder: Decoder = decoder or decode
        self.workers = workers or workers_for(paths)
        self.contents = np.zeros((len(paths), DIGEST), np.uint8)
        # zeros where a file may read differently the next time
        self.stamps = self.contents.copy() if stamps is None else stamps.copy()
        self.ok = np.zeros(len(paths), bool)
        self.reasons: dict[int, str] = {}
        self.origins = origins
        self.stop = threading.Event()

    def batches(self) -> Generator[Pixels, None, None]:
        """(B, *spec.shape) of all rows in order; what cannot be decoded is black. To be closed if left early."""
        total, done = len(self.paths), 0
        share = -(-total // (8 * self.workers))  # so that no thread is left with much while others are done
        batch = max(1, min(64, BATCH_BYTES // prod(self.spec.shape), share))
        waiting: deque[Future[Pixels]] = deque()
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # the pool is the parallelism
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            starts = iter(range(0, total, batch))
            while True:
                while len(waiting) < 2 * self.workers and (start := next(starts, None)) is not None:
                    waiting.append(pool.submit(self._batch, start, min(start + batch, total)))
                if not waiting:
                    return
                pixels = waiting.popleft().result()
                yield pixels
                done += len(pixels)
                if self.progress is not None:
                    self.progress(done, total)
        finally:
            self.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            cv2.setNumThreads(threads)

    def _batch(self, start: int, stop: int) -> Pixels:
        """Rows start..stop, copied from an earlier store or decoded."""
        pixels = np.zeros((stop - start, *self.spec.shape), np.uint8)
        missing = np.ones(stop - start, bool)
        for past, origin in self.origins:
            here = np.flatnonzero(missing & (origin[start:stop] >= 0))
            there = origin[start:stop][here]
            pixels[here] = past.images[there]
            self.contents[start + here], self.ok[start + here] = past.contents[there], past.ok[there]
            for row, old in zip(here, there, strict=True):
                if not past.ok[old]:
                    self.reasons[start + int(row)] = past.reasons[int(old)]
            missing[here] = False
        for row in np.flatnonzero(missing):
            if self.stop.is_set():
                break
            self._one(start + int(row), pixels[row])
        return pixels

    def _one(self, row: int, into: Pixels) -> None:
        path = self.paths[row]
        try:
            data = read_bytes(path)
        except ImageError as error:
            self.reasons[row] = error.reason
            refused = (
                isinstance(error.__cause__, PermissionError) and "://" not in path
            )  # chmod changes ctime
            if error.__cause__ is not None and not refused:
                self.stamps[row] = 0  # gone, or a failing disk or network: ask again the next time
            return
        self.contents[row] = as_row(digest(data))
        try:
            into[:] = self.decoder(data, self.spec, path)
            self.ok[row] = True
        except ImageError as error:
            self.reasons[row] = error.reason
            if isinstance(error.__cause__, MemoryError):
                self.stamps[row] = 0


def workers_for(paths: Sequence[str]) -> int:
    remote = any("://" in path for path in paths[:1])  # remote reads wait, they do not work
    return max(32, cpu_count()) if remote else cpu_count()
