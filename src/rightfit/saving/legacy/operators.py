"""Calls between layers as Keras 2 and 3 write them, and TensorFlow's operators as Keras 3's."""

from __future__ import annotations

from typing import Any

from rightfit.errors import ArchitectureError
from rightfit.saving.allowed import OPERATORS
from rightfit.saving.legacy.graph import Call, Node, Ref, named

CONSTANT = "_CONSTANT_VALUE"
OPERATOR_LAYERS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod")
# TensorFlow's function -> Keras 3's operator, and the names by which both call their arguments.
FUNCTIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    name: ("numpy", kind, {"x": "x1", "y": "x2"})
    for names, kind in (
        ("math.add __operators__.add add", "Add"),
        ("math.subtract __operators__.sub subtract", "Subtract"),
        ("math.multiply __operators__.mul multiply", "Multiply"),
        ("math.divide __operators__.truediv math.truediv realdiv divide", "TrueDivide"),
        ("math.maximum maximum", "Maximum"),
        ("math.minimum minimum", "Minimum"),
        ("math.pow __operators__.pow pow", "Power"),
        ("math.mod math.floormod __operators__.mod", "Mod"),
        ("linalg.matmul __operators__.matmul matmul", "Matmul"),
    )
    for name in names.split()
}
FUNCTIONS |= {
    name: ("numpy", kind, {"x": "x"})
    for names, kind in (
        ("math.abs abs __operators__.abs", "Absolute"),
        ("math.exp exp", "Exp"),
        ("math.log log", "Log"),
        ("math.log1p", "Log1p"),
        ("math.sqrt sqrt", "Sqrt"),
        ("math.square square", "Square"),
        ("math.negative __operators__.neg negative", "Negative"),
        ("math.sin sin", "Sin"),
        ("math.cos cos", "Cos"),
        ("math.floor floor", "Floor"),
        ("math.ceil", "Ceil"),
        ("math.sign sign", "Sign"),
        ("math.tanh tanh", "Tanh"),
    )
    for name in names.split()
}
FUNCTIONS |= {
    name: ("nn", kind, {"x": "x", "features": "x", "logits": "x", "value": "x"})
    for names, kind in (
        ("nn.relu", "Relu"),
        ("nn.relu6", "Relu6"),
        ("math.sigmoid nn.sigmoid sigmoid", "Sigmoid"),
        ("nn.swish nn.silu", "Silu"),
        ("nn.elu", "Elu"),
        ("nn.selu", "Selu"),
        ("math.softplus nn.softplus", "Softplus"),
        ("nn.softsign", "Softsign"),
    )
    for name in names.split()
}
FUNCTIONS |= {
    name: ("numpy", kind, {"input_tensor": "x", "axis": "axis", "keepdims": "keepdims"})
    for names, kind in (
        ("math.reduce_mean reduce_mean", "Mean"),
        ("math.reduce_sum reduce_sum", "Sum"),
        ("math.reduce_max reduce_max", "Max"),
        ("math.reduce_min reduce_min", "Min"),
        ("math.reduce_prod reduce_prod", "Prod"),
    )
    for name in names.split()
}
FUNCTIONS |= {
    "reshape": ("numpy", "Reshape", {"tensor": "x", "shape": "newshape"}),
    "expand_dims": ("numpy", "ExpandDims", {"input": "x", "axis": "axis"}),
    "squeeze": ("numpy", "Squeeze", {"input": "x", "axis": "axis"}),
    "transpose": ("numpy", "Transpose", {"a": "x", "perm": "axes"}),
    "concat": ("numpy", "Concatenate", {"values": "xs", "axis": "axis"}),
    "stack": ("numpy", "Stack", {"values": "x", "axis": "axis"}),
    "clip_by_value": ("numpy", "Clip", {"t": "x", "clip_value_min": "x_min", "clip_value_max": "x_max"}),
    "nn.softmax": ("nn", "Softmax", {"logits": "x", "axis": "axis"}),
    "cast": ("core", "Cast", {"x": "x", "dtype": "dtype"}),
}
# Settings of an operator that Keras 3 takes when it is made; the rest are tensors of its call.
MADE_WITH = ("axis", "keepdims", "newshape", "axes", "x_min", "x_max", "dtype")
FIRST = ("x1", "x", "xs")


def call(data: Any, names: set[str]) -> Call:
    """One entry of inbound_nodes: a list of Keras 1 and 2, or a dictionary of Keras 3."""
    if isinstance(data, dict) and set(data) <= {"args", "kwargs"}:
        return Call(_revived(data.get("args") or []), _revived(data.get("kwargs") or {}))
    if not isinstance(data, list):
        raise ArchitectureError(f"the architecture has {data!r:.60} for a call of a layer")
    if data and isinstance(data[0], str):  # tf.keras writes the only tensor without a list around it
        data = [data]
    tensors: list[Any] = []
    kwargs: dict[str, Any] = {}
    for entry in data:
        if not isinstance(entry, list) or not 3 <= len(entry) <= 4:
            raise ArchitectureError(f"the architecture has {entry!r:.60} for a tensor")
        tensors.append(entry[2] if entry[0] == CONSTANT else _ref(entry))
        if len(entry) == 4 and isinstance(entry[3], dict):
            kwargs |= {key: _tensors(value, names) for key, value in entry[3].items()}
    kwargs = {key: value for key, value in kwargs.items() if value is not None or key in ("mask",)}
    return Call([tensors[0] if len(tensors) == 1 else tensors], kwargs)


