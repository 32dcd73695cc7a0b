"""The arrays of an old `.h5` into the Keras 3 model of its architecture: each once, none missing, none left over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import keras

from rightfit.console import Console
from rightfit.errors import ArchitectureError, ModelFileError
from rightfit.formats.contents import ModelFile
from rightfit.saving.allowed import TWINS
from rightfit.saving.legacy import recurrent
from rightfit.saving.legacy.graph import Array, Graph, Node, as_they_are, named
from rightfit.saving.legacy.layers import Era, combined, made


@dataclass
class Leaf:
    """One layer with weights: how it was translated, and what it became."""

    path: tuple[str, ...]
    node: Node
    layer: Any

    @property
    def variables(self) -> list[Any]:
        """In the order of Keras 1 and 2: what is trained first."""
        return [*self.layer.trainable_weights, *self.layer.non_trainable_weights]


def fill(model: keras.Model, graph: Graph, file: ModelFile, era: Era) -> None:
    """Give `model`, which was built of `graph`, the weights of `file`.

    Layers are found by name, or by order where the file has other names. ModelFileError says what is missing, left
    over or of another shape.
    """
    leaves = [leaf for leaf in leaves_of(model, graph) if leaf.variables]
    stored = [(name, weights) for name, weights in file.layers if weights]
    filled: set[tuple[str, ...]] = set()
    for (name, weights), group in _matched(stored, leaves, file, era):
        shares = _shares(weights, group, f"{file.path}: {name}")
        for leaf, share in zip(group, shares, strict=True):
            _fill_layer(leaf, [f"{name}/{weight}" for weight in share], file)
            filled.add(leaf.path)
    missing = ["/".join(leaf.path) for leaf in leaves if leaf.path not in filled]
    if missing:
        raise ModelFileError(
            f"{file.path} does not fit the architecture: it has no weights for {', '.join(missing[:3])}"
        )
    for leaf in leaves:
        if hasattr(leaf.layer, "finalize_state"):
            leaf.layer.finalize_state()


def load(model: keras.Model, file: ModelFile) -> None:
    """Fill a Keras 3 model with weights that Keras 2 (or 3, as `.h5`) kept: what `model.load_weights` once did.

    Kernels that Theano trained are flipped, and gates with a hard sigmoid keep their outputs. ModelFileError as of
    `fill`, and for weights of Keras 1, whose layout only the architecture tells.
    """
    version = file.keras_version or "1"
    if version.startswith("1"):
        raise ModelFileError(
            f"{file.path} holds weights of Keras 1, laid out as its architecture says: give both to `rightfit convert`"
        )
    era = Era(3 if version.startswith("3") else 2, file.backend or "")
    fill(model, _as_graph(model, era), file, era)
    for layer in model._flatten_layers():
        if _had_a_hard_sigmoid(layer, version):
            Console().say(
                f"{file.path}: gates of {layer.name} have a sigmoid; in Keras {version} those of a "
                f"{type(layer).__name__} had a hard one unless it was told otherwise: if it was not, build it "
                'with recurrent_activation="hard_sigmoid"'
            )


def _had_a_hard_sigmoid(layer: Any, version: str) -> bool:
    """Whether a recurrent layer of that Keras had other gates by default: weights do not say which it had."""
    if getattr(layer, "recurrent_activation", None) is not keras.activations.sigmoid:
        return False
    kind = type(layer).__name__
    if kind in ("LSTM", "GRU"):
        return version.startswith(("2.0", "2.1", "2.2")) and "-tf" not in version
    return kind in ("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D") and version.startswith("2")


def _as_graph(model: keras.Model, era: Era) -> Graph:
    """The layers of a Keras 3 model, each with how Keras 2's weights for it are turned."""
    nodes = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            nodes.append(Node(layer.name, "Functional", {}, graph=_as_graph(layer, era)))
            continue
        kind = TWINS.get(type(layer).__name__, type(layer).__name__)
        try:
            node = made(kind, layer.get_config(), era)[-1]
        except ArchitectureError:  # of a class that is not Keras' own: as it is
            node = Node(layer.name, kind, {})
        if kind in ("LSTM", "GRU"):
            cudnn = recurrent.from_cudnn(4 if kind == "LSTM" else 3)
            node.recipe = combined([cudnn, node.recipe])
        nodes.append(node)
    return Graph(model.name, nodes)


