"""Logits and truth of a split in; every metric with its 95 % interval out, as plain numbers ready for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation import counts, ranking
from rightfit.evaluation.answers import Answers, add_slices, columns_of, noise_of_calibration, statistic_of
from rightfit.evaluation.calibration import Calibration
from rightfit.evaluation.intervals import (
    RESAMPLES,
    Scale,
    Statistic,
    bootstrap,
    interval,
    interval_of_distance,
    of_mean,
    welch,
)
from rightfit.evaluation.metrics import image_hits
from rightfit.evaluation.slices import Slices, with_flags
from rightfit.evaluation.sums import Sums

Floats = NDArray[np.float64]
Estimate = dict[str, float | None]
CURVES = ("auroc", "auprc", "sensitivity_at_specificity", "specificity_at_sensitivity")
OF_CLASS = ("recall", "precision", "f1")
SCORES_AT_ONCE = 500_000  # images times classes whose curves are resampled together: 20 MB
WORK = 600_000_000  # images times classes times resamples; above it curves are resampled less often


def summary(
    logits: NDArray[np.float32],
    targets: NDArray[np.float32],
    label_mode: str,
    classes: tuple[str, ...],
    groups: NDArray[np.int64] | None = None,
    *,
    calibration: Calibration | None = None,
    ordinal: bool = False,
    slices: Slices | None = None,
) -> dict[str, Any]:
    """Metrics of logits and targets (N, outputs), each {value, low, high}: the 95 % interval by bootstrap
    over `groups`; None where there is nothing to divide by, such as the recall of a class without images.

    Definitions are scikit-learn's. For multilabel accuracy (the share of labels that are right), loss, Brier
    score, kappa and MCC are means over the labels, `exact_match` the share of images with every label right,
    balanced accuracy the mean of all sensitivities and specificities, macro and weighted means are of the labels
    present. AUROC and AUPRC of several classes are means of one class against the rest. A mean over classes is
    over those that have images (macro: or were answered); balanced accuracy of one class alone is its recall.
    """
    calibration, slices = calibration or Calibration(), slices or {}
    raw = logits.astype(np.float64)
    answers = Answers(raw / calibration.temperature, raw, targets, label_mode, classes, groups)
    columns = columns_of(answers, calibration, slices)
    matrix = columns.matrix()
    values, drawn, of_curves = _resampled(
        answers, matrix, statistic_of(columns, answers, calibration, ordinal)
    )
    held = columns.draws(matrix)

    def each(name: str, draws: Floats | float, scale: Scale = "share", parts: float = 1) -> list[Estimate]:
        ends = interval(values[name], drawn[name], draws, scale, parts)
        return [_estimate(*three) for three in zip(values[name], *ends, strict=True)]

    def one(name: str, draws: float = columns.groups, scale: Scale = "share", parts: float = 1) -> Estimate:
        return each(name, draws, scale, parts)[0]

    def of_calibration(name: str, z: Floats) -> Estimate:
        noise = noise_of_calibration(answers, z)
        low, high = interval_of_distance(values[name], drawn[name], columns.groups, noise)
        return _estimate(values[name][0], low[0], high[0])

    behind = {"recall": held["true"], "precision": held["said"], "f1": np.maximum(held["true"], held["said"])}
    present = slice(
        len(answers.kinds) - len(answers.classes), None
    )  # of labels, without those that are absent
    behind_macro = {n: of_mean(drawn[n][present], behind[n][present]) for n in OF_CLASS}
    have_images = int(np.count_nonzero(held["true"]))
    occur = int(np.count_nonzero((held["true"] + held["said"])[present]))
    sides = ranked_draws(answers, columns)
    ranked = max(1, int(np.count_nonzero(~np.isnan(values["auroc"]))))
    by_chance = _beyond_chance(answers)
    found: dict[str, Any] = {
        "images": len(raw),
        "groups": columns.groups,
        "accuracy": one("accuracy"),
        "loss": one("loss", scale="positive"),
        "balanced_accuracy": one(
            "balanced accuracy", of_mean(drawn["recall"], behind["recall"]), parts=have_images
        ),
        "brier": one("brier", scale="positive"),
        "macro": {n: one(f"macro {n}", behind_macro[n], parts=occur) for n in OF_CLASS},
        "weighted": {n: one(f"weighted {n}") for n in OF_CLASS},
        "auroc": one("mean auroc", of_mean(drawn["auroc"], sides), parts=ranked),
        "auprc": one("mean auprc", of_mean(drawn["auprc"], sides), parts=ranked),
        "kappa": one("kappa", scale="signed", parts=by_chance),
        "mcc": one("mcc", scale="signed", parts=by_chance),
        "ece": of_calibration("ece", answers.logits),
        "ece_uncalibrated": of_calibration("ece before", answers.raw),
    }
    if "exact" in values:
        found["exact_match"] = one("exact")
    if "top" in values:
        found[f"top_{answers.top}_accuracy"] = one("top")
    if ordinal:
        found["quadratic_kappa"] = one("quadratic kappa", scale="signed", parts=by_chance)
    found |= {name: dict(zip(answers.kinds, each(name, behind[name]), strict=True)) for name in OF_CLASS}
    names = answers.ranked
    behind_curves = dict.fromkeys(CURVES, sides) | sides_alone(answers, columns)
    rows = zip(*(each(curve, behind_curves[curve]) for curve in CURVES), strict=True)
    found["curves"] = {n: dict(zip(CURVES, row, strict=True)) for n, row in zip(names, rows, strict=True)}
    if calibration.points:
        found["operating_points"] = {}
    for point, thresholds in calibration.points.items():
        at_point = (
            each(f"{point}: sensitivity", held["true"][-len(names) :]),
            each(f"{point}: specificity", held["true"][: len(names)]),
        )
        found["operating_points"][point] = {
            name: {"threshold": threshold, "sensitivity": hit, "specificity": spared}
            for name, threshold, hit, spared in zip(names, thresholds, *at_point, strict=True)
            if not np.isnan(threshold)
        }
    of_slices = {
        by: dict(zip(parts, each(by, held[f"{by}: images"]), strict=True))
        for by, (parts, _) in slices.items()
        if by != "group"
    }
    if "group" in slices:
        of_slices["group"] = _of_groups(answers, *slices["group"])
    if of_slices:
        found["slices"] = with_flags(of_slices, float(values["accuracy"][0]))
    found["confusion"] = _confusion(answers)
    found["temperature"] = calibration.temperature
    fewer = f" ({of_curves} of the curves)" if of_curves < RESAMPLES else ""
    found["interval"] = (
        f"95 %, bootstrap over groups, {RESAMPLES} resamples{fewer}: standard error, Student's t, Wilson's for shares"
    )
    return found


def _resampled(
    answers: Answers, matrix: Any, statistic: Statistic
) -> tuple[dict[str, Floats], dict[str, Floats], int]:
    """Values (S,) and resamples (S, R) of every statistic by name, and how many resamples the curves have."""
    work = len(answers.raw) * len(answers.ranked)
    resamples = max(100, min(RESAMPLES, WORK // max(1, work)))
    values = statistic(np.asarray(matrix.sum(axis=1)))
    together = work <= SCORES_AT_ONCE and resamples == RESAMPLES
    if not together:
        (drawn,) = bootstrap([(matrix, statistic)])
    curves, curves_drawn = [], []
    for exact, part in curves_of(answers):
        curves.append(exact)
        if together:
            drawn, of_curves = bootstrap([(matrix, statistic), part])
        else:
            (of_curves,) = bootstrap([part], resamples)
        curves_drawn.append(of_curves)
    for known, added in ((values, curves), (drawn, curves_drawn)):
        known |= {name: np.concatenate([found[name] for found in added]) for name in CURVES}
        known |= {f"mean {name}": counts.mean(known[name]) for name in ("auroc", "auprc")}
    return {name: value[:, 0] for name, value in values.items()}, drawn, resamples


def curves_of(answers: Answers) -> Iterator[tuple[dict[str, Floats], tuple[Any, Statistic]]]:
    """The curves' statistics (classes, 1), and the part of a bootstrap that resamples them, of a slab of
    classes at a time, so that memory does not grow with the classes."""
    scores, truth = answers.scores(), answers.truth
    step = max(1, SCORES_AT_ONCE // len(scores))
    most = min(ranking.BINS, max(128, 8 * ranking.BINS // len(answers.ranked)))  # a mean of many needs fewer
    for start in range(0, scores.shape[1], step):
        exact, codes = [], []
        for ranked, positive in zip(
            scores.T[start : start + step], truth.T[start : start + step], strict=True
        ):
            numbers = ranking.thresholds(ranked)
            exact.append(ranking.of_curve(*ranking.tables(numbers, positive)))
            codes.append(2 * ranking.joined(numbers, positive, most) + positive)
        size = 2 * (max(int(code.max()) for code in codes) // 2 + 1)
        sums = Sums(len(scores), answers.groups)
        sums.add_coded("curves", np.stack(codes, axis=1), size)
        yield ranking.stacked(exact), (sums.matrix(), _of_curves(len(codes)))


def _of_curves(classes: int) -> Statistic:
    return lambda sums: ranking.of_curves(sums, classes)


def ranked_draws(answers: Answers, columns: Sums) -> Floats:
    """Draws behind the curves of each ranked class: groups that have an image of it against those that lack one."""
    return welch(*_sides(answers, columns))


def sides_alone(answers: Answers, columns: Sums) -> dict[str, Floats]:
    """Draws behind the curves' numbers that are shares of one side."""
    has, lacks = _sides(answers, columns)
    return {"sensitivity_at_specificity": has, "specificity_at_sensitivity": lacks}


