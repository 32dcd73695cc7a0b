"""A checked configuration in, a Keras model out: its size is known before any memory is taken for it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import keras

from rightfit.errors import ArchitectureError

MOST_PARAMETERS = 2**30  # 4 GB of float32; the largest net of keras.applications has 0.35 billion
MOST_VALUES = 2**28  # of one layer's output for one example


def built(config: dict[str, Any]) -> keras.Model:
    """The model that `config` (as `checked` returns it) describes, with first weights.

    ArchitectureError when Keras cannot build it, or it is larger than MOST_PARAMETERS or MOST_VALUES.
    """
    if _keeps_state(config):
        # Keras makes the variables of remembered states at once, so a copy without them is measured first.
        measured(config)
        return _deserialized(config)
    model = _shaped(config)
    keras.src.backend.common.variables.initialize_all_variables()
    return model


def measured(config: dict[str, Any]) -> keras.Model:
    """The model for its shapes alone: it has no weights and never will. Errors as of `built`."""
    model = _shaped(_without_state(config))
    _forget()
    return model


def _shaped(config: dict[str, Any]) -> keras.Model:
    """The model with every shape known and no variable filled yet."""
    budget = _Budget(initialize_variables=False)
    try:
        with budget:
            model = _deserialized(config)
            budget.spend(model.variables)
        _check_outputs(model)
    except BaseException:
        _forget()
        raise
    return model


def _deserialized(config: dict[str, Any]) -> keras.Model:
    try:
        # A copy, as Keras takes keys out of what it is given.
        model = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
    except ArchitectureError:
        raise
    except RecursionError as error:
        raise ArchitectureError("the architecture is nested too deeply to be built") from error
    except Exception as error:  # Keras and three backends have a dozen kinds for wrong settings
        raise ArchitectureError(f"the architecture cannot be built: {_reason(error)}") from error
    if not isinstance(model, keras.Model):
        raise ArchitectureError("the architecture describes no model")
    return model


def _reason(error: Exception) -> str:
    """What Keras says in the end, after the configuration that it repeats in full."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("Exception encountered:")]
    reason = said[-1].partition(":")[2].strip() if said else lines[0] if lines else type(error).__name__
    return reason[:300]


class _Budget(keras.StatelessScope):
    """Variables made within get a shape and no memory; those that are read are counted before they are filled."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: set[int] = set()
        self.parameters = 0

    def get_current_value(self, variable: Any) -> Any:
        self.spend([variable])
        return super().get_current_value(variable)

    def spend(self, variables: list[Any]) -> None:
        for variable in variables:
            if id(variable) not in self.seen:
                self.seen.add(id(variable))
                self.parameters += math.prod(variable.shape)
        if self.parameters > MOST_PARAMETERS:
            raise ArchitectureError(
                f"the architecture asks for more than {MOST_PARAMETERS:,} parameters; is the file what it says?"
            )


def _check_outputs(model: keras.Model) -> None:
    """Every call of every layer and operator, nested ones too."""
    for operation in _operations(model):
        for node in operation._inbound_nodes:
            for tensor in node.outputs:
                values = math.prod(side for side in tuple(tensor.shape)[1:] if side)
                if values > MOST_VALUES:
                    raise ArchitectureError(
                        f"the layer {operation.name} makes {values:,} values of one example, which is too large"
                    )


def _operations(model: keras.Model) -> Iterator[Any]:
    for operation in {id(o): o for o in (*model.layers, *getattr(model, "operations", ()))}.values():
        yield operation
        if isinstance(operation, keras.Model):
            yield from _operations(operation)


def _forget() -> None:
    """Variables that wait for their values are given up: they may be too large to be filled."""
    keras.src.backend.common.global_state.set_global_attribute("uninitialized_variables", [])


def _keeps_state(node: Any) -> bool:
    if isinstance(node, dict):
        return node.get("stateful") is True or any(map(_keeps_state, node.values()))
    return isinstance(node, list) and any(map(_keeps_state, node))


def _without_state(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: False if key == "stateful" else _without_state(value)
            for key, value in node.items()
            if key != "build_config"
        }
    return [_without_state(value) for value in node] if isinstance(node, list) else node
