"""Fused and stock layers are one net: the same logits, gradients and statistics on each backend.

A backend is chosen before Keras is imported, so each is observed in a process of its own
(`python test_layers.py` prints what it saw) and judged here.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Of the largest magnitude in each tensor. One float32 rounding is 6e-8; a sum over the
# 10^3..10^4 terms of a convolution or of a channel's statistics, in another order, costs some
# 1e-6, and the backward pass carries that through 8 to 50 layers. A wrong epsilon (1.001e-5 for
# 1e-5) or a sample variance for a population variance is far over it.
ROUNDING = 1e-4
# bfloat16 keeps 8 bits (4e-3 a rounding); independent roundings in some 8 layers add up to about
# sqrt(8) of them in inference.
BFLOAT16_DISTANCE = 3e-2

# Image size in px, batch size. At 72 px a strided 1x1 convolution meets odd sizes (9 and 5), and the
# last stages are small enough for the weight gradient by matrix product, strided and not.
NETS = {"resnet8": (16, 8), "half of resnet50": (72, 4)}  # two blocks of each stage
BACKENDS = ["tensorflow", "torch", "jax"]


@pytest.fixture(params=BACKENDS)
def seen(request) -> dict[str, Any]:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return observed(request.param)


@functools.cache
def observed(backend: str) -> dict[str, Any]:
    environment = os.environ | {"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(Path(__file__))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_the_fused_model_runs_on_fused_kernels(seen):
    expected = {
        "tensorflow": ["TensorFlowBatchNormalization"],
        "torch": ["TorchBatchNormalization"],
        "jax": ["BatchNormalization"],
    }
    assert seen["norm classes"] == expected[seen["backend"]]


def test_slow_weight_gradients_are_taken_another_way_where_the_shapes_ask_for_it(seen):
    expected = {
        "stage3_block1_shortcut_conv": "_strided_gradient",
        "stage4_block1_shortcut_conv": "_strided_gradient",
        "stage4_block1_conv2": "_shifted_gradient",
        "stage4_block2_conv2": "_shifted_gradient",
    }
    assert seen["other gradients"] == (expected if seen["backend"] == "tensorflow" else {})


def test_in_bfloat16_more_shapes_ask_for_it(seen):
    ways = seen["other gradients in bfloat16"]
    if seen["backend"] != "tensorflow":
        assert ways == {}
        return
    large = {"stage1_block1_conv1", "stage1_block1_conv2", "stage1_block1_conv3", "stem_conv"}
    assert not large & set(ways)  # maps of 38 x 38 and more
    assert ways["stage3_block2_conv1"] == ways["stage3_block1_shortcut_conv"] == "_product_gradient"
    assert ways["stage4_block2_conv2"] == "_shifted_gradient"


def test_every_way_to_a_weight_gradient_gives_the_kernels(seen):
    ways = seen["distance of other ways"]
    assert len(ways) == (5 if seen["backend"] == "tensorflow" else 0)
    assert all(distance < ROUNDING for distance in ways.values()), ways


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("what", ["inference logits", "training logits", "gradients", "statistics"])
def test_fused_and_stock_compute_the_same(seen, net, what):
    assert seen[net][what] < ROUNDING


@pytest.mark.parametrize("net", NETS)
def test_the_comparison_sees_every_weight_and_moves_every_statistic(seen, net):
    assert seen[net]["smallest gradient"] > 0
    assert seen[net]["smallest move"] > 1e-3


def test_one_value_per_channel_has_a_mean_and_no_variance(seen):
    one = seen["one pixel"]
    assert one["finite"]
    assert one["logits"] < ROUNDING
    assert one["statistics"] < ROUNDING
    # Keras' momentum 0.9 and a variance of nothing: 0.9 of the old moving variance.
    assert one["variance kept"] == pytest.approx(0.9, rel=1e-6)


def test_a_frozen_layer_uses_its_moving_statistics(seen):
    frozen = seen["frozen"]
    assert frozen["still trainable"] == []
    assert frozen["training is inference"]
    assert frozen["statistics moved"] == 0.0
    assert frozen["half frozen, from stock"] < ROUNDING
    assert frozen["half frozen, from inference"] > 1e-2


def test_stock_undoes_fused(seen):
    back = seen["back"]
    assert back["foreign classes"] == []
    assert back["same weights"]
    assert back["same names"]
    assert back["dtypes"] == ["float32"]


def test_bfloat16_computes_in_bfloat16_and_answers_in_float32(seen):
    half = seen["bfloat16"]
    assert half["logits dtype"] == "float32"
    assert half["weight dtypes"] == ["float32"]
    assert half["convolution dtypes"] == ["bfloat16"]
    assert half["norm dtypes"] == ["bfloat16"]
    assert 0 < half["inference distance"] < BFLOAT16_DISTANCE


def observe() -> dict[str, Any]:
    import keras

    from rightfit.nets import layers
    from rightfit.nets.variants import VARIANTS

    VARIANTS["half of resnet50"] = replace(VARIANTS["resnet50"], depths=(2, 2, 2, 2))
    seen: dict[str, Any] = {"backend": keras.backend.backend()}
    for name, (size, batch) in NETS.items():
        seen[name] = observe_net(name, size, batch)
    seen["other gradients"] = observe_other_gradients("float32", NETS["half of resnet50"][0])
    seen["other gradients in bfloat16"] = observe_other_gradients("bfloat16", 150)
    seen["distance of other ways"] = observe_ways() if seen["backend"] == "tensorflow" else {}
    net, images, _ = scrambled("resnet8", *NETS["resnet8"])
    fused = layers.fused(net)
    seen["norm classes"] = sorted({type(norm).__name__ for norm in norms(fused)})
    seen["back"] = observe_back(net, layers.stock(layers.fused(net, "bfloat16")))
    seen["frozen"] = observe_frozen(net, images)
    seen["one pixel"] = observe_one_pixel()
    seen["bfloat16"] = observe_bfloat16(net, images)
    return seen


def scrambled(name: str, size: int, batch: int) -> tuple[Any, np.ndarray, np.ndarray]:
    """A net whose every weight and statistic matters, images and labels; drawn from coordinates."""
    from rightfit.nets import resnet

    net = resnet.build(name, 5, (size, size))
    scramble(net)
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (batch, size, size, 3)).astype("float32")
    return net, images, rng.integers(0, 5, batch)


def scramble(net: Any) -> None:
    for index, norm in enumerate(norms(net)):
        rng = np.random.default_rng([2, index])
        shape = norm.gamma.shape
        norm.gamma.assign(rng.uniform(0.5, 1.5, shape))
        norm.beta.assign(rng.normal(0, 0.3, shape))
        norm.moving_mean.assign(rng.normal(0, 0.3, shape))
        norm.moving_variance.assign(rng.uniform(0.5, 2.0, shape))


def norms(net: Any) -> list[Any]:
    import keras

    return [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]


def statistics(net: Any) -> list[np.ndarray]:
    return [as_numpy(v) for norm in norms(net) for v in (norm.moving_mean, norm.moving_variance)]


def observe_net(name: str, size: int, batch: int) -> dict[str, float]:
    from rightfit.nets import layers

    net, images, labels = scrambled(name, size, batch)
    before = statistics(net)
    fused = layers.fused(net)
    inference = distance([predict(net, images)], [predict(fused, images)])
    logits = [predict(model, images, training=True) for model in (net, fused)]
    even = smooth(net)
    gradients = gradients_of(even, images, labels)
    return {
        "inference logits": inference,
        "training logits": distance(logits[:1], logits[1:]),
        "gradients": distance(gradients, gradients_of(layers.fused(even), images, labels)),
        "statistics": distance(statistics(net), statistics(fused)),
        "smallest gradient": min(float(np.abs(g).max()) for g in gradients),
        "smallest move": min(
            float(np.abs(a - b).max()) for a, b in zip(before, statistics(fused), strict=True)
        ),
    }


def observe_other_gradients(precision: str, size: int) -> dict[str, str]:
    from rightfit.nets import layers, resnet

    fused = layers.fused(resnet.build("half of resnet50", 5, (size, size)), precision)
    ways = {
        layer.name: layer._weight_gradient(tuple(layer.input.shape))
        for layer in fused.layers
        if hasattr(layer, "_weight_gradient")
    }
    return {name: way.__name__ for name, way in ways.items() if way is not None}


def observe_ways() -> dict[str, float]:
    """How far each other way is from TensorFlow's own gradient of the weights, in float32."""
    import tensorflow as tf

    from rightfit.nets.layers import TensorFlowConv2D

    cases = {
        "product": ("_product_gradient", 1, 1, 9, "same"),
        "product, every second": ("_product_gradient", 1, 2, 9, "same"),
        "product, every second of even": ("_product_gradient", 1, 2, 8, "valid"),
        "shifted": ("_shifted_gradient", 3, 1, 5, "same"),
        "shifted, every second": ("_shifted_gradient", 3, 2, 11, "valid"),
    }
    found = {}
    rng = np.random.default_rng(3)
    for name, (way, kernel, stride, side, padding) in cases.items():
        layer = TensorFlowConv2D(6, kernel, stride, padding, use_bias=False)
        images = tf.constant(rng.normal(size=(2, side, side, 4)).astype("float32"))
        upstream = tf.constant(rng.normal(size=layer(images).shape).astype("float32"))
        own = tf.raw_ops.Conv2DBackpropFilter(
            input=images,
            filter_sizes=layer.kernel.shape,
            out_backprop=upstream,
            strides=[1, stride, stride, 1],
            padding=padding.upper(),
        )
        found[name] = distance([own.numpy()], [getattr(layer, way)(images, upstream).numpy()])
    return found


