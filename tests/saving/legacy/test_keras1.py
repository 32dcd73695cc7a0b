"""Files of Keras 1 and of the Theano backend, written here as they were laid out, against NumPy's own arithmetic.

Nothing that runs them can be installed any more. The reference below convolves as Theano did (kernels read backwards),
channels first, one product at a time.
"""

import json

import h5py
import numpy as np
import pytest

from rightfit.errors import ArchitectureError
from rightfit.formats.model_file import opened
from rightfit.saving.architecture import from_config, from_yaml
from rightfit.saving.checked import checked
from rightfit.saving.legacy.convert import convert
from rightfit.saving.legacy.reading import translated
from rightfit.saving.loading import load_model, loaded


@pytest.fixture
def generator():
    return np.random.default_rng(3)


def convolved(x, kernel, bias, stride=1, pad=0, flip=True):
    """x (B, C, H, W), kernel (out, in, h, w) -> (B, out, H', W'): a true convolution, or a correlation."""
    if flip:
        kernel = kernel[:, :, ::-1, ::-1]
    after = pad - (kernel.shape[2] % 2 == 0) if pad else 0
    x = np.pad(x, ((0, 0), (0, 0), (pad, after), (pad, after)))
    _, _, h, w = kernel.shape
    rows, columns = (x.shape[2] - h) // stride + 1, (x.shape[3] - w) // stride + 1
    out = np.empty((len(x), len(kernel), rows, columns))
    for i in range(rows):
        for j in range(columns):
            seen = x[:, :, i * stride : i * stride + h, j * stride : j * stride + w]
            out[:, :, i, j] = np.einsum("bchw,ochw->bo", seen, kernel) + bias
    return out


