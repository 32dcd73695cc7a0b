"""Gives each row of a table a split: exact totals, each class in each split, groups whole, and repeatable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pandas as pd

from rightfit.data.table import SPLITS, STRATUM_SEPARATOR, UNSPLIT, Table
from rightfit.errors import DataError, UsageError

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


def parse_ratio(text: str) -> tuple[float, float, float]:
    """ "6:1:2" is train:val:test, "8:2" is train:val without a test set."""
    try:
        shares = [float(share) for share in text.split(":")]
    except ValueError:
        raise UsageError(f"split {text!r} is not numbers with colons between, as in 6:1:2") from None
    if len(shares) not in (2, 3):
        raise UsageError(
            f"split {text!r} has {len(shares)} parts; give train:val:test as in 6:1:2, or train:val as in 8:2"
        )
    train, val, test = (*shares, 0.0)[:3]
    return _checked((train, val, test))


def assign(
    table: Table,
    ratio: Sequence[float] = (6, 1, 2),
    seed: int = 0,
    known: Mapping[str, str] | None = None,
) -> Table:
    """The same rows, each with a split; what was done beyond the plain ratio is in the notes.

    Splits that came with the data stay, and only what is missing is made: validation out of train, never out
    of a given test set. known: name -> split of an earlier run, which those rows keep. The result depends on
    names, groups, strata and seed, not on the order of rows. Raises UsageError for a bad ratio, DataError for
    given splits without train.
    """
    shares = _checked(ratio)
    frame = table.frame
    given = pd.Categorical(frame["split"], UNSPLIT).codes.astype(np.int64) - 1
    groups = _groups(frame["group"])
    pool, shares, notes = _pool(given, groups, shares)
    fixed = np.where(pool, UNPLACED, given)
    if known:
        allowed = {
            name: code
            for code, name in enumerate(SPLITS)
            if code != TEST or shares[TEST] or not (~pool).any()
        }
        of_name = [allowed.get(known.get(name, ""), UNPLACED) for name in frame["name"]]
        fixed = np.where(pool, np.array(of_name, np.int64), fixed)
    fixed = _follow(fixed, groups)

    totals = largest_remainder(int(pool.sum()), shares)
    strata, texts = _strata(frame["stratum"])
    splits = fixed.copy()
    free = np.flatnonzero(fixed == UNPLACED)
    if len(free):
        units, sizes, keys = _units(frame, groups, free)
        digests = _digests(keys, seed)
        problem = _Problem(strata, texts, pool, fixed, np.array(totals), [j for j in range(3) if shares[j]])
        if len(units) == len(sizes) and not (pool & (fixed != UNPLACED)).any():
            kinds, quota, kind_of = _alone(problem, strata[free])
        else:
            kinds, quota, kind_of = _greedy(problem, units, strata[free], sizes, digests)
        _cover(problem, kinds, quota)
        splits[free] = _deal(quota, kind_of, digests)[units]

    if (groups < 0).all() and not known:
        made = tuple(np.bincount(splits[pool], minlength=3).tolist())
        if made != totals:
            notes.append(
                f"{_counts(made)} instead of {_counts(totals)}, so that each class reaches each split."
            )
    notes += _torn(frame["group"], groups, splits)
    expected = [j for j in range(3) if shares[j] or (splits == j).any()]
    notes += _uncovered(table, splits, expected)
    done = table.with_splits(np.array(SPLITS)[splits])
    return Table(done.frame, done.classes, done.label_mode, done.root, done.images, (*table.notes, *notes))


def _checked(ratio: Sequence[float]) -> tuple[float, float, float]:
    if len(ratio) != 3 or not all(math.isfinite(share) and share >= 0 for share in ratio) or not ratio[0]:
        text = ":".join(f"{share:g}" for share in ratio)
        raise UsageError(f"split {text} must be train:val:test, none negative and train above 0, as in 6:1:2")
    return ratio[0], ratio[1], ratio[2]


def _pool(
    given: Ints, groups: Ints, shares: tuple[float, float, float]
) -> tuple[npt.NDArray[np.bool_], tuple[float, float, float], list[str]]:
    """Which rows are to be dealt out, in which ratio, and what to tell the user."""
    blank = given == UNPLACED
    has = [bool((given == j).any()) for j in range(3)]
    train_val = (shares[TRAIN], shares[VAL], 0.0)
    if blank.all():
        return blank, shares, []
    if blank.any():
        if has[TEST]:
            shares = train_val
        where = ":".join(f"{share:g}" for share in shares)
        return (
            blank,
            shares,
            [f"{blank.sum()} images without a given split were dealt to train:val:test as {where}."],
        )
    if not has[TRAIN]:
        raise DataError(
            "the given splits hold no train images: mark some as train, or leave their split empty"
        )
    notes = [] if has[TEST] else ["The given splits have no test set, and none was made."]
    if has[VAL] or not shares[VAL]:
        return blank, train_val, notes
    # a group that the given test set tears stays in train
    torn = np.isin(groups, groups[(given == TEST) & (groups >= 0)])
    carved = (given == TRAIN) & ~torn
    val = largest_remainder(int(carved.sum()), train_val)[VAL]
    notes.append(
        f"No validation set was given: about {val} of the {(given == TRAIN).sum()} train images became one."
    )
    return carved, train_val, notes


def _follow(fixed: Ints, groups: Ints) -> Ints:
    """Unplaced rows go where most of their group is."""
    grouped = groups >= 0
    placed = grouped & (fixed != UNPLACED)
    if not placed.any():
        return fixed
    counts = np.bincount(groups[placed] * 3 + fixed[placed], minlength=3 * (groups.max() + 1)).reshape(-1, 3)
    follow = grouped & (fixed == UNPLACED) & (counts.sum(axis=1) > 0)[groups]
    return np.where(follow, counts.argmax(axis=1)[groups], fixed)


def _groups(column: pd.Series[str]) -> Ints:
    """(N,) group number, -1 for a row that is alone."""
    codes, values = pd.factorize(column)
    alone = np.flatnonzero(np.asarray(values == ""))
    return np.where(np.isin(codes, alone), -1, codes).astype(np.int64)


def _strata(column: pd.Series[str]) -> tuple[Ints, list[str]]:
    """(N,) number of the stratum in sorted order, and the sorted strata."""
    values = pd.Categorical(column)
    used = np.unique(values.codes)
    texts = sorted(str(values.categories[code]) for code in used)
    index = {text: i for i, text in enumerate(texts)}
    of_code = np.array([index.get(str(text), -1) for text in values.categories], np.int64)
    return of_code[values.codes], texts


def _units(frame: pd.DataFrame, groups: Ints, free: Ints) -> tuple[Ints, Ints, list[str]]:
    """(F,) unit of each free row; (U,) images and (U,) hash key of each unit."""
    alone = groups[free] < 0
    owner = np.where(alone, groups.max() + 1 + np.arange(len(free)), groups[free])
    _, first, units = np.unique(owner, return_index=True, return_inverse=True)
    keys = np.where(alone[first], frame["name"].iloc[free[first]], frame["group"].iloc[free[first]])
    return units, np.bincount(units), keys.tolist()


def _digests(keys: list[str], seed: int) -> npt.NDArray[np.uint64]:
    start = f"{seed}\0"
    return np.frombuffer(
        b"".join(blake2b((start + key).encode(), digest_size=8).digest() for key in keys), np.uint64
    )


@dataclass
class _Problem:
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


def _quotas(counts: Ints, totals: Ints) -> Ints:
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


def _alone(problem: _Problem, strata: Ints) -> tuple[list[Profile], Ints, Ints]:
    """No groups and nothing fixed: a kind of unit is a stratum, and its quota is exact."""
    counts = np.bincount(strata, minlength=len(problem.texts))
    present = np.flatnonzero(counts)
    kinds: list[Profile] = [((stratum, 1),) for stratum in present.tolist()]
    return kinds, _quotas(counts[present], problem.totals), np.searchsorted(present, strata)


def _greedy(
    problem: _Problem, units: Ints, strata: Ints, sizes: Ints, digests: npt.NDArray[np.uint64]
) -> tuple[list[Profile], Ints, Ints]:
    """Biggest unit first, to the split with room whose squared distance from the quotas falls most."""
    count = len(problem.texts)
    cells, images = np.unique(units * count + strata, return_counts=True)
    pairs = list(zip((cells % count).tolist(), images.tolist(), strict=True))
    ends = np.searchsorted(cells, np.arange(1, len(sizes) + 1) * count).tolist()

    have = problem.counts(problem.pool).tolist()
    in_pool = np.bincount(problem.strata[problem.pool], minlength=count)
    goal = _quotas(in_pool, problem.totals).tolist()
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


def _cover(problem: _Problem, kinds: list[Profile], quota: Ints) -> None:
    """Exchange units between splits, in place, until each class with enough units is in each split.

    A class here is a stratum, and each value of each label column in it, so the result is the same whichever
    of the columns is learnt. Exchanges keep the totals; only where none is possible does a unit move alone.
    """
    numbers: dict[tuple[int, str], int] = {}
    of_stratum = [
        sorted({numbers.setdefault(c, len(numbers)) for c in _classes(text)}) for text in problem.texts
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


def _classes(stratum: str) -> list[tuple[int, str]]:
    columns = stratum.split(STRATUM_SEPARATOR)
    parts = [(i, part) for i, column in enumerate(columns) for part in column.split("|")]
    return [(-1, stratum), *parts]


def _deal(quota: Ints, kind_of: Ints, digests: npt.NDArray[np.uint64]) -> Ints:
    """Within each kind, units in the order of their hashes: the first go to train, the next to val."""
    splits = np.empty(len(kind_of), np.int64)
    splits[np.lexsort((digests, kind_of))] = np.repeat(np.tile(np.arange(3), len(quota)), quota.ravel())
    return splits


def _counts(counts: Sequence[int]) -> str:
    return " / ".join(map(str, counts))


def _torn(names: pd.Series[str], groups: Ints, splits: Ints) -> list[str]:
    grouped = np.flatnonzero(groups >= 0)
    if not len(grouped):
        return []
    cells = np.unique(groups[grouped] * 3 + splits[grouped])
    torn = np.unique(groups[grouped], return_index=True)[1][np.unique(cells // 3, return_counts=True)[1] > 1]
    if not len(torn):
        return []
    shown = sorted(names.iloc[grouped[torn]].tolist())
    return [f"{len(shown)} groups lie in more than one of the given splits, and were left so: {_few(shown)}."]


def _uncovered(table: Table, splits: Ints, expected: list[int]) -> list[str]:
    codes = table.codes()
    notes = []
    for j in expected:
        rows = codes[splits == j]
        counts = rows.sum(axis=0) if codes.ndim == 2 else np.bincount(rows, minlength=len(table.classes))
        absent = [name for name, count in zip(table.classes, counts, strict=True) if not count]
        if absent:
            notes.append(f"{SPLITS[j]} holds no image of {len(absent)} of the classes: {_few(absent)}.")
    return notes


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
