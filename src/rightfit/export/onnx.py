"""A net as an ONNX model: the architecture and the weights of a run in, the bytes of a file out.

Written layer by layer from the closed list of layers (`onnx_layers.py`), with the `onnx` package alone: no backend
has to be installed, and none decides what is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from numpy.typing import NDArray

from rightfit.errors import RunError, UsageError
from rightfit.export.onnx_layers import LAYERS, TO_CHANNELS_FIRST, Graph, Layer

OPSET, FORMAT = 17, 8  # read by ONNX Runtime from 1.12 on
INPUT, OUTPUT = "images", "logits"

Key = tuple[str, int]  # a layer, and which of its calls


def write(architecture: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> bytes:
    """Images (B, H, W, 3) uint8, 0..255 RGB -> logits (B, outputs) float32, B free, as the bytes of an ONNX file.

    `architecture` is the configuration of a functional model of stock layers (`saving.architecture.to_config`),
    whose pixels' normalisation is a layer of it; `weights` are by `layer/variable`. Raises UsageError that names a
    layer or setting which is not written, RunError for a configuration that is not whole.
    """
    try:
        return _write(architecture["config"], weights)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:
        raise RunError(
            f"the architecture cannot be written to ONNX ({error!r}); the run is damaged"
        ) from error


def _write(config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> bytes:
    from onnx import TensorProto, helper

    graph, known = Graph(), dict[Key, str]()
    image, shape = _image(config)
    graph.prefix = image
    pixels = graph.add("Cast", INPUT, to=TensorProto.FLOAT)
    known[image, 0] = graph.add("Transpose", pixels, perm=TO_CHANNELS_FIRST)
    calls = list(_calls(config, weights))
    waiting = calls
    while waiting:  # once, where no layer is called twice: Keras lists a model's layers in their order
        left = []
        for key, layer, sources in waiting:
            if any(source not in known for source in sources):
                left.append((key, layer, sources))
                continue
            graph.prefix = layer.name
            known[key] = LAYERS[layer.kind](graph, layer, *(known[source] for source in sources))
        if len(left) == len(waiting):
            raise ValueError(f"the inputs of {left[0][1].name} come from nowhere")
        waiting = left
    last = _last(config, calls)
    graph.prefix = OUTPUT
    graph.nodes.append(helper.make_node("Identity", [known[last[0]]], [OUTPUT], name=OUTPUT))
    made = helper.make_graph(
        graph.nodes,
        str(config["name"]),
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", *shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", last[1].config["units"]])],
        graph.constants,
    )
    model = helper.make_model(
        made,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=FORMAT,
        producer_name="rightfit",
        producer_version=metadata.version("rightfit"),
    )
    written: bytes = model.SerializeToString()
    return written


def _image(config: Mapping[str, Any]) -> tuple[str, list[int]]:
    """The input's name and its (height, width, channels)."""
    layers = [layer for layer in config["layers"] if layer["class_name"] == "InputLayer"]
    if len(layers) != 1:
        raise UsageError(f"the net takes {len(layers)} inputs; rightfit writes nets of one image to ONNX")
    name, (_, *shape) = layers[0]["name"], layers[0]["config"]["batch_shape"]
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape):
        raise UsageError(f"the net takes {shape}; rightfit writes nets of images of one size to ONNX")
    return name, shape


def _calls(
    config: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]
) -> Iterator[tuple[Key, Layer, list[Key]]]:
    """Each call of each layer: its key, the layer, the keys of its inputs."""
    of_layer: dict[str, dict[str, NDArray[Any]]] = {}
    for path, value in weights.items():
        name, _, variable = path.rpartition("/")
        of_layer.setdefault(name, {})[variable] = value
    for described in config["layers"]:
        name, kind = described["name"], described["class_name"]
        if kind == "InputLayer":
            continue
        for number, node in enumerate(described["inbound_nodes"]):
            tensors = list(_tensors(node["args"]))
            shapes = tuple(tuple(tensor["shape"]) for tensor in tensors)
            layer = Layer(name, kind, described["config"], shapes, of_layer.get(name, {}))
            if kind not in LAYERS:
                raise layer.refusal("is of a kind")
            if node["kwargs"].get("training"):
                raise layer.refusal("is called as in training")
            yield (name, number), layer, [tuple(tensor["keras_history"][:2]) for tensor in tensors]


def _tensors(node: Any) -> Iterator[Mapping[str, Any]]:
    """The tensors among a call's arguments, in their order."""
    if isinstance(node, Mapping):
        if node.get("class_name") == "__keras_tensor__":
            yield node["config"]
    elif isinstance(node, list):
        for part in node:
            yield from _tensors(part)


def _last(config: Mapping[str, Any], calls: list[tuple[Key, Layer, list[Key]]]) -> tuple[Key, Layer]:
    """The call that makes the logits."""
    output = config["output_layers"]
    name, number = (output[0] if isinstance(output[0], list) else output)[:2]
    found = next((layer for key, layer, _ in calls if key == (name, number)), None)
    if found is None or found.kind != "Dense" or found.rank != 2:
        raise UsageError(f"the net ends in {name!r}; rightfit writes nets that end in a dense layer to ONNX")
    return (name, number), found
