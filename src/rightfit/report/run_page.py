"""A run's story in, one HTML file out: offline, to be mailed, printed, read in grey or by a screen reader."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from rightfit.evaluation import diagrams
from rightfit.evaluation.answers import Answers
from rightfit.report import plots
from rightfit.report.pages import rendered
from rightfit.report.words import Words

CURVES = 6  # classes whose curves are drawn
ROWS = 60  # of a table of classes that are shown
AGAIN = 15  # seconds after which a page of a run that goes on loads itself anew


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
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def page(story: Story, language: str = "en") -> str:
    words = Words(language)
    return rendered(
        "run.html",
        story=story,
        t=words,
        text=lambda phrase, **values: _with_code(words(phrase, **values)),
        lead=[_with_code(line) for line in _lead(story, words)],
        refresh=AGAIN if story.going_on else None,
        learning=_learning(story, words),
        numbers=_numbers(story, words),
        by_class=_by_class(story),
        slices=_slices(story, words),
        confusion=_confusion(story, words),
        reliability=_reliability(story, words),
        curves=_curves(story, words),
        points=_points(story),
        mistakes=[(p, _what(p, words)) for p in story.mistakes],
        suspects=_suspects(story, words),
        time=_time(story, words),
        share=_share,
        made=words("made by", version=metadata.version("rightfit"), time=_stamp()),
    )


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


# In words -------------------------------------------------------------------------------------------


def _lead(story: Story, t: Words) -> list[str]:
    """What was asked, what came out, and what the test said: a sentence each."""
    several = story.label_mode == "multilabel"
    settings, found = story.settings, story.metrics.get("validation")
    height, width = settings["height_width"]
    counts = {name: story.counts.get(name, 0) for name in ("train", "val", "test")}
    asked = t(
        "asked multilabel" if several else "asked",
        model=settings["model"],
        classes=_listed(story.classes, t),
        data=settings["data"],
        width=width,
        height=height,
        **counts,
    )
    lines = [asked]
    if story.going_on:
        now = _stamp()[-5:]
        done = len(_epochs(story))
        lines.append(t("going on", time=now, done=done, planned=story.planned, seconds=AGAIN, run=story.name))
        return lines
    if story.stopped:
        lines.append(t("stopped", why=story.stopped))
    if found:
        accuracy = {name: _share(value) for name, value in found["accuracy"].items()}
        common, baseline = story.common
        phrase = "came out multilabel" if several else "came out"
        lines.append(t(phrase, images=found["images"], common=common, baseline=_share(baseline), **accuracy))
    elif not story.stopped:
        lines.append(t("no validation"))
    lines.append(_of_test(story, counts["test"], t))
    return lines


def _of_test(story: Story, images: int, t: Words) -> str:
    found, count = story.metrics.get("test"), len(story.openings)
    times = t("once") if count <= 1 else t("times", count=count)
    if not images:
        return t("no test")
    if not found and count:
        return t("test opened", images=images, times=times)
    if not found:
        return t("test sealed", images=images, run=story.name)
    said = t(
        "test",
        images=found["images"],
        times=times,
        **{name: _share(value) for name, value in found["accuracy"].items()},
    )
    others = story.openings[-1].get("other_weights_before", 0) if story.openings else 0
    return f"{said} {t('test of others', count=others)}" if others else said


def _listed(names: Sequence[str], t: Words, most: int = 5) -> str:
    comma = "、" if t.language == "zh" else ", "
    if len(names) <= most:
        return comma.join(names)
    shown = comma.join(names[: most - 1])
    return t("and others", names=shown, count=len(names) - most + 1, total=len(names))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _with_code(text: str) -> Markup:
    """`so` -> <code>so</code>; all else escaped."""
    parts = str(escape(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))


# Learning -------------------------------------------------------------------------------------------


def _epochs(story: Story) -> list[Mapping[str, float]]:
    return [row for row in story.history if row.get("steps")]


def _learning(story: Story, t: Words) -> dict[str, Any] | None:
    rows = _epochs(story)
    if not rows:
        return None

    def line(name: str, column: str, half: str | None = None) -> plots.Line | None:
        known = [row for row in rows if not _missing(row.get(column))]
        if not known:
            return None
        epochs, values = (np.array([row[of] for row in known], np.float64) for of in ("epoch", column))
        widths = np.array([row[half] for row in known], np.float64) if half else None
        return plots.Line(t(name), epochs, values, widths)

    drawn = {
        t("loss"): [line("training", "loss"), line("validation", "val_loss")],
        t("accuracy axis"): [
            line("training", "accuracy"),
            line("validation", "val_accuracy", "val_accuracy_half_width"),
        ],
    }
    panels = {name: [found for found in lines if found] for name, lines in drawn.items()}
    columns = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "val_accuracy_half_width")
    return {
        "figure": Markup(plots.learning_curves(panels, t("epoch"), story.kept)),
        "alt": t("curves alt", epochs=len(rows)),
        "gap": _gap(story, t),
        "kept": t("kept", epoch=story.kept) if story.kept else t("kept head") if story.kept == 0 else "",
        "columns": columns,
        "rows": [[_number(row.get(column)) for column in columns] for row in rows],
    }


def _gap(story: Story, t: Words) -> str:
    """What the kept epoch says of over- and underfitting."""
    row = next((row for row in story.history if row.get("epoch") == story.kept), {})
    if any(_missing(row.get(of)) for of in ("accuracy", "val_accuracy", "val_accuracy_half_width")):
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
    return t("gap", train=_share(trained), val=f"{_share(held)} ±{100 * half:.1f}", verdict=verdict)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> str:
    if _missing(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"


# Numbers --------------------------------------------------------------------------------------------

MEASURES = (
    "accuracy",
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


def _numbers(story: Story, t: Words) -> dict[str, Any] | None:
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
            name = t("metric loss") if measure == "loss" else t(measure)
            rows.append((name, [_estimate(found.get(measure)) for _, found in splits]))
    rows.append((t("macro f1"), [_estimate(found["macro"]["f1"]) for _, found in splits]))
    for key in first:
        if key.startswith("top_"):
            name = t("top", k=key.split("_")[1])
            rows.insert(1, (name, [_estimate(found.get(key)) for _, found in splits]))
    return {
        "splits": [name for name, _ in splits],
        "rows": rows,
        "how": t("interval note", how=first["interval"]),
    }


def _estimate(found: Mapping[str, float | None] | None) -> tuple[str, str]:
    """Value and interval, as they are shown."""
    if not found or found["value"] is None:
        return "–", ""
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.4f}", ""
    return f"{found['value']:.4f}", f"{found['low']:.4f} – {found['high']:.4f}"


def _by_class(story: Story) -> dict[str, Any] | None:
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
            [_estimate(found[of][name]) for of in ("recall", "precision", "f1")],
        )
        for name in shown
    ]
    return {"rows": rows, "more": len(names) - len(shown)}


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value


def _slices(story: Story, t: Words) -> list[tuple[str, list[tuple[str, tuple[str, str], bool]]]]:
    found = story.metrics.get("validation", {}).get("slices", {})
    return [
        (t(f"slice {by}"), [(name, _estimate(part), part["differs"]) for name, part in parts.items()])
        for by, parts in found.items()
    ]


# Answers --------------------------------------------------------------------------------------------


def _confusion(story: Story, t: Words) -> dict[str, Any] | None:
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


def _reliability(story: Story, t: Words) -> dict[str, Any] | None:
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


def _curves(story: Story, t: Words) -> dict[str, Any] | None:
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
        "alt": t("roc alt", auroc=_estimate(found["auroc"])[0]),
        "note": t("curves of classes", count=CURVES) if len(drawn) > CURVES else "",
        "columns": [t("auroc"), t("auprc"), t("at specificity"), t("at sensitivity")],
        "rows": [(curve.name, [_estimate(of[curve.name][key]) for key in keys]) for curve in drawn[:ROWS]],
        "more": max(0, len(drawn) - ROWS),
    }


def _points(story: Story) -> list[tuple[str, str, str, tuple[str, str], tuple[str, str]]]:
    found = story.metrics.get("validation", {}).get("operating_points", {})
    return [
        (point, name, f"{at['threshold']:.4f}", _estimate(at["sensitivity"]), _estimate(at["specificity"]))
        for point, labels in found.items()
        for name, at in list(labels.items())[:ROWS]
    ]


# Pictures -------------------------------------------------------------------------------------------


def _what(picture: Picture, t: Words) -> str:
    truth, said = picture.given, picture.said
    if picture.label:
        truth, said = (t(state, label=picture.label) for state in (picture.given, picture.said))
    return t("mistake", truth=truth, said=said, probability=_share(picture.probability))


def _suspects(story: Story, t: Words) -> dict[str, Any] | None:
    found = story.suspects
    if found is None:
        return None
    phrase = "suspects text" if found.count else "no suspects" if found.images else "none judged"
    return {
        "text": t(phrase, count=found.count, images=found.images),
        "more": _with_code(t("suspects more", run=story.name)),
        "unknown": t("not judged", classes=_listed(found.unknown, t)) if found.unknown else "",
        "pictures": [
            (p, t("suspect", given=p.given, suggested=p.said, probability=_share(p.probability)))
            for p in found.pictures
        ],
    }


# Time -----------------------------------------------------------------------------------------------


def _time(story: Story, t: Words) -> dict[str, Any] | None:
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
