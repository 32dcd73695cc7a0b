"""Weights of keras.applications and KerasHub give our nets their logits, or are refused and say why."""

from __future__ import annotations

import json
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest

from rightfit.nets import resnet
from rightfit.nets.importers import keras_applications, keras_hub
from rightfit.nets.importers.core import Tensors, WeightsError, checked
from rightfit.nets.importers.files_keras import read

OUTPUTS = 7
SIZES = ((64, 64), (96, 80))
CLOSE = 1e-4  # of the largest logit


def scatter(model, seed=0):
    """Random weights with random biases and batch statistics, so that nothing is one or zero by luck."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.dtype != "float32" or "seed_generator" in variable.path:
            continue
        shape, kind = variable.shape, variable.path.rpartition("/")[2]
        if kind == "kernel":
            value = generator.normal(0, np.sqrt(1.5 / np.prod(shape[:-1])), shape)
        elif kind in ("gamma", "moving_variance"):
            value = generator.uniform(0.5, 1.5, shape)
        else:
            value = generator.normal(0, 0.3, shape)
        variable.assign(value.astype("float32"))
    return model


def imported(path, name, module, head=True):
    """Our net called `name` for each of SIZES, with the weights of the file."""
    tensors = read(path)
    assert module.matches(tensors) and module.fits(name)
    models = [resnet.build(name, OUTPUTS, size) for size in SIZES]
    shapes = {variable.path: tuple(variable.shape) for variable in models[0].variables}
    weights = checked(shapes, Tensors(tensors, module.IGNORED), module.translate, str(path), head=head)
    assert set(shapes) - set(weights) == (set() if head else {"logits/kernel", "logits/bias"})
    for model in models:
        for variable in model.variables:
            if variable.path in weights:
                variable.assign(weights[variable.path])
    return models


def images(size):
    return np.random.default_rng(size[0]).uniform(0, 255, (2, *size, 3)).astype("float32")


def distance(ours, theirs):
    """The largest difference of two arrays of logits, as a share of the largest logit."""
    ours, theirs = (keras.ops.convert_to_numpy(logits) for logits in (ours, theirs))
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def applications(kind, size=SIZES[0], top=True):
    options = {"classes": OUTPUTS, "classifier_activation": None} if top else {}
    return getattr(keras.applications, kind)(top, weights=None, input_shape=(*size, 3), **options)


def preprocessed(kind, pixels):
    module = keras.applications.resnet_v2 if kind.endswith("V2") else keras.applications.resnet
    return module.preprocess_input(pixels.copy())


KINDS = {"ResNet50": "resnet50v1", "ResNet50V2": "resnet50v2_keras"}


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    """A net of keras.applications saved in every way; its kind, our name for it, the folder and its logits."""
    folder = tmp_path_factory.mktemp(request.param)
    net = scatter(applications(request.param))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns that .h5 is old, and that a net is not compiled
        net.save(folder / "whole.h5", include_optimizer=False)
        net.save(folder / "whole.keras")
    net.save_weights(folder / "named.weights.h5")
    wide = applications(request.param, SIZES[1])
    wide.set_weights(net.get_weights())
    nets = zip((net, wide), SIZES, strict=True)
    logits = [model(preprocessed(request.param, images(size)), training=False) for model, size in nets]
    return request.param, KINDS[request.param], folder, logits


def test_keras_applications_gives_its_logits(saved):
    _, name, folder, logits = saved
    for model, size, theirs in zip(
        imported(folder / "whole.h5", name, keras_applications), SIZES, logits, strict=True
    ):
        assert distance(model(images(size), training=False), theirs) < CLOSE


def unnamed(source, to):
    """A copy as older versions of Keras 3 wrote it, which kept no layer's name."""
    to.write_bytes(source.read_bytes())
    with h5py.File(to, "r+") as file:
        file.visititems(lambda place, item: item.attrs.pop("name", None) and None)
    return to


def archived(weights, config, to, more=()):
    with zipfile.ZipFile(to, "w") as archive:
        for name, content in (("config.json", config), ("model.weights.h5", weights), *more):
            archive.writestr(name, content)
    return to


