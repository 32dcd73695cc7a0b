"""A run that was broken off, however it was, goes on to what it would have been: the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from rightfit.config import TrainSettings
from rightfit.data.augment import POLICIES
from rightfit.data.loader import Batch, TrainLoader
from rightfit.nets.layers import fused
from rightfit.training.backend_steps import make_step
from rightfit.training.optimizers import make_optimizer

TINY = ("--image-size", 8, "--model", "resnet8")
SMALL = (*TINY, "--batch-size", 16, "--precision", "float32", "--learning-rate", "0.05")
KILLS = {"tensorflow": 19, "jax": 3, "torch": 3}
SEEDS = {"tensorflow": 10, "jax": 13, "torch": 5}  # AdamW where they are odd
AS_USERS_RUN = {  # and not as the suite does
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TF_NUM_INTRAOP_THREADS": "2",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
}
SAME = ("weights.safetensors", "golden.npz", "data.csv", "config.yaml", "architecture.json")


# Killed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", KILLS)
def test_a_run_killed_again_and_again_is_the_run_that_nobody_disturbed(backend, tmp_path, process):
    """SIGKILL while it learns, judges or writes; two phases, dropout, averaging; sums nobody looked at on the way."""
    script = Path(__file__).with_name("kills.py")
    done = subprocess.run(
        [sys.executable, script, backend, tmp_path, str(KILLS[backend]), str(SEEDS[backend])],
        env=process.environment(**AS_USERS_RUN),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert len(said["kills"]) == KILLS[backend]
    assert len({tuple(kill["files"]) for kill in said["kills"]}) > 1, "they hit at different places"
    assert len(said["whole"]["history"]) == 12
    assert said["whole"]["rate_factor"] > 1, "the doctor took another learning rate"
    assert said["whole"]["doubted"], "and doubted labels"
    assert {row["strength"] for row in said["whole"]["history"]} == {0.3, 0.7}, "and moved strength"
    assert said["killed"] == said["whole"]


def decisions(folder):
    lines = (folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


def history(folder, rows_of):
    rows = rows_of(folder / "history.csv")
    return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in rows]


def assert_the_same_run(one, other, rows_of):
    for name in SAME:
        bytes_of = [(folder / name).read_bytes().replace(bytes(folder), b"RUN") for folder in (one, other)]
        assert bytes_of[0] == bytes_of[1], name
    assert metrics(one) == metrics(other)
    assert decisions(one) == decisions(other)
    assert history(one, rows_of) == history(other, rows_of)


def metrics(folder):
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {name: found for name, found in content.items() if name != "speed"}


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory, process):
    """An undisturbed run of twelve epochs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = process("train", photos, *SMALL, "--epochs", 12, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


def until(wanted, seconds=120):
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.005)


def epochs_in(folder):
    path = folder / "history.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def test_the_command_killed_twice_leaves_the_files_of_the_undisturbed_run(
    whole, photos, tmp_path, process, here, rows_of
):
    run = tmp_path / "run"
    arguments = [("train", photos, *SMALL, "--epochs", 12, "--checkpoint-every", "0.05s", "--output", run)]
    arguments += [("resume", run)]
    for number, given in enumerate(arguments):
        running = subprocess.Popen(
            process.command(*given), env=process.environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE
        )
        until(lambda number=number: epochs_in(run) >= 3 + 3 * number)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert running.returncode == -signal.SIGKILL
    (run / ".golden.npz-killed.npz").write_bytes(b"half of it")
    (run / "history.csv").write_text("epoch\n1\n", encoding="utf-8")  # as if the kill had come before it
    with (run / "decisions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"setting": "epoch", "value": 3, "evidence": "written, then killed"}\n')
    done = process("resume", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run}\n"
    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("'0.05s'", "5m").replace("0.05s", "5m"), encoding="utf-8")
    assert_the_same_run(run, whole, rows_of)
    assert (run / "model.keras").exists()
    assert [path.name for path in run.glob(".*")] == [".lock"], "nothing half-written is left"
    again = here("resume", run)
    assert (again.returncode, again.stdout) == (0, f"{run}\n")
    assert "is finished: all 12 epochs done" in again.stderr


def stopping(when, number=signal.SIGTERM):
    """Sends this process a signal once `when()`; as `kill` from a shell would."""

    def watch():
        until(when)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.fixture
