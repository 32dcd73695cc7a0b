"""What more images would bring: parts of a run's training images, its own figures at the end, the test sealed."""

import json

import numpy as np
import pytest

from rightfit import more_images
from rightfit.more_images import FOLDER, _parts
from rightfit.records import LEARNING_CURVE


def test_it_is_asked_broken_off_gone_on_with_and_remembered(copy_of_run, here, monkeypatch):
    figures, asked = more_images.figures_of, []

    def broken_off(job, progress, rows):
        asked.append((job.facts.images, progress.epoch, job.settings.epochs))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return figures(job, progress, rows)

    monkeypatch.setattr(more_images, "figures_of", broken_off)
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 130 and "the same command goes on" in done.stderr
    assert (copy_of_run / FOLDER).is_dir() and not (copy_of_run / LEARNING_CURVE).exists()
    kept = json.loads((copy_of_run / "metrics.json").read_text())

    trained = []
    monkeypatch.setattr(
        more_images, "figures_of", lambda *a: trained.append(a[0].facts.images) or figures(*a)
    )
    done = here("learning-curve", copy_of_run, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [point["images"] for point in found["points"]] == [10, 10, 20, 20, 40] and trained == [
        10,
        20,
        10,
        20,
    ]
    assert found["points"][-1]["accuracy"] == kept["validation"]["accuracy"]["value"]
    assert [ahead["images"] for ahead in found["forecasts"]] == [80, 160]
    assert not (copy_of_run / FOLDER).exists() and not (copy_of_run / "test-ledger.jsonl").exists()
    assert asked[0] == (10, 5, 5) and asked[1] == (20, 3, 3), "two epochs, and more of fewer images"

    again = here("learning-curve", copy_of_run)
    assert again.returncode == 0 and len(trained) == 4, "it is not trained a second time"
    assert f"  {40:>15,}  {100 * found['points'][-1]['accuracy']:5.1f}  this run" in again.stdout
    assert "more images: with 80 to learn from " in here("diagnose", copy_of_run).stdout
    assert here("report", copy_of_run).returncode == 0
    assert "Would more images help?" in (copy_of_run / "report.html").read_text()

    assert here("resume", copy_of_run, "--epochs", "3").returncode == 0
    assert not (copy_of_run / LEARNING_CURVE).exists(), "which was of other weights"


def test_what_stands_in_its_way_is_said(copy_of_run, here, monkeypatch):
    monkeypatch.setattr(more_images, "FEWEST", 41)
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 3 and "40 training images are too few" in done.stderr
    metrics = copy_of_run / "metrics.json"
    metrics.write_text(json.dumps({**json.loads(metrics.read_text()), "validation": None}))
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 2 and "no validation images" in done.stderr
    (copy_of_run / "checkpoints/finished.json").unlink()
    done = here("learning-curve", copy_of_run)
    assert done.returncode == 2 and "is not trained to its end; `rightfit resume" in done.stderr


class Grouped:
    def __init__(self, codes, groups):
        self._codes, self._groups = codes, groups

    def codes(self):
        return self._codes

    def groups(self, rows):
        return None if self._groups is None else self._groups[rows]


@pytest.mark.parametrize("grouped", [False, True])
def test_halves_share_nothing_and_are_all_and_a_quarter_is_half_of_its_half(grouped):
    codes = np.repeat([0, 1, 2], [120, 40, 40])
    groups = np.arange(200) // 4 if grouped else None
    rows = np.arange(200)
    parts = dict(_parts(Grouped(codes, groups), rows, 3))
    first, second = parts["half-1"], parts["half-2"]
    assert sorted([*first, *second]) == rows.tolist()
    for number in (1, 2):
        quarter, half = parts[f"quarter-{number}"], parts[f"half-{number}"]
        assert set(quarter) < set(half) and np.bincount(codes[quarter]).tolist() == pytest.approx(
            [30, 10, 10], abs=4
        )
    if grouped:
        assert not set(groups[first]) & set(groups[second])
