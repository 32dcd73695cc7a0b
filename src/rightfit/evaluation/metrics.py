"""Metrics of a split from its logits: counted over every image, divided once, each with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.intervals import bootstrap, group_sums, half_width, open_ends

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True)
class Quick:
    """What an epoch's line shows."""

    loss: float
    accuracy: float
    accuracy_half_width: float


def probabilities(logits: NDArray[np.float32], label_mode: str) -> Floats:
    """Logits (N, outputs) -> (N, classes): softmax; for binary both columns; one sigmoid each for multilabel."""
    z = logits.astype(np.float64)
    if label_mode == "categorical":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    positive = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
    return np.hstack([1 - positive, positive]) if label_mode == "binary" else positive


def decide(shares: Floats, label_mode: str, classes: tuple[str, ...]) -> list[str]:
    """The likeliest class of each row of `shares` (N, classes); for multilabel all over 1/2, joined by |."""
    if label_mode != "multilabel":
        return [classes[i] for i in shares.argmax(axis=1)]
    return ["|".join(c for c, s in zip(classes, row, strict=True) if s > 0.5) for row in shares]


def image_losses(logits: NDArray[np.float32], targets: NDArray[np.float32], label_mode: str) -> Floats:
    """Cross entropy of each image (N,), in nats; targets (N, outputs)."""
    z, y = logits.astype(np.float64), targets.astype(np.float64)
    if label_mode == "categorical":
        shifted = z - z.max(axis=1, keepdims=True)
        return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - (y * shifted).sum(axis=1))
    return np.asarray((np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean(axis=1))


def image_hits(logits: NDArray[np.float32], targets: NDArray[np.float32], label_mode: str) -> Floats:
    """1 for a right answer, 0 for a wrong one (N,); for multilabel the share of labels that are right."""
    if label_mode == "categorical":
        return np.asarray(logits.argmax(axis=1) == targets.argmax(axis=1), np.float64)
    return np.asarray(((logits > 0) == (targets > 0.5)).mean(axis=1), np.float64)


def quick(
    logits: NDArray[np.float32],
    targets: NDArray[np.float32],
    label_mode: str,
    groups: NDArray[np.int64] | None = None,
) -> Quick:
    hits = image_hits(logits, targets, label_mode)
    loss = float(image_losses(logits, targets, label_mode).mean())
    return Quick(loss, float(hits.mean()), half_width(hits, groups))


def summary(
    logits: NDArray[np.float32],
    targets: NDArray[np.float32],
    label_mode: str,
    classes: tuple[str, ...],
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Accuracy, loss and balanced accuracy with 95 % bootstrap intervals over `groups`, and the recall
    of each class; logits and targets (N, outputs). Plain numbers, ready for JSON.

    Balanced accuracy is the mean recall of the classes that occur; for multilabel the mean over
    labels of the mean of sensitivity and specificity.
    """
    hits = image_hits(logits, targets, label_mode)
    of_class, right = _class_columns(logits, targets, label_mode)
    columns = np.hstack(
        [
            np.ones((len(hits), 1)),
            hits[:, None],
            image_losses(logits, targets, label_mode)[:, None],
            of_class,
            right,
        ]
    )
    kinds = of_class.shape[1]

    def statistic(sums: Floats) -> Floats:
        count, hit, loss = sums[:, 0], sums[:, 1], sums[:, 2]
        with np.errstate(invalid="ignore", divide="ignore"):
            recalls = sums[:, 3 + kinds :] / sums[:, 3 : 3 + kinds]
        present = ~np.isnan(recalls)
        balanced = np.where(present, recalls, 0).sum(axis=1) / np.maximum(1, present.sum(axis=1))
        return np.column_stack([hit / count, loss / count, balanced, recalls])

    values = statistic(columns.sum(axis=0, keepdims=True))[0]
    low, high = bootstrap(columns, statistic, groups)
    draws = np.concatenate([[len(hits), 0, 0], of_class.sum(axis=0)])  # images behind each share
    if groups is not None:
        members = group_sums(of_class, groups)[0] > 0
        draws = np.concatenate([[len(members), 0, 0], members.sum(axis=0)])
    low, high = open_ends(values, low, high, draws)
    estimates = [asdict(Estimate(*map(float, triple))) for triple in zip(values, low, high, strict=True)]
    names = (
        classes
        if label_mode != "multilabel"
        else [f"{c}: {s}" for s in ("absent", "present") for c in classes]
    )
    return {
        "images": len(hits),
        "groups": len(hits) if groups is None else len(np.unique(groups)),
        "accuracy": estimates[0],
        "loss": estimates[1],
        "balanced_accuracy": estimates[2],
        "recall": {n: e for n, e in zip(names, estimates[3:], strict=True) if not np.isnan(e["value"])},
        "interval": "95 %, percentile bootstrap over groups, 2000 resamples",
    }


def _class_columns(
    logits: NDArray[np.float32], targets: NDArray[np.float32], label_mode: str
) -> tuple[Floats, Floats]:
    """Is the image of the class, and is it and was it found: each (N, classes), or (N, 2 * labels)."""
    if label_mode == "categorical":
        truth, answer = (np.eye(targets.shape[1])[a.argmax(axis=1)] for a in (targets, logits))
    else:
        positive, said = targets > 0.5, logits > 0
        truth = np.hstack([~positive, positive]).astype(np.float64)
        answer = np.hstack([~said, said]).astype(np.float64)
    return truth, truth * answer
