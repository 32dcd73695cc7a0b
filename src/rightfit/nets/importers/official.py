"""The names of TensorFlow's official ResNets (tf.estimator): resnet_model/conv2d_3/kernel and the like.

Layers there are numbered in the order they were made: a block's projection before its convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable

from rightfit.nets.importers.blocks import blocks, is_preact, scope_of
from rightfit.nets.importers.core import Array, Tensors

IGNORED = (
    r"(.*/)?global_step",
    r"(.*/)?(current_)?loss_scale",
    r"(.*/)?good_steps",
    r"(.*/)?beta[12]_power",
    r".*/(Momentum|LARSOptimizer|Adam)(_\d+)?",
)
ANCHOR = "conv2d/kernel"
CONVOLUTIONS = ("shortcut_conv", "conv1", "conv2", "conv3")
NORMS = ("shortcut_norm", "norm1", "norm2", "norm3")


def matches(names: Iterable[str]) -> bool:
    """Whether a checkpoint with variables of these names is one of the official ResNets."""
    names = set(names)
    scope = scope_of(names, ANCHOR)
    return {f"{scope}conv2d/kernel", f"{scope}batch_normalization_1/moving_variance"} <= names


def fits(name: str) -> bool:
    """Whether our net `name` strides, pads and projects as the official ones do; no tensor tells."""
    return name.endswith("_official")


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its tensor; the variables are called as ours, and shaped as ours."""
    scope, theirs = scope_of(tensors.tensors, ANCHOR) or "", official_layers(ours)
    found = {}
    for name in ours:
        layer, _, variable = name.rpartition("/")
        if layer not in theirs:
            continue
        tensor = tensors.take(f"{scope}{theirs[layer]}/{variable}", head=layer == "logits")
        if tensor is not None:
            found[name] = tensor
    return found


def official_layers(ours: list[str]) -> dict[str, str]:
    """Our layer -> theirs: stage1_block1_shortcut_conv -> conv2d_1, stage1_block1_conv1 -> conv2d_2."""
    layers = {name.rpartition("/")[0] for name in ours}
    places = [f"stage{stage}_block{block}" for stage, block in blocks(ours)]
    convolutions = ["stem_conv", *(f"{place}_{part}" for place in places for part in CONVOLUTIONS)]
    norms = [f"{place}_{part}" for place in places for part in NORMS]
    norms = [*norms, "final_norm"] if is_preact(ours) else ["stem_norm", *norms]
    return {
        **numbered("conv2d", [layer for layer in convolutions if layer in layers]),
        **numbered("batch_normalization", [layer for layer in norms if layer in layers]),
        "logits": "dense",
    }


def numbered(kind: str, layers: list[str]) -> dict[str, str]:
    return {layer: f"{kind}_{number}" if number else kind for number, layer in enumerate(layers)}
