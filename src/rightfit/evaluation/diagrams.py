"""The points of a reliability diagram and of ROC and precision-recall curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation import counts, ranking
from rightfit.evaluation.answers import Answers, confidence_of
from rightfit.evaluation.metrics import image_hits

Floats = NDArray[np.float64]
POINTS = 200  # of a curve that are kept


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence; for multilabel one a label."""

    confidence: float  # their mean
    accuracy: float  # the share that came true
    answers: int


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
    number, claim, truth = (np.bincount(bins, weights, counts.BINS) for weights in (None, claimed, came_true))
    return [Bin(claim[i] / number[i], truth[i] / number[i], int(number[i])) for i in np.flatnonzero(number)]


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