def pooled(x):
    b, c, h, w = x.shape
    return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(b, c, h // 2, 2, w // 2, 2).max((3, 5))


def written(path, layers, config, version="1.2.2", backend=None):
    """An .h5 as Keras 1 and 2 wrote it: `layers` are (name, [(weight, array), ...]) in their order."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["model_config"] = json.dumps(config).encode()
        if backend:
            file.attrs["backend"] = backend.encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name, _ in layers]
        for name, weights in layers:
            inner = group.create_group(name)
            inner.attrs["weight_names"] = [f"{name}_{weight}".encode() for weight, _ in weights]
            for weight, array in weights:
                inner.create_dataset(f"{name}_{weight}", data=array.astype("float32"))
    return path


def convolution(name, filters, side, border="valid", order="th", stride=1, **more):
    config = {
        "name": name, "trainable": True, "nb_filter": filters, "nb_row": side, "nb_col": side, "init": "glorot_uniform",
        "activation": "relu", "border_mode": border, "subsample": [stride, stride], "dim_ordering": order,
        "W_regularizer": {"name": "WeightRegularizer", "l1": 0.0, "l2": 0.001}, "b_regularizer": None,
        "activity_regularizer": None, "W_constraint": {"name": "MaxNorm", "m": 2, "axis": 0}, "b_constraint": None,
        "bias": True, **more,
    }  # fmt: skip
    return {"class_name": "Convolution2D", "config": config}


def dense(name, units, activation="linear", **more):
    config = {
        "name": name, "trainable": True, "output_dim": units, "init": "uniform", "activation": activation,
        "W_regularizer": None, "b_regularizer": None, "activity_regularizer": None, "W_constraint": None,
        "b_constraint": None, "bias": True, "input_dim": None, **more,
    }  # fmt: skip
    return {"class_name": "Dense", "config": config}


def simple(kind, name, **more):
    return {"class_name": kind, "config": {"name": name, "trainable": True, **more}}


def theano_net(generator, order="th"):
    """conv 'same' - batch norm on axis 1 - pool - conv with stride, even kernel, 'same' - dropout - flatten - dense."""
    shape = [None, 2, 10, 12] if order == "th" else [None, 10, 12, 2]
    pool = {"pool_size": [2, 2], "strides": [2, 2], "border_mode": "valid", "dim_ordering": order}
    config = [
        convolution("convolution2d_1", 3, 3, "same", order, batch_input_shape=shape, input_dtype="float32"),
        simple("BatchNormalization", "batchnormalization_1", mode=0, axis=1 if order == "th" else -1, epsilon=1e-3,
               momentum=0.99, gamma_regularizer=None, beta_regularizer=None),
        simple("MaxPooling2D", "maxpooling2d_1", **pool),
        convolution("convolution2d_2", 4, 2, "same", order, stride=2),
        simple("Dropout", "dropout_1", p=0.5),
        simple("Flatten", "flatten_1"),
        dense("dense_1", 5, "tanh"),
        dense("dense_2", 2),
    ]  # fmt: skip
    draw = lambda *shape: generator.normal(0, 0.5, shape)  # noqa: E731
    w1, b1, w2, b2 = draw(3, 2, 3, 3), draw(3), draw(4, 3, 2, 2), draw(4)
    gamma, beta, mean, variance = draw(3), draw(3), draw(3), np.abs(draw(3)) + 0.5
    rows = 4 * 3 * 3
    d1, e1, d2, e2 = draw(rows, 5), draw(5), draw(5, 2), draw(2)
    kept = (w1, w2) if order == "th" else (w1.transpose(2, 3, 1, 0), w2.transpose(2, 3, 1, 0))
    layers = [
        ("convolution2d_1", [("W", kept[0]), ("b", b1)]),
        (
            "batchnormalization_1",
            [("gamma", gamma), ("beta", beta), ("running_mean", mean), ("running_std", variance)],
        ),
        ("maxpooling2d_1", []),
        ("convolution2d_2", [("W", kept[1]), ("b", b2)]),
        ("dropout_1", []),
        ("flatten_1", []),
        ("dense_1", [("W", d1), ("b", e1)]),
        ("dense_2", [("W", d2), ("b", e2)]),
    ]

    def reference(x, flip):
        """(B, C, H, W) -> (B, 2)."""
        each = lambda v: v[None, :, None, None]  # noqa: E731
        x = np.maximum(convolved(x, w1, b1, pad=1, flip=flip), 0)
        x = (x - each(mean)) / np.sqrt(each(variance) + 1e-3) * each(gamma) + each(beta)
        x = np.maximum(convolved(pooled(x), w2, b2, stride=2, pad=1, flip=flip), 0)
        flat = x if order == "th" else x.transpose(0, 2, 3, 1)
        return np.tanh(flat.reshape(len(x), -1) @ d1 + e1) @ d2 + e2

    return {"class_name": "Sequential", "config": config, "keras_version": "1.2.2"}, layers, reference


@pytest.mark.parametrize("order", ["th", "tf"])
def test_a_net_that_theano_trained_gives_what_theano_gave(generator, tmp_path, order):
    """Kernels flipped, Theano's padding, channels last, and the rows of the Dense after Flatten in their new order."""
    config, layers, reference = theano_net(generator, order)
    path = written(tmp_path / "old.h5", layers, config)
    done = convert(path, tmp_path / "new.keras", backend="theano")
    x = generator.normal(0, 1, (3, 2, 10, 12))
    model = load_model(tmp_path / "new.keras")
    assert model.input_shape == (None, 10, 12, 2)
    assert "channels last" in done.channels if order == "th" else done.channels == ""
    assert done.distance is None and "nothing that is installed" in done.compared
    ours = model.predict_on_batch(x.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(ours, reference(x, flip=True), atol=1e-5)
    permuted = [layer for layer in model.layers if "Permute" in type(layer).__name__]
    assert permuted == []


def test_a_file_of_keras_1_that_tensorflow_trained_is_not_flipped(generator, tmp_path):
    """Here with what both pad alike, and the file does not say which backend: that is named."""
    config, layers, _ = theano_net(generator, "th")
    config["config"][3]["config"] |= {"border_mode": "valid", "subsample": [1, 1]}
    layers[6][1][0] = ("W", generator.normal(0, 0.5, (4 * 4 * 5, 5)))
    path = written(tmp_path / "old.h5", layers, config)
    with opened(path) as file:
        found = loaded(file)
        kernel = found.model.get_layer("convolution2d_1").kernel
        np.testing.assert_allclose(kernel, layers[0][1][0][1].transpose(2, 3, 1, 0), atol=1e-6)
        assert any("--backend theano" in note for note in found.notes)
        assert loaded(file, backend="tensorflow").notes == []


def test_keras_2_on_theano_says_so_and_its_kernels_are_flipped(generator, tmp_path):
    """Keras 2 kept kernels (h, w, in, out) for every backend; its Flatten put channels last where they came first."""
    kernel, bias = generator.normal(0, 1, (3, 3, 2, 4)), generator.normal(0, 1, 4)
    rows, more = generator.normal(0, 1, (4 * 4 * 4, 3)), generator.normal(0, 1, 3)
    config = {
        "class_name": "Sequential",
        "config": {
            "name": "sequential_1",
            "layers": [
                simple("Conv2D", "conv2d_1", filters=4, kernel_size=[3, 3], strides=[1, 1], padding="valid",
                       data_format="channels_first", activation="elu", use_bias=True,
                       batch_input_shape=[None, 2, 6, 6]),
                simple("Flatten", "flatten_1", data_format="channels_first"),
                simple("Dense", "dense_1", units=3, activation="linear", use_bias=True),
            ],
        },
    }  # fmt: skip
    layers = [
        ("conv2d_1", [("kernel:0", kernel), ("bias:0", bias)]),
        ("flatten_1", []),
        ("dense_1", [("kernel:0", rows), ("bias:0", more)]),
    ]
    path = written(tmp_path / "old.h5", layers, config, "2.2.4", "theano")
    x = generator.normal(0, 1, (3, 2, 6, 6))
    y = convolved(x, kernel.transpose(3, 2, 0, 1), bias)
    y = np.where(y > 0, y, np.expm1(y)).transpose(0, 2, 3, 1).reshape(3, -1) @ rows + more
    np.testing.assert_allclose(load_model(path).predict_on_batch(x.transpose(0, 2, 3, 1)), y, atol=1e-4)


def test_layers_that_see_the_axes_get_them_in_their_old_order(generator, tmp_path):
    """A Reshape to (C, H * W) and a softmax over it, channels first; the map goes out channels last."""
    layers = [("c", [("kernel:0", generator.normal(0, 1, (3, 3, 2, 4)))])]
    conv = simple("Conv2D", "c", filters=4, kernel_size=[3, 3], strides=[1, 1], padding="valid", use_bias=False,
                  data_format="channels_first", activation="linear")  # fmt: skip
    config = {
        "class_name": "Model",
        "config": {
            "name": "m",
            "layers": [
                {**simple("InputLayer", "i", batch_input_shape=[None, 2, 6, 7], dtype="float32"), "name": "i",
                 "inbound_nodes": []},
                {**conv, "name": "c", "inbound_nodes": [[["i", 0, 0, {}]]]},
                {**simple("Reshape", "r", target_shape=[4, 20]), "name": "r", "inbound_nodes": [[["c", 0, 0, {}]]]},
                {**simple("Activation", "s", activation="softmax"), "name": "s", "inbound_nodes": [[["c", 0, 0, {}]]]},
                {**simple("Concatenate", "k", axis=1), "name": "k",
                 "inbound_nodes": [[["s", 0, 0, {}], ["c", 0, 0, {}]]]},
            ],
            "input_layers": [["i", 0, 0]],
            "output_layers": [["r", 0, 0], ["k", 0, 0]],
        },
    }  # fmt: skip
    path = written(tmp_path / "old.h5", layers, config, "2.1.6", "tensorflow")
    x = generator.normal(0, 1, (3, 2, 6, 7))
    y = convolved(x, layers[0][1][0][1].transpose(3, 2, 0, 1), 0, flip=False)
    exp = np.exp(y - y.max(-1, keepdims=True))
    joined = np.concatenate([exp / exp.sum(-1, keepdims=True), y], axis=1)
    flat, both = load_model(path, compile=False)(x.transpose(0, 2, 3, 1).astype("float32"))
    np.testing.assert_allclose(flat, y.reshape(3, 4, 20), atol=1e-4)
    np.testing.assert_allclose(both, joined.transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize("then", [None, "Flatten"])
def test_a_softmax_of_a_convolution_keeps_its_axis(generator, tmp_path, then):
    """Over the columns, as Keras 2 computed it channels first; also in a chain, with a layer after it."""
    kernel = generator.normal(0, 1, (3, 3, 2, 4))
    conv = simple("Conv2D", "c", filters=4, kernel_size=[3, 3], strides=[1, 1], padding="valid", use_bias=False,
                  data_format="channels_first", activation="softmax", batch_input_shape=[None, 2, 6, 7])  # fmt: skip
    flat = [simple("Flatten", "f", data_format="channels_last")] if then else []
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [conv, *flat]}}
    path = written(tmp_path / "old.h5", [("c", [("kernel:0", kernel)])], config, "2.2.4", "tensorflow")
    x = generator.normal(0, 1, (3, 2, 6, 7))
    y = convolved(x, kernel.transpose(3, 2, 0, 1), 0, flip=False)
    exp = np.exp(y - y.max(-1, keepdims=True))
    expected = exp / exp.sum(-1, keepdims=True)
    expected = expected.reshape(3, -1) if then else expected.transpose(0, 2, 3, 1)
    found = load_model(path, compile=False)(x.transpose(0, 2, 3, 1).astype("float32"))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_number_that_numpy_wrote_is_a_number(generator, tmp_path):
    layers = [
        dense("d", 3, batch_input_shape=[None, 4]),
        simple("LeakyReLU", "l", alpha={"type": "ndarray", "value": 0.2}),
    ]
    config = {"class_name": "Sequential", "config": layers}
    weights = [("W", generator.normal(0, 1, (4, 3))), ("b", generator.normal(0, 1, 3))]
    path = written(tmp_path / "old.h5", [("d", weights), ("l", [])], config, "2.0.4", "tensorflow")
    assert load_model(path, compile=False).layers[-1].negative_slope == 0.2


def test_a_model_that_needs_larger_images_or_another_device_is_converted_all_the_same(generator, tmp_path):
    """A kernel of 60 pixels over images of any size; and a convolution of channels that come first in 3D."""
    kernel = ("kernel:0", generator.normal(0, 1, (60, 60, 1, 1)))
    conv = simple("Conv2D", "c", filters=1, kernel_size=[60, 60], strides=[1, 1], padding="valid", use_bias=False,
                  data_format="channels_last", batch_input_shape=[None, None, None, 1])  # fmt: skip
    path = written(
        tmp_path / "a.h5", [("c", [kernel])], {"class_name": "Sequential", "config": [conv]}, "2.2.4"
    )
    assert convert(path, tmp_path / "a.keras", compare=False).notes == ()
    kernel = ("kernel:0", generator.normal(0, 1, (2, 2, 2, 1, 1)))
    conv = simple("Conv3D", "c", filters=1, kernel_size=[2, 2, 2], strides=[1, 1, 1], padding="same", use_bias=False,
                  data_format="channels_first", batch_input_shape=[None, 1, 5, 5, 5])  # fmt: skip
    path = written(
        tmp_path / "b.h5", [("c", [kernel])], {"class_name": "Sequential", "config": [conv]}, "2.2.4"
    )
    done = convert(path, tmp_path / "b.keras", compare=False)
    assert done.channels.startswith("channels stay first (c does)")
    np.testing.assert_array_equal(
        load_model(tmp_path / "b.keras").get_weights()[0], kernel[1].astype("float32")
    )


def sigmoid_of_keras_1(x):
    return np.clip(0.2 * x + 0.5, 0, 1)


def test_an_lstm_of_keras_1_has_twelve_arrays_and_a_hard_sigmoid(generator, tmp_path):
    w = {
        f"{k}_{g}": generator.normal(0, 1, {"W": (3, 4), "U": (4, 4), "b": (4,)}[k])
        for g in "icfo"
        for k in "WUb"
    }
    lstm = simple("LSTM", "lstm_1", output_dim=4, init="glorot_uniform", inner_init="orthogonal",
                  forget_bias_init="one", activation="tanh", inner_activation="hard_sigmoid",
                  return_sequences=False, go_backwards=False, stateful=False, unroll=False, consume_less="cpu",
                  input_dim=3, input_length=None, W_regularizer=None,
                  U_regularizer=None, b_regularizer=None, dropout_W=0.0, dropout_U=0.0,
                  batch_input_shape=[None, 6, 3])  # fmt: skip
    order = [f"{k}_{g}" for g in "icfo" for k in "WUb"]
    path = written(
        tmp_path / "old.h5",
        [("lstm_1", [(name, w[name]) for name in order])],
        {"class_name": "Sequential", "config": [lstm]},
    )
    x = generator.normal(0, 1, (2, 6, 3))
    h = c = np.zeros((2, 4))
    for step in range(6):
        gate = {g: x[:, step] @ w[f"W_{g}"] + h @ w[f"U_{g}"] + w[f"b_{g}"] for g in "icfo"}
        i, f, o = (sigmoid_of_keras_1(gate[g]) for g in "ifo")
        c = f * c + i * np.tanh(gate["c"])
        h = o * np.tanh(c)
    np.testing.assert_allclose(load_model(path).predict_on_batch(x.astype("float32")), h, atol=1e-5)


def test_a_chain_that_begins_with_a_merge_of_chains(generator, tmp_path):
    left = {"class_name": "Sequential", "config": [dense("a", 3, "relu", batch_input_shape=[None, 4])]}
    right = {"class_name": "Sequential", "config": [dense("b", 3, "sigmoid", batch_input_shape=[None, 2])]}
    merge = simple("Merge", "merge_1", mode="concat", concat_axis=-1, dot_axes=-1, layers=[left, right])
    w = {name: (generator.normal(0, 1, shape), generator.normal(0, 1, shape[1])) for name, shape in
         {"a": (4, 3), "b": (2, 3), "c": (6, 2)}.items()}  # fmt: skip
    layers = [(name, [("W", kernel), ("b", bias)]) for name, (kernel, bias) in w.items()]
    path = written(
        tmp_path / "old.h5", layers, {"class_name": "Sequential", "config": [merge, dense("c", 2)]}
    )
    x, y = generator.normal(0, 1, (3, 4)), generator.normal(0, 1, (3, 2))
    a = np.maximum(x @ w["a"][0] + w["a"][1], 0)
    b = 1 / (1 + np.exp(-(y @ w["b"][0] + w["b"][1])))
    ours = load_model(path).predict_on_batch([x.astype("float32"), y.astype("float32")])
    np.testing.assert_allclose(ours, np.concatenate([a, b], 1) @ w["c"][0] + w["c"][1], atol=1e-5)


def test_cudnns_layout_of_an_lstm_is_read(generator, tmp_path):
    """cuDNN keeps each gate's kernel transposed and two biases: taken apart here by its own definition."""
    units, size = 4, 3
    gates = {
        g: (generator.normal(0, 1, (size, units)), generator.normal(0, 1, (units, units))) for g in "ifco"
    }
    first, second = generator.normal(0, 1, (4, units)), generator.normal(0, 1, (4, units))
    kernel = np.hstack([gates[g][0].T.reshape(size, units) for g in "ifco"])
    recurrent = np.hstack([gates[g][1].T for g in "ifco"])
    config = simple("CuDNNLSTM", "cu_dnnlstm_1", units=units, return_sequences=False, return_state=False,
                    stateful=False, unit_forget_bias=True, batch_input_shape=[None, 5, size])  # fmt: skip
    arrays = [
        ("kernel:0", kernel),
        ("recurrent_kernel:0", recurrent),
        ("bias:0", np.r_[first.ravel(), second.ravel()]),
    ]
    whole = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
    path = written(tmp_path / "old.h5", [("cu_dnnlstm_1", arrays)], whole, "2.2.4", "tensorflow")
    x = generator.normal(0, 1, (2, 5, size))
    h = c = np.zeros((2, units))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    for step in range(5):
        i, f, g, o = (
            x[:, step] @ gates[name][0] + h @ gates[name][1] + first[k] + second[k]
            for k, name in enumerate("ifco")
        )
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    np.testing.assert_allclose(load_model(path).predict_on_batch(x.astype("float32")), h, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (simple("MaxoutDense", "maxoutdense_1", output_dim=3, nb_feature=2), "MaxoutDense"),
        (simple("Lambda", "lambda_1", function=["4wE", None, None]), "lambda_1 is a Lambda"),
        (simple("BatchNormalization", "bn", mode=2, axis=1), "mode 0"),
        (convolution("c", 3, 3, "full"), "'full'"),
        (simple("LocallyConnected2D", "lc", nb_filter=3), "locally connected"),
        (dense("d", 3, "my_activation"), "my_activation"),
    ],
)
def test_what_is_not_carried_from_keras_1_is_refused_by_name(layer, said):
    first = dense("first", 4, batch_input_shape=[None, 6])
    with pytest.raises(ArchitectureError, match=said):
        from_config({"class_name": "Sequential", "config": [first, layer], "keras_version": "1.1.0"})


