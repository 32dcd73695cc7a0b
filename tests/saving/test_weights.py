"""Weights in a file of their own, and whole models: every name and shape fits, or nothing is changed."""

import keras
import numpy as np
import pytest
from keras import layers

from rightfit.errors import ModelFileError, UsageError
from rightfit.saving.legacy.convert import largest_distance, predictions
from rightfit.saving.loading import load_model, read_model
from rightfit.saving.weights import load_weights, named_weights, save_weights


def net(units=5):
    """Nested, shared, recurrent: the same variable's name in many layers."""
    inputs = keras.Input((6, 4))
    inner = keras.Sequential(
        [layers.Dense(4, name="same"), layers.BatchNormalization(name="norm")], name="inner"
    )
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(inner(inner(inputs)))
    x = layers.MultiHeadAttention(2, 3, name="look")(x, x)
    return keras.Model(inputs, layers.Dense(units, name="same")(layers.Flatten()(x)))


def stirred(model):
    generator = np.random.default_rng(2)
    for variable in model.weights:
        variable.assign(generator.normal(1, 0.3, variable.shape))
    return model


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
def test_weights_come_back(tmp_path, name):
    model = stirred(net())
    save_weights(model, tmp_path / name)
    again = net()
    load_weights(again, tmp_path / name)
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
def test_what_normalisation_learnt_counts_after_loading(tmp_path, name):
    """Keras' layer computes with numbers beside its weights, which have to follow them."""

    def scaled():
        return keras.Sequential([keras.Input((3,)), layers.Normalization(name="scale")])

    x = np.random.default_rng(0).normal(5, 2, (20, 3)).astype("float32")
    model, again = scaled(), scaled()
    model.layers[0].adapt(x)
    save_weights(model, tmp_path / name)
    load_weights(again, tmp_path / name)
    np.testing.assert_allclose(again.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5)


def test_plain_keras_reads_the_h5_and_we_read_plain_kerass(tmp_path):
    model = stirred(net())
    save_weights(model, tmp_path / "ours.weights.h5")
    model.save_weights(tmp_path / "theirs.weights.h5")
    for again, load in ((net(), lambda m: m.load_weights(tmp_path / "ours.weights.h5")),
                        (net(), lambda m: load_weights(m, tmp_path / "theirs.weights.h5"))):  # fmt: skip
        load(again)
        np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def test_every_weight_has_a_name_of_its_own():
    names = [name for name, _ in named_weights(net())]
    assert len(set(names)) == len(names) == len(net().weights)
    assert {"inner/same/kernel", "same/kernel", "both/kernel", "both/kernel.2"} <= set(names)


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
def test_nothing_is_changed_when_one_tensor_does_not_fit(tmp_path, name):
    save_weights(stirred(net(units=6)), tmp_path / name)
    model = net()
    before = model.get_weights()
    with pytest.raises(ModelFileError, match="has shape"):
        load_weights(model, tmp_path / name)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
def test_a_tensor_too_many_or_too_few_is_named(tmp_path, name):
    small = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a")])
    large = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a"), layers.Dense(2, name="b")])
    save_weights(large, tmp_path / name)
    with pytest.raises(ModelFileError, match="left over"):
        load_weights(small, tmp_path / name)
    save_weights(small, tmp_path / name)
    with pytest.raises(ModelFileError, match="missing"):
        load_weights(large, tmp_path / name)


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.safetensors"):
        save_weights(net(), tmp_path / "weights.bin")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_compiled_model_of_keras_3_trains_on(tmp_path, suffix):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dropout(0.2), layers.Dense(2)])
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy", keras.metrics.AUC(name="auc")])
    x, y = np.ones((4, 4), "float32"), np.eye(2, dtype="float32")[[0, 1, 0, 1]]
    model.train_on_batch(x, y)
    path = tmp_path / f"m{suffix}"
    model.save(path)
    found = read_model(path)
    assert found.compiled and found.notes == []
    assert found.model.loss.label_smoothing == 0.1 and found.model.loss.from_logits
    assert found.optimizer_state
    for ours, theirs in zip(found.model.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))
    assert largest_distance(predictions(model, [x]), predictions(found.model, [x])) < 1e-6


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_functional_model_in_keras_3s_h5_comes_back(tmp_path):
    model = stirred(net())
    model.save(tmp_path / "m.h5")
    x = np.random.default_rng(0).normal(0, 1, (2, 6, 4)).astype("float32")
    assert largest_distance(predictions(model, [x]), predictions(load_model(tmp_path / "m.h5"), [x])) < 1e-6


def test_a_loss_of_ones_own_is_named_and_the_model_is_left_uncompiled(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    def mine(y_true, y_pred):
        return y_pred - y_true

    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.compile("sgd", mine)
    model.save(tmp_path / "m.keras")
    found = read_model(tmp_path / "m.keras")
    assert not found.compiled and "mine is not carried" in found.notes[0]
