"""The whole journey as a user types it: train, evaluate, predict, repeat; through the doors and real processes."""

import json
import os
import re
import signal
import subprocess
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

import rightfit
from rightfit.console import Console

# As in pyproject.toml, whose filters `-W error` overrides.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

TINY = ("--image-size", 8, "--model", "resnet8")
ONE_EPOCH = (*TINY, "--epochs", 1)
RUN_FILES = {
    "config.yaml",
    "data.csv",
    "audit.json",
    "architecture.yaml",
    "architecture.json",
    "weights.safetensors",
    "model.keras",
    "golden.npz",
    "calibration.json",
    "validation.npz",
    "history.csv",
    "decisions.jsonl",
    "metrics.json",
    "log.txt",
    "checkpoints",
    ".lock",
}
EPOCH = re.compile(
    r"Epoch (\d+)/(\d+) · [\d.smh]+ · loss \d+\.\d{4} acc [01]\.\d{3}"
    r" · val_loss \d+\.\d{4} val_acc [01]\.\d{3} ±\d\.\d{3}"
)
# He et al. 2016 with projection shortcuts; the ImageNet rows are torchvision's. The last layer has 1000 units.
PARAMETERS = {
    "resnet8": 78_042 + 65 * 990,
    "resnet14": 175_258 + 65 * 990,
    "resnet20": 272_474 + 65 * 990,
    "resnet32": 466_906 + 65 * 990,
    "resnet44": 661_338 + 65 * 990,
    "resnet56": 855_770 + 65 * 990,
    "resnet110": 1_730_714 + 65 * 990,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}


def succeeded(done):
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def splits_of(folder, rows_of):
    return {row["path"]: row["split"] for row in rows_of(folder / "data.csv")}


# Train ----------------------------------------------------------------------------------------------


def test_training_leaves_exactly_the_files_of_a_run(trained):
    succeeded(trained.done)
    assert {file.name for file in trained.folder.iterdir()} == RUN_FILES


def test_stdout_is_the_runs_path_and_stderr_the_course_of_training(trained):
    assert trained.done.stdout == f"{trained.folder}\n"
    lines = trained.done.stderr.splitlines()
    assert "60 images of 3 classes: 40 to train on, 7 to validate, 13 sealed for the test" in lines
    epochs = [EPOCH.fullmatch(line) for line in lines if line.startswith("Epoch")]
    assert [match and match.groups() for match in epochs] == [("1", "2"), ("2", "2")]
    assert (trained.folder / "log.txt").read_text(encoding="utf-8") == trained.done.stderr


