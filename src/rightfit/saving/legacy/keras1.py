"""One layer of Keras 1 in, the same by Keras 2's names out, with how its kernels are laid out anew."""

from __future__ import annotations

from typing import Any

from rightfit.errors import ArchitectureError
from rightfit.saving.legacy import recurrent
from rightfit.saving.legacy.graph import Recipe, as_they_are, named
from rightfit.saving.legacy.kernels import from_keras1, row_from_keras1

# Keys that only Keras 1 wrote.
SIGNS = (
    "nb_filter", "border_mode", "dim_ordering", "W_regularizer", "inner_init", "init", "concat_axis", "pool_length",
    "consume_less", "W_constraint", "bias", "beta_init",
)  # fmt: skip
CLASSES = {
    "Convolution1D": "Conv1D", "Convolution2D": "Conv2D", "Convolution3D": "Conv3D",
    "AtrousConvolution1D": "Conv1D", "AtrousConvolution2D": "Conv2D", "Deconvolution2D": "Conv2DTranspose",
    "SeparableConvolution2D": "SeparableConv2D", "TimeDistributedDense": "TimeDistributed",
}  # fmt: skip
KEYS = {
    "output_dim": "units", "nb_filter": "filters", "bias": "use_bias", "border_mode": "padding",
    "subsample": "strides", "subsample_length": "strides", "filter_length": "kernel_size",
    "init": "kernel_initializer", "inner_init": "recurrent_initializer", "beta_init": "beta_initializer",
    "gamma_init": "gamma_initializer", "inner_activation": "recurrent_activation",
    "W_regularizer": "kernel_regularizer", "U_regularizer": "recurrent_regularizer",
    "b_regularizer": "bias_regularizer", "W_constraint": "kernel_constraint", "b_constraint": "bias_constraint",
    "dropout_W": "dropout", "dropout_U": "recurrent_dropout", "p": "rate", "sigma": "stddev",
    "pool_length": "pool_size", "stride": "strides", "length": "size", "atrous_rate": "dilation_rate",
    "input_dtype": "dtype",
}  # fmt: skip
EMBEDDING = {"output_dim": "output_dim", "init": "embeddings_initializer", "W_regularizer": "embeddings_regularizer",
             "W_constraint": "embeddings_constraint"}  # fmt: skip
MERGES = {
    "sum": "Add", "mul": "Multiply", "concat": "Concatenate", "ave": "Average", "max": "Maximum", "dot": "Dot",
    "cos": "Dot",
}  # fmt: skip
GONE = {
    "MaxoutDense": "Keras 2 took it out; a Dense of several times the units and a Maximum over them is the same",
    "Highway": "Keras 2 took it out",
    "LocallyConnected1D": "Keras 3 has no locally connected layers",
    "LocallyConnected2D": "Keras 3 has no locally connected layers",
    "Graph": "the Graph model of Keras 0.x and 1.0",
    "ParametricSoftplus": "Keras 2 took it out",
    "SReLU": "Keras 2 took it out",
}


def is_first(config: Any, depth: int = 0) -> bool:
    """Whether a model's configuration is of Keras 1, which its settings' names show."""
    if depth > 8:
        return False
    if isinstance(config, list):
        return any(is_first(part, depth + 1) for part in config)
    if not isinstance(config, dict):
        return False
    inner = config.get("config")
    if (
        config.get("class_name") in ("Dropout", "SpatialDropout2D")
        and isinstance(inner, dict)
        and "p" in inner
    ):
        return True
    if config.get("class_name") not in ("Model", "Sequential", None) and isinstance(inner, dict):
        return any(sign in inner for sign in SIGNS)
    return any(is_first(config.get(key), depth + 1) for key in ("config", "layers"))


