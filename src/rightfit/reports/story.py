"""All that a page tells of one run, as plain values: who gathers it knows runs, who draws it need not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rightfit.evaluation.answers import Answers


@dataclass(frozen=True)
class Picture:
    """An image of a run with what is wrong about it; `source` and `heat` are data URIs, or ""."""

    name: str
    source: str
    given: str  # the label it has
    said: str  # the model's answer, or the label it looks like
    probability: float
    label: str = ""  # of several labels, the one that this is about
    heat: str = ""


@dataclass(frozen=True)
class Suspects:
    pictures: Sequence[Picture]
    count: int
    images: int  # whose labels were judged
    unknown: Sequence[str] = ()  # classes of too few images to judge


@dataclass(frozen=True)
class Story:
    """All that a page tells of one run; what a run has not got is empty."""

    name: str
    settings: Mapping[str, Any]
    classes: Sequence[str]
    label_mode: str
    counts: Mapping[str, int]  # split -> images
    common: tuple[str, float] = ("", 0.0)  # the most frequent class of validation, and its share
    history: Sequence[Mapping[str, float]] = ()
    kept: int | None = None  # the epoch
    planned: int = 0
    going_on: bool = False
    stopped: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)  # metrics.json
    answers: Answers | None = None  # of the validation images
    wrong: int = 0
    mistakes: Sequence[Picture] = ()
    suspects: Suspects | None = None
    findings: Sequence[Mapping[str, Any]] = ()  # of the audit, with `sets` of thumbnails
    audited: int = 0
    decisions: Sequence[Mapping[str, Any]] = ()
    openings: Sequence[Mapping[str, Any]] = ()  # the test ledger's lines
    search: Mapping[str, Any] = field(default_factory=dict)  # search/tuning.json
    learning_curve: Mapping[str, Any] = field(default_factory=dict)  # learning_curve.json
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
