"""Weights of TF-Slim, TensorFlow's official models, Sonnet and TensorLayer: our net computes what theirs does.

TF-Slim's and Sonnet's nets are the libraries' own. The official models and TensorLayer no longer run,
so their nets are written here in plain operations, each line after their source.
"""

import functools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from rightfit.errors import BackendError
from rightfit.nets import resnet
from rightfit.nets.importers import files_tensorflow, official, slim, sonnet, tensorlayer
from rightfit.nets.importers.core import Tensors, WeightsError, checked
from rightfit.nets.variants import VARIANTS

CLASSES = 7
SIZES = ((64, 64), (96, 80))
CLOSE = 1e-4  # of the largest logit


def images(size):
    return np.random.default_rng(size).uniform(0, 255, (2, *size, 3)).astype(np.float32)


def draw(name, shape, generator):
    """Weights as in the middle of a training: no bias zero, no norm the identity."""
    if name.endswith(("gamma", "scale")):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    if "var" in name.rpartition("/")[2] or "moving_variance" in name:
        return generator.uniform(0.5, 2, shape).astype(np.float32)
    if len(shape) in (2, 4) and shape[0] * shape[-2] > 1 and max(shape[:-1]) > 1:
        return generator.normal(0, np.sqrt(1 / np.prod(shape[:-1])), shape).astype(np.float32)
    return generator.normal(0, 0.5, shape).astype(np.float32)


def variables(model):
    return {f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights}


def ours(name, tensors, scheme, size):
    """Logits of our net `name` with `tensors`, for images(size); pixels are normalised inside."""
    model = resnet.build(name, CLASSES, size)
    places = variables(model)
    shapes = {place: tuple(weight.shape) for place, weight in places.items()}
    for place, array in checked(shapes, Tensors(tensors, scheme.IGNORED), scheme.translate, "file").items():
        places[place].assign(array)
    logits = keras.ops.convert_to_numpy(model(images(size), training=False))
    keras.utils.clear_session(free_memory=False)
    return logits


def normalised(name, size):
    row = VARIANTS[name]
    return (images(size) - np.float32(row.mean)) / np.float32(row.deviation)


@functools.cache
def shapes_of(name):
    with keras.StatelessScope():
        model = resnet.build(name, CLASSES, (32, 32))
    return {place: tuple(weight.shape) for place, weight in variables(model).items()}


def assert_same_logits(name, tensors, scheme, theirs):
    """`theirs` is a function from normalised images to logits."""
    assert [other for other in (slim, official, sonnet, tensorlayer) if other.matches(tensors)] == [scheme]
    assert scheme.fits(name)
    for size in SIZES:
        wanted = np.asarray(theirs(normalised(name, size)))
        found = ours(name, tensors, scheme, size)
        assert np.std(wanted, axis=0).max() > 0.01 * np.abs(wanted).max()  # the images are told apart
        error = np.abs(found - wanted).max() / np.abs(wanted).max()
        assert error < CLOSE, f"{name} at {size}: {error:.1e} of the largest logit"


