"""`keras:NAME` computes what keras.applications does, is always the same net, and takes its weights."""

import hashlib
import http.server
import json
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import rightfit
from rightfit.errors import UsageError
from rightfit.nets import catalogue, keras_models, pretrained
from rightfit.nets.importers.core import WeightsError
from rightfit.nets.layers import fused, stock
from rightfit.nets.variants import DEVIATION, MEAN
from rightfit.saving.architecture import from_config, to_config
from rightfit.saving.bundle import load_weights, save_weights

SIZES = ((32, 48), (64, 32))
# one for each way in which the families treat pixels; ConvNeXt's layers are the same for every size
NETS = {"MobileNetV2": SIZES, "VGG16": SIZES, "ConvNeXtTiny": SIZES[:1]}


def scattered(model, seed=0):
    """The same model with random weights, biases, scales, offsets and batch statistics, through which images show."""
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.Sequential):
            scattered(layer, seed)
        for variable in () if isinstance(layer, keras.Model) else layer.weights:
            value = keras.ops.convert_to_numpy(variable)
            if "float" in value.dtype.name and value.ndim < 2 and not layer.name.startswith("normalization"):
                variable.assign(value + generator.uniform(0, 0.3, value.shape))
            if value.ndim == 4:
                rows, columns, channels, _ = value.shape
                inputs = rows * columns * (1 if isinstance(layer, keras.layers.DepthwiseConv2D) else channels)
                variable.assign(generator.normal(0, np.sqrt(2.0 / inputs), value.shape))
    return model


def application(name, size=None, **settings):
    shape = {"input_shape": (*size, 3)} if size else {}
    settings = {"include_top": False, "pooling": "avg", "weights": None} | settings
    return scattered(keras_models.constructor(f"keras:{name}")(**shape, **settings))


def features_of(model):
    return keras.Model(model.input, model.get_layer("logits").input)


def images(size, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (3, *size, 3)).astype("float32")


def same_features(ours, theirs, name, size):
    """`ours` on pixels gives what `theirs` does on preprocessed pixels, and not the same for every image."""
    preprocess = sys.modules[keras_models.constructor(f"keras:{name}").__module__].preprocess_input
    expected = np.asarray(theirs(preprocess(images(size)), training=False))
    found = np.asarray(ours(images(size), training=False))
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * scale)
    assert np.ptp(expected, axis=0).max() > 1e-3 * scale


def assign(model, weights):
    variables = {f"{layer.name}/{v.name}": v for layer in model.layers for v in layer.weights}
    for name, value in weights.items():
        variables[name].assign(value)
    return set(variables) - set(weights)


@pytest.fixture(scope="module", params=NETS)
def pair(request, tmp_path_factory):
    """(name, file of weights by keras.applications, its net for each size, ours)."""
    name = request.param
    theirs = [application(name, size) for size in NETS[name]]
    path = tmp_path_factory.mktemp(name) / "notop.h5"
    theirs[0].save(path)
    return name, path, theirs, [catalogue.build(f"keras:{name}", 2, size, seed=3) for size in NETS[name]]


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
def test_features_are_those_of_keras_applications_at_two_sizes(pair):
    """Through a weights file of Keras' own, by stock layers and by the backend's kernels."""
    name, path, theirs, ours = pair
    source, weights = catalogue.bring(path, f"keras:{name}", 2, SIZES[0])
    assert source == "keras.applications"
    for size, their_net, our_net in zip(NETS[name], theirs, ours, strict=True):
        assert assign(our_net, weights) == {"logits/kernel", "logits/bias"}
        body = features_of(our_net)
        same_features(body, their_net, name, size)
        same_features(fused(body), their_net, name, size)


def test_pixels_are_scaled_as_each_module_does():
    for name, make in keras_models.classifiers().items():
        pixels, turned = keras_models.preprocessing(f"keras:{name}")
        expected = sys.modules[make.__module__].preprocess_input(images((4, 5)))
        found = images((4, 5)) * pixels.scale + pixels.offset
        np.testing.assert_allclose(found[..., ::-1] if turned else found, expected, rtol=0, atol=1e-4)
    turned = {name for name in keras_models.classifiers() if keras_models.preprocessing(f"keras:{name}")[1]}
    assert turned == {"ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19"}


