"""What one backend trained, the others load, judge alike and train on: every pair, in real processes; engines too."""

import json
import shutil
import subprocess
import sys
from itertools import permutations, product

import numpy as np
import pytest

import rightfit

BACKENDS = ("tensorflow", "jax", "torch")
ENGINES = ("onnxruntime", "openvino")
TOGETHER = 2  # processes at a time
EPOCHS, KILLED_AFTER, STEPS = 5, 4, 10  # an epoch is 80 images in batches of 8
LOGITS = 1e-4  # as far as another backend's may be
ROUNDING = 1e-3  # of losses after ten more steps; other images or another order give more than ten times that

# Keras keeps one backend a process, so each of these is one. The first trains a run, whose folder is copied as a kill
# after KILLED_AFTER epochs would leave it.
TRAIN = """
import hashlib, json, shutil, sys
from rightfit.runtime import choose_backend
backend = choose_backend()
import numpy as np
import rightfit
from rightfit.nets.resnet import build
from rightfit.training.checkpoints import Checkpoints

photos, whole, killed, epochs, killed_after = *sys.argv[1:4], *map(int, sys.argv[4:])
weights = build("resnet8", 3, (8, 8), seed=5).get_weights()
digest = hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in weights)).hexdigest()
save = Checkpoints.save

def save_and_copy(self, progress, tensors, steps):
    save(self, progress, tensors, steps)
    if (progress.epoch, progress.step) == (killed_after, 0):
        self.wait()
        shutil.copytree(whole, killed)

Checkpoints.save = save_and_copy
rightfit.train(photos, output=whole, image_size=8, epochs=epochs, batch_size=8, learning_rate=0.02, weights="none",
               seed=5, model="resnet8", precision="float32", report="none", quiet=True)
print(json.dumps({"backend": backend, "first_weights": digest, "tensors": len(weights)}))
"""
# The second judges all runs, and goes on with those that the others began.
JUDGE = """
import sys
import numpy as np
import rightfit
from rightfit.console import Console

photos, place = sys.argv[1:3]
for trained_on in sys.argv[3:6]:
    run = rightfit.load(f"{place}/{trained_on}", backend=sys.argv[6])
    run.predict(photos, output=f"{place}/{trained_on}-{run.backend}.csv", quiet=True)
    np.save(f"{place}/{trained_on}-{run.backend}.npy", run.logits("train", Console(quiet=True)))
for begun in sys.argv[7:]:
    rightfit.resume(begun, quiet=True)
"""


