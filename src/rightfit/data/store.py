"""A table's images in, a memory-mapped (N, H, W, 3) uint8 store out: decoded once, read by every later epoch and run.

    <cache>/stores/<source, spec and decoder>/<key>/images.u8 index.npz reasons.json

The key is over each file's path, size and times, so a changed file is noticed without reading any;
the fingerprint is over the contents. A store is written beside its place and renamed into it, and
is never edited: adding files makes a new one, which copies the rows it shares with the last, and
fewer files are a part of one that holds them all.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import uuid
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rightfit.data.image import decode, read_bytes
from rightfit.data.resize import ImageSpec, Pixels, fit
from rightfit.data.stamps import DIGEST, Digests, Rows, as_row, digest, matches, stamps_of
from rightfit.errors import DataError, ImageError, RunError
from rightfit.files import FULL, reserve, sync_folder
from rightfit.runtime import cpu_count

DECODER = 1  # raise it when decode's output changes
KEPT = 2  # stores per source and spec
BATCH_BYTES = 4 * 2**20  # one task's pixels; about two tasks per worker are in memory at once
DAY = 24 * 3600  # seconds


@dataclass(frozen=True)
class Store:
    """Row i is image i of the list it was opened with; a row that is not `ok` is black and has a reason."""

    images: Pixels  # (M, H, W, 3), a memory map when it comes from the cache
    ok: npt.NDArray[np.bool_]  # (N,)
    reasons: dict[int, str]
    fingerprint: str  # over the contents of all images in order, and the spec
    contents: Digests  # (N, DIGEST) of each image's file
    order: Rows | None = None  # (N,) where each row lies in `images`, if not in its place

    def __len__(self) -> int:
        return len(self.ok)

    def gather(self, rows: npt.NDArray[np.integer[Any]]) -> Pixels:
        """(B,) row numbers -> (B, H, W, 3) uint8, a copy. Safe from any thread."""
        return self.images.take(rows if self.order is None else self.order[rows], axis=0)


def open_or_build(
    paths: Sequence[str],
    spec: ImageSpec,
    cache: Path,
    source: str,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """The store of these files, from the cache if nothing has changed, else decoded where it has.

    `paths` are local or fsspec URLs; `source` is what the cache keeps together, two stores of it.
    `progress(done, total)` is called as rows are finished, from this thread. Two processes may build
    the same store at once. Raises RunError when the cache is full or not writable.
    """
    stamps = stamps_of(paths)
    group = cache / "stores" / digest(source, spec, DECODER).hex()
    found = _load(group / _key(stamps), spec, len(paths))
    if found is not None and stamps.any(axis=1).all():
        return _used(found).store
    needed = len(paths) * spec.height * spec.width * 3
    with _cache_errors(cache, needed):
        earlier = [past for folder in _newest_first(group) if (past := _load(folder, spec)) is not None]
        origins = [(past, matches(past.stamps, stamps)) for past in earlier]
        for past, rows in origins:
            if len(rows) and (rows >= 0).all():
                return _part(_used(past), rows, spec)
        group.mkdir(parents=True, exist_ok=True)
        _tidy(group)
        free = shutil.disk_usage(group).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free")
        temporary = group / f".building-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            built = _Build(paths, spec, stamps, origins, workers or _workers(paths), progress)
            built.write(temporary)
            folder = group / _key(built.stamps)
            if not built.stamps.any(axis=1).all():
                _remove(
                    folder
                )  # of the same key, which says nothing of files that could have changed unnoticed
            _publish(temporary, folder, spec, len(paths))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        found = _load(folder, spec, len(paths))
        _tidy(group)
    if found is None:
        raise RunError(f"{folder}: the store of decoded images was removed while it was opened; run again")
    return found.store


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
    fingerprint = _fingerprint(contents, spec)
    return Store(np.ascontiguousarray(images), np.ones(len(images), bool), {}, fingerprint, contents)


def quarantine(
    store: Store, names: Sequence[str], labels: Sequence[object], allow_bad: bool, limit: float = 0.05
) -> Rows:
    """The rows whose image is readable.

    Raises DataError when more than `limit` of them are not and `allow_bad` is not set: so many have a
    common cause, and a class may be losing its images. Raises it too when none is readable.
    """
    bad, good = np.flatnonzero(~store.ok), np.flatnonzero(store.ok)
    if len(good) and (allow_bad or len(bad) <= limit * len(store)):
        return good
    if not len(store):
        raise DataError("there are no images")
    listed = [f"  {names[row]} ({labels[row]}): {store.reasons[int(row)]}" for row in bad[:10]]
    if len(bad) > 10:
        listed.append(f"  and {len(bad) - 10:,} more")
    found = f"{len(bad):,} of {len(store):,} images cannot be read"
    advice = (
        f" (more than {limit:.0%}); repair or remove them, or leave them out with --allow-bad"
        if len(good)
        else ""
    )
    raise DataError("\n".join([found + advice, *listed]))


# Building -------------------------------------------------------------------------------------------


class _Build:
    """Decodes rows in threads, a bounded number ahead, and writes them in order from the calling thread."""

    def __init__(
        self,
        paths: Sequence[str],
        spec: ImageSpec,
        stamps: Digests,
        origins: Sequence[tuple[_Saved, Rows]],
        workers: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.paths, self.spec, self.workers, self.progress = paths, spec, workers, progress
        self.stamps = stamps.copy()  # zeros where a file may read differently the next time
        self.contents = np.zeros_like(stamps)
        self.ok = np.zeros(len(paths), bool)
        self.reasons: dict[int, str] = {}
        self.origins = origins
        self.stop = threading.Event()

    def write(self, folder: Path) -> None:
        with (folder / "images.u8").open("wb") as file:
            row_bytes = self.spec.height * self.spec.width * 3
            reserve(file.fileno(), len(self.paths) * row_bytes)
            with closing(self._decoded(max(1, min(64, BATCH_BYTES // row_bytes)))) as batches:
                for pixels in batches:
                    file.write(pixels.data)
            _flush(file)
        with (folder / "index.npz").open("wb") as file:
            np.savez(file, stamps=self.stamps, contents=self.contents, ok=self.ok)
            _flush(file)
        with (folder / "reasons.json").open("wb") as file:
            file.write(json.dumps(self.reasons).encode())
            _flush(file)
        sync_folder(folder)

    def _decoded(self, batch: int) -> Generator[Pixels, None, None]:
        total, done = len(self.paths), 0
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
        pixels = np.zeros((stop - start, self.spec.height, self.spec.width, 3), np.uint8)
        missing = np.ones(stop - start, bool)
        for past, origin in self.origins:
            here = np.flatnonzero(missing & (origin[start:stop] >= 0))
            there = origin[start:stop][here]
            pixels[here] = past.store.images[there]
            self.contents[start + here], self.ok[start + here] = past.contents[there], past.store.ok[there]
            for row, old in zip(here, there, strict=True):
                if not past.store.ok[old]:
                    self.reasons[start + int(row)] = past.store.reasons[int(old)]
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
            into[:] = decode(data, self.spec, path)
            self.ok[row] = True
        except ImageError as error:
            self.reasons[row] = error.reason
            if isinstance(error.__cause__, MemoryError):
                self.stamps[row] = 0


def _workers(paths: Sequence[str]) -> int:
    remote = any("://" in path for path in paths[:1])  # remote reads wait, they do not work
    return max(32, cpu_count()) if remote else cpu_count()


# The folder -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Saved:
    folder: Path
    store: Store
    stamps: Digests
    contents: Digests


def _key(stamps: Digests) -> str:
    return digest(stamps.tobytes()).hex()


def _fingerprint(contents: Digests, spec: ImageSpec) -> str:
    return digest(spec, contents.tobytes()).hex()


def _load(folder: Path, spec: ImageSpec, count: int | None = None) -> _Saved | None:
    """The store in `folder`, or None when it is missing or its files do not agree."""
    shape = (spec.height, spec.width, 3)
    try:
        with (folder / "index.npz").open("rb") as file, np.load(file, allow_pickle=False) as index:
            stamps, contents, ok = index["stamps"], index["contents"], index["ok"]
        reasons = {
            int(row): str(text) for row, text in json.loads((folder / "reasons.json").read_bytes()).items()
        }
        raw = folder / "images.u8"
        agree = (
            stamps.shape == contents.shape == (len(ok), DIGEST)
            and count in (None, len(ok))
            and folder.name == _key(stamps)
            and raw.stat().st_size == len(ok) * int(np.prod(shape))
            and set(reasons) == set(np.flatnonzero(~ok).tolist())
        )
        if not agree:
            return None
        images = (
            np.memmap(raw, np.uint8, "r", shape=(len(ok), *shape))
            if len(ok)
            else np.zeros((0, *shape), np.uint8)
        )
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    store = Store(images.view(np.ndarray), ok, reasons, _fingerprint(contents, spec), contents)
    return _Saved(folder, store, stamps, contents)


def _used(saved: _Saved) -> _Saved:
    """Marks it as new, so that others are removed before it."""
    with suppress(OSError):  # a cache that is only readable serves as well
        os.utime(saved.folder)
    return saved


def _part(saved: _Saved, rows: Rows, spec: ImageSpec) -> Store:
    """The given rows of a store, as a store, without a copy."""
    whole, ok = saved.store, saved.store.ok[rows]
    reasons = {int(row): whole.reasons[int(rows[row])] for row in np.flatnonzero(~ok)}
    contents = saved.contents[rows]
    return Store(whole.images, ok, reasons, _fingerprint(contents, spec), contents, rows)


def _publish(temporary: Path, folder: Path, spec: ImageSpec, count: int) -> None:
    """Rename into place; a whole store that another process put there first stays."""
    try:
        temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        if _load(folder, spec, count) is not None:
            return
        _remove(folder)
        temporary.rename(folder)
    sync_folder(folder.parent)


def _newest_first(group: Path) -> list[Path]:
    dated = []
    for folder in group.iterdir() if group.is_dir() else ():
        with suppress(OSError):  # another process may be tidying too
            if not folder.name.startswith("."):
                dated.append((folder.stat().st_mtime_ns, folder))
    return [folder for _, folder in sorted(dated, reverse=True)]


def _tidy(group: Path) -> None:
    """Removes all but the newest stores, and what a killed build left more than a day ago."""
    for folder in _newest_first(group)[KEPT:]:
        _remove(folder)
    for folder in group.glob(".*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
            if time.time() - newest > DAY:
                shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: Path) -> None:
    """At once for those who look for it; an open memory map keeps its pages."""
    aside = folder.with_name(f".removed-{uuid.uuid4().hex}")
    with suppress(OSError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _cache_errors(cache: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        elsewhere = "set --cache or RIGHTFIT_CACHE to a folder"
        if error.errno in FULL:
            raise RunError(
                f"{cache}: the decoded images need {needed:,} bytes: {error.strerror}; "
                f"{elsewhere} on a larger disk, or choose a smaller --image-size"
            ) from error
        raise RunError(
            f"{cache}: cannot write the decoded images: {error}; {elsewhere} you can write to"
        ) from error
