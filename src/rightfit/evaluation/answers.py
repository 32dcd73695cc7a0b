"""The images of a split as they were labelled and answered; the columns they make, and every metric of their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation import counts
from rightfit.evaluation.calibration import Calibration
from rightfit.evaluation.intervals import Statistic
from rightfit.evaluation.metrics import image_hits, image_losses, probabilities
from rightfit.evaluation.slices import Slices
from rightfit.evaluation.sums import Sums

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]


@dataclass(frozen=True)
class Answers:
    """N images as they were labelled and answered."""

    logits: Floats  # (N, outputs), divided by the temperature
    raw: Floats  # (N, outputs), as the model gave them
    targets: NDArray[np.float32]
    label_mode: str
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None

    @property
    def several(self) -> bool:
        return self.label_mode == "multilabel"

    @property
    def kinds(self) -> tuple[str, ...]:
        """What recall and precision are of: the classes, or each label absent and present."""
        if not self.several:
            return self.classes
        return tuple(f"{name}: {state}" for state in ("absent", "present") for name in self.classes)

    def codes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True and answered class of each image (N,)."""
        if self.label_mode == "binary":
            return (self.targets[:, 0] > 0.5).astype(np.int64), (self.raw[:, 0] > 0).astype(np.int64)
        return self.targets.argmax(axis=1), self.raw.argmax(axis=1)

    @property
    def ranked(self) -> tuple[str, ...]:
        """What images are ranked by: the second class of binary, else every class."""
        return self.classes[1:] if self.label_mode == "binary" else self.classes

    @property
    def truth(self) -> Truths:
        """(N, ranked)"""
        return self.targets > 0.5

    def scores(self) -> Floats:
        """(N, ranked): higher is more of that class."""
        if self.label_mode == "categorical":
            return probabilities(self.logits, self.label_mode)
        return self.logits

    @property
    def top(self) -> int:
        """Top 5, or top 2 where 5 would be nearly all."""
        return 5 if len(self.classes) > 10 else 2


def columns_of(answers: Answers, calibration: Calibration, slices: Slices) -> Sums:
    truth, logits, mode = answers.truth, answers.logits, answers.label_mode
    count = len(logits)
    hits = image_hits(answers.raw, answers.targets, mode)
    shares = probabilities(logits, mode)
    columns = Sums(count, answers.groups)
    columns.add("images", np.ones(count))
    columns.add("hits", hits)
    columns.add("loss", image_losses(logits, answers.targets, mode))
    if answers.several:
        said = answers.raw > 0
        columns.add("true", np.hstack([~truth, truth]))
        columns.add("said", np.hstack([~said, said]))
        columns.add("right", np.hstack([~truth & ~said, truth & said]))
        columns.add("brier", ((shares - truth) ** 2).mean(axis=1))
        columns.add("exact", hits == 1)
    else:
        true, answer = answers.codes()
        kinds = len(answers.classes)
        columns.add_coded("true", true, kinds)
        columns.add_coded("said", answer, kinds)
        columns.add_coded("right", true, kinds, hits)
        columns.add("distance", (true - answer) ** 2)
        columns.add("brier", _brier(shares, true, mode))
        if kinds > 2:
            columns.add("top", _rank_of(answers.raw, true) < answers.top)
    for name, z in (("excess", logits), ("excess before", answers.raw)):
        confidence, right = confidence_of(z, hits, answers)
        bins = counts.confidence_bin(confidence)
        columns.add_coded(name, bins, counts.BINS, confidence - right, pooled=True)
    scores = shares[:, 1:] if mode == "binary" else shares
    for point, thresholds in calibration.points.items():
        above = scores > np.asarray(thresholds)
        columns.add(f"{point}: found", above & truth)
        columns.add(f"{point}: spared", ~above & ~truth)
    for by, (names, codes) in slices.items():
        if by == "group":  # one group has no spread of groups
            continue
        add_slices(columns, by, codes, len(names), hits)
    return columns


