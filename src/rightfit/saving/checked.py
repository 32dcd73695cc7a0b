"""A configuration from a file in, the same as plain data that asks for nothing outside the closed list out."""

from __future__ import annotations

import math
from typing import Any

from rightfit.errors import ArchitectureError
from rightfit.saving.allowed import (
    ACTIVATIONS,
    CONSTRAINTS,
    INITIALIZERS,
    LAYERS,
    MODULES,
    REGULARIZERS,
    TWINS,
    TWINS_MODULE,
    VALUES,
)

MOST_DEEP = 40
MOST_PARTS = 3_000_000  # values and keys; NASNetLarge, the longest net of keras.applications, has 0.1 million
MOST_LAYERS = 20_000
MOST_NUMBER = 2**31
MOST_STEPS = 1_000  # of a recurrent layer that is unrolled, each of them a copy of its graph
MOST_TEXT = 100_000
INPUT_VALUES = 2**28  # values of one example, 1 GB of float32
# Numbers that name or draw something, and are no size.
NO_SIZES = ("seed", "shared_object_id")
# Training is no part of an architecture.
LEFT_OUT = ("compile_config",)
# Loops of Python over a number that the file gives.
LOOPS = {"power_iterations": 100, "num_ops": 100, "rank": 3}


def checked(config: Any) -> Any:
    """A copy of `config` with nothing in it but JSON types, known classes from known modules and known names.

    ArchitectureError names what is not on the lists, or what is too large or too deep.
    """
    return _Check().copy(config, "", 0)