def python_handlers():
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_fine_tuning_stopped_and_resumed_decides_and_weighs_the_same(
    whole, tmp_path, here, rows_of, write_images, python_handlers
):
    """Three phases with the head before them, of which nothing is done twice: its weights are gone by then."""
    photos = write_images(tmp_path / "photos", count=60)
    weights = tmp_path / "given.safetensors"
    weights.write_bytes((whole / "weights.safetensors").read_bytes())
    common = (*TINY, "--finetune", "auto", "--epochs", 6, "--ema", "0.5")
    arguments = ("train", photos, "--weights", weights, *common)
    runs = [tmp_path / "whole" / "run", tmp_path / "parts" / "run"]
    assert here(*arguments, "--output", runs[0]).returncode == 0
    thread = stopping(lambda: epochs_in(runs[1]) >= 3)
    stopped = here(*arguments, "--output", runs[1])
    thread.join()
    assert stopped.returncode == 0 and "`rightfit resume" in stopped.stderr, stopped.stderr
    assert epochs_in(runs[1]) < 7, "it was stopped in time"
    unfinished = json.loads((runs[1] / "metrics.json").read_text())
    assert unfinished["unfinished"].startswith("stopped at step ")
    assert "accuracy" in unfinished["validation"], "what was kept so far can be used"
    assert here("predict", runs[1], photos / "red").returncode == 0
    weights.unlink()
    resumed = here("resume", runs[1])
    assert resumed.returncode == 0, resumed.stderr
    assert "head fitted" not in resumed.stderr
    (tmp_path / "parts").rename(tmp_path / "other")
    other = tmp_path / "other" / "run"
    for name in ("weights.safetensors", "golden.npz"):
        assert (runs[0] / name).read_bytes() == (other / name).read_bytes(), name
    assert metrics(runs[0]) == metrics(other)
    assert decisions(runs[0]) == decisions(other)
    assert history(runs[0], rows_of) == history(other, rows_of)


@pytest.fixture
def stopped(photos, tmp_path, here, python_handlers, write_images):
    """A run on images of its own, stopped by SIGTERM in its third epoch or soon after."""
    images = write_images(tmp_path / "photos")
    run = tmp_path / "run"
    thread = stopping(lambda: epochs_in(run) >= 2)
    said = here("train", images, *SMALL, "--epochs", 400, "--patience", 400, "--output", run)
    thread.join()
    assert said.returncode == 0, said.stderr
    return SimpleNamespace(run=run, images=images, said=said)


def test_a_stopped_run_says_where_and_refuses_what_has_changed(stopped, here, picture):
    run, said = stopped.run, stopped.said
    assert said.stdout == f"{run}\n"
    assert f"`rightfit resume {run}` goes on" in said.stderr.splitlines()[-1]
    changed = stopped.images / "blue" / "00.png"
    before = changed.read_bytes()
    changed.write_bytes(picture())
    refused = here("resume", run)
    assert refused.returncode == 3
    assert str(changed) in refused.stderr and "images were changed" in refused.stderr
    changed.write_bytes(before)

    config = (run / "config.yaml").read_text(encoding="utf-8")
    (run / "config.yaml").write_text(config.replace("learning_rate: 0.05", "learning_rate: 0.06"), "utf-8")
    refused = here("resume", run)
    assert refused.returncode == 2
    assert "learning_rate from 0.05 to 0.06" in refused.stderr
    (run / "config.yaml").write_text(config, encoding="utf-8")

    table = (run / "data.csv").read_text(encoding="utf-8")
    (run / "data.csv").write_text(table.replace('"blue"', '"red"', 1), encoding="utf-8")
    refused = here("resume", run)
    assert refused.returncode == 3 and "data.csv was changed" in refused.stderr
    (run / "data.csv").write_text(table, encoding="utf-8")
    assert epochs_in(run) >= 2


def test_accepted_changes_are_on_record_and_two_processes_keep_off_one_run(
    stopped, here, picture, python_handlers
):
    run = stopped.run
    (stopped.images / "blue" / "00.png").write_bytes(picture())
    before = epochs_in(run)
    thread = stopping(lambda: epochs_in(run) > before)
    others = []

    def meanwhile():
        import rightfit

        until(lambda: '"accepted as they are"' in (run / "decisions.jsonl").read_text())
        try:
            rightfit.resume(run, quiet=True)
        except rightfit.UsageError as error:
            others.append(str(error))

    second = threading.Thread(target=meanwhile)
    second.start()
    resumed = here("resume", run, "--accept-data-changes")
    thread.join()
    second.join()
    assert resumed.returncode == 0, resumed.stderr
    assert [d["setting"] for d in decisions(run)].count("data") == 1
    (other,) = others
    assert f"another process works on it (process {os.getpid()} on " in other


