"""What each layer makes of the same weights and images on KERAS_BACKEND: `layers.py FILE.npz` writes it there.

For each case `NAME` holds the output and, of the layers that rightfit trains, `NAME: gradient` the gradient that
reaches the input; what raised holds its words. Sizes are odd and even, values include zeros and equal neighbours.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from keras import layers, ops

BACKEND = keras.backend.backend()
MASKED = {"at the end": slice(4, 6), "within": slice(2, 4), "at the start": slice(0, 2)}
IMAGE, SERIES, FEATURES = (2, 7, 10, 4), (3, 6, 5), (5, 8)


def cases():
    """(name, layer, shape of its input[, how it is called]); with a gradient where the name ends in a star."""
    for padding in ("same", "valid"):
        for stride in (1, 2, 3):
            window = {"strides": stride, "padding": padding}
            at = f"stride {stride}, {padding}"
            learnt = "*" if stride == 2 else ""  # a gradient costs as much again to compile
            for size in (1, 2, 3):
                yield f"Conv2D {size}x{size}, {at}{learnt}", layers.Conv2D(3, size, **window), IMAGE
            spread = layers.DepthwiseConv2D(3, depth_multiplier=2, **window)
            yield f"DepthwiseConv2D 3x3, {at}{learnt}", spread, IMAGE
            for size in (2, 3, 4):
                yield f"Conv2DTranspose {size}x{size}, {at}", layers.Conv2DTranspose(3, size, **window), IMAGE
                average = layers.AveragePooling2D(size, **window)
                yield f"AveragePooling2D {size}x{size}, {at}{learnt}", average, IMAGE
            for size in (2, 3):
                yield f"MaxPooling2D {size}x{size}, {at}{learnt}", layers.MaxPooling2D(size, **window), IMAGE
        window = {"strides": 2, "padding": padding}
        yield f"Conv2D 7x7, stride 2, {padding}", layers.Conv2D(3, 7, **window), (2, 15, 12, 3)
        yield f"Conv2D 3x3 in 2 groups, stride 2, {padding}", layers.Conv2D(4, 3, groups=2, **window), IMAGE
        yield f"SeparableConv2D 3x3, stride 2, {padding}", layers.SeparableConv2D(3, 3, **window), IMAGE
        yield f"Conv1D 3, stride 2, {padding}", layers.Conv1D(3, 3, **window), SERIES
        yield (
            f"Conv2D 3x3, dilation 2, {padding}",
            layers.Conv2D(3, 3, dilation_rate=2, padding=padding),
            IMAGE,
        )
        spread = layers.DepthwiseConv2D(3, dilation_rate=2, padding=padding)
        yield f"DepthwiseConv2D 3x3, dilation 2, {padding}", spread, IMAGE
        yield f"MaxPooling1D 3, stride 2, {padding}", layers.MaxPooling1D(3, 2, padding), SERIES
        yield f"AveragePooling1D 3, stride 2, {padding}", layers.AveragePooling1D(3, 2, padding), SERIES
    yield "Conv1D 3, causal", layers.Conv1D(3, 3, padding="causal"), SERIES
    wider = layers.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1)
    yield "Conv2DTranspose 3x3, output_padding 1, same", wider, IMAGE
    yield "Conv2D 3x3 of a picture smaller than it*", layers.Conv2D(3, 3, padding="same"), (2, 1, 2, 4)
    yield "ZeroPadding2D*", layers.ZeroPadding2D(((1, 0), (2, 3))), IMAGE
    yield "Cropping2D*", layers.Cropping2D(((1, 2), (0, 3))), IMAGE
    for kind in ("GlobalAveragePooling2D", "GlobalMaxPooling2D"):
        yield f"{kind}*", getattr(layers, kind)(), IMAGE
    for way in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"):
        yield f"UpSampling2D {way}", layers.UpSampling2D(2, interpolation=way), IMAGE
        yield f"Resizing {way}, larger", layers.Resizing(13, 11, interpolation=way), IMAGE
        yield f"Resizing {way}, smaller", layers.Resizing(3, 4, interpolation=way), IMAGE
    smooth = layers.Resizing(3, 4, antialias=True)
    yield "Resizing bilinear, smaller, antialias", smooth, IMAGE
    yield "CenterCrop", layers.CenterCrop(3, 5), IMAGE
    yield from normalisations()
    yield from activations()
    yield from arithmetic()
    yield from recurrent()


def normalisations():
    for epsilon in (1e-3, 1e-5):
        yield f"BatchNormalization, epsilon {epsilon}*", layers.BatchNormalization(epsilon=epsilon), IMAGE
        yield f"LayerNormalization, epsilon {epsilon}*", layers.LayerNormalization(epsilon=epsilon), IMAGE
    norm = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)
    norm.build(IMAGE)

    def learning(x):
        """Outputs of training, and the statistics after it."""
        y = norm(x, training=True)
        numbers = [ops.reshape(y, (-1,)), *(ops.convert_to_tensor(w) for w in norm.non_trainable_weights)]
        return ops.concatenate(numbers)

    yield "BatchNormalization in training", norm, IMAGE, learning
    yield "LayerNormalization of several axes", layers.LayerNormalization(axis=[1, 2, 3]), IMAGE
    yield "GroupNormalization", layers.GroupNormalization(2), IMAGE
    yield "RMSNormalization", layers.RMSNormalization(), FEATURES
    yield "UnitNormalization", layers.UnitNormalization(), FEATURES


def activations():
    for name in (
        "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "silu", "gelu", "sigmoid", "log_sigmoid", "hard_sigmoid",
        "hard_silu", "hard_tanh", "tanh", "softplus", "softsign", "softmax", "log_softmax", "exponential", "mish",
        "squareplus", "tanh_shrink", "hard_shrink", "soft_shrink", "glu", "sparsemax",
    ):  # fmt: skip
        yield f"{name}*", layers.Activation(name), FEATURES
    approximate = layers.Activation(lambda x: keras.activations.gelu(x, approximate=True))
    yield "gelu, approximate", approximate, FEATURES
    yield "ReLU 6, slope 0.1, threshold 0.5*", layers.ReLU(6.0, 0.1, 0.5), FEATURES
    yield "LeakyReLU", layers.LeakyReLU(), FEATURES
    yield "PReLU", layers.PReLU(), FEATURES
    yield "Softmax", layers.Softmax(), FEATURES


def arithmetic():
    yield "Dense*", layers.Dense(3), FEATURES
    yield "Dense of a map*", layers.Dense(3), IMAGE
    yield "Rescaling*", layers.Rescaling([0.5, 2.0, 1.0, 3.0], 0.25), IMAGE
    yield "Normalization", layers.Normalization(mean=[1.0] * 8, variance=[2.0] * 8), FEATURES
    yield "Reshape*", layers.Reshape((10, 28)), IMAGE
    yield "Flatten", layers.Flatten(), IMAGE
    yield "Permute", layers.Permute((3, 1, 2)), IMAGE
    yield "RepeatVector", layers.RepeatVector(3), FEATURES
    for kind in ("Add", "Multiply", "Subtract", "Average", "Maximum", "Minimum", "Concatenate"):
        layer = getattr(layers, kind)()
        yield f"{kind}*", layer, IMAGE, lambda x, layer=layer: layer([x, ops.flip(x, 1)])
    dot, table = layers.Dot(1), layers.Embedding(9, 3)
    table.build()
    yield "Dot", dot, FEATURES, lambda x: dot([x, ops.flip(x, 0)])
    yield "Embedding", table, FEATURES, lambda x: table(ops.cast(ops.abs(x), "int32"))
    heads = layers.MultiHeadAttention(2, 4)
    heads.build(SERIES, SERIES)
    yield "MultiHeadAttention", heads, SERIES, lambda x: heads(x, x)
    yield "MultiHeadAttention, causal", heads, SERIES, lambda x: heads(x, x, use_causal_mask=True)
    leaving = layers.Dropout(0.3, seed=1)

    def left_out(x):
        """What stays is divided by the share that does, and the mean is kept; the draw is each backend's own."""
        y = leaving(ops.ones((100, 100)), training=True)
        return ops.stack([ops.max(y) * 0.7, ops.min(y), ops.cast(ops.abs(ops.mean(y) - 1) < 0.05, "float32")])

    yield "Dropout", leaving, FEATURES, left_out


