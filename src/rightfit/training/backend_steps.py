"""The optimisation step of each backend: TensorFlow and torch update variables in place, JAX passes its state on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from rightfit.data.loader import Batch
from rightfit.training.step import Step
from rightfit.training.workers import ALONE, Workers


def make_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    label_mode: str,
    averaging: bool,
    rates: Mapping[str, float] | None = None,
    workers: Workers = ALONE,
) -> Step:
    """The step of the running backend. `averaging` keeps an exponential average of all weights.

    `rates` (layer name -> factor) multiplies gradients, which for SGD is a learning rate for each layer. Several
    `workers` take one step together, on JAX.
    """
    assert workers.alone or keras.backend.backend() == "jax"
    optimizer.build(model.trainable_variables)
    kinds = {"tensorflow": TensorFlowStep, "torch": TorchStep, "jax": JaxStep}
    return kinds[keras.backend.backend()](model, optimizer, label_mode, averaging, rates, workers)


class TensorFlowStep(Step):
    def setup(self) -> None:
        import tensorflow as tf

        self._sums = tf.Variable(tf.zeros(3, tf.float64))
        self._average = [tf.Variable(v.value) for v in self.averaged_variables] if self.averaging else []
        # XLA on CPU is slow at gradients of convolutions; the plain graph takes oneDNN's kernels.
        self._compiled = tf.function(self._step, jit_compile=False, autograph=False)
        self._partly = tf.function(self._gradients, jit_compile=False, autograph=False)
        self._applying = tf.function(self._apply, jit_compile=False, autograph=False)
        self._averaging = tf.function(self._move_average, jit_compile=False, autograph=False)

    def _step(self, images: Any, targets: Any, weights: Any, learning_rate: Any) -> None:
        self._apply(self._gradients(images, targets, weights), learning_rate)

    def _gradients(self, images: Any, targets: Any, weights: Any) -> list[Any]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            logits = self.model(images, training=True)
            loss, sums = self._objective(logits, targets, weights)
        gradients = tape.gradient(loss, [v.value for v in self.model.trainable_variables])
        self._sums.assign_add(tf.cast(sums, tf.float64))
        return list(gradients)

    def _apply(self, gradients: list[Any], learning_rate: Any) -> None:
        self.optimizer.learning_rate.assign(learning_rate)
        self.optimizer.apply(self._scaled(gradients), self.model.trainable_variables)

    def _move_average(self, decay: Any) -> None:
        for average, variable in zip(self._average, self.averaged_variables, strict=True):
            average.assign_sub((1 - decay) * (average - variable.value))

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        import tensorflow as tf

        rate = tf.constant(learning_rate, tf.float32)
        if self.micro:
            summed: list[Any] = []
            for part, share in self._parts(batch):
                gradients = [share * g for g in self._partly(*map(tf.convert_to_tensor, part))]
                summed = [a + b for a, b in zip(summed, gradients, strict=True)] if summed else gradients
            self._applying(summed, rate)
        else:
            self._compiled(*map(tf.convert_to_tensor, batch), rate)
        if self.averaging and decay is not None:
            self._averaging(tf.constant(decay, tf.float32))
        self.count += 1

    def totals(self) -> NDArray[np.float64]:
        return np.array(self._sums.numpy())

    def _set_sums(self, total: NDArray[np.float64], device: NDArray[np.float32]) -> None:
        self._sums.assign(total + device)

    def _values(self) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
        groups = (self.model.variables, self.optimizer.variables, self._average)
        model, slots, average = ([np.array(v.numpy()) for v in group] for group in groups)
        return model, slots, average

    def _assign(self, model: list[Any], slots: list[Any], average: list[Any]) -> None:
        variables = [*self.model.variables, *self.optimizer.variables, *self._average]
        for variable, value in zip(variables, [*model, *slots, *average], strict=True):
            variable.assign(value)

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        average = {id(v): a.numpy() for v, a in zip(self.averaged_variables, self._average, strict=False)}
        return [average[id(v)] if averaged and id(v) in average else v.numpy() for v in self.model.weights]


class TorchStep(Step):
    def setup(self) -> None:
        import torch

        device = self.model.variables[0].value.device
        # Apple's GPUs have no float64; elsewhere a sum on the device costs no wait at each step
        self._sums = torch.zeros(3, dtype=torch.float64, device="cpu" if device.type == "mps" else device)
        self._average = [v.value.detach().clone() for v in self.averaged_variables] if self.averaging else []

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        import torch

        variables = self.model.trainable_variables
        for variable in variables:
            variable.value.grad = None
        for part, share in self._parts(batch):
            images, targets, weights = map(ops.convert_to_tensor, part)
            loss, sums = self._objective(self.model(images, training=True), targets, weights)
            (loss if share == 1 else share * loss).backward()  # adds to what is in `grad`
            self._sums += sums.detach().to(self._sums)
        with torch.no_grad():
            self.optimizer.learning_rate.assign(learning_rate)
            self.optimizer.apply(self._scaled([v.value.grad for v in variables]), variables)
            if self.averaging and decay is not None:
                torch._foreach_lerp_(
                    self._average, [v.value.data for v in self.averaged_variables], 1 - decay
                )
        self.count += 1

    def totals(self) -> NDArray[np.float64]:
        return np.array(self._sums.cpu().numpy())

    def _set_sums(self, total: NDArray[np.float64], device: NDArray[np.float32]) -> None:
        import torch

        self._sums.copy_(torch.from_numpy(total + device))

    def _values(self) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
        model, slots = (
            [ops.convert_to_numpy(v).copy() for v in group]
            for group in (self.model.variables, self.optimizer.variables)
        )
        return model, slots, [a.cpu().numpy().copy() for a in self._average]

    def _assign(self, model: list[Any], slots: list[Any], average: list[Any]) -> None:
        import torch

        variables = [*self.model.variables, *self.optimizer.variables]
        for variable, value in zip(variables, [*model, *slots], strict=True):
            variable.assign(value)
        for average_of, value in zip(self._average, average, strict=True):
            average_of.copy_(torch.from_numpy(value))

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

        model, optimizer, everywhere = self.model, self.optimizer, self.workers.everywhere
        self._places = [
            (kind, next(i for i, other in enumerate(group) if other is v))
            for v in self.averaged_variables
            for kind, group in enumerate((model.trainable_variables, model.non_trainable_variables))
            if any(other is v for other in group)
        ]
        groups = (model.trainable_variables, model.non_trainable_variables, optimizer.variables)
        # Copies: the state is donated to each step, the variables keep theirs.
        state = [[everywhere(v.value) for v in group] for group in groups]
        average = [everywhere(v.value) for v in self.averaged_variables] if self.averaging else []
        self._rate = next(i for i, v in enumerate(optimizer.variables) if v is optimizer.learning_rate)
        self._state = (*state, everywhere(np.zeros(3, np.float32)))
        self._average = average
        self._sums = np.zeros(3)
        where = {} if self.workers.alone else {"out_shardings": self.workers.whole()}
        self._compiled = jax.jit(self._step, donate_argnums=0, **where)
        self._partly = jax.jit(self._gradients, **where)
        self._applying = jax.jit(self._apply, donate_argnums=0, **where)
        self._averaging = jax.jit(self._moved_average, donate_argnums=0, **where)

    def decay_by(self, weight_decay: float) -> None:
        decay = self.workers.everywhere(np.float32(weight_decay))
        places = [i for i, v in enumerate(self.optimizer.variables) if v is self.optimizer.weight_decay]
        trainable, others, slots, sums = self._state
        slots = [decay if i in places else slot for i, slot in enumerate(slots)]
        self._state = (trainable, others, slots, sums)

    def _step(self, state: Any, images: Any, targets: Any, weights: Any, learning_rate: Any) -> Any:
        trainable, others, slots, sums = state
        gradients, others, batch_sums = self._gradients(trainable, others, images, targets, weights)
        return self._apply((trainable, others, slots, sums + batch_sums), gradients, learning_rate)

    def _gradients(self, trainable: Any, others: Any, images: Any, targets: Any, weights: Any) -> Any:
        import jax

        def objective(trainable: Any) -> Any:
            logits, updated = self.model.stateless_call(trainable, others, images, training=True)
            loss, batch_sums = self._objective(logits, targets, weights)
            return loss, (updated, batch_sums)

        gradients, (others, batch_sums) = jax.grad(objective, has_aux=True)(trainable)
        return gradients, others, batch_sums

    def _apply(self, state: Any, gradients: Any, learning_rate: Any) -> Any:
        trainable, others, slots, sums = state
        slots = [learning_rate if i == self._rate else slot for i, slot in enumerate(slots)]
        trainable, slots = self.optimizer.stateless_apply(slots, self._scaled(gradients), trainable)
        return (trainable, others, slots, sums)

    def _moved_average(self, average: Any, groups: Any, decay: Any) -> Any:
        current = [groups[kind][place] for kind, place in self._places]
        return [a - (1 - decay) * (a - v) for a, v in zip(average, current, strict=True)]

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        if self.micro:
            trainable, others, slots, sums = self._state
            summed: list[Any] = []
            for part, share in self._parts(batch):
                gradients, others, part_sums = self._partly(trainable, others, *self._dealt(part))
                gradients = [np.float32(share) * g for g in gradients]
                summed = [a + b for a, b in zip(summed, gradients, strict=True)] if summed else gradients
                sums = sums + part_sums
            self._state = self._applying((trainable, others, slots, sums), summed, np.float32(learning_rate))
        else:
            self._state = self._compiled(self._state, *self._dealt(batch), np.float32(learning_rate))
        if self.averaging and decay is not None:
            self._average = self._averaging(self._average, self._state[:2], np.float32(decay))
        self.count += 1
        if self.count % 256 == 0:  # the device sums in float32: take them over before they lose units
            total = self.totals()
            self._set_sums(total, np.zeros(3, np.float32))

    def _dealt(self, batch: Batch) -> list[Any]:
        return [self.workers.dealt(values) for values in batch]

    def totals(self) -> NDArray[np.float64]:
        return self._sums + np.asarray(self._state[3], np.float64)

    def _sums_state(self) -> dict[str, NDArray[Any]]:
        return {"sums/total": self._sums.copy(), "sums/device": np.array(self._state[3])}

    def _set_sums(self, total: NDArray[np.float64], device: NDArray[np.float32]) -> None:
        self._sums = np.array(total, np.float64)
        self._state = (*self._state[:3], self.workers.everywhere(device))

    def _values(self) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
        trainable, others, slots, _ = self._state
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        current = {id(v): a for v, a in zip(variables, [*trainable, *others], strict=True)}
        model = [np.array(current[id(v)]) for v in self.model.variables]
        return model, [np.array(a) for a in slots], [np.array(a) for a in self._average]

    def _assign(self, model: list[Any], slots: list[Any], average: list[Any]) -> None:
        everywhere = self.workers.everywhere
        current = {id(v): a for v, a in zip(self.model.variables, model, strict=True)}
        groups = (self.model.trainable_variables, self.model.non_trainable_variables)
        state = [[everywhere(current[id(v)]) for v in group] for group in groups]
        self._state = (*state, [everywhere(a) for a in slots], self._state[3])
        self._average = [everywhere(a) for a in average]

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        trainable, others, _, _ = self._state
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        current = {id(v): np.array(a) for v, a in zip(variables, [*trainable, *others], strict=True)}
        if averaged and self.averaging:
            current |= {
                id(v): np.array(a) for v, a in zip(self.averaged_variables, self._average, strict=True)
            }
        return [current[id(v)] for v in self.model.weights]