def modern(class_name: str, config: dict[str, Any], era: Any) -> tuple[str, dict[str, Any], Recipe]:
    """(class, settings) by Keras 2's names, and the step that brings its arrays into Keras 2's layout."""
    name = named(config.get("name", class_name.lower()))
    if class_name in GONE:
        raise ArchitectureError(f"{name} is a {class_name}, which is not carried: {GONE[class_name]}")
    keys = KEYS | (EMBEDDING if class_name == "Embedding" else {})
    new = CLASSES.get(class_name, class_name)
    found = {keys.get(key, key): value for key, value in config.items()}
    channels_first = found.pop("dim_ordering", "tf") == "th"
    if "dim_ordering" in config:
        found["data_format"] = "channels_first" if channels_first else "channels_last"
    if found.get("padding") == "full":
        raise ArchitectureError(f"{name}: the border mode 'full' is not carried; pad with zeros before it")
    sizes = [found.pop(key) for key in ("nb_row", "nb_col") if key in found]
    depths = [found.pop(f"kernel_dim{i}") for i in (1, 2, 3) if f"kernel_dim{i}" in found]
    if sizes or depths:
        found["kernel_size"] = sizes or depths
    if class_name == "TimeDistributedDense":
        inner = {k: v for k, v in config.items() if k not in ("batch_input_shape", "input_length")}
        inner["name"] = f"{name}_dense"
        return new, {"name": name, "layer": {"class_name": "Dense", "config": inner}}, as_they_are
    return (*_particular(class_name, new, name, found, era), _layout(new, found, channels_first))


def _particular(old: str, new: str, name: str, found: dict[str, Any], era: Any) -> tuple[str, dict[str, Any]]:
    """What one class alone had otherwise."""
    if old == "BatchNormalization" and found.pop("mode", 0) != 0:
        raise ArchitectureError(f"{name}: only mode 0 of Keras 1's batch normalisation is carried")
    if old in ("LSTM", "GRU", "SimpleRNN"):
        forget = found.pop("forget_bias_init", None)
        if old == "LSTM" and forget is not None:
            found["unit_forget_bias"] = forget == "one"
        for key in ("consume_less", "input_dim", "input_length"):
            found.pop(key, None)
    if old == "ZeroPadding2D" and isinstance(found.get("padding"), dict):
        sides = found["padding"]
        found["padding"] = [sides.get(f"{side}_pad", 0) for side in ("top", "bottom", "left", "right")]
    if old == "ZeroPadding2D" and isinstance(found.get("padding"), list) and len(found["padding"]) == 4:
        top, bottom, left, right = found["padding"]
        found["padding"] = [[top, bottom], [left, right]]
    if old == "Embedding" and found.pop("dropout", 0):
        era.note(f"{name}: the dropout of whole words is not carried")
    if old == "Deconvolution2D":
        found.pop("output_shape", None)
    return new, found


def _layout(new: str, found: dict[str, Any], channels_first: bool) -> Recipe:
    if new == "Conv1D":
        size = found.get("kernel_size")
        length = size[0] if isinstance(size, list) else size
        return row_from_keras1(int(found.get("filters") or 0), int(length or 0))
    if new in ("Conv2D", "Conv3D", "Conv2DTranspose"):
        spatial = 3 if new == "Conv3D" else 2
        transposed = new == "Conv2DTranspose"
        return (
            from_keras1(spatial, channels_first, transposed) if channels_first or transposed else as_they_are
        )
    if new in ("LSTM", "GRU"):
        return recurrent.gathered(4 if new == "LSTM" else 3)
    return as_they_are


def merge(name: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The Keras 2 layer for a Merge of Keras 1."""
    mode = config.get("mode")
    if not isinstance(mode, str) or mode not in MERGES:
        raise ArchitectureError(f"{name} merges by {str(mode)[:60]!r}, which is not carried")
    found: dict[str, Any] = {"name": name}
    if mode == "concat":
        found["axis"] = config.get("concat_axis", -1)
    if mode in ("dot", "cos"):
        axes = config.get("dot_axes", -1)
        found |= {"axes": axes, "normalize": mode == "cos"}
    return MERGES[mode], found
