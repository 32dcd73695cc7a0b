"""A graph whose images come channels first in, the same computation on channels-last images out.

Keras 1 and 2 trained many nets so on Theano; TensorFlow on a processor cannot run them. Every tensor (B, C, H, W)
becomes (B, H, W, C). Kernels are alike for both (Keras 3 keeps them (h, w, in, out)); what follows a Flatten is not:
its Dense layer gets its rows in the new order. A layer that sees the axes themselves is given the old order back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from rightfit.errors import ArchitectureError
from rightfit.saving.building import measured
from rightfit.saving.checked import checked
from rightfit.saving.legacy.graph import Array, Call, Graph, Node, Recipe, Ref, refs, swapped
from rightfit.saving.legacy.layers import combined

FIRST, LAST = "channels_first", "channels_last"
SPATIAL = (
    "Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "MaxPooling2D", "AveragePooling2D",
    "GlobalMaxPooling2D", "GlobalAveragePooling2D", "UpSampling2D", "ZeroPadding2D", "Cropping2D",
    "SpatialDropout2D",
)  # fmt: skip
ELEMENTWISE = (
    "Activation", "ReLU", "LeakyReLU", "ELU", "Dropout", "GaussianNoise", "GaussianDropout", "AlphaDropout",
    "ActivityRegularization", "Identity",
)  # fmt: skip
BY_AXIS = ("softmax", "log_softmax")  # activations over the last axis, which is another one then
MERGING = ("Add", "Multiply", "Average", "Maximum", "Minimum", "Subtract")
AXES = {1: 3, 2: 1, 3: 2}  # of (B, C, H, W) in (B, H, W, C)
TO_FIRST, TO_LAST = (3, 1, 2), (2, 3, 1)
Shape = tuple[int | None, ...]


def reordered(graph: Graph) -> str:
    """Turn `graph` in place and say what was done; an empty string when nothing needed to be."""
    formats = {leaf.config.get("data_format") for _, leaf in graph.leaves() if leaf.class_name in SPATIAL}
    others = [leaf.name for _, leaf in graph.leaves() if leaf.class_name not in SPATIAL and _elsewhere(leaf)]
    if FIRST not in formats and not others:
        return ""
    if others or LAST in formats or graph.inputs is None:
        why = (
            f"{others[0]} does"
            if others
            else "not all of its layers do"
            if LAST in formats
            else "it has no input"
        )
        return f"channels stay first ({why}): it runs on JAX, PyTorch and GPUs"
    for part in _graphs(graph):
        _part_activations(part)
    try:
        _turn(graph, _shapes_of(graph))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ArchitectureError(f"the order of its channels cannot be turned: {error}"[:300]) from error
    return "channels first became channels last: give it (height, width, channels) images"


def _elsewhere(leaf: Node) -> bool:
    """Whether a layer other than the usual ones for images has channels first."""
    return leaf.class_name != "Flatten" and f'"{FIRST}"' in json.dumps(leaf.config)


class _Shapes:
    """The shapes that go into and come out of each call of each layer of one graph, channels first."""

    def __init__(self, model: Any, graph: Graph) -> None:
        self.into: dict[str, list[list[Shape]]] = {}
        self.out: dict[str, list[list[Shape]]] = {}
        self.nested: dict[str, _Shapes] = {}
        operations = {operation.name: operation for operation in model.operations}
        for node in graph.nodes:
            operation = operations.get(node.name)
            calls = getattr(operation, "_inbound_nodes", [])
            self.into[node.name] = [[tuple(t.shape) for t in call.input_tensors] for call in calls]
            self.out[node.name] = [[tuple(t.shape) for t in call.output_tensors] for call in calls]
            if node.graph is not None and operation is not None:
                self.nested[node.name] = _Shapes(operation, node.graph)

    def of(self, ref: Ref) -> Shape:
        return self.out[ref.layer][ref.call][ref.tensor]


def _shapes_of(graph: Graph) -> _Shapes:
    chains = [g for g in _graphs(graph) if g.sequential]
    for chain in chains:
        chain.sequential = False
    try:
        return _Shapes(measured(checked(graph.serialized())), graph)
    finally:
        for chain in chains:
            chain.sequential = True


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        if node.graph is not None:
            yield from _graphs(node.graph)


def _part_activations(graph: Graph) -> None:
    """A convolution's softmax becomes a layer of its own, which sees the axes in their old order."""
    parted: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes.append(node)
        activation = node.config.get("activation")
        if node.class_name in SPATIAL and activation in BY_AXIS:
            name = parted[node.name] = f"{node.name}_{activation}"
            node.config["activation"] = "linear"
            calls = [Call([Ref(node.name, number)]) for number in range(len(node.calls))]
            nodes.append(Node(name, "Activation", {"name": name, "activation": activation}, calls=calls))

    def swap(ref: Ref) -> Ref:
        return Ref(parted.get(ref.layer, ref.layer), ref.call, ref.tensor)

    for node in nodes:
        if node.name not in parted.values():
            node.calls = [Call(swapped(c.args, swap), swapped(c.kwargs, swap)) for c in node.calls]
    graph.outputs = swapped(graph.outputs, swap)
    graph.nodes = nodes


