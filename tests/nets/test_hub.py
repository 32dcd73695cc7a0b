"""`hub:PRESET` computes what KerasHub's backbone does on pixels scaled by the preset, and opens in plain Keras."""

import importlib.util
import json
import re
import shutil
import sys
import warnings

import h5py
import keras
import numpy as np
import pytest

from rightfit.errors import ModelFileError, RightfitError, UsageError
from rightfit.nets import catalogue, hub, pretrained
from rightfit.nets.flat import Pixels, flatten
from rightfit.nets.layers import fused, stock
from rightfit.nets.variants import DEVIATION, MEAN
from rightfit.saving.architecture import from_config, to_config

installed = pytest.mark.skipif(not importlib.util.find_spec("keras_hub"), reason="KerasHub is not installed")
SIZES = ((32, 48), (40, 32))
SCALE, OFFSET = [0.02, 0.01, 0.03], [-1.0, 0.5, -2.0]


@pytest.fixture(scope="module")
def library():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its tokenizers, which nothing here uses
        return pytest.importorskip("keras_hub", exc_type=ImportError)


@pytest.fixture(scope="module", params=["basic_block", "v2", "basic_block_vd"])
def preset(request, library, tmp_path_factory):
    """(folder, backbone with random weights and statistics): a small ResNet of each kind."""
    block = request.param.replace("v2", "basic_block")
    backbone = library.models.ResNetBackbone(
        [64], [7], [64, 24], [1, 1], [1, 2], block, use_pre_activation=request.param == "v2"
    )
    generator = np.random.default_rng(0)
    for variable in backbone.weights:
        value = keras.ops.convert_to_numpy(variable)
        variable.assign(value + generator.uniform(0, 0.3, value.shape) * (value.ndim == 1))
    folder = tmp_path_factory.mktemp("presets") / request.param
    backbone.save_to_preset(str(folder))
    library.layers.ResNetImageConverter(scale=SCALE, offset=OFFSET).save_to_preset(str(folder))
    return folder, backbone


def images(size):
    return np.random.default_rng(1).integers(0, 256, (3, *size, 3)).astype("float32")


def carry(model, weights):
    for layer in model.layers:
        for variable in layer.weights:
            if (name := f"{layer.name}/{variable.name}") in weights:
                variable.assign(weights[name])


def test_features_are_those_of_the_backbone_on_pixels_as_the_preset_scales_them(preset):
    folder, backbone = preset
    start = pretrained.choose("auto", f"hub:{folder}", 64)
    assert start.kind == "imagenet" and start.path is None
    for size in SIZES:
        model = catalogue.build(f"hub:{folder}", 2, size)
        weights = pretrained.preset_weights(f"hub:{folder}", size)
        assert len(weights) == len(model.weights) - 2
        carry(model, weights)
        expected = np.asarray(backbone(images(size) * SCALE + OFFSET, training=False)).mean(axis=(1, 2))
        assert np.ptp(expected, axis=0).max() > 1e-3
        body = keras.Model(model.input, model.get_layer("logits").input)
        for net in (body, fused(body)):
            np.testing.assert_allclose(
                np.asarray(net(images(size), training=False)), expected, rtol=0, atol=1e-4
            )


def test_what_is_saved_holds_only_stock_layers_and_the_same_names(preset):
    folder, _ = preset
    first, second = (catalogue.build(f"hub:{folder}", 2, SIZES[0]) for _ in range(2))
    again = from_config(to_config(stock(fused(first))))
    assert [x.name for x in again.layers] == [x.name for x in first.layers] == [x.name for x in second.layers]
    assert all(type(layer).__module__.startswith("keras.") for layer in again.layers)


def test_weights_saved_by_keras_come_in_by_name(preset, tmp_path):
    folder, backbone = preset
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    source, weights = catalogue.bring(tmp_path / "backbone.weights.h5", f"hub:{folder}", 2, SIZES[0])
    assert source == "KerasHub"
    for name, value in pretrained.preset_weights(f"hub:{folder}", SIZES[0]).items():
        np.testing.assert_array_equal(weights[name], value)


def test_a_preset_without_an_image_converter_gets_imagenets_scale(preset, tmp_path):
    (tmp_path / "config.json").write_bytes((preset[0] / "config.json").read_bytes())
    model = catalogue.build(f"hub:{tmp_path}", 2, (32, 32))
    normalise = model.get_layer("normalise")
    np.testing.assert_allclose(normalise.scale, 1 / np.array(DEVIATION))
    np.testing.assert_allclose(normalise.offset, -np.array(MEAN) / DEVIATION)
    start = pretrained.choose("auto", f"hub:{tmp_path}", 64)
    assert start.kind == "none" and "model.weights" in start.because


