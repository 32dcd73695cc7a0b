"""The ResNets are the papers' nets: sizes, shapes, names and starting weights."""

from __future__ import annotations

import functools
import hashlib
import math

import keras
import numpy as np
import pytest

from rightfit.errors import UsageError
from rightfit.nets import resnet
from rightfit.nets.variants import DEVIATION, MEAN

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
# Trainable parameters, and sha256 of every layer's name, class and output shape and of every weight's name and shape. These
# are a file format: a changed hash means that weights saved before no longer load.
FORMAT = {
}


@functools.cache
def facts(name: str) -> tuple[int, str, tuple[str, ...]]:
    """Trainable parameters, hash of the format, and layer names; the net itself is let go."""
    outputs, size = (10, 32) if resnet.VARIANTS[name].stem == "cifar" else (1000, 224)
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


def test_every_variant_is_pinned():
    assert set(FORMAT) == set(resnet.VARIANTS)
    assert len(FORMAT) >= 45


@pytest.mark.parametrize("name", resnet.VARIANTS)
def test_names_and_shapes_are_a_file_format(name):
    parameters, digest, _ = facts(name)
    assert (parameters, digest) == FORMAT[name]


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


def test_a_name_like_no_other_is_told_them_all():
    with pytest.raises(UsageError) as refused:
        resnet.build("vgg", 5, (32, 32))
    assert all(name in str(refused.value) for name in resnet.VARIANTS)


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
    assert len(adds) == sum(resnet.VARIANTS[name].depths)
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
