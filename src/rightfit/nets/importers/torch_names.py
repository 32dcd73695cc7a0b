"""PyTorch's names for a ResNet, torchvision's and timm's: layer3.0.conv2.weight -> stage3_block1_conv2/kernel."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rightfit.nets.importers.core import Array, Tensors
from rightfit.nets.variants import VARIANTS, Variant

IGNORED = (r".*\.num_batches_tracked",)  # batch norm's step counter, of use to no layer

VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
STEM = {"stem_conv": "conv1", "stem_norm": "bn1"}
DEEP_STEM = {  # timm's conv1 holds three convolutions with norms and ReLUs between them
    "stem_conv1": "conv1.0",
    "stem_norm1": "conv1.1",
    "stem_conv2": "conv1.3",
    "stem_norm2": "conv1.4",
    "stem_conv3": "conv1.6",
    "stem_norm3": "bn1",
}
# In torchvision downsample is (conv, norm); with an average pool before the projection, (pool, conv, norm).
SHORTCUT = {"shortcut_conv": "downsample.0", "shortcut_norm": "downsample.1"}
AVERAGE_SHORTCUT = {"shortcut_conv": "downsample.1", "shortcut_norm": "downsample.2"}
SQUEEZE = {"reduce": "se.fc1", "expand": "se.fc2"}
# What these nets have as our table's defaults have it.
GEOMETRY = ("preact", "stride_in", "stride_at", "padding", "pool_padding", "stem_bias", "project_first")
PIXELS = ("mean", "deviation")


def matches(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is a ResNet of torchvision or timm."""
    return {"bn1.running_var", "layer1.0.conv1.weight", "layer1.0.bn1.running_var"} <= set(names)


def fits(name: str) -> bool:
    """Whether our net `name` computes what torchvision and timm do.

    Others have layers of the same names and shapes, but stride, pad or take pixels otherwise, so no tensor tells.
    """
    row, plain = VARIANTS[name], Variant("", (), "")
    return row.stem != "cifar" and all(
        getattr(row, field) == getattr(plain, field) for field in GEOMETRY + PIXELS
    )


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its tensor; kernels OIHW -> HWIO (grouped ones too), dense ones transposed."""
    deep = "stem_conv1/kernel" in ours
    found = {}
    for name in ours:
        layer, _, variable = name.rpartition("/")
        theirs = torch_layer(layer, deep)
        if theirs is None or variable not in VARIABLES:
            continue
        tensor = tensors.take(f"{theirs}.{VARIABLES[variable]}", head=layer == "logits")
        if tensor is not None:
            found[name] = tensor.transpose(KERNEL_AXES.get(tensor.ndim)) if variable == "kernel" else tensor
    return found


KERNEL_AXES = {4: (2, 3, 1, 0), 2: (1, 0)}


def torch_layer(layer: str, deep: bool) -> str | None:
    """`stage2_block1_norm3` -> `layer2.0.bn3`; None where PyTorch's nets have no such layer.

    `deep` is for nets with three convolutions in the stem; timm's also average before projecting.
    """
    if layer == "logits":
        return "fc"
    stem = DEEP_STEM if deep else STEM
    if layer in stem:
        return stem[layer]
    place = re.fullmatch(r"stage(\d+)_block(\d+)_(\w+)", layer)
    if place is None:
        return None
    stage, block, part = place.groups()
    special = SQUEEZE | (AVERAGE_SHORTCUT if deep else SHORTCUT)
    return f"layer{stage}.{int(block) - 1}.{special.get(part, part.replace('norm', 'bn'))}"
