"""Heat maps: the gradient is the logit's, the formulas are the papers', the peak is where the evidence is."""

import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr

from rightfit.errors import UsageError
from rightfit.evaluation.explain import heat_maps, logits_for, occlusion_maps
from rightfit.evaluation.heat import (
    agreement,
    grad_cam,
    grad_cam_plus_plus,
    normalised,
    overlay,
    upsampled,
)
from rightfit.evaluation.inner_map import GRADIENT_METHODS, InnerMap
from rightfit.nets import catalogue
from rightfit.nets.layers import fused

BACKENDS = ("tensorflow", "jax", "torch")
SCRIPT = Path(__file__).with_name("maps.py")
HEIGHT, WIDTH = 32, 40
RED, BLUE = (200, 40, 40), (40, 40, 200)
layers = keras.layers


def net(kernel, head, side=1, depth=1):
    """(B, 32, 40, 3) -> `depth` convolutions and ReLUs, mean, logits; all but the first convolution keep channels."""
    inputs = keras.Input((HEIGHT, WIDTH, 3), name="image")
    x = layers.Rescaling(1 / 255, name="normalise")(inputs)
    kernel, head = np.asarray(kernel, np.float32), np.asarray(head, np.float32)
    for number in range(1, depth + 1):
        size, stride = (side, 4) if number == 1 else (1, 1)
        conv = layers.Conv2D(len(head), size, stride, padding="same", use_bias=False, name=f"conv{number}")
        x = layers.ReLU(name=f"relu{number}")(conv(x))
        conv.kernel.assign(kernel if number == 1 else np.eye(len(head))[None, None])
    logits = layers.Dense(head.shape[1], use_bias=False, name="logits")
    model = keras.Model(inputs, logits(layers.GlobalAveragePooling2D(name="pool")(x)), name="small")
    logits.kernel.assign(head)
    return model


def colour_net(depth=1, outputs=2):
    """Its channels see what is redder than blue, and bluer than red; so do its logits, or the one of both."""
    kernel = np.zeros((4, 4, 3, 2), np.float32)
    kernel[:, :, :, 0], kernel[:, :, :, 1] = (1 / 16, 0, -1 / 16), (-1 / 16, 0, 1 / 16)
    return net(kernel, np.eye(2) if outputs == 2 else [[-1.0], [1.0]], side=4, depth=depth)


def random_net(outputs=3):
    generator = np.random.default_rng(2)
    return net(generator.normal(0, 1, (3, 3, 3, 5)), generator.normal(0, 1, (5, outputs)), side=3)


def noise(count=4, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), np.uint8)


def with_square(places):
    """Grey noise with a square of 8 px in each colour at its (row, column)."""
    image = np.random.default_rng(3).integers(100, 140, (HEIGHT, WIDTH, 1)).repeat(3, axis=2).astype(np.uint8)
    for colour, (row, column) in places.items():
        image[row : row + 8, column : column + 8] = colour
    return image


def peak(heat):
    """Centre of gravity of what is at least 0.9 of the maximum."""
    return np.argwhere(heat >= 0.9 * heat.max()).mean(axis=0)


def is_at(heat, square):
    return np.abs(peak(heat) - (np.array(square) + 3.5)).max() <= 4


def parts(model, layer):
    """The model up to `layer`, and from there on, as functions of arrays."""
    tensor = model.get_layer(layer).output
    below, above = keras.Model(model.input, tensor), keras.Model(tensor, model.output)
    return [
        lambda x, m=m: np.asarray(keras.ops.convert_to_numpy(m(x, training=False))) for m in (below, above)
    ]


# Backends -------------------------------------------------------------------------------------------


