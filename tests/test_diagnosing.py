"""The story of a run is told from its record, and says no more than is there."""

import json
import subprocess
import sys

import pytest

from rightfit import diagnosing
from rightfit.records import SETBACK
from rightfit.reports import tables


def test_the_command_tells_what_the_run_has_on_record(trained, process, copy_of_run):
    done = process("diagnose", trained.folder)
    assert done.returncode == 0, done.stderr
    kept = json.loads((trained.folder / "metrics.json").read_text())["diagnosis"]
    lines = done.stdout.splitlines()
    assert (
        lines[0].startswith(f"{trained.folder}: ")
        and "40 training and 7 validation images, 2 epochs" in lines[0]
    )
    assert lines[1] == f"{kept['word']}: {kept['sentence']}"
    content = json.loads(process("diagnose", trained.folder, "--json").stdout)
    assert content["word"] == kept["word"]
    (stage,) = [stage for stage in content["stages"] if stage["epoch"] == content["kept"]]
    assert stage["train"] == pytest.approx(kept["probe_accuracy"]) and stage["val"] == kept["val_accuracy"]

    decisions = copy_of_run / "decisions.jsonl"
    change = {
        "setting": "strength",
        "value": 0.5,
        "evidence": "99.0 % of training images are right",
        "epoch": 1,
    }
    decisions.write_text(decisions.read_text() + json.dumps(change) + "\n")
    told = process("diagnose", copy_of_run).stdout
    assert "  after epoch 1: strength 0.5: 99.0 % of training images are right\n    validation " in told


def test_what_is_on_record_is_read_without_waking_a_backend(trained):
    code = (
        f"import sys, rightfit; rightfit.diagnose({str(trained.folder)!r}); sys.exit('keras' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize("count", [0, 1, 5, 8, 9, 60, 1000])
def test_a_long_run_is_told_in_a_few_stages_with_the_kept_and_the_last_epoch(count):
    row = {
        "probe_accuracy": 0.9,
        "probe_accuracy_half_width": 0.1,
        "val_accuracy": 0.8,
        "val_accuracy_half_width": 0.1,
    }
    rows = [row | {"epoch": float(n + 1), "learning_rate": 0.1} for n in range(count)]
    kept = max(1, count // 3)
    stages = diagnosing._stages(rows, kept)
    epochs = [stage.epoch for stage in stages]
    assert epochs == sorted(set(epochs)) and len(epochs) <= diagnosing.STAGES + 1
    if count:
        assert {1, kept, count} <= set(epochs)


def test_a_run_without_the_doctor_is_told_as_far_as_it_is_known():
    found = {
        "run": "runs/a", "model": "resnet20", "images": {"train": 5, "val": 0, "test": 0}, "epochs": 3, "kept": None,
        "word": "", "sentence": "", "stages": [], "actions": [], "doctor": "advise", "learning_curve": {},
    }  # fmt: skip
    assert any("its fit was not measured" in line for line in tables.of_fit(found))
    assert any("--doctor off" in line for line in tables.of_fit({**found, "doctor": "off"}))
    stopped = tables.of_fit({**found, "sentence": "stopped at step 3 of epoch 2"})
    assert "not trained to its end: stopped at step 3 of epoch 2; `rightfit resume runs/a` goes on" in stopped


def record(setting, epoch, value=0.5):
    return {"setting": setting, "value": value, "evidence": "e", "epoch": epoch}


def test_what_a_setback_undid_is_not_told_as_done():
    records = [
        {"setting": "model", "value": "resnet20", "evidence": "e"},
        record("learning_rate", 0),
        record("strength", 2),
        record("strength", 5),
        record(SETBACK, 4),
        record("strength", 6),
    ]
    rows = [{"epoch": float(n), "val_accuracy": n / 10} for n in range(1, 8)]
    actions = diagnosing._actions(records, rows, kept=5, rate=0.1)
    assert [(a.setting, a.epoch) for a in actions] == [
        ("learning_rate", 0), ("strength", 2), (SETBACK, 4), ("strength", 6),
    ]  # fmt: skip
    assert [a.after for a in actions] == [0.5, 0.5, 0.5, None], "of weights that came later"
    assert [a.before for a in actions] == [None, 0.2, 0.4, 0.6]


def test_a_learning_rate_that_was_tried_and_stayed_is_no_change():
    for value, changes in ((0.1, 0), (0.6, 1)):
        found = diagnosing._actions([record("learning_rate", 0, value)], [], kept=5, rate=0.1)
        assert len(found) == changes, value


def test_an_interval_that_is_not_known_is_null_and_shown_as_such():
    row = {"epoch": 1.0, "learning_rate": 0.1, "probe_accuracy": 0.9, "val_accuracy": 0.8}
    (stage,) = diagnosing._stages([row | {"val_accuracy_half_width": float("nan")}], 1)
    assert stage.train_half is None and stage.val_half is None