def turn(model: keras.Model, graph: Graph) -> None:
    """What `fill` does to arrays on their way, for a model that has got them from a file of another layout."""
    for leaf in leaves_of(model, graph):
        if leaf.node.recipe is not as_they_are and leaf.variables:
            arrays = [keras.ops.convert_to_numpy(variable) for variable in leaf.variables]
            for variable, array in zip(leaf.variables, leaf.node.recipe(arrays), strict=True):
                variable.assign(array)


def leaves_of(model: keras.Model, graph: Graph) -> Iterator[Leaf]:
    """Every layer that may hold weights."""
    for path, node in graph.leaves():
        if node.class_name == "InputLayer" or node.module != "keras.layers":
            continue
        layer = model
        for name in path:
            layer = layer.get_layer(name) if isinstance(layer, keras.Model) else layer
        yield Leaf(path, node, layer)


Stored = tuple[str, tuple[str, ...]]


def _matched(
    stored: list[Stored], leaves: list[Leaf], file: ModelFile, era: Era
) -> list[tuple[Stored, list[Leaf]]]:
    """Each layer of the file with the layers of the model whose weights it holds."""
    top: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        top.setdefault(leaf.path[0], []).append(leaf)
    inner: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        if len(leaf.path) > 1:
            inner.setdefault(leaf.path[-1], []).append(leaf)
    found = []
    for entry in stored:
        # Keras 1 wrote the layers of a Sequential within a Sequential one by one.
        group = top.get(named(entry[0])) or inner.get(named(entry[0]))
        if group is None:
            if len(stored) == len(top):
                era.note(
                    "the file names its layers otherwise than the architecture: they were taken in order"
                )
                return list(zip(stored, top.values(), strict=True))
            raise ModelFileError(
                f"{file.path} does not fit the architecture: its layer {entry[0]} is left over"
            )
        found.append((entry, group))
    return found


def _shares(weights: Sequence[str], group: list[Leaf], place: str) -> list[list[str]]:
    """Which of a layer's weights are whose, where it is a model of layers."""
    if len(group) == 1:
        return [list(weights)]
    if len(weights) != sum(len(leaf.variables) for leaf in group):
        raise ModelFileError(
            f"{place} has {len(weights)} tensors, its layers in the architecture "
            f"{sum(len(leaf.variables) for leaf in group)}"
        )
    names = [leaf.path[-1] for leaf in group]
    if len(set(names)) == len(names):
        shares = [[w for w in weights if name in w.split("/")[:-1]] for name in names]
        if [len(share) for share in shares] == [len(leaf.variables) for leaf in group]:
            return shares
    # By order: of all layers what is trained, then of all layers what is not.
    shares = [[] for _ in group]
    rest = iter(weights)
    for kind in ("trainable_weights", "non_trainable_weights"):
        for leaf, share in zip(group, shares, strict=True):
            share += [next(rest) for _ in getattr(leaf.layer, kind)]
    return shares


def _fill_layer(leaf: Leaf, names: list[str], file: ModelFile) -> None:
    place = f"{file.path}: {'/'.join(leaf.path)}"
    sizes = sum(file.tensors[name].size for name in names)
    room = sum(prod(variable.shape) for variable in leaf.variables)
    if sizes > 2 * room + 16:  # cuDNN's LSTM has a second bias, nothing more than that is ever dropped
        raise ModelFileError(f"{place} has {sizes:,} numbers in the file and {room:,} in the architecture")
    arrays = _turned(leaf, [file.tensors[name].read() for name in names], place)
    wanted = [tuple(variable.shape) for variable in leaf.variables]
    given = [array.shape for array in arrays]
    if given != wanted:
        raise ModelFileError(
            f"{file.path} does not fit the architecture: {'/'.join(leaf.path)}, a {leaf.node.class_name}, has shapes "
            f"{given} in the file and {wanted} there"
        )
    for variable, array in zip(leaf.variables, arrays, strict=True):
        variable.assign(array)


def _turned(leaf: Leaf, arrays: list[Array], place: str) -> list[Array]:
    try:
        return leaf.node.recipe(arrays)
    except (ValueError, IndexError, TypeError) as error:
        raise ModelFileError(
            f"{place}, a {leaf.node.class_name}, has weights of shapes {[a.shape for a in arrays]}, which are not "
            "those of such a layer"
        ) from error
