"""Metrics that are functions of counts: of the right answers, the true classes and the answers of each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def of_each_class(right: Floats, true: Floats, said: Floats) -> dict[str, Floats]:
    """Recall, precision and F1 of each class, all (C, R); NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"recall": right / true, "precision": right / said, "f1": 2 * right / (true + said)}


def averaged(each: dict[str, Floats], true: Floats, said: Floats) -> dict[str, Floats]:
    """Means over the classes that occur or were answered, plain ("macro") and by images ("weighted"), (1, R).

    As in scikit-learn a precision or recall without anything to divide by counts as 0.
    """
    occurs = (true + said) > 0
    found = {}
    with np.errstate(invalid="ignore", divide="ignore"):
        for name, values in each.items():
            known = np.where(np.isnan(values), 0, values)
            found[f"macro {name}"] = known.sum(axis=0, keepdims=True) / occurs.sum(axis=0)
            found[f"weighted {name}"] = (known * true).sum(axis=0, keepdims=True) / true.sum(axis=0)
    return found


def agreement(right: Floats, true: Floats, said: Floats) -> dict[str, Floats]:
    """Cohen's (1960) kappa and the Matthews correlation of many classes (Gorodkin 2004), classes on axis 0.

    MCC is 0 where one class takes all answers, as in scikit-learn; kappa is NaN where one class is all.
    """
    total, hits = true.sum(axis=0), right.sum(axis=0)
    by_chance = (true * said).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa = (hits * total - by_chance) / (total**2 - by_chance)
        spread = np.sqrt((total**2 - (said**2).sum(axis=0)) * (total**2 - (true**2).sum(axis=0)))
        mcc = np.where(spread > 0, (hits * total - by_chance) / spread, 0.0)
    return {"kappa": kappa, "mcc": mcc}


def quadratic_kappa(distance: Floats, true: Floats, said: Floats) -> Floats:
    """Cohen's (1968) kappa of ordered classes, (1, R): `distance` (1, R) sums the squared steps between
    truth and answer; true and said (C, R)."""
    steps = np.arange(len(true), dtype=np.float64)
    total = true.sum(axis=0)
    by_chance = (
        steps**2 @ true * total + total * (steps**2 @ said) - 2 * (steps @ true) * (steps @ said)
    ) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - distance / by_chance)


def mean(values: Floats) -> Floats:
    """(S, R) -> (1, R) over those that are defined."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0).sum(axis=0, keepdims=True) / known.sum(axis=0))


BINS = 15


def confidence_bin(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each confidence, of 15 of equal width, closed above (Guo et al. 2017, section 2)."""
    return np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64)


def calibration_error(excess: Floats, answers: Floats) -> Floats:
    """Expected calibration error (1, R): `excess` (BINS, R) sums confidence minus right answers in each bin."""
    return np.asarray(np.abs(excess).sum(axis=0, keepdims=True) / answers)