def test_a_finished_run_is_taken_further_by_a_schedule_that_begins_again(whole, tmp_path, here, rows_of):
    import shutil

    run = Path(shutil.copytree(whole, tmp_path / "run"))
    refused = here("resume", run, "--epochs", 12)
    assert refused.returncode == 2 and "--epochs must be more than that" in refused.stderr
    done = here("resume", run, "--epochs", 20, "--time-limit", "0.01s")
    assert done.returncode == 0 and "time limit of 0.01s reached" in done.stderr
    shutil.rmtree(run)
    shutil.copytree(whole, run)
    done = here("resume", run, "--epochs", 15)
    assert done.returncode == 0, done.stderr
    rows = history(run, rows_of)
    assert rows[:12] == history(whole, rows_of)
    assert [row["epoch"] for row in rows[12:]] == ["13", "14", "15"]
    rates = [float(row["learning_rate"]) for row in rows]
    assert rates[12] > 10 * rates[11], "the rate is up again"
    assert rates[14] < min(rates[12:14]), "and falls to its end, after a share of the warm-up"
    assert [d["value"] for d in decisions(run) if d["setting"] == "epochs"] == [15]
    assert decisions(run)[-2]["evidence"].startswith("all 15 epochs done")


def test_a_run_killed_before_its_first_checkpoint_begins_again(whole, tmp_path, here, rows_of):
    import shutil

    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for path in [*run.glob("*"), *(run / "checkpoints").glob("*")]:
        if path.is_file() and path.name not in ("data.csv", "config.yaml", "decisions.jsonl", "start.json"):
            path.unlink()
    done = here("resume", run)
    assert done.returncode == 0, done.stderr
    assert "begins again" in done.stderr
    for name in ("weights.safetensors", "data.csv"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert metrics(run) == metrics(whole)
    assert decisions(run) == decisions(whole)


def test_a_run_on_arrays_goes_on_with_the_same_arrays_and_no_others(digits, tmp_path, python_handlers):
    import rightfit

    images, labels = digits
    run = tmp_path / "run"
    thread = stopping(lambda: epochs_in(run) >= 1)
    arguments = {
        "image_size": 8,
        "model": "resnet8",
        "epochs": 4,
        "batch_size": 32,
        "precision": "float32",
        "quiet": True,
        "report": "none",
    }
    rightfit.train((images, labels), **arguments, output=run)
    thread.join()
    with pytest.raises(rightfit.UsageError, match="give them again"):
        rightfit.resume(run, quiet=True)
    with pytest.raises(rightfit.DataError, match="labels are not those of the run"):
        rightfit.resume(run, data=(images, np.roll(labels, 1)), quiet=True)
    with pytest.raises(rightfit.DataError, match="images were changed"):
        rightfit.resume(run, data=(255 - images, labels), quiet=True)
    resumed = rightfit.resume(run, data=(images, labels), quiet=True)
    whole = rightfit.train((images, labels), **arguments, output=tmp_path / "whole")
    files = [r.path / "weights.safetensors" for r in (resumed, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()


# The step's state -----------------------------------------------------------------------------------


def net():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, name="conv")(inputs))
    x = layers.Dropout(0.5, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(x))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_step_takes_the_same_steps_dropout_included(optimizer):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (64, 8, 8, 3), np.uint8)
    targets = np.eye(3, dtype=np.float32)[np.arange(64) % 3]
    loader = TrainLoader(
        SimpleNamespace(gather=lambda rows: images[rows]),
        np.arange(64),
        targets,
        np.ones(64, np.float32),
        16,
        0,
        POLICIES["light"],
    )
    settings = TrainSettings(data="toy", optimizer=optimizer, learning_rate=0.1, weight_decay=0.01)

    def made():
        model = fused(net())
        return make_step(model, make_optimizer(settings, model), "categorical", True)

    def walk(step, steps, looking=False):
        for number in steps:
            step(Batch(*loader.batch(0, number)), 0.1 / (number + 1), 0.5)
            if looking:
                step.totals()

    first, second = made(), made()
    second.restore(first.state())
    walk(first, range(4))
    walk(second, range(2), looking=True)
    third = made()
    third.restore(second.state())
    walk(third, range(2, 4))
    one, other = first.state(), third.state()
    assert list(one) == list(other) and one["sums/count"] == 4
    for name, value in one.items():
        assert value.dtype == other[name].dtype and np.array_equal(value, other[name]), name
    assert any("seed_generator_state" in name for name in one)
    assert np.array_equal(first.totals(), third.totals()) and first.totals()[2] == 64
