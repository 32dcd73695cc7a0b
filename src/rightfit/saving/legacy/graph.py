"""A model of another age between its file and Keras 3: layers, who calls whom, and how their weights are turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
# A layer's arrays in the file's order -> the same in the order of the Keras 3 layer.
Recipe = Callable[[list[Array]], list[Array]]


def named(name: Any) -> str:
    """A layer's name as Keras 3 allows it: TensorFlow let a slash in."""
    return str(name).replace("/", "_")


def as_they_are(arrays: list[Array]) -> list[Array]:
    return arrays


@dataclass(frozen=True)
class Ref:
    """A tensor: output number `tensor` of call number `call` of a layer."""

    layer: str
    call: int = 0
    tensor: int = 0


@dataclass
class Call:
    """What a layer is called with; Ref where a tensor stands."""

    args: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class Node:
    """One layer, operator or nested model of a graph, in Keras 3's terms."""

    name: str
    class_name: str
    config: dict[str, Any]
    module: str = "keras.layers"
    calls: list[Call] = field(default_factory=list)
    recipe: Recipe = as_they_are
    graph: Graph | None = None  # of a nested model

    def serialized(self) -> dict[str, Any]:
        if self.graph is not None:
            return self.graph.serialized()
        operator = self.module.startswith("keras.src.ops.")
        return {
            "module": self.module,
            "class_name": self.class_name,
            "config": self.config,
            "registered_name": self.class_name if operator else None,
        }


@dataclass
class Graph:
    """A model: its layers in the file's order, and its ends."""

    name: str
    nodes: list[Node]
    inputs: Any = None  # Ref, or a list of them; None of a chain whose input shape is not known
    outputs: Any = None
    sequential: bool = False
    trainable: bool = True

    def serialized(self) -> dict[str, Any]:
        """As Keras 3 writes a model."""
        if self.sequential:
            config: dict[str, Any] = {
                "name": self.name,
                "trainable": self.trainable,
                "layers": [node.serialized() for node in self.nodes],
            }
            return {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
        layers = [
            node.serialized()
            | {
                "name": node.name,
                "inbound_nodes": [
                    {"args": _written(call.args), "kwargs": _written(call.kwargs)} for call in node.calls
                ],
            }
            for node in self.nodes
        ]
        config = {"name": self.name, "trainable": self.trainable, "layers": layers}
        config["input_layers"] = self._ends(self.inputs)
        config["output_layers"] = self._ends(self.outputs)
        module = "keras.src.models.functional"
        return {"module": module, "class_name": "Functional", "config": config, "registered_name": None}

    def _ends(self, ends: Any) -> Any:
        """Keras 3 counts a nested functional model's calls from one where a model ends, and from zero elsewhere."""
        if isinstance(ends, Ref):
            node = self.node(ends.layer)
            nested = node.graph is not None and not node.graph.sequential
            return [ends.layer, ends.call + nested, ends.tensor]
        if isinstance(ends, dict):
            return {key: self._ends(end) for key, end in ends.items()}
        return [self._ends(end) for end in ends]

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def leaves(self) -> Iterator[tuple[tuple[str, ...], Node]]:
        """Every layer that is no model, with the names that lead to it, in the file's order."""
        for node in self.nodes:
            if node.graph is None:
                yield (node.name,), node
            else:
                for path, leaf in node.graph.leaves():
                    yield (node.name, *path), leaf


def _written(value: Any) -> Any:
    """The shape and type are Keras' to fill in: it looks the tensor up by its history."""
    if isinstance(value, Ref):
        history = [value.layer, value.call, value.tensor]
        return {
            "class_name": "__keras_tensor__",
            "config": {"shape": [], "dtype": "float32", "keras_history": history},
        }
    if isinstance(value, dict):
        return {key: _written(part) for key, part in value.items()}
    return [_written(part) for part in value] if isinstance(value, list) else value


def refs(value: Any) -> Iterator[Ref]:
    """Every tensor in a call's arguments or a model's ends."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from refs(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from refs(part)


def swapped(value: Any, swap: Callable[[Ref], Ref]) -> Any:
    """The same arguments with every tensor replaced by what `swap` makes of it."""
    if isinstance(value, Ref):
        return swap(value)
    if isinstance(value, dict):
        return {key: swapped(part, swap) for key, part in value.items()}
    return [swapped(part, swap) for part in value] if isinstance(value, list) else value
