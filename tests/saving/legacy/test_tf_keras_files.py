"""Models that Keras 2 (tf-keras) wrote: the Keras 3 model gives the same outputs, and trains on as it would have."""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from rightfit.errors import ArchitectureError, ModelFileError, UsageError
from rightfit.saving.architecture import from_json
from rightfit.saving.legacy.convert import convert, largest_distance, predictions
from rightfit.saving.loading import load_model, read_model
from rightfit.saving.weights import load_weights

MAKER = Path(__file__).with_name("old_models.py")
MODELS = (
    "mlp", "cnn", "residual", "squeeze_and_excite", "separable", "nested", "transfer", "siamese", "two_ends", "lstm",
    "translator", "cells", "film", "row", "attention", "operators", "decoder", "prepared", "mobilenet",
)  # fmt: skip
OPTIMIZERS = (
    "adam", "adam_old", "amsgrad", "amsgrad_old", "sgd", "sgd_old", "rmsprop", "rmsprop_old", "centered",
)  # fmt: skip


@pytest.fixture(scope="session")
def old(tmp_path_factory):
    """A folder of what tf-keras wrote, once."""
    folder = tmp_path_factory.mktemp("old")
    done = subprocess.run([sys.executable, MAKER, folder], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def held(folder, name):
    with np.load(folder / f"{name}.npz") as file:
        return {key: file[key] for key in file}


def those(arrays, prefix):
    return [arrays[key] for key in sorted(arrays, key=lambda k: (len(k), k)) if key.startswith(prefix)]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_keras_2_gives_the_same_outputs(old, name):
    arrays = held(old, name)
    found = read_model(old / f"{name}.h5")
    assert largest_distance(those(arrays, "out"), predictions(found.model, those(arrays, "in"))) < 1e-5
    # A hard sigmoid under MaxNorm(3): the weights before it grew, the bound did not.
    held_otherwise = [note for note in found.notes if "its penalties and constraints" in note]
    assert len(held_otherwise) == (name == "mlp") and found.notes == held_otherwise


@pytest.mark.parametrize("name", ["lstm", "nested"])
def test_so_does_one_in_the_archive_that_tf_keras_wrote(old, name):
    arrays = held(old, f"{name}-archive")
    model = load_model(old / f"{name}.keras")
    assert largest_distance(those(arrays, "out"), predictions(model, those(arrays, "in"))) < 1e-5


@pytest.mark.parametrize("name", ["lstm", "nested", "cnn"])
def test_old_weights_go_into_a_model_that_was_built_anew(old, tmp_path, name):
    """The script of 2017: model_from_json, then load_weights."""
    arrays = held(old, name)
    model = from_json(_json_of(old / f"{name}.h5", tmp_path))
    load_weights(model, old / f"{name}.h5")
    assert largest_distance(those(arrays, "out"), predictions(model, those(arrays, "in"))) < 1e-5


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_it_would_have_in_keras_2(old, name):
    """Three steps in tf-keras and three here end at the weights of six there: slots and step count are carried."""
    arrays = held(old, name)
    found = read_model(old / f"{name}.h5")
    assert found.compiled and found.optimizer_state and found.notes == []
    # No slot begins anew.
    assert all(np.any(keras.ops.convert_to_numpy(slot)) for slot in found.model.optimizer.variables)
    for _ in range(3):
        found.model.train_on_batch(arrays["x"], arrays["y"])
    for ours, theirs in zip(found.model.get_weights(), those(arrays, "after"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_weights_alone_need_their_architecture(old, tmp_path):
    with pytest.raises(UsageError, match="--architecture"):
        convert(old / "apart.h5", tmp_path / "new.keras")
    done = convert(old / "apart.h5", tmp_path / "new.keras", architecture=old / "apart.json", compare=False)
    arrays = held(old, "apart")
    model = keras.saving.load_model(tmp_path / "new.keras")  # plain Keras opens it
    assert largest_distance(those(arrays, "out"), predictions(model, those(arrays, "in"))) < 1e-5
    assert done.notes == () and done.parameters == model.count_params()


def test_weights_of_another_model_are_refused_by_name(old, tmp_path):
    with pytest.raises(ModelFileError, match="does not fit the architecture"):
        convert(old / "cnn.h5", tmp_path / "new.keras", architecture=_json_of(old / "residual.h5", tmp_path))
    assert not (tmp_path / "new.keras").exists()


def _json_of(path, folder):
    import h5py

    with h5py.File(path) as file:
        text = file.attrs["model_config"]
    (folder / "model.json").write_text(text, encoding="utf-8")
    return folder / "model.json"


def test_the_command_names_what_it_carried_and_compares_with_tf_keras(old, tmp_path, here):
    done = here("convert", old / "nested.h5", "--output", tmp_path / "new.keras")
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.strip().splitlines()
    assert first.startswith(f"{tmp_path / 'new.keras'}: ") and "from Keras 2.21" in first
    assert last.startswith("compared with tf-keras 2.21.0: the largest distance is ")
    assert float(last.split(" is ")[1].split()[0]) < 1e-5


def test_a_lambda_in_an_old_file_is_refused_by_name(old, tmp_path):
    import h5py

    path = tmp_path / "hostile.h5"
    path.write_bytes((old / "mlp.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        text = file.attrs["model_config"]
        file.attrs["model_config"] = text.replace('"Dropout"', '"Lambda"')
    with pytest.raises(ArchitectureError, match="dropout is a Lambda"):
        load_model(path)