def run_all(process, jobs):
    """jobs: backend -> (script, arguments); each in its process on that backend. backend -> stdout."""
    running, said, waiting = {}, {}, dict(jobs)
    while waiting or running:
        while waiting and len(running) < TOGETHER:
            backend, (script, arguments) = waiting.popitem()
            running[backend] = subprocess.Popen(
                [sys.executable, "-c", script, *map(str, arguments)],
                env=process.environment(KERAS_BACKEND=backend),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        backend = next(iter(running))
        ended = running.pop(backend)
        out, err = ended.communicate(timeout=240)
        assert ended.returncode == 0, f"{backend}: {err}"
        said[backend] = out
    return said


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, write_digits):
    return write_digits(tmp_path_factory.mktemp("digits"), 40)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pictures, process):
    """backend -> (run folder, what its process said of the first weights)."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = {
        b: (TRAIN, (pictures, folder / b, folder / f"{b}-killed", EPOCHS, KILLED_AFTER)) for b in BACKENDS
    }
    said = run_all(process, jobs)
    return {b: (folder / b, json.loads(said[b].splitlines()[-1])) for b in BACKENDS}


@pytest.fixture(scope="module")
def judged(pictures, runs, process):
    """The folder that holds what every backend made of every run: CSV, logits, and runs gone on with."""
    place = runs["jax"][0].parent
    for first, then in permutations(BACKENDS, 2):
        shutil.copytree(place / f"{first}-killed", place / f"{first}-then-{then}")
    others = {b: [f"{place}/{first}-then-{b}" for first in BACKENDS if first != b] for b in BACKENDS}
    run_all(process, {b: (JUDGE, [pictures, place, *BACKENDS, b, *others[b]]) for b in BACKENDS})
    return place


@pytest.fixture(scope="module")
def shares(judged, rows_of):
    """(trained on, predicted on) -> (120, 3) probabilities and the paths they are of."""
    found = {}
    for trained_on, predicted_on in product(BACKENDS, BACKENDS):
        rows = rows_of(judged / f"{trained_on}-{predicted_on}.csv")
        numbers = np.array([[float(row[f"probability_{c}"]) for c in range(3)] for row in rows])
        found[trained_on, predicted_on] = numbers, [row["path"] for row in rows]
    return found


def test_each_process_ran_its_own_backend_and_recorded_it(runs):
    for backend, (folder, said) in runs.items():
        assert said["backend"] == backend
        assert f"\nbackend: {backend} " in (folder / "config.yaml").read_text(encoding="utf-8")
        machine = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["machine"]
        assert machine["backend"] == backend and backend in machine


def test_the_same_seed_gives_the_same_first_weights_on_every_backend(runs):
    assert len({said["first_weights"] for _, said in runs.values()}) == 1
    # Nine convolutions with their normalisations, and the last layer: that much was compared
    assert {said["tensors"] for _, said in runs.values()} == {9 * 5 + 2}


def test_the_same_data_and_seed_give_the_same_split_on_every_backend(runs):
    assert len({(folder / "data.csv").read_bytes() for folder, _ in runs.values()}) == 1


@pytest.mark.parametrize("trained_on", BACKENDS)
@pytest.mark.parametrize("predicted_on", BACKENDS)
def test_every_backend_gives_the_logits_and_probabilities_of_the_one_that_trained(
    judged, shares, trained_on, predicted_on
):
    own, others = (np.load(judged / f"{trained_on}-{backend}.npy") for backend in (trained_on, predicted_on))
    assert own.shape == (80, 3) and own.dtype == np.float32
    np.testing.assert_allclose(others, own, rtol=0, atol=LOGITS)
    own, paths = shares[trained_on, trained_on]
    others, other_paths = shares[trained_on, predicted_on]
    assert paths == other_paths and len(paths) == 120
    np.testing.assert_allclose(others, own, rtol=0, atol=LOGITS)
    np.testing.assert_allclose(others.sum(axis=1), 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize("trained_on", BACKENDS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_gives_them_too(judged, pictures, shares, trained_on, engine):
    pytest.importorskip(engine)
    run = rightfit.load(judged / trained_on, backend=engine)
    own, paths = shares[trained_on, trained_on]
    found = run.predict(pictures, quiet=True)
    assert list(found["path"]) == paths
    np.testing.assert_allclose(found.filter(like="probability_").to_numpy(), own, rtol=0, atol=LOGITS)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_probabilities_that_agree_differ_between_images(shares, backend):
    """Else any model would agree with any other."""
    own, _ = shares[backend, backend]
    assert (np.ptp(own, axis=0) > 0.2).all()


def test_training_takes_nearly_the_same_course_on_every_backend(runs, rows_of):
    """The first epoch starts at the same weights and sees the same batches; rounding alone sets them apart."""
    first = [rows_of(folder / "history.csv")[0] for folder, _ in runs.values()]
    assert {row["steps"] for row in first} == {str(STEPS)}
    losses = [float(row["loss"]) for row in first]
    np.testing.assert_allclose(losses, losses[0], rtol=0, atol=1e-2)


@pytest.mark.parametrize(("first", "then"), [*permutations(BACKENDS, 2)])
def test_a_run_goes_on_on_another_backend_as_it_would_have_on_its_own(judged, rows_of, first, then):
    """The losses over and after ten more steps; what was trained before is the same, and the change is said."""
    expected, found = (rows_of(judged / name / "history.csv") for name in (first, f"{first}-then-{then}"))
    assert len(expected) == len(found) == EPOCHS
    moved = 0.0
    for name in ("loss", "val_loss"):
        own, others = (np.array([float(row[name]) for row in rows]) for rows in (expected, found))
        moved = max(moved, abs(own[-1] - own[-2]))
        assert np.array_equal(own[:KILLED_AFTER], others[:KILLED_AFTER])
        np.testing.assert_allclose(others[KILLED_AFTER], own[KILLED_AFTER], rtol=0, atol=ROUNDING)
    assert moved > 10 * ROUNDING, "an epoch changes one of them by more than that"
    log = (judged / f"{first}-then-{then}" / "log.txt").read_text(encoding="utf-8")
    assert f"backend {first} → {then}" in log
    assert "goes on from the same state, but equal to rounding only, not bit for bit" in log
