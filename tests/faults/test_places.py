"""What happens around a run that goes on: its images vanish, its folder closes, the clock jumps."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ("--image-size", 8, "--model", "resnet8")
COMMON = (*TINY, "--batch-size", 16, "--precision", "float32", "--learning-rate", "0.05")
COMMON += ("--patience", 400)
EPOCHS = 40


def until(wanted, seconds=120):
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.005)


def epochs_in(run):
    path = run / "history.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def meanwhile(run, work):
    """A thread that does `work()` once the run has had two epochs."""

    def wait():
        until(lambda: epochs_in(run) >= 2)
        work()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def weights(run):
    return (run / "weights.safetensors").read_bytes()


# Images ---------------------------------------------------------------------------------------------


def test_images_that_vanish_change_or_close_while_a_run_goes_on_are_not_missed(
    here, write_images, tmp_path, picture
):
    """They were decoded before the first step; only a resume or an evaluation looks at them again."""
    photos = write_images(tmp_path / "photos")
    runs = [tmp_path / "undisturbed", tmp_path / "disturbed"]
    assert here("train", photos, *COMMON, "--epochs", EPOCHS, "--output", runs[0]).returncode == 0
    epochs_then = []

    def spoil():
        epochs_then.append(epochs_in(runs[1]))
        (photos / "blue" / "00.png").unlink()
        (photos / "blue" / "02.png").write_bytes(picture())
        (photos / "green" / "00.png").write_bytes(b"")
        (photos / "green" / "02.png").chmod(0)
        shutil.rmtree(photos / "red")

    thread = meanwhile(runs[1], spoil)
    done = here("train", photos, *COMMON, "--epochs", EPOCHS, "--output", runs[1])
    thread.join()
    assert done.returncode == 0, done.stderr
    assert epochs_then[0] < EPOCHS, "it was still going on"
    assert weights(runs[1]) == weights(runs[0])
    refused = here("evaluate", runs[1])
    assert refused.returncode == 3 and "put them back, or train anew" in refused.stderr


# The run's folder -----------------------------------------------------------------------------------


def test_a_run_folder_that_closes_costs_nothing_but_a_resume(here, write_images, without_rights):
    folder, as_nobody = without_rights
    photos = write_images(folder / "photos")
    for name in ("cache", "runs"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    runs = [folder / "runs" / "undisturbed", folder / "runs" / "closed"]
    arguments = ("train", photos, *COMMON, "--epochs", EPOCHS, "--cache-folder", folder / "cache", "--output")

    def set_mode(mode):
        for place in (runs[1], runs[1] / "checkpoints"):
            place.chmod(mode)

    assert here(*arguments, runs[0]).returncode == 0  # imports what nobody else may read
    with as_nobody():
        thread = meanwhile(runs[1], lambda: set_mode(0o555))
        done = here(*arguments, runs[1])
        thread.join()
        assert done.returncode == 1
        assert "checkpoint not saved: " in done.stderr and "training goes on" in done.stderr
        assert done.stderr.count(f"Epoch {EPOCHS}/{EPOCHS}") == 1, "it trained to the end"
        assert "Traceback" not in done.stderr and str(runs[1]) in done.stderr.splitlines()[-1]
        set_mode(0o755)
        resumed = here("resume", runs[1])
    assert resumed.returncode == 0, resumed.stderr
    assert weights(runs[1]) == weights(runs[0])
    assert epochs_in(runs[1]) == EPOCHS


def test_a_decision_that_the_disk_does_not_take_goes_on_record_with_the_next(
    here, photos, tmp_path, monkeypatch
):
    """A setback while the disk is full: training goes on, and nothing is missing in the end."""
    from rightfit import fitting, learning
    from rightfit.errors import WriteError
    from rightfit.training.recipe import Decision

    run, full, append = tmp_path / "run", [True], learning.append_line

    def appending(path, line):
        if full[0]:
            raise WriteError(f"{path}: no space left on the disk")
        append(path, line)

    trained = fitting.trained

    def setback(job, console, checkpoints, saved, record, until):
        record(Decision("learning_rate factor", 0.5, "the first"))
        assert json.loads(checkpoints.describe()["decisions"][-1])["evidence"] == "the first"
        full[0] = False
        return trained(job, console, checkpoints, saved, record, until)

    monkeypatch.setattr(learning, "append_line", appending)
    monkeypatch.setattr(fitting, "trained", setback)
    done = here("train", photos, *COMMON, "--epochs", 1, "--output", run)
    assert done.returncode == 0, done.stderr
    assert "no space left on the disk; the decision goes on record with the next one" in done.stderr
    lines = (run / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["setting"] for line in lines][-3:-1] == ["learning_rate factor", "epoch"]


# Clocks ---------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_by_years_changes_nothing(training, monkeypatch):
    undisturbed = training()
    shutil.rmtree(training.folder.parent)
    jumps = iter(range(10**9))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + (-1) ** next(jumps) * 10**9)
    found = training(time_limit="1h", every=3600.0)
    assert found.progress.ended == "all 4 epochs done" and not found.progress.shortened
    assert 0 <= found.progress.seconds < 300
    for row, other in zip(found.progress.history, undisturbed.progress.history, strict=True):
        assert row["loss"] == other["loss"]
        assert all(0 <= value < 300 for name, value in row.items() if name.endswith("_seconds"))
    assert sorted(path.name for path in training.folder.glob("step-*")) == [
        "step-00000018.safetensors",
        "step-00000024.safetensors",
    ]


def test_the_time_of_day_is_asked_for_stamps_and_for_the_age_of_files_only():
    """Durations are taken by clocks that nobody sets."""
    asking = "time.time()", "datetime.now", "time_ns()", "localtime", "gmtime"
    found = [
        f"{path.relative_to(ROOT / 'src' / 'rightfit')}: {line.strip()}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(name in line for name in asking)
    ]
    places = [line.partition(":")[0] for line in found]
    assert places == ["data/store.py", "reports/run_page.py", "saving/folder.py", "saving/tensorboard.py"], (
        found
    )


# Threads, not processes -----------------------------------------------------------------------------


def test_loading_has_no_process_that_could_be_killed_alone(photos, tmp_path, process):
    """`ps` of a run that goes on shows one process."""
    psutil = pytest.importorskip("psutil")
    run = tmp_path / "run"
    arguments = ("train", photos, *COMMON, "--epochs", 400, "--output", run)
    with subprocess.Popen(
        process.command(*arguments),
        env=process.environment(),
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as running:
        until(lambda: epochs_in(run) >= 1)
        children = psutil.Process(running.pid).children(recursive=True)
        running.kill()
    assert children == [], sys.platform