def _turn(graph: Graph, shapes: _Shapes) -> None:
    """Every image-like tensor of the graph, its inputs and outputs too, gets its channels last."""
    moved: dict[tuple[str, int], str] = {}  # outputs that another layer brings into the new order
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.graph is not None:
            _turn(node.graph, shapes.nested[node.name])
            nodes.append(node)
        elif _settled(graph, node, shapes):
            nodes.append(node)
        else:
            nodes += _given_back(node, shapes, moved)

    def swap(ref: Ref) -> Ref:
        return Ref(moved[ref.layer, ref.tensor], ref.call) if (ref.layer, ref.tensor) in moved else ref

    for node in nodes:
        if node.name not in moved.values():
            node.calls = [Call(swapped(c.args, swap), swapped(c.kwargs, swap)) for c in node.calls]
    graph.outputs = swapped(graph.outputs, swap)
    graph.nodes = nodes


def _settled(graph: Graph, node: Node, shapes: _Shapes) -> bool:
    """Whether the layer does the same in the new order once its settings are changed, which they are."""
    kind, config = node.class_name, node.config
    ranks = {len(s) for calls in (shapes.into, shapes.out) for call in calls[node.name] for s in call}
    if kind == "InputLayer":
        if len(config["batch_shape"]) == 4:
            batch, channels, *space = config["batch_shape"]
            config["batch_shape"] = [batch, *space, channels]
        return True
    if 4 not in ranks:
        return True
    if kind in SPATIAL:
        config["data_format"] = LAST
        return True
    if kind == "Flatten":
        return _flattened(graph, node, shapes)
    if kind in ("BatchNormalization", "Concatenate") and ranks == {4}:
        axis = config.get("axis", -1)
        config["axis"] = AXES.get(axis % 4, axis)
        return True
    plain = kind in ELEMENTWISE and config.get("activation") not in BY_AXIS
    return ranks == {4} and (kind in MERGING or (plain and not config.get("noise_shape")))


def _flattened(graph: Graph, node: Node, shapes: _Shapes) -> bool:
    """A Flatten: Keras 2.2 on puts channels last itself where told so; before, the order of what follows changes."""
    if node.config.get("data_format") == FIRST:
        node.config["data_format"] = LAST
        return True
    node.config.pop("data_format", None)
    dense = _dense_after(graph, node)
    shape = shapes.into[node.name][0][0]
    if len(node.calls) != 1 or dense is None or None in shape[1:]:
        return False
    for layer in dense:
        layer.recipe = combined([layer.recipe, _rows(shape)])
    return True


def _dense_after(graph: Graph, node: Node) -> list[Node] | None:
    """The Dense layers that read the output of `node`, through layers that leave places alone; None if others do."""
    if any(ref.layer == node.name for ref in refs(graph.outputs)):
        return None
    found: list[Node] = []
    for reader in graph.nodes:
        if not any(ref.layer == node.name for call in reader.calls for ref in refs(call.args)):
            continue
        if len(reader.calls) != 1 or reader.graph is not None:
            return None
        if reader.class_name == "Dense":
            found.append(reader)
        elif reader.class_name in ELEMENTWISE and reader.config.get("activation") not in BY_AXIS:
            further = _dense_after(graph, reader)
            if further is None:
                return None
            found += further
        else:
            return None
    return found


def _rows(shape: Shape) -> Recipe:
    """(B, C, H, W): the rows of a kernel (C * H * W, units) in the order (H, W, C)."""
    _, channels, height, width = shape

    def recipe(arrays: list[Array]) -> list[Array]:
        kernel = arrays[0]
        rows = np.arange(len(kernel)).reshape(channels or 1, height or 1, width or 1)
        return [np.ascontiguousarray(kernel[rows.transpose(1, 2, 0).ravel()]), *arrays[1:]]

    return recipe


def _given_back(node: Node, shapes: _Shapes, moved: dict[tuple[str, int], str]) -> list[Node]:
    """The layer between permutations: it sees its old order, its readers the new one."""
    before: list[Node] = []
    made: dict[Ref, str] = {}

    def put_first(ref: Ref) -> Ref:
        if len(shapes.of(ref)) != 4:
            return ref
        if ref not in made:
            made[ref] = f"{node.name}_channels_first" + (f"_{len(made)}" if made else "")
            before.append(_permute(made[ref], TO_FIRST, [Call([ref])]))
        return Ref(made[ref])

    node.calls = [Call(swapped(c.args, put_first), swapped(c.kwargs, put_first)) for c in node.calls]
    after = []
    for tensor, shape in enumerate(shapes.out[node.name][0] if shapes.out[node.name] else ()):
        if len(shape) == 4:
            name = f"{node.name}_channels_last" + (f"_{tensor}" if tensor else "")
            moved[node.name, tensor] = name
            calls = [Call([Ref(node.name, number, tensor)]) for number in range(len(node.calls))]
            after.append(_permute(name, TO_LAST, calls))
    return [*before, node, *after]


def _permute(name: str, dims: tuple[int, ...], calls: list[Call]) -> Node:
    return Node(name, "Permute", {"name": name, "dims": list(dims)}, calls=calls)