def smooth(net: Any) -> Any:
    """The same net without kinks, so that its gradient is continuous.

    A ReLU whose input is within rounding of zero, or a maximum with two near-equal candidates, may
    open on one path and not on the other: either gradient is right, and they differ by percents.
    """
    import keras

    def smoother(layer: Any) -> Any:
        if isinstance(layer, keras.layers.ReLU):
            return keras.layers.Activation("softplus", name=layer.name)
        if isinstance(layer, keras.layers.MaxPooling2D):
            return keras.layers.AveragePooling2D(layer.pool_size, layer.strides, name=layer.name)
        return type(layer).from_config(layer.get_config())

    even = keras.models.clone_model(net, clone_function=smoother)
    even.set_weights(net.get_weights())
    return even


def observe_back(net: Any, back: Any) -> dict[str, Any]:
    import keras

    foreign = [
        type(x).__name__ for x in back.layers if getattr(keras.layers, type(x).__name__, None) is not type(x)
    ]
    return {
        "foreign classes": foreign,
        "same weights": all(map(np.array_equal, net.get_weights(), back.get_weights())),
        "same names": [x.name for x in net.layers] == [x.name for x in back.layers],
        "dtypes": sorted({layer.dtype_policy.compute_dtype for layer in back.layers}),
    }


