"""Nets of other libraries from the command: trained on one backend, predicted on another, opened in plain Keras."""

import importlib.util
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest

import rightfit

NETS = ("keras:MobileNetV2", "hub")
# `rightfit predict RUN FOLDER --output RUN.csv` for each RUN.
PREDICT = """
import sys
from rightfit.runtime import choose_backend
assert choose_backend() == "torch"
import rightfit
for run in sys.argv[2:]:
    rightfit.load(run).predict(sys.argv[1], output=run + ".csv", quiet=True)
"""
# In a process that cannot import rightfit: logits of the golden inputs.
PLAIN = """
import sys
sys.modules["rightfit"] = sys.modules["keras_hub"] = None
import keras
import numpy as np
for run in sys.argv[1:]:
    with np.load(run + "/golden.npz") as golden:
        inputs, expected = golden["inputs"], golden["logits"]
    assert np.ptp(expected, axis=0).max() > 0
    logits = np.asarray(keras.models.load_model(run + "/model.keras").predict_on_batch(inputs))
    print(float(np.abs(logits - expected).max() / max(1, np.abs(expected).max())))
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory, write_images):
    return write_images(tmp_path_factory.mktemp("other") / "photos", count=12, side=32)


@pytest.fixture(scope="module")
def runs(photos, process):
    """net -> (run folder, the name it was trained by): one epoch, from scratch, on TensorFlow."""
    found = {}
    for net in NETS if importlib.util.find_spec("keras_hub") else NETS[:1]:
        name = f"hub:{saved_preset(photos.parent / 'preset')}" if net == "hub" else net
        folder = photos.parent / net.replace(":", "-")
        done = process(
            *("train", photos, "--model", name, "--weights", "none", "--epochs", 1, "--image-size", 32),
            *("--precision", "float32", "--output", folder),
            KERAS_BACKEND="tensorflow",
        )
        assert done.returncode == 0, done.stderr
        found[net] = folder, name
    return found


def saved_preset(folder):
    """A backbone of KerasHub as a preset, without a network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from keras_hub import models
    net = models.ResNetBackbone([64], [7], [64, 24], [1, 1], [1, 2], "basic_block", use_pre_activation=True)
    net.save_to_preset(str(folder))
    return folder


def script(code, arguments, process, backend):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=process.environment(KERAS_BACKEND=backend),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_backend_predicts_the_same(runs, photos, process, rows_of):
    folders = [folder for folder, _ in runs.values()]
    script(PREDICT, [photos, *folders], process, "torch")
    for folder in folders:
        own = rightfit.load(folder).predict(photos, quiet=True).filter(like="probability_").to_numpy()
        rows = rows_of(folder.with_name(folder.name + ".csv"))
        others = np.array([[float(row[k]) for k in row if k.startswith("probability_")] for row in rows])
        assert own.shape == (36, 3) and np.ptp(own, axis=0).max() > 1e-3
        np.testing.assert_allclose(others, own, rtol=0, atol=1e-4)


def test_plain_keras_opens_the_models(runs, process):
    said = script(PLAIN, [folder for folder, _ in runs.values()], process, "tensorflow")
    distances = [float(line) for line in said.splitlines()]
    assert len(distances) == len(runs) and max(distances) < 1e-3


def test_the_run_says_what_it_is(runs):
    for folder, name in runs.values():
        assert json.loads((folder / "architecture.json").read_text())["model"] == name
        config = (folder / "config.yaml").read_text()
        assert f"\nmodel: {name} " in config and "\nweights: none " in config
