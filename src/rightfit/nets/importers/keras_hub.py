"""KerasHub's names for a ResNet, V1, V2 or Vd: stack0_block0_0_conv -> stage1_block1_shortcut_conv."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rightfit.nets.importers.core import Array, Tensors
from rightfit.nets.importers.files_keras import numbered
from rightfit.nets.importers.keras_applications import blocks

IGNORED: tuple[str, ...] = ()


def matches(names: Iterable[str]) -> bool:
    """Whether a file with tensors of these names is a ResNet of KerasHub."""
    names = set(names)  # where layers are only numbered, keras.applications' are known by their biases
    unnamed = {
        "conv2d/kernel",
        "conv2d_4/kernel",
        "batch_normalization/gamma",
    } <= names and "conv2d/bias" not in names
    return {"conv1_conv/kernel", "stack0_block0_1_conv/kernel"} <= names or unnamed


def fits(name: str) -> bool:
    """Whether our net `name` computes what KerasHub's does.

    Pixels are normalised outside KerasHub's net, as a preset says: resnet_v2_50 and _101 go with
    resnet50v2_timm and resnet101v2_timm, all others with the rows of the usual means.
    """
    plain = r"resnet(18|34|50|101|152)(v2)?"
    return (
        re.fullmatch(rf"{plain}|resnet(50|101)v2_timm|resnet(50|101|152)d|resnet(18|34|200)d_paddle", name)
        is not None
    )


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its tensor; both have the same shapes, so only names change."""
    table = layers(ours)
    kinds = {"conv": "conv2d", "bn": "batch_normalization"}
    stored = numbered(
        [(kinds.get(name.rpartition("_")[2], "dense"), name) for name in table.values()], tensors.tensors
    )
    found = {}
    for name in ours:
        layer, _, variable = name.rpartition("/")
        if layer in table:
            tensor = tensors.take(f"{stored[table[layer]]}/{variable}", head=layer == "logits")
            if tensor is not None:
                found[name] = tensor
    return found


def layers(ours: Iterable[str]) -> dict[str, str]:
    """Our layer -> theirs, in the order of their model's layers."""
    ours = {name.rpartition("/")[0] for name in ours}
    preact = "final_norm" in ours
    table: dict[str, str] = {}
    for part, number in (("", 1), ("1", 1), ("2", 2), ("3", 3)):  # one convolution in the stem, or three
        stem = {f"stem_conv{part}": f"conv{number}_conv", f"stem_norm{part}": f"conv{number}_bn"}
        table |= {layer: name for layer, name in stem.items() if layer in ours}
    for stage, block in blocks(f"{layer}/" for layer in ours):
        here, there = f"stage{stage}_block{block}_", f"stack{stage - 1}_block{block - 1}_"
        last = 3 if f"{here}conv3" in ours else 2
        parts = {"norm1": "pre_activation_bn"} if preact else {}
        for number in range(1, last):
            parts |= {f"conv{number}": f"{number}_conv", f"norm{number + preact}": f"{number}_bn"}
        parts |= {"shortcut_conv": "0_conv", f"conv{last}": f"{last}_conv"}
        parts |= {} if preact else {"shortcut_norm": "0_bn", f"norm{last}": f"{last}_bn"}
        table |= {here + part: there + name for part, name in parts.items() if here + part in ours}
    return table | ({"final_norm": "post_bn"} if preact else {}) | {"logits": "predictions"}
