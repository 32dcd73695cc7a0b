"""One optimisation step, compiled for the backend in use: a batch and two scalars in, updated weights out.

Three short classes with one interface, because the three backends differ in who owns the state:
TensorFlow and torch update variables in place, JAX passes state through a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from rightfit.data.loader import Batch
from rightfit.training.losses import hits, losses


def make_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    label_mode: str,
    smoothing: float,
    averaging: bool,
    rates: Mapping[str, float] | None = None,
) -> Step:
    """The step of the running backend. `averaging` keeps an exponential average of all weights.

    `rates` (layer name -> factor) multiplies gradients, which for SGD is a learning rate for each layer.
    """
    optimizer.build(model.trainable_variables)
    kinds = {"tensorflow": TensorFlowStep, "torch": TorchStep, "jax": JaxStep}
    return kinds[keras.backend.backend()](model, optimizer, label_mode, smoothing, averaging, rates)


class Step:
    """What the loop sees: call it with a batch; `totals()` since last asked; `weights()` to keep."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        label_mode: str,
        smoothing: float,
        averaging: bool,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.label_mode = label_mode
        self.smoothing = smoothing
        self.averaging = averaging
        of = {id(v): (rates or {}).get(layer.name, 1.0) for layer in model.layers for v in layer.weights}
        self.rates = [of[id(v)] for v in model.trainable_variables]  # flat models only: all have a layer
        self.averaged_variables = [v for v in model.variables if "float" in str(v.dtype)]
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        """Take one step, then move the averaged weights by 1 - `decay`; None leaves them."""
        raise NotImplementedError

    def totals(self) -> NDArray[np.float64]:
        """(3,): sum of losses, of hits, and number of images since the last call. Waits for the device."""
        raise NotImplementedError

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        """The weights in the order of `model.get_weights()`; the averaged ones when there are any."""
        raise NotImplementedError

    def _scaled(self, gradients: list[Any]) -> list[Any]:
        pairs = zip(gradients, self.rates, strict=True)
        return [gradient if rate == 1.0 else gradient * rate for gradient, rate in pairs]

    def _objective(self, logits: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        """Mean weighted loss, and the three sums of `totals`."""
        each = losses(logits, targets, self.label_mode, self.smoothing)
        right = ops.sum(hits(logits, targets, self.label_mode))
        sums = ops.stack([ops.sum(each), right, ops.cast(ops.shape(each)[0], "float32")])
        return ops.mean(each * weights), sums


class TensorFlowStep(Step):
    def setup(self) -> None:
        import tensorflow as tf

        self._sums = tf.Variable(tf.zeros(3, tf.float64))
        self._average = [tf.Variable(v.value) for v in self.averaged_variables] if self.averaging else []
        # XLA on CPU is slow at gradients of convolutions; the plain graph takes oneDNN's kernels.
        self._compiled = tf.function(self._step, jit_compile=False, autograph=False)
        self._averaging = tf.function(self._move_average, jit_compile=False, autograph=False)

    def _step(self, images: Any, targets: Any, weights: Any, learning_rate: Any) -> None:
        import tensorflow as tf

        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            loss, sums = self._objective(logits, targets, weights)
        gradients = tape.gradient(loss, [v.value for v in variables])
        self.optimizer.learning_rate.assign(learning_rate)
        self.optimizer.apply(self._scaled(gradients), variables)
        self._sums.assign_add(tf.cast(sums, tf.float64))

    def _move_average(self, decay: Any) -> None:
        for average, variable in zip(self._average, self.averaged_variables, strict=True):
            average.assign_sub((1 - decay) * (average - variable.value))

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        import tensorflow as tf

        self._compiled(*map(tf.convert_to_tensor, batch), tf.constant(learning_rate, tf.float32))
        if self.averaging and decay is not None:
            self._averaging(tf.constant(decay, tf.float32))

    def totals(self) -> NDArray[np.float64]:
        sums = self._sums.numpy()
        self._sums.assign(np.zeros(3))
        return np.asarray(sums)

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        average = {id(v): a.numpy() for v, a in zip(self.averaged_variables, self._average, strict=False)}
        return [average[id(v)] if averaged and id(v) in average else v.numpy() for v in self.model.weights]


class TorchStep(Step):
    def setup(self) -> None:
        import torch

        self._sums = torch.zeros(3, dtype=torch.float64)
        self._average = [v.value.detach().clone() for v in self.averaged_variables] if self.averaging else []

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        import torch

        variables = self.model.trainable_variables
        images, targets, weights = (ops.convert_to_tensor(part) for part in batch)
        for variable in variables:
            variable.value.grad = None
        loss, sums = self._objective(self.model(images, training=True), targets, weights)
        loss.backward()
        with torch.no_grad():
            self.optimizer.learning_rate.assign(learning_rate)
            self.optimizer.apply(self._scaled([v.value.grad for v in variables]), variables)
            if self.averaging and decay is not None:
                torch._foreach_lerp_(
                    self._average, [v.value.data for v in self.averaged_variables], 1 - decay
                )
            self._sums += sums.detach().to(self._sums)

    def totals(self) -> NDArray[np.float64]:
        sums = self._sums.numpy().copy()
        self._sums.zero_()
        return np.asarray(sums)

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        average = {
            id(v): a.cpu().numpy().copy()
            for v, a in zip(self.averaged_variables, self._average, strict=False)
        }
        return [
            average[id(v)] if averaged and id(v) in average else ops.convert_to_numpy(v).copy()
            for v in self.model.weights
        ]


class JaxStep(Step):
    def setup(self) -> None:
        import jax
        import jax.numpy as jnp

        model, optimizer = self.model, self.optimizer
        self._places = [
            (kind, next(i for i, other in enumerate(group) if other is v))
            for v in self.averaged_variables
            for kind, group in enumerate((model.trainable_variables, model.non_trainable_variables))
            if any(other is v for other in group)
        ]
        groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        # Copies: the state is donated to each step, the variables keep theirs.
        state = [[jnp.copy(v.value) for v in group] for group in groups]
        average = [jnp.copy(v.value) for v in self.averaged_variables] if self.averaging else []
        self._rate = next(i for i, v in enumerate(optimizer.variables) if v is optimizer.learning_rate)
        self._state = (*state, jnp.zeros(3))
        self._average = average
        self._sums = np.zeros(3)
        self._compiled = jax.jit(self._step, donate_argnums=0)
        self._averaging = jax.jit(self._moved_average, donate_argnums=0)
        self._pending = 0

    def _step(self, state: Any, images: Any, targets: Any, weights: Any, learning_rate: Any) -> Any:
        import jax

        trainable, others, slots, sums = state

        def objective(trainable: Any) -> Any:
            logits, updated = self.model.stateless_call(trainable, others, images, training=True)
            loss, batch_sums = self._objective(logits, targets, weights)
            return loss, (updated, batch_sums)

        gradients, (others, batch_sums) = jax.grad(objective, has_aux=True)(trainable)
        slots = [learning_rate if i == self._rate else slot for i, slot in enumerate(slots)]
        trainable, slots = self.optimizer.stateless_apply(slots, self._scaled(gradients), trainable)
        return (trainable, others, slots, sums + batch_sums)

    def _moved_average(self, average: Any, groups: Any, decay: Any) -> Any:
        current = [groups[kind][place] for kind, place in self._places]
        return [a - (1 - decay) * (a - v) for a, v in zip(average, current, strict=True)]

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        self._state = self._compiled(self._state, *batch, np.float32(learning_rate))
        if self.averaging and decay is not None:
            self._average = self._averaging(self._average, self._state[:2], np.float32(decay))
        self._pending += 1
        if self._pending >= 256:  # the device sums in float32: take them over before they lose units
            self._take_sums()

    def _take_sums(self) -> None:
        import jax.numpy as jnp

        *rest, sums = self._state
        self._sums += np.asarray(sums, np.float64)
        self._state = (*rest, jnp.zeros(3))
        self._pending = 0

    def totals(self) -> NDArray[np.float64]:
        self._take_sums()
        sums, self._sums = self._sums, np.zeros(3)
        return sums

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        trainable, others, _, _ = self._state
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        current = {id(v): np.asarray(a) for v, a in zip(variables, [*trainable, *others], strict=True)}
        if averaged and self.averaging:
            current |= {
                id(v): np.asarray(a) for v, a in zip(self.averaged_variables, self._average, strict=True)
            }
        return [current[id(v)] for v in self.model.weights]