def test_layer_names_do_not_depend_on_what_was_built_before(small):
    """Keras draws dozens of names of this net from its counters."""
    first, second = (catalogue.build("keras:MobileNetV3Small", 2, (32, 32)) for _ in range(2))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert {"image", "normalise", "activation", "activation_17", "pool", "logits"} <= {
        x.name for x in first.layers
    }


def test_what_is_saved_is_on_the_closed_list_and_comes_back(pair):
    model = pair[-1][0]
    again = from_config(to_config(stock(fused(model, "bfloat16"))))
    assert [type(layer).__module__.partition(".")[0] for layer in again.layers] == ["keras"] * len(
        again.layers
    )
    again.set_weights(model.get_weights())
    expected = np.asarray(model(images(SIZES[0]), training=False))
    np.testing.assert_allclose(
        np.asarray(again(images(SIZES[0]), training=False)),
        expected,
        rtol=0,
        atol=1e-5 * np.abs(expected).max(),
    )


def test_the_first_weights_come_from_the_seed_alone():
    """Not from Keras' own generators, which differ between backends; dropouts have seeds of their own."""
    nets = []
    for global_seed, seed in ((1, 7), (2, 7), (2, 8)):
        keras.utils.set_random_seed(global_seed)
        nets.append(catalogue.build("keras:EfficientNetB0", 2, (32, 32), seed))
    same, again, other = (net.get_weights() for net in nets)
    for a, b in zip(same, again, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [(a, c) for a, c in zip(same, other, strict=True) if a.ndim > 1]
    assert len(kernels) == 82 and not any(np.array_equal(a, c) for a, c in kernels)
    seeds = [[layer.seed for layer in net.layers if isinstance(layer, keras.layers.Dropout)] for net in nets]
    assert seeds[0] == seeds[1] and len(set(seeds[0])) == len(seeds[0]) == 9


def test_separable_and_depthwise_kernels_are_drawn_by_coordinates():
    keras.utils.set_random_seed(1)
    first = catalogue.build("keras:Xception", 2, (71, 71), 0)
    keras.utils.set_random_seed(2)
    for a, b in zip(
        first.get_weights(), catalogue.build("keras:Xception", 2, (71, 71), 0).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["resnet20", "keras:VGG16"])
def test_a_net_has_its_channels_last_whatever_keras_json_says(name):
    usual = to_config(catalogue.build(name, 2, (32, 32)))
    keras.config.set_image_data_format("channels_first")
    try:
        keras_models.preprocessing.cache_clear()
        assert to_config(catalogue.build(name, 2, (32, 32))) == usual
        assert keras.config.image_data_format() == "channels_first"
    finally:
        keras.config.set_image_data_format("channels_last")


def test_every_classifier_of_keras_applications_is_listed():
    listed = {row["name"]: row for row in catalogue.listing(1000, (224, 224))}
    found = {name for name in listed if name.startswith("keras:")}
    assert len(found) >= 38 and {"keras:ResNet50V2", "keras:NASNetMobile", "keras:EfficientNetV2B0"} <= found
    assert {name for name, row in listed.items() if row["weights"]} == found | {
        f"resnet{depth}{kind}" for depth in (50, 101, 152) for kind in ("v1", "v2_keras")
    }


@pytest.mark.parametrize(
    ("name", "near"), [("keras:mobilenetv2", "keras:MobileNetV2"), ("keras:ResNet51", "keras:ResNet50")]
)
def test_an_unknown_name_names_near_ones(name, near):
    with pytest.raises(UsageError, match=f"{near}[,?]"):
        catalogue.check(name)


@pytest.mark.parametrize(("name", "least"), [("InceptionV3", 75), ("Xception", 71), ("MobileNetV3Small", 32)])
def test_images_too_small_for_a_net_are_refused_with_its_smallest(name, least):
    with pytest.raises(UsageError, match=rf"28x31: keras:{name} needs at least {least} px"):
        catalogue.build(f"keras:{name}", 2, (28, 31))


@pytest.fixture(scope="module")
def small():
    return application("MobileNetV3Small", (32, 32)), catalogue.build("keras:MobileNetV3Small", 2, (32, 32))


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
@pytest.mark.parametrize("file", ["whole.h5", "named.weights.h5", "whole.keras"])
def test_files_of_every_kind_hold_the_same_weights(small, tmp_path, file):
    """Layers that Keras numbered (conv2d_17) are found though its counters had run on."""
    theirs, ours = small
    (theirs.save_weights if file.endswith("weights.h5") else theirs.save)(tmp_path / file)
    _, weights = catalogue.bring(tmp_path / file, "keras:MobileNetV3Small", 2, (32, 32))
    assert assign(ours, weights) == {"logits/kernel", "logits/bias"}
    same_features(features_of(ours), theirs, "MobileNetV3Small", (32, 32))


def test_our_own_file_keeps_its_head_where_it_fits(small, tmp_path):
    _, ours = small
    save_weights(tmp_path / "ours.safetensors", ours)
    load_weights(tmp_path / "ours.safetensors", ours)
    source, weights = catalogue.bring(tmp_path / "ours.safetensors", "keras:MobileNetV3Small", 2)
    assert source == "rightfit" and weights["logits/kernel"].shape == (576, 2)
    ours.save(tmp_path / "ours.keras")
    for outputs, kept in ((2, True), (3, False), (None, True)):
        _, weights = catalogue.bring(tmp_path / "ours.keras", "keras:MobileNetV3Small", outputs)
        assert ("logits/bias" in weights) is kept


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
def test_a_file_with_a_top_gives_what_stands_below_it(tmp_path):
    whole = application("MobileNetV2", (32, 32), include_top=True, classes=7, pooling=None)
    whole.save(tmp_path / "top.h5")
    _, weights = catalogue.bring(tmp_path / "top.h5", "keras:MobileNetV2", 2)
    stem = whole.get_layer("Conv1").get_weights()[0]
    np.testing.assert_array_equal(weights["Conv1/kernel"], stem)
    assert not any("logits" in name or "predictions" in name for name in weights)


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
@pytest.mark.parametrize("file", ["net.h5", "net.weights.h5", "net.keras"])
def test_a_net_of_keras_is_turned_though_its_last_layer_is_called_as_ours(tmp_path, file):
    """VGG16 sees blue, green, red; ours, made from it, red, green, blue."""
    net = application("VGG16", (32, 32))
    theirs = keras.Model(net.input, keras.layers.Dense(2, name="logits")(net.output))
    ours = catalogue.build("keras:VGG16", 2, (32, 32))
    first = {"theirs": net.layers[1].get_weights()[0][:, :, ::-1], "ours": ours.layers[2].get_weights()[0]}
    for whose, model in {"theirs": theirs, "ours": ours}.items():
        (model.save_weights if file.endswith("weights.h5") else model.save)(tmp_path / file)
        _, weights = catalogue.bring(tmp_path / file, "keras:VGG16", 2, (32, 32))
        np.testing.assert_array_equal(weights["block1_conv1/kernel"], first[whose], whose)
        assert ("logits/kernel" in weights) is (whose == "ours")


@pytest.mark.parametrize("file", ["vgg19.weights.h5", "vgg19.keras"])
def test_a_net_with_more_of_the_same_layers_is_refused(tmp_path, file):
    """VGG19 is VGG16 and three convolutions."""
    theirs = application("VGG19", (32, 32))
    (theirs.save_weights if file.endswith("weights.h5") else theirs.save)(tmp_path / file)
    with pytest.raises(WeightsError, match="block4_conv4/0 is left over in the file"):
        catalogue.bring(tmp_path / file, "keras:VGG16", 2, (32, 32))


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
@pytest.mark.parametrize("file", ["small.h5", "small.keras"])
def test_a_file_of_another_net_is_refused_with_the_first_three_that_do_not_fit(small, tmp_path, file):
    small[0].save(tmp_path / file)
    with pytest.raises(WeightsError, match=r"does not fit keras:MobileNetV2: .*; .*; .* \(and \d+ more\)"):
        catalogue.bring(tmp_path / file, "keras:MobileNetV2", 2)


# What --weights means. No test here may reach for a network.


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Keras' cache in a folder of its own, and every attempt at the network counted and failed."""
    tried = []

    def unreachable(*_, **__):
        tried.append(1)
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    (tmp_path / "models").mkdir()
    return tmp_path / "models", tried


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
def test_imagenet_weights_come_from_keras_cache(home):
    """MobileNetV2's file has no checksum in Keras, so a file of random weights may stand for it."""
    folder, tried = home
    theirs = application("MobileNetV2", (64, 64))
    name = pretrained.published("MobileNetV2").file
    assert name.endswith("1.0_224_no_top.h5")
    theirs.save(folder / name)
    for asked in ("auto", "imagenet"):
        start = pretrained.choose(asked, "keras:MobileNetV2", 64)
        assert (start.kind, start.path) == ("imagenet", folder / name)
    ours = catalogue.build("keras:MobileNetV2", 2, (64, 64))
    assign(ours, catalogue.bring(start.path, "keras:MobileNetV2", 2)[1])
    same_features(features_of(ours), theirs, "MobileNetV2", (64, 64))
    assert not tried


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
def test_training_starts_from_imagenet_weights_and_records_it(home, tmp_path):
    application("MobileNetV2", (64, 64)).save(home[0] / pretrained.published("MobileNetV2").file)
    pictures = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), dtype=np.uint8)
    run = rightfit.train(
        (pictures, np.arange(24) % 2), model="keras:MobileNetV2", finetune="head", views=0, output=tmp_path / "run",
        precision="float32", quiet=True, report="none",
    )  # fmt: skip
    kept = load_file(run.path / "weights.safetensors")
    _, weights = catalogue.bring(home[0] / pretrained.published("MobileNetV2").file, "keras:MobileNetV2", 2)
    for name, value in weights.items():
        np.testing.assert_array_equal(kept[name], value)
    assert "\nweights: imagenet " in (run.path / "config.yaml").read_text()
    assert "starting from the weights of keras.applications in" in (run.path / "log.txt").read_text()
    lines = map(json.loads, (run.path / "decisions.jsonl").read_text().splitlines())
    (decision,) = (line for line in lines if line["setting"] == "weights")
    assert decision["value"] == "imagenet" and "is in Keras' cache" in decision["evidence"]


