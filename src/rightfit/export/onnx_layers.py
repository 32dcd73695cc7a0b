"""What each layer of the closed list is in ONNX: a layer and its inputs' names in, nodes and the output's name out.

Tensors of four dimensions are (B, C, H, W) here, as ONNX's convolutions and pools want them; a layer's own numbers
(axes, shapes, kernels) are Keras', with channels last. Operators are those of opset 17.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.errors import UsageError

TO_CHANNELS_FIRST, TO_CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
FIRST_AXIS = {0: 0, 1: 2, 2: 3, 3: 1}  # of a channels-last axis, among four
RELU6 = (0.0, 6.0)


@dataclass(frozen=True)
class Layer:
    """A layer as the architecture describes it, called once."""

    name: str
    kind: str
    config: Mapping[str, Any]
    shapes: tuple[tuple[int | None, ...], ...]  # of its inputs: channels last, the batch None
    weights: Mapping[str, NDArray[Any]]  # by the variable's name

    def refusal(self, what: str) -> UsageError:
        return UsageError(
            f"the layer {self.name!r} ({self.kind}) {what}, which rightfit does not write to ONNX; "
            "the model runs on tensorflow, jax and torch"
        )

    @property
    def rank(self) -> int:
        return len(self.shapes[0])

    def only(self, **expected: Any) -> None:
        """UsageError where the configuration says anything else."""
        for key, value in expected.items():
            if (found := self.config.get(key, value)) != value:
                raise self.refusal(f"has {key} {found!r}")


class Graph:
    """Nodes and constants in the making; every name is used once."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.prefix = ""

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        from onnx import numpy_helper

        name = f"{self.prefix}/constant_{len(self.constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; returns that output's name."""
        from onnx import helper

        name = f"{self.prefix}/{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def turned(self, x: str, order: Sequence[int]) -> str:
        return self.add("Transpose", x, perm=list(order))


# Convolutions ---------------------------------------------------------------------------------------


def conv(graph: Graph, layer: Layer, x: str) -> str:
    kernel = layer.weights["kernel"].transpose(3, 2, 0, 1)
    y = _convolved(graph, layer, x, kernel, layer.config["groups"], layer.weights.get("bias"))
    return _activated(graph, layer, y)


def depthwise_conv(graph: Graph, layer: Layer, x: str) -> str:
    kernel = _one_group_a_channel(layer.weights["kernel"])
    channels = layer.weights["kernel"].shape[2]
    return _activated(graph, layer, _convolved(graph, layer, x, kernel, channels, layer.weights.get("bias")))


def separable_conv(graph: Graph, layer: Layer, x: str) -> str:
    kernel = layer.weights["depthwise_kernel"]
    y = _convolved(graph, layer, x, _one_group_a_channel(kernel), kernel.shape[2], None)
    pointwise = layer.weights["pointwise_kernel"].transpose(3, 2, 0, 1)
    return _activated(graph, layer, _pointwise(graph, y, pointwise, layer.weights.get("bias")))


def _one_group_a_channel(kernel: NDArray[Any]) -> NDArray[Any]:
    """(height, width, channels, multiplier) -> (channels * multiplier, 1, height, width)."""
    rows, columns, channels, multiplier = kernel.shape
    return kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, rows, columns)


def _convolved(
    graph: Graph, layer: Layer, x: str, kernel: NDArray[Any], groups: int, bias: NDArray[Any] | None
) -> str:
    size, strides, dilation = list(kernel.shape[2:]), layer.config["strides"], layer.config["dilation_rate"]
    inputs = [x, graph.constant(kernel)] + ([] if bias is None else [graph.constant(bias)])
    return graph.add(
        "Conv",
        *inputs,
        group=int(groups),
        kernel_shape=size,
        strides=strides,
        dilations=dilation,
        pads=_pads(layer, size, strides, dilation),
    )


def _pointwise(graph: Graph, x: str, kernel: NDArray[Any], bias: NDArray[Any] | None) -> str:
    inputs = [x, graph.constant(kernel)] + ([] if bias is None else [graph.constant(bias)])
    return graph.add("Conv", *inputs, kernel_shape=[1, 1])


