"""What a model was trained with, from its file: optimizer, loss and metrics by name, and the optimizer's state.

Names are looked up in closed lists; whatever is not on them is named and left out, and the model is not compiled.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras

OPTIMIZERS = ("SGD", "RMSprop", "Adam", "AdamW", "Adamax", "Adagrad", "Adadelta", "Nadam", "Ftrl", "Lion")
SCHEDULES = (
    "ExponentialDecay", "PiecewiseConstantDecay", "PolynomialDecay", "InverseTimeDecay", "CosineDecay",
    "CosineDecayRestarts",
)  # fmt: skip
LOSSES = (
    "BinaryCrossentropy", "BinaryFocalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy",
    "SparseCategoricalCrossentropy", "CategoricalHinge", "CosineSimilarity", "Hinge", "SquaredHinge", "Huber",
    "KLDivergence", "LogCosh", "MeanAbsoluteError", "MeanAbsolutePercentageError", "MeanSquaredError",
    "MeanSquaredLogarithmicError", "Poisson",
)  # fmt: skip
METRICS = (
    "Accuracy", "BinaryAccuracy", "CategoricalAccuracy", "SparseCategoricalAccuracy", "TopKCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy", "AUC", "Precision", "Recall", "F1Score", "FalseNegatives", "FalsePositives",
    "TrueNegatives", "TruePositives", "Mean", "RootMeanSquaredError",
    *(name for name in LOSSES if name != "Huber"),
)  # fmt: skip
FUNCTIONS = (
    "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy", "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy", "categorical_hinge", "cosine_similarity", "hinge", "squared_hinge", "huber",
    "kl_divergence", "log_cosh", "mean_absolute_error", "mean_absolute_percentage_error", "mean_squared_error",
    "mean_squared_logarithmic_error", "poisson", "binary_accuracy", "categorical_accuracy",
    "sparse_categorical_accuracy", "top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy",
)  # fmt: skip
SHORT = {
    "mse": "mean_squared_error", "mae": "mean_absolute_error", "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error", "kld": "kl_divergence", "logcosh": "log_cosh",
    "kullback_leibler_divergence": "kl_divergence", "cosine_proximity": "cosine_similarity",
    "huber_loss": "huber",
}  # fmt: skip
KEPT = ("accuracy", "acc")  # Keras chooses by the outputs which is meant
SCALARS = (str, int, float, bool, type(None))


class NotCarried(Exception):
    """A part of the training that is on no list; the message is its name."""


def compiled(model: keras.Model, training: dict[str, Any] | None, notes: list[str]) -> bool:
    """Compile `model` as `training` (training_config of Keras 1 and 2, compile_config of Keras 3) says.

    What is not carried is added to `notes`; False when the model was left uncompiled.
    """
    if not training:
        return False
    try:
        optimizer = _optimizer(training.get("optimizer_config") or training.get("optimizer"))
        loss = _mapped(training.get("loss"), _loss)
        metrics, weighted = (_metrics(model, training, key) for key in ("metrics", "weighted_metrics"))
        weights = training.get("loss_weights")
        model.compile(optimizer, loss, loss_weights=weights, metrics=metrics, weighted_metrics=weighted)
    except NotCarried as error:
        notes.append(f"{error} is not carried: compile the model before you train it further")
        return False
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or ["?"])[0][:120]
        notes.append(f"the training's settings are not carried ({reason}): compile the model again")
        return False
    return True


def _optimizer(given: Any) -> Any:
    if isinstance(given, str):
        given = {"class_name": given, "config": {}}
    if not isinstance(given, dict) or not isinstance(given.get("config"), dict):
        raise NotCarried("the optimizer")
    name = str(given.get("class_name")).rpartition(">")[2]
    name = {name.lower(): name for name in OPTIMIZERS}.get(name.lower(), name)
    if name not in OPTIMIZERS:
        raise NotCarried(f"the optimizer {name[:60]}")
    config = dict(given["config"])
    if "lr" in config or (config and "name" not in config):  # of Keras 1 and 2 but for tf.keras
        config.setdefault("initial_accumulator_value", 0.0)
        # They clipped all gradients by their common norm.
        config.setdefault("global_clipnorm", config.pop("clipnorm", None))
    rate = config.pop("learning_rate", None)
    rate = config.pop("lr", None) if rate is None else rate
    decay = config.pop("decay", 0) or 0
    rate = _schedule(rate) if isinstance(rate, dict) else rate
    if isinstance(rate, (int, float)) and decay:  # as Keras 1 and 2 did: rate / (1 + decay * step)
        rate = keras.optimizers.schedules.InverseTimeDecay(rate, 1, decay)
    if rate is not None:
        config["learning_rate"] = rate
    cls = getattr(keras.optimizers, name)
    return cls(**{**_accepted(cls, config), **({"learning_rate": rate} if rate is not None else {})})


def _schedule(given: dict[str, Any]) -> Any:
    name = str(given.get("class_name"))
    if name not in SCHEDULES or not isinstance(given.get("config"), dict):
        raise NotCarried(f"the learning rate {name[:60]}")
    cls = getattr(keras.optimizers.schedules, name)
    return cls(**_accepted(cls, given["config"]))


def _accepted(cls: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Plain settings that the constructor takes, or its base's."""
    names: set[str] = set()
    for base in cls.__mro__[:-1]:
        if "__init__" in vars(base):
            names |= set(inspect.signature(base.__init__).parameters)
    names -= {"self", "kwargs", "args", "fn", "loss_scale_factor"}
    plain = {key: value for key, value in config.items() if key in names and _is_plain(value)}
    return {key: value for key, value in plain.items() if value is not None}


