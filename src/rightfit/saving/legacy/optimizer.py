"""An optimizer's state from the `.h5` of Keras 1 and 2 into Keras 3's, so that training goes on where it stopped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras

from rightfit.errors import ModelFileError
from rightfit.formats.contents import ModelFile, Tensor
from rightfit.saving.legacy.graph import Array, Graph, as_they_are
from rightfit.saving.legacy.weights import leaves_of

# Optimizer -> Keras 3's lists of slots, and what Keras 2 called each; in the order in which Keras 2 kept them.
SLOTS: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "SGD": (("momentums", ("m", "momentum")),),
    "Adam": (("_momentums", ("m",)), ("_velocities", ("v",)), ("_velocity_hats", ("vhat",))),
    "AdamW": (("_momentums", ("m",)), ("_velocities", ("v",)), ("_velocity_hats", ("vhat",))),
    "RMSprop": (
        ("_velocities", ("rms", "velocity")),
        ("_momentums", ("momentum",)),
        ("_average_gradients", ("mg", "average_gradient")),
    ),
}


def carry(model: keras.Model, graph: Graph, file: ModelFile, age: int, notes: list[str]) -> bool:
    """Fill the optimizer of the compiled `model` from a file of Keras `age`; False, and a note, where it cannot."""
    if not file.optimizer:
        return False
    if age == 3:
        return carry_in_order(
            model, [file.tensors[f"optimizer_weights/{name}"] for name in file.optimizer], notes
        )
    kind = type(model.optimizer).__name__
    if kind not in SLOTS:
        notes.append(f"the state of the optimizer {kind} is not carried: its averages begin anew")
        return False
    if any(leaf.recipe is not as_they_are for _, leaf in graph.leaves()):
        notes.append("the optimizer's state is not carried: the kernels were laid out anew")
        return False
    variables = [v for leaf in leaves_of(model, graph) for v in leaf.layer.trainable_weights]
    arrays = [(name, file.tensors[f"optimizer_weights/{name}"].read()) for name in file.optimizer]
    model.optimizer.build(model.trainable_variables)
    slots = [
        (attribute, names) for attribute, names in SLOTS[kind] if getattr(model.optimizer, attribute, None)
    ]
    try:
        steps, found = _sorted(arrays, len(variables), [names for _, names in slots])
    except ModelFileError as error:
        notes.append(f"the optimizer's state is not carried: {error}")
        return False
    place = {id(variable): number for number, variable in enumerate(model.trainable_variables)}
    chosen: list[tuple[Any, Array]] = []
    for (attribute, _), values in zip(slots, found, strict=True):
        targets = getattr(model.optimizer, attribute)
        chosen += [(targets[place[id(v)]], value) for v, value in zip(variables, values, strict=True)]
    if any(tuple(target.shape) != value.shape for target, value in chosen):
        notes.append("the optimizer's state is not carried: it is of other shapes than the weights")
        return False
    for target, value in chosen:
        target.assign(value)
    model.optimizer.iterations.assign(steps)
    return True


def carry_in_order(model: keras.Model, tensors: Sequence[Tensor], notes: list[str]) -> bool:
    """Fill the optimizer of the compiled `model` with what Keras 3 kept of it, in Keras 3's order."""
    model.optimizer.build(model.trainable_variables)
    variables = model.optimizer.variables
    if [tensor.shape for tensor in tensors] != [tuple(variable.shape) for variable in variables]:
        notes.append("the optimizer's state is not carried: it is that of another version of Keras")
        return False
    for variable, tensor in zip(variables, tensors, strict=True):
        variable.assign(tensor.read())
    return True


def _sorted(
    arrays: list[tuple[str, Array]], count: int, wanted: list[tuple[str, ...]]
) -> tuple[int, list[list[Array]]]:
    """The number of steps, and for each wanted slot its arrays in the order of the trained variables."""
    scalars = [(name, array) for name, array in arrays if array.ndim == 0]
    rest = [(name, array) for name, array in arrays if array.ndim > 0]
    steps = next((int(array) for name, array in scalars if "learning_rate" not in name), 0)
    by_slot: list[list[Array]] = []
    for names in wanted:
        held = [array for name, array in rest if _slot(name) in names]
        if held:
            by_slot.append(held)
    if len(by_slot) != len(wanted):  # Keras before TensorFlow's optimizers: one slot after another, unnamed
        if len(rest) < count * len(wanted):
            raise ModelFileError(f"{len(rest)} arrays for {count} weights")
        by_slot = [[a for _, a in rest[k * count : (k + 1) * count]] for k in range(len(wanted))]
    if any(len(held) != count for held in by_slot):
        raise ModelFileError(f"{len(by_slot[0])} arrays for {count} weights")
    return steps, by_slot


def _slot(name: str) -> str:
    """Adam/dense/kernel/m:0 -> m; Adam/m/dense/kernel:0 -> m; an empty string when the name says none."""
    known = {slot for slots in SLOTS.values() for _, names in slots for slot in names}
    parts = re.sub(r":\d+$", "", name).split("/")
    return next((part for part in (parts[-1], *parts[1:2]) if part in known), "")