def _pads(
    layer: Layer, size: Sequence[int], strides: Sequence[int], dilation: Sequence[int] = (1, 1)
) -> list[int]:
    """[top, left, bottom, right]; "same" is TensorFlow's: as much as the last window lacks, the odd one behind."""
    layer.only(data_format="channels_last")
    padding, places = layer.config["padding"], layer.shapes[0][1:3]
    if padding not in ("same", "valid"):
        raise layer.refusal(f"has padding {padding!r}")
    if padding == "valid":
        return [0, 0, 0, 0]
    before, behind = [], []
    for place, kernel, stride, spread in zip(places, size, strides, dilation, strict=True):
        if place is None:
            raise layer.refusal("pads images whose size is not fixed")
        reach = (kernel - 1) * spread + 1
        missing = max(0, (-(-place // stride) - 1) * stride + reach - place)
        before.append(missing // 2)
        behind.append(missing - missing // 2)
    return before + behind


# Pools, padding, shapes -----------------------------------------------------------------------------


def max_pool(graph: Graph, layer: Layer, x: str) -> str:
    return _pooled(graph, layer, x, "MaxPool")


def average_pool(graph: Graph, layer: Layer, x: str) -> str:
    """Keras divides by the places that are inside the image."""
    return _pooled(graph, layer, x, "AveragePool", count_include_pad=0)


def _pooled(graph: Graph, layer: Layer, x: str, operator: str, **attributes: Any) -> str:
    size, strides = layer.config["pool_size"], layer.config["strides"]
    pads = _pads(layer, size, strides)
    return graph.add(operator, x, kernel_shape=size, strides=strides, pads=pads, **attributes)


def global_average_pool(graph: Graph, layer: Layer, x: str) -> str:
    layer.only(data_format="channels_last")
    y = graph.add("GlobalAveragePool", x)
    return y if layer.config["keepdims"] else graph.add("Flatten", y, axis=1)


def zero_padding(graph: Graph, layer: Layer, x: str) -> str:
    layer.only(data_format="channels_last")
    (top, bottom), (left, right) = layer.config["padding"]
    pads = graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
    return graph.add("Pad", x, pads, graph.constant(0.0))


def cropping(graph: Graph, layer: Layer, x: str) -> str:
    layer.only(data_format="channels_last")
    _, height, width, _ = layer.shapes[0]
    (top, bottom), (left, right) = layer.config["cropping"]
    if height is None or width is None:
        raise layer.refusal("cuts images whose size is not fixed")
    bounds = ([top, left], [height - bottom, width - right], [2, 3])
    return graph.add("Slice", x, *(graph.constant(bound, np.int64) for bound in bounds))


def reshape(graph: Graph, layer: Layer, x: str) -> str:
    """Of numbers in Keras' order, channels last."""
    target = layer.config["target_shape"]
    if layer.rank == 4:
        x = graph.turned(x, TO_CHANNELS_LAST)
    y = graph.add("Reshape", x, graph.constant([0, *target], np.int64))  # 0: the batch as it is
    return graph.turned(y, TO_CHANNELS_FIRST) if len(target) == 3 else y


def concatenate(graph: Graph, layer: Layer, *inputs: str) -> str:
    return graph.add("Concat", *inputs, axis=_axis(layer, layer.config["axis"]))


def _axis(layer: Layer, axis: int) -> int:
    axis = axis + layer.rank if axis < 0 else axis
    return FIRST_AXIS[axis] if layer.rank == 4 else axis


# Arithmetic -----------------------------------------------------------------------------------------


def rescaling(graph: Graph, layer: Layer, x: str) -> str:
    """x * scale + offset; a number a channel, or one for all."""
    for operator, key in (("Mul", "scale"), ("Add", "offset")):
        values = np.asarray(plain(layer.config[key]), np.float32)
        if values.ndim > 1:
            raise layer.refusal(f"has a {key} of shape {values.shape}")
        if values.ndim == 1 and layer.rank == 4:
            values = values.reshape(-1, 1, 1)
        x = graph.add(operator, x, graph.constant(values))
    return x


def plain(value: Any) -> Any:
    """A number or list, also where Keras wrote it as an array."""
    if isinstance(value, Mapping) and value.get("class_name") == "__numpy__":
        return value["config"]["value"]
    return value


def add(graph: Graph, layer: Layer, *inputs: str) -> str:
    return _merged(graph, layer, "Add", inputs)


def multiply(graph: Graph, layer: Layer, *inputs: str) -> str:
    return _merged(graph, layer, "Mul", inputs)


def _merged(graph: Graph, layer: Layer, operator: str, inputs: Sequence[str]) -> str:
    if len({len(shape) for shape in layer.shapes}) > 1:
        raise layer.refusal("joins tensors of different ranks")
    x = inputs[0]
    for other in inputs[1:]:
        x = graph.add(operator, x, other)
    return x


def dense(graph: Graph, layer: Layer, x: str) -> str:
    kernel, bias = layer.weights["kernel"], layer.weights.get("bias")
    if layer.rank == 4:  # over channels, at every place
        y = _pointwise(graph, x, kernel.T[:, :, None, None], bias)
    elif layer.rank == 2:
        inputs = [x, graph.constant(kernel)] + ([] if bias is None else [graph.constant(bias)])
        y = graph.add("Gemm", *inputs)
    else:
        raise layer.refusal(f"takes {layer.rank} dimensions")
    return _activated(graph, layer, y)


def batch_normalization(graph: Graph, layer: Layer, x: str) -> str:
    """By the moving statistics (Ioffe and Szegedy 2015); engines fold it into the convolution before."""
    if _axis(layer, _one_axis(layer)) != 1:
        raise layer.refusal(f"has axis {layer.config['axis']!r}")
    weights = layer.weights
    mean, variance = weights["moving_mean"], weights["moving_variance"]
    gamma, beta = weights.get("gamma", np.ones_like(mean)), weights.get("beta", np.zeros_like(mean))
    constants = [graph.constant(value) for value in (gamma, beta, mean, variance)]
    return graph.add("BatchNormalization", x, *constants, epsilon=float(layer.config["epsilon"]))


def layer_normalization(graph: Graph, layer: Layer, x: str) -> str:
    layer.only(rms_scaling=False)
    if _one_axis(layer) % layer.rank != layer.rank - 1:
        raise layer.refusal(f"has axis {layer.config['axis']!r}")
    channels = layer.shapes[0][-1] or 0
    scale = layer.weights.get("gamma", np.ones(channels))
    offset = layer.weights.get("beta", np.zeros(channels))
    if layer.rank == 4:
        x = graph.turned(x, TO_CHANNELS_LAST)
    constants = [graph.constant(value) for value in (scale, offset)]
    y = graph.add("LayerNormalization", x, *constants, axis=-1, epsilon=float(layer.config["epsilon"]))
    return graph.turned(y, TO_CHANNELS_FIRST) if layer.rank == 4 else y


def _one_axis(layer: Layer) -> int:
    axis = layer.config["axis"]
    axis = axis if isinstance(axis, list) else [axis]
    if len(axis) != 1:
        raise layer.refusal(f"has axes {axis!r}")
    return int(axis[0])


def dropout(graph: Graph, layer: Layer, x: str) -> str:
    """Nothing is left out when a model predicts."""
    return x


# Activations ----------------------------------------------------------------------------------------


def relu(graph: Graph, layer: Layer, x: str) -> str:
    layer.only(threshold=0.0)
    slope, most = float(plain(layer.config["negative_slope"]) or 0), plain(layer.config["max_value"])
    if most is None:
        return graph.add("LeakyRelu", x, alpha=slope) if slope else graph.add("Relu", x)
    if slope:
        raise layer.refusal("has a slope and a largest value")
    return _clipped(graph, x, 0.0, float(most))


def activation(graph: Graph, layer: Layer, x: str) -> str:
    return _activated(graph, layer, x)


def _activated(graph: Graph, layer: Layer, x: str) -> str:
    name = layer.config.get("activation")
    if name is None:
        return x
    if name == "softmax":
        return graph.add("Softmax", x, axis=1 if layer.rank == 4 else -1)
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise layer.refusal(f"has the activation {name!r}")
    return ACTIVATIONS[name](graph, x)


def _clipped(graph: Graph, x: str, low: float, high: float) -> str:
    return graph.add("Clip", x, graph.constant(low), graph.constant(high))


def _gelu(graph: Graph, x: str) -> str:
    """x / 2 (1 + erf(x / sqrt 2)): the exact one (Hendrycks and Gimpel 2016), as Keras takes by default."""
    scaled = graph.add("Mul", x, graph.constant(0.5**0.5))
    share = graph.add("Add", graph.add("Erf", scaled), graph.constant(1.0))
    return graph.add("Mul", graph.add("Mul", x, graph.constant(0.5)), share)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "linear": lambda graph, x: x,
    "relu": lambda graph, x: graph.add("Relu", x),
    "relu6": lambda graph, x: _clipped(graph, x, *RELU6),
    "sigmoid": lambda graph, x: graph.add("Sigmoid", x),
    "tanh": lambda graph, x: graph.add("Tanh", x),
    "silu": lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "gelu": _gelu,
    "hard_sigmoid": lambda graph, x: graph.add("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hard_silu": lambda graph, x: graph.add("HardSwish", x),
}

LAYERS: dict[str, Callable[..., str]] = {
    "Activation": activation,
    "Add": add,
    "AveragePooling2D": average_pool,
    "BatchNormalization": batch_normalization,
    "Concatenate": concatenate,
    "Conv2D": conv,
    "Cropping2D": cropping,
    "Dense": dense,
    "DepthwiseConv2D": depthwise_conv,
    "Dropout": dropout,
    "GlobalAveragePooling2D": global_average_pool,
    "LayerNormalization": layer_normalization,
    "MaxPooling2D": max_pool,
    "Multiply": multiply,
    "ReLU": relu,
    "Rescaling": rescaling,
    "Reshape": reshape,
    "SeparableConv2D": separable_conv,
    "ZeroPadding2D": zero_padding,
}
