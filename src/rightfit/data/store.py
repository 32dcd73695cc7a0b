"""A table's images in, a memory-mapped (N, H, W, C) uint8 store out: decoded once, read by every later epoch and run.

    <cache>/stores/<source, spec and decoder>/<key>/images.u8 index.npz reasons.json

The key is over each file's path, size and times, so a changed file is noticed without reading any;
the fingerprint is over the contents. A store is written beside its place and renamed into it, and
is never edited: adding files makes a new one, which copies the rows it shares with the last, and
fewer files are a part of one that holds them all.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from rightfit.data.decoding import Decoder, Decoding, Spec
from rightfit.data.opened import Pages, Store, fingerprint_of
from rightfit.data.stamps import DIGEST, Digests, Rows, digest, matches, stamps_of
from rightfit.errors import RunError, WriteError
from rightfit.files import FULL, reserve, sync_folder

DECODER = 1  # raise it when decode's output changes
KEPT = 2  # stores per source and spec
DAY = 24 * 3600  # seconds
LOCK = ".lock"
PATIENCE = 300  # seconds without a write, after which another process is not waited for


def open_or_build(
    paths: Sequence[str],
    spec: Spec,
    cache: Path,
    source: str,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    decoder: Decoder | None = None,
    say: Callable[[str], None] | None = None,
) -> Store:
    """The store of these files, from the cache if nothing has changed, else decoded where it has.

    `paths` are local or fsspec URLs; `source` is what the cache keeps together, two stores of it.
    `progress(done, total)` is called as rows are finished, from this thread; `decoder` has kinds of specs
    of its own. Of two processes that want the same store one waits, and tells `say` so; where the file system has no
    locks both build it. Raises WriteError when the cache is full or not writable.
    """
    stamps = stamps_of(paths)
    group = cache / "stores" / digest(source, spec, DECODER).hex()
    needed = len(paths) * math.prod(spec.shape)
    with _cache_errors(cache, needed):
        found, _ = _known(group, stamps, spec)
        if found is not None:
            return found
        group.mkdir(parents=True, exist_ok=True)
    with _cache_errors(cache, needed), _one_at_a_time(group, say):
        found, found_in = _known(group, stamps, spec)  # by now another process may have built it
        if found is not None:
            return found
        _tidy(group)
        free = shutil.disk_usage(group).free
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free:,} bytes are free")
        temporary = group / f".building-{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            origins = [(past.store, rows) for past, rows in found_in]
            built = Decoding(paths, spec, stamps, origins, workers, progress, decoder)
            _write(built, temporary)
            folder = group / _key(built.stamps)
            if not built.stamps.any(axis=1).all():
                _remove(
                    folder
                )  # of the same key, which says nothing of files that could have changed unnoticed
            _publish(temporary, folder, spec, len(paths))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        made = _load(folder, spec, len(paths))
        _tidy(group, folder)
    if made is None:
        raise RunError(f"{folder}: the store of decoded images was removed while it was opened; run again")
    return made.store


def _known(group: Path, stamps: Digests, spec: Spec) -> tuple[Store | None, list[tuple[_Saved, Rows]]]:
    """The store of files with these stamps, or a part of one, if there is; and where rows of it are found else."""
    found = _load(group / _key(stamps), spec, len(stamps))
    if found is not None and stamps.any(axis=1).all():
        return _used(found).store, []
    earlier = [past for folder in _newest_first(group) if (past := _load(folder, spec)) is not None]
    found_in = [(past, matches(past.stamps, stamps)) for past in earlier]
    for past, rows in found_in:
        if len(rows) and (rows >= 0).all():
            return _part(_used(past), rows, spec), []
    return None, found_in


@contextmanager
def _one_at_a_time(group: Path, say: Callable[[str], None] | None) -> Iterator[None]:
    """Wait for the process that builds a store of `group`, as long as it is seen to write; the system gives the lock
    of a killed one back. Where there are no locks, nobody waits."""
    try:
        file = (group / LOCK).open("w")
    except OSError:
        yield
        return
    with file:
        with suppress(OSError, ImportError):
            _take(file, group, say)
        yield


def _take(file: IO[str], group: Path, say: Callable[[str], None] | None) -> None:
    """OSError where there are no locks, ImportError on Windows."""
    import fcntl

    written, since = None, time.monotonic()
    while time.monotonic() - since <= PATIENCE:  # on a shared disk the machine that has the lock may be gone
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if written is None and say:
                say("another process decodes these images; waiting for it")
            if written != (now := _written(group)):
                written, since = now, time.monotonic()
            time.sleep(0.2)


def _written(group: Path) -> list[tuple[str, int]]:
    """What is being built in `group`, and when it was last written to."""
    found = []
    for path in group.glob(".building-*/*"):
        with suppress(OSError):
            found.append((str(path), path.stat().st_mtime_ns))
    return sorted(found)


# The folder -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Saved:
    folder: Path
    store: Store
    stamps: Digests


def _key(stamps: Digests) -> str:
    return digest(stamps.tobytes()).hex()


def _write(decoding: Decoding, folder: Path) -> None:
    """The three files of a store, flushed to disk."""
    with (folder / "images.u8").open("wb") as file:
        reserve(file.fileno(), len(decoding.paths) * math.prod(decoding.spec.shape))
        with closing(decoding.batches()) as batches:
            for pixels in batches:
                file.write(pixels.data)
        _flush(file)
    with (folder / "index.npz").open("wb") as file:
        np.savez(file, stamps=decoding.stamps, contents=decoding.contents, ok=decoding.ok)
        _flush(file)
    with (folder / "reasons.json").open("wb") as file:
        file.write(json.dumps(decoding.reasons).encode())
        _flush(file)
    sync_folder(folder)


def _load(folder: Path, spec: Spec, count: int | None = None) -> _Saved | None:
    """The store in `folder`, or None when it is missing or its files do not agree."""
    shape = spec.shape
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
            and raw.stat().st_size == len(ok) * math.prod(shape)
            and set(reasons) == set(np.flatnonzero(~ok).tolist())
        )
        if not agree:
            return None
        pages = Pages(raw, (len(ok), *shape)) if len(ok) else None
    except (OSError, ValueError, KeyError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    images = pages.array if pages else np.zeros((0, *shape), np.uint8)
    store = Store(images, ok, reasons, fingerprint_of(contents, spec), contents, pages=pages)
    return _Saved(folder, store, stamps)


def _used(saved: _Saved) -> _Saved:
    """Marks it as new, so that others are removed before it."""
    with suppress(OSError):  # a cache that is only readable serves as well
        os.utime(saved.folder)
    return saved


def _part(saved: _Saved, rows: Rows, spec: Spec) -> Store:
    """The given rows of a store, as a store, without a copy."""
    whole, ok = saved.store, saved.store.ok[rows]
    reasons = {int(row): whole.reasons[int(rows[row])] for row in np.flatnonzero(~ok)}
    contents = whole.contents[rows]
    return Store(whole.images, ok, reasons, fingerprint_of(contents, spec), contents, rows, whole.pages)


def _publish(temporary: Path, folder: Path, spec: Spec, count: int) -> None:
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


def _tidy(group: Path, built: Path | None = None) -> None:
    """Removes all but the newest stores, of which what was just `built` is one whatever the clock says, and what a
    killed build left more than a day ago."""
    others = [folder for folder in _newest_first(group) if folder != built]
    for folder in others[KEPT - (built is not None) :]:
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
        elsewhere = "set --cache-folder or RIGHTFIT_CACHE to a folder"
        if error.errno in FULL:
            raise WriteError(
                f"{cache}: the decoded images need {needed:,} bytes: {error.strerror}; "
                f"{elsewhere} on a larger disk, keep none with --cache none, or choose a smaller --image-size"
            ) from error
        raise WriteError(
            f"{cache}: cannot write the decoded images: {error}; {elsewhere} you can write to"
        ) from error