def published(whole, to, style):
    """Weights alone, as Keras 2 spelled them, the attributes cut in pieces as it cuts long ones."""
    with h5py.File(whole) as file, h5py.File(to, "w") as copy:
        source = file["model_weights"]
        layers = list(source.attrs["layer_names"])
        half = len(layers) // 2
        copy.attrs["layer_names0"] = [layer.encode() for layer in layers[:half]]
        copy.attrs["layer_names1"] = [layer.encode() for layer in layers[half:]]
        for layer in layers:
            group = copy.create_group(layer)
            names = [
                style.format(layer, name.rpartition("/")[2]) for name in source[layer].attrs["weight_names"]
            ]
            group.attrs["weight_names"] = np.array(names, dtype="S")
            for name, theirs in zip(names, source[layer].attrs["weight_names"], strict=True):
                group[name] = source[layer][theirs][()]
    return to


def test_every_kind_of_file_holds_the_same_tensors(saved, tmp_path):
    kind, name, folder, _ = saved
    expected = read(folder / "whole.h5")
    assert "conv1_conv/kernel" in expected and "predictions/bias" in expected
    with zipfile.ZipFile(folder / "whole.keras") as archive:
        config = archive.read("config.json")
    bare = unnamed(folder / "named.weights.h5", tmp_path / "bare.weights.h5")
    for path in (
        folder / "whole.keras",
        folder / "named.weights.h5",
        archived(bare.read_bytes(), config, tmp_path / "bare.keras"),
        published(folder / "whole.h5", tmp_path / "a.h5", "{0}/{1}:0"),
        published(folder / "whole.h5", tmp_path / "b.h5", "{0}/{0}/{1}:0"),
        published(folder / "whole.h5", tmp_path / "c.h5", "{1}"),
    ):
        same(read(path), expected)
    shapes = {v.path: tuple(v.shape) for v in resnet.build(name, OUTPUTS, (32, 32)).variables}
    translated = [
        checked(shapes, Tensors(read(path)), keras_applications.translate, kind)
        for path in (folder / "whole.h5", bare)  # in `bare` only the order of layers tells which is which
    ]
    same(*translated)


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("kind", ["ResNet101", "ResNet101V2"])
def test_deeper_nets_fit(kind):
    name = kind.lower() + ("_keras" if kind.endswith("V2") else "v1")
    with keras.StatelessScope():  # shapes only
        theirs, ours = applications(kind), resnet._assemble(name, OUTPUTS, (32, 32))
    tensors = {variable.path: np.zeros(variable.shape, "float32") for variable in theirs.variables}
    shapes = {variable.path: tuple(variable.shape) for variable in ours.variables}
    assert keras_applications.matches(tensors) and keras_applications.fits(name)
    assert set(checked(shapes, Tensors(tensors), keras_applications.translate, kind)) == set(shapes)
    same_order(keras_applications.layers(shapes, preact=kind.endswith("V2")), theirs)


def same_order(table, net):
    """Ours, by class, is the order in which the net's layers stand and are numbered in files without names."""
    order = [layer.name for layer in net.layers if layer.weights]
    for part in ("conv", "bn"):
        assert [name for name in table.values() if name.endswith(part)] == [
            n for n in order if n.endswith(part)
        ]


def test_a_file_without_a_head_gives_all_but_the_head(tmp_path):
    net = scatter(applications("ResNet50", top=False))
    net.save_weights(tmp_path / "headless.weights.h5")
    ours = imported(tmp_path / "headless.weights.h5", "resnet50v1", keras_applications, head=False)[0]
    features = keras.Model(ours.input, ours.get_layer("stage4_block3_relu3").output)
    theirs = net(preprocessed("ResNet50", images((64, 64))), training=False)
    assert distance(features(images((64, 64))), theirs) < CLOSE
    with pytest.raises(WeightsError, match="predictions/kernel is missing"):
        imported(tmp_path / "headless.weights.h5", "resnet50v1", keras_applications)


def test_weights_of_another_depth_are_refused(saved):
    _, name, folder, _ = saved
    with keras.StatelessScope():
        deeper = resnet._assemble(name.replace("50", "101"), OUTPUTS, (32, 32))
    shapes = {variable.path: tuple(variable.shape) for variable in deeper.variables}
    with pytest.raises(WeightsError, match=r"conv4_block7_.* is missing from the file; .*more\)"):
        checked(shapes, Tensors(read(folder / "whole.h5")), keras_applications.translate, "whole.h5")