@pytest.mark.filterwarnings("ignore:.*HDF5 file via:UserWarning")
def test_efficientnet_sees_pixels_as_keras_does_with_imagenet_weights(tmp_path, monkeypatch):
    """Keras scales once more with these weights than without; a file of its form is given to Keras' constructor."""
    net = application("EfficientNetB0", (32, 32))
    net.get_layer(index=2).set_weights([np.array(MEAN) / 255, np.array(DEVIATION) / 255, np.array(0)])
    net.save(tmp_path / "b0.h5")
    module = sys.modules[keras.applications.EfficientNetB0.__module__]
    with monkeypatch.context() as patch:
        patch.setattr(module.file_utils, "get_file", lambda *_, **__: str(tmp_path / "b0.h5"))
        theirs = keras.applications.EfficientNetB0(
            include_top=False, weights="imagenet", pooling="avg", input_shape=(32, 32, 3)
        )
    ours = catalogue.build("keras:EfficientNetB0", 2, (32, 32))
    assign(ours, catalogue.bring(tmp_path / "b0.h5", "keras:EfficientNetB0", 2)[1])
    same_features(features_of(ours), theirs, "EfficientNetB0", (32, 32))
    net.get_layer(index=2).set_weights([np.zeros(3), np.ones(3), np.array(0)])
    net.save(tmp_path / "other.h5")
    with pytest.raises(WeightsError, match=r"normalization/mean is \[0.0, 0.0, 0.0\]"):
        catalogue.bring(tmp_path / "other.h5", "keras:EfficientNetB0", 2)


