"""A run is measured on its own images, labels and splits, whatever became of the source it was trained on."""

import csv
import logging
import shutil

import numpy as np
import pandas as pd
import pytest

import rightfit
from rightfit.data.reading import read
from rightfit.runtime import choose_backend
from rightfit.saving.folder import locked

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


ARGUMENTS = {"image_size": 8, "model": "resnet8", "epochs": 1, "quiet": True, "report": "none"}


@pytest.fixture
def trained_on(tmp_path, write_images):
    """trained_on(kind): photos/, of whose 60 images one is none, and the measurement of a run on them."""

    def run_on(kind):
        photos = write_images(tmp_path / "photos")
        (photos / "blue" / "00.png").write_bytes(b"no image")  # the first of all
        write_table(photos)
        frame = pd.read_csv(photos / "table.csv")
        source = {
            "folder": photos,
            "table": photos / "table.csv",
            "data frame": frame.assign(path=[str(photos / name) for name in frame["path"]]),
        }[kind]
        run = rightfit.train(source, output=tmp_path / "run", cache_folder=tmp_path / "cache", **ARGUMENTS)
        return photos, measured(run)

    return run_on


def write_table(photos, relabel=lambda label: label):
    rows = [(f"{p.parent.name}/{p.name}", relabel(p.parent.name)) for p in sorted(photos.glob("*/*"))]
    with (photos / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])


def measured(run):
    """What `evaluate` says, and the images, labels and pixels it was counted over, in their order."""
    metrics = run.evaluate(quiet=True)
    dataset = run._data()
    rows = dataset.table.rows("test")
    images = dataset.images.gather(dataset.image_rows[rows])
    return metrics, dataset.table.paths(rows), dataset.targets(rows).tolist(), images.tobytes()


def stores(cache):
    """Each store of the cache and the file that it is: what is decoded or copied anew is another file."""
    found = {path: path.stat().st_ino for path in cache.rglob("images.u8")}
    assert found
    return found


@pytest.mark.parametrize("kind", ["folder", "table", "data frame"])
def test_a_source_that_grows_or_is_relabelled_changes_no_measurement(
    kind, trained_on, write_images, tmp_path, monkeypatch
):
    photos, before = trained_on(kind)
    decoded = stores(tmp_path / "cache")
    run = rightfit.load(tmp_path / "run")
    changes = {
        "nothing": lambda: None,
        "another working folder": lambda: monkeypatch.chdir(photos),
        "labels corrected": lambda: write_table(photos, lambda label: label.replace("red", "blue")),
        "images added": lambda: shutil.copy(photos / "red" / "01.jpg", photos / "blue" / "added.jpg"),
        "a class added": lambda: (write_images(photos, classes=("white",)), write_table(photos)),
        "the table removed": lambda: (photos / "table.csv").unlink(),
    }
    for change, make in changes.items():
        make()
        run._dataset = None  # as if it were loaded anew, which takes seconds
        assert measured(run) == before, change
        assert stores(tmp_path / "cache") == decoded, change


def test_with_an_empty_cache_the_images_are_decoded_again_to_the_same_measurement(trained_on, tmp_path):
    _, before = trained_on("folder")
    shutil.rmtree(tmp_path / "cache")
    assert measured(rightfit.load(tmp_path / "run")) == before
    assert len(stores(tmp_path / "cache")) == 1


def test_training_again_when_images_are_removed_decodes_nothing(trained_on, tmp_path):
    photos, _ = trained_on("folder")
    decoded = stores(tmp_path / "cache")
    (photos / "blue" / "00.png").unlink()
    (photos / "green" / "05.jpg").unlink()
    run = rightfit.train(photos, output=tmp_path / "again", cache_folder=tmp_path / "cache", **ARGUMENTS)
    assert len(run._data().table) == 58
    assert stores(tmp_path / "cache") == decoded


def test_images_that_can_no_longer_be_read_are_named(trained_on, tmp_path):
    photos, _ = trained_on("folder")
    run = rightfit.load(tmp_path / "run")
    lost = [photos / "green" / "01.jpg", photos / "green" / "02.png"]
    kept = [path.read_bytes() for path in lost]
    spoil = {"unreadable": lambda path: path.write_bytes(b"no image"), "gone": lambda path: path.unlink()}
    for what, damage in spoil.items():
        for path in lost:
            damage(path)
        with pytest.raises(rightfit.DataError) as caught:
            run.evaluate(quiet=True)
        assert str(caught.value) == (
            f"{run.path}: 2 of 59 images of the run are {what}: {lost[0]}, {lost[1]}; "
            "put them back, or train anew on what there is"
        )
    for path, data in zip(lost, kept, strict=True):
        path.write_bytes(data)
    assert run.evaluate(quiet=True)["images"] == 13


def test_a_test_set_is_opened_by_one_process_and_for_the_weights_that_are_there(copy_of_run, tmp_path):
    other = shutil.copytree(copy_of_run, tmp_path / "other")
    run, before = rightfit.load(copy_of_run), (copy_of_run / "metrics.json").read_bytes()
    with locked(copy_of_run):
        with pytest.raises(rightfit.UsageError, match="another process works on it"):
            run.evaluate(quiet=True)
        with pytest.raises(rightfit.UsageError, match="another process works on it"):
            rightfit.compare(other, run, split="test", quiet=True)
        assert rightfit.compare(other, run, quiet=True)["images"] == 7, "for which nothing is opened"
    assert not (copy_of_run / "test-ledger.jsonl").exists() and not (other / "test-ledger.jsonl").exists()
    weights = copy_of_run / "weights.safetensors"
    shutil.copy(weights, tmp_path / "aside")
    (tmp_path / "aside").replace(weights)  # as `resume --epochs` would
    with pytest.raises(rightfit.RunError, match="its weights are others by now"):
        run.evaluate(quiet=True)
    assert not (copy_of_run / "test-ledger.jsonl").exists()
    assert (copy_of_run / "metrics.json").read_bytes() == before
    assert rightfit.load(copy_of_run).evaluate(quiet=True)["images"] == 13


def test_many_nets_that_predict_in_one_process_are_no_news():
    """Of its own functions TensorFlow may warn."""
    choose_backend("tensorflow")
    about = "5 out of the last 5 calls to <function {}> triggered tf.function retracing."
    log = logging.getLogger("tensorflow")
    for name, heard in (("TensorFlowTrainer.make_predict_function.<locals>.f", False), ("mine", True)):
        record = logging.LogRecord("tensorflow", logging.WARNING, "", 0, about.format(name), None, None)
        assert bool(log.filter(record)) is heard


def test_a_multilabel_run_is_read_back_as_it_was(photos, tmp_path):
    labels = {"blue": "cold", "green": "cold|leaf", "red": ""}
    rows = [(str(path), labels[path.parent.name]) for path in sorted(photos.glob("*/*"))]
    frame = pd.DataFrame(rows, columns=["path", "label"])
    run = rightfit.train(frame, output=tmp_path / "run", **ARGUMENTS)
    assert measured(rightfit.load(tmp_path / "run")) == measured(run)


def test_groups_are_read_back(photos, tmp_path):
    run = rightfit.train(photos, group_by=r"^(\d)", output=tmp_path / "run", **ARGUMENTS)
    loaded = rightfit.load(tmp_path / "run")
    assert measured(loaded) == measured(run)
    rows = run._data().table.rows("test")
    np.testing.assert_array_equal(loaded._data().groups(rows), run._data().groups(rows))
    assert set(loaded._data().table.frame["group"]) == set(read(photos, group_by=r"^(\d)").frame["group"])