def test_what_is_said_is_what_is_recorded(trained, rows_of):
    metrics = metrics_of(trained.folder)["validation"]
    assert metrics["images"] == 7
    accuracy = metrics["accuracy"]
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert (accuracy["value"] * 7) == pytest.approx(round(accuracy["value"] * 7), abs=1e-9)
    said = trained.done.stderr.splitlines()
    assert f"validation accuracy {accuracy['value']:.4f}, 95 % interval" in said[-2]
    diagnosis = metrics_of(trained.folder)["diagnosis"]
    assert said[-1] == f"diagnosis: {diagnosis['word']}: {diagnosis['sentence']}"
    history = rows_of(trained.folder / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    for row in history:
        assert f"loss {float(row['loss']):.4f}" in trained.done.stderr
        assert f"val_loss {float(row['val_loss']):.4f}" in trained.done.stderr


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def test_what_bounded_the_run_is_said_and_recorded(trained, rows_of):
    speed = metrics_of(trained.folder)["speed"]
    assert speed["in_words"] in trained.done.stderr.splitlines()
    assert sum(speed["shares"].values()) == pytest.approx(1, abs=0.003)
    rows = rows_of(trained.folder / "history.csv")
    columns = ("train_seconds", "validation_seconds", "saving_seconds")
    assert speed["seconds"] == pytest.approx(sum(float(row[c]) for row in rows for c in columns), abs=0.1)


def test_json_is_all_of_stdout_and_a_runs_config_repeats_it_byte_for_byte(trained, process, tmp_path):
    again = tmp_path / "again"
    done = process("train", "--config", trained.folder / "config.yaml", "--output", again, "--json")
    said = json.loads(succeeded(done).stdout)
    assert said == {"run": str(again), **json.loads((again / "metrics.json").read_text(encoding="utf-8"))}
    for name in ("weights.safetensors", "data.csv", "architecture.json"):
        assert (again / name).read_bytes() == (trained.folder / name).read_bytes(), name
    assert said["validation"] == metrics_of(trained.folder)["validation"]


def test_a_repeat_keeps_the_runs_split_though_images_were_added_and_the_cache_is_new(
    trained, photos, here, tmp_path, rows_of, picture
):
    added = photos / "red" / "added.png"
    added.write_bytes(picture())
    try:
        arguments = (
            "--config",
            trained.folder / "config.yaml",
            "--epochs",
            1,
            "--cache-folder",
            tmp_path / "cache",
        )
        succeeded(here("train", *arguments, "--output", tmp_path / "more"))
    finally:
        added.unlink()
    before, after = splits_of(trained.folder, rows_of), splits_of(tmp_path / "more", rows_of)
    assert set(after) - set(before) == {str(added)}
    assert {path: after[path] for path in before} == before


def test_flags_win_over_the_config_and_the_config_over_the_defaults(trained, here, tmp_path, rows_of):
    run = tmp_path / "run"
    flags = ("--epochs", 1, "--batch-size", 8, "--split", "1:1:1")
    config = ("--config", trained.folder / "config.yaml")
    done = succeeded(here("train", *config, *flags, "--output", run, "--quiet"))
    assert (done.stdout, done.stderr) == (f"{run}\n", "")  # quiet is the result only
    assert len(rows_of(run / "history.csv")) == 1
    assert rows_of(run / "history.csv")[0]["steps"] == "3"  # 20 images in eights
    assert sorted(pd.Series(splits_of(run, rows_of)).value_counts().tolist()) == [20, 20, 20]
    settings = (run / "config.yaml").read_text(encoding="utf-8")
    assert re.search(r"^image_size: '12'", settings, re.MULTILINE)  # of the config, not "auto"
    assert re.search(r"^epochs: 1 ", settings, re.MULTILINE)
    warmup = re.search(r"^warmup_epochs: ([\d.]+)", settings, re.MULTILINE)
    assert float(warmup[1]) <= 0.5, "that of the config, 1.0, was chosen for two epochs"


def test_training_never_sees_the_test_images(here, tmp_path, write_images):
    """Two copies that differ in every test image, by content and by label, give the same bytes."""
    for name, seed in (("one", 0), ("other", 7)):
        write_images(tmp_path / name / "train", count=12)
        write_images(tmp_path / name / "val", count=4, seed=1)
        test = write_images(tmp_path / name / "test", count=4, seed=seed)
        if name == "other":
            (test / "red").rename(test / "aside")
            (test / "blue").rename(test / "red")
            (test / "aside").rename(test / "blue")
        arguments = (*TINY, "--epochs", 2, "--output", tmp_path / f"run-{name}")
        done = succeeded(here("train", tmp_path / name, *arguments))
        assert "36 to train on, 12 to validate, 12 sealed for the test" in done.stderr
    for file in ("weights.safetensors", "golden.npz"):
        assert (tmp_path / "run-one" / file).read_bytes() == (tmp_path / "run-other" / file).read_bytes(), (
            file
        )
    validated = [metrics_of(tmp_path / f"run-{name}")["validation"] for name in ("one", "other")]
    assert validated[0] == validated[1]
    tested = [json.loads(here("evaluate", tmp_path / f"run-{n}", "--json").stdout) for n in ("one", "other")]
    assert tested[0]["loss"] != tested[1]["loss"]  # so the difference was there to be seen


def test_two_label_columns_of_one_table_give_the_same_split(here, photos, tmp_path, rows_of):
    """With a cache each, so that the second cannot remember the first."""
    rows = ["path,label,size"]
    for number, path in enumerate(sorted(photos.glob("*/*"))):
        rows.append(f"{path},{path.parent.name},{'small' if number % 3 else 'large'}")
    (tmp_path / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    found = []
    for label in ("label", "size"):
        arguments = (
            "--label",
            label,
            "--output",
            tmp_path / label,
            "--cache-folder",
            tmp_path / f"cache-{label}",
        )
        succeeded(here("train", tmp_path / "table.csv", *ONE_EPOCH, *arguments))
        found.append(splits_of(tmp_path / label, rows_of))
        assert {row["label"] for row in rows_of(tmp_path / label / "data.csv")} == (
            {"blue", "green", "red"} if label == "label" else {"small", "large"}
        )
    assert found[0] == found[1] and len(found[0]) == 60


def test_group_by_keeps_each_patient_in_one_split(here, tmp_path, write_images, rows_of):
    photos = write_images(tmp_path / "photos", classes=("blue", "red"))
    for path in sorted(photos.glob("*/*")):  # patient 3 has 3_left in blue and 3_right in red, and so on
        patient = int(path.stem) // 2
        side = f"{path.parent.name}_{int(path.stem) % 2}"
        path.rename(path.with_name(f"{patient}_{side}{path.suffix}"))
    done = here("train", photos, *ONE_EPOCH, "--group-by", r"^(\d+)_", "--output", tmp_path / "run", "--json")
    table = pd.DataFrame(rows_of(tmp_path / "run" / "data.csv"))
    assert sorted(table.groupby("group").size()) == 10 * [4]
    assert set(table.groupby("group")["split"].nunique()) == {1}
    assert set(table["split"]) == {"train", "val", "test"}
    validation = json.loads(succeeded(done).stdout)["validation"]
    assert (validation["images"], validation["groups"]) == (4, 1)


def test_a_multilabel_table_trains_and_predicts(here, photos, tmp_path, rows_of):
    labels = {"blue": "cold", "green": "cold|leaf", "red": ""}
    rows = [f"{path},{labels[path.parent.name]}" for path in sorted(photos.glob("*/*"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    arguments = (*TINY, "--epochs", 8, "--learning-rate", "0.1", "--output", tmp_path / "run")
    succeeded(here("train", tmp_path / "table.csv", *arguments))
    predictions = rows_of(succeeded(here("predict", tmp_path / "run", photos)).stdout)
    assert list(predictions[0]) == ["path", "label", "probability_cold", "probability_leaf"]
    assert len(predictions) == 60
    for row in predictions:
        said = [name for name in ("cold", "leaf") if float(row[f"probability_{name}"]) >= 0.5]
        assert row["label"] == "|".join(said)
    assert len({row["label"] for row in predictions}) > 1


# Evaluate -------------------------------------------------------------------------------------------


def test_each_opening_of_the_test_set_is_counted_and_said(copy_of_run, process, here):
    first = succeeded(process("evaluate", copy_of_run))
    metrics = json.loads((copy_of_run / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {
        "validation",
        "diagnosis",
        "speed",
        "machine",
        "test",
    }  # what training measured stays
    accuracy = metrics["test"]["accuracy"]
    assert metrics["test"]["images"] == 13
    lines = first.stdout.splitlines()
    assert lines[0] == "13 test images, each counted once; 95 % intervals by bootstrap"
    shown = f"{accuracy['value']:.4f}   {accuracy['low']:.4f} to {accuracy['high']:.4f}"
    assert re.fullmatch(rf"  accuracy +{re.escape(shown)}", lines[1])
    assert "opened" not in first.stderr

    for before in (1, 2):
        again = succeeded(here("evaluate", copy_of_run, "--json"))
        assert json.loads(again.stdout) == metrics["test"]
        times = "once" if before == 1 else f"{before} times"
        assert f"the test set had been opened {times} before" in again.stderr
    ledger = [json.loads(line) for line in (copy_of_run / "test-ledger.jsonl").read_text().splitlines()]
    assert [line["opening"] for line in ledger] == [1, 2, 3]
    assert {line["precision"] for line in ledger} == {"float32"}
    assert len({line["weights"] for line in ledger}) == 1


def test_evaluation_counts_the_test_images_of_the_run_and_no_others(copy_of_run, here, rows_of):
    """The recall of each class, times its images, is what `predict` says of the same images."""
    metrics = json.loads(succeeded(here("evaluate", copy_of_run, "--json")).stdout)
    truth = {r["path"]: r["label"] for r in rows_of(copy_of_run / "data.csv") if r["split"] == "test"}
    predictions = rows_of(succeeded(here("predict", copy_of_run, *truth)).stdout)
    hits = [row["label"] == truth[row["path"]] for row in predictions]
    assert (len(hits), np.mean(hits)) == (metrics["images"], metrics["accuracy"]["value"])


def test_evaluating_a_run_that_was_stopped_says_that_it_is_not_trained_to_its_end(copy_of_run, here):
    metrics = json.loads((copy_of_run / "metrics.json").read_text(encoding="utf-8"))
    stopped = {**metrics, "unfinished": "stopped at step 3 of epoch 2"}
    (copy_of_run / "metrics.json").write_text(json.dumps(stopped), encoding="utf-8")
    said = succeeded(here("evaluate", copy_of_run)).stderr
    assert f"{copy_of_run} is not trained to its end: stopped at step 3 of epoch 2" in said


# Predict --------------------------------------------------------------------------------------------


def test_predicting_files_folders_and_files_that_are_no_images(
    trained, photos, tmp_path, process, here, picture, rows_of
):
    letter, truncated = tmp_path / "letter.txt", tmp_path / "cut.jpg"
    letter.write_text("Dear all,")
    truncated.write_bytes(picture(64, ".jpg")[:-500])
    given = (photos / "red" / "00.png", letter, photos / "green", truncated)
    done = succeeded(process("predict", trained.folder, *given))
    rows = rows_of(done.stdout)
    green = sorted((photos / "green").iterdir())
    assert [row["path"] for row in rows] == [str(path) for path in (given[0], *green)]
    columns = [f"probability_{name}" for name in ("blue", "green", "red")]
    assert list(rows[0]) == ["path", "label", *columns]
    shares = np.array([[float(row[column]) for column in columns] for row in rows])
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-12)
    assert [row["label"] for row in rows] == [("blue", "green", "red")[i] for i in shares.argmax(axis=1)]
    assert f"left out: {letter}: not an image" in done.stderr
    assert f"left out: {truncated}: truncated JPEG" in done.stderr
    assert done.stderr.endswith(f"2 files were left out, named above; {1 + len(green)} images are labelled\n")

    nothing = here("predict", trained.folder, letter, truncated)
    assert nothing.returncode == 3 and "no file could be read as an image" in nothing.stderr

    output = tmp_path / "predictions.csv"
    output.write_text(done.stdout, encoding="utf-8")
    assert here("predict", trained.folder, letter, "--output", output).returncode == 3
    assert output.read_text(encoding="utf-8") == done.stdout, "an earlier result stays"
    written = succeeded(here("predict", trained.folder, *given, "--output", output))
    assert written.stdout == ""
    assert output.read_text(encoding="utf-8") == done.stdout
    assert f"21 images → {output}" in written.stderr


def test_the_batch_size_changes_no_prediction(trained, photos, here, rows_of):
    one, many = (rows_of(here("predict", trained.folder, photos, "--batch-size", n).stdout) for n in (7, 64))
    assert [row["path"] for row in one] == [row["path"] for row in many]
    for name in ("probability_blue", "probability_green", "probability_red"):
        np.testing.assert_allclose(
            [float(row[name]) for row in one], [float(row[name]) for row in many], rtol=0, atol=1e-5
        )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_may_hold_anything_a_file_system_allows(
    process, here, tmp_path, write_images, picture, rows_of
):
    photos = write_images(tmp_path / 'photos of Zoë\n眼底, "two"', classes=("blue", "red"))
    (photos / "red").rename(photos / "rot und grün")
    (photos / "blue").rename(photos / "蓝色\n'é")
    odd = photos / "rot und grün" / 'a\nb, "c".png'
    odd.write_bytes(picture())
    run = tmp_path / "run of 眼底"
    done = succeeded(process("train", photos, *ONE_EPOCH, "--output", run))
    assert done.stdout == f"{run}\n"
    assert {row["path"] for row in rows_of(run / "data.csv")} == {str(path) for path in photos.glob("*/*")}
    assert succeeded(here("evaluate", run)).stdout.startswith("9 test images")

    (photos / "rot und grün" / os.fsdecode(b"no-utf8-\xff.png")).write_bytes(picture())
    predicted = succeeded(process("predict", run, photos / "rot und grün"))
    rows = rows_of(predicted.stdout)
    assert len(rows) == 21 and str(odd) in {row["path"] for row in rows}
    assert {row["label"] for row in rows} <= {"rot und grün", "蓝色\n'é"}
    assert "the name is not valid UTF-8" in predicted.stderr


# Python ---------------------------------------------------------------------------------------------


def test_arrays_train_predict_and_evaluate_from_python(digits, tmp_path):
    import keras

    import rightfit

    images, labels = digits
    arguments = {
        "image_size": 8,
        "model": "resnet8",
        "epochs": 8,
        "output": tmp_path / "run",
        "quiet": True,
        "precision": "float32",
    }
    run = rightfit.train((images, labels), **arguments)
    assert run.classes == ("0", "1", "2") and run.label_mode == "categorical" and run.image_size == (8, 8)
    assert isinstance(run.model, keras.Model)
    tested = run.evaluate(quiet=True)
    # a fifth of 537 by largest remainder; three digits that a chance guess gets right one time in three
    assert tested["images"] == round(len(images) * 2 / 9) and tested["accuracy"]["low"] > 0.5
    loaded = rightfit.load(tmp_path / "run")
    batch = np.repeat(images[:4, :, :, None], 3, axis=3)
    np.testing.assert_array_equal(np.asarray(loaded.model(batch)), np.asarray(run.model(batch)))
    with pytest.raises(rightfit.UsageError, match="trained on data in memory, which are gone"):
        loaded.evaluate()
    with pytest.raises(rightfit.UsageError, match="data in memory, which are gone; give the data again"):
        rightfit.train(config=tmp_path / "run" / "config.yaml", output=tmp_path / "again")


def test_a_data_frame_trains_and_predictions_are_a_data_frame(photos, tmp_path, monkeypatch):
    import rightfit

    monkeypatch.chdir(photos)
    paths = [path.relative_to(photos).as_posix() for path in sorted(photos.glob("*/*"))]
    frame = pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths]})
    run = rightfit.train(
        frame,
        image_size=(8, 12),
        model="resnet8",
        epochs=1,
        output=tmp_path / "run",
        quiet=True,
        report="none",
    )
    assert run.image_size == (8, 12) and run.history["epoch"].tolist() == [1]
    (tmp_path / "empty.jpg").touch()
    predicted = run.predict([tmp_path / "empty.jpg", *paths[:3]], quiet=True)
    assert predicted["path"].tolist() == paths[:3]
    assert predicted.columns.tolist() == [
        "path",
        "label",
        *(f"probability_{c}" for c in ("blue", "green", "red")),
    ]
    assert predicted.attrs["unreadable"] == [(str(tmp_path / "empty.jpg"), "empty file")]


def test_a_home_folder_is_found_from_python_and_recorded_in_full(photos, tmp_path, monkeypatch):
    import rightfit

    monkeypatch.setenv("HOME", str(photos.parent))
    monkeypatch.chdir(tmp_path)
    run = rightfit.train("~/photos", image_size=8, model="resnet8", epochs=1, quiet=True, report="none")
    assert run.path.as_posix() == "runs/photos-1"
    assert run.settings.data == str(photos)
    monkeypatch.chdir(photos)
    assert rightfit.load(tmp_path / "runs" / "photos-1").evaluate(quiet=True)["images"] == 13


# Ends -----------------------------------------------------------------------------------------------


@contextmanager
def start(process, *arguments, **environment):
    """The command, left running; however the block ends it does not outlive it."""
    # a shell's background job, and so its children, would ignore Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    running = subprocess.Popen(
        process.command(*arguments),
        env=process.environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    with running:
        try:
            yield running
        finally:
            running.kill()


def read_until(running, wanted):
    lines = [running.stderr.readline()]
    while not wanted(lines[-1]):
        lines.append(running.stderr.readline())
        assert lines[-1], "".join(lines)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_stops_training_with_a_checkpoint_and_what_was_kept_so_far(
    photos, tmp_path, process, here, rows_of
):
    arguments = ("train", photos, *TINY, "--epochs", 100_000, "--patience", 100_000)
    with start(process, *arguments, "--output", tmp_path / "run") as training:
        read_until(training, re.compile(r"Epoch +3/").match)
        training.send_signal(signal.SIGINT)
        stdout, rest = training.communicate(timeout=60)
    assert training.returncode == 0, rest
    assert stdout == f"{tmp_path / 'run'}\n"
    assert "stopping after this step and saving" in rest and "Traceback" not in rest
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES
    assert 3 <= len(rows_of(tmp_path / "run" / "history.csv")) < 100_000
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    where = re.fullmatch(r"stopped at step (\d+) of epoch (\d+)", metrics["unfinished"])
    assert f"{where[0]}; `rightfit resume {tmp_path / 'run'}` goes on" in rest
    steps = 2 * (int(where[2]) - 1) + int(where[1])
    assert (tmp_path / "run" / "checkpoints" / f"step-{steps:08d}.safetensors").exists()
    assert len(rows_of(succeeded(here("predict", tmp_path / "run", photos)).stdout)) == 60


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_twice_ends_at_once_and_breaks_nothing(photos, tmp_path, process, here):
    run = tmp_path / "run"
    arguments = ("train", photos, *TINY, "--epochs", 100_000, "--patience", 100_000)
    with start(process, *arguments, "--output", run) as training:
        read_until(training, re.compile(r"Epoch +2/").match)
        training.send_signal(signal.SIGINT)
        read_until(training, lambda line: line.startswith("stopping after this step"))
        training.send_signal(signal.SIGINT)
        _, rest = training.communicate(timeout=60)
    assert training.returncode in (0, 130), rest  # 0: it had just written the last file
    config = (run / "config.yaml").read_text(encoding="utf-8")
    assert "epochs: 100000 " in config
    from rightfit.console import Console
    from rightfit.training.checkpoints import Checkpoints

    saved = Checkpoints(run, Console(quiet=True)).newest()
    assert saved.progress.epoch >= 1 and len(saved.progress.weights) > 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_before_training_says_so_in_one_line(photos, tmp_path, process):
    arguments = ("train", photos, *ONE_EPOCH, "--output", tmp_path / "run")
    with start(process, *arguments, PYTHONPROFILEIMPORTTIME="1") as starting:
        # the command asks for the backends' versions; importing one takes seconds more
        read_until(starting, lambda line: line.endswith(" email.parser\n"))
        starting.send_signal(signal.SIGINT)
        stdout, rest = starting.communicate(timeout=60)
    assert (starting.returncode, stdout) == (130, ""), rest
    assert [line for line in rest.splitlines() if "import time:" not in line] == ["rightfit: interrupted"]
    assert not (tmp_path / "run").exists()


def test_a_time_limit_ends_training_in_time_with_a_whole_run(photos, tmp_path, here, rows_of):
    arguments = (*TINY, "--epochs", 100_000, "--time-limit", "4s", "--output", tmp_path / "run")
    done = succeeded(here("train", photos, *arguments))
    assert re.search(
        r"time limit of 4s reached in epoch \d+|epochs fit into the time limit of 4s", done.stderr
    )
    history = rows_of(tmp_path / "run" / "history.csv")
    assert sum(float(row["train_seconds"]) for row in history[:-1]) <= 4
    assert {file.name for file in (tmp_path / "run").iterdir()} == RUN_FILES


def test_tensorboard_reads_the_same_numbers_as_the_history(photos, tmp_path, here, rows_of):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    succeeded(here("train", photos, *TINY, "--epochs", 2, "--tensorboard", "--output", run))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    history = rows_of(run / "history.csv")
    assert {"loss", "val_loss", "accuracy", "val_accuracy", "learning_rate"} <= set(events.Tags()["scalars"])
    for name in ("loss", "val_loss", "learning_rate"):
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [1, 2]
        np.testing.assert_allclose([s.value for s in scalars], [float(r[name]) for r in history], rtol=1e-6)


# What there is --------------------------------------------------------------------------------------


def test_the_models_have_the_known_numbers_of_parameters(here):
    rows = json.loads(succeeded(here("models", "--json")).stdout)
    assert PARAMETERS.items() <= {row["name"]: row["parameters"] for row in rows}.items()
    assert len({row["name"] for row in rows}) == len(rows) >= 45
    # multiply-adds at 224 px, of convolutions and the last layer, as the papers count them
    known = {row["name"]: row["multiply_adds"] / 1e9 for row in rows if row["multiply_adds"]}
    assert known["resnet18"] == pytest.approx(1.81, abs=0.01)
    assert known["resnet50"] == pytest.approx(4.09, abs=0.01)


def test_machine_in_a_process_of_its_own_says_what_it_would_train_on(process):
    facts = json.loads(succeeded(process("machine", "--quick", "--json")).stdout)
    assert set(facts["backends"]) == {"tensorflow", "jax", "torch"}
    assert facts["chosen"] == os.environ["KERAS_BACKEND"] and facts["precision"] in ("float32", "bfloat16")
    assert facts["cores"] == len(os.sched_getaffinity(0)) and facts["measured"] is None
    for row in facts["backends"].values():  # installed, or how to
        assert (row["version"] is None) == (row["install"] is not None)


# Fine-tuning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how, trainable", [("head", {"head"}), ("full", {"head", "all"})])
def test_borrowed_weights_are_tuned_and_history_says_what_was_trainable(
    how, trainable, trained, photos, tmp_path, here, rows_of
):
    weights = trained.folder / "weights.safetensors"
    arguments = (
        "--image-size",
        12,
        "--epochs",
        1,
        "--model",
        "resnet20",
        "--weights",
        weights,
        "--finetune",
        how,
    )
    succeeded(here("train", photos, *arguments, "--output", tmp_path / "run"))
    history = rows_of(tmp_path / "run" / "history.csv")
    assert {row["trainable"] for row in history} == trainable
    assert [row["epoch"] for row in history] == ["0", "1"][: len(trainable)]
    record = (tmp_path / "run" / "decisions.jsonl").read_text(encoding="utf-8")
    decided = [json.loads(line)["setting"] for line in record.splitlines()]
    assert "head penalty" in decided
    accuracy = json.loads(succeeded(here("evaluate", tmp_path / "run", "--json")).stdout)["accuracy"]["value"]
    assert accuracy > 0.9, "colours are easy"
    run = rightfit.Run(tmp_path / "run")
    written, measured = run.metrics["validation"], run.measure("val", Console(quiet=True))
    assert written["accuracy"]["value"] == measured["accuracy"]["value"]
    assert written["loss"]["value"] == pytest.approx(measured["loss"]["value"], rel=1e-4)
    assert written["slices"].keys() == measured["slices"].keys() != set()


def test_without_borrowed_weights_there_is_nothing_to_tune(photos, tmp_path, here, rows_of):
    said = here("train", photos, *ONE_EPOCH, "--finetune", "head", "--output", tmp_path / "run")
    assert said.returncode == 2
    assert "--finetune head needs weights to start from" in said.stderr
    assert not (tmp_path / "run").exists()


def test_an_ordinary_training_trains_everything(trained, rows_of):
    assert {row["trainable"] for row in rows_of(trained.folder / "history.csv")} == {"all"}


def test_a_run_says_what_it_started_from_and_why(trained):
    """The default models have no ImageNet weights, so nothing is fetched, and repeating the run asks nothing."""
    why = "no ImageNet weights are published for resnet20"
    assert f"starting from scratch: {why}" in trained.done.stderr
    lines = (trained.folder / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    (decision,) = (d for d in map(json.loads, lines) if d["setting"] == "weights")
    assert (decision["value"], decision["evidence"]) == ("none", why)
    assert "\nweights: none " in (trained.folder / "config.yaml").read_text(encoding="utf-8")


def test_imagenet_weights_for_a_net_without_any_are_refused_before_images_are_decoded(here, photos, tmp_path):
    asked = ("--model", "resnet18", "--weights", "imagenet", "--cache-folder", tmp_path / "cache")
    done = here("train", photos, *asked, "--output", tmp_path / "run")
    assert not (tmp_path / "cache").exists()
    assert done.returncode == 2 and "no ImageNet weights are published for resnet18" in done.stderr


def test_the_version_is_the_packages(here):
    from importlib import metadata

    assert succeeded(here("--version")).stdout == metadata.version("rightfit") + "\n"