def test_the_same_weights_give_the_same_maps_on_every_backend(tmp_path, process):
    own = keras.backend.backend()
    running = {
        backend: subprocess.Popen(
            [sys.executable, SCRIPT, tmp_path / f"{backend}.npz"],
            env=process.environment(KERAS_BACKEND=backend),
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend in BACKENDS
        if backend != own
    }
    expected = runpy.run_path(str(SCRIPT))["maps"]()
    for backend, ended in running.items():
        _, err = ended.communicate(timeout=200)
        assert ended.returncode == 0, err
        found = np.load(tmp_path / f"{backend}.npz")
        assert found["backend"] == backend
        for name, maps in expected.items():
            np.testing.assert_allclose(found[name], maps, rtol=0, atol=1e-4, err_msg=f"{backend} {name}")
    assert all((np.ptp(maps, axis=(1, 2)) > 1e-3).mean() >= 0.5 for maps in expected.values())


# Gradients and formulas -----------------------------------------------------------------------------


def test_grad_cam_of_a_net_that_ends_in_mean_and_sum_is_cam():
    """Zhou et al. 2016: the map's channels, weighed by the last layer's row of the class."""
    model, outputs = random_net(), np.array([0, 1, 2, 1])
    below, _ = parts(model, "relu1")
    weights = np.asarray(keras.ops.convert_to_numpy(model.get_layer("logits").kernel))
    cam = np.einsum("bhwc,bc->bhw", below(noise()), weights.T[outputs])
    expected = normalised(upsampled(np.maximum(cam, 0).astype(np.float32), HEIGHT, WIDTH))
    np.testing.assert_allclose(heat_maps(model, noise(), outputs), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=(1, 2)).min() > 0.5
    signs = -np.ones(4, np.float32)
    against = normalised(upsampled(np.maximum(-cam, 0).astype(np.float32), HEIGHT, WIDTH))
    np.testing.assert_allclose(heat_maps(model, noise(), outputs, signs=signs), against, rtol=0, atol=1e-5)


def test_the_weights_of_channels_are_the_papers():
    """Selvaraju et al. 2017, equations 1 and 2; Chattopadhay et al. 2018, equations 10 and 19, of Y = exp(S)."""
    generator = np.random.default_rng(4)
    maps, gradients = generator.gamma(1, 1, (2, 3, 4, 5)), generator.normal(0, 1, (2, 3, 4, 5))
    cam, plus_plus, score = np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), np.exp(1.7)
    for b in range(2):
        for k in range(5):
            a, g = maps[b, :, :, k], gradients[b, :, :, k]
            cam[b] += g.sum() / 12 * a
            second, third = score * g**2, score * g**3
            alpha = second / (2 * second + a.sum() * third)
            plus_plus[b] += (alpha * np.maximum(score * g, 0)).sum() * a
    given = maps.astype(np.float32), gradients.astype(np.float32)
    np.testing.assert_allclose(grad_cam(*given), np.maximum(cam, 0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(score * grad_cam_plus_plus(*given), np.maximum(plus_plus, 0), rtol=1e-5)
    assert (cam > 0).any() and (cam < 0).any()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-20, 1e20])