def add_slices(columns: Sums, by: str, codes: NDArray[np.int64], size: int, hits: Floats) -> None:
    part = np.eye(size + 1, dtype=bool)[codes][:, :-1]  # -1, in none, is the row of the last column
    columns.add(f"{by}: images", part)
    columns.add(f"{by}: hits", part * hits[:, None])


def statistic_of(columns: Sums, answers: Answers, calibration: Calibration, ordinal: bool) -> Statistic:
    labels = len(answers.classes)

    def statistic(sums: Floats) -> dict[str, Floats]:
        of = columns.named(sums)
        images, true, said, right = of["images"], of["true"], of["said"], of["right"]
        each = counts.of_each_class(right, true, said)
        present = ~np.isnan(each["recall"])
        found = dict(each)
        found["accuracy"] = of["hits"] / images
        found["loss"], found["brier"] = of["loss"] / images, of["brier"] / images
        recalls = np.where(present, each["recall"], 0).sum(axis=0, keepdims=True)
        found["balanced accuracy"] = recalls / np.maximum(1, present.sum(axis=0))
        if "exact" in of:
            found["exact"] = of["exact"] / images
        if "top" in of:
            found["top"] = of["top"] / images
        tables = (right, true, said)
        if answers.several:
            found |= counts.averaged({n: v[labels:] for n, v in each.items()}, true[labels:], said[labels:])
            shape = (2, labels, -1)
            tables = (right.reshape(shape), true.reshape(shape), said.reshape(shape))
        else:
            found |= counts.averaged(each, true, said)
        found |= {n: counts.mean(v.reshape(-1, sums.shape[1])) for n, v in counts.agreement(*tables).items()}
        if ordinal:
            found["quadratic kappa"] = counts.quadratic_kappa(of["distance"], true, said)
        judged = images * (labels if answers.several else 1)
        found["ece"] = counts.calibration_error(of["excess"], judged)
        found["ece before"] = counts.calibration_error(of["excess before"], judged)
        with np.errstate(invalid="ignore", divide="ignore"):
            for point in calibration.points:
                found[f"{point}: sensitivity"] = of[f"{point}: found"] / true[-len(answers.ranked) :]
                found[f"{point}: specificity"] = of[f"{point}: spared"] / true[: len(answers.ranked)]
            for name in of:
                if name.endswith(": images"):
                    by = name.removesuffix(": images")
                    found[by] = of[f"{by}: hits"] / of[name]
        return found

    return statistic


def noise_of_calibration(answers: Answers, logits: Floats) -> float:
    """The calibration error that chance alone would give if every confidence came true, images of a group
    being right or wrong together: the mean of a normal distribution's absolute value in each bin."""
    confidence, _ = confidence_of(logits, np.empty(0), answers)
    columns = Sums(len(logits), answers.groups)
    spread = np.sqrt(confidence * (1 - confidence))
    columns.add_coded("spread", counts.confidence_bin(confidence), counts.BINS, spread, pooled=True)
    variances = np.asarray(columns.matrix().power(2).sum(axis=1))
    return float(np.sqrt(2 / np.pi * variances).sum() / confidence.size)


def confidence_of(logits: Floats, hits: Floats, answers: Answers) -> tuple[Floats, Any]:
    """What is claimed and whether it came true: the likeliest class (N,), or every label (N, labels)."""
    shares = probabilities(logits, answers.label_mode)
    return (shares, answers.truth) if answers.several else (shares.max(axis=1), hits)


def _rank_of(logits: Floats, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the true one; of equal ones the first, as argmax has it."""
    own = logits[np.arange(len(codes)), codes][:, None]
    earlier = np.arange(logits.shape[1]) < codes[:, None]
    return np.asarray(((logits > own) | ((logits == own) & earlier)).sum(axis=1))


def _brier(shares: Floats, codes: NDArray[np.int64], label_mode: str) -> Floats:
    """Brier's (1950) score of each image, 0 to 2; for two classes half of it, as scikit-learn has it."""
    if label_mode == "binary":
        return (shares[:, 1] - codes) ** 2
    own = shares[np.arange(len(codes)), codes]
    return np.asarray((shares**2).sum(axis=1) - 2 * own + 1)
