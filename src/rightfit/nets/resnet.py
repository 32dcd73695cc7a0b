"""ResNets as a table of variants and one builder; a name in, a stock Keras model out.

The model takes (B, H, W, 3) images with values 0..255, normalises them itself, and ends in logits.
Layer names are part of the file format and do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import keras
import numpy as np
from keras import layers

from rightfit.errors import UsageError

FIRST_WEIGHTS = 3  # this stream of random numbers; data/loader.py has 1 and 2

# Channel means and deviations of ImageNet photographs in 0..255 (torchvision's constants times 255).
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Variant:
    """One row of the table: which block, how often in each stage, how wide, and the stem."""

    block: Callable[..., Any]
    depths: tuple[int, ...]
    width: int
    stem: str  # "cifar": one 3x3 convolution; "imagenet": 7x7 stride 2 and a max pool stride 2
    paper: str


def build(
    name: str,
    outputs: int,
    image_size: tuple[int, int],
    seed: int = 0,
) -> keras.Model:
    """The ResNet called `name` for images of `image_size` (height, width), as a float32 Keras model.

    Input (B, H, W, 3), 0..255; output (B, outputs) logits. Weights are drawn from
    `default_rng([seed, FIRST_WEIGHTS, layer])`, so they are the same on every backend. Raises UsageError for an
    unknown name or an image under 8 px.
    """
    model = _assemble(name, outputs, image_size)
    initialise(model, seed)
    return model


def describe(name: str, outputs: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """What `name` costs, from its layers' shapes alone; no weight is made.

    parameters are trainable ones; multiply_adds are of convolutions and the last layer, for one image.
    """
    with keras.StatelessScope():
        model = _assemble(name, outputs, image_size)
    multiply_adds = 0
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.Dense)):
            places = int(np.prod(layer.output.shape[1:-1]))
            multiply_adds += places * int(np.prod(layer.kernel.shape))
    return {
        "name": name,
        "parameters": sum(int(np.prod(v.shape)) for v in model.trainable_variables),
        "multiply_adds": multiply_adds,
        "paper": VARIANTS[name].paper,
    }


def _assemble(name: str, outputs: int, image_size: tuple[int, int]) -> keras.Model:
    variant = variant_named(name)
    if min(image_size) < 8:
        raise UsageError(
            f"image size {image_size[0]}x{image_size[1]}: ResNets here need at least 8 px a side"
        )
    inputs = keras.Input((*image_size, 3), dtype="float32", name="image")
    scale = [1 / d for d in DEVIATION]
    offset = [-m / d for m, d in zip(MEAN, DEVIATION, strict=True)]
    x = layers.Rescaling(scale, offset, name="normalise")(inputs)
    x = STEMS[variant.stem](x, variant.width)
    for stage, depth in enumerate(variant.depths, start=1):
        for index in range(1, depth + 1):
            stride = 2 if index == 1 and stage > 1 else 1
            x = variant.block(x, variant.width * 2 ** (stage - 1), stride, f"stage{stage}_block{index}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    logits = layers.Dense(outputs, name="logits")(x)
    return keras.Model(inputs, logits, name=name)


def variant_named(name: str) -> Variant:
    """The table's row; UsageError names the nearest rows when there is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    near = get_close_matches(name, VARIANTS, n=3, cutoff=0.4) or list(VARIANTS)
    raise UsageError(f"unknown model {name!r}; did you mean {', '.join(near)}? `rightfit models` lists all")


def basic(x: Any, width: int, stride: int, name: str) -> Any:
    """(B, H, W, C) -> (B, H/stride, W/stride, width); He et al. 2016, figure 5 left."""
    y = relu(norm(conv(x, width, 3, stride, f"{name}_conv1"), f"{name}_norm1"), f"{name}_relu1")
    y = norm(conv(y, width, 3, 1, f"{name}_conv2"), f"{name}_norm2")
    return relu(layers.Add(name=f"{name}_add")([y, shortcut(x, width, stride, name)]), f"{name}_relu2")


def bottleneck(x: Any, width: int, stride: int, name: str) -> Any:
    """(B, H, W, C) -> (B, H/stride, W/stride, 4*width); He et al. 2016, stride in the 3x3 ("v1.5")."""
    y = relu(norm(conv(x, width, 1, 1, f"{name}_conv1"), f"{name}_norm1"), f"{name}_relu1")
    y = relu(norm(conv(y, width, 3, stride, f"{name}_conv2"), f"{name}_norm2"), f"{name}_relu2")
    y = norm(conv(y, 4 * width, 1, 1, f"{name}_conv3"), f"{name}_norm3")
    return relu(layers.Add(name=f"{name}_add")([y, shortcut(x, 4 * width, stride, name)]), f"{name}_relu3")


