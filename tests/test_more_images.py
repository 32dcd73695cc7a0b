"""What more images would bring: parts of a run's training images, its own figures at the end, the test sealed."""

import json
import re
import shutil

import numpy as np
import pytest

import rightfit
from rightfit import more_images
from rightfit.config import TrainSettings
from rightfit.errors import DataError, UsageError
from rightfit.more_images import FOLDER, _asked, _longer, _parts
from rightfit.records import LEARNING_CURVE
from rightfit.run import Run
from rightfit.training.state import Progress


def test_it_is_asked_broken_off_gone_on_with_and_remembered(copy_of_run, here, monkeypatch):
    judged, trainings = more_images.figures_of, []

    def stopped_at(number):
        def figures(job, progress, rows):
            trainings.append((job.facts.images, progress.epoch, job.settings.epochs))
            if len(trainings) == number:
                raise more_images.Interrupted("stopped")
            return judged(job, progress, rows)

        return figures

    monkeypatch.setattr(more_images, "figures_of", stopped_at(3))
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 130 and "the same command goes on" in done.stderr
    assert trainings == [(10, 5, 5), (20, 3, 3), (10, 5, 5)], "two epochs, and more of fewer images"
    assert not (copy_of_run / LEARNING_CURVE).exists()
    checkpoints = {path: path.read_bytes() for path in (copy_of_run / FOLDER).glob("*/*/checkpoints/step-*")}
    assert len(checkpoints) == 3
    kept = json.loads((copy_of_run / "metrics.json").read_text())

    trainings.clear()
    monkeypatch.setattr(more_images, "figures_of", stopped_at(4))
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 130 and done.stderr.count("Epoch ") == 3, "one training, the others are done"
    assert all(path.read_bytes() == content for path, content in checkpoints.items())

    monkeypatch.setattr(more_images, "figures_of", judged)
    done = here("learning-curve", copy_of_run, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [point["images"] for point in found["points"]] == [10, 10, 20, 20, 40]
    assert found["points"][-1]["accuracy"] == kept["validation"]["accuracy"]["value"]
    assert [ahead["images"] for ahead in found["forecasts"]] == [80, 160]
    assert not (copy_of_run / FOLDER).exists() and not (copy_of_run / "test-ledger.jsonl").exists()

    monkeypatch.setattr(more_images, "figures_of", None)  # nothing is trained a second time
    again = here("learning-curve", copy_of_run)
    assert f"  {40:>15,}  {100 * found['points'][-1]['accuracy']:5.1f}  this run" in again.stdout
    assert "more images: 80 training images " in here("diagnose", copy_of_run).stdout
    (copy_of_run / LEARNING_CURVE).write_text('{"points": 3}')
    assert "more images: 80" not in here("diagnose", copy_of_run).stdout, "it is no such record"

    assert here("resume", copy_of_run, "--epochs", "3").returncode == 0
    assert not (copy_of_run / LEARNING_CURVE).exists(), "which was of other weights"
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 2 and "taken further by `resume --epochs`" in done.stderr


def test_what_stands_in_its_way_is_said(copy_of_run, here, monkeypatch):
    monkeypatch.setattr(more_images, "FEWEST", 41)
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 3 and "40 training images are too few" in done.stderr
    step = next((copy_of_run / "checkpoints").glob("step-*"))
    whole = step.read_bytes()
    step.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 1 and f"{step.name} is damaged" in done.stderr
    metrics = copy_of_run / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "validation": None}))
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 2 and "no validation images" in done.stderr
    (copy_of_run / "checkpoints/finished.json").unlink()
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 2 and "is not trained to its end; `rightfit resume" in done.stderr


def test_the_images_are_those_that_the_run_learnt_from_and_the_test_s_are_not_looked_for(
    write_images, tmp_path, here
):
    photos, run = write_images(tmp_path / "photos"), tmp_path / "run"
    asked = ("--image-size", 12, "--model", "resnet8", "--epochs", 1)
    assert here("train", photos, *asked, "--output", run).returncode == 0
    splits = dict(line.split('","')[0:3:2] for line in (run / "data.csv").read_text().splitlines()[1:])
    for path, split in splits.items():
        if split == "test":
            (tmp_path / path.strip('"')).unlink()
    found = Run(run, backend=None)
    assert len(found.seen_images().table.frame) == 47
    changed, other = [path.strip('"') for path, split in splits.items() if split == "train"][:2]
    shutil.copy(other, changed)
    with pytest.raises(DataError, match=f"1 of 47 images of the run is not as .*: {re.escape(changed)};"):
        Run(run, backend=None).seen_images()