def test_tiny_and_huge_gradients_give_numbers(scale):
    generator = np.random.default_rng(5)
    maps = generator.normal(0, 1, (2, 3, 4, 5)).astype(np.float32)
    gradients = (scale * generator.normal(0, 1, maps.shape)).astype(np.float32)
    for weigh in (grad_cam, grad_cam_plus_plus):
        heat = normalised(weigh(maps, gradients))
        assert np.isfinite(heat).all() and heat.min() >= 0
        np.testing.assert_allclose(heat.max(axis=(1, 2)), float(scale > 0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet20", "keras:MobileNetV2", "keras:ConvNeXtTiny"])
def test_the_gradient_is_that_of_the_logit_and_the_map_is_a_map(name):
    """Of every kind of net, on the backend's kernels: along its gradient a logit rises by the gradient's square."""
    model = fused(catalogue.build(name, 2, (64, 64)))
    images = np.random.default_rng(6).integers(0, 256, (2, 64, 64, 3), np.uint8)
    inner = InnerMap(model)
    asked = np.float32([[1, 0], [0, -1]])
    ((maps, gradients),) = inner.gradients(images, asked, 2)
    assert maps.shape == (2, *inner.size, maps.shape[3]) and inner.size[0] > 1
    above = parts(model, inner.layer)[1]
    square = (gradients.astype(np.float64) ** 2).sum(axis=(1, 2, 3), keepdims=True)
    assert square.min() > 0
    step = 1e-2 * np.sqrt((maps**2).sum(axis=(1, 2, 3), keepdims=True) / square)
    up, down = (((above(maps + s * step * gradients)) * asked).sum(axis=1) for s in (1, -1))
    np.testing.assert_allclose(up - down, (2 * step * square).ravel(), rtol=2e-2)
    heat = inner.heat_maps(images, np.array([0, 1]), signs=np.float32([1, -1]))
    assert heat.shape == (2, 64, 64) and heat.dtype == np.float32
    assert heat.min() >= 0 and set(heat.max(axis=(1, 2))) <= {0, 1}


def test_upsampling_moves_nothing():
    maps = np.random.default_rng(7).random((3, 4, 5)).astype(np.float32)
    grown = upsampled(maps, 32, 40)
    assert grown.shape == (3, 32, 40)
    np.testing.assert_allclose(upsampled(maps[:, ::-1, ::-1], 32, 40), grown[:, ::-1, ::-1], atol=1e-6)
    centres = grown.reshape(3, 4, 8, 5, 8)[:, :, 3:5, :, 3:5].mean(axis=(2, 4))
    np.testing.assert_allclose(centres, maps, atol=0.1)
    ramp = np.tile(np.arange(5, dtype=np.float32), (1, 4, 1))
    straight = (np.arange(4, 36) - 3.5) / 8  # between the centres of the first place and the last
    np.testing.assert_allclose(upsampled(ramp, 32, 40)[0, 9, 4:36], straight, atol=1e-5)


# Where the evidence is ------------------------------------------------------------------------------


@pytest.mark.parametrize("square", [(2, 28), (20, 4), (12, 16)])
def test_every_method_points_at_the_square_that_the_net_looks_for(square):
    images, outputs = with_square({RED: square})[None], np.array([0])
    model = colour_net()
    for method in GRADIENT_METHODS:
        assert is_at(heat_maps(model, images, outputs, method)[0], square), method
    covered = occlusion_maps(model, images, outputs)
    assert is_at(covered[0], square)
    assert agreement(heat_maps(model, images, outputs), covered)[0] > 0.6


def test_the_first_of_two_classes_is_explained_by_the_negative_logit():
    red, blue = (4, 6), (20, 26)
    images = np.stack([with_square({RED: red, BLUE: blue})] * 2)
    model = colour_net(outputs=1)
    outputs, signs = logits_for(np.array([0, 1]), "binary")
    assert outputs.tolist() == [0, 0] and signs.tolist() == [-1, 1]
    for method in GRADIENT_METHODS:
        first, second = heat_maps(model, images, outputs, method, signs=signs)
        assert is_at(first, red) and is_at(second, blue), method
    first, second = occlusion_maps(model, images, outputs, signs)
    assert is_at(first, red) and is_at(second, blue)


def test_classes_with_a_logit_each_are_explained_by_it():
    outputs, signs = logits_for(np.array([2, 0]), "categorical")
    assert outputs.tolist() == [2, 0] and signs.tolist() == [1, 1]


def test_random_weights_change_the_map_from_the_head_down():
    """Adebayo et al. 2018: a map that stays when the layers it is said to explain are drawn anew shows none of
    them. Layers are drawn from the head down; the bound holds for the mean over images and draws."""
    images = np.stack(
        [with_square({RED: (r, c), BLUE: (20 - r, 30 - c)}) for r, c in ((2, 4), (16, 9), (9, 28))]
    )
    outputs = np.array([0, 0, 0])
    original = {m: heat_maps(colour_net(depth=3), images, outputs, m) for m in GRADIENT_METHODS}
    for method, before in original.items():
        again = heat_maps(colour_net(depth=3), images, outputs, method)
        np.testing.assert_allclose(agreement(before, again), 1, rtol=0, atol=1e-9)
    for drawn in (
        ["logits"],
        ["logits", "conv3"],
        ["logits", "conv3", "conv2"],
        ["logits", "conv3", "conv2", "conv1"],
    ):
        found = {method: [] for method in original}
        for seed in range(6):
            model, generator = colour_net(depth=3), np.random.default_rng(seed)
            for name in drawn:
                kernel = model.get_layer(name).kernel
                kernel.assign(generator.normal(0, 1, kernel.shape))
            for method, before in original.items():
                found[method].append(agreement(before, heat_maps(model, images, outputs, method)))
        for method, rows in found.items():
            assert np.mean(rows) < 0.5, (method, drawn)


def test_a_black_image_gives_an_empty_map():
    black, model = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8), colour_net()
    for method in GRADIENT_METHODS:
        heat = heat_maps(model, black, np.array([0, 1]), method)
        assert heat.shape == (2, HEIGHT, WIDTH) and not heat.any()
    covered = occlusion_maps(model, black, np.array([0, 1]))
    assert not covered.any()
    assert agreement(heat, covered).tolist() == [0, 0]
    assert not overlay(black[0], heat[0]).max() > 0


# Occlusion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "stride"), [(7, 3), (5, 5), (32, 1)])
def test_occlusion_is_the_mean_drop_over_the_patches_that_cover_a_pixel(size, stride):
    model, images, outputs = random_net(), noise(2), np.array([2, 0])
    expected = np.zeros((2, HEIGHT, WIDTH))
    count = np.zeros((HEIGHT, WIDTH))
    starts = [sorted({*range(0, n - size + 1, stride), n - size}) for n in (HEIGHT, WIDTH)]
    rows = np.arange(2)
    before = model.predict_on_batch(images)[rows, outputs]
    for y in starts[0]:
        for x in starts[1]:
            patched = images.copy()
            for image in patched:
                image[y : y + size, x : x + size] = image.reshape(-1, 3).mean(axis=0).round()
            mean = images.reshape(2, -1, 3).mean(axis=1).round()
            patched[:, y : y + size, x : x + size] = mean[:, None, None]
            drop = before - model.predict_on_batch(patched)[rows, outputs]
            expected[:, y : y + size, x : x + size] += drop[:, None, None]
            count[y : y + size, x : x + size] += 1
    found = occlusion_maps(model, images, outputs, size=size, stride=stride, batch_size=11)
    np.testing.assert_allclose(found, expected / count, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [(33, 1), (4, 5), (4, 0)])
def test_patches_that_leave_pixels_uncovered_are_refused(size, stride):
    with pytest.raises(UsageError, match=f"patches of {size} px, {stride} px apart"):
        occlusion_maps(random_net(), noise(1), np.array([0]), size=size, stride=stride)


def test_agreement_is_spearmans_and_0_where_nothing_is_ranked():
    generator = np.random.default_rng(8)
    first = np.maximum(generator.normal(0, 1, (3, 6, 7)), 0).astype(np.float32)  # ties
    second = (first + generator.normal(0, 1, first.shape)).astype(np.float32)
    second[2] = 0.5
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first[:2], second[:2], strict=True)]
    np.testing.assert_allclose(agreement(first, second), [*expected, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(agreement(first, -(first**3)), -1, rtol=0, atol=1e-12)


# Batches, layers, models ----------------------------------------------------------------------------


def test_neither_the_batch_size_nor_short_memory_changes_a_map():
    model, images, outputs = random_net(), noise(7), np.arange(7) % 3
    expected = heat_maps(model, images, outputs)
    np.testing.assert_allclose(heat_maps(model, images, outputs, batch_size=3), expected, atol=1e-6)
    inner, seen = InnerMap(model), []
    compute = inner._compute

    def narrow(batch, asked):
        seen.append(len(batch))
        if len(batch) > 2:
            raise MemoryError
        return compute(batch, asked)

    inner._compute = narrow
    np.testing.assert_allclose(inner.heat_maps(images, outputs, batch_size=8), expected, atol=1e-6)
    assert set(seen) == {8, 4, 2}


def test_no_images_give_no_maps():
    none, outputs = noise(0), np.zeros(0, np.int64)
    assert heat_maps(random_net(), none, outputs).shape == (0, HEIGHT, WIDTH)
    assert occlusion_maps(random_net(), none, outputs).shape == (0, HEIGHT, WIDTH)


def test_explaining_leaves_the_model_as_it_was():
    model = random_net()
    config, before = model.get_config(), model.predict_on_batch(noise())
    heat_maps(model, noise(), np.zeros(4, np.int64), layer="conv1")
    assert model.get_config() == config
    np.testing.assert_array_equal(model.predict_on_batch(noise()), before)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        ("nowhere", "no layer is called 'nowhere'"),
        ("stage2_block1_conv1", "not all that the logits come from goes through stage2_block1_conv1"),
        ("logits", "the output of logits is no map"),
        ("pool", "the output of pool is no map"),
    ],
)
def test_a_layer_that_shows_nothing_is_refused_with_some_that_do(layer, why):
    model = catalogue.build("resnet20", 2, (32, 32))
    with pytest.raises(UsageError, match=why) as refused:
        heat_maps(model, noise(1)[:, :, :32], np.array([0]), layer=layer)
    for name in ("stage1_block3_relu2", "stage2_block3_relu2", "stage3_block3_relu2"):
        assert name in str(refused.value)
        assert InnerMap(model, name).layer == name


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match=r"unknown method 'cam'; there are grad-cam, grad-cam\+\+"):
        heat_maps(random_net(), noise(1), np.array([0]), method="cam")


