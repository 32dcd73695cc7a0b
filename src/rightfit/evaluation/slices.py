"""Parts of a split that may do worse than the whole: by brightness, by image size, by group where groups are few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.data.image import size
from rightfit.data.loader import Images
from rightfit.errors import RightfitError

FEW = 20  # values of the group column that are slices
FEWEST = (
    10  # images of a group that is one: by 10 a share of one half is known to ±31 points, by fewer to no use
)
Slices = dict[str, tuple[list[str], NDArray[np.int64]]]  # by what -> names, and each image's (N,), -1 in none


class Brightness:
    """Images that remember the mean value of each row, 0..255, as it is read: no image is read twice."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._of_row: dict[int, float] = {}

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        batch = self.images.gather(rows)
        self._of_row.update(zip(rows.tolist(), batch.mean(axis=(1, 2, 3)).tolist(), strict=True))
        return batch

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        unseen = np.array([row for row in rows.tolist() if row not in self._of_row], np.int64)
        for start in range(0, len(unseen), 64):
            self.gather(unseen[start : start + 64])
        return np.array([self._of_row[row] for row in rows.tolist()])


def slices_of(
    brightness: NDArray[np.float64], areas: NDArray[np.float64] | None, named_groups: Sequence[str]
) -> Slices:
    """Every way of slicing that has two parts or more; all three are of the same N images, areas in pixels.

    A group of fewer than FEWEST images is no part: its images are in none. One that is large enough is told alone.
    """
    found: Slices = {
        "brightness": thirds(brightness, ("dark", "medium", "bright"), "{:.0f} to {:.0f} of 255")
    }
    if areas is not None:
        found["image size"] = thirds(areas / 1e6, ("small", "medium", "large"), "{:.3g} to {:.3g} megapixels")
    found = {by: (names, codes) for by, (names, codes) in found.items() if len(names) > 1}
    images = Counter(name for name in named_groups if name)
    names = sorted(name for name, count in images.items() if count >= FEWEST)
    if 1 < len(images) <= FEW and names:
        index = {name: i for i, name in enumerate(names)}
        found["group"] = (names, np.array([index.get(name, -1) for name in named_groups], np.int64))
    return found


def own_groups(groups: Sequence[str], names: Sequence[str]) -> list[str]:
    """The groups of images (N,) that came with them; "" for one that near-duplicates made, which is called as one of
    its images (data/audit/grouping.py), by its name within the source."""
    made = {
        group
        for group, name in zip(groups, names, strict=True)
        if group and (name == group or name.endswith(f"/{group}"))
    }
    return ["" if group in made else group for group in groups]


def thirds(
    values: NDArray[np.float64], words: tuple[str, str, str], span: str
) -> tuple[list[str], NDArray[np.int64]]:
    """Terciles of `values` (N,), equal ones together: names with their spans, and each image's."""
    codes = np.searchsorted(np.quantile(values, [1 / 3, 2 / 3]), values, side="left")
    used = np.unique(codes)
    names = [f"{words[c]} ({span.format(values[codes == c].min(), values[codes == c].max())})" for c in used]
    return names, np.searchsorted(used, codes).astype(np.int64)


def pixels(paths: Iterable[str]) -> NDArray[np.float64] | None:
    """Height times width of each file (N,), from the headers; None where they would have to be fetched."""
    files = list(paths)
    if any("://" in path or path.startswith("array:") for path in files):
        return None
    areas = [_area(path) for path in files]  # threads would wait for each other: a header is little work
    return np.array(areas) if all(areas) else None


def pixels_beside(paths: Iterable[str]) -> Callable[[], NDArray[np.float64] | None]:
    """`pixels` while something else goes on, such as predicting; call what is returned for them."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="rightfit-sizes")
    try:
        found = pool.submit(pixels, paths)
    except RuntimeError:  # no memory for another thread
        return lambda: pixels(paths)
    pool.shutdown(wait=False)
    return found.result


def _area(path: str) -> float:
    try:
        height, width = size(path)
    except RightfitError:  # it was decoded once, and is in the cache
        return 0.0
    return float(height * width)


def with_flags(of_slices: dict[str, dict[str, Any]], whole: float) -> dict[str, dict[str, Any]]:
    """Each estimate with `differs`: does its 95 % interval exclude the whole's value?"""
    return {
        by: {
            name: {**estimate, "differs": not estimate["low"] <= whole <= estimate["high"]}
            for name, estimate in parts.items()
        }
        for by, parts in of_slices.items()
    }