def test_a_head_alone_is_learnt_from_parts_too_and_data_in_memory_while_they_are_there(
    tmp_path, digits, monkeypatch
):
    images, labels = (of[:240] for of in digits)
    settings = {"image_size": "8", "epochs": 1, "report": "none", "model": "resnet8", "precision": "float32"}
    first = rightfit.train((images, labels), output=str(tmp_path / "first"), quiet=True, **settings)
    head = rightfit.train(
        (images, labels), weights=str(tmp_path / "first/weights.safetensors"), finetune="head",
        output=str(tmp_path / "head"), quiet=True, **settings,
    )  # fmt: skip
    assert not list((head.path / "checkpoints").glob("step-*")), "there is nothing to go on with"
    found = rightfit.learning_curve(head, quiet=True)
    assert [point.images for point in found.points] == [40, 40, 80, 80, 160]
    assert rightfit.learning_curve(rightfit.load(head.path), quiet=True) == found
    with pytest.raises(UsageError, match="data in memory"):
        rightfit.learning_curve(rightfit.load(first.path), quiet=True)


def test_epochs_that_a_clock_cut_short_count_as_set_and_what_depends_on_them_follows(copy_of_run):
    begun = copy_of_run / "checkpoints/start.json"
    content = json.loads(begun.read_text())
    content["asked"] |= {"time_limit": "1h", "epochs": None}
    begun.write_text(json.dumps(content))
    run = Run(copy_of_run, backend=None)
    broken_off = Progress(epochs=150, epoch=3, ended="time limit of 1h reached before epoch 4")
    asked = _asked(run, broken_off)
    assert (asked.epochs, asked.time_limit, asked.weights) == (3, None, "none")
    assert _asked(run, Progress(epochs=9, epoch=9, shortened=9, ended="all 9 epochs done")).epochs == 9
    early = "no validation loss as good as the best for 5 epochs"
    assert _asked(run, Progress(epochs=9, epoch=7, shortened=9, ended=early)).epochs == 9
    assert _asked(run, Progress(epochs=150, epoch=7, ended=early)).epochs is None
    content["asked"] |= {"epochs": 20}
    begun.write_text(json.dumps(content))
    assert _asked(run, Progress(epochs=20, epoch=7, ended=early)).epochs == 20
    longer = _longer(TrainSettings(data="", epochs=10, warmup_epochs=2.0, patience=5), 4)
    assert (longer.epochs, longer.warmup_epochs, longer.patience) == (26, pytest.approx(5.2), 13)


class Table:
    def __init__(self, codes, groups):
        self._codes, self._groups, self.classes = codes, groups, ("ant", "bee", "cat")

    def codes(self):
        return self._codes

    def groups(self, rows):
        return None if self._groups is None else self._groups[rows]


@pytest.mark.parametrize("grouped", [False, True])
def test_halves_share_nothing_and_are_all_and_a_quarter_is_half_of_its_half(grouped):
    codes = np.repeat([0, 1, 2], [120, 40, 40])
    groups = np.arange(200) // 4 if grouped else None
    rows = np.arange(200)
    parts = dict(_parts(Table(codes, groups), rows, 3))
    first, second = parts["half-1"], parts["half-2"]
    assert sorted([*first, *second]) == rows.tolist()
    for number in (1, 2):
        quarter, half = parts[f"quarter-{number}"], parts[f"half-{number}"]
        assert set(quarter) < set(half)
        counts = np.bincount(codes[quarter]).tolist()
        assert counts == pytest.approx([30, 10, 10], abs=4 if grouped else 0)
    if grouped:
        assert not set(groups[first]) & set(groups[second])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_groups_are_refused_before_anything_is_trained(count):
    codes = np.repeat([0, 1], [60, 60])
    with pytest.raises(DataError, match="of whole groups are too few"):
        dict(_parts(Table(codes, np.arange(120) % count), np.arange(120), 0))


@pytest.mark.parametrize(
    "codes", [np.repeat([0, 1, 2], [97, 20, 3]), np.eye(3, dtype=int)[[0] * 117 + [2] * 3]]
)
def test_a_class_that_a_quarter_would_lack_is_named(codes):
    with pytest.raises(
        DataError, match=r"^a quarter of the 120 training images would be without cat: it takes four"
    ):
        dict(_parts(Table(codes, None), np.arange(120), 0))


def test_a_rare_class_is_in_every_part_whatever_its_images_and_groups_show_besides():
    labels = np.zeros((160, 3), np.int64)
    labels[:, 0] = labels[80:, 1] = 1
    labels[[3, 50, 90, 150], 2] = 1  # never alone, nor first
    of_patients, patients = np.tile([0, 0, 0, 1], 40), np.arange(160) // 4
    of_patients[[7, 51, 91, 155]] = 2
    for seed in range(20):
        for table in (Table(labels, None), Table(of_patients, patients)):
            parts = dict(_parts(table, np.arange(160), seed))
            assert {name[:-2]: len(rows) for name, rows in parts.items()} == {"half": 80, "quarter": 40}


def test_an_image_with_several_labels_counts_by_its_rarest():
    codes = np.zeros((80, 3), np.int64)
    codes[:40, 0] = codes[40:, 1] = codes[::2, 2] = 1
    assert {name: len(rows) for name, rows in _parts(Table(codes, None), np.arange(80), 0)} == {
        "quarter-1": 20, "half-1": 40, "quarter-2": 20, "half-2": 40,
    }  # fmt: skip