def test_a_graph_and_a_class_of_ones_own_are_refused_by_name():
    with pytest.raises(ArchitectureError, match="Graph"):
        from_config({"class_name": "Graph", "config": {}})
    with pytest.raises(ArchitectureError, match="MyNet, a class of its own"):
        from_config({"class_name": "MyNet", "config": {}})
    with pytest.raises(ArchitectureError, match="no model"):
        from_config({"layers": []})


def test_yaml_of_keras_1_is_read():
    text = """
class_name: Sequential
config:
- class_name: Convolution2D
  config: {name: c, nb_filter: 3, nb_row: 3, nb_col: 5, border_mode: valid, subsample: !!python/tuple [2, 1],
           dim_ordering: tf, init: he_normal, batch_input_shape: !!python/tuple [null, 9, 9, 2], activation: relu}
- class_name: AveragePooling2D
  config: {name: p, pool_size: [2, 2], strides: [2, 2], border_mode: valid, dim_ordering: tf}
- class_name: ZeroPadding2D
  config: {name: z, padding: {top_pad: 1, bottom_pad: 0, left_pad: 2, right_pad: 0}, dim_ordering: tf}
- class_name: Flatten
  config: {name: f}
- class_name: Dropout
  config: {name: d, p: 0.25}
keras_version: 1.2.0
"""
    model = from_yaml(text)
    assert model.get_layer("c").kernel.shape == (3, 5, 2, 3)
    assert model.get_layer("z").output.shape == (None, 3, 4, 3)
    assert model.get_layer("d").rate == 0.25