HUB = {
    "resnet18": ([64], [7], [2, 2, 2, 2], "basic_block", False),
    "resnet50": ([64], [7], [3, 4, 6, 3], "bottleneck_block", False),
    "resnet18v2": ([64], [7], [2, 2, 2, 2], "basic_block", True),
    "resnet50v2_timm": ([64], [7], [3, 4, 6, 3], "bottleneck_block", True),
    "resnet18d_paddle": ([32, 32, 64], [3, 3, 3], [2, 2, 2, 2], "basic_block_vd", False),
    "resnet50d": ([32, 32, 64], [3, 3, 3], [3, 4, 6, 3], "bottleneck_block_vd", False),
    "resnet200d_paddle": ([32, 32, 64], [3, 3, 3], [3, 12, 48, 3], "bottleneck_block_vd", False),
}


def hub_net(name, head=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its tokenizers, which nothing here uses
        models = pytest.importorskip("keras_hub", exc_type=ImportError).models
    filters, kernels, depths, block, preact = HUB[name]
    backbone = models.ResNetBackbone(
        filters, kernels, [64, 128, 256, 512], depths, [1, 2, 2, 2], block, use_pre_activation=preact
    )
    return models.ResNetImageClassifier(backbone, num_classes=OUTPUTS) if head else backbone


@pytest.mark.parametrize("name", [name for name in HUB if "200" not in name])
def test_keras_hub_gives_its_logits(name, tmp_path):
    net = scatter(hub_net(name))
    net.save_weights(tmp_path / "hub.weights.h5")
    ours = imported(tmp_path / "hub.weights.h5", name, keras_hub)
    same_order(keras_hub.layers(variable.path for variable in ours[0].variables), net.backbone)
    mean, deviation = ([127.5] * 3, [127.5] * 3) if name.endswith("timm") else (
        np.multiply([0.485, 0.456, 0.406], 255), np.multiply([0.229, 0.224, 0.225], 255)
    )  # fmt: skip
    for model, size in zip(ours, SIZES, strict=True):
        pixels = ((images(size) - mean) / deviation).astype("float32")
        assert distance(model(images(size), training=False), net(pixels, training=False)) < CLOSE


def test_keras_hub_files_without_names_go_by_order(tmp_path):
    net = scatter(hub_net("resnet18v2"))
    net.save_weights(tmp_path / "named.weights.h5")
    net.save(tmp_path / "whole.keras")
    named = read(tmp_path / "named.weights.h5")
    same(read(tmp_path / "whole.keras"), named)
    bare = read(unnamed(tmp_path / "named.weights.h5", tmp_path / "bare.weights.h5"))
    assert keras_hub.matches(bare) and not keras_applications.matches(bare)
    shapes = {v.path: tuple(v.shape) for v in resnet.build("resnet18v2", OUTPUTS, (32, 32)).variables}
    same(*(checked(shapes, Tensors(tensors), keras_hub.translate, "") for tensors in (bare, named)))


def test_the_deepest_net_of_keras_hub_fits():
    name = "resnet200d_paddle"
    with keras.StatelessScope():
        theirs, ours = hub_net(name, head=False), resnet._assemble(name, OUTPUTS, (32, 32))
    tensors = {v.path: np.zeros(v.shape, "float32") for v in theirs.variables}
    shapes = {v.path: tuple(v.shape) for v in ours.variables}
    weights = checked(shapes, Tensors(tensors), keras_hub.translate, "", head=False)
    assert set(shapes) - set(weights) == {"logits/kernel", "logits/bias"}


def test_bfloat16_and_half_are_read_as_float32(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, dtype="bfloat16", name="d")])
    value = np.arange(6, dtype="float32").reshape(2, 3) / 4
    model.layers[0].kernel.assign(value)
    model.save_weights(tmp_path / "b.weights.h5")
    tensors = read(tmp_path / "b.weights.h5")
    np.testing.assert_array_equal(tensors["d/kernel"], value)
    assert tensors["d/kernel"].dtype == np.float32


def small(path, inside="layers/conv2d/vars"):
    with h5py.File(path, "w") as file:
        file[f"{inside}/0"] = np.ones((1, 1, 2, 2), "float32")
    return path


def hostile_external_link(path):
    secret = small(path.with_name("secret.h5"))
    with h5py.File(path, "a") as file:
        file["layers/conv2d/vars/1"] = h5py.ExternalLink(secret.name, "/layers/conv2d/vars/0")


def hostile_soft_link(path):
    with h5py.File(path, "a") as file:
        file["layers/conv2d/vars/1"] = h5py.SoftLink("/layers/conv2d/vars/0")


