"""One builder for every ResNet of the table in variants.py; a name in, a stock Keras model out.

The model takes (B, H, W, 3) images with values 0..255, normalises them itself, and ends in logits.
Layer names are part of the file format and do not change.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
from keras import layers

from rightfit.errors import UsageError
from rightfit.nets.counting import Counter
from rightfit.nets.layers import channels_last
from rightfit.nets.variants import VARIANTS, Variant, variant_named

FIRST_WEIGHTS, LEFT_OUT = (
    3,
    5,
)  # these streams of random numbers; data/loader.py has 1 and 2, training/head.py 4


@channels_last()
def build(
    name: str,
    outputs: int,
    image_size: tuple[int, int],
    seed: int = 0,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> keras.Model:
    """The ResNet called `name` for images of `image_size` (height, width), as a float32 Keras model.

    Input (B, H, W, 3), 0..255; output (B, outputs) logits. Weights are drawn from
    `default_rng([seed, FIRST_WEIGHTS, layer])`, so they are the same on every backend. `dropout` is
    the rate before the last layer (and between a wide net's convolutions); `stochastic_depth` the
    chance that the last block is skipped in a training step, rising linearly from 0 (Huang et al.
    2016). Raises UsageError for an unknown name or an image under 8 px.
    """
    model = _assemble(name, outputs, image_size, dropout, stochastic_depth, seed)
    initialise(model, seed)
    return model


def describe(name: str, outputs: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `name` costs, counted without making a layer: trainable parameters, and multiply-adds of
    convolutions and dense layers for one image."""
    counter = Counter()
    x = Builder(variant_named(name), layers=counter).features(counter.image(*image_size))
    counter.Dense(outputs)(counter.GlobalAveragePooling2D()(x))
    return {
        "name": name,
        "parameters": counter.parameters,
        "multiply_adds": counter.multiply_adds,
        "paper": VARIANTS[name].paper,
    }


def weight_shapes(name: str, outputs: int) -> dict[str, tuple[int, ...]]:
    """`layer/variable` -> shape of every weight of `name`, without making one."""
    with keras.StatelessScope():
        model = _assemble(name, outputs, (32, 32))
    return {f"{layer.name}/{v.name}": tuple(v.shape) for layer in model.layers for v in layer.weights}


def initialise(model: keras.Model, seed: int) -> None:
    """Draw kernels from coordinates: He normal by fan-out for convolutions, small normal for the head.

    Of other libraries' nets, dense layers within the net are drawn Glorot normal, depthwise kernels He
    normal by fan-in (fan-out is the same), but without He's factor 2 where a pointwise one follows at
    once. A kernel that starts as a constant keeps it.
    """
    for index, layer in enumerate(model.layers):
        for number, (kernel, deviation) in enumerate(_kernels(layer)):
            place = [seed, FIRST_WEIGHTS, index] + ([number] if number else [])
            draws = np.random.default_rng(place).normal(0, deviation, kernel.shape)
            kernel.assign(draws.astype("float32"))


def _kernels(layer: Any) -> list[tuple[Any, float]]:
    """A layer's kernels, each with the deviation it starts with."""
    if isinstance(layer, layers.SeparableConv2D):
        rows, columns, _, multiplier = layer.depthwise_kernel.shape
        pointwise = np.sqrt(2.0 / layer.pointwise_kernel.shape[-1])
        return [
            (layer.depthwise_kernel, np.sqrt(1.0 / (rows * columns * multiplier))),
            (layer.pointwise_kernel, pointwise),
        ]
    if isinstance(layer, layers.DepthwiseConv2D):
        if isinstance(layer.depthwise_initializer, keras.initializers.Constant):
            return []
        rows, columns, _, multiplier = layer.kernel.shape
        return [(layer.kernel, np.sqrt(2.0 / (rows * columns * multiplier)))]
    if isinstance(layer, layers.Conv2D):
        shape = layer.kernel.shape
        return [(layer.kernel, np.sqrt(2.0 / (shape[0] * shape[1] * shape[3] / layer.groups)))]
    if isinstance(layer, layers.Dense):
        return [(layer.kernel, 0.01 if layer.name == "logits" else np.sqrt(2.0 / sum(layer.kernel.shape)))]
    return []


def _assemble(
    name: str,
    outputs: int,
    image_size: tuple[int, int],
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    seed: int = 0,
) -> keras.Model:
    variant = variant_named(name)
    if min(image_size) < 8:
        raise UsageError(
            f"image size {image_size[0]}x{image_size[1]}: ResNets here need at least 8 px a side"
        )
    # Keras walks a model's graph by recursion, a few calls a layer; 1,202 layers pass Python's limit.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 60 * sum(variant.depths)))
    inputs = keras.Input((*image_size, 3), dtype="float32", name="image")
    scale = [1 / d for d in variant.deviation]
    offset = [-m / d for m, d in zip(variant.mean, variant.deviation, strict=True)]
    x = layers.Rescaling(scale, offset, name="normalise")(inputs)
    builder = Builder(variant, dropout, stochastic_depth, seed=seed)
    x = builder.features(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    if dropout:
        x = builder.leave_out(dropout, "dropout")(x)
    return keras.Model(inputs, layers.Dense(outputs, name="logits")(x), name=name)


class Builder:
    """The layers of one variant; every method takes and returns (B, H, W, C) tensors."""

    def __init__(
        self,
        variant: Variant,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        layers: Any = layers,
        seed: int = 0,
    ) -> None:
        self.variant = variant
        self.layers = layers  # Keras' own, or something that only counts
        self.dropout = dropout
        self.stochastic_depth = stochastic_depth
        self.seed = seed
        self.random_layers = 0
        self.block = {"basic": self.basic, "bottleneck": self.bottleneck}[variant.block]

    def features(self, x: Any) -> Any:
        variant = self.variant
        x = getattr(self, f"{variant.stem}_stem")(x)
        number, blocks = 0, sum(variant.depths)
        for stage, depth in enumerate(variant.depths, start=1):
            strided = 1 if variant.stride_at == "first" else depth
            stage_stride = 1 if stage == (len(variant.depths) if variant.stride_at == "last" else 1) else 2
            for index in range(1, depth + 1):
                stride = stage_stride if index == strided else 1
                number += 1
                skipped = self.stochastic_depth * number / blocks
                width = variant.width * 2 ** (stage - 1)
                x = self.block(x, width, stride, f"stage{stage}_block{index}", skipped)
        return self.norm_relu(x, "final") if variant.preact else x

    def cifar_stem(self, x: Any) -> Any:
        """(B, H, W, 3) -> (B, H, W, 16); He et al. 2016, section 4.2."""
        x = self.conv(x, self.variant.stem_width, 3, 1, "stem_conv")
        return x if self.variant.preact else self.norm_relu(x, "stem")

    def imagenet_stem(self, x: Any) -> Any:
        """(B, H, W, 3) -> (B, H/4, W/4, 64); He et al. 2016, table 1."""
        x = self.conv(x, self.variant.stem_width, 7, 2, "stem_conv", bias=self.variant.stem_bias)
        return self.pool(x if self.variant.preact else self.norm_relu(x, "stem"))

    def deep_stem(self, x: Any) -> Any:
        """(B, H, W, 3) -> (B, H/4, W/4, 64) by three 3x3; He et al. 2019 (Bag of Tricks), ResNet-C and -D."""
        half = self.variant.stem_width // 2
        x = self.norm_relu(self.conv(x, half, 3, 2, "stem_conv1"), "stem_1")
        x = self.norm_relu(self.conv(x, half, 3, 1, "stem_conv2"), "stem_2")
        x = self.conv(x, self.variant.stem_width, 3, 1, "stem_conv3")
        return self.pool(self.norm_relu(x, "stem_3"))

    def pool(self, x: Any) -> Any:
        """3x3 maximum, stride 2, padded as the variant's weights were trained."""
        padding = self.variant.pool_padding
        if padding == "same":
            return self.layers.MaxPooling2D(3, 2, "same", name="stem_pool")(x)
        if (
            padding == "infinite"
        ):  # the same places as "zero"; stock layers know no such padding with stride 2
            x = self.layers.MaxPooling2D(3, 1, "same", name="stem_pool")(x)
            return self.layers.MaxPooling2D(1, 2, name="stem_pool_stride")(x)
        x = self.layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
        return self.layers.MaxPooling2D(3, 2, name="stem_pool")(x)

    def basic(self, x: Any, width: int, stride: int, name: str, skipped: float) -> Any:
        """(B, H, W, C) -> (B, H/stride, W/stride, width); He et al. 2016, figure 5 left."""
        if self.variant.preact:
            a = self.norm_relu(x, f"{name}_1")
            y = self.norm_relu(self.conv(a, width, 3, stride, f"{name}_conv1"), f"{name}_2")
            if self.dropout and self.variant.wide:
                y = self.leave_out(self.dropout, f"{name}_dropout")(y)
            y = self.conv(y, width, 3, 1, f"{name}_conv2")
            return self.add(y, self.preact_shortcut(x, a, width, stride, name), name, skipped)
        y = self.norm_relu(self.conv(x, width, 3, stride, f"{name}_conv1"), f"{name}_1")
        y = self.squeeze(self.norm(self.conv(y, width, 3, 1, f"{name}_conv2"), f"{name}_norm2"), name)
        return self.relu(self.add(y, self.shortcut(x, width, stride, name), name, skipped), f"{name}_relu2")

    def bottleneck(self, x: Any, width: int, stride: int, name: str, skipped: float) -> Any:
        """(B, H, W, C) -> (B, H/stride, W/stride, 4*width); He et al. 2016, figure 5 right.

        The 3x3 is `groups` convolutions side by side, together inner_width wide (Xie et al. 2017).
        """
        variant = self.variant
        first, second = (stride, 1) if variant.stride_in == "1x1" else (1, stride)
        inner = width * variant.group_width // 64 * variant.groups
        if variant.preact:
            a = self.norm_relu(x, f"{name}_1")
            y = self.norm_relu(self.conv(a, inner, 1, first, f"{name}_conv1"), f"{name}_2")
            y = self.norm_relu(self.conv(y, inner, 3, second, f"{name}_conv2"), f"{name}_3")
            y = self.conv(y, 4 * width, 1, 1, f"{name}_conv3")
            return self.add(y, self.preact_shortcut(x, a, 4 * width, stride, name), name, skipped)
        y = self.norm_relu(self.conv(x, inner, 1, first, f"{name}_conv1"), f"{name}_1")
        y = self.norm_relu(self.conv(y, inner, 3, second, f"{name}_conv2", variant.groups), f"{name}_2")
        y = self.squeeze(self.norm(self.conv(y, 4 * width, 1, 1, f"{name}_conv3"), f"{name}_norm3"), name)
        return self.relu(
            self.add(y, self.shortcut(x, 4 * width, stride, name), name, skipped), f"{name}_relu3"
        )

    def shortcut(self, x: Any, channels: int, stride: int, name: str) -> Any:
        """The identity where shapes agree, else a 1x1 projection: option B of He et al. 2016, section 3.3.
        ResNet-D averages first, so that the projection sees every pixel (He et al. 2019)."""
        if self.keeps_shape(x, channels, name):
            return (
                x if stride == 1 else self.layers.MaxPooling2D(1, stride, name=f"{name}_shortcut_stride")(x)
            )
        if self.variant.average_shortcut and stride > 1:
            x = self.layers.AveragePooling2D(stride, stride, "same", name=f"{name}_shortcut_pool")(x)
            stride = 1
        return self.norm(self.conv(x, channels, 1, stride, f"{name}_shortcut_conv"), f"{name}_shortcut_norm")

    def preact_shortcut(self, x: Any, activated: Any, channels: int, stride: int, name: str) -> Any:
        """The raw identity where shapes agree, else a 1x1 projection of the activated input (He et al. 2016b)."""
        if self.keeps_shape(x, channels, name):
            return (
                x if stride == 1 else self.layers.MaxPooling2D(1, stride, name=f"{name}_shortcut_stride")(x)
            )
        return self.conv(activated, channels, 1, stride, f"{name}_shortcut_conv")

    def keeps_shape(self, x: Any, channels: int, name: str) -> bool:
        """Whether the block's shortcut needs no projection."""
        return x.shape[-1] == channels and not (self.variant.project_first and name == "stage1_block1")

    def squeeze(self, x: Any, name: str) -> Any:
        """Scale channels by a gate computed from their means (Hu et al. 2018), reduced 16 times, to 8 at least
        (as in timm; the paper leaves shallow nets open)."""
        if not self.variant.squeeze:
            return x
        channels = x.shape[-1]
        gate = self.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(x)
        gate = self.relu(
            self.layers.Conv2D(max(8, channels // 16), 1, name=f"{name}_reduce")(gate), f"{name}_reduce_relu"
        )
        gate = self.layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_expand")(gate)
        return self.layers.Multiply(name=f"{name}_scale")([x, gate])

    def add(self, residual: Any, shortcut: Any, name: str, skipped: float) -> Any:
        if skipped:
            residual = self.leave_out(skipped, f"{name}_stochastic_depth", (None, 1, 1, 1))(residual)
        return self.layers.Add(name=f"{name}_add")([residual, shortcut])

    def leave_out(self, rate: float, name: str, shape: tuple[int | None, ...] | None = None) -> Any:
        """Dropout with a stream of its own: layers of one seed would all leave out the same places."""
        self.random_layers += 1
        stream = np.random.default_rng([self.seed, LEFT_OUT, self.random_layers])
        return self.layers.Dropout(rate, noise_shape=shape, seed=int(stream.integers(2**31)), name=name)

    def conv(
        self, x: Any, channels: int, kernel: int, stride: int, name: str, groups: int = 1, bias: bool = False
    ) -> Any:
        """Convolution, padded by kernel // 2 on every side.

        With stride 2 Keras' "same" would pad one side only, which is another net than the papers'
        reference code computes; so the padding is a layer of its own there, unless the variant
        belongs to weights that were trained with "same".
        """
        padding = "same"
        if stride > 1 and kernel > 1 and self.variant.padding == "symmetric":
            x = self.layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
            padding = "valid"
        return self.layers.Conv2D(channels, kernel, stride, padding, groups=groups, use_bias=bias, name=name)(
            x
        )

    def norm_relu(self, x: Any, name: str) -> Any:
        """`stage1_block1_1` names stage1_block1_norm1 and stage1_block1_relu1; `stem` stem_norm and stem_relu."""
        place, _, number = name.rpartition("_") if name[-1].isdigit() else (name, "", "")
        return self.relu(self.norm(x, f"{place}_norm{number}"), f"{place}_relu{number}")

    def norm(self, x: Any, name: str) -> Any:
        """Batch normalisation, scale starting at one as in He et al. 2016.

        Starting each block's last scale at zero (Goyal et al. 2017) helps very large batches; on 8,000
        Fashion-MNIST images it cost nine points of accuracy after four epochs.
        """
        return self.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)

    def relu(self, x: Any, name: str) -> Any:
        return self.layers.ReLU(name=name)(x)
