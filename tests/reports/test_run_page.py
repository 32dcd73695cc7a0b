"""Laws of a run's page: it stands alone, names are text, every figure has words and a table, in two languages."""

from __future__ import annotations

import re
import string
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml

from rightfit.console import Console
from rightfit.errors import ModelFileError
from rightfit.evaluation import diagrams
from rightfit.evaluation.answers import Answers
from rightfit.evaluation.calibration import calibrate
from rightfit.evaluation.slices import slices_of
from rightfit.evaluation.summary import summary
from rightfit.records import DOUBTS
from rightfit.reports import gallery, plots
from rightfit.reports.pictures import data_uri
from rightfit.reports.run_page import page
from rightfit.reports.sections import _marks
from rightfit.reports.shown import interval_method
from rightfit.reports.story import Picture, Story, Suspects
from rightfit.reports.words import LANGUAGES, Words

HOSTILE = "<script>alert(1)</script>\"'&"
SOURCE = Path(plots.__file__).parent


def told(label_mode="categorical", classes=("cat", "dog", HOSTILE), images=200, **changes):
    """A story as of a run: noisy answers, most of them right."""
    generator = np.random.default_rng(0)
    outputs = 1 if label_mode == "binary" else len(classes)
    if label_mode == "categorical":
        targets = np.eye(outputs, dtype=np.float32)[generator.integers(0, outputs, images)]
    else:
        targets = generator.integers(0, 2, (images, outputs)).astype(np.float32)
    logits = (4 * targets - 2 + generator.normal(0, 2, targets.shape)).astype(np.float32)
    calibration = calibrate(logits, targets, label_mode)
    metrics = summary(logits, targets, label_mode, tuple(classes), calibration=calibration)
    raw = logits.astype(np.float64)
    picture = data_uri(generator.integers(0, 255, (40, 60, 3), np.uint8))
    rows = {"loss": lambda e: 1 / e, "accuracy": lambda e: 0.9 - 0.4 / e, "val_loss": lambda e: 1.2 / e}
    rows |= {"val_accuracy": lambda e: 0.85 - 0.4 / e, "val_accuracy_half_width": lambda e: 0.05}
    history = [{"epoch": e, "steps": 9} | {name: of(e) for name, of in rows.items()} for e in range(1, 6)]
    copies = {"severity": "warning", "text": f"copies of {HOSTILE}", "advice": "drop"}
    story = {
        "name": f"runs/{HOSTILE}",
        "settings": {"model": "resnet20", "data": "photos", "height_width": (32, 48), "seed": 0},
        "classes": classes,
        "label_mode": label_mode,
        "counts": {"train": 600, "val": images, "test": 300},
        "common": (classes[0], 0.4),
        "history": history,
        "kept": 4,
        "metrics": {"validation": metrics, "speed": {"in_words": "bound by the processor"}},
        "answers": Answers(raw / calibration.temperature, raw, targets, label_mode, tuple(classes), None),
        "wrong": 7,
        "mistakes": [Picture(f"cat/{HOSTILE}.png", picture, classes[0], classes[1], 0.97, "", picture)],
        "suspects": Suspects([Picture("a.png", picture, classes[0], classes[1], 0.99)], 1, images),
        "findings": [{**copies, "sets": [[{"name": HOSTILE, "source": picture}]]}],
        "audited": 1000,
        "decisions": [{"setting": "epoch", "value": 4, "evidence": HOSTILE}],
        "learning_curve": {
            "validation": images, "half_width": 0.04,
            "points": [{"images": n, "accuracy": a} for n, a in ((150, 0.7), (150, 0.72), (300, 0.8), (600, 0.85))],
            "forecasts": [{"images": 600 * n, "accuracy": 0.85 + n / 50, "low": 0.8, "high": 1.0} for n in (2, 4)],
        },
        "seconds": {"steps": 60.0, "validation": 5.0, "saving": 0.0},
        "versions": {"keras": "3"},
    }  # fmt: skip
    return Story(**story | changes)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("label_mode", "classes"),
    [("categorical", ("cat", "$x_{$", HOSTILE)), ("binary", ("no", "_yes")), ("multilabel", ("a", "b", "c"))],
)
def test_a_page_stands_alone_and_every_figure_has_words_and_a_table(read, label_mode, classes, language):
    text = page(told(label_mode, classes), language)
    seen = read(text)
    assert re.findall(r'(?:src|href|url\()=?"?(?!data:|#)(?:https?:|//|file:)', text) == []
    assert not seen.named("script") and not seen.named("link")
    figures = [d for d in seen.named("div") if d.get("role") == "img"]
    assert len(figures) == len(seen.named("svg")) == (5 if label_mode == "multilabel" else 6)
    assert all(len(figure["aria-label"]) > 20 for figure in figures)
    assert len(seen.named("details")) >= len(figures)
    images = seen.named("img")
    assert len(images) == 4 and all(image["alt"] for image in images)
    assert len(text) < 5_000_000
    assert seen.named("html") == [{"lang": "zh-CN" if language == "zh" else "en"}]