def hostile_external_dataset(path):
    (path.parent / "raw").write_bytes(bytes(64))
    with h5py.File(path, "a") as file:
        external = [(str(path.parent / "raw"), 0, 64)]
        file.create_dataset("layers/conv2d/vars/1", (16,), "float32", external=external)


def hostile_virtual_dataset(path):
    layout = h5py.VirtualLayout((1, 1, 2, 2), "float32")
    layout[...] = h5py.VirtualSource(
        str(small(path.with_name("secret.h5"))), "layers/conv2d/vars/0", (1, 1, 2, 2)
    )
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("layers/conv2d/vars/1", layout)


def hostile_circle(path):
    with h5py.File(path, "a") as file:
        file["layers/conv2d/again"] = file["layers"]


def hostile_size(path):
    with h5py.File(path, "a") as file:  # 8 GB of zeros, of which the file stores none
        file.create_dataset("layers/conv2d/vars/1", (2**31,), "float32", chunks=(2**20,))


def hostile_text(path):
    with h5py.File(path, "a") as file:
        file["layers/conv2d/vars/1"] = "text"


def hostile_truncation(path):
    path.write_bytes(path.read_bytes()[:-100])


HOSTILE = {
    hostile_external_link: "conv2d/vars/1 is a link elsewhere",
    hostile_soft_link: "conv2d/vars/1 is a link elsewhere",
    hostile_external_dataset: "conv2d/vars/1 keeps its numbers elsewhere",
    hostile_virtual_dataset: "conv2d/vars/1 keeps its numbers elsewhere",
    hostile_circle: "occurs twice",
    hostile_size: "declares 8,589,934,592 bytes",
    hostile_text: "conv2d/vars/1 holds no numbers",
    hostile_truncation: "damaged",
}


@pytest.mark.parametrize("change", HOSTILE)
@pytest.mark.parametrize("zipped", [False, True], ids=["bare", "archive"])
def test_hostile_hdf5_is_refused(change, zipped, tmp_path):
    path = small(tmp_path / "x.weights.h5")
    assert set(read(path)) == {"conv2d/kernel"}
    change(path)
    if zipped:
        path = archived(path.read_bytes(), "{}", tmp_path / "x.keras")
    with pytest.raises(WeightsError, match=HOSTILE[change]):
        read(path)


@pytest.mark.parametrize(
    "name", ["../x.py", "/etc/x", "assets/../../x", "assets\\..\\x", "evil.py", "config.json"]
)
def test_archives_with_other_members_are_refused(name, tmp_path):
    weights = small(tmp_path / "x.weights.h5").read_bytes()
    assert set(read(archived(weights, "{}", tmp_path / "good.keras", [("metadata.json", "{}")]))) == {
        "conv2d/kernel"
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile, of a name that is there already
        path = archived(weights, "{}", tmp_path / "bad.keras", [(name, "")])
    with pytest.raises(WeightsError, match="not to be trusted"):
        read(path)


@pytest.mark.parametrize(
    "config", ["{", "[" * 100_000, '{"config": {"layers": [3]}}', '{"config": {"layers": [{}]}}']
)
def test_a_broken_configuration_is_refused(config, tmp_path):
    weights = small(tmp_path / "x.weights.h5").read_bytes()
    with pytest.raises(WeightsError):
        read(archived(weights, config, tmp_path / "bad.keras"))


def test_layers_named_twice_and_files_without_layers_are_refused(tmp_path):
    path = small(tmp_path / "twice.weights.h5")
    small(tmp_path / "other.weights.h5", "layers/functional/layers/conv2d/vars")
    with h5py.File(path, "a") as file, h5py.File(tmp_path / "other.weights.h5") as other:
        other.copy("layers/functional", file["layers"])
    with pytest.raises(WeightsError, match="two tensors are called conv2d/kernel"):
        read(path)
    with pytest.raises(WeightsError, match="holds no weights"):
        read(small(tmp_path / "optimizer.h5", "optimizer/vars"))


def test_a_nested_model_is_named_by_its_own_configuration(tmp_path):
    weights = small(tmp_path / "x.weights.h5", "layers/functional/layers/conv2d/vars").read_bytes()
    conv = {"class_name": "Conv2D", "config": {"name": "conv1_conv"}}
    inner = {"class_name": "Functional", "config": {"name": "net", "layers": [conv]}}
    config = json.dumps({"config": {"layers": [inner]}})
    assert set(read(archived(weights, config, tmp_path / "x.keras"))) == {"conv1_conv/kernel"}
