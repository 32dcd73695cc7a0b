"""YAML, JSON and HDF5 as old scripts write and read them: the same predictions come back, hostile ones are refused."""

import warnings

import h5py
import keras
import numpy as np
import pytest

import rightfit.keras2
from rightfit.errors import ArchitectureError, ModelFileError
from rightfit.keras2 import load_model, model_from_json, model_from_yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tf_keras

INPUT = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")


def small(layers):
    """Convolution, batch normalisation with statistics of its own, a branch, in Keras 2 or 3."""
    image = layers.Input((9, 9, 3))
    x = layers.Conv2D(4, 3, name="conv")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Add(name="sum")([layers.ReLU(name="relu")(x), x])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return image, layers.Dense(2, activation="softmax", name="says")(x)


def shaken(model):
    """Every weight some other number, variances above zero."""
    random = np.random.default_rng(1)
    model.set_weights([random.uniform(0.1, 1, w.shape).astype("float32") for w in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def model():
    made = shaken(keras.Model(*small(keras.layers)))
    made.compile(rightfit.keras2.SGD(lr=0.1, momentum=0.9), "categorical_crossentropy", metrics=["accuracy"])
    return made


def says(model):
    return np.asarray(model.predict(INPUT, verbose=0))


@pytest.mark.parametrize("text", ["yaml", "json"])
@pytest.mark.parametrize("name", ["weights.h5", "weights.hdf5", "all.weights.h5"])
def test_architecture_and_weights_apart_come_back_together(model, tmp_path, text, name):
    model.save_weights(tmp_path / name)
    read = {"yaml": model_from_yaml, "json": model_from_json}[text]
    again = read(model.to_yaml() if text == "yaml" else model.to_json())
    assert np.abs(says(again) - says(model)).max() > 1e-3
    again.load_weights(tmp_path / name)
    np.testing.assert_allclose(says(again), says(model), atol=1e-6)


def test_keras_2_reads_the_weights_that_are_written_under_its_names(model, tmp_path):
    model.save_weights(tmp_path / "weights.h5")
    old = tf_keras.Model(*small(tf_keras.layers))
    old.load_weights(tmp_path / "weights.h5")
    np.testing.assert_allclose(old.predict(INPUT, verbose=0), says(model), atol=1e-5)


def test_weights_and_models_of_keras_2_are_read(model, tmp_path):
    old = shaken(tf_keras.Model(*small(tf_keras.layers)))
    old.compile("sgd", "categorical_crossentropy", metrics=["acc"])
    expected = old.predict(INPUT, verbose=0)
    old.save_weights(tmp_path / "weights.h5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras 2 says that .h5 is old
        old.save(tmp_path / "model.h5")
    again = model_from_json(old.to_json())
    again.load_weights(tmp_path / "weights.h5")
    np.testing.assert_allclose(says(again), expected, atol=1e-5)
    whole = load_model(tmp_path / "model.h5")
    np.testing.assert_allclose(says(whole), expected, atol=1e-5)
    assert whole.compiled and not load_model(tmp_path / "model.h5", compile=False).compiled


def test_a_whole_model_keeps_its_optimizer(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    again = load_model(tmp_path / "model.h5")
    np.testing.assert_allclose(says(again), says(model), atol=1e-6)
    assert float(again.optimizer.learning_rate) == pytest.approx(0.1)


def test_a_file_that_is_there_is_kept_if_asked(model, tmp_path):
    (tmp_path / "weights.h5").write_text("mine")
    with pytest.raises(ModelFileError, match="overwrite=False"):
        model.save_weights(tmp_path / "weights.h5", overwrite=False)
    assert (tmp_path / "weights.h5").read_text() == "mine"


def test_more_names_than_an_attribute_holds_are_written_in_parts(model, tmp_path, monkeypatch):
    monkeypatch.setattr("rightfit.keras2.models.ATTRIBUTE_BYTES", 20)
    model.save_weights(tmp_path / "weights.h5")
    with h5py.File(tmp_path / "weights.h5") as file:
        assert "layer_names" not in file.attrs and "layer_names1" in file.attrs
    again = model_from_json(model.to_json())
    again.load_weights(tmp_path / "weights.h5")
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch /tmp/owned']",
        "class_name: Sequential\nconfig: !!python/name:os.system\n",
        "class_name: Sequential\nconfig:\n  layers:\n  - {class_name: Lambda, config: {function: [4wEA, null, null]}}",
    ],
)
def test_yaml_that_asks_for_code_is_refused(text):
    with pytest.raises((ArchitectureError, ModelFileError)):
        model_from_yaml(text)


def test_custom_objects_are_refused_by_name(model):
    with pytest.raises(ArchitectureError, match="Mine"):
        model_from_json(model.to_json(), custom_objects={"Mine": keras.layers.Dense})


def test_weights_by_name_come_out_of_one_file_that_was_looked_into(model, tmp_path):
    """A list of parts has Keras open files that nobody looked into, of any folder."""
    model.save_weights(tmp_path / "weights.h5")
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file["conv"]["elsewhere"] = h5py.ExternalLink("other.h5", "/conv")
    with pytest.raises(ModelFileError, match="is a link elsewhere"):
        model.load_weights(tmp_path / "weights.h5", by_name=True)
    (tmp_path / "a.weights.json").write_text('{"weight_map": {"/layers/conv/vars": "../other.weights.h5"}}')
    with pytest.raises(ModelFileError, match="no weights of Keras"):
        model.load_weights(tmp_path / "a.weights.json", skip_mismatch=True)


def test_weights_of_theano_are_turned_and_by_name_refused(model, tmp_path):
    model.save_weights(tmp_path / "weights.h5")
    with h5py.File(tmp_path / "weights.h5", "r+") as file:
        file.attrs["backend"] = b"theano"
        file.attrs["keras_version"] = b"2.0.6"
    with pytest.raises(ModelFileError, match="rightfit convert"):
        model.load_weights(tmp_path / "weights.h5", by_name=True)
    again = model_from_json(model.to_json())
    again.load_weights(tmp_path / "weights.h5")
    before, after = (keras.ops.convert_to_numpy(m.get_layer("conv").kernel) for m in (model, again))
    assert np.array_equal(after, before[::-1, ::-1])  # Theano's convolution is the true one


def gates(layers, activation):
    image = layers.Input((6, 3))
    return image, layers.LSTM(5, recurrent_activation=activation, name="gates")(image)


@pytest.fixture
def gated(tmp_path):
    """Weights of a tf-keras LSTM with a hard sigmoid, a series, and what that LSTM makes of it."""
    old = tf_keras.Model(*gates(tf_keras.layers, "hard_sigmoid"))
    old.save_weights(tmp_path / "gates.h5")
    x = np.random.default_rng(0).normal(0, 3, (4, 6, 3)).astype("float32")
    return tmp_path / "gates.h5", x, old.predict(x, verbose=0)


def test_a_hard_sigmoid_keeps_its_outputs_or_is_refused(gated):
    path, x, expected = gated
    made = keras.Model(*gates(keras.layers, "hard_sigmoid"))
    made.load_weights(path, by_name=False)
    np.testing.assert_allclose(made.predict(x, verbose=0), expected, atol=1e-5)
    for model in (made, keras.Sequential([keras.Input((6, 3)), made])):
        for arguments in ({"by_name": True}, {"skip_mismatch": True}):
            with pytest.raises(ModelFileError, match=r"hard sigmoid.*without by_name"):
                model.load_weights(path, **arguments)


def test_the_second_argument_is_keras_2s_by_name(model, tmp_path):
    model.save_weights(tmp_path / "weights.h5")
    image = keras.Input((9, 9, 3))
    part = keras.Model(image, keras.layers.Conv2D(4, 3, name="conv")(image))
    part.load_weights(tmp_path / "weights.h5", True)
    for ours, theirs in zip(part.get_weights(), model.get_layer("conv").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gates_that_may_have_had_a_hard_sigmoid_are_said(gated, capfd):
    path, _, _ = gated

    def said(activation, version):
        with h5py.File(path, "r+") as file:
            file.attrs["keras_version"] = version.encode()
        keras.Model(*gates(keras.layers, activation)).load_weights(path)
        return capfd.readouterr().err

    assert 'recurrent_activation="hard_sigmoid"' in said("sigmoid", "2.2.4")
    for activation, version in (("hard_sigmoid", "2.2.4"), ("sigmoid", "2.2.4-tf"), ("sigmoid", "2.3.0")):
        assert "hard" not in said(activation, version)