def test_names_are_text_and_never_markup(read):
    seen = read(page(told()))
    assert not seen.named("script")
    assert seen.text.count(HOSTILE) >= 5


def test_lines_look_alike_in_each_panel_and_are_named_once():
    epochs = np.arange(3.0)
    both, second = plots.Line("both", epochs, epochs), plots.Line("second", epochs, epochs)
    drawn = plots.learning_curves({"loss": [second], "accuracy": [both, second]}, "epoch", None, {})
    assert drawn.count(">both<") == drawn.count(">second<") == 1
    lines = [
        len(re.findall(f'"fill: none; stroke[^"]*: {colour}', drawn))
        for colour in (plots.FIRST, plots.SECOND)
    ]
    assert lines == [3, 2], "each once more in the legend"


def test_the_band_ends_where_a_share_does():
    epochs = np.arange(3.0)
    line = plots.Line("validation", epochs, np.array([0.1, 0.5, 0.9]), np.full(3, 0.4), 1.0)
    within = plots.Line("validation", epochs, np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.4, 0.1]), 1.0)

    def ticks(drawn):
        return [float(n.replace("\u2212", "-")) for n in re.findall(r">(\S?\d\.\d)<", drawn)]

    for shown in (line, within):
        drawn = ticks(plots.learning_curves({"accuracy": [shown]}, "epoch", None, {}))
        assert len(drawn) > 3 and min(drawn) >= 0 and max(drawn) <= 1


def test_a_single_epoch_is_marked_as_one():
    one = plots.Line("validation", np.array([1.0]), np.array([0.5]))
    drawn = plots.learning_curves({"loss": [one]}, "epoch", 1, {})
    assert ">1<" in drawn and not re.search(r">(0\.9|1\.0)\d+<", drawn)


def test_a_command_in_the_evidence_is_set_as_one():
    because = "`rightfit suspects` lists labels"
    text = page(told(decisions=[{"setting": "diagnosis", "value": "label noise", "evidence": because}]))
    assert "<td><code>rightfit suspects</code> lists labels</td>" in text


def test_what_a_page_says_is_what_the_run_holds(read):
    story = told()
    accuracy = story.metrics["validation"]["accuracy"]
    said = read(page(story)).text
    for value in accuracy.values():
        assert f"{100 * value:.1f} %" in said and f"{value:.4f}" in said
    assert "always predicting “cat” would get 40.0 %" in said
    assert "still sealed" in said and "bound by the processor" in said
    compared = told(openings=[{"time": "now", "purpose": "compare", "weights": "ab" * 32}])
    assert "no numbers on it are on record" in read(page(compared)).text
    opened = told(metrics={**story.metrics, "test": story.metrics["validation"]}, openings=[
        {"time": "now", "purpose": "evaluate", "weights": "ab" * 32, "other_weights_before": n} for n in (0, 2)
    ])  # fmt: skip
    said = read(page(opened)).text
    assert "opened 2 times" in said and "2 other set(s) of weights" in said and "still sealed" not in said


