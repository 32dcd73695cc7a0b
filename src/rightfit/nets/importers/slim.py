"""TF-Slim's names for a ResNet: block1/unit_1/bottleneck_v1/conv2/weights -> stage1_block1_conv2/kernel.

Version 2 nets there have biases on the convolutions that no norm follows directly. The stem keeps
its own; the others shift the residual stream by a constant, which the norms that read it absorb.
"""

from __future__ import annotations

from collections.abc import Iterable

from rightfit.nets.importers.biases import absorbed
from rightfit.nets.importers.blocks import block_part, blocks, is_preact, scope_of
from rightfit.nets.importers.core import Array, Tensors

AVERAGE = "/ExponentialMovingAverage"
IGNORED = (
    r"(.*/)?global_step",
    r"(.*/)?mean_rgb",
    r"(.*/)?beta[12]_power",
    rf".*/(Momentum|RMSProp|Adam|Adagrad|Adadelta|Ftrl|{AVERAGE[1:]})(_\d+)?",
)
ANCHOR = r"block1/unit_1/bottleneck_v[12]/conv1/weights"
VARIABLES = {"kernel": "weights", "bias": "biases"}  # a norm's four variables are called as ours


def matches(names: Iterable[str]) -> bool:
    """Whether a checkpoint with variables of these names is a ResNet of TF-Slim."""
    return scope_of(names, ANCHOR) is not None


def fits(name: str) -> bool:
    """Whether our net `name` strides and pads as TF-Slim does; no tensor tells."""
    return name.endswith("_slim")


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its tensor; the head, a 1x1 convolution there, as a matrix."""
    scope, preact = scope_of(tensors.tensors, ANCHOR) or "", is_preact(ours)
    found = {}
    for name in ours:
        layer, _, variable = name.rpartition("/")
        theirs = f"{scope}{slim_layer(layer, preact)}/{VARIABLES.get(variable, variable)}"
        tensor = take(tensors, theirs, head=layer == "logits")
        if tensor is not None:
            found[name] = tensor.reshape(tensor.shape[-2:]) if name == "logits/kernel" else tensor
    return without_stream_biases(found, ours, tensors, scope) if preact else found


def take(tensors: Tensors, name: str, head: bool = False) -> Array | None:
    """The variable; its moving average where the checkpoint has one, as TF-Slim evaluates with that."""
    tensor = tensors.take(name, head)
    return tensors.take(name + AVERAGE) if name + AVERAGE in tensors else tensor


def slim_layer(layer: str, preact: bool) -> str:
    """`stage1_block2_norm1` -> `block1/unit_2/bottleneck_v1/conv1/BatchNorm`, without the net's scope."""
    part = block_part(layer)
    if part is None:
        return {"stem_conv": "conv1", "stem_norm": "conv1/BatchNorm", "final_norm": "postnorm"}.get(
            layer, layer
        )
    stage, block, name = part
    number = int(name[-1]) if name[-1].isdigit() else 0
    place = f"block{stage}/unit_{block}/bottleneck_{'v2' if preact else 'v1'}"
    if name.startswith("shortcut_"):
        return f"{place}/shortcut" + ("/BatchNorm" if name == "shortcut_norm" else "")
    if not name.startswith("norm"):
        return f"{place}/{name}"
    if preact and number == 1:
        return f"{place}/preact"
    return f"{place}/conv{number - 1 if preact else number}/BatchNorm"


def without_stream_biases(
    found: dict[str, Array], ours: list[str], tensors: Tensors, scope: str
) -> dict[str, Array]:
    """Moving means less the sum of all biases on the stream so far; a projection starts the sum anew."""
    sums: list[tuple[str, Array]] = []

    def absorb(norm: str) -> None:
        for place, bias in sums:
            if f"{norm}/moving_mean" in found:
                found[f"{norm}/moving_mean"] = absorbed(found[f"{norm}/moving_mean"], bias, place)

    for stage, block in blocks(ours):
        name = f"stage{stage}_block{block}"
        absorb(f"{name}_norm1")
        added = ["conv3"]
        if f"{name}_shortcut_conv/kernel" in ours:
            sums, added = [], ["shortcut_conv", "conv3"]
        for layer in added:
            place = f"{scope}{slim_layer(f'{name}_{layer}', preact=True)}/biases"
            bias = take(tensors, place)
            if bias is not None:
                sums.append((place, bias))
    absorb("final_norm")
    return found
