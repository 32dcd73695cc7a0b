"""What chance decides beside a run: halves of images, by class and whole groups (of validation images one half chooses
trials and the other reports the choice; of training images they are a learning curve's), and seeds of trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rightfit.data.table import Table

STREAM = 10  # of random numbers; training/phases.py names where the others are


def seed_of(seed: int, number: int) -> int:
    """The search's own for number 0, else one that follows from both."""
    return int(np.random.default_rng([seed, STREAM, number]).integers(2**31)) if number else seed


def halves_of(
    table: Table, rows: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`halves` of `rows` of a table."""
    return halves(rows, table.codes()[rows], table.groups(rows), seed)


def halves(
    rows: NDArray[np.int64], codes: NDArray[Any], groups: NDArray[np.int64] | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`rows` (N,) in two: of each class half, whole groups together; the first half is the larger by a group at most.

    `codes`, (N,) or for several labels (N, K), and `groups` (N,) are of these rows. A group, or an image of several
    labels, counts by the rarest class it has, so that both halves have it.
    """
    units = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1 if len(rows) else 0
    classes = _rarest(units, codes, count)
    order = np.random.default_rng([seed, STREAM]).permutation(count)
    order = order[np.argsort(classes[order], kind="stable")]
    half = np.zeros(count, bool)
    half[order[::2]] = True
    chosen = half[units]
    return rows[chosen], rows[~chosen]


def _rarest(units: NDArray[np.int64], codes: NDArray[Any], count: int) -> NDArray[np.int64]:
    """(count,) the class of each unit that the fewest units have, -1 where it has none; of equal ones the first."""
    of, has = units, codes
    if codes.ndim > 1:
        images, has = np.nonzero(codes)
        of = units[images]
    pairs = np.unique(np.column_stack([of, has]), axis=0)
    number = np.bincount(pairs[:, 1])[pairs[:, 1]] if len(pairs) else pairs[:, 1]
    pairs = pairs[np.lexsort((number, pairs[:, 0]))]
    found, first = np.unique(pairs[:, 0], return_index=True)
    classes = np.full(count, -1, np.int64)
    classes[found] = pairs[first, 1]
    return classes
