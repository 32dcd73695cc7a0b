"""A whole model of Keras 1, 2 or 3's `.h5` in, as JSON's plain data; a graph of Keras 3 layers out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras

from rightfit.errors import ArchitectureError
from rightfit.saving.building import built
from rightfit.saving.checked import checked
from rightfit.saving.legacy import keras1, operators
from rightfit.saving.legacy.graph import Call, Graph, Node, Ref, named, refs, swapped
from rightfit.saving.legacy.layers import Era, made

MODELS = ("Sequential", "Model", "Functional", "Container", "Network")
MOST_DEEP = 20
MOST_LAYERS = 20_000
# Layers that Keras 3 calls with further tensors by name, which Keras 2 kept in one list with the first.
INITIAL_STATE = ("SimpleRNN", "LSTM", "GRU", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional")


@dataclass
class Translation:
    """A model of another age in Keras 3's terms, and what could not be carried."""

    graph: Graph
    era: Era

    @property
    def notes(self) -> list[str]:
        return self.era.notes

    def build(self) -> keras.Model:
        """The Keras 3 model with first weights; ArchitectureError as of `building.built`."""
        return built(checked(self.graph.serialized()))


def translated(config: Any, keras_version: str = "", backend: str = "") -> Translation:
    """The model that `config` (class_name and config, as to_json wrote them) describes.

    `keras_version` and `backend` are those of the weights' file, where it knows better than the architecture.
    ArchitectureError for what Keras 3 does not have, or Lambda, or a subclass of Model.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ArchitectureError("the architecture describes no model")
    if config["class_name"] == "Graph":
        raise ArchitectureError(f"a model of class Graph is not carried: {keras1.GONE['Graph']}")
    if config["class_name"].rpartition(">")[2] not in MODELS:
        raise ArchitectureError(
            f"the model is a {config['class_name'][:80]}, a class of its own whose code is not in the file; "
            "save it as a functional or a Sequential model"
        )
    version = str(keras_version or config.get("keras_version") or "")
    era = Era(_age(version, config), str(backend or config.get("backend") or "").lower())
    try:
        return Translation(graph_of(config, era), era)
    except RecursionError as error:
        raise ArchitectureError("the architecture is nested too deeply") from error
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, StopIteration) as error:
        # Settings of a wrong kind, wherever they were looked into.
        raise ArchitectureError(
            f"the architecture is damaged: {type(error).__name__} ({error})"[:300]
        ) from error


def _age(version: str, config: Any) -> int:
    if keras1.is_first(config):
        return 1
    return 3 if version.startswith("3") else 2


def graph_of(config: dict[str, Any], era: Era, depth: int = 0) -> Graph:
    """The graph of a model, nested ones within."""
    if depth > MOST_DEEP:
        raise ArchitectureError(f"models are nested more than {MOST_DEEP} deep")
    inner = config.get("config")
    if config["class_name"] == "Sequential":
        return _chain(inner, str(config.get("name") or "sequential"), era, depth)
    if not isinstance(inner, dict) or not isinstance(inner.get("layers"), list):
        raise ArchitectureError(
            f"the model {str(config.get('name', ''))[:60]} has no layers in its architecture; "
            "is it a subclass of keras.Model? Its code is not in the file"
        )
    return _functional(inner, era, depth)


def _chain(inner: Any, name: str, era: Era, depth: int) -> Graph:
    """A Sequential; Keras 1 and 2.0 wrote the list alone, and Keras 1 let it begin with a Merge of others."""
    trainable = True
    if isinstance(inner, dict):
        name = named(inner.get("name") or name)
        trainable = inner.get("trainable") is not False
        layers, shape = inner.get("layers"), inner.get("build_input_shape")
    else:
        layers, shape = inner, None
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ArchitectureError(f"the Sequential model {name[:60]} lists no layers")
    if layers and layers[0].get("class_name") == "Merge":
        return _merged_chain(layers, name, era, depth)
    nodes: list[Node] = []
    first: dict[str, Any] = {}
    for layer in layers:
        first = first or layer
        nodes += _nodes(layer, era, depth + 1)
    if nodes and nodes[0].class_name != "InputLayer":
        nodes = _with_input(nodes, first, shape) + nodes
    graph = Graph(name, nodes, sequential=True, trainable=trainable)
    if nodes and nodes[0].class_name == "InputLayer":
        for before, node in pairwise(nodes):
            node.calls = [Call([Ref(before.name)])]
        graph.inputs, graph.outputs = Ref(nodes[0].name), Ref(nodes[-1].name)
    _check_names(graph)
    return graph


def _with_input(nodes: list[Node], first: dict[str, Any], shape: Any) -> list[Node]:
    """The input layer that Keras 2 left to its first layer's batch_input_shape."""
    config = first.get("config")
    config = config if isinstance(config, dict) else {}
    shape = config.get("batch_input_shape") or config.get("batch_shape") or shape
    if nodes[0].graph is not None and nodes[0].graph.inputs is not None:
        source = next(refs(nodes[0].graph.inputs))
        shape = nodes[0].graph.node(source.layer).config["batch_shape"]
    if shape is None and config.get("input_dim") and nodes[0].class_name == "Dense":
        shape = [None, config["input_dim"]]
    if not isinstance(shape, list):
        return []
    integers = nodes[0].class_name == "Embedding"
    dtype = nodes[0].config.get("dtype")
    dtype = "int32" if integers else dtype if isinstance(dtype, str) and "mixed" not in dtype else "float32"
    name = f"{nodes[0].name}_input"
    return [Node(name, "InputLayer", {"batch_shape": shape, "dtype": dtype, "name": name})]


