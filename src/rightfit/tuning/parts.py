"""What chance decides beside a run: halves of images, by class and whole groups (of validation images one half chooses
trials and the other reports the choice; of training images they are a learning curve's), and seeds of trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """`halves` of `rows` of a table; an image of several labels counts by its first."""
    codes = table.codes()[rows]
    return halves(rows, codes.argmax(axis=1) if codes.ndim > 1 else codes, table.groups(rows), seed)


def halves(
    rows: NDArray[np.int64], codes: NDArray[np.int64], groups: NDArray[np.int64] | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`rows` (N,) in two: of each class half, whole groups together; the first half is the larger by a group at most.

    `codes` and `groups` (N,) are of these rows.
    """
    units = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1 if len(rows) else 0
    first = np.zeros(count, np.int64)
    first[units[::-1]] = np.arange(len(rows))[::-1]  # the first image of each unit stands for its class
    order = np.random.default_rng([seed, STREAM]).permutation(count)
    order = order[np.argsort(codes[first[order]], kind="stable")]
    half = np.zeros(count, bool)
    half[order[::2]] = True
    chosen = half[units]
    return rows[chosen], rows[~chosen]