def test_without_a_network_imagenet_says_which_file_to_put_where(home):
    folder, tried = home
    wanted = pretrained.published("ResNet50")
    assert (
        wanted.file == "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5" and len(wanted.checksum) == 32
    )
    for damaged in (False, True):
        if damaged:
            (folder / wanted.file).write_bytes(b"not these")
        with pytest.raises(WeightsError) as raised:
            pretrained.choose("imagenet", "resnet50v1", 224)
        said = str(raised.value)
        for part in (
            wanted.file,
            wanted.checksum,
            str(folder),
            "Name or service not known",
            "--weights none",
        ):
            assert part in said
        assert ("damaged or another" in said) is damaged
        assert "://" not in said and urllib.request.urlparse(wanted.origin).netloc not in said
    assert len(tried) == 2 and (folder / wanted.file).read_bytes() == b"not these"


def test_a_family_whose_constructor_is_another_familys_has_its_own_file():
    """Keras builds ResNet50V2, and asks for its file, in the module of ResNet50."""
    assert pretrained.published("ResNet50V2").file.startswith("resnet50v2_")


@contextmanager
def offered(send):
    """A real server whose only file is what `send(socket's file, number of requests before)` writes."""
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            asked.append(1)
            with suppress(OSError):  # who only asks whether it is there hangs up
                send(self.wfile, len(asked) - 1)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield pretrained.Published("net.h5", f"http://127.0.0.1:{server.server_port}/net.h5", None)
        server.shutdown()


