"""Optimizers as Keras 2 called them, with `lr`, `decay` and its defaults: Keras 3's own, which take Keras 2's steps."""

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
UNDER_THE_ROOT = ("RMSprop", "Adagrad")  # there Keras 3 adds epsilon, which Keras 2 added to the root


class OldNadam(keras.optimizers.Nadam):
    """Keras 2's: step t has the momentum beta_1 (1 - 0.96^(schedule_decay t) / 2), in Keras 3 with a decay of 1."""

    def __init__(self, *args: Any, schedule_decay: float = 0.004, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.schedule_decay = schedule_decay

    def _momentum(self, step: Any, dtype: str) -> Any:
        decayed = keras.ops.power(0.96, self.schedule_decay * keras.ops.cast(step, dtype))
        return self.beta_1 * (1 - 0.5 * decayed)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        product = self._u_product
        self.assign(product, product * self._momentum(self.iterations + 1, product.dtype))
        super(keras.optimizers.Nadam, self)._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        ops, dtype = keras.ops, variable.dtype
        place = self._get_variable_index(variable)
        m, v = self._momentums[place], self._velocities[place]
        rate, gradient, product = (ops.cast(x, dtype) for x in (learning_rate, gradient, self._u_product))
        now, then = (self._momentum(self.iterations + ahead, dtype) for ahead in (1, 2))
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        mean = (1 - now) * gradient / (1 - product) + then * m / (1 - product * then)
        square = v / (1 - ops.power(self.beta_2, ops.cast(self.iterations + 1, dtype)))
        self.assign_sub(variable, rate * mean / (ops.sqrt(square) + self.epsilon))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"schedule_decay": self.schedule_decay}


def _maker(name: str) -> Maker:
    def make(*args: Any, **kwargs: Any) -> keras.optimizers.Optimizer:
        known = ARGUMENTS[name]
        if len(args) > len(known):
            raise TypeError(f"{name} takes at most {len(known)} positional arguments, {', '.join(known)}")
        given = known | dict(zip(known, args, strict=False)) | kwargs
        rate, decay = given.pop("lr"), given.pop("decay", 0.0)
        rate = given.pop("learning_rate", rate)
        if "epsilon" in given and given["epsilon"] is None:  # Keras 2.1: None is the backend's own
            given["epsilon"] = keras.config.epsilon()
        if name in UNDER_THE_ROOT:
            given["epsilon"] **= 2
        if name == "Adagrad":
            given.setdefault("initial_accumulator_value", 0.0)
        if "clipnorm" in given:  # Keras 2 clipped all gradients by their common norm
            given.setdefault("global_clipnorm", given.pop("clipnorm"))
        if decay:
            # lr / (1 + decay * step), as Keras 2 lowered it; a callback cannot set the rate then.
            rate = keras.optimizers.schedules.InverseTimeDecay(rate, decay_steps=1, decay_rate=decay)
        cls = OldNadam if name == "Nadam" else getattr(keras.optimizers, name)
        return cls(learning_rate=rate, **given)

    make.__name__ = make.__qualname__ = name
    arguments = ", ".join(f"{argument}={value}" for argument, value in ARGUMENTS[name].items())
    make.__doc__ = f"`keras.optimizers.{name}({arguments})` of Keras 2, as Keras 3's optimizer."
    return make


SGD, RMSprop, Adagrad, Adadelta, Adam, Adamax, Nadam = map(_maker, ARGUMENTS)
