"""What is written to ONNX gives Keras' logits on both engines: every layer of the closed list, and whole nets."""

import keras
import numpy as np
import pytest
from keras import layers

from rightfit.errors import RunError, UsageError
from rightfit.nets import catalogue
from rightfit.nets.layers import stock
from rightfit.saving.allowed import LAYERS
from rightfit.saving.architecture import to_config
from rightfit.saving.weights import named_weights

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from rightfit.export import engines, onnx_layers  # noqa: E402
from rightfit.export import onnx as writer  # noqa: E402

ENGINES = ("onnxruntime", "openvino")
SIZE = (9, 7)  # odd, and not square
# Of the largest logit: a float32 rounding is 6e-8, a sum of a few thousand terms in another order some 1e-6.
ROUNDING = 1e-5


def numbers(shape, seed):
    return np.random.default_rng(seed).normal(0, 1, shape).astype("float32")


def scattered(model, scale=0.3):
    """The same model, none of whose weights is a 0 or 1 that would hide a mistake."""
    for index, (_, variable) in enumerate(named_weights(model)):
        values = numbers(variable.shape, index) * scale
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.name else values)
    return model


def written(model):
    return writer.write(to_config(model), {name: np.asarray(v) for name, v in named_weights(model)})


def pixels(count, size=SIZE):
    return np.random.default_rng(1).integers(0, 256, (count, *size, 3), np.uint8)


def assert_same_logits(model, size=SIZE, rounding=ROUNDING):
    """On both engines, for batches of two sizes; logits that do not depend on the image would prove nothing."""
    made = written(model)
    onnx.checker.check_model(onnx.load_from_string(made), full_check=True)
    images = pixels(3, size)
    expected = np.asarray(model(images.astype("float32"), training=False))
    scale = np.abs(expected).max()
    assert np.ptp(expected, axis=0).max() > 1e-3 * scale
    for name in ENGINES:
        engine = engines.start(name, made)
        assert engine.input_shape == (None, *size, 3) and engine.output_shape == model.output_shape
        for count in (3, 1):
            found = engine.predict_on_batch(images[:count])
            assert found.dtype == np.float32 and found.shape == (count, model.output_shape[1])
            np.testing.assert_allclose(found, expected[:count], rtol=0, atol=rounding * scale, err_msg=name)


def net(*body):
    """Image -> body -> every number of it weighed by its place, so that none may change places."""
    x = inputs = keras.Input((*SIZE, 3), name="image")
    x = layers.Rescaling([1 / 60, 1 / 50, 1 / 70], [-2.0, -2.5, -1.5], name="normalise")(x)
    for layer in body:
        x = layer(x)
    if len(x.shape) > 2:
        x = layers.Reshape((-1,), name="flat")(x)
    return scattered(keras.Model(inputs, layers.Dense(4, name="logits")(x)))


def cases():
    for padding in ("same", "valid"):
        for stride in (1, 2, 3):
            at = {"strides": stride, "padding": padding}
            yield f"conv, {at}", layers.Conv2D(4, 3, **at)
            yield f"even conv, {at}", layers.Conv2D(4, (2, 4), use_bias=False, activation="relu", **at)
            yield f"depthwise, {at}", layers.DepthwiseConv2D(3, depth_multiplier=2, **at)
            yield f"separable, {at}", layers.SeparableConv2D(4, 3, depth_multiplier=2, **at)
            yield f"maximum, {at}", layers.MaxPooling2D(3, **at)
            yield f"average, {at}", layers.AveragePooling2D((2, 3), **at)
        yield f"spread conv, {padding}", layers.Conv2D(4, 3, dilation_rate=2, padding=padding)
        yield f"grouped conv, {padding}", layers.Conv2D(6, 3, groups=3, padding=padding)
    for name in onnx_layers.ACTIVATIONS:
        yield name, layers.Activation(name)
    yield "softmax of a map", layers.Activation("softmax")
    yield "ReLU 6", layers.ReLU(6.0)
    yield "ReLU with a slope", layers.ReLU(negative_slope=0.2)
    yield "padding", layers.ZeroPadding2D(((1, 2), (0, 3)))
    yield "cropping", layers.Cropping2D(((1, 2), (0, 3)))
    yield "pool", layers.GlobalAveragePooling2D()
    yield "pool that keeps its dimensions", layers.GlobalAveragePooling2D(keepdims=True)
    yield "normalised batch", layers.BatchNormalization(epsilon=1e-5)
    yield "normalised batch, bare", layers.BatchNormalization(center=False, scale=False)
    yield "normalised layer", layers.LayerNormalization(epsilon=1e-6)
    yield "normalised layer, bare", layers.LayerNormalization(center=False, scale=False)
    yield "dense on a map", layers.Dense(5, activation="gelu")
    yield "reshaped map", layers.Reshape((7, 3, 9))
    yield "one factor", layers.Rescaling(0.5, 1.0)
    yield "dropout", layers.Dropout(0.5)


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_a_layer_gives_the_same(name):
    assert_same_logits(net(CASES[name]))


