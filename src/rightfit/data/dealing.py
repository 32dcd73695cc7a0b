"""Units of images and the totals of each split in; how many of each kind go where, and which, out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from rightfit.data.table import STRATUM_SEPARATOR

Ints = npt.NDArray[np.int64]
Profile = tuple[tuple[int, int], ...]  # (stratum, images) of a unit: a whole group, or an image that is alone
UNPLACED, TRAIN, VAL, TEST = -1, 0, 1, 2


def largest_remainder(count: int, ratio: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers that sum to count, nearest to the ratio (Hamilton's method; the earlier wins a tie)."""
    shares = [Fraction(str(share)) for share in ratio]
    ideal = [count * share / sum(shares) for share in shares]
    whole = [math.floor(value) for value in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda i: whole[i] - ideal[i])
    for i in by_remainder[: count - sum(whole)]:
        whole[i] += 1
    return tuple(whole)


@dataclass
class Problem:
    """Rows in the pool are to meet `totals`; those already fixed count."""

    strata: Ints
    texts: list[str]
    pool: npt.NDArray[np.bool_]
    fixed: Ints
    totals: Ints
    active: list[int]

    def counts(self, rows: npt.NDArray[np.bool_]) -> Ints:
        """(strata, 3) of the fixed rows among `rows`."""
        rows = rows & (self.fixed != UNPLACED)
        flat = np.bincount(self.strata[rows] * 3 + self.fixed[rows], minlength=3 * len(self.texts))
        return flat.reshape(-1, 3)


def quotas(counts: Ints, totals: Ints) -> Ints:
    """(S,), (J,) -> (S, J): rows sum to counts, columns to totals, each cell within 2 of its ideal.

    Cumulative rounding along the strata, one split after another out of what the earlier ones left.
    """
    left = counts.copy()
    quota = np.zeros((len(counts), len(totals)), np.int64)
    for j, total in enumerate(totals.tolist()):
        count = max(int(left.sum()), 1)
        reached = (2 * np.cumsum(left) * total + count) // (2 * count)
        quota[:, j] = np.diff(reached, prepend=0)
        left -= quota[:, j]
    return quota


def exact(problem: Problem, strata: Ints) -> tuple[list[Profile], Ints, Ints]:
    """No groups and nothing fixed: a kind of unit is a stratum, and its quota is exact."""
    counts = np.bincount(strata, minlength=len(problem.texts))
    present = np.flatnonzero(counts)
    kinds: list[Profile] = [((stratum, 1),) for stratum in present.tolist()]
    return kinds, quotas(counts[present], problem.totals), np.searchsorted(present, strata)


def greedy(
    problem: Problem, units: Ints, strata: Ints, sizes: Ints, digests: npt.NDArray[np.uint64]
) -> tuple[list[Profile], Ints, Ints]:
    """Biggest unit first, to the split with room whose squared distance from the quotas falls most."""
    count = len(problem.texts)
    cells, images = np.unique(units * count + strata, return_counts=True)
    pairs = list(zip((cells % count).tolist(), images.tolist(), strict=True))
    ends = np.searchsorted(cells, np.arange(1, len(sizes) + 1) * count).tolist()

    have = problem.counts(problem.pool).tolist()
    in_pool = np.bincount(problem.strata[problem.pool], minlength=count)
    goal = quotas(in_pool, problem.totals).tolist()
    # where fixed rows exceed a total, the other splits share what is left
    room = list(largest_remainder(len(units), np.maximum(problem.totals - np.sum(have, axis=0), 0).tolist()))
    index: dict[Profile, int] = {}
    quota: list[list[int]] = []
    kind_of = np.zeros(len(sizes), np.int64)
    for unit in np.lexsort((digests, -sizes)).tolist():
        profile = tuple(pairs[ends[unit - 1] if unit else 0 : ends[unit]])
        size = int(sizes[unit])
        best, best_gain = max(problem.active, key=room.__getitem__), -math.inf
        for j in problem.active:
            if room[j] >= size:
                gain = 0.0
                for s, n in profile:
                    gain += n * (2 * (goal[s][j] - have[s][j]) - n) / (goal[s][j] + 1)
                if gain > best_gain:
                    best, best_gain = j, gain
        for s, n in profile:
            have[s][best] += n
        room[best] -= size
        kind = index.setdefault(profile, len(index))
        if kind == len(quota):
            quota.append([0, 0, 0])
        quota[kind][best] += 1
        kind_of[unit] = kind
    return list(index), np.array(quota), kind_of