@pytest.mark.parametrize(
    ("trained", "verdict"),
    [(0.99, "overfitting"), (0.6, "harder than validation"), (0.77, "within what"), (0.30, "underfitting")],
)
def test_over_and_underfit_are_told_from_what_the_interval_allows(read, trained, verdict):
    held = 0.32 if verdict == "underfitting" else 0.75
    row = {"epoch": 1.0, "steps": 9, "loss": 1.0, "accuracy": trained, "val_loss": 1.0, "val_accuracy": held}
    story = told(history=[row | {"val_accuracy_half_width": 0.05}], kept=1)
    assert verdict in read(page(story)).text


@pytest.mark.parametrize("word", ["overfit", "right fit", "can't tell", "leak suspected"])
def test_a_diagnosis_replaces_what_augmented_images_say(read, word):
    measured = {f"{of}_accuracy{half}": 0.75 for of in ("probe", "val") for half in ("", "_half_width")}
    story = told(metrics={"diagnosis": {"word": word, "sentence": "", **measured}})
    said = read(page(story)).text
    assert "both unchanged" in said and "harder than validation" not in said


def test_changes_are_marked_along_the_foot_of_the_curves(read):
    assert "Marks along the foot" not in read(page(told())).text
    rows = [
        {
            "epoch": float(n),
            "steps": 9,
            "loss": 1.0,
            "accuracy": 0.5,
            "val_loss": 1.0,
            "val_accuracy": 0.5,
            "strength": 0.3,
        }
        for n in range(1, 9)
    ]
    changes = [("strength", 0.5, 2), ("strength", 0.1, 4), ("epochs", 8, 6), ("learning_rate", 0.1, 0)]
    decisions = [{"setting": s, "value": v, "evidence": "e", "epoch": n} for s, v, n in changes]
    story = told(
        history=rows, kept=8, decisions=[*decisions, {"setting": "model", "value": "x", "evidence": "e"}]
    )
    assert _marks(story) == {"^": [2], "v": [4], "D": [6]}
    assert "Marks along the foot" in read(page(story)).text
    assert "learnt in part" not in read(page(story)).text
    doubted = [{"setting": DOUBTS, "value": 0.4, "evidence": "e", "epoch": n} for n in (3, 5)]
    assert (
        "After epoch 3 the net’s own answers"
        in read(page(told(history=rows, kept=8, decisions=doubted))).text
    )


def test_a_page_of_a_run_that_goes_on_loads_itself_anew_and_shows_what_there_is(read):
    bare = told(going_on=True, planned=9, metrics={}, answers=None, mistakes=(), suspects=None, kept=None,
                learning_curve={})  # fmt: skip
    seen = read(page(bare))
    assert {"http-equiv": "refresh", "content": "15"} in seen.named("meta")
    assert "5 of 9 epochs" in seen.text and len(seen.named("svg")) == 2
    done = read(page(told()))
    assert all(meta.get("http-equiv") != "refresh" for meta in done.named("meta"))


def test_a_run_of_which_nothing_is_known_has_a_page_too(read):
    empty = told(history=(), metrics={}, answers=None, mistakes=(), suspects=None, findings=(), decisions=(),
                 seconds={}, versions={}, learning_curve={}, counts={"train": 5}, kept=None)  # fmt: skip
    said = read(page(empty)).text
    assert "no validation images" in said and "No images are kept for a test" in said


def test_many_classes_make_no_large_page():
    classes = tuple(f"class {i}" for i in range(120))
    text = page(told(classes=classes, images=1500))
    assert len(text) < 1_500_000 and "and 60 more" in text


# Words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_phrase_is_there_once(language):
    file = resources.files("rightfit.reports").joinpath(f"words-{language}.yaml")
    names = [name.value for name, _ in yaml.compose(file.read_text(encoding="utf-8")).value]
    assert len(names) == len(set(names)), "YAML keeps the last of two without a word"


def test_both_languages_have_the_same_phrases_with_the_same_values():
    english, chinese = (Words(language).phrases for language in LANGUAGES)
    assert list(english) == list(chinese)

    def values(text):
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for name, text in english.items():
        expected = (values(text) - {"count"}) | {"total"} if name == "and others" else values(text)
        assert values(chinese[name]) == expected, name