def test_the_default_is_the_last_map_of_several_places():
    """A ResNet-18 of 32 px ends in a map of one place, which cannot say where."""
    assert InnerMap(catalogue.build("resnet20", 2, (32, 32))).layer == "stage3_block3_relu2"
    small = InnerMap(catalogue.build("resnet18", 2, (32, 32)))
    assert (small.layer, small.size) == ("stage3_block2_relu2", (2, 2))


def test_a_model_within_a_model_is_looked_into():
    """Pooling and all: what is explained is the map before it."""
    inside = colour_net()
    image = keras.Input((HEIGHT, WIDTH, 3))
    backbone = keras.Model(inside.input, inside.get_layer("pool").output, name="backbone")
    head = keras.Sequential([keras.Input((2,)), layers.Dense(2, use_bias=False, name="last")], name="head")
    model = keras.Model(image, head(backbone(image)))
    head.get_layer("last").kernel.assign(np.eye(2))
    images, outputs = np.stack([with_square({RED: (4, 6), BLUE: (20, 26)})] * 2), np.array([0, 1])
    assert InnerMap(model).layer == "relu1"
    np.testing.assert_allclose(
        heat_maps(model, images, outputs), heat_maps(inside, images, outputs), rtol=0, atol=1e-6
    )


# Overlay --------------------------------------------------------------------------------------------


def test_an_overlay_is_lighter_the_hotter_it_is_in_grey_print_too():
    heat = np.tile(np.linspace(0, 1, 50, dtype=np.float32), (10, 1))
    for level in (0, 90, 180):
        shown = overlay(np.full((10, 50, 3), level, np.uint8), heat)
        assert shown.shape == (10, 50, 3) and shown.dtype == np.uint8
        grey = shown @ np.array([0.299, 0.587, 0.114])
        assert (grey[:, -1] > grey[:, 0] + 50).all()
        assert (shown[:, 0] == shown[:, 0, :1]).all()  # without heat the image alone, in grey
