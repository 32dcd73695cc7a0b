"""How well scores put the images of a class above all others: ROC and precision-recall, from cumulated counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Truths = NDArray[np.bool_]
GIVEN = 0.95  # the specificity at which sensitivity is reported, and the other way round
BINS = 1024  # thresholds of a resample; with fewer different scores it is exact


def of_curve(above: Floats, below: Floats) -> dict[str, Floats]:
    """Statistics (R,) from the positives and the negatives (T, R) at each threshold, highest score first.

    Area under the ROC curve, ties counted half (Hanley and McNeil 1982); average precision; the highest
    sensitivity with a specificity of at least 0.95, and the other way round. NaN without both classes.
    """
    hits, alarms = np.cumsum(above, axis=0), np.cumsum(below, axis=0)
    positives, negatives = hits[-1], alarms[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = np.einsum("tr,tr->r", below, hits - above / 2)
        precision = np.where(above > 0, hits / (hits + alarms), 0)
        # 1e-9: a share such as 0.95 of 20 is not always 19 in floating point
        sensitivity = np.where(alarms <= (1 - GIVEN) * negatives + 1e-9, hits, 0).max(axis=0) / positives
        misses = np.where(hits >= GIVEN * positives - 1e-9, alarms, np.inf).min(axis=0)
        found = {
            "auroc": pairs / (positives * negatives),
            "auprc": np.einsum("tr,tr->r", above, precision) / positives,
            "sensitivity_at_specificity": sensitivity,
            "specificity_at_sensitivity": 1 - misses / negatives,
        }
        both = (positives > 0) & (negatives > 0)
        return {name: np.where(both, values, np.nan) for name, values in found.items()}


def of_curves(sums: Floats, classes: int) -> dict[str, Floats]:
    """sums (classes * T * 2, R), negatives before positives at each threshold -> statistics (classes, R)."""
    tables = sums.reshape(classes, -1, 2, sums.shape[1])
    return stacked([of_curve(table[:, 1], table[:, 0]) for table in tables])


def stacked(each: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.stack([found[name] for found in each]) for name in each[0]}


def tables(numbers: Codes, positive: Truths) -> tuple[Floats, Floats]:
    """Positives and negatives (T, 1) at each threshold from the number and the truth of each image (N,)."""
    size = int(numbers.max()) + 1
    above, below = (np.bincount(numbers[side], minlength=size) for side in (positive, ~positive))
    return above[:, None].astype(np.float64), below[:, None].astype(np.float64)


def thresholds(scores: Floats) -> Codes:
    """The number of each image's threshold (N,), 0 for the highest score; equal scores share one."""
    distinct, number = np.unique(scores, return_inverse=True)
    return np.asarray(len(distinct) - 1 - number, np.int64)


def joined(numbers: Codes, positive: Truths, most: int = BINS) -> Codes:
    """The same with neighbours joined until `most` are left: the first quarter stays as it is, since precision
    changes fastest there; the rest has about equal shares of either class, so that a rare one stays apart."""
    if int(numbers.max()) < most:
        return numbers
    hits, alarms = (np.cumsum(side[:, 0]) for side in tables(numbers, positive))
    passed = (hits / max(1, hits[-1]) + alarms / max(1, alarms[-1])) / 2
    first = most // 4
    rest = (passed * (most - first - 1)).astype(np.int64)
    return (np.minimum(np.arange(len(passed)), first) + rest)[numbers]