def recurrent():
    for kind in ("SimpleRNN", "GRU", "LSTM"):
        make = getattr(layers, kind)
        yield kind, make(4), SERIES
        yield f"{kind}, sequences, backwards", make(4, return_sequences=True, go_backwards=True), SERIES
        for masked in MASKED:
            mask = np.ones(SERIES[:2], bool)
            mask[1, MASKED[masked]] = False
            layer = make(4, return_sequences=True)
            layer.build(SERIES)
            name = f"{kind}, masked {masked}"
            yield name, layer, SERIES, lambda x, layer=layer, mask=mask: layer(x, mask=mask)
    yield "GRU, reset before", layers.GRU(4, reset_after=False), SERIES
    yield "Bidirectional LSTM", layers.Bidirectional(layers.LSTM(4)), SERIES


def numbers(shape, seed):
    """Normal; a third of them whole numbers, so that zeros and equal neighbours are among them."""
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 2, shape)
    return np.where(generator.random(shape) < 1 / 3, np.rint(values), values).astype("float32")


def weigh(layer):
    for index, variable in enumerate(layer.weights):
        if "float" in variable.dtype:
            values = numbers(variable.shape, 100 + index) / 4
            variable.assign(np.abs(values) + 0.1 if "variance" in variable.name else values)


def with_gradient(layer, x, weights):
    """The output, and the gradient of its sum with `weights` at x."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            total = tf.reduce_sum(y * weights(y.shape))
        return y, tape.gradient(total, x)
    if BACKEND == "jax":
        import jax

        def total(x):
            y = layer(x)
            return (y * weights(y.shape)).sum(), y

        gradient, y = jax.jit(jax.grad(total, has_aux=True))(x)
        return y, gradient
    import torch

    x = torch.tensor(x, requires_grad=True)
    y = layer(x)
    (y * torch.tensor(weights(tuple(y.shape)))).sum().backward()
    return y, x.grad


def compiled(call):
    """On JAX, where one operator after the other is compiled by itself otherwise; what changes its layer is not."""
    if BACKEND != "jax" or getattr(call, "__name__", "") in ("learning", "left_out"):
        return call
    import jax

    return jax.jit(call)


def main():
    found = {}
    for name, layer, shape, *way in cases():
        call, x = way[0] if way else layer, numbers(shape, 7)
        with_one, name = name.endswith("*"), name.rstrip("*")
        try:
            if not way:
                layer(keras.KerasTensor(shape, "float32"))  # makes the weights
            weigh(layer)
            if with_one:
                y, gradient = with_gradient(call, x, lambda shape: numbers(shape, 8))
                found[f"{name}: gradient"] = ops.convert_to_numpy(gradient)
            else:
                y = compiled(call)(ops.convert_to_tensor(x))
            found[name] = ops.convert_to_numpy(y)
        except Exception as error:  # told to the test
            found[name] = np.array(f"{type(error).__name__}: {error}"[:300])
    np.savez(sys.argv[1], **found)


if __name__ == "__main__":
    main()