def _merged_chain(layers: list[dict[str, Any]], name: str, era: Era, depth: int) -> Graph:
    """Sequential([Merge([left, right]), ...]) of Keras 1, as the functional model it is."""
    settings = layers[0].get("config")
    branches = settings.get("layers") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(branches, list):
        raise ArchitectureError(f"the Merge at the start of {name[:60]} lists no models")
    nodes: list[Node] = []
    inputs, ends = [], []
    for branch in branches:
        graph = graph_of(branch, era, depth + 1)
        if graph.inputs is None:
            raise ArchitectureError(f"{graph.name}, a branch of {name[:60]}, has no input shape")
        nodes += graph.nodes
        inputs += list(refs(graph.inputs))
        ends.append(next(refs(graph.outputs)))
    kind, config = keras1.merge(str(settings.get("name", "merge")), settings)
    nodes.append(Node(config["name"], kind, config, calls=[Call([ends])]))
    for layer in layers[1:]:
        for node in _nodes(layer, era, depth + 1):
            node.calls = [Call([Ref(nodes[-1].name)])]
            nodes.append(node)
    graph = Graph(name, nodes, inputs, Ref(nodes[-1].name))
    _check_names(graph)
    return graph


def _functional(inner: dict[str, Any], era: Era, depth: int) -> Graph:
    name = named(inner.get("name") or "model")
    listed = inner["layers"]
    if len(listed) > MOST_LAYERS or not all(isinstance(layer, dict) for layer in listed):
        raise ArchitectureError(f"the model {name[:60]} lists no layers, or over {MOST_LAYERS:,}")
    names = {str(layer.get("name") or (layer.get("config") or {}).get("name")) for layer in listed}
    nodes: list[Node] = []
    for layer in listed:
        calls = [operators.call(call, names) for call in layer.get("inbound_nodes") or ()]
        chain = _nodes(layer, era, depth + 1, calls)
        if calls and len(chain) > 1:
            for before, node in pairwise(chain):
                node.calls = [Call([Ref(before.name, number)]) for number in range(len(calls))]
        chain[0].calls = [_called(chain[0], call) for call in calls]
        nodes += chain
    graph = Graph(name, nodes, trainable=inner.get("trainable") is not False)
    nested = {node.name for node in nodes if node.graph is not None}
    known = {node.name for node in nodes}

    def counted(ref: Ref) -> Ref:
        """Keras 2 counted a nested model's own making as its call 0; Keras 3 does so at the model's ends alone."""
        if ref.layer not in known:
            raise ArchitectureError(
                f"{name[:60]}: a layer takes the output of {ref.layer[:60]!r}, which is not there"
            )
        return Ref(ref.layer, ref.call - 1, ref.tensor) if ref.layer in nested and ref.call else ref

    if era.keras < 3:
        for node in nodes:
            for call in node.calls:
                call.args, call.kwargs = swapped(call.args, counted), swapped(call.kwargs, counted)
    ends = [operators.ends(inner.get(key)) for key in ("input_layers", "output_layers")]
    if era.keras == 3:
        functional = {node.name for node in nodes if node.graph is not None and not node.graph.sequential}
        nested &= functional
    graph.inputs, graph.outputs = (swapped(end, counted) for end in ends)
    _check_names(graph)
    return graph


def _nodes(layer: dict[str, Any], era: Era, depth: int, calls: list[Call] | None = None) -> list[Node]:
    """The Keras 3 layers for one entry of a model's list."""
    class_name, config = layer.get("class_name"), layer.get("config")
    if isinstance(class_name, str) and class_name.rpartition(">")[2] in MODELS:
        graph = graph_of(layer | {"class_name": class_name.rpartition(">")[2]}, era, depth)
        graph.name = named(layer.get("name") or graph.name)
        return [Node(graph.name, "Functional", {}, graph=graph)]
    if not isinstance(config, dict):
        raise ArchitectureError(f"the layer {str(layer.get('name'))[:60]} has no settings")
    name = named(layer.get("name") or config.get("name") or "")
    if class_name == "Merge":
        class_name, config = keras1.merge(name, config)
    if operators.is_operator(class_name, config, era.keras):
        return [operators.node(name, str(class_name), config, calls or [])]
    nodes = made(class_name, config | ({"name": name} if name else {}), era)
    return nodes


def _called(node: Node, call: Call) -> Call:
    """Tensors that Keras 3 takes by name."""
    if node.class_name in INITIAL_STATE and len(call.args) == 1 and isinstance(call.args[0], list):
        first, *states = call.args[0]
        return Call([first], {**call.kwargs, "initial_state": states})
    return call


def _check_names(graph: Graph) -> None:
    names = [node.name for node in graph.nodes]
    twice = (
        next((name for name in names if names.count(name) > 1), None)
        if len(set(names)) < len(names)
        else None
    )
    if twice is not None:
        raise ArchitectureError(f"{graph.name}: two layers are called {twice[:60]}")
