"""A run's page as the command draws it: at the end of training, again after evaluate, while it trains, and later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rightfit import reporting
from rightfit.console import Console
from rightfit.data.recorded import splits_of
from rightfit.run import Run
from rightfit.training.state import Progress

DEMO = Path(__file__).parents[2] / "runs" / "demo" / "report.html"


@pytest.fixture(scope="module")
def drawn(photos, tmp_path_factory, process):
    """A run that was trained with its page."""
    folder = tmp_path_factory.mktemp("drawn") / "run"
    small = ("--image-size", 12, "--model", "resnet8", "--epochs", 2)
    arguments = (*small, "--report", "en", "--output", folder)
    done = process("train", photos, *arguments)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def copy(drawn, tmp_path):
    return shutil.copytree(drawn[0], tmp_path / "copy")


def text(run):
    return (run / "report.html").read_text(encoding="utf-8")


def test_training_ends_with_a_page_that_says_what_came_out(drawn):
    folder, done = drawn
    said = text(folder)
    assert f"report: {folder / 'report.html'}" in done.stderr
    accuracy = Run(folder).metrics["validation"]["accuracy"]
    assert f"{100 * accuracy['value']:.1f} %" in said and "still sealed" in said
    for heading in (
        "Learning",
        "How good it is",
        "Confusion matrix",
        "ROC and",
        "The data",
        "To repeat it",
    ):
        assert f"<h2>{heading}" in said


def test_a_browser_shows_the_page_of_a_run(drawn, browsed):
    assert browsed(drawn[0] / "report.html") == text(drawn[0]).count("<img ")


@pytest.mark.skipif(not DEMO.exists(), reason="`make demo` was not run here")
def test_a_browser_shows_the_page_of_the_demo(browsed):
    assert browsed(DEMO) == DEMO.read_text(encoding="utf-8").count("<img ") > 12


def test_evaluate_draws_the_page_again_with_the_test_on_it(copy, here):
    assert here("evaluate", copy).returncode == 0
    assert "opened once" in text(copy) and "still sealed" not in text(copy)


def test_the_report_command_writes_where_and_in_what_it_is_asked(copy, here, tmp_path):
    done = here("report", copy, "--language", "zh", "--output", tmp_path / "报告.html")
    assert done.returncode == 0 and done.stdout.strip() == str(tmp_path / "报告.html")
    assert "学习过程" in (tmp_path / "报告.html").read_text(encoding="utf-8")
    refused = here("report", copy, "--language", "de")
    assert refused.returncode == 2 and "none of en, zh" in refused.stderr
    assert here("report", tmp_path).returncode == 1


def test_a_page_without_its_images_says_so_and_keeps_the_numbers(copy, here, write_images, tmp_path):
    lines = (copy / "data.csv").read_text(encoding="utf-8").replace("photos", "gone")
    (copy / "data.csv").write_text(lines, encoding="utf-8")
    done = here("report", copy)
    assert done.returncode == 0 and "no pictures" in done.stderr
    assert "How good it is" in text(copy) and "<img" not in text(copy)
    assert "Confusion matrix" in text(copy), "which takes no images"
    assert "always predicting “" in text(copy) and "predicting “”" not in text(copy)


def test_the_answers_on_record_are_those_of_the_model(copy, here):
    run = Run(copy)
    images = len(run.seen_images().table.rows("val"))
    kept = run.recorded_logits(images)
    assert abs(kept - run.logits("val", Console(quiet=True))).max() < 1e-4
    assert run.recorded_logits(images + 1) is None
    (copy / "validation.npz").write_bytes(b"no zip")
    assert run.recorded_logits(images) is None
    assert here("report", copy).returncode == 0 and "Confusion matrix" in text(copy)


def test_what_goes_wrong_with_the_page_is_no_error_of_evaluate(copy, here):
    (copy / "audit.json").write_text("{", encoding="utf-8")
    done = here("evaluate", copy)
    assert done.returncode == 0 and "no report: " in done.stderr and "accuracy" in done.stdout


def test_a_page_shows_no_file_that_is_no_image_of_the_run(copy, here, tmp_path, write_images):
    """Whoever made the folder chose the names in it, and the page is made to be sent on."""
    foreign = write_images(tmp_path / "private", classes=("red",), count=1) / "red" / "00.png"
    audit = json.loads((copy / "audit.json").read_text(encoding="utf-8"))
    finding = {"severity": "note", "kind": "constant", "text": "one", "advice": ""}
    own = str(next(iter(splits_of(copy / "data.csv"))))
    counts = []
    for files in ([], [[str(foreign)]], [[own, str(foreign)]]):
        written = {**audit, "findings": [{**finding, "files": files}]}
        (copy / "audit.json").write_text(json.dumps(written), encoding="utf-8")
        assert here("report", copy).returncode == 0
        counts.append(text(copy).count("<img "))
        assert str(foreign) not in text(copy)
    assert counts == [counts[0], counts[0], counts[0] + 1]


@pytest.mark.parametrize("damaged", ["{}", "[]", '{"findings": [{}], "root": "", "images": 1}'])
def test_an_audit_of_another_shape_is_a_damaged_run(copy, here, damaged):
    (copy / "audit.json").write_text(damaged, encoding="utf-8")
    done = here("report", copy)
    assert done.returncode == 1 and "audit.json: cannot be read" in done.stderr
    assert "the run is incomplete or damaged" in done.stderr


def test_a_page_is_in_the_language_of_its_run(copy, here):
    config = (copy / "config.yaml").read_text(encoding="utf-8")
    (copy / "config.yaml").write_text(config.replace("report: en", "report: zh"), encoding="utf-8")
    assert here("report", copy).returncode == 0 and 'lang="zh-CN"' in text(copy)


def test_evaluate_keeps_the_language_of_the_page(copy, here):
    assert here("report", copy, "--language", "zh").returncode == 0
    assert here("evaluate", copy).returncode == 0 and 'lang="zh-CN"' in text(copy)


def test_while_it_trains_the_page_shows_the_epochs_and_is_not_drawn_too_often(drawn, tmp_path, monkeypatch):
    run = Run(drawn[0])
    said = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "say", said.append)
    follower = reporting.Follower(
        tmp_path, run.settings, {"train": 40, "val": 7}, run.classes, run.label_mode, console
    )
    rows = [
        {name: value for name, value in row.items() if name != "trainable"}
        for row in run.history.to_dict("records")
    ]
    follower.after_epoch(Progress(history=rows[:1], epochs=2))
    first = text(tmp_path)
    assert "1 of 2 epochs" in first and 'http-equiv="refresh"' in first
    follower.after_epoch(Progress(history=rows, epochs=2))
    assert text(tmp_path) == first, "the last one is fresh enough"
    follower.due = 0
    follower.after_epoch(Progress(history=rows, epochs=2))
    assert "2 of 2 epochs" in text(tmp_path) and said == []
    follower.due, follower.place = 0, tmp_path / "gone"
    follower.after_epoch(Progress(history=rows, epochs=2))
    assert len(said) == 1 and "training goes on" in said[0]


def test_none_draws_none(trained):
    assert not (trained.folder / "report.html").exists()