def cover(problem: Problem, kinds: list[Profile], quota: Ints) -> None:
    """Exchange units between splits, in place, until each class with enough units is in each split.

    A class here is a stratum, and each value of each label column in it, so the result is the same whichever
    of the columns is learnt. Exchanges keep the totals; only where none is possible does a unit move alone.
    """
    numbers: dict[tuple[int, str], int] = {}
    of_stratum = [
        sorted({numbers.setdefault(c, len(numbers)) for c in classes_of(text)}) for text in problem.texts
    ]
    members = [sorted({c for stratum, _ in kind for c in of_stratum[stratum]}) for kind in kinds]
    sizes = np.array([sum(n for _, n in kind) for kind in kinds])
    flat = np.concatenate([np.array(classes) for classes in members])
    starts = np.cumsum([0, *map(len, members)])[:-1]
    owners = np.repeat(np.arange(len(kinds)), [len(classes) for classes in members])

    have = np.zeros((len(numbers), 3), np.int64)  # units of each class in each split
    for classes, row in zip(of_stratum, problem.counts(np.ones(len(problem.fixed), bool)), strict=True):
        have[classes] += row
    np.add.at(have, flat, quota[owners])
    active = problem.active
    needed = have[:, active].sum(axis=1) >= len(active)
    ideal = quota.sum(axis=1, keepdims=True) * problem.totals / problem.totals.sum()

    def spare(j: int) -> npt.NDArray[np.bool_]:
        """Kinds of which split j can lose a unit and still hold all its classes."""
        least = np.minimum.reduceat(np.where(needed, have[:, j], 2)[flat], starts)
        return (least >= 2) & (quota[:, j] > 0)

    def move(kind: int, source: int, target: int) -> None:
        for counts, rows in ((quota, kind), (have, members[kind])):
            counts[rows, source] -= 1
            counts[rows, target] += 1

    lacking = [
        (c, j) for c in np.flatnonzero(needed & (have[:, active] == 0).any(axis=1)).tolist() for j in active
    ]
    for c, j in sorted(lacking, key=lambda pair: (int(have[pair[0]].sum()), pair)):
        if have[c, j]:
            continue
        holders = owners[flat == c]
        offers = [
            (quota[kind, source] - ideal[kind, source], -kind, source)
            for source in active
            if source != j
            for kind in holders[spare(source)[holders]].tolist()
        ]
        if not offers:
            continue
        _, negative, source = max(offers)
        kind = -negative
        move(kind, source, j)
        back = np.flatnonzero(spare(j) & (np.abs(sizes - sizes[kind]) < sizes[kind]))
        if len(back):
            surplus = ideal[back, j] - quota[back, j]
            move(int(back[np.lexsort((surplus, np.abs(sizes[back] - sizes[kind])))[0]]), j, source)


def classes_of(stratum: str) -> list[tuple[int, str]]:
    columns = stratum.split(STRATUM_SEPARATOR)
    parts = [(i, part) for i, column in enumerate(columns) for part in column.split("|")]
    return [(-1, stratum), *parts]


def deal(quota: Ints, kind_of: Ints, digests: npt.NDArray[np.uint64]) -> Ints:
    """Within each kind, units in the order of their hashes: the first go to train, the next to val."""
    splits = np.empty(len(kind_of), np.int64)
    splits[np.lexsort((digests, kind_of))] = np.repeat(np.tile(np.arange(3), len(quota)), quota.ravel())
    return splits