def shortcut(x: Any, channels: int, stride: int, name: str) -> Any:
    """The identity where shapes agree, else a 1x1 projection: option B of He et al. 2016, section 3.3."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return norm(conv(x, channels, 1, stride, f"{name}_shortcut_conv"), f"{name}_shortcut_norm")


def cifar_stem(x: Any, width: int) -> Any:
    """(B, H, W, 3) -> (B, H, W, width); He et al. 2016, section 4.2."""
    return relu(norm(conv(x, width, 3, 1, "stem_conv"), "stem_norm"), "stem_relu")


def imagenet_stem(x: Any, width: int) -> Any:
    """(B, H, W, 3) -> (B, H/4, W/4, width); He et al. 2016, table 1."""
    x = relu(norm(conv(x, width, 7, 2, "stem_conv"), "stem_norm"), "stem_relu")
    # Zeros pad as well as minus infinity does: everything here has passed a ReLU.
    x = layers.ZeroPadding2D(1, name="stem_pool_pad")(x)
    return layers.MaxPooling2D(3, 2, name="stem_pool")(x)


def conv(x: Any, channels: int, kernel: int, stride: int, name: str) -> Any:
    """Convolution without bias, padded by kernel // 2 on every side.

    With stride 2 Keras' "same" would pad one side only, which is another net than the papers'
    reference code computes; so the padding is a layer of its own there.
    """
    padding = "same" if stride == 1 else "valid"
    if stride > 1 and kernel > 1:
        x = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(x)
    return layers.Conv2D(channels, kernel, stride, padding, use_bias=False, name=name)(x)


def norm(x: Any, name: str) -> Any:
    """Batch normalisation, scale starting at one as in He et al. 2016.

    Starting each block's last scale at zero (Goyal et al. 2017) helps very large batches; on 8,000
    Fashion-MNIST images it cost nine points of accuracy after four epochs.
    """
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def relu(x: Any, name: str) -> Any:
    return layers.ReLU(name=name)(x)


def initialise(model: keras.Model, seed: int) -> None:
    """Draw kernels from coordinates: He normal by fan-out for convolutions, small normal for logits."""
    for index, layer in enumerate(model.layers):
        if isinstance(layer, layers.Conv2D):
            shape = layer.kernel.shape
            deviation = np.sqrt(2.0 / (shape[0] * shape[1] * shape[3]))
        elif isinstance(layer, layers.Dense):
            shape, deviation = layer.kernel.shape, 0.01
        else:
            continue
        generator = np.random.default_rng([seed, FIRST_WEIGHTS, index])
        layer.kernel.assign(generator.normal(0, deviation, shape).astype("float32"))


STEMS = {"cifar": cifar_stem, "imagenet": imagenet_stem}

_CIFAR = "He et al. 2016, Deep Residual Learning, section 4.2"
_IMAGENET = "He et al. 2016, Deep Residual Learning, table 1; stride in the 3x3 as in torchvision (v1.5)"

VARIANTS: dict[str, Variant] = {
    "resnet20": Variant(basic, (3, 3, 3), 16, "cifar", _CIFAR),
    "resnet32": Variant(basic, (5, 5, 5), 16, "cifar", _CIFAR),
    "resnet44": Variant(basic, (7, 7, 7), 16, "cifar", _CIFAR),
    "resnet56": Variant(basic, (9, 9, 9), 16, "cifar", _CIFAR),
    "resnet110": Variant(basic, (18, 18, 18), 16, "cifar", _CIFAR),
    "resnet18": Variant(basic, (2, 2, 2, 2), 64, "imagenet", _IMAGENET),
    "resnet34": Variant(basic, (3, 4, 6, 3), 64, "imagenet", _IMAGENET),
    "resnet50": Variant(bottleneck, (3, 4, 6, 3), 64, "imagenet", _IMAGENET),
    "resnet101": Variant(bottleneck, (3, 4, 23, 3), 64, "imagenet", _IMAGENET),
    "resnet152": Variant(bottleneck, (3, 8, 36, 3), 64, "imagenet", _IMAGENET),
}
