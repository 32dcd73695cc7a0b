"""Architectures as text and back: what may be built comes back the same, what may not is refused by name."""

import json

import keras
import numpy as np
import pytest
from keras import layers

from rightfit.errors import ArchitectureError, ModelFileError
from rightfit.nets import keras_models
from rightfit.nets.layers import fused
from rightfit.nets.resnet import build
from rightfit.saving import building
from rightfit.saving.architecture import from_config, from_json, from_yaml, to_config, to_json, to_yaml
from rightfit.saving.legacy.convert import largest_distance, predictions
from rightfit.saving.texts import read_yaml
from rightfit.saving.weights import named_weights

# One of each block and of each family; benchmarks/architectures.py takes every net of both.
OURS = ("resnet20", "resnet20v2", "resnet18d", "seresnet18", "resnet29v2", "resnet18v2")
FAMILIES = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ConvNeXtTiny", "VGG16")


def recurrent():
    return keras.Sequential(
        [
            keras.Input((9,), dtype="int32"),
            layers.Embedding(20, 6, mask_zero=True),
            layers.Bidirectional(layers.GRU(4, return_sequences=True)),
            layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)]),
            layers.Dense(2),
        ]
    )


def several_ends():
    left, right = keras.Input((8, 8, 3), name="left"), keras.Input((8, 8, 3), name="right")
    eye = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()], name="eye")
    shared = layers.Dense(5, activation="tanh")
    a, b = shared(eye(left)), shared(eye(right))
    x = layers.Concatenate()([a, b * 2.0 + 1.0])[:, 2:]
    return keras.Model([left, right], {"same": layers.Dense(1)(x), "far": keras.ops.relu(a - b)})


def nested():
    inputs = keras.Input((8, 8, 3))
    inner = keras.Model(inputs, layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs)), name="inner")
    outer = keras.Input((8, 8, 3))
    x = layers.MultiHeadAttention(2, 3)(*2 * [layers.Reshape((36, 4))(inner(outer))])
    return keras.Model(outer, layers.Flatten()(x))


def remembering():
    return keras.Sequential([keras.Input((4, 3), batch_size=2), layers.LSTM(3, stateful=True)])


@pytest.mark.parametrize("make", [recurrent, several_ends, nested, remembering])
def test_any_kind_of_model_comes_back_from_json_and_from_yaml(make):
    model = make()
    config = to_config(model)
    from_text = from_json(to_json(model))
    assert to_config(from_text) == config
    from_text.set_weights(model.get_weights())
    given = [np.random.default_rng(1).uniform(1, 3, (2, *t.shape[1:])).astype(t.dtype) for t in model.inputs]
    assert largest_distance(predictions(model, given), predictions(from_text, given)) < 1e-6
    assert to_config(from_yaml(to_yaml(model))) == config


@pytest.mark.parametrize("name", OURS)
def test_every_kind_of_our_nets_comes_back(name):
    assert_comes_back(build(name, 3, (32, 32), dropout=0.1, stochastic_depth=0.1))


def test_the_fast_twins_are_written_as_the_stock_layers_they_stand_for():
    net = build("resnet20", 3, (16, 16))
    assert to_config(fused(net)) == to_config(net)


@pytest.mark.parametrize("name", FAMILIES)
def test_nets_of_keras_applications_come_back(name):
    make = keras_models.classifiers()[name]
    assert_comes_back(make(weights=None, classes=7, input_shape=(96, 96, 3), classifier_activation=None))


def assert_comes_back(model):
    config = to_config(model)
    again = building.measured(config)
    assert [(name, v.shape) for name, v in named_weights(again)] == [
        (n, v.shape) for n, v in named_weights(model)
    ]
    assert to_config(again) == config
    assert read_yaml(to_yaml(model)) == config


def test_plain_keras_reads_the_json():
    model = recurrent()
    again = keras.models.model_from_json(to_json(model))
    assert [v.shape for v in again.weights] == [v.shape for v in model.weights]


