"""Training and searching on a Ray cluster whose nodes are lost: what comes out is what one machine makes."""

import csv
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, UsageError
from rightfit.team import Team, refusal, refuse, team_of
from rightfit.working import work

SETTINGS = [
    "--image-size", "8", "--weights", "none", "--report", "none", "--precision", "float32", "--split", "4:1:1",
]  # fmt: skip


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_images):
    return write_images(tmp_path_factory.mktemp("data") / "photos", count=48, side=8)


def rightfit(*arguments):
    """A command in its own process, as a person has it: its exit code and what it said."""
    command = [sys.executable, "-m", "rightfit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    return done.returncode, done.stderr


def lost_when(cluster, node, come):
    """Remove `node` as soon as `come()`; a new one takes its place, as a cluster's manager would see to."""

    def wait():
        while not come():
            time.sleep(0.05)
        cluster.remove_node(node)
        cluster.add_node(num_cpus=1)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def lines(path):
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_two_workers_of_which_one_is_lost_end_as_one_that_was_not(cluster, images, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    asked = [
        "train", images, *SETTINGS, "--epochs", "6", "--batch-size", "32", "--learning-rate", "0.01",
        "--warmup-epochs", "3",
    ]  # fmt: skip
    code, said = rightfit(*asked, "--backend", "jax", "--output", one)
    assert code == 0, said
    node = cluster.add_node(num_cpus=1)
    lost = lost_when(cluster, node, lambda: len(lines(two / "history.csv")) > 2)
    code, said = rightfit(*asked, "--workers", "2", "--ray", cluster.address, "--output", two)
    assert code == 0, said
    lost.join(30)
    assert "2 workers go on from step 0 of epoch 1" in said
    epochs = [int(row["epoch"]) for row in csv.DictReader((two / "history.csv").open())]
    assert epochs == list(range(1, 7)), "each epoch once"
    mine, theirs = ([float(r["val_loss"]) for r in csv.DictReader((p / "history.csv").open())] for p in (one, two))
    assert mine == pytest.approx(theirs, abs=2e-3)
    assert not (two / "checkpoints" / "ray").exists()