def test_a_download_that_breaks_off_leaves_nothing_and_a_part_in_the_cache_is_fetched_again(
    tmp_path, monkeypatch
):
    """Each `fetch` asks twice: whether the file is there, and for it. Keras knows no checksum of MobileNetV2's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", "~/keras")
    file = tmp_path / "keras" / "models" / "net.h5"
    with h5py.File(tmp_path / "whole.h5", "w") as whole:
        whole["layers/dense/vars/0"] = np.zeros(1_000_000 // 4 - 3000, np.float32)
    content = (tmp_path / "whole.h5").read_bytes()
    content += bytes(1_000_000 - len(content))
    with offered(lambda file, before: file.write(content[: 1_000 if before < 2 else None])) as wanted:
        with pytest.raises(WeightsError, match="could not be fetched"):
            pretrained.fetch(wanted, "MobileNetV2")
        assert not list(file.parent.iterdir())
        file.write_bytes(content[:1_000])  # as Keras, killed, leaves it
        assert pretrained.cached(wanted) is None
        assert pretrained.fetch(wanted, "MobileNetV2") == file == pretrained.cached(wanted)
    assert file.read_bytes() == content and list(file.parent.iterdir()) == [file]


def test_where_keras_home_takes_no_file_it_is_kept_where_keras_would_and_found_again(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = bytes(1_000_000)
    with offered(lambda file, _: file.write(content)) as offer:
        wanted = replace(offer, checksum=hashlib.md5(content).hexdigest())
        file = tmp_path / ".keras" / "models" / "net.h5"
        assert pretrained.fetch(wanted, "ResNet50") == file == pretrained.cached(wanted)
        with pytest.raises(WeightsError, match="could not be fetched"):
            pretrained.fetch(
                offer, "MobileNetV2"
            )  # without a checksum nothing is kept where others may write


def test_a_server_that_falls_silent_ends_the_download(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "SILENCE", 0.3)
    over = threading.Event()

    def some(file, _):
        file.write(b"some")
        file.flush()
        over.wait(60)

    with offered(some) as wanted:
        with pytest.raises(WeightsError, match="timed out"):
            pretrained.fetch(wanted, "MobileNetV2")
        over.set()


@pytest.mark.parametrize("checksum", [None, "0" * 32])
def test_what_cannot_be_read_in_the_cache_is_as_nothing(home, checksum):
    (home[0] / "net.h5").mkdir()
    assert pretrained.cached(pretrained.Published("net.h5", "", checksum)) is None


def test_auto_starts_from_scratch_where_imagenet_cannot_be_had_and_says_why(home):
    _, tried = home
    start = pretrained.choose("auto", "keras:MobileNetV2", 224)
    assert start.kind == "none" and "could not be fetched" in start.because and len(tried) == 1


@pytest.mark.parametrize(
    ("model", "side", "why"),
    [
        ("resnet18", 224, "no ImageNet weights are published for resnet18"),
        ("resnet50", 224, "no ImageNet weights are published for resnet50"),
        ("keras:MobileNetV2", 63, "images of 63 px"),
    ],
)
def test_auto_asks_no_network_where_imagenet_weights_are_of_no_use(home, model, side, why):
    start = pretrained.choose("auto", model, side)
    assert start.kind == "none" and why in start.because and not home[1]


def test_imagenet_for_a_net_without_says_which_have_them():
    with pytest.raises(
        UsageError, match=r"no ImageNet weights are published for resnet18; .*resnet50v1.*FILE"
    ):
        pretrained.check("imagenet", "resnet18")
    pretrained.check("imagenet", "resnet101v2_keras")
    assert pretrained.counterpart("resnet101v2_keras") == "ResNet101V2"


def test_a_file_and_none_are_taken_at_their_word(home):
    assert pretrained.choose("none", "keras:MobileNetV2", 224).kind == "none"
    start = pretrained.choose("some/file.h5", "resnet18", 8)
    assert (start.kind, start.path) == ("file", Path("some/file.h5")) and not home[1]
