"""The points of a reliability diagram and of ROC and precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation import counts, ranking
from rightfit.evaluation.answers import Answers, confidence_of
from rightfit.evaluation.intervals import Z, half_width
from rightfit.evaluation.metrics import image_hits

Floats = NDArray[np.float64]
POINTS = 200  # of a curve that are kept


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence; for multilabel one a label."""

    confidence: float  # their mean
    accuracy: float  # the share that came true
    answers: int
    half_width: float  # of the 95 % interval of that share, groups (patients) whole; 1 by a single one


@dataclass(frozen=True)
class Curve:
    """One class against the rest, from the highest score to the lowest; (T,) each."""

    name: str
    false_positive_rate: Floats  # 1 - specificity
    true_positive_rate: Floats  # sensitivity, which is recall
    precision: Floats
    share: float  # of the images that are of the class


def reliability(answers: Answers, raw: bool = False) -> list[Bin]:
    """The bins of the expected calibration error that hold answers; `raw`: as trained, at temperature 1."""
    hits = image_hits(answers.raw, answers.targets, answers.label_mode)
    confidence, right = confidence_of(answers.raw if raw else answers.logits, hits, answers)
    claimed, came_true = np.ravel(confidence), np.ravel(np.asarray(right, np.float64))
    bins = counts.confidence_bin(claimed)
    together = np.arange(len(answers.raw)) if answers.groups is None else answers.groups
    together = np.repeat(together, claimed.size // len(answers.raw))
    found = []
    for number in np.unique(bins):
        here = bins == number
        right, groups = came_true[here], together[here]
        found.append(Bin(claimed[here].mean(), right.mean(), len(right), _half_width(right, groups)))
    return found


def _half_width(right: Floats, groups: NDArray[np.int64]) -> float:
    """Not below that of half an answer more or less, where all groups agree."""
    count = len(np.unique(groups))
    return max(half_width(right, groups), Z / (2 * count)) if count > 1 else 1.0


def curves(answers: Answers) -> list[Curve]:
    """Of each ranked class that has images and lacks some."""
    found = []
    for name, scores, positive in zip(answers.ranked, answers.scores().T, answers.truth.T, strict=True):
        if positive.all() or not positive.any():
            continue
        above, below = (
            np.cumsum(side[:, 0]) for side in ranking.tables(ranking.thresholds(scores), positive)
        )
        kept = np.unique(np.linspace(0, len(above) - 1, POINTS).round().astype(np.int64))
        hits, alarms = above[kept], below[kept]
        found.append(
            Curve(
                name,
                np.concatenate([[0], alarms / alarms[-1]]),
                np.concatenate([[0], hits / hits[-1]]),
                np.concatenate([[hits[0] / (hits[0] + alarms[0])], hits / (hits + alarms)]),
                float(positive.mean()),
            )
        )
    return found
