"""A layer's settings of Keras 2 in Keras 3's form: initialisers, penalties, constraints, activations, precision."""

from __future__ import annotations

from typing import Any

from rightfit.errors import ArchitectureError
from rightfit.saving.allowed import ACTIVATIONS, CONSTRAINTS, INITIALIZERS, REGULARIZERS

KINDS = {
    "_initializer": ("keras.initializers", INITIALIZERS),
    "_regularizer": ("keras.regularizers", REGULARIZERS),
    "_constraint": ("keras.constraints", CONSTRAINTS),
}
SHORT = {
    "uniform": "RandomUniform", "normal": "RandomNormal", "zero": "Zeros", "zeros": "Zeros", "one": "Ones",
    "ones": "Ones", "constant": "Constant", "identity": "Identity", "orthogonal": "Orthogonal",
    "glorot_uniform": "GlorotUniform", "glorot_normal": "GlorotNormal", "he_normal": "HeNormal",
    "he_uniform": "HeUniform", "lecun_normal": "LecunNormal", "lecun_uniform": "LecunUniform",
    "random_uniform": "RandomUniform", "random_normal": "RandomNormal", "truncated_normal": "TruncatedNormal",
    "variance_scaling": "VarianceScaling", "l1": "L1", "l2": "L2", "l1_l2": "L1L2", "l1l2": "L1L2",
    "maxnorm": "MaxNorm", "max_norm": "MaxNorm", "nonneg": "NonNeg", "non_neg": "NonNeg",
    "unitnorm": "UnitNorm", "unit_norm": "UnitNorm", "minmaxnorm": "MinMaxNorm", "min_max_norm": "MinMaxNorm",
    "WeightRegularizer": "L1L2", "L1L2Regularizer": "L1L2", "ActivityRegularizer": "L1L2",
}  # fmt: skip
TAKEN = {
    "L1": ("l1",), "L2": ("l2",), "L1L2": ("l1", "l2"), "MaxNorm": ("max_value", "axis"), "NonNeg": (),
    "UnitNorm": ("axis",), "MinMaxNorm": ("min_value", "max_value", "rate", "axis"), "Zeros": (), "Ones": (),
    "Constant": ("value",), "Identity": ("gain",), "Orthogonal": ("gain", "seed"),
    "RandomUniform": ("minval", "maxval", "seed"), "RandomNormal": ("mean", "stddev", "seed"),
    "TruncatedNormal": ("mean", "stddev", "seed"),
    "VarianceScaling": ("scale", "mode", "distribution", "seed"),
    "OrthogonalRegularizer": ("factor", "mode"),
}  # fmt: skip
ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "softmax_v2": "softmax", "gelu_v2": "gelu"}


def translated(key: str, value: Any, place: str, era: Any) -> Any:
    """The value of the setting `key`; `place` names it in a note or an error."""
    if key.endswith("activation"):
        return activation(value, place)
    if key == "dtype":
        return dtype(value)
    for ending, (module, names) in KINDS.items():
        if key.endswith(ending):
            return _object(value, module, names, place, era)
    return _number(value)


def activation(value: Any, place: str) -> Any:
    """An activation by its name. ArchitectureError for one that is not Keras' own."""
    if isinstance(value, dict):
        config = value.get("config")
        value = config if isinstance(config, str) else value.get("class_name")
    if value is None:
        return None
    name = str(value).rpartition(">")[2]
    name = ALIASES.get(name, name)
    if name not in ACTIVATIONS:
        raise ArchitectureError(f"{place} is {str(value)[:60]!r}, which is none of Keras' own")
    return name


def dtype(value: Any) -> Any:
    """A number format or a policy (mixed_float16) by its name."""
    if isinstance(value, dict):
        config = value.get("config")
        value = config.get("name") if isinstance(config, dict) else None
    name = str(value or "float32")
    if name == "_infer" or name.startswith("infer"):
        return "float32"
    if not name.replace("_", "").isalnum():
        raise ArchitectureError(f"the architecture asks for the number format {name[:60]!r}")
    return name


def _object(value: Any, module: str, names: frozenset[str], place: str, era: Any) -> Any:
    """An initialiser, penalty or constraint as Keras 3 writes it; one that is unknown is named as not carried."""
    if value is None:
        return None
    config: dict[str, Any] = {}
    if isinstance(value, dict):
        inner = value.get("config")
        config = dict(inner) if isinstance(inner, dict) else {k: v for k, v in value.items() if k != "name"}
        value = value.get("class_name") or value.get("name")
    name = SHORT.get(str(value), str(value))
    if name not in names:
        kept = "; weights come from the file" if module == "keras.initializers" else ""
        era.note(f"{place} {str(value)[:60]!r} is not carried: it is none of Keras' own{kept}")
        return None if module != "keras.initializers" else _serialized(module, "Zeros", {})
    if name == "MaxNorm" and "m" in config:  # Keras 1
        config["max_value"] = config.pop("m")
    if name == "VarianceScaling" and config.get("distribution") == "normal":
        config["distribution"] = "truncated_normal"
    taken = TAKEN.get(name, ("seed",))
    found = {k: _number(v) for k, v in config.items() if k in taken}
    if found.get("seed", 0) is None or isinstance(found.get("seed"), dict):
        found.pop("seed")
    return _serialized(module, name, found)


def _number(value: Any) -> Any:
    """Keras 2 wrote a NumPy number now and then as {"type": "ndarray", "value": 0.01}."""
    if isinstance(value, dict) and "value" in value and set(value) <= {"type", "value"}:
        return value["value"]
    return value


def _serialized(module: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None}
