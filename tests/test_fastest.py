"""`auto` takes the backend that was measured to train fastest here, once, and says why."""

import json
import subprocess
import sys

import pytest

from rightfit import fastest, runtime
from rightfit.console import Console

ROWS = {
    "tensorflow": {"images_per_second": 20.0},
    "jax": {"error": "took over 60 s"},
    "torch": {"images_per_second": 30.5},
}
SETTLED = "KERAS_BACKEND, or Keras in this process, has settled it"
# A fresh process, in which Keras is not imported, which takes seconds: the speeds it is given stand for measured ones.
CHOOSE = """
import json, sys
from pathlib import Path
from rightfit import fastest, runtime
from rightfit.console import Console
cache, rows = Path(sys.argv[1]), json.loads(sys.argv[2])
runtime._import_keras = lambda backend: None
runtime.installed_backends = fastest.installed_backends = lambda: dict.fromkeys(sys.argv[3:], "1")
measured = []
fastest.measured_apart = lambda name, *rest: measured.append(name) or rows[name]
print(json.dumps([*fastest.choose("auto", cache, Console()), measured]))
print(json.dumps([*fastest.choose("auto", cache, Console()), measured]))
"""


@pytest.fixture
def remembered(tmp_path):
    """remembered(content by backend, key): a cache that knows it."""

    def write(rows, key=None):
        content = {key or runtime.hardware_and_versions(): rows}
        (tmp_path / runtime.SPEEDS).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return write


def choose(process, *arguments, **environment):
    """Lines of stdout as data, and stderr."""
    surroundings = process.environment(**environment)
    if "KERAS_BACKEND" not in environment:
        del surroundings["KERAS_BACKEND"]
    done = subprocess.run(
        [sys.executable, "-c", CHOOSE, *map(str, arguments)],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_auto_measures_once_takes_the_fastest_and_says_why(process, tmp_path):
    (first, again), said = choose(process, tmp_path, json.dumps(ROWS), *ROWS)
    reason = "it trains fastest here: torch 30.5 images/s of a resnet18 at 96 px; tensorflow 20.0"
    assert first == ["torch", reason, list(ROWS)]
    assert again == ["torch", SETTLED, list(ROWS)]
    lines = said.splitlines()
    assert lines[0].startswith("measuring which of tensorflow, jax and torch trains fastest here: once")
    assert lines[1] == f"torch: {reason}"
    (later, _), said = choose(process, tmp_path, "{}", *ROWS)
    assert later == ["torch", reason, []] and "measuring" not in said


def test_what_is_asked_for_or_alone_is_taken_and_nothing_measured(process, tmp_path):
    (first, _), said = choose(process, tmp_path, "{}", *ROWS, KERAS_BACKEND="jax")
    assert first == ["jax", SETTLED, []] and said == ""
    (first, _), said = choose(process, tmp_path, "{}", "torch")
    assert first == ["torch", "no other is installed", []] and said == ""
    assert not list(tmp_path.iterdir())


def test_what_was_measured_decides_though_it_cannot_be_remembered(process, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    (first, _), _ = choose(process, tmp_path / "cache", json.dumps(ROWS), *ROWS)
    assert first[0] == "torch" and first[1].startswith("it trains fastest here: torch 30.5")


def test_what_was_measured_before_somebody_stopped_it_is_kept(process, tmp_path):
    stopped = {
        name: ROWS[name] for name in ("tensorflow", "jax")
    }  # torch is not there: KeyError, as of Ctrl-C
    with pytest.raises(AssertionError, match="KeyError"):
        choose(process, tmp_path, json.dumps(stopped), *ROWS)
    (first, _), _ = choose(process, tmp_path, json.dumps({"torch": ROWS["torch"]}), *ROWS)
    assert first[0] == "torch" and first[2] == ["torch"]


def test_where_nothing_could_be_measured_the_usual_order_holds_and_it_is_not_tried_again(process, tmp_path):
    failed = {name: {"error": "no"} for name in ROWS}
    (first, _), _ = choose(process, tmp_path, json.dumps(failed), *ROWS)
    assert first == ["tensorflow", "the first of the usual order; no speed could be measured", list(ROWS)]
    (later, _), said = choose(process, tmp_path, "{}", *ROWS)
    assert later[2] == [] and "measuring" not in said


def test_a_backend_that_fails_is_no_choice(remembered, monkeypatch):
    cache = remembered(ROWS)
    monkeypatch.setattr(runtime, "installed_backends", lambda: dict.fromkeys(ROWS, "1"))
    cache = remembered(ROWS)
    assert runtime.known_speeds(cache) == {"tensorflow": 20.0, "torch": 30.5}


@pytest.mark.parametrize(
    "rows", [[], {"torch": 3}, {"torch": {"images_per_second": "fast"}}, {"torch": {"images_per_second": -1}}]
)
def test_what_is_no_speed_is_not_known(remembered, rows):
    assert runtime.known_speeds(remembered(rows)) == {}


def test_speeds_of_another_machine_or_version_are_not_known(remembered):
    assert runtime.known_speeds(remembered(ROWS, key="another processor")) == {}


def test_the_key_changes_with_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = runtime.hardware_and_versions()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert runtime.hardware_and_versions() != before


def test_a_measurement_gives_a_speed_and_its_precision(monkeypatch):
    """Of a smaller net, in this process."""
    for name, value in {"MODEL": "resnet20", "SIDE": 16, "BATCH": 8, "STEPS": 2, "MATRIX": 128}.items():
        monkeypatch.setattr(fastest, name, value)
    monkeypatch.setattr(fastest, "LONG_ENOUGH", 0.001)
    row = fastest.measured()
    assert row["images_per_second"] > 0 and row["step_gflops"] > 0 and row["matrix_gflops"] > 0
    assert row["precision"] in ("float32", "bfloat16")


def test_a_process_that_fails_or_takes_too_long_is_an_error_in_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr(fastest, "installed_backends", lambda: {"nothing": "1"})
    (row,) = fastest.measure(tmp_path, 60).values()
    assert "unknown backend 'nothing'" in row["error"]
    assert fastest.measured_apart("tensorflow", tmp_path, 0.01) == {"error": "took over 0 s"}
    assert fastest.choose("tensorflow", tmp_path, Console(quiet=True)) == ("tensorflow", "as asked")
