"""Gives each row of a table a split: exact totals, each class in each split, groups whole, and repeatable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pandas as pd

from rightfit.console import few
from rightfit.data.dealing import (
    TEST,
    TRAIN,
    UNPLACED,
    VAL,
    Ints,
    Problem,
    cover,
    deal,
    exact,
    greedy,
    largest_remainder,
)
from rightfit.data.table import SPLITS, UNSPLIT, Table
from rightfit.errors import DataError, UsageError


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
    of a given test set. known: name -> split of an earlier run, which those rows keep unless that would tear a
    group: such a group is dealt out anew. The result depends on names, groups, strata and seed, not on the order of
    rows. Raises UsageError for a bad ratio, DataError for given splits without train, and where a split of an
    earlier run would lose all that it held.
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
    before = np.unique(fixed)
    fixed = _follow(_untorn(fixed, groups, pool), groups)

    totals = largest_remainder(int(pool.sum()), shares)
    strata, texts = _strata(frame["stratum"])
    splits = fixed.copy()
    free = np.flatnonzero(fixed == UNPLACED)
    if len(free):
        units, sizes, keys = _units(frame, groups, free)
        digests = _digests(keys, seed)
        problem = Problem(strata, texts, pool, fixed, np.array(totals), [j for j in range(3) if shares[j]])
        if len(units) == len(sizes) and not (pool & (fixed != UNPLACED)).any():
            kinds, quota, kind_of = exact(problem, strata[free])
        else:
            kinds, quota, kind_of = greedy(problem, units, strata[free], sizes, digests)
        cover(problem, kinds, quota)
        splits[free] = deal(quota, kind_of, digests)[units]
    if emptied := [SPLITS[j] for j in before if j != UNPLACED and not (splits == j).any()]:
        raise DataError(
            f"the split of an earlier run tears groups, and with each of them whole no image of it is left for "
            f"{' and '.join(emptied)}: there are too few groups (near-duplicates are one, too); correct them, or deal "
            "out anew with another --split"
        )

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


def _untorn(fixed: Ints, groups: Ints, pool: npt.NDArray[np.bool_]) -> Ints:
    """Without the places in the pool that would tear a group: they are dealt out anew."""
    placed = (groups >= 0) & (fixed != UNPLACED)
    if not placed.any():
        return fixed
    sides = np.bincount(np.unique(groups[placed] * 3 + fixed[placed]) // 3, minlength=groups.max() + 1)
    return np.where(pool & (groups >= 0) & (sides > 1)[groups], UNPLACED, fixed)


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
    return [f"{len(shown)} groups lie in more than one of the given splits, and were left so: {few(shown)}."]


def _uncovered(table: Table, splits: Ints, expected: list[int]) -> list[str]:
    codes = table.codes()
    notes = []
    for j in expected:
        rows = codes[splits == j]
        counts = rows.sum(axis=0) if codes.ndim == 2 else np.bincount(rows, minlength=len(table.classes))
        absent = [name for name, count in zip(table.classes, counts, strict=True) if not count]
        if absent:
            notes.append(f"{SPLITS[j]} holds no image of {len(absent)} of the classes: {few(absent)}.")
    return notes
