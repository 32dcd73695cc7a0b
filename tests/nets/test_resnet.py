"""The ResNets are the papers' nets: sizes, shapes, names and starting weights."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from rightfit.errors import UsageError
from rightfit.nets import resnet
from rightfit.nets.variants import DEVIATION, MEAN, VARIANTS

# torchvision's resnet18 ... resnet152 with 1000 classes.
IMAGENET = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
# Exact counts with 10 classes, and the millions of He et al. 2016, table 6, for option A; ours have
# projections as shortcuts (option B): 1x1 kernels 16 to 32 and 32 to 64 channels with their norms.
PROJECTIONS = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
CIFAR = {
    "resnet20": (272_474, "0.27"),
    "resnet32": (466_906, "0.46"),
    "resnet44": (661_338, "0.66"),
    "resnet56": (855_770, "0.85"),
    "resnet110": (1_730_714, "1.7"),
}
# Trainable parameters of every net, 1000 classes at 224 px or 10 at 32 px: torchvision's and timm's own
# counts where they have the net (benchmarks/import_check.py), the papers' millions for the others.
PARAMETERS = {
    "resnet8": 78_042,
    "resnet14": 175_258,
    "resnet20": 272_474,
    "resnet32": 466_906,
    "resnet44": 661_338,
    "resnet56": 855_770,
    "resnet110": 1_730_714,
    "resnet1202": 19_424_026,
    "resnet20v2": 219_482,
    "resnet29v2": 312_218,
    "resnet47v2": 497_690,
    "resnet56v2": 590_426,
    "resnet110v2": 1_146_842,
    "resnet164v2": 1_703_258,
    "resnet1001v2": 10_327_706,
    "wrn16_8": 10_961_370,
    "wrn28_2": 1_467_610,
    "wrn28_10": 36_479_194,
    "wrn40_4": 8_949_210,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnet200": 64_673_832,
    "resnet50v1": 25_557_032,
    "resnet101v1": 44_549_160,
    "resnet152v1": 60_192_808,
    "resnet18v2": 11_687_720,
    "resnet34v2": 21_795_880,
    "resnet50v2": 25_549_352,
    "resnet101v2": 44_541_480,
    "resnet152v2": 60_185_128,
    "resnet200v2": 64_666_152,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "resnext152_32x4d": 59_951_400,
    "seresnet18": 11_779_624,
    "seresnet34": 21_960_416,
    "seresnet50": 28_088_024,
    "seresnet101": 49_326_872,
    "seresnet152": 66_821_848,
    "seresnext50_32x4d": 27_559_896,
    "seresnext101_32x4d": 48_955_416,
    "resnet18d": 11_708_744,
    "resnet26d": 16_014_408,
    "resnet34d": 21_816_904,
    "resnet50d": 25_576_264,
    "resnet101d": 44_568_392,
    "resnet152d": 60_212_040,
    "resnet50v2_keras": 25_549_416,
    "resnet50v1_slim": 25_557_032,
    "resnet50v2_slim": 25_549_416,
    "resnet101v2_keras": 44_541_544,
    "resnet101v1_slim": 44_549_160,
    "resnet101v2_slim": 44_541_544,
    "resnet152v2_keras": 60_185_192,
    "resnet152v1_slim": 60_192_808,
    "resnet152v2_slim": 60_185_192,
    "resnet18_official": 11_693_736,
    "resnet18v2_official": 11_691_816,
    "resnet34_official": 21_801_896,
    "resnet34v2_official": 21_799_976,
    "resnet50_official": 25_557_032,
    "resnet50v2_official": 25_549_352,
    "resnet101_official": 44_549_160,
    "resnet101v2_official": 44_541_480,
    "resnet152_official": 60_192_808,
    "resnet152v2_official": 60_185_128,
    "resnet200_official": 64_673_832,
    "resnet200v2_official": 64_666_152,
    "resnet50v2_timm": 25_549_352,
    "resnet101v2_timm": 44_541_480,
    "resnet18d_paddle": 11_712_968,
    "resnet34d_paddle": 21_821_128,
    "resnet200d_paddle": 74_738_504,
    "resnet50_sonnet": 25_557_032,
    "resnet50v2_sonnet": 25_549_352,
    "resnet101_sonnet": 44_549_160,
    "resnet101v2_sonnet": 44_541_480,
    "resnet152_sonnet": 60_192_808,
    "resnet152v2_sonnet": 60_185_128,
    "resnet50v1_tensorlayer": 25_557_032,
}
# sha256 of every layer's name, class and output shape and of every weight's name and shape, for nets
# that together use every branch of the builder. These are a file format: a changed hash means that
# weights saved before no longer load.
FORMAT = {
    "resnet20": "79fba491b5c3b036",
    "resnet20v2": "359693c7afb57037",
    "wrn16_8": "7a9060c47242689f",
    "resnet18": "c535ab05da69887e",
    "resnet34": "4906443c9c4fc7e7",
    "resnet50": "dd154e8ed71f1edc",
    "resnet50v1": "f8be6e95db76a489",
    "resnet18v2": "79858ef248de8cca",
    "resnet50v2": "072d9688d43b2cf2",
    "resnext50_32x4d": "a2569ba13ddf0aad",
    "seresnet18": "50bd467a923090d3",
    "resnet18d": "b3553bf69f6785c5",
    "resnet26d": "49006cb98b496903",
    "resnet50v2_keras": "8a5c41a020c966e7",
    "resnet50v1_slim": "7d44469bbd65a537",
    "resnet50v2_slim": "ef5bcb9788f69377",
    "resnet18_official": "31bffcfe72b902a2",
    "resnet50_sonnet": "6e14c1c6d6b0f852",
    "resnet18d_paddle": "d6ebb559df3220c7",
}


@functools.cache
def facts(name: str) -> tuple[int, str, tuple[str, ...]]:
    """Trainable parameters, hash of the format, and layer names; the net itself is let go."""
    outputs, size = (10, 32) if VARIANTS[name].stem == "cifar" else (1000, 224)
    with keras.StatelessScope():  # shapes without the weights
        model = resnet._assemble(name, outputs, (size, size))
    lines = []
    for layer in model.layers:
        lines.append(f"{layer.name} {type(layer).__name__} {layer.output.shape}")
        lines += [f"  {weight.name} {tuple(weight.shape)}" for weight in layer.weights]
    trainable = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return trainable, digest, tuple(layer.name for layer in model.layers)


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_nets_have_as_many_parameters_as_torchvisions(name):
    assert facts(name)[0] == IMAGENET[name]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_nets_have_as_many_parameters_as_the_papers(name):
    exact, millions = CIFAR[name]
    found = facts(name)[0]
    assert found == exact
    assert f"{(found - PROJECTIONS) / 1e6:.{len(millions) - 2}f}" == millions


def test_every_variant_has_the_parameters_it_had():
    counted = {}
    for name, variant in VARIANTS.items():
        outputs, size = (10, 32) if variant.stem == "cifar" else (1000, 224)
        counted[name] = resnet.describe(name, outputs, (size, size))["parameters"]
    assert counted == PARAMETERS
    assert len(counted) >= 45


@pytest.mark.parametrize("name", FORMAT)
def test_names_and_shapes_are_a_file_format(name):
    assert facts(name)[1] == FORMAT[name]


@pytest.mark.parametrize("name", FORMAT)
def test_counting_a_net_finds_what_building_it_makes(name):
    assert PARAMETERS[name] == facts(name)[0]


def test_layer_names_of_resnet18():
    names = facts("resnet18")[2]
    assert names[:6] == ("image", "normalise", "stem_conv_pad", "stem_conv", "stem_norm", "stem_relu")
    assert names[6:8] == ("stem_pool_pad", "stem_pool")
    assert [n for n in names if n.startswith("stage3_block1_")] == [
        "stage3_block1_conv1_pad",
        "stage3_block1_conv1",
        "stage3_block1_norm1",
        "stage3_block1_relu1",
        "stage3_block1_conv2",
        "stage3_block1_shortcut_conv",
        "stage3_block1_norm2",
        "stage3_block1_shortcut_norm",
        "stage3_block1_add",
        "stage3_block1_relu2",
    ]
    assert names[-3:] == ("stage4_block2_relu2", "pool", "logits")
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (11, 18), (40, 8), (33, 31)])
def test_any_size_from_8_px_gives_logits(name, size):
    model = resnet.build(name, 5, size)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3)).astype("float32")
    logits = keras.ops.convert_to_numpy(model(images))
    assert logits.shape == (2, 5)
    assert np.isfinite(logits).all()
    assert np.abs(logits[0] - logits[1]).max() > 0


@pytest.mark.parametrize("size", [(7, 8), (8, 7), (0, 0)])
def test_images_under_8_px_are_refused(size):
    with pytest.raises(UsageError, match=f"{size[0]}x{size[1]}.*at least 8 px"):
        resnet.build("resnet20", 5, size)


@pytest.mark.parametrize(
    ("typed", "meant"), [("resnet5", "resnet50"), ("ResNet50", "resnet50"), ("resnet-18", "resnet18")]
)
def test_an_unknown_name_is_told_the_near_ones(typed, meant):
    with pytest.raises(UsageError, match=f"unknown model '{typed}'; did you mean .*{meant}[,?]"):
        resnet.build(typed, 5, (32, 32))


def test_a_name_like_no_other_is_told_where_all_are_listed():
    with pytest.raises(UsageError, match=r"unknown model 'vgg'; did you mean .*rightfit models"):
        resnet.build("vgg", 5, (32, 32))


@pytest.mark.parametrize(
    ("name", "giga"),
    [("resnet18", 1.8), ("resnet34", 3.7), ("resnet50", 4.1), ("resnet101", 7.8), ("resnet152", 11.5)],
)
def test_multiply_adds_are_the_known_ones(name, giga):
    assert round(resnet.describe(name, 1000, (224, 224))["multiply_adds"] / 1e9, 1) == giga


def test_the_seed_decides_the_weights():
    first, again, other = (resnet.build("resnet20", 5, (16, 16), seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    drawn = [i for i, weight in enumerate(first) if weight.ndim > 1]
    assert len(drawn) == 22  # 19 convolutions in the paper's 20 layers, 2 projections, 1 dense
    assert all((first[i] != other[i]).mean() > 0.99 for i in drawn)
    of_one_shape = [first[i] for i in drawn if first[i].shape == (3, 3, 64, 64)]
    assert not np.array_equal(of_one_shape[0], of_one_shape[1])


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_every_block_adds_its_residual_to_its_shortcut(name):
    model = resnet.build(name, 5, (32, 32))
    adds = [layer for layer in model.layers if isinstance(layer, keras.layers.Add)]
    assert len(adds) == sum(VARIANTS[name].depths)
    residuals = [add.input[0] for add in adds]
    shortcuts = [add.input[1] for add in adds]
    ends = [node.operation.output for add in adds for node in add._outbound_nodes]
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    for training in (False, True):
        probe = keras.Model(model.input, [residuals, shortcuts, ends])
        values = probe(images, training=training)
        for residual, shortcut, end in zip(*values, strict=True):
            assert keras.ops.any(residual != 0)
            assert keras.ops.any(shortcut > 0)
            assert keras.ops.all(end == keras.ops.relu(residual + shortcut))


def test_pixels_are_normalised_by_the_net_itself():
    model = resnet.build("resnet20", 5, (8, 8))
    pixels = np.stack([np.full((8, 8, 3), MEAN), np.add(np.zeros((8, 8, 3)), MEAN)])
    pixels[1] += DEVIATION
    normalised = keras.ops.convert_to_numpy(model.get_layer("normalise")(pixels.astype("float32")))
    np.testing.assert_allclose(normalised, np.stack([np.zeros((8, 8, 3)), np.ones((8, 8, 3))]), atol=2e-6)


# Dropout and stochastic depth -----------------------------------------------------------------------


def test_at_inference_nothing_is_left_out():
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype("float32")
    whole = resnet.build("resnet20", 3, (16, 16))
    thinned = resnet.build("resnet20", 3, (16, 16), dropout=0.5, stochastic_depth=0.5)
    for layer in whole.layers:
        thinned.get_layer(layer.name).set_weights(layer.get_weights())
    assert np.array_equal(np.asarray(whole(image)), np.asarray(thinned(image)))


def test_each_layer_leaves_out_by_a_stream_of_its_own_that_the_seed_decides():
    def streams(seed):
        net = resnet.build("wrn16_8", 3, (8, 8), seed, dropout=0.3, stochastic_depth=0.4)
        return [layer.seed for layer in net.layers if isinstance(layer, keras.layers.Dropout)]

    assert len(streams(0)) == len(set(streams(0))) == 6 + 6 + 1
    assert streams(0) == streams(0) and not set(streams(0)) & set(streams(1))


def test_the_chance_to_be_skipped_rises_linearly_to_the_last_block():
    net = resnet.build("resnet20", 3, (8, 8), stochastic_depth=0.45)
    rates = [layer.rate for layer in net.layers if layer.name.endswith("stochastic_depth")]
    assert rates == pytest.approx([0.45 * block / 9 for block in range(1, 10)])


LEAVES_OUT = """
from rightfit.runtime import choose_backend
choose_backend()
import numpy as np
from keras import ops
from rightfit.nets import resnet
builder = resnet.Builder(resnet.VARIANTS["resnet20"], seed=1)
x = np.ones((400, 2, 2, 3), "float32")
rows = ops.convert_to_numpy(builder.leave_out(0.3, "skip", (None, 1, 1, 1))(x, training=True)).reshape(400, -1)
assert (rows == rows[:, :1]).all(), "an image is skipped whole"
kept = rows[rows > 0]
assert np.allclose(kept, 1 / 0.7)
print(float((rows == 0).mean()))
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_backend_skips_whole_images_and_keeps_the_mean(backend):
    environment = os.environ | {"KERAS_BACKEND": backend}
    command = [sys.executable, "-c", LEAVES_OUT]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert 0.3 - 4 * 0.023 < float(said) < 0.3 + 4 * 0.023  # four standard errors of 400 draws
