"""Does brightness, colour or size alone tell a class? A shallow tree on image statistics, cross-validated.

A net takes the easiest way to the label. If a depth-3 tree on the mean grey, or on the file's size, already tells
the classes, the net may learn the camera and not the thing (Geirhos et al. 2020, "Shortcut learning in deep neural
networks").
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rightfit.data.audit.facts import Facts

FOLDS = 5
SAMPLE = 5_000  # images that are looked at; intervals are then below a point and a half
CLASSES = 50  # of more classes, the largest
LEAST = 2 * FOLDS  # images that a class and the others need


@dataclass(frozen=True)
class Shortcut:
    """How well `family` alone tells `label` from the rest: balanced accuracy 0..1 (chance is 0.5), 95 % interval."""

    family: str
    label: str
    score: float
    low: float
    high: float
    images: int
    mean: float  # of the family's first statistic, in the class
    others: float  # and in the rest


def shortcuts(
    facts: Facts,
    members: npt.NDArray[np.bool_],
    classes: tuple[str, ...],
    groups: npt.NDArray[np.int64],
    seed: int,
) -> list[Shortcut]:
    """members: (N, K), is image i of class k. groups: (N,), images of one group are in one fold. Best first.

    The score is that of trees of depth 3 on images they were not fitted to (5 folds, class weights balanced);
    the interval is of the mean of two shares (the class found, the rest found), by the normal approximation.
    """
    rows = np.flatnonzero(facts.ok)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng([seed, 7]).choice(rows, SAMPLE, replace=False))
    counts = members[rows].sum(axis=0)
    wanted = [int(k) for k in np.argsort(-counts, kind="stable") if LEAST <= counts[k] <= len(rows) - LEAST]
    if len(classes) == 2 and not (members.sum(axis=1) > 1).any():
        wanted = wanted[-1:]  # the one is not the other: the smaller class
    if not wanted:
        return []
    found = []
    for family, columns in _families(facts, rows).items():
        if not np.ptp(columns, axis=0).any():
            continue
        for k in wanted[:CLASSES]:
            is_member = members[rows, k]
            tallied = _cross_validated(columns, is_member, groups[rows], seed)
            if tallied is not None:
                first = columns[:, 0]
                means = float(first[is_member].mean()), float(first[~is_member].mean())
                found.append(Shortcut(family, classes[k], *tallied, len(rows), *means))
    return sorted(found, key=lambda shortcut: -shortcut.score)


def _families(facts: Facts, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.float64]]:
    light = facts.light[rows].astype(np.float64)
    families = {"brightness": light[:, :2], "colour": light[:, 2:]}
    if facts.headers is not None and facts.sizes is not None:
        sides = np.array([_sides(facts.headers[row]) for row in rows], np.float64).reshape(-1, 2)
        area = np.maximum(sides.prod(axis=1), 1)
        families["image size"] = np.column_stack([area, sides, sides[:, 1] / np.maximum(sides[:, 0], 1)])
        # bytes a pixel: another encoder or camera
        families["file size"] = np.column_stack([facts.sizes[rows], facts.sizes[rows] / area])
    return families


def _sides(header: Any) -> tuple[int, int]:
    return (0, 0) if header is None else (header.height, header.width)


def _cross_validated(
    columns: npt.NDArray[np.float64],
    is_member: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.int64],
    seed: int,
) -> tuple[float, float, float] | None:
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.tree import DecisionTreeClassifier

    alone = len(np.unique(groups)) == len(groups)
    folds: Any = (StratifiedKFold if alone else StratifiedGroupKFold)(FOLDS, shuffle=True, random_state=seed)
    predicted = np.zeros(len(columns), bool)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a class with fewer groups than folds
            for train, held_out in folds.split(columns, is_member, groups):
                tree = DecisionTreeClassifier(
                    max_depth=3, min_samples_leaf=5, class_weight="balanced", random_state=seed
                )
                predicted[held_out] = tree.fit(columns[train], is_member[train]).predict(columns[held_out])
    except ValueError:  # too few groups
        return None
    shares = [float(predicted[is_member].mean()), float((~predicted[~is_member]).mean())]
    sizes = [int(is_member.sum()), int((~is_member).sum())]
    score = sum(shares) / 2
    # Agresti and Coull 1998: two more of each outcome, so that a perfect share has an interval as well
    eased = [(share * n + 2) / (n + 4) for share, n in zip(shares, sizes, strict=True)]
    variance = sum(p * (1 - p) / (n + 4) for p, n in zip(eased, sizes, strict=True)) / 4
    half = 1.96 * math.sqrt(variance)
    return score, max(0.0, score - half), min(1.0, score + half)
