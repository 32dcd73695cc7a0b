"""keras.applications' names for ResNet50, 101 and 152, V1 and V2: conv2_block1_0_conv -> stage1_block1_shortcut_conv.

Their nets have biases that ours do without; each is folded into the batch norms that read it, exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from rightfit.nets.importers.core import Array, Tensors
from rightfit.nets.importers.files_keras import numbered

IGNORED: tuple[str, ...] = ()

# Theirs less ours, batch norm's epsilon: 1.001e-5 - 1e-5. It is added to the variance, so nothing is lost.
EPSILON = 1e-8

HEADS = ("predictions", "probs")  # today's name, and that of the first published files


def matches(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is a ResNet of keras.applications."""
    names = set(names)  # where layers are only numbered, the stem's bias tells them from KerasHub's
    return {"conv1_conv/bias", "conv2_block1_3_conv/bias"} <= names or {
        "conv2d/bias",
        "conv2d_4/kernel",
    } <= names


def fits(name: str) -> bool:
    """Whether our net `name` computes what keras.applications does."""
    return re.fullmatch(r"resnet(50|101|152)(v1|v2_keras)", name) is not None


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its value with their biases folded in; needs a net that `fits`."""
    preact = "final_norm/gamma" in ours
    table = layers(ours, preact)
    if HEADS[1] + "/kernel" in tensors:
        table["logits"] = HEADS[1]
    kinds = {"conv": "conv2d", "bn": "batch_normalization"}
    order = [(kinds.get(name.rpartition("_")[2], "dense"), name) for name in table.values()]
    stored = numbered(order, tensors.tensors)
    theirs = {
        name: tensors.take(f"{stored[table[layer]]}/{variable}", head=layer == "logits")
        for name in ours
        for layer, _, variable in [name.rpartition("/")]
        if layer in table
    }
    found = {name: array for name, array in theirs.items() if array is not None}
    bias: dict[str, Array] = {}
    for layer, name in table.items():
        if f"{layer}/bias" not in ours and has_bias(layer, preact):
            taken = tensors.take(f"{stored[name]}/bias")
            bias |= {} if taken is None else {layer: taken}
    if tensors.missing:
        return found
    before = (
        constants(table, bias)
        if preact
        else {norm: bias[convolution(norm)] for norm in table if "norm" in norm}
    )
    for name, array in found.items():
        layer, _, variable = name.rpartition("/")
        if variable == "moving_mean" and layer in before:
            found[name] = array.astype(np.float64) - before[layer]
        elif variable == "moving_variance":
            found[name] = array.astype(np.float64) + EPSILON
    if not preact:  # theirs see blue, green, red; ours red, green, blue
        found["stem_conv/kernel"] = found["stem_conv/kernel"][:, :, ::-1]
    return found


def layers(ours: Iterable[str], preact: bool) -> dict[str, str]:
    """Our layer -> theirs, in the order of their model's layers."""
    ours = set(ours)
    table = {"stem_conv": "conv1_conv"} | ({} if preact else {"stem_norm": "conv1_bn"})
    for stage, block in blocks(ours):
        here, there = f"stage{stage}_block{block}_", f"conv{stage + 1}_block{block}_"
        if preact:
            parts = {
                "norm1": "preact_bn",
                "conv1": "1_conv",
                "norm2": "1_bn",
                "conv2": "2_conv",
                "norm3": "2_bn",
            }
            parts |= {"shortcut_conv": "0_conv", "conv3": "3_conv"}
        else:
            parts = {"conv1": "1_conv", "norm1": "1_bn", "conv2": "2_conv", "norm2": "2_bn"}
            parts |= {"shortcut_conv": "0_conv", "conv3": "3_conv", "shortcut_norm": "0_bn", "norm3": "3_bn"}
        if f"{here}shortcut_conv/kernel" not in ours:
            parts = {part: name for part, name in parts.items() if "shortcut" not in part}
        table |= {here + part: there + name for part, name in parts.items()}
    return table | ({"final_norm": "post_bn"} if preact else {}) | {"logits": HEADS[0]}


def blocks(ours: Iterable[str]) -> list[tuple[int, int]]:
    """(stage, block) of each block, both from 1, in the net's order."""
    places = (re.match(r"stage(\d+)_block(\d+)_", name) for name in ours)
    return sorted({(int(place[1]), int(place[2])) for place in places if place})


def has_bias(layer: str, preact: bool) -> bool:
    """Every convolution of a V1; of a V2 the stem and those that end in the stream of residuals."""
    return "conv" in layer and (not preact or layer.endswith(("stem_conv", "shortcut_conv", "conv3")))


def convolution(norm: str) -> str:
    """The convolution that a V1's batch norm reads: stage1_block1_norm2 -> stage1_block1_conv2."""
    return norm.replace("norm", "conv")


def constants(table: Iterable[str], bias: dict[str, Array]) -> dict[str, Array]:
    """By how much their V2's stream exceeds ours, channel by channel, where each batch norm reads it.

    A block adds its last convolution's bias to the stream. Where the shortcut is a projection, it starts
    the stream anew: it reads the activated input, in which the norm has made up for the excess. The
    stem's bias is ours as well, since the zeros around the pool would tell.
    """
    excess: dict[str, Array] = {}
    stream = np.zeros(1)
    for stage, block in blocks(table):
        name = f"stage{stage}_block{block}_"
        excess[f"{name}norm1"] = stream
        start = bias.get(f"{name}shortcut_conv", stream)
        stream = start.astype(np.float64) + bias[f"{name}conv3"]
    return excess | {"final_norm": stream}
