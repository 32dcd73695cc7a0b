"""Optimizers as Keras 2 called them, with `lr`, `decay` and its defaults; Keras 3's own come out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

Maker = Callable[..., keras.optimizers.Optimizer]

# Arguments in Keras 2's order with its defaults.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.0, "decay": 0.0, "nesterov": False},
    "RMSprop": {"lr": 0.001, "rho": 0.9, "epsilon": 1e-7, "decay": 0.0},
    "Adagrad": {"lr": 0.01, "epsilon": 1e-7, "decay": 0.0},
    "Adadelta": {"lr": 1.0, "rho": 0.95, "epsilon": 1e-7, "decay": 0.0},
    "Adam": {"lr": 0.001, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "decay": 0.0, "amsgrad": False},
    "Adamax": {"lr": 0.002, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "decay": 0.0},
    "Nadam": {"lr": 0.002, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7, "schedule_decay": 0.004},
}


def _maker(name: str) -> Maker:
    def make(*args: Any, **kwargs: Any) -> keras.optimizers.Optimizer:
        known = ARGUMENTS[name]
        if len(args) > len(known):
            raise TypeError(f"{name} takes at most {len(known)} positional arguments, {', '.join(known)}")
        given = known | dict(zip(known, args, strict=False)) | kwargs
        rate, decay = given.pop("lr"), given.pop("decay", 0.0)
        given.pop("schedule_decay", None)  # Keras 3's Nadam has Keras 2's default built in
        rate = given.pop("learning_rate", rate)
        if given.get("epsilon") is None:  # Keras 2.1: None is the backend's own
            given.pop("epsilon", None)
        if decay:
            # lr / (1 + decay * step), as Keras 2 lowered it; a callback cannot set the rate then.
            rate = keras.optimizers.schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=decay)
        return getattr(keras.optimizers, name)(learning_rate=rate, **given)

    make.__name__ = make.__qualname__ = name
    arguments = ", ".join(f"{argument}={value}" for argument, value in ARGUMENTS[name].items())
    make.__doc__ = f"`keras.optimizers.{name}({arguments})` of Keras 2, as Keras 3's optimizer."
    return make


SGD, RMSprop, Adagrad, Adadelta, Adam, Adamax, Nadam = map(_maker, ARGUMENTS)
