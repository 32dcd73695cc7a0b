"""Logits in; probabilities, answers, losses and hits of each image out, and an epoch's line of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import RightfitError
from rightfit.evaluation.intervals import half_width

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Quick:
    """What an epoch's line shows."""

    loss: float
    accuracy: float
    accuracy_half_width: float


def probabilities(logits: NDArray[Any], label_mode: str, temperature: float = 1.0) -> Floats:
    """Logits (N, outputs) -> (N, classes): softmax; for binary both columns; one sigmoid each for multilabel.

    `temperature` divides the logits (evaluation/calibration.py).
    """
    z = logits.astype(np.float64) / temperature
    if label_mode == "categorical":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    positive = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
    return np.hstack([1 - positive, positive]) if label_mode == "binary" else positive


def finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same; RightfitError where some are no finite numbers, which are no answer."""
    if lost := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise RightfitError(
            f"what the model gives for {lost:,} of {len(logits):,} images are no finite numbers: its weights are "
            "damaged, or overflow on them; try --precision float32, or train again at a lower --learning-rate"
        )
    return logits


def decide(
    shares: Floats, label_mode: str, classes: tuple[str, ...], thresholds: Floats | None = None
) -> list[str]:
    """The likeliest class of each row of `shares` (N, classes); for multilabel all over 1/2, joined by |.

    `thresholds` replace the 1/2: (1,) that of the second class for binary, (classes,) for multilabel.
    """
    if label_mode == "multilabel":
        said = shares > (0.5 if thresholds is None else thresholds)
        return ["|".join(c for c, yes in zip(classes, row, strict=True) if yes) for row in said]
    if label_mode == "binary" and thresholds is not None:
        return [classes[int(share > thresholds[0])] for share in shares[:, 1]]
    return [classes[i] for i in shares.argmax(axis=1)]


def image_losses(logits: NDArray[Any], targets: NDArray[np.float32], label_mode: str) -> Floats:
    """Cross entropy of each image (N,), in nats; targets (N, outputs)."""
    z, y = logits.astype(np.float64), targets.astype(np.float64)
    if label_mode == "categorical":
        shifted = z - z.max(axis=1, keepdims=True)
        return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - (y * shifted).sum(axis=1))
    return np.asarray((np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean(axis=1))


def image_hits(logits: NDArray[Any], targets: NDArray[np.float32], label_mode: str) -> Floats:
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