def dense(**changes):
    config = to_config(keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")]))
    layer = config["config"]["layers"][1]
    for key, value in changes.items():
        (layer if key in ("class_name", "module", "registered_name") else layer["config"])[key] = value
    return config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_name": "Lambda"}, "Lambda"),
        ({"class_name": "TFSMLayer", "module": "keras.layers"}, "TFSMLayer"),
        ({"class_name": "StringLookup"}, "StringLookup"),
        ({"module": "os"}, "'os'"),
        ({"module": "keras.src.legacy.layers"}, "keras.src.legacy"),
        ({"registered_name": "mine>Dense"}, "mine>Dense"),
        ({"activation": "my_registered"}, "my_registered"),
        ({"activation": {"class_name": "function", "module": "builtins", "config": "eval"}}, "function"),
        ({"kernel_initializer": "my_registered"}, "my_registered"),
        ({"kernel_initializer": {"class_name": "__lambda__", "config": {"value": "x"}}}, "__lambda__"),
        ({"units": 10**12}, "too large"),
        ({"units": 2**31}, "parameters"),
        ({"name": {1, 2}}, "set"),
    ],
)
def test_what_is_not_on_the_list_is_refused_by_name(changes, said):
    with pytest.raises(ArchitectureError, match=said):
        from_config(dense(**changes))


def test_a_layer_that_is_called_on_numbers_would_compute_and_is_refused():
    inputs = keras.Input((4,))
    config = to_config(keras.Model(inputs, layers.Dense(2)(layers.RepeatVector(2)(inputs))))
    config["config"]["layers"][1]["inbound_nodes"][0]["args"] = [[[1.0, 2.0]]]
    with pytest.raises(ArchitectureError, match="RepeatVector on plain numbers"):
        from_config(config)
    config["config"]["layers"][0]["config"]["batch_shape"] = [2**31] * 10_000  # a product of 40 KB
    with pytest.raises(ArchitectureError, match="too large"):
        from_config(config)


def test_one_mean_is_not_spread_over_axes_of_any_size():
    made = to_config(keras.Sequential([keras.Input((4, 4, 3)), layers.Normalization(name="scale", axis=-1)]))
    made["config"]["layers"][1]["config"] |= {"axis": [1, 2], "mean": 0.0, "variance": 1.0}
    with pytest.raises(ArchitectureError, match="several axes of a Normalization"):
        from_config(made)


def test_sizes_are_known_before_memory_is_taken():
    """A product that no single number shows: 2^20 values into 2^20 units would be 4 TB."""
    large = keras.Sequential(
        [keras.Input((4,)), layers.RepeatVector(2**18), layers.Flatten(), layers.Dense(3)]
    )
    config = to_config(large)
    config["config"]["layers"][3]["config"]["units"] = 2**20
    with pytest.raises(ArchitectureError, match="parameters"):
        from_config(config)
    assert keras.Variable(np.ones(2)).shape == (2,)  # nothing waits to be filled
    wide = to_config(keras.Sequential([keras.Input((4,)), layers.RepeatVector(3), layers.Flatten()]))
    wide["config"]["layers"][1]["config"]["n"] = 2**30
    with pytest.raises(ArchitectureError, match="values of one example"):
        from_config(wide)
    first, second = keras.Input((4,)), keras.Input((4,))
    shared = layers.RepeatVector(3, name="often")
    twice = to_config(keras.Model([first, second], [shared(first), shared(second)]))
    repeated = next(each for each in twice["config"]["layers"] if each["name"] == "often")
    repeated["config"]["n"] = 2**30
    with pytest.raises(ArchitectureError, match="often makes"):
        from_config(twice)
    operator = to_config(keras.Model(first, keras.ops.tile(first, (1, 3))))
    tiled = next(each for each in operator["config"]["layers"] if each["class_name"] == "Tile")
    tiled["config"]["repeats"] = [1, 2**30]
    with pytest.raises(ArchitectureError, match="values of one example"):
        from_config(operator)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['echo hostile']",
        "!!python/name:os.system",
        "class_name: Sequential\nconfig: !!python/object:keras.Sequential {}",
        "a: &a [*a]",
        "class_name: [",
    ],
)
def test_yaml_is_data(text):
    with pytest.raises((ModelFileError, ArchitectureError)):
        from_yaml(text + "\n")


def test_the_tuples_that_keras_2_wrote_into_yaml_are_lists():
    text = """
backend: tensorflow
class_name: Sequential
keras_version: 2.2.4
config:
  name: old
  layers:
  - class_name: Dense
    config:
      activation: relu
      batch_input_shape: !!python/tuple [null, 6]
      kernel_initializer:
        class_name: VarianceScaling
        config: {distribution: uniform, mode: fan_avg, scale: 1.0, seed: null}
      name: dense_1
      trainable: true
      units: 4
      use_bias: true
"""
    assert [tuple(v.shape) for v in from_yaml(text).weights] == [(6, 4), (4,)]


def test_a_runs_architecture_is_read_as_it_stands(tmp_path):
    model = recurrent()
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps({"format": 1, "keras": to_config(model)}), encoding="utf-8")
    assert to_config(from_json(path)) == to_config(model)
    assert to_config(from_json(str(path))) == to_config(model)
