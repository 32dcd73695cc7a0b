"""What a run's numbers say of its fit, in one word and one sentence: never more than their intervals allow.

The rules, in the order in which they are asked, and their thresholds are explained in docs/doctor.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MATTERS = 0.02  # of accuracy: a gap that is surely larger is worth acting on
WIDE = 0.05  # half an interval of the gap, beyond which too little is known of it
MISSED = 0.1  # share of training images that are still wrong, where a fit that falls short is worth naming


@dataclass(frozen=True)
class Measured:
    """A number with half of its 95 % interval."""

    value: float
    half: float

    def __sub__(self, other: Measured) -> Measured:
        """The difference of two that were measured on different images."""
        return Measured(self.value - other.value, math.hypot(self.half, other.half))

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half


@dataclass(frozen=True)
class Evidence:
    """Of the weights that are kept, measured alike on training and validation images."""

    train_loss: Measured
    train_accuracy: Measured
    val_loss: Measured
    val_accuracy: Measured
    images: int  # validation images
    common: float  # share of the most frequent class, which a net that has learnt nothing reaches
    ended: str = ""  # why training ended, where it lost its way


@dataclass(frozen=True)
class Diagnosis:
    word: str
    sentence: str


def diagnose(found: Evidence) -> Diagnosis:
    """One of diverged, stalled, leak suspected, overfit, underfit, can't tell, right fit."""
    gap = found.train_accuracy - found.val_accuracy
    both = (
        f"{percent(found.train_accuracy)} of the training images are right and {percent(found.val_accuracy)} of the "
        f"{found.images:,} validation images"
    )
    between = f"a gap of {points(gap)}"
    if found.ended:
        return Diagnosis("diverged", f"training ended because {found.ended}")
    if found.train_accuracy.low <= found.common:
        return Diagnosis(
            "stalled",
            f"{percent(found.train_accuracy)} of the training images are right, which the most frequent class alone "
            f"would be in {100 * found.common:.1f} %: nothing was learnt that shows",
        )
    loss = found.val_loss - found.train_loss
    if gap.high < 0 and loss.high < 0:
        return Diagnosis(
            "leak suspected",
            f"{both}: validation is better than training beyond chance ({points(gap)}), which honest splits are not; "
            "are the same images or patients on both sides, or are validation's labels easier?",
        )
    if gap.low > MATTERS:
        return Diagnosis(
            "overfit",
            f"{both}: {between}; stronger --augment, --weight-decay, a smaller --model or more images",
        )
    if found.train_accuracy.high < 1 - MISSED:
        return Diagnosis(
            "underfit",
            f"{both}: {between}, but the training images themselves are not learnt; more --epochs, a larger --model "
            "or --image-size, a lighter --augment, unless their labels are that uncertain",
        )
    if gap.half > WIDE:
        return Diagnosis(
            "can't tell",
            f"{both}: {between}, too wide an interval to say; more validation images (--split) would narrow it",
        )
    return Diagnosis("right fit", f"{both}: {between}")


def evidence(kept: Mapping[str, float], images: int, common: float, ended: str = "") -> Evidence:
    """From a run's `Progress.kept`."""

    def measured(name: str) -> Measured:
        return Measured(kept[name], kept[f"{name}_half_width"])

    return Evidence(
        measured("probe_loss"),
        measured("probe_accuracy"),
        measured("val_loss"),
        measured("val_accuracy"),
        images,
        common,
        ended,
    )


def percent(measured: Measured) -> str:
    return f"{100 * measured.value:.1f} ±{100 * measured.half:.1f} %"


def points(measured: Measured) -> str:
    return f"{100 * measured.value:.1f} ±{100 * measured.half:.1f} points"
