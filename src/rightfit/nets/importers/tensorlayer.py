"""TensorLayer 2's names for its ResNet50: res2a_branch2b/filters:0 -> stage1_block1_conv2/kernel.

Every convolution there has a bias, which the norm behind it absorbs, and images come as BGR. A file
without names (`arr_0`, `arr_1`, ...) holds the tensors in the order of TensorLayer's `all_weights`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rightfit.nets.importers.biases import absorbed
from rightfit.nets.importers.blocks import block_part, blocks
from rightfit.nets.importers.core import Array, Tensors

IGNORED: tuple[str, ...] = ()
VARIABLES = {"kernel": "filters", "bias": "biases", "moving_variance": "moving_var"}
NORM = ("beta", "gamma", "moving_mean", "moving_var")
BRANCHES = {"1": "branch2a", "2": "branch2b", "3": "branch2c", "shortcut": "branch1"}


def matches(names: Iterable[str]) -> bool:
    """Whether an .npz with arrays of these names can be TensorLayer's ResNet50."""
    names = set(names)
    return "bn2a_branch2a/moving_var:0" in names or all(re.fullmatch(r"arr_\d+", name) for name in names)


def fits(name: str) -> bool:
    """Whether our net `name` strides and pads as TensorLayer does; no tensor tells."""
    return name.endswith("_tensorlayer")


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its tensor; the stem's kernel for RGB, moving means less the biases."""
    places = {} if "arr_0" not in tensors else {name: f"arr_{i}" for i, name in enumerate(saved_order(ours))}

    def take(layer: str, variable: str) -> Array | None:
        place = f"{tensorlayer_layer(layer)}/{variable}:0"
        return tensors.take(places.get(place, place), head=layer == "logits")

    found = {}
    for name in ours:
        layer, _, variable = name.rpartition("/")
        tensor = take(layer, "weights" if name == "logits/kernel" else VARIABLES.get(variable, variable))
        if tensor is None:
            continue
        found[name] = tensor[:, :, ::-1] if name == "stem_conv/kernel" and tensor.ndim == 4 else tensor
        if variable == "moving_mean":
            convolution = layer.replace("norm", "conv")
            bias = take(convolution, "biases")
            if bias is not None:
                found[name] = absorbed(tensor, bias, f"{tensorlayer_layer(convolution)}/biases")
    return found


def tensorlayer_layer(layer: str) -> str:
    """`stage1_block2_norm1` -> `bn2b_branch2a`: stages count from 2, blocks are letters."""
    part = block_part(layer)
    if part is None:
        return {"stem_conv": "conv1", "stem_norm": "bn_conv1", "logits": "fc1000"}.get(layer, layer)
    stage, block, name = part
    branch = BRANCHES["shortcut" if name.startswith("shortcut_") else name[-1]]
    return f"{'res' if 'conv' in name else 'bn'}{stage + 1}{chr(ord('a') + block - 1)}_{branch}"


def saved_order(ours: list[str]) -> list[str]:
    """TensorLayer's names by depth in its graph: a block's projection runs beside the first convolution."""
    layers = ["stem_conv", "stem_norm"]
    for stage, block in blocks(ours):
        projects = f"stage{stage}_block{block}_shortcut_conv/kernel" in ours
        parts = ["shortcut_conv", "conv1", "shortcut_norm", "norm1"] if projects else ["conv1", "norm1"]
        layers += [
            f"stage{stage}_block{block}_{part}" for part in (*parts, "conv2", "norm2", "conv3", "norm3")
        ]
    variables = {layer: NORM if "norm" in layer else ("filters", "biases") for layer in layers}
    variables["logits"] = ("weights", "biases")
    return [
        f"{tensorlayer_layer(layer)}/{variable}:0" for layer in variables for variable in variables[layer]
    ]