def _is_plain(value: Any) -> bool:
    return isinstance(value, SCALARS) or (
        isinstance(value, list) and all(isinstance(part, SCALARS) for part in value)
    )


def _mapped(given: Any, make: Any) -> Any:
    """One, or one for each output, by place or by name."""
    if isinstance(given, dict) and "class_name" not in given:
        return {str(key): _mapped(value, make) for key, value in given.items()}
    if isinstance(given, list):
        return [_mapped(value, make) for value in given]
    return None if given is None else make(given)


def _loss(given: Any) -> Any:
    name, config = _named(given)
    if name in LOSSES:
        cls = getattr(keras.losses, name)
        if str(config.get("reduction", "auto")) in ("auto", "sum_over_nonzero_weights"):
            config = {key: value for key, value in config.items() if key != "reduction"}
        return cls(**_accepted(cls, config))
    if name in FUNCTIONS and not name.endswith("accuracy"):
        return name
    raise NotCarried(f"the loss {name[:60]}")


def _metrics(model: keras.Model, training: dict[str, Any], key: str) -> Any:
    given, outputs = training.get(key), len(model.outputs)
    if isinstance(given, list):
        if outputs == 1:
            given = given[0] if len(given) == 1 and isinstance(given[0], list) else given
            given = [part for part in given if part is not None]
        else:
            given = _of_each_output(given, outputs, _is_older(training))
    return _mapped(given, _metric) if given else None


def _of_each_output(given: list[Any], outputs: int, older: bool) -> list[Any]:
    """A list for each output, or None: tf-keras wrote [null] for none, and before Keras 3 a plain list was for all."""
    plain = not any(part is None or isinstance(part, list) for part in given)
    if plain and (older or len(given) != outputs):
        return [given] * outputs
    return [
        [each for each in part if each is not None] or None if isinstance(part, list) else part
        for part in given
    ]


def _is_older(training: dict[str, Any]) -> bool:
    """Whether Keras 1 or 2 wrote it, which named no module."""
    optimizer = training.get("optimizer_config")
    return isinstance(optimizer, dict) and "module" not in optimizer


def _metric(given: Any) -> Any:
    name, config = _named(given)
    if name in KEPT:
        return name
    if name == "MeanMetricWrapper":
        function = _named(config.get("fn"))[0]
        if function not in FUNCTIONS:
            raise NotCarried(f"the metric {function[:60]}")
        shown = str(config.get("name") or function)
        return keras.metrics.MeanMetricWrapper(getattr(keras.metrics, function), name=shown)
    if name in METRICS:
        cls = getattr(keras.metrics, name)
        return cls(**_accepted(cls, config))
    if name in FUNCTIONS:
        return name
    raise NotCarried(f"the metric {name[:60]}")


def _named(given: Any) -> tuple[str, dict[str, Any]]:
    """(name, settings) of a loss or metric as any Keras wrote it."""
    config: Any = {}
    if isinstance(given, dict):
        config = given.get("config")
        given = given.get("class_name")
        if given == "function":
            given, config = config, {}
    name = str(given).rpartition(">")[2]
    return SHORT.get(name.lower(), name), dict(config) if isinstance(config, dict) else {}