def test_no_phrase_is_left_over():
    code = "".join(
        path.read_text(encoding="utf-8") for path in SOURCE.iterdir() if path.suffix in (".py", ".html")
    )
    code += (SOURCE.parent / "reporting.py").read_text(encoding="utf-8")
    made = ("slice ", "on ", "verdict ", "fit ", "curves", "metric ", "end ")
    measures = {"accuracy", "error", "warning", "note", "steps", "compiling", "input", "saving", "validation"}
    unused = [
        n
        for n in Words("en").phrases
        if not re.search(f"[\"']{re.escape(n)}[\"']", code) and not n.startswith(made) and n not in measures
    ]
    assert unused == []


def test_what_rightfit_named_itself_is_said_in_the_language_of_the_page(read):
    """Slices and the interval's method stand in metrics.json in English; a group's name is the user's own."""
    values = np.linspace(0.5, 250, 200)
    named = ["dark (1 to 2 of 255)" if i % 2 else "诊所" for i in range(200)]
    story = told()
    raw = story.answers.raw
    metrics = summary(raw, story.answers.targets, "categorical", tuple(story.classes),
                      slices=slices_of(values, 1e6 * values, named))  # fmt: skip
    text = page(told(metrics={"validation": metrics}), "zh")
    for said in (
        "暗（0 至 83，满值 255）",
        "亮（167 至 250，满值 255）",
        "大（",
        "百万像素",
        "自助重抽样 2,000 次",
    ):
        assert said in text, said
    for english in ("megapixels", "medium", "bright", "bootstrap over", "Student"):
        assert english not in text, english
    assert "dark (1 to 2 of 255)" in text and "诊所" in text
    english = read(page(told(metrics={"validation": metrics}))).text
    assert f"dark ({values[0]:.0f} to 83 of 255)" in english
    assert "bootstrap over groups, 2,000 resamples: standard error, Student's t" in english


def test_a_method_of_another_version_is_told_as_it_stands():
    assert interval_method("99 %, by other means", Words("zh")) == "99 %, by other means"
    fewer = "95 %, bootstrap over groups, 2000 resamples (130 of the curves): standard error, Student's t"
    assert "（曲线 130 次）" in interval_method(fewer, Words("zh"))


def test_several_labels_have_their_share_by_name_and_whole_images_too(read):
    story = told("multilabel", ("a", "b", "c"))
    said = read(page(story)).text
    assert "share of labels right" in said
    assert f"{story.metrics['validation']['exact_match']['value']:.4f}" in said
    opened = told("multilabel", ("a", "b", "c"), openings=[{"time": "now", "purpose": "evaluate", "weights": "ab"}],
                  metrics={of: story.metrics["validation"] for of in ("validation", "test")})  # fmt: skip
    assert (
        "of its answers about single labels are right" in read(page(opened)).text.partition("opened once")[2]
    )
    assert "exact" not in page(told()) and "share of labels right" not in read(page(told())).text


# Pictures -------------------------------------------------------------------------------------------


def test_an_image_is_shown_once_however_many_of_its_labels_are_wrong():
    targets = np.array([[1, 0, 1], [1, 1, 0], [0, 0, 1]], np.float32)
    raw = np.array([[-1.0, 3.0, -2.0], [2.0, 2.0, -2.0], [-1.0, -1.0, -4.0]])
    answers = Answers(raw, raw, targets, "multilabel", ("a", "b", "c"), None)
    images = SimpleNamespace(gather=lambda rows: np.zeros((len(rows), 8, 8, 3), np.uint8))
    table = SimpleNamespace(rows=lambda of: np.arange(3), paths=lambda rows: [f"{row}.png" for row in rows])
    dataset = SimpleNamespace(images=images, table=table, image_rows=np.arange(3))

    def none():
        raise ModelFileError("no net here")

    shown = gallery.mistakes(answers, dataset, "", none, Console(quiet=True))
    assert [(p.name, p.label, p.given, p.said) for p in shown] == [
        ("2.png", "c", "present", "absent"), ("0.png", "b", "absent", "present"),
    ]  # fmt: skip


# Figures --------------------------------------------------------------------------------------------


