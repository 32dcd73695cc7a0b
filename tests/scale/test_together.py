"""Several processes that train one model: their parts are the batch, their state is one, their run is one process's."""

import json
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rightfit.data.augment import POLICIES
from rightfit.data.loader import TrainLoader
from rightfit.training.workers import Workers

PAIR = Path(__file__).with_name("pair.py")
# As there.
IMAGES, HELD = 160, 71
CASES = {"plain": {}, "poisoned": {}, "in parts": {"epochs": 2}, "limited": {"epochs": 2000}}
ALONE = ("plain", "poisoned")


class Noise:
    images = np.random.default_rng(0).integers(0, 256, (70, 12, 12, 3), np.uint8)

    def gather(self, rows):
        return self.images[rows]


def loader(policy, batch_size=24):
    rows = np.arange(5, 65)
    generator = np.random.default_rng(1)
    targets = np.eye(4, dtype=np.float32)[generator.integers(0, 4, 60)]
    weights = generator.uniform(0.5, 2, 60).astype(np.float32)
    return TrainLoader(Noise(), rows, targets, weights, batch_size, 7, policy, smoothing=0.1)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("policy", [*POLICIES, "mixed"])
def test_the_parts_of_all_workers_are_the_batch(policy, count):
    policy = replace(POLICIES["strong"], turn=True, mix=0.8) if policy == "mixed" else POLICIES[policy]
    whole = loader(policy)
    parts = [replace(whole, part=Workers(number, count).part(24)) for number in range(count)]
    for epoch, step in ((0, 0), (0, 2), (5, 1)):
        together = [
            np.concatenate(values) for values in zip(*(p.batch(epoch, step) for p in parts), strict=True)
        ]
        for mine, theirs in zip(together, whole.batch(epoch, step), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("images", [0, 1, 7, 64, 71])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_each_image_is_in_one_part(images, count):
    parts = [range(images)[Workers(number, count).part(images)] for number in range(count)]
    assert [image for part in parts for image in part] == list(range(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def trained(folder, count):
    """Case -> weights and what is told of it, of each of `count` processes that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    commands = [[sys.executable, str(PAIR), str(n), str(count), str(port), str(folder)] for n in range(count)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for command in commands]
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()[-2000:]
    found = {}
    for place in folder.glob(f"*-{count}"):
        found[place.name.removesuffix(f"-{count}")] = []
        for number in range(count):
            with np.load(place / f"weights-{number}.npz") as weights:
                told = json.loads((place / f"told-{number}.json").read_text())
                found[place.name.removesuffix(f"-{count}")].append((list(weights.values()), told))
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone"), 1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("pair"), 2)


@pytest.mark.parametrize("case", CASES)
def test_what_two_processes_decide_they_decide_alike(pair, case):
    """One that took another step, or another number of them, would wait for the other for ever."""
    (first, told), (second, other) = pair[case]
    for mine, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [row["val_loss"] for row in told["history"]] == [row["val_loss"] for row in other["history"]]
    epochs, factor = len(told["history"]), 0.5 if case == "poisoned" else 1.0
    assert told["rate_factor"] == other["rate_factor"] == factor
    assert (
        1 <= epochs < CASES[case]["epochs"] if case == "limited" else epochs == CASES[case].get("epochs", 4)
    )


@pytest.mark.parametrize("case", ALONE)
def test_two_processes_reach_one_process_s_weights(alone, pair, case):
    [(whole, history)], [(mine, told), _] = alone[case], pair[case]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        of_both = [[row[name] for row in run["history"]] for run in (told, history)]
        np.testing.assert_allclose(*of_both, atol=1e-5)
    for one, other in zip(mine, whole, strict=True):  # after 20 steps, batch normalisation included
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def test_two_processes_look_at_each_image_once(alone, pair):
    [(_, told)], [(_, first), (_, second)] = alone["plain"], pair["plain"]
    history, one, other = told["history"], first["rows"], second["rows"]
    seen = Counter(one + other)
    looks = 1 + sum("probe_loss" in row for row in history) / len(history)
    assert {seen[row] for row in range(IMAGES)} == {round(looks * len(history))}, (
        "once a step's epoch, once a look"
    )
    assert {seen[row] for row in range(IMAGES, IMAGES + HELD)} == {len(history)}, "once an epoch"
    assert abs(len(one) - len(other)) <= len(history), "and half of them each"
