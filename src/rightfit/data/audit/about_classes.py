"""Findings about classes and splits: counts, classes that a split lacks, shortcuts, too few validation images."""

from __future__ import annotations

import math

import numpy as np

from rightfit.console import few
from rightfit.data.audit.findings import Finding, Severity
from rightfit.data.audit.shortcuts import Shortcut, shortcuts
from rightfit.data.audit.subject import Subject
from rightfit.data.table import SPLITS

UNEVEN, VERY_UNEVEN = 3.0, 20.0  # times the smallest class
TELLING, TELLS = (
    0.65,
    0.75,
)  # lower end of balanced accuracy; chance is 0.5, and 0.75 is half way to always right
WANTED = 0.02  # the difference in accuracy that one wants to see
ASSUMED = 0.9  # the accuracy at which it is reckoned; at 0.5 it takes 2.8 times the images
COARSE = 0.05  # an interval that wide hides most of what a change of settings does


def about_classes(subject: Subject, seed: int = 0) -> list[Finding]:
    return [
        *single_class(subject),
        *imbalance(subject),
        *missing_classes(subject),
        *class_shortcuts(subject, seed),
        *small_validation(subject),
    ]


def single_class(subject: Subject) -> list[Finding]:
    """Two classes were named, but only one can be read."""
    counts = subject.members[subject.facts.ok].sum(axis=0)
    if not subject.facts.ok.any() or (counts > 0).sum() > 1 or subject.table.label_mode == "multilabel":
        return []
    name = subject.table.classes[int(counts.argmax())]
    return [
        Finding(
            "error", "single-class", f"Only images of one class can be read ({name!r}): nothing to learn."
        )
    ]


def imbalance(subject: Subject) -> list[Finding]:
    counts = subject.members[subject.facts.ok].sum(axis=0)
    most, least = int(counts.argmax()), int(counts.argmin())
    ratio = counts[most] / max(int(counts[least]), 1)
    if ratio < UNEVEN:
        return []
    classes = subject.table.classes
    severity: Severity = "warning" if ratio >= VERY_UNEVEN else "note"
    text = (
        f"{classes[most]!r} has {counts[most]:,} images and {classes[least]!r} {counts[least]:,}: "
        f"{ratio:.0f} times fewer."
    )
    advice = "read recall by class, not accuracy"
    if subject.table.label_mode != "multilabel":
        advice = f"training weighs classes by how rare they are (--class-weights); {advice}"
    return [Finding(severity, "imbalance", text, advice, figures={"ratio": round(float(ratio), 1)})]


def missing_classes(subject: Subject) -> list[Finding]:
    splits, members = subject.splits, subject.members
    found = []
    for name in SPLITS:
        rows = splits == name
        if not rows.any():
            continue
        absent = [c for c, n in zip(subject.table.classes, members[rows].sum(axis=0), strict=True) if not n]
        if absent:
            what = few([*map(repr, absent)])
            consequence = "they cannot be learnt" if name == "train" else "nothing is measured of them"
            text = f"The {name} split holds no image of {len(absent)} of {members.shape[1]} classes: {what}."
            figures = {"split": name, "classes": absent}
            found.append(Finding("warning", "missing-class", text, consequence, figures=figures))
    return found


def class_shortcuts(subject: Subject, seed: int) -> list[Finding]:
    found = shortcuts(subject.facts, subject.members, subject.table.classes, subject.groups, seed)
    return [_shortcut(shortcut) for shortcut in found if shortcut.low >= TELLING]


def _shortcut(found: Shortcut) -> Finding:
    severity: Severity = "warning" if found.low >= TELLS else "note"
    text = (
        f"The {found.family} alone tells {found.label!r} from the rest: {100 * found.score:.0f} % right "
        f"({100 * found.low:.0f} to {100 * found.high:.0f}; chance is 50)."
    )
    advice = "if it is how they were taken and not what they show, a net learns it all the same: level it out"
    figures = {
        "family": found.family,
        "class": found.label,
        "balanced_accuracy": {"value": found.score, "low": found.low, "high": found.high},
        "images": found.images,
        "mean": found.mean,
        "others": found.others,
    }
    return Finding(severity, "shortcut", text, advice, figures=figures)


def images_for(difference: float, accuracy: float = ASSUMED) -> int:
    """How many images show an accuracy to +- `difference` (95 %, normal approximation)."""
    return math.ceil(1.96**2 * accuracy * (1 - accuracy) / difference**2)


def small_validation(subject: Subject) -> list[Finding]:
    rows = np.flatnonzero(subject.splits == "val")
    needed = images_for(WANTED)
    count = len(np.unique(subject.groups[rows]))  # images of one patient are not that many opinions
    if count >= needed or not subject.facts.ok.any():
        return []
    unit = "images" if count == len(rows) else "groups"
    what = unit if unit == "images" else f"groups ({len(rows):,} images)"
    half = 1.96 * math.sqrt(ASSUMED * (1 - ASSUMED) / count) if count else float("nan")
    shown = f"show an accuracy of {ASSUMED:.0%} to ±{100 * half:.1f} points" if count else "show nothing"
    severity: Severity = "warning" if not count or half > COARSE else "note"
    text = f"{count:,} validation {what} {shown}; ±{100 * WANTED:.0f} points take {needed:,} {unit}."
    advice = "take smaller differences for chance"
    if not subject.given:
        advice += ", or a larger share for validation, as in --split 5:3:2"
    figures = {
        "images": len(rows),
        "independent": count,
        "needed": needed,
        "half_width": half if count else None,
    }
    return [Finding(severity, "small-validation", text, advice, figures=figures)]