def test_the_points_of_the_reliability_diagram_are_those_of_the_calibration_error():
    story = told()
    for raw, name in ((False, "ece"), (True, "ece_uncalibrated")):
        bins = diagrams.reliability(story.answers, raw)
        total = sum(b.answers for b in bins)
        error = sum(b.answers * abs(b.confidence - b.accuracy) for b in bins) / total
        assert error == pytest.approx(story.metrics["validation"][name]["value"], abs=1e-9)
        assert total == 200


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_copies_of_each_image_in_its_group_narrow_no_bar_of_the_reliability_diagram(mode):
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, (200, 1 if mode == "binary" else 3)).astype(np.float32)
    logits = generator.normal(0, 2, targets.shape) + targets
    names = ("a", "b", "c")[: max(2, targets.shape[1])]

    def bars(copies, groups):
        z, y = np.repeat(logits, copies, axis=0), np.repeat(targets, copies, axis=0)
        return [b.half_width for b in diagrams.reliability(Answers(z, z, y, mode, names, groups))]

    alone = bars(1, None)
    assert bars(4, np.repeat(np.arange(200), 4)) == pytest.approx(alone)
    assert all(single < bar for single, bar in zip(bars(4, None), alone, strict=True))
    assert bars(1, np.zeros(200, np.int64)) == [1.0] * len(alone), "of one patient nothing is known"


def test_the_legend_of_the_reliability_diagram_stands_above_its_bars():
    bins = [diagrams.Bin(0.1, 0.1, 3, 0.3), diagrams.Bin(0.9, 0.9, 3, 0.3)]
    drawn = plots.reliability(bins, bins, ("as trained", "cooled"), ("x", "y"))
    heights = [float(y) for y in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>(?:as trained|cooled)<', drawn)]
    top = min(float(y) for y in re.findall(r'<text[^>]* y="([\d.]+)"[^>]*>1.0<', drawn))
    assert len(heights) == 2 and max(heights) < top


def test_the_area_under_the_drawn_roc_curve_is_auroc():
    story = told()
    for curve in diagrams.curves(story.answers):
        area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
        assert area == pytest.approx(
            story.metrics["validation"]["curves"][curve.name]["auroc"]["value"], abs=1e-3
        )
        assert (curve.true_positive_rate[-1], curve.false_positive_rate[-1]) == (1, 1)


def test_the_area_under_the_drawn_steps_is_average_precision_and_no_class_is_missing():
    story = told(classes=("a", "_b", "$c_{$"))
    found = diagrams.curves(story.answers)
    for curve in found:
        area = np.sum(np.diff(curve.true_positive_rate) * curve.precision[1:])
        known = story.metrics["validation"]["curves"][curve.name]["auprc"]["value"]
        assert area == pytest.approx(known, abs=0.02)
    drawn = plots.curves(found, ("a", "b", "c", "d"))
    assert "_b" in drawn and "$c_{$" in drawn


def test_a_figure_is_the_same_bytes_again_and_takes_the_colour_of_the_page():
    first, second = (plots.time_spent({"虎": 3.0, "b": 1.0}, "s") for _ in range(2))
    assert first == second and "currentColor" in first and plots.INK not in first and "虎" in first


def test_a_picture_is_shrunk_and_keeps_its_shape():
    uri = data_uri(np.zeros((300, 600, 3), np.uint8), 160)
    import base64

    data = base64.b64decode(uri.partition(",")[2])
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (80, 160, 3)


# A browser ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_browser_shows_it_without_an_error_a_request_or_a_missing_picture(tmp_path, browsed, language):
    path = tmp_path / "report.html"
    path.write_text(page(told(), language), encoding="utf-8")
    assert browsed(path) == 4


@pytest.mark.parametrize("highest", [0.5, 0.64, 0.9])
def test_the_names_of_axes_are_inside_their_figure(highest):
    """From 0.64 down the numbers get longer while they are laid out."""
    epochs = np.arange(1.0, 108)
    loss = plots.Line("validation", epochs, np.linspace(highest, 0.3, len(epochs)))
    accuracy = plots.Line("validation", epochs, np.linspace(0.7, 1 - highest / 2, len(epochs)))
    drawn = plots.learning_curves({"loss (nats)": [loss], "accuracy": [accuracy]}, "epoch", 98, {})
    (baseline,) = re.findall(r'x="([\d.-]+)"[^>]*rotate\(-90[^>]*>loss \(nats\)<', drawn)
    assert float(baseline) > 9, "a letter's height from the edge"