def test_layers_that_join_give_the_same():
    inputs = keras.Input((*SIZE, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(inputs)
    left, right = layers.Conv2D(4, 3, padding="same", name="left")(x), layers.Conv2D(4, 1, name="right")(x)
    share = layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(left))  # squeeze and excitation
    x = layers.Multiply()([right, layers.Activation("sigmoid")(share)])
    x = layers.Concatenate()([layers.Add()([x, left, right]), left])
    assert_same_logits(
        scattered(keras.Model(inputs, layers.Dense(2, name="logits")(layers.Reshape((-1,))(x))))
    )


def test_a_layer_that_is_called_twice_gives_the_same():
    inputs = keras.Input((*SIZE, 3), name="image")
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    x = shared(layers.ReLU()(shared(layers.Rescaling(1 / 64, -2.0)(inputs))))
    assert_same_logits(
        scattered(keras.Model(inputs, layers.Dense(2, name="logits")(layers.Reshape((-1,))(x))))
    )


def test_every_layer_that_can_be_loaded_can_be_written_or_is_refused():
    """The closed list may grow beyond nets of images; those that are here are."""
    images_nets = {"InputLayer", *onnx_layers.LAYERS}
    assert images_nets <= LAYERS


# between them all that the table's nets are made of: groups, squeezes, deep stems, average shortcuts, both paddings
@pytest.mark.parametrize("name", ["resnet20", "seresnext50_32x4d", "resnet50d", "keras:MobileNetV3Small"])
def test_a_whole_net_gives_the_same(name):
    size = (41, 38)
    model = stock(catalogue.build(name, 3, size, seed=2, **({} if ":" in name else {"dropout": 0.2})))
    for index, (_, variable) in enumerate(named_weights(model)):  # statistics and biases as after training
        if len(variable.shape) == 1 and variable.shape[0] != 3:
            variable.assign(np.asarray(variable) + np.abs(numbers(variable.shape, index)) * 0.1)
    assert_same_logits(model, size, 1e-4)


# What is not written -------------------------------------------------------------------------------------


def assert_refused(model, words):
    with pytest.raises(UsageError, match=words):
        written(model)


def test_what_has_no_counterpart_is_refused_by_name():
    assert_refused(net(layers.ReLU(threshold=0.5, name="odd")), r"'odd' \(ReLU\) has threshold 0.5")
    assert_refused(
        net(layers.BatchNormalization(axis=1, name="odd")), r"'odd' \(BatchNormalization\) has axis 1"
    )
    inputs = keras.Input((*SIZE, 3), name="image")
    last = layers.GlobalAveragePooling2D(name="pool")(inputs)
    assert_refused(keras.Model(inputs, last), "ends in 'pool'")
    second = keras.Input((3,), name="more")
    joined = layers.Dense(2, name="logits")(layers.Add()([last, second]))
    assert_refused(keras.Model([inputs, second], joined), "takes 2 inputs")
    learning = layers.BatchNormalization(name="odd")(inputs, training=True)
    assert_refused(
        keras.Model(inputs, layers.Dense(2)(layers.Reshape((-1,))(learning))), "called as in training"
    )


def test_a_layer_of_another_kind_is_refused_by_name():
    config = to_config(net(layers.ReLU(name="odd")))
    described = next(layer for layer in config["config"]["layers"] if layer["name"] == "odd")
    described["class_name"] = "LSTM"
    with pytest.raises(UsageError, match=r"'odd' \(LSTM\)"):
        writer.write(config, {})


@pytest.mark.parametrize("lost", ["layers", "output_layers", "weights", "inbound_nodes", "pads"])
def test_a_damaged_architecture_is_an_error_of_the_run(lost):
    model = net(layers.Conv2D(2, 3, name="conv"))
    config, weights = to_config(model), {name: np.asarray(v) for name, v in named_weights(model)}
    conv = next(layer for layer in config["config"]["layers"] if layer["name"] == "conv")
    if lost == "weights":
        del weights["conv/kernel"]
    elif lost == "inbound_nodes":
        conv["inbound_nodes"][0]["args"][0]["config"]["keras_history"][0] = "conv"
    elif lost == "pads":
        conv["config"]["strides"] = [0, 0]
        conv["config"]["padding"] = "same"
    else:
        del config["config"][lost]
    with pytest.raises(RunError, match="cannot be written to ONNX"):
        writer.write(config, weights)