class Foreign(keras.layers.Layer):
    def call(self, inputs):
        return inputs


def test_an_image_converter_that_cannot_be_read_is_not_taken_for_none(preset, tmp_path):
    folder = shutil.copytree(preset[0], tmp_path / "preset")
    (folder / "image_converter.json").write_text("{")
    with pytest.raises(RightfitError, match="preset"):
        hub.pixels(str(folder))


def test_layers_that_plain_keras_cannot_open_are_refused():
    image = keras.Input((32, 32, 3))
    with pytest.raises(RightfitError, match=r"the layer odd is a .*Foreign, not one of Keras' own"):
        flatten(keras.Model(image, Foreign(name="odd")(image)), "net", 2, (32, 32), Pixels())


@installed
def test_a_backbone_that_makes_no_map_is_refused(library, tmp_path):
    library.models.ViTBackbone((32, 32, 3), 16, 1, 1, 8, 8).save_to_preset(str(tmp_path))
    with pytest.raises(UsageError, match="no backbone that makes a map of an image"):
        catalogue.build(f"hub:{tmp_path}", 2, (32, 32))


@installed
@pytest.mark.parametrize("change", [{"module": "os", "class_name": "system"}, {"class_name": "Lambda"}])
def test_a_preset_that_names_other_classes_is_not_opened(tmp_path, change):
    config = {"module": "keras_hub.models", "class_name": "ResNetBackbone", "config": {"inner": [change]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RightfitError, match="which is never run"):
        catalogue.build(f"hub:{tmp_path}", 2, (32, 32))


@installed
@pytest.mark.parametrize("file", ["config.json", "image_converter.json", "preprocessor.json"])
@pytest.mark.parametrize(
    "change",
    [
        {"module": "keras.layers", "class_name": "TFSMLayer", "config": {"filepath": "saved"}},
        {"module": "keras.layers", "class_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
        {"module": "keras.utils", "class_name": "function", "config": "get_file"},
        {"module": None, "class_name": "Mine", "registered_name": "keras_hub>Lambda"},
        {"module": "os", "class_name": "system"},
    ],
    ids=["SavedModel", "lookup", "function", "registered", "module"],
)
def test_no_file_of_a_preset_names_what_runs_code_or_reads_files(tmp_path, file, change):
    config = {"module": "keras_hub.models", "class_name": "ResNetBackbone", "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / file).write_text(json.dumps({**config, "config": {"inner": [change]}}))
    with pytest.raises(RightfitError, match=rf"{file} asks for .*, which is never run"):
        catalogue.build(f"hub:{tmp_path}", 2, (32, 32))


@installed
def test_a_preset_that_has_no_end_or_no_configuration_is_not_opened(tmp_path):
    with pytest.raises(UsageError, match=r"no config\.json"):
        catalogue.build(f"hub:{tmp_path}", 2, (32, 32))
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="nested more than"):
        catalogue.build(f"hub:{tmp_path}", 2, (32, 32))


def test_weights_of_a_preset_are_looked_into_before_kerashub_opens_them(preset, tmp_path):
    folder = tmp_path / "linked"
    shutil.copytree(preset[0], folder)
    with h5py.File(folder / "model.weights.h5", "r+") as file:
        file["layers/elsewhere"] = h5py.ExternalLink("other.h5", "/layers")
    with pytest.raises(ModelFileError, match="is a link elsewhere"):
        pretrained.preset_weights(f"hub:{folder}", SIZES[0])


@installed
def test_an_unknown_preset_names_near_ones(library):
    with pytest.raises(UsageError, match="hub:resnet_50_imagenet"):
        catalogue.check("hub:resnet_50_imagenets")
    catalogue.check("hub:resnet_50_imagenet")


def test_a_preset_that_cannot_be_fetched_says_what_to_bring(library, monkeypatch):
    import requests

    def unreachable(*_, **__):
        raise requests.exceptions.ConnectionError("HTTPSConnectionPool(host='registry.example')")

    monkeypatch.setattr(library.models.Backbone, "from_preset", unreachable)
    with pytest.raises(RightfitError) as raised:
        catalogue.build("hub:resnet_18_imagenet", 2, (32, 32))
    said = str(raised.value)
    assert "save_to_preset" in said and "ConnectionError" in said and "registry.example" not in said


def test_without_kerashub_the_message_says_what_brings_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=re.escape(hub.INSTALL)):
        catalogue.check("hub:resnet_18_imagenet")


def test_kerashub_needs_no_tensorflow_text(library):
    assert "tensorflow_text" not in sys.modules