def leaves(node, path=()):
    yield path
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield from leaves(value, (*path, key))


def test_whatever_is_changed_in_an_old_architecture_it_is_translated_or_refused(generator):
    """Junk in any one place; what is translated passes the list that everything passes, or is refused there."""
    config, _, _ = theano_net(generator)
    shared = {
        **dense("d", 3),
        "name": "d",
        "inbound_nodes": [[["i", 0, 0, {"a": ["i", 0, 0]}]], [["d", 0, 0]]],
    }
    first = {**simple("InputLayer", "i", batch_input_shape=[None, 3], input_dtype="float32"), "name": "i",
             "inbound_nodes": []}  # fmt: skip
    graph = {
        "name": "m",
        "layers": [first, shared],
        "input_layers": [["i", 0, 0]],
        "output_layers": [["d", 1, 0]],
    }
    junk = [None, -1, 0, 2.5, "os.system", "", [], {}, [[]], True, {"a": 1}, [None, None], ["i", 0], 10**6]
    refused = 0
    for whole in (config, {"class_name": "Model", "config": graph, "keras_version": "1.2.2"}):
        for path in leaves(whole):
            for value in junk if path else ():
                changed = json.loads(json.dumps(whole))
                *way, last = path
                node = changed
                for key in way:
                    node = node[key]
                node[last] = value
                try:
                    checked(translated(changed, backend="theano").graph.serialized())
                except ArchitectureError:
                    refused += 1
    assert 500 < refused < 3000