def assert_refused_unless_whole(name, tensors, scheme, others):
    """Four tensors too few or too many, or another net: the first three problems are named."""
    whole = Tensors(tensors, scheme.IGNORED)
    scheme.translate(list(shapes_of(name)), whole)
    needed = sorted(whole.taken)
    lost = needed[:: len(needed) // 4 + 1]
    short = {place: array for place, array in tensors.items() if place not in lost}
    strangers = [f"{place}_strange" for place in lost]
    for found, problem, places in (
        (short, "is missing from the file", lost),
        ({**tensors, **dict.fromkeys(strangers, np.zeros(1))}, "is left over in the file", strangers),
    ):
        with pytest.raises(WeightsError) as refusal:
            checked(shapes_of(name), Tensors(found, scheme.IGNORED), scheme.translate, "file")
        named = [place for place in places if f"{place} {problem}" in str(refusal.value)]
        assert len(named) == 3, refusal.value
        assert "(and " in str(refusal.value)
    for other in others:
        with pytest.raises(WeightsError, match=r"does not fit: .+; .+; .+ \(and \d+ more\)"):
            checked(shapes_of(other), Tensors(tensors, scheme.IGNORED), scheme.translate, "file")


# TF-Slim, from its own package


def slim_net(name):
    """(session, variables by name, images -> logits) of TF-Slim's net, its variables drawn."""
    tf_slim = pytest.importorskip("tf_slim")
    from tensorflow.python.framework import ops
    from tf_slim.nets import resnet_v1, resnet_v2

    module = resnet_v1 if "_v1_" in name else resnet_v2
    # None keeps TF-Slim off a layer class that TensorFlow no longer has; what is computed is the same.
    norm = {"epsilon": 1e-5, "scale": True, "updates_collections": None}
    with pytest.MonkeyPatch.context() as patch, tf.Graph().as_default() as graph:
        patch.setattr(ops, "Tensor", tf.Tensor, raising=False)  # it moved, and TF-Slim did not follow
        x = tf.compat.v1.placeholder(tf.float32, (None, None, None, 3))
        with (
            tf_slim.arg_scope(module.resnet_arg_scope()),
            tf_slim.arg_scope([tf_slim.conv2d], normalizer_params=norm),
            tf_slim.arg_scope([tf_slim.batch_norm], updates_collections=None),
        ):
            logits, _ = getattr(module, name)(x, CLASSES, is_training=False)
        session = tf.compat.v1.Session(graph=graph)
        generator = np.random.default_rng(3)
        made = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
        step = tf.compat.v1.train.create_global_step()
        session.run(
            [step.initializer, *(variable.initializer for variable in made.values())],
            {
                variable.initializer.inputs[1]: draw(place, variable.shape.as_list(), generator)
                for place, variable in made.items()
            },
        )
    return session, {**made, "global_step": step}, lambda pixels: session.run(logits, {x: pixels})[:, 0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize(("version", "other"), (("v1", "v2"), ("v2", "v1")))
def test_tf_slim(version, other, tmp_path):
    session, made, logits = slim_net(f"resnet_{version}_50")
    with session.graph.as_default():
        saver = tf.compat.v1.train.Saver(made)
        path = saver.save(session, str(tmp_path / "model.ckpt"), write_meta_graph=False)
    tensors = files_tensorflow.read(path)
    name = f"resnet50{version}_slim"
    assert_same_logits(name, tensors, slim, logits)
    session.close()
    assert_refused_unless_whole(name, tensors, slim, (f"resnet50{other}_slim",))


def test_tf_slim_s_moving_averages_come_first():
    """TF-Slim evaluates with them where a training kept them."""
    trained, average = np.zeros((7, 7, 3, 64)), np.ones((7, 7, 3, 64))
    tensors = Tensors(
        {"net/conv1/weights": trained, "net/conv1/weights/ExponentialMovingAverage": average,
         "net/block1/unit_1/bottleneck_v1/conv1/weights": np.zeros(1)}, slim.IGNORED
    )  # fmt: skip
    assert slim.translate(["stem_conv/kernel"], tensors)["stem_conv/kernel"] is average
    assert tensors.left_over() == ["net/block1/unit_1/bottleneck_v1/conv1/weights"]


# Sonnet, from its own package


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize("version", ("v1", "v2"))
def test_sonnet(version, tmp_path):
    net = pytest.importorskip("sonnet").nets.ResNet50(CLASSES, resnet_v2=version == "v2")
    net(tf.zeros((1, 64, 64, 3)), is_training=False)
    generator = np.random.default_rng(4)
    for variable in net.variables:
        if variable.dtype == tf.float32:
            variable.assign(draw(variable.name.removesuffix(":0"), variable.shape.as_list(), generator))
    path = tf.train.Checkpoint(module=net, step=tf.Variable(5)).save(str(tmp_path / "sonnet"))
    name = "resnet50_sonnet" if version == "v1" else "resnet50v2_sonnet"
    tensors = files_tensorflow.read(path)
    assert_same_logits(name, tensors, sonnet, lambda pixels: net(tf.constant(pixels), is_training=False))
    other = {"resnet50_sonnet": "resnet50v2_sonnet", "resnet50v2_sonnet": "resnet50_sonnet"}[name]
    assert_refused_unless_whole(name, tensors, sonnet, (other,))


# TensorFlow's official models, in plain operations


class Variables(dict):
    """name -> tf.Variable; one that is asked for and not there is drawn."""

    def __init__(self):
        super().__init__()
        self.generator = np.random.default_rng(5)

    def get(self, name, shape):
        if name not in self:
            self[name] = tf.Variable(draw(name, shape, self.generator))
        return self[name]


class OfficialNet:
    """resnet_model.Model of tensorflow/models, official/r1: its layers take their numbers as they are made."""

    def __init__(self, depth, version):
        bottleneck = depth >= 50
        self.block = getattr(self, f"{'bottleneck' if bottleneck else 'basic'}_v{version}")
        self.version, self.expansion = version, 4 if bottleneck else 1
        self.depths = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
        self.variables = Variables()

    def __call__(self, x):
        self.made = {"conv2d": 0, "batch_normalization": 0}
        x = self.conv(x, 64, 7, 2)
        if self.version == 1:
            x = self.norm_relu(x)
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stage, depth in enumerate(self.depths):
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                x = self.block(x, 64 * 2**stage, stride, project=index == 0)
        if self.version == 2:
            x = self.norm_relu(x)
        x = tf.reduce_mean(x, [1, 2])
        kernel = self.variables.get("resnet_model/dense/kernel", (x.shape[-1], CLASSES))
        return x @ kernel + self.variables.get("resnet_model/dense/bias", (CLASSES,))

    def basic_v1(self, x, width, stride, project):
        shortcut = self.norm(self.conv(x, width, 1, stride)) if project else x
        y = self.norm_relu(self.conv(x, width, 3, stride))
        return tf.nn.relu(self.norm(self.conv(y, width, 3, 1)) + shortcut)

    def basic_v2(self, x, width, stride, project):
        a = self.norm_relu(x)
        shortcut = self.conv(a, width, 1, stride) if project else x
        y = self.norm_relu(self.conv(a, width, 3, stride))
        return self.conv(y, width, 3, 1) + shortcut

    def bottleneck_v1(self, x, width, stride, project):
        shortcut = self.norm(self.conv(x, 4 * width, 1, stride)) if project else x
        y = self.norm_relu(self.conv(x, width, 1, 1))
        y = self.norm_relu(self.conv(y, width, 3, stride))
        return tf.nn.relu(self.norm(self.conv(y, 4 * width, 1, 1)) + shortcut)

    def bottleneck_v2(self, x, width, stride, project):
        a = self.norm_relu(x)
        shortcut = self.conv(a, 4 * width, 1, stride) if project else x
        y = self.norm_relu(self.conv(a, width, 1, 1))
        y = self.norm_relu(self.conv(y, width, 3, stride))
        return self.conv(y, 4 * width, 1, 1) + shortcut

    def conv(self, x, channels, kernel, stride):
        before, after = (kernel - 1) // 2, kernel - 1 - (kernel - 1) // 2
        if stride > 1:
            x = tf.pad(x, [[0, 0], [before, after], [before, after], [0, 0]])
        weights = self.variables.get(f"{self.next('conv2d')}/kernel", (kernel, kernel, x.shape[-1], channels))
        return tf.nn.conv2d(x, weights, stride, "SAME" if stride == 1 else "VALID")

    def norm(self, x):
        place = self.next("batch_normalization")
        parts = ("moving_mean", "moving_variance", "beta", "gamma")
        return tf.nn.batch_normalization(
            x, *(self.variables.get(f"{place}/{part}", x.shape[-1:]) for part in parts), 1e-5
        )

    def norm_relu(self, x):
        return tf.nn.relu(self.norm(x))

    def next(self, kind):
        number, self.made[kind] = self.made[kind], self.made[kind] + 1
        return f"resnet_model/{kind}_{number}" if number else f"resnet_model/{kind}"


def save_like_an_estimator(variables, path):
    kernel = "resnet_model/conv2d/kernel"
    slots = {f"{kernel}/Momentum": tf.Variable(variables[kernel])}
    everything = {**variables, **slots, "global_step": tf.Variable(9, dtype=tf.int64)}
    saver = tf.compat.v1.train.Saver(everything)
    return saver.save(None, str(path), global_step=9, write_meta_graph=False)


@pytest.mark.parametrize(("depth", "version"), ((18, 1), (18, 2), (50, 1), (50, 2)))
def test_official(depth, version, tmp_path):
    net = OfficialNet(depth, version)
    net(tf.zeros((1, 64, 64, 3)))
    tensors = files_tensorflow.read(save_like_an_estimator(net.variables, tmp_path / "model.ckpt"))
    mine, other = ("", "v2") if version == 1 else ("v2", "")
    assert_same_logits(f"resnet{depth}{mine}_official", tensors, official, net)
    others = (f"resnet{depth}{other}_official", f"resnet34{mine}_official")
    assert_refused_unless_whole(f"resnet{depth}{mine}_official", tensors, official, others)


# TensorLayer, in plain operations


class TensorLayerNet:
    """ResNet50 of tensorlayer/models/resnet.py; its images are BGR."""

    def __init__(self):
        self.variables = Variables()

    def __call__(self, rgb):
        x = self.norm_relu(self.conv(rgb[..., ::-1], 64, 7, 2, "conv1"), "bn_conv1")
        x = tf.nn.max_pool2d(x, 3, 2, "SAME")
        for stage, depth in ((2, 3), (3, 4), (4, 6), (5, 3)):
            for block in "abcdef"[:depth]:
                x = self.block(
                    x, 16 * 2**stage, 2 if block == "a" and stage > 2 else 1, f"{stage}{block}", block == "a"
                )
        x = tf.reduce_mean(x, [1, 2])
        kernel = self.variables.get("fc1000/weights:0", (2048, CLASSES))
        return x @ kernel + self.variables.get("fc1000/biases:0", (CLASSES,))

    def block(self, x, width, stride, place, project):
        shortcut = x
        if project:
            shortcut = self.conv(x, 4 * width, 1, stride, f"res{place}_branch1")
        y = self.conv(x, width, 1, stride, f"res{place}_branch2a")
        if project:
            shortcut = self.norm(shortcut, f"bn{place}_branch1")
        y = self.norm_relu(y, f"bn{place}_branch2a")
        y = self.norm_relu(self.conv(y, width, 3, 1, f"res{place}_branch2b"), f"bn{place}_branch2b")
        y = self.norm(self.conv(y, 4 * width, 1, 1, f"res{place}_branch2c"), f"bn{place}_branch2c")
        return tf.nn.relu(y + shortcut)

    def conv(self, x, channels, kernel, stride, name):
        weights = self.variables.get(f"{name}/filters:0", (kernel, kernel, x.shape[-1], channels))
        biases = self.variables.get(f"{name}/biases:0", (channels,))
        return tf.nn.conv2d(x, weights, stride, "SAME") + biases

    def norm(self, x, name):
        beta, gamma, mean, variance = (
            self.variables.get(f"{name}/{part}:0", x.shape[-1:])
            for part in ("beta", "gamma", "moving_mean", "moving_var")
        )
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)

    def norm_relu(self, x, name):
        return tf.nn.relu(self.norm(x, name))


@pytest.fixture(scope="module")
def tensorlayer_net():
    net = TensorLayerNet()
    net(tf.zeros((1, 64, 64, 3)))
    return net


def test_tensorlayer(tensorlayer_net, tmp_path):
    arrays = {name: variable.numpy() for name, variable in tensorlayer_net.variables.items()}
    np.savez(tmp_path / "named.npz", **arrays)  # save_weights(path, format="npz_dict")
    tensors = files_tensorflow.read_npz(tmp_path / "named.npz")
    assert_same_logits("resnet50v1_tensorlayer", tensors, tensorlayer, tensorlayer_net)
    assert_refused_unless_whole("resnet50v1_tensorlayer", tensors, tensorlayer, ("resnet18",))


def test_tensorlayer_without_names_is_the_same(tensorlayer_net, tmp_path):
    """The net above makes its variables in the order that TensorLayer's graph walk saves them in."""
    arrays = {name: variable.numpy() for name, variable in tensorlayer_net.variables.items()}
    np.savez(tmp_path / "listed.npz", *arrays.values())
    listed = files_tensorflow.read_npz(tmp_path / "listed.npz")
    assert tensorlayer.matches(listed)
    names = list(shapes_of("resnet50v1_tensorlayer"))
    by_name = tensorlayer.translate(names, Tensors(arrays))
    by_place = Tensors(listed)
    for name, array in tensorlayer.translate(names, by_place).items():
        np.testing.assert_array_equal(array, by_name[name], err_msg=name)
    assert by_place.left_over() == []
    assert len(by_name) == len(names)


def test_a_pickled_list_is_refused(tmp_path):
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros(3), np.zeros((2, 2))]
    np.savez(tmp_path / "model.npz", params=ragged)  # as TensorLayer's save_npz does
    with pytest.raises(WeightsError, match=r"params is pickled.*npz_dict"):
        files_tensorflow.read_npz(tmp_path / "model.npz")