def observe_frozen(net: Any, images: np.ndarray) -> dict[str, Any]:
    from rightfit.nets import layers

    for norm in norms(net):
        norm.trainable = False
    frozen = layers.fused(net)
    before = statistics(frozen)
    outputs = predict(frozen, images, training=True)
    seen = {
        "still trainable": [norm.name for norm in norms(frozen) if norm.trainable],
        "training is inference": bool(np.array_equal(outputs, predict(frozen, images))),
        "statistics moved": distance(before, statistics(frozen)),
    }
    for norm in norms(net)[::2]:
        norm.trainable = True
    half = layers.fused(net)
    kept = [layer.get_weights() for layer in (net, half)]
    trained = [predict(model, images, training=True) for model in (net, half)]
    for model, weights in zip((net, half), kept, strict=True):
        model.set_weights(weights)
    seen["half frozen, from stock"] = distance(trained[:1], trained[1:])
    seen["half frozen, from inference"] = distance([predict(half, images)], trained[1:])
    for norm in norms(net):
        norm.trainable = True
    return seen


def observe_one_pixel() -> dict[str, Any]:
    import keras

    from rightfit.nets import layers

    pixel = keras.Input((1, 1, 3))
    x = keras.layers.Conv2D(4, 1, use_bias=False, name="conv")(pixel)
    x = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name="norm")(x)
    net = keras.Model(pixel, keras.layers.GlobalAveragePooling2D(name="pool")(x))
    scramble(net)
    fused = layers.fused(net)
    before = as_numpy(norms(fused)[0].moving_variance)
    image = np.full((1, 1, 1, 3), [0.2, 0.5, 0.9], "float32")
    outputs = [predict(model, image, training=True) for model in (net, fused)]
    kept = as_numpy(norms(fused)[0].moving_variance) / before
    return {
        "finite": bool(
            np.isfinite(outputs[1]).all() and all(np.isfinite(s).all() for s in statistics(fused))
        ),
        "logits": distance(outputs[:1], outputs[1:]),
        "statistics": distance(statistics(net), statistics(fused)),
        "variance kept": float(kept.mean()),
    }


def observe_bfloat16(net: Any, images: np.ndarray) -> dict[str, Any]:
    import keras

    from rightfit.nets import layers

    half = layers.fused(net, "bfloat16")
    convolutions = [layer for layer in half.layers if isinstance(layer, keras.layers.Conv2D)]
    return {
        "logits dtype": keras.backend.standardize_dtype(half(images).dtype),
        "weight dtypes": sorted({weight.dtype for weight in half.weights}),
        "convolution dtypes": sorted({layer.compute_dtype for layer in convolutions}),
        "norm dtypes": sorted({keras.backend.standardize_dtype(x.output.dtype) for x in norms(half)}),
        "inference distance": distance([predict(net, images)], [predict(half, images)]),
    }


def distance(expected: list[np.ndarray], found: list[np.ndarray]) -> float:
    """The largest difference in any tensor, as a part of that tensor's largest magnitude."""
    pairs = zip(expected, found, strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)) for a, b in pairs)


def predict(net: Any, images: np.ndarray, training: bool = False) -> np.ndarray:
    return as_numpy(net(images, training=training))


def as_numpy(tensor: Any) -> np.ndarray:
    import keras

    return np.array(keras.ops.convert_to_numpy(tensor))


def gradients_of(net: Any, images: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The gradient of the mean cross-entropy, in training mode, for every trainable weight."""
    import keras

    backend = keras.backend.backend()

    def loss_of(logits: Any) -> Any:
        losses = keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        return keras.ops.mean(losses)

    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of(net(images, training=True))
        gradients = tape.gradient(loss, net.trainable_weights)
    elif backend == "torch":
        loss_of(net(images, training=True)).backward()
        gradients = [weight.value.grad for weight in net.trainable_weights]
    else:
        import jax

        def forward(trainable: Any, other: Any) -> Any:
            return loss_of(net.stateless_call(trainable, other, images, training=True)[0])

        groups = (net.trainable_variables, net.non_trainable_variables)
        gradients = jax.jit(jax.grad(forward))(*([weight.value for weight in group] for group in groups))
    return [as_numpy(gradient) for gradient in gradients]


if __name__ == "__main__":
    print(json.dumps(observe()))