class _Check:
    """One walk; it counts what it has met."""

    def __init__(self) -> None:
        self.parts = 0
        self.layers = 0
        self.longest = 0
        self.unrolled = False

    def copy(self, node: Any, key: str, depth: int) -> Any:
        self.parts += 1
        if depth > MOST_DEEP:
            raise ArchitectureError(f"the architecture is nested more than {MOST_DEEP} deep")
        if self.parts > MOST_PARTS:
            raise ArchitectureError(f"the architecture has more than {MOST_PARTS:,} values")
        if isinstance(node, dict):
            return self._dictionary(node, key, depth)
        if isinstance(node, (list, tuple)):
            return [self.copy(value, key, depth + 1) for value in node]
        if isinstance(node, str):
            return self._text(node, key)
        if isinstance(node, bool) or node is None or isinstance(node, float):
            return node
        if isinstance(node, int):
            if key not in NO_SIZES and abs(node) > LOOPS.get(key, MOST_NUMBER):
                raise ArchitectureError(f"the architecture says {key}: {node}, which is too large")
            return node
        raise ArchitectureError(f"the architecture holds a {type(node).__name__}, which is no plain data")

    def _dictionary(self, node: dict[Any, Any], key: str, depth: int) -> dict[str, Any]:
        if "class_name" in node:
            self._known(node)
        elif "registered_name" in node or "module" in node:
            what = str(node.get("registered_name", node.get("module")))[:80]
            raise ArchitectureError(f"the architecture asks for {what!r} without a class")
        for name in node:
            if not isinstance(name, str) or len(name) > MOST_TEXT:
                raise ArchitectureError(f"the architecture has {str(name)[:40]!r} for a key")
        found = {
            name: self.copy(value, name, depth + 1)
            for name, value in node.items()
            if not (name in LEFT_OUT and "class_name" in node)
        }
        for call in found.get("inbound_nodes") or () if "class_name" in found else ():
            if isinstance(call, dict) and not _holds_tensor(call):
                raise ArchitectureError(
                    f"the architecture calls {found['class_name']} on plain numbers, which would be computed while "
                    "it is built"
                )
        if "class_name" in found:
            self._sizes(found)
            if found.get("module") == TWINS_MODULE:
                found |= {
                    "module": "keras.layers",
                    "class_name": TWINS[found["class_name"]],
                    "registered_name": None,
                }
        return found

    def _known(self, node: dict[Any, Any]) -> None:
        """ArchitectureError unless the class is on the list, from its own module and under its own name."""
        name, module = node["class_name"], node.get("module")
        if isinstance(name, str) and name in VALUES:
            if module is not None or node.get("registered_name") is not None:
                raise ArchitectureError(f"the architecture asks for {name!r} of the module {module!r}")
            return
        if not isinstance(name, str) or not (name in MODULES or name in TWINS):
            raise ArchitectureError(
                f"the architecture asks for {str(name)[:80]!r}, which is not among the layers rightfit loads"
            )
        modules = MODULES.get(name, frozenset()) | ({TWINS_MODULE} if name in TWINS else set())
        if not isinstance(module, str) or module not in modules:
            raise ArchitectureError(
                f"the architecture asks for {name} of the module {str(module)[:80]!r}, which rightfit never imports"
            )
        registered = node.get("registered_name")
        if registered not in (None, name):
            raise ArchitectureError(
                f"the architecture asks for the registered object {str(registered)[:80]!r}"
            )
        if not isinstance(node.get("config", {}), dict):
            raise ArchitectureError(f"the architecture gives {name} no settings but {node['config']!r:.40}")
        self.layers += name in LAYERS
        if self.layers > MOST_LAYERS:
            raise ArchitectureError(f"the architecture has more than {MOST_LAYERS:,} layers")

    def _sizes(self, found: dict[str, Any]) -> None:
        config = found.get("config")
        if not isinstance(config, dict):
            return
        self.unrolled = self.unrolled or config.get("unroll") is True
        if found["class_name"] == "Normalization" and _spreads(config):
            raise ArchitectureError(
                "the architecture spreads one mean or variance over several axes of a Normalization, and takes memory "
                "before its size is known; write one for each place"
            )
        if found["class_name"] == "InputLayer":
            shape = config.get("batch_shape") or config.get("shape") or ()
            sides = [side for side in shape if isinstance(side, int)] if isinstance(shape, list) else []
            if len(sides) > 32 or math.prod(sides) > INPUT_VALUES or any(side < 0 for side in sides):
                raise ArchitectureError(
                    f"the architecture takes inputs of shape {str(shape)[:80]}, which is too large"
                )
            self.longest = max([self.longest, *sides])
        if self.unrolled and self.longest > MOST_STEPS:
            raise ArchitectureError(f"a recurrent layer is unrolled over more than {MOST_STEPS:,} steps")

    def _text(self, text: str, key: str) -> str:
        if len(text) > MOST_TEXT:
            raise ArchitectureError(f"the architecture has {len(text):,} characters for {key}")
        if key == "name" and {".", ".."} & set(text.replace("\\", "/").split("/")):
            raise ArchitectureError(
                f"the architecture has a part called {text[:80]!r}, which leads elsewhere"
            )
        kind = next((kind for ending, kind in NAMED.items() if key.endswith(ending)), None)
        if kind is not None and text not in kind:
            raise ArchitectureError(
                f"the architecture asks for {key} {text[:80]!r}, which is none of Keras' own"
            )
        return text


def _spreads(config: dict[str, Any]) -> bool:
    axes, numbers = config.get("axis"), (config.get("mean"), config.get("variance"))
    return (
        isinstance(axes, list) and len(axes) > 1 and any(isinstance(each, (int, float)) for each in numbers)
    )


def _holds_tensor(node: Any) -> bool:
    if isinstance(node, dict):
        return node.get("class_name") == "__keras_tensor__" or any(map(_holds_tensor, node.values()))
    return isinstance(node, list) and any(map(_holds_tensor, node))


def _both_cases(names: frozenset[str]) -> frozenset[str]:
    """Keras knows GlorotUniform as glorot_uniform too."""
    return names | {
        "".join(f"_{c.lower()}" if c.isupper() and place else c.lower() for place, c in enumerate(name))
        for name in names
    }


NAMED = {
    "activation": ACTIVATIONS,
    "_initializer": _both_cases(INITIALIZERS),
    "_regularizer": _both_cases(REGULARIZERS) | {"l1", "l2", "l1_l2"},
    "_constraint": _both_cases(CONSTRAINTS),
}