def _sides(answers: Answers, columns: Sums) -> tuple[Floats, Floats]:
    """Of each ranked class, the groups that have an image of it and those that have one without it."""
    has, lacks = (
        np.array([len(np.unique(columns.index[side])) for side in sides.T], np.float64)
        for sides in (answers.truth, ~answers.truth)
    )
    return has, lacks


def _of_groups(answers: Answers, names: list[str], codes: NDArray[np.int64]) -> dict[str, Estimate]:
    """Accuracy within each group, whose images are the draws there: one group has no spread of groups."""
    columns = Sums(len(codes))
    add_slices(
        columns, "group", codes, len(names), image_hits(answers.raw, answers.targets, answers.label_mode)
    )
    matrix = columns.matrix()

    def statistic(sums: Floats) -> dict[str, Floats]:
        of = columns.named(sums)
        return {"accuracy": of["group: hits"] / of["group: images"]}

    values = statistic(np.asarray(matrix.sum(axis=1)))["accuracy"][:, 0]
    with np.errstate(invalid="ignore"):  # a resample without an image of a group
        drawn = bootstrap([(matrix, statistic)])[0]["accuracy"]
    ends = interval(values, drawn, columns.draws(matrix)["group: images"], "share")
    return {name: _estimate(*three) for name, *three in zip(names, values, *ends, strict=True)}