def _ref(entry: list[Any]) -> Ref:
    layer, number, tensor = entry[:3]
    if not isinstance(layer, str) or not isinstance(number, int) or not isinstance(tensor, int):
        raise ArchitectureError(f"the architecture has {entry!r:.60} for a tensor")
    if number < 0 or tensor < 0:
        raise ArchitectureError(f"the architecture has {entry!r:.60} for a tensor")
    return Ref(named(layer), number, tensor)


def _tensors(value: Any, names: set[str]) -> Any:
    """Keras 2 writes a tensor among a call's arguments as [layer, call, output]."""
    if isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str):
            if value[0] in names and all(isinstance(part, int) for part in value[1:3]):
                return _ref(value)
            if value[0] == CONSTANT:
                return value[2]
        return [_tensors(part, names) for part in value]
    if isinstance(value, dict):
        if set(value) == {"class_name", "items"} or value.get("class_name") == "__tuple__":
            return [_tensors(part, names) for part in value.get("items", [])]
        return {key: _tensors(part, names) for key, part in value.items()}
    return value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            history = (value.get("config") or {}).get("keras_history")
            if not isinstance(history, list) or len(history) != 3:
                raise ArchitectureError("the architecture has a tensor without a layer")
            return _ref(history)
        return {key: _revived(part) for key, part in value.items()}
    return [_revived(part) for part in value] if isinstance(value, list) else value


def ends(data: Any) -> Any:
    """input_layers or output_layers: [[layer, call, output], ...], one of them, or by name."""
    if isinstance(data, dict):
        return {key: ends(part) for key, part in data.items()}
    if isinstance(data, list) and len(data) >= 3 and isinstance(data[0], str):
        return _ref(data)
    if not isinstance(data, list) or not data:
        raise ArchitectureError("the architecture does not say where the model begins and ends")
    found = [ends(part) for part in data]
    return found[0] if len(found) == 1 else found


def is_operator(class_name: Any, config: dict[str, Any], keras: int) -> bool:
    if class_name in OPERATOR_LAYERS:
        return True
    known = any(class_name in names.split() for names in OPERATORS.values())
    return keras == 3 and known and "trainable" not in config


def node(name: str, class_name: str, config: dict[str, Any], calls: list[Call]) -> Node:
    """An operator of TensorFlow (tf.keras) or of Keras 3's `.h5`, with its calls as Keras 3 makes them."""
    if class_name == "SlicingOpLambda":
        return _slicing(name, calls)
    if class_name not in OPERATOR_LAYERS:
        module = next(module for module, names in OPERATORS.items() if class_name in names.split())
        return Node(name, class_name, config, f"keras.src.ops.{module}", calls)
    function = str(config.get("function", config.get("node_def", "")))[:60]
    if class_name != "TFOpLambda" or function not in FUNCTIONS:
        raise ArchitectureError(
            f"{name} is the operator {function or class_name} of TensorFlow, which is not among those rightfit carries"
        )
    module, kind, arguments = FUNCTIONS[function]
    settings: dict[str, Any] = {"name": name}
    for entry in calls:
        given = {arguments[key]: value for key, value in entry.kwargs.items() if key in arguments}
        unknown = [
            key for key, value in entry.kwargs.items() if key not in arguments and key != "name" and value
        ]
        if unknown:
            raise ArchitectureError(f"{name}: {function} with {unknown[0]} is not carried")
        settings |= {key: value for key, value in given.items() if key in MADE_WITH}
        rest = [value for key, value in given.items() if key not in (*MADE_WITH, *FIRST)]
        first = entry.args[0] if entry.args else given[next(iter(given))]
        entry.args, entry.kwargs = [first, *rest], {}
    return Node(name, kind, settings, f"keras.src.ops.{module}", calls)


def _slicing(name: str, calls: list[Call]) -> Node:
    """x[...]: Keras 2 writes each slice as a dictionary of start, stop and step."""
    for entry in calls:
        key = entry.kwargs.get("slice_spec")
        if not isinstance(key, list):
            raise ArchitectureError(f"{name} slices by {key!r:.60}, which is not carried")
        entry.args, entry.kwargs = (
            [entry.args[0], [_slice(k) for k in key]],
            {},
        )
    return Node(name, "GetItem", {"name": name}, "keras.src.ops.numpy", calls)


def _slice(key: Any) -> Any:
    if isinstance(key, dict) and set(key) == {"start", "stop", "step"}:
        return {"class_name": "__slice__", "config": key}
    if isinstance(key, int) or key is None:
        return key
    raise ArchitectureError(f"the architecture slices by {key!r:.60}, which is not carried")
