"""What validation images teach about a trained model's logits: a temperature, and thresholds to decide at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.metrics import image_losses, probabilities
from rightfit.evaluation.ranking import GIVEN

Floats = NDArray[np.float64]
POINTS = ("youden", "specificity-95", "sensitivity-95")


@dataclass(frozen=True)
class Calibration:
    """Logits are divided by `temperature`; `points` holds a threshold on the probability of each label
    (of the second class for binary), (labels,), by the name of the operating point: NaN for a label that has none."""

    temperature: float = 1.0
    points: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        points = {name: [None if np.isnan(one) else one for one in row] for name, row in self.points.items()}
        return {"temperature": self.temperature, "points": points}

    def lacking(self, labels: tuple[str, ...]) -> list[str]:
        """Those of several `labels`, in order, that have no operating point."""
        rows = [row for row in self.points.values() if len(row) == len(labels)]
        return [name for k, name in enumerate(labels) if rows and all(np.isnan(row[k]) for row in rows)]


def from_dict(content: dict[str, Any], labels: int) -> Calibration:
    """Raises ValueError, TypeError or KeyError for what is no calibration of so many labels."""
    temperature = float(content["temperature"])
    points = {
        str(name): [np.nan if one is None else float(one) for one in row]
        for name, row in content["points"].items()
    }
    if not (0 < temperature < np.inf) or any(len(row) != labels for row in points.values()):
        raise ValueError(f"temperature {temperature} and thresholds of {labels} labels do not fit")
    return Calibration(temperature, points)


def calibrate(logits: NDArray[np.float32], targets: NDArray[np.float32], label_mode: str) -> Calibration:
    """Of validation images, logits and targets (N, outputs): no other image may decide either. A label that all of
    them have, or none, has no operating points."""
    temperature = fitted_temperature(logits, targets, label_mode)
    if label_mode == "categorical":
        return Calibration(temperature)
    shares = probabilities(logits, label_mode, temperature)
    scores = shares[:, 1:] if label_mode == "binary" else shares
    truth = targets > 0.5
    chosen = [operating_points(s, p) for s, p in zip(scores.T, truth.T, strict=True)]
    if not any(chosen):
        return Calibration(temperature)
    return Calibration(temperature, {name: [point.get(name, np.nan) for point in chosen] for name in POINTS})


def fitted_temperature(logits: NDArray[np.float32], targets: NDArray[np.float32], label_mode: str) -> float:
    """What the logits (N, outputs) are divided by so that the loss is least (Guo et al. 2017, section 4.2).

    log T has a standard normal prior, which half a dozen images outweigh where they say something; without
    it a few images that are all right would be taken for certainty. No answer changes, since T is positive.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        cooled = logits.astype(np.float64) / np.exp(log_temperature)
        return float(image_losses(cooled, targets, label_mode).sum()) + log_temperature**2 / 2

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-5}).x))


def at_fitted_temperature(shares: Floats, targets: NDArray[np.float32], label_mode: str) -> Floats:
    """Probabilities (N, classes) of images that had no part in them -> the same at the temperature that fits their
    targets (N, outputs) best. Heads fitted to few images are far surer than they are right."""
    z = np.log(np.clip(shares, 1e-12, 1))
    if label_mode == "binary":
        z = z[:, 1:] - z[:, :1]
    elif label_mode == "multilabel":
        z = z - np.log(np.clip(1 - shares, 1e-12, 1))
    z = z.astype(np.float32)
    return probabilities(z, label_mode, fitted_temperature(z, targets, label_mode))


def operating_points(scores: Floats, positive: NDArray[np.bool_]) -> dict[str, float]:
    """Thresholds by name, an image above one is called positive; scores and truth (N,).

    youden: sensitivity + specificity is largest (Youden 1950). specificity-95: the highest sensitivity of
    those with a specificity of at least 0.95; sensitivity-95 the other way round. None without both classes.
    """
    if positive.all() or not positive.any():
        return {}
    levels = np.unique(scores)
    candidates = np.concatenate([[levels[0] / 2], (levels[1:] + levels[:-1]) / 2, [(1 + levels[-1]) / 2]])
    sensitivity = _share_above(scores[positive], candidates)
    specificity = 1 - _share_above(scores[~positive], candidates)

    def best(gain: Floats, allowed: NDArray[np.bool_]) -> float:
        ranked = np.where(allowed, gain, -np.inf)
        tied = np.flatnonzero(ranked >= ranked.max() - 1e-12)
        return float(candidates[tied[len(tied) // 2]])

    return {
        "youden": best(sensitivity + specificity, np.ones(len(candidates), bool)),
        "specificity-95": best(sensitivity + specificity / 1e6, specificity >= GIVEN - 1e-12),
        "sensitivity-95": best(specificity + sensitivity / 1e6, sensitivity >= GIVEN - 1e-12),
    }


def _share_above(scores: Floats, thresholds: Floats) -> Floats:
    return np.asarray(1 - np.searchsorted(np.sort(scores), thresholds, side="right") / len(scores))