def _beyond_chance(answers: Answers) -> float:
    """What agreement by chance leaves: a wrong share e costs kappa e divided by it, where all else is right."""
    shares = (answers.targets > 0.5).mean(axis=0)
    if answers.label_mode == "categorical":
        return float(1 - (shares**2).sum())
    return float((2 * shares * (1 - shares)).mean())


def _estimate(value: float, low: float, high: float) -> Estimate:
    numbers = (("value", value), ("low", low), ("high", high))
    return {name: float(number) if np.isfinite(number) else None for name, number in numbers}


def _confusion(answers: Answers) -> dict[str, Any]:
    """truth -> answer -> images, cells without any left out; for multilabel a table for each label."""
    if not answers.several:
        return _table(*answers.codes(), answers.classes)
    truth, said = (answers.targets > 0.5).astype(np.int64), (answers.raw > 0).astype(np.int64)
    states = ("absent", "present")
    return {n: _table(t, s, states) for n, t, s in zip(answers.classes, truth.T, said.T, strict=True)}


def _table(truth: Any, said: Any, names: tuple[str, ...]) -> dict[str, dict[str, int]]:
    cells, numbers = np.unique(truth * len(names) + said, return_counts=True)
    table: dict[str, dict[str, int]] = {}
    for cell, number in zip(cells.tolist(), numbers.tolist(), strict=True):
        true, answer = divmod(cell, len(names))
        table.setdefault(names[true], {})[names[answer]] = number
    return table
