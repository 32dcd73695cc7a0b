"""What one backend trained, the others load and judge alike: every pair, in real processes."""

import json
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
TOGETHER = 2  # processes at a time

# Keras keeps one backend per process, so each of these is one: the first weights, then `rightfit train`.
TRAIN = """
import hashlib, json, sys
from rightfit.runtime import choose_backend
backend = choose_backend()
import numpy as np
from rightfit.nets.resnet import build
weights = build("resnet20", 3, (8, 8), seed=5).get_weights()
digest = hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in weights)).hexdigest()
print(json.dumps({"backend": backend, "first_weights": digest, "tensors": len(weights)}), flush=True)
from rightfit.cli import main
main()
"""
# `rightfit predict RUN FOLDER --output CSV` for each RUN CSV in turn.
PREDICT = """
import sys
from rightfit.cli import main
folder, *pairs = sys.argv[1:]
for run, output in zip(pairs[::2], pairs[1::2], strict=True):
    sys.argv = ["rightfit", "predict", run, folder, "--output", output]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
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
    common = ("--image-size", 8, "--epochs", 6, "--seed", 5, "--model", "resnet20", "--precision", "float32")
    jobs = {b: (TRAIN, ("train", pictures, *common, "--output", folder / b)) for b in BACKENDS}
    said = run_all(process, jobs)
    return {b: (folder / b, json.loads(said[b].splitlines()[0])) for b in BACKENDS}


@pytest.fixture(scope="module")
def shares(tmp_path_factory, pictures, runs, process, rows_of):
    """(trained on, predicted on) -> (120, 3) probabilities and the paths they are of."""
    folder = tmp_path_factory.mktemp("predictions")
    outputs = {(t, p): folder / f"{t}-{p}.csv" for t, p in product(BACKENDS, BACKENDS)}
    jobs = {
        p: (PREDICT, [pictures, *(x for t in BACKENDS for x in (runs[t][0], outputs[t, p]))])
        for p in BACKENDS
    }
    run_all(process, jobs)
    found = {}
    for pair, output in outputs.items():
        rows = rows_of(output)
        numbers = np.array([[float(row[f"probability_{c}"]) for c in range(3)] for row in rows])
        found[pair] = numbers, [row["path"] for row in rows]
    return found


def test_each_process_ran_its_own_backend_and_recorded_it(runs):
    for backend, (folder, said) in runs.items():
        assert said["backend"] == backend
        assert f"\nbackend: {backend} " in (folder / "config.yaml").read_text(encoding="utf-8")


def test_the_same_seed_gives_the_same_first_weights_on_every_backend(runs):
    assert len({said["first_weights"] for _, said in runs.values()}) == 1
    # 21 convolutions with their normalisations, and the last layer: that much was compared
    assert {said["tensors"] for _, said in runs.values()} == {21 * 5 + 2}


def test_the_same_data_and_seed_give_the_same_split_on_every_backend(runs):
    assert len({(folder / "data.csv").read_bytes() for folder, _ in runs.values()}) == 1


@pytest.mark.parametrize("trained_on", BACKENDS)
@pytest.mark.parametrize("predicted_on", BACKENDS)
def test_every_backend_gives_the_probabilities_of_the_one_that_trained(shares, trained_on, predicted_on):
    own, paths = shares[trained_on, trained_on]
    others, other_paths = shares[trained_on, predicted_on]
    assert paths == other_paths and len(paths) == 120
    np.testing.assert_allclose(others, own, rtol=0, atol=1e-4)
    np.testing.assert_allclose(others.sum(axis=1), 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_probabilities_that_agree_differ_between_images(shares, backend):
    """Else any model would agree with any other."""
    own, _ = shares[backend, backend]
    assert (np.ptp(own, axis=0) > 0.2).all()


def test_training_takes_nearly_the_same_course_on_every_backend(runs, rows_of):
    """The first epoch starts at the same weights and sees the same batches; rounding alone sets them apart."""
    first = [rows_of(folder / "history.csv")[0] for folder, _ in runs.values()]
    assert len({row["steps"] for row in first}) == 1
    losses = [float(row["loss"]) for row in first]
    np.testing.assert_allclose(losses, losses[0], rtol=0, atol=1e-2)
