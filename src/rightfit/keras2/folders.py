"""A directory of class folders in, its files in Keras' order out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

SUFFIXES = ("png", "jpg", "jpeg", "bmp", "ppm", "tif", "tiff")


def class_names(directory: str) -> list[str]:
    """Its folders, sorted as strings."""
    return [name for name in sorted(os.listdir(directory)) if os.path.isdir(os.path.join(directory, name))]


def filenames(directory: str, name: str, follow_links: bool, part: tuple[float, float] | None) -> list[str]:
    """`name/...` of every image below directory/name: folders sorted, files in them sorted. `part` takes the
    files from one share to another, as (0, 0.2) the first fifth."""
    found = [
        os.path.relpath(path, directory) for path in _images(os.path.join(directory, name), follow_links)
    ]
    return found if part is None else found[slice_of(len(found), part)]


def _images(folder: str, follow_links: bool) -> Iterator[str]:
    for root, _, files in sorted(os.walk(folder, followlinks=follow_links)):
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES):
                yield os.path.join(root, file)


def slice_of(count: int, part: tuple[float, float]) -> slice:
    return slice(int(part[0] * count), int(part[1] * count))


def part_of(subset: str | None, validation_split: float) -> tuple[float, float] | None:
    """The first `validation_split` of each class is for validation, the rest for training."""
    if subset is None:
        return None
    parts = {"validation": (0.0, validation_split), "training": (validation_split, 1.0)}
    if subset not in parts:
        raise ValueError(f'Invalid subset name: {subset}; expected "training" or "validation"')
    return parts[subset]


def are_images(paths: Sequence[str]) -> list[bool]:
    return [path.lower().endswith(SUFFIXES) and os.path.isfile(path) for path in paths]
