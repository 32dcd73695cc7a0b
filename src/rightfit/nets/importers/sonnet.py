"""Sonnet 2's names for a ResNet in a tf.train.Checkpoint: module/_block_groups/0/_blocks/1/_layers/0/0/w.

Its norms keep a moving average that starts from zero (`_hidden`) and one without that bias (`average`); outside
training they use the second.
"""

from __future__ import annotations

from collections.abc import Iterable

from rightfit.nets.importers.blocks import block_part, is_preact, scope_of
from rightfit.nets.importers.core import Array, Tensors

ENDING = "/.ATTRIBUTES/VARIABLE_VALUE"
IGNORED = (
    r".*/_(hidden|counter)/\.ATTRIBUTES/VARIABLE_VALUE",
    r"(save_counter|step|global_step|epoch)/\.ATTRIBUTES/VARIABLE_VALUE",
    r"(opt|optimizer|_optimizer)/.*",
    r".*/\.OPTIMIZER_SLOT/.*",
)
ANCHOR = r"_initial_conv/w/\.ATTRIBUTES/VARIABLE_VALUE"
VARIABLES = {
    "kernel": "w",
    "bias": "b",
    "gamma": "scale",
    "beta": "offset",
    "moving_mean": "moving_mean/average",
    "moving_variance": "moving_variance/average",
}
LAYERS = {
    "stem_conv": "_initial_conv",
    "stem_norm": "_initial_batchnorm",
    "final_norm": "_final_batchnorm",
    "logits": "_logits",
}
SHORTCUT = {"shortcut_conv": "_proj_conv", "shortcut_norm": "_proj_batchnorm"}


def matches(names: Iterable[str]) -> bool:
    """Whether a checkpoint with variables of these names holds one of Sonnet's ResNets."""
    return scope_of(names, ANCHOR) is not None


def fits(name: str) -> bool:
    """Whether our net `name` pads as Sonnet does; no tensor tells."""
    return name.endswith("_sonnet")


def translate(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    """Our `layer/variable` -> its tensor; moving averages (1, 1, 1, C) -> (C,)."""
    scope, preact = scope_of(tensors.tensors, ANCHOR) or "", is_preact(ours)
    found = {}
    for name in ours:
        layer, _, variable = name.rpartition("/")
        if variable not in VARIABLES:
            continue
        theirs = f"{scope}{sonnet_layer(layer, preact)}/{VARIABLES[variable]}{ENDING}"
        tensor = tensors.take(theirs, head=layer == "logits")
        if tensor is not None:
            found[name] = tensor.reshape(-1) if variable.startswith("moving_") else tensor
    return found


def sonnet_layer(layer: str, preact: bool) -> str:
    """`stage1_block2_norm1` -> `_block_groups/0/_blocks/1/_layers/0/1`, without the checkpoint's root."""
    part = block_part(layer)
    if part is None:
        return LAYERS.get(layer, layer)
    stage, block, name = part
    place = f"_block_groups/{stage - 1}/_blocks/{block - 1}"
    if name in SHORTCUT:
        return f"{place}/{SHORTCUT[name]}"
    kind, index = name[:-1], int(name[-1]) - 1
    if preact:
        return f"{place}/_{'conv' if kind == 'conv' else 'bn'}_{index}"
    return f"{place}/_layers/{index}/{0 if kind == 'conv' else 1}"
