"""A run's story in, the sections of its page out: figures with their words and tables, as a template takes them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from rightfit.evaluation import diagrams
from rightfit.records import DOUBTS, changes_of
from rightfit.reports import plots
from rightfit.reports.shown import (
    estimate,
    interval_method,
    listed,
    missing,
    number,
    part_of_split,
    share,
    with_code,
)  # fmt: skip
from rightfit.reports.story import Picture, Story
from rightfit.reports.words import Words

CURVES = 6  # classes whose curves are drawn
ROWS = 60  # of a table of classes that are shown


# Learning -------------------------------------------------------------------------------------------


def epochs_of(story: Story) -> list[Mapping[str, float]]:
    return [row for row in story.history if row.get("steps")]


def learning(story: Story, t: Words) -> dict[str, Any] | None:
    rows = epochs_of(story)
    if not rows:
        return None

    def line(name: str, column: str, half: str | None = None) -> plots.Line | None:
        known = [row for row in rows if not missing(row.get(column))]
        if not known:
            return None
        epochs, values = (np.array([row[of] for row in known], np.float64) for of in ("epoch", column))
        banded = half is not None and not any(missing(row.get(half)) for row in known)
        widths = np.array([row[half] for row in known], np.float64) if half and banded else None
        return plots.Line(t(name), epochs, values, widths, 1.0 if column.endswith("accuracy") else None)

    drawn = {
        t("loss"): [
            line("training", "loss"),
            line("validation", "val_loss", "val_loss_half_width"),
            line("probed", "probe_loss", "probe_loss_half_width"),
        ],
        t("accuracy axis"): [
            line("training", "accuracy"),
            line("validation", "val_accuracy", "val_accuracy_half_width"),
            line("probed", "probe_accuracy", "probe_accuracy_half_width"),
        ],
    }
    panels = {name: [found for found in lines if found] for name, lines in drawn.items()}
    marks = _marks(story)
    doubted = [each["epoch"] for each in changes_of(story.decisions) if each["setting"] == DOUBTS]
    columns = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_accuracy_half_width")
    return {
        "figure": Markup(plots.learning_curves(panels, t("epoch"), story.kept, marks)),
        "marks": t("marks") if marks else "",
        "doubts": t("doubts", epoch=doubted[0]) if doubted else "",
        "alt": t("curves alt", epochs=len(rows)),
        "gap": with_code(_gap(story, t)),
        "kept": t("kept", epoch=story.kept) if story.kept else t("kept head") if story.kept == 0 else "",
        "columns": columns,
        "rows": [[number(row.get(column)) for column in columns] for row in rows],
    }


def _marks(story: Story) -> dict[str, list[float]]:
    """Epochs after which something was changed, by marker: strength up, strength down, all else."""
    found: dict[str, list[float]] = {}
    strength = {row["epoch"]: row["strength"] for row in story.history if not missing(row.get("strength"))}
    for decision in changes_of(story.decisions):
        if not (epoch := decision["epoch"]):  # before the first
            continue
        marker = "D"
        if decision["setting"] == "strength":
            marker = "^" if decision["value"] > strength.get(epoch, 0.0) else "v"
        found.setdefault(marker, []).append(epoch)
    return found


def _gap(story: Story, t: Words) -> str:
    """What the kept epoch says of over- and underfitting."""
    if fit := story.metrics.get("diagnosis"):
        shares = {
            side: f"{100 * fit[f'{of}_accuracy']:.1f} ±{100 * fit[f'{of}_accuracy_half_width']:.1f} %"
            for side, of in (("train", "probe"), ("val", "val"))
        }
        return t("fit", **shares, verdict=t(f"fit {fit['word']}"))
    row = next((row for row in story.history if row.get("epoch") == story.kept), {})
    if any(missing(row.get(of)) for of in ("accuracy", "val_accuracy", "val_accuracy_half_width")):
        return ""
    trained, held, half = row["accuracy"], row["val_accuracy"], row["val_accuracy_half_width"]
    if trained - held > half:
        verdict = t("verdict over")
    elif held - trained > half:
        verdict = t("verdict augmented")
    elif held <= story.common[1] + half:
        verdict = t("verdict under")
    else:
        verdict = t("verdict even", images=story.counts.get("val", 0))
    return t("gap", train=share(trained), val=f"{share(held)} ±{100 * half:.1f}", verdict=verdict)


# Numbers --------------------------------------------------------------------------------------------

MEASURES = (
    "accuracy",
    "exact_match",
    "balanced_accuracy",
    "loss",
    "auroc",
    "auprc",
    "kappa",
    "quadratic_kappa",
    "mcc",
    "brier",
    "ece",
)


def numbers(story: Story, t: Words) -> dict[str, Any] | None:
    """A row for each measure: its name, then value and interval on validation and, once it was opened, on test."""
    splits = [
        (t(f"on {name}"), story.metrics[of])
        for name, of in (("validation", "validation"), ("test", "test"))
        if story.metrics.get(of)
    ]
    if not splits:
        return None
    first = splits[0][1]
    rows = []
    for measure in MEASURES:
        if measure in first:
            name = t({"loss": "metric loss", "accuracy": _accuracy(story)}.get(measure, measure))
            rows.append((name, [estimate(found.get(measure)) for _, found in splits]))
    rows.append((t("macro f1"), [estimate(found["macro"]["f1"]) for _, found in splits]))
    for key in first:
        if key.startswith("top_"):
            name = t("top", k=key.split("_")[1])
            rows.insert(1, (name, [estimate(found.get(key)) for _, found in splits]))
    return {
        "splits": [name for name, _ in splits],
        "rows": rows,
        "how": t("interval note", how=interval_method(first["interval"], t)),
        "accuracy": t(_accuracy(story)),
    }


def _accuracy(story: Story) -> str:
    return "accuracy of labels" if story.label_mode == "multilabel" else "accuracy"


def by_class(story: Story) -> dict[str, Any] | None:
    found = story.metrics.get("validation")
    if not found:
        return None
    images = Counter[str]()
    if story.label_mode == "multilabel":
        names = [f"{name}: present" for name in story.classes]
        for name, table in found["confusion"].items():
            images[f"{name}: present"] = sum(table.get("present", {}).values())
    else:
        names = list(story.classes)
        for name, answers in found["confusion"].items():
            images[name] = sum(answers.values())
    shown = (
        sorted(names, key=lambda name: _or_last(found["recall"][name]["value"]))[:ROWS]
        if len(names) > ROWS
        else names
    )
    rows = [
        (
            name.removesuffix(": present"),
            images[name],
            [estimate(found[of][name]) for of in ("recall", "precision", "f1")],
        )
        for name in shown
    ]
    return {"rows": rows, "more": len(names) - len(shown)}


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value


def slices(story: Story, t: Words) -> list[tuple[str, list[tuple[str, tuple[str, str], bool]]]]:
    found = story.metrics.get("validation", {}).get("slices", {})
    return [
        (
            t(f"slice {by}"),
            [(part_of_split(by, name, t), estimate(part), part["differs"]) for name, part in parts.items()],
        )
        for by, parts in found.items()
    ]


# Answers --------------------------------------------------------------------------------------------


def confusion(story: Story, t: Words) -> dict[str, Any] | None:
    if story.answers is None or story.label_mode == "multilabel":
        return None
    truth, said = story.answers.codes()
    count = len(story.classes)
    matrix = np.bincount(truth * count + said, minlength=count * count).reshape(count, count)
    pairs = [(int(matrix[i, j]), i, j) for i, j in np.argwhere(matrix) if i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    worst = [t("confused", count=n, truth=story.classes[i], said=story.classes[j]) for n, i, j in pairs[:10]]
    figure = plots.confusion(matrix.astype(np.int64), story.classes, t("true class"), t("answer"))
    return {
        "figure": Markup(figure),
        "alt": t("confusion alt", worst=worst[0] if worst else t("none confused")),
        "worst": worst,
        "matrix": matrix.tolist() if count <= 20 else None,
    }


def reliability(story: Story, t: Words) -> dict[str, Any] | None:
    found = story.metrics.get("validation")
    if story.answers is None or not found:
        return None
    several = story.label_mode == "multilabel"
    before, after = diagrams.reliability(story.answers, raw=True), diagrams.reliability(story.answers)
    temperature = f"{found['temperature']:.3g}"
    names = (t("as trained"), t("at temperature", temperature=temperature))
    labels = ("probability of label", "share present") if several else ("probability", "share right")
    errors = {"before": found["ece_uncalibrated"]["value"], "after": found["ece"]["value"]}
    return {
        "figure": Markup(plots.reliability(before, after, names, (t(labels[0]), t(labels[1])))),
        "alt": t("reliability alt"),
        "text": t("reliability text", temperature=temperature, **{k: f"{v:.3f}" for k, v in errors.items()}),
        "columns": [t(labels[0]), t(labels[1]), t("images")],
        "rows": [[f"{b.confidence:.3f}", f"{b.accuracy:.3f}", f"{b.answers:,}"] for b in after],
    }


def curves(story: Story, t: Words) -> dict[str, Any] | None:
    found = story.metrics.get("validation")
    if story.answers is None or not found:
        return None
    drawn = diagrams.curves(story.answers)
    if not drawn:
        return None
    of = found["curves"]
    drawn.sort(key=lambda curve: of[curve.name]["auroc"]["value"])
    labels = (t("1 - specificity"), t("sensitivity"), t("recall axis"), t("precision axis"))
    keys = ("auroc", "auprc", "sensitivity_at_specificity", "specificity_at_sensitivity")
    return {
        "figure": Markup(plots.curves(drawn[:CURVES], labels)),
        "alt": t("roc alt", auroc=estimate(found["auroc"])[0]),
        "note": t("curves of classes", count=CURVES) if len(drawn) > CURVES else "",
        "columns": [t("auroc"), t("auprc"), t("at specificity"), t("at sensitivity")],
        "rows": [(curve.name, [estimate(of[curve.name][key]) for key in keys]) for curve in drawn[:ROWS]],
        "more": max(0, len(drawn) - ROWS),
    }


def points(story: Story) -> list[tuple[str, str, str, tuple[str, str], tuple[str, str]]]:
    found = story.metrics.get("validation", {}).get("operating_points", {})
    return [
        (point, name, f"{at['threshold']:.4f}", estimate(at["sensitivity"]), estimate(at["specificity"]))
        for point, labels in found.items()
        for name, at in list(labels.items())[:ROWS]
    ]


# Pictures -------------------------------------------------------------------------------------------


def what(picture: Picture, t: Words) -> str:
    truth, said = picture.given, picture.said
    if picture.label:
        truth, said = (t(state, label=picture.label) for state in (picture.given, picture.said))
    return t("mistake", truth=truth, said=said, probability=share(picture.probability))


def suspects(story: Story, t: Words) -> dict[str, Any] | None:
    found = story.suspects
    if found is None:
        return None
    phrase = "suspects text" if found.count else "no suspects" if found.images else "none judged"
    return {
        "text": t(phrase, count=found.count, images=found.images),
        "more": with_code(t("suspects more", run=story.name)),
        "unknown": t("not judged", classes=listed(found.unknown, t)) if found.unknown else "",
        "pictures": [
            (p, t("suspect", given=p.given, suggested=p.said, probability=share(p.probability)))
            for p in found.pictures
        ],
    }


# Time -----------------------------------------------------------------------------------------------


def time_spent(story: Story, t: Words) -> dict[str, Any] | None:
    parts = {t(name): seconds for name, seconds in story.seconds.items() if seconds > 0}
    if not parts:
        return None
    told = ("、" if t.language == "zh" else ", ").join(f"{name} {s:.0f} s" for name, s in parts.items())
    return {
        "figure": Markup(plots.time_spent(parts, t("seconds"))),
        "alt": t("time alt", parts=told),
        "text": story.metrics.get("speed", {}).get("in_words", ""),
        "rows": [(name, f"{seconds:,.1f}") for name, seconds in parts.items()],
    }