# Files


def save(path, version):
    saver = tf.compat.v1.train.Saver(
        {"a/b": tf.Variable([1.0, 2.0]), "step": tf.Variable(3)}, write_version=version
    )
    return saver.save(None, str(path), write_meta_graph=False)


@pytest.mark.parametrize(
    ("version", "names"),
    ((1, ("", "model.ckpt")), (2, ("", "model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"))),
)
def test_checkpoints_are_read_by_any_of_their_names(version, names, tmp_path):
    save(tmp_path / "model.ckpt", version)
    for name in names:
        assert files_tensorflow.is_checkpoint(tmp_path / name), name
        tensors = files_tensorflow.read(tmp_path / name)
        assert sorted(tensors) == ["a/b", "step"]
        np.testing.assert_array_equal(tensors["a/b"], np.float32([1, 2]))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text").write_text("no weights in here")
    for place in (tmp_path, tmp_path / "text", tmp_path / "nothing"):
        assert not files_tensorflow.is_checkpoint(place)
        with pytest.raises(WeightsError, match="checkpoint"):
            files_tensorflow.read(place)
    save(tmp_path / "model.ckpt", 2)
    (tmp_path / "model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(WeightsError, match=r"all \.data-"):
        files_tensorflow.read(tmp_path / "model.ckpt.index")


def test_without_tensorflow_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(BackendError, match="pip install"):
        files_tensorflow.read(tmp_path / "model.ckpt")


def test_a_damaged_archive_is_refused(tmp_path):
    np.savez(tmp_path / "model.npz", a=np.zeros(1000))
    whole = (tmp_path / "model.npz").read_bytes()
    for damaged in (b"", whole[:200], whole[:-30], whole.replace(b"NUMPY", b"MUMPY")):
        (tmp_path / "model.npz").write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"model\.npz"):
            files_tensorflow.read_npz(tmp_path / "model.npz")
