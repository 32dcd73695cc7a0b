"""From a source and settings to what training needs: the table with its splits, and its decoded images."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings
from rightfit.console import Console, counted, few
from rightfit.data import reading, sources, split, store, table, uncached
from rightfit.data.audit import check, grouping
from rightfit.data.audit.findings import Audit
from rightfit.data.found import quoted
from rightfit.data.image import size
from rightfit.data.listing import missing
from rightfit.data.opened import Opened, quarantine
from rightfit.data.resize import ImageSpec
from rightfit.data.stamps import Digests
from rightfit.errors import DataError, ImageError, RightfitError
from rightfit.files import write_text
from rightfit.runtime import cache_folder

SAMPLE = 200  # images whose size decides image_size "auto"
LARGEST, STEP = 224, 32  # px of image_size "auto"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Readable images only: row i of the table is row `image_rows[i]` of the images."""

    table: table.Table
    images: Opened
    image_rows: NDArray[np.int64]
    spec: ImageSpec
    quarantined: list[tuple[str, str]]  # path, reason
    audit: Audit | None = None  # None for an earlier run's images

    def targets(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.table.targets(rows)

    def contents(self) -> NDArray[np.uint8]:
        """(N, 16) a digest of each image's file, in the order of the table."""
        return np.ascontiguousarray(self.images.contents[self.image_rows])

    def groups(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        return self.table.groups(rows)

    def class_counts(self, rows: NDArray[np.int64]) -> tuple[int, ...]:
        """Images of each class; for multilabel, images that have each label."""
        codes = self.table.codes()[rows]
        if self.table.label_mode == "multilabel":
            return tuple(map(int, codes.sum(axis=0)))
        return tuple(map(int, np.bincount(codes, minlength=len(self.table.classes))))


def read(source: Any, settings: TrainSettings) -> table.Table:
    """The source as a table. What is wrong with it, or with its settings, is known before anything is decoded."""
    split.parse_ratio(settings.split)
    return reading.read(source, settings.label, settings.label_mode, settings.group_by, settings.positive)


def prepare(
    source: Any,
    settings: TrainSettings,
    console: Console,
    known: Mapping[str, str] | None = None,
    found: table.Table | None = None,
) -> tuple[Dataset, TrainSettings]:
    """Read, decode (or find decoded), leave out the unreadable, split. Returns the settings with the
    image size filled in.

    `found` is what `read` gave, where that was called before. `known` (path -> split) is an earlier run's split
    to keep; without it the last split made here of the same source with the same seed and shares is kept, so
    adding images moves none. Of either, what would tear a group is dealt out anew. Raises DataError.
    """
    if found is None:
        found = read(source, settings)
    if settings.image_size == "auto":
        settings = settings.model_copy(update={"image_size": str(_usual_size(found, LARGEST))})
    height, width = settings.height_width
    spec = ImageSpec(height, width, settings.resize)
    names = found.frame["name"].tolist()
    cache = cache_folder(settings.cache_folder)
    images: Opened
    if found.images is not None:
        images = uncached.from_arrays(found.images, spec)
    else:
        images = _opened(found, source, spec, settings.cache, cache, console)
    good = quarantine(images, names, found.frame["label"].tolist(), settings.allow_bad)
    quarantined = [(found.path(row), reason) for row, reason in sorted(images.reasons.items())]
    readable = found.select(good) if len(good) < len(found) else found
    if readable.label_mode != "multilabel" and len(only := np.unique(readable.codes())) == 1:
        raise DataError(
            f"only images of one class can be read ({readable.classes[only[0]]!r}): nothing to learn; "
            "`rightfit check` lists what cannot be read"
        )
    record = _record(cache, source, settings, found) if found.images is None else None
    kept = _remembered(record)
    if known is not None:
        everything = zip(readable.frame["name"], readable.paths(np.arange(len(readable))), strict=True)
        kept = {name: known[path] for name, path in everything if path in known}
    looked = check.look(images, good, settings.group_near_duplicates, console)
    if settings.drop_duplicates:
        rows, copies = grouping.first_of_each(readable, looked.copies.exact, kept or ())
        looked = looked.without(copies, rows)
        readable, good = readable.select(rows), good[rows]
    if settings.group_near_duplicates:
        readable = grouping.grouped(readable, looked.copies.near)
    given = bool((readable.frame["split"] != "").any())
    divided = split.assign(readable, split.parse_ratio(settings.split), settings.seed, kept)
    if not len(divided.rows("train")):
        raise DataError("no image is left to train on; see the splits and `--split`")
    if record is not None and known is None:
        try:
            _remember(record, divided)
        except (OSError, RightfitError) as error:  # a cache that is only readable serves as well
            console.say(f"the split is kept in the run only, not for later runs: {error}")
    for note in divided.notes:
        console.say(note)
    if divided.label_mode == "binary" and settings.positive is None:
        other, positive = divided.classes
        console.say(
            f"sensitivity and the probability are of {positive}, the second class by name; "
            f"--positive {quoted(other)} asks for the other"
        )
    if quarantined:
        files = "file is" if len(quarantined) == 1 else "files are"
        console.say(f"{len(quarantined):,} unreadable {files} left out: the run's quarantine.csv lists them")
    audit = check.judge(looked, divided, given, console)
    return Dataset(divided, images, np.asarray(good, np.int64), spec, quarantined, audit), settings


def reopen(
    found: table.Table,
    source: str | None,
    spec: ImageSpec,
    cache: str,
    folder: Path,
    contents: Digests | None = None,
) -> Dataset:
    """The images of an earlier run; from the cache in `folder`, if that is the mode, where no file has changed.

    `source` is what the run was trained on, None for a data frame; `contents` (N, 16) what its files held then, where
    they must not have changed. Raises DataError that names the images that are gone, unreadable or others; of `cache`
    "none" not before such a file is read.
    """
    paths = found.paths(np.arange(len(found)))
    lost, how = missing(paths), "gone"
    if not lost:
        images: Opened
        if cache == "none":
            images = uncached.Files(paths, spec, contents=contents)
        elif cache == "memory":
            images = uncached.in_memory(paths, spec)
        else:
            images = store.open_or_build(paths, spec, folder, _place(source, paths))
        lost, how = [paths[row] for row in images.reasons], "unreadable"
        if not lost and contents is not None and cache != "none":
            changed = np.flatnonzero((images.contents != contents).any(axis=1))
            lost, how = [paths[row] for row in changed], "not as when it was trained"
        if not lost:
            return Dataset(found, images, np.arange(len(found)), spec, [])
    advice = (
        "if they were moved, `rightfit relocate RUN FOLDER` says where to"
        if len(lost) == len(paths)
        else "put them back, or train anew on what there is"
    )
    are = "is" if len(lost) == 1 else "are"
    raise DataError(
        f"{len(lost):,} of {counted(len(paths), 'image')} of the run {are} {how}: {few(sorted(lost))}; {advice}"
    )


def again(found: table.Table, data: tuple[Any, Any], spec: ImageSpec, label_mode: str) -> Dataset:
    """The arrays of an earlier run, given again. Raises DataError when they are not of its size and labels."""
    given = reading.read(data, label_mode=label_mode)
    rows = np.array([int(name.partition(":")[2]) for name in found.frame["name"]], np.int64)
    if given.images is None or rows.max() >= len(given):
        raise DataError(f"the run was trained on {rows.max() + 1:,} images or more; these are {len(given):,}")
    labels = given.frame["label"].astype(str).to_numpy()[rows]
    differing = np.flatnonzero(labels != found.frame["label"].astype(str).to_numpy())
    if len(differing):
        names = ", ".join(found.frame["name"].iloc[differing[:5]])
        raise DataError(f"{len(differing):,} labels are not those of the run: {names}")
    return Dataset(found, uncached.from_arrays(given.images, spec), rows, spec, [])


def _opened(
    found: table.Table, source: Any, spec: ImageSpec, mode: str, folder: Path, console: Console
) -> Opened:
    """All images of a table, each decoded once at least, and what its mode costs said."""
    paths = found.paths(np.arange(len(found)))
    if mode == "memory":
        console.say(
            f"--cache memory: {uncached.megabytes(uncached.bytes_of(paths, spec))} of decoded images in memory"
        )
    if mode == "none":
        console.say("--cache none: images are checked once now, then decoded anew in each epoch")
    with console.bar("Checking" if mode == "none" else "Decoding", len(paths)) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done)

        if mode == "none":
            return uncached.Files.checked(paths, spec, progress)
        if mode == "memory":
            return uncached.in_memory(paths, spec, progress)
        return store.open_or_build(
            paths, spec, folder, _place(source, paths), progress=progress, say=console.say
        )


def _place(source: Any, paths: list[str]) -> str:
    """What the cache keeps the images under: their root, or the folder above all images of a data frame."""
    if isinstance(source, (str, os.PathLike)):
        return sources.root_of(os.fspath(source))
    return table.folder_of_all(paths)


def sizes_to_try(found: table.Table) -> tuple[str, ...]:
    """Image sizes worth a trial, rising: the usual one, one with half its pixels, and one with twice as many where
    images have them; the usual one alone for data in memory, which come at one size."""
    usual = _usual_size(found, LARGEST)
    if found.images is not None or usual < 2 * STEP:
        return (str(usual),)
    half, twice = (round(usual * factor / STEP) * STEP for factor in (0.5**0.5, 2**0.5))
    return tuple(
        str(side) for side in (half, usual, *([twice] if twice <= _usual_size(found, twice) else []))
    )


def at_size(dataset: Dataset, settings: TrainSettings) -> Dataset:
    """The same images, labels and splits at the size of `settings`; raises DataError as `reopen`."""
    if settings.height_width == (dataset.spec.height, dataset.spec.width):
        return dataset
    source = None if settings.data.startswith("<") else settings.data
    spec = ImageSpec(*settings.height_width, settings.resize)
    again = reopen(dataset.table, source, spec, settings.cache, cache_folder(settings.cache_folder))
    return replace(again, quarantined=dataset.quarantined, audit=dataset.audit)


def _usual_size(found: table.Table, most: int) -> int:
    """The median short side of a sample, in steps of 32, at most `most` px; as it is below 32 px."""
    if found.images is not None:
        sides = [min(found.images.shape[1:3])]
    else:
        sides = []
        for path in found.paths(np.unique(np.linspace(0, len(found) - 1, SAMPLE).astype(np.int64))):
            try:
                sides.append(min(size(path)))
            except ImageError:
                continue  # the store will name it
        if not sides:
            raise DataError("none of the images could be read; `--image-size 224` shows each file's reason")
    side = int(np.median(sides))
    return max(8, side) if side < STEP else min(most, side // STEP * STEP)


def _record(cache: Path, source: Any, settings: TrainSettings, found: table.Table) -> Path | None:
    """Where the split of this source is remembered; None for sources without a name.

    A source that comes with groups has a record of its own: a split made without them would tear them.
    """
    if not isinstance(source, (str, os.PathLike)):
        return None
    text = os.fspath(source)
    place = text if "://" in text else os.path.realpath(text)
    grouped = bool((found.frame["group"] != "").any())
    key = repr(
        (place, settings.split, settings.seed, settings.group_by, grouped, settings.group_near_duplicates)
    )
    return cache / "splits" / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.json"


def _remembered(record: Path | None) -> dict[str, str] | None:
    if record is None:
        return None
    try:
        kept = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) else None


def _remember(record: Path, divided: table.Table) -> None:
    """Names that are gone for now keep their place: they may come back."""
    names = dict(zip(divided.frame["name"], divided.frame["split"].astype(str), strict=True))
    kept = {**(_remembered(record) or {}), **names}
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(kept, ensure_ascii=False))
