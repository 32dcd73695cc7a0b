"""Swap a model's layers for twins that run on the backend's fused kernels, and back.

Every net is written in stock Keras layers, so that the saved model opens in plain Keras. `fused`
clones it with faster twins (same names, weights and results to float32 rounding) for running;
`stock` clones it back for saving. The same swap sets the precision.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


def fused(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A clone of `model` on the backend's fused kernels, holding the same weights.

    `precision` is "float32" or "bfloat16"; under bfloat16 weights stay float32 (mixed precision)
    and the first and the last layers (normalisation, pooling, logits) compute in float32.
    """
    return _clone(model, FUSED.get(keras.backend.backend(), {}), precision)


def stock(model: keras.Model) -> keras.Model:
    """A float32 clone of `model` made of Keras' own layers only, holding the same weights."""
    return _clone(model, {_FusedBatchNormalization: keras.layers.BatchNormalization}, "float32")


FLOAT32_LAYERS = ("normalise", "pool", "logits")


def _clone(model: keras.Model, swap: dict[type, type], precision: str) -> keras.Model:
    def twin(layer: keras.layers.Layer) -> keras.layers.Layer:
        target: Any = type(layer)
        for original, replacement in swap.items():
            if target is original or (issubclass(target, original) and replacement in target.__mro__):
                target = replacement
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            mixed = precision == "bfloat16" and layer.name not in FLOAT32_LAYERS
            config["dtype"] = "mixed_bfloat16" if mixed else "float32"
        return target.from_config(config)

    clone = keras.models.clone_model(model, clone_function=twin)
    clone.set_weights(model.get_weights())
    for layer, source in zip(clone.layers, model.layers, strict=True):
        layer.trainable = source.trainable
    return clone


class _FusedBatchNormalization(keras.layers.BatchNormalization):
    """Batch normalisation of (B, H, W, C) by one kernel; anything else takes the stock path.

    Ioffe and Szegedy 2015. The moving variance follows Keras (population variance), not the
    sample variance that the kernels return.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        plain = self.center and self.scale and not self.renorm and not self.synchronized
        shape = tuple(inputs.shape)
        one_value = shape[:-1] == (1, 1, 1)  # torch's kernel refuses one value per channel
        if not plain or mask is not None or len(shape) != 4 or self.axis not in (-1, 3) or one_value:
            return super().call(inputs, training=training, mask=mask)
        if not (training and self.trainable):
            return self.infer(inputs)
        outputs, mean, sample_variance = self.normalise(inputs)
        count = ops.cast(ops.size(inputs) // inputs.shape[-1], "float32")
        variance = sample_variance * ((count - 1.0) / count)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs

    def infer(self, inputs: Any) -> Any:
        raise NotImplementedError

    def normalise(self, inputs: Any) -> tuple[Any, Any, Any]:
        raise NotImplementedError


class TensorFlowBatchNormalization(_FusedBatchNormalization):
    """tf.raw_ops.FusedBatchNormV3; the public wrapper would raise epsilon to 1.001e-5."""

    def _kernel(self, inputs: Any, mean: Any, variance: Any, is_training: bool) -> Any:
        import tensorflow as tf

        return tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=mean,
            variance=variance,
            epsilon=self.epsilon,
            is_training=is_training,
            data_format="NHWC",
        )

    def infer(self, inputs: Any) -> Any:
        import tensorflow as tf

        mean, variance = map(tf.convert_to_tensor, (self.moving_mean, self.moving_variance))
        return self._kernel(inputs, mean, variance, is_training=False).y

    def normalise(self, inputs: Any) -> tuple[Any, Any, Any]:
        import tensorflow as tf

        nothing = tf.zeros([0], tf.float32)
        out = self._kernel(inputs, nothing, nothing, is_training=True)
        return out.y, out.batch_mean, out.batch_variance


class TorchBatchNormalization(_FusedBatchNormalization):
    """torch.nn.functional.batch_norm on the channels-last view, which costs no copy."""

    def _kernel(self, inputs: Any, mean: Any, variance: Any, training: bool) -> Any:
        import torch

        outputs = torch.nn.functional.batch_norm(
            inputs.permute(0, 3, 1, 2),
            mean,
            variance,
            self.gamma.value,
            self.beta.value,
            training=training,
            momentum=1.0,
            eps=self.epsilon,
        )
        return outputs.permute(0, 2, 3, 1)

    def infer(self, inputs: Any) -> Any:
        return self._kernel(inputs, self.moving_mean.value, self.moving_variance.value, False)

    def normalise(self, inputs: Any) -> tuple[Any, Any, Any]:
        import torch

        # With momentum 1 the running statistics come back as those of this batch.
        mean, variance = (torch.zeros_like(self.moving_mean.value) for _ in range(2))
        outputs = self._kernel(inputs, mean, variance, True)
        return outputs, mean, variance


FUSED: dict[str, dict[type, type]] = {
    "tensorflow": {keras.layers.BatchNormalization: TensorFlowBatchNormalization},
    "torch": {keras.layers.BatchNormalization: TorchBatchNormalization},
}
