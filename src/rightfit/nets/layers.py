"""Swap a model's layers for twins that run on the backend's fused kernels, and back.

Every net is written in stock Keras layers, so that the saved model opens in plain Keras. `fused`
clones it with faster twins (same names, weights and results to float32 rounding) for running;
`stock` clones it back for saving. The same swap sets the precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from keras import ops


@contextmanager
def channels_last() -> Iterator[None]:
    """Layers made within take (B, H, W, C), whatever `image_data_format` the user's keras.json gives others."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


def fused(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A clone of `model` on the backend's fused kernels, holding the same weights.

    `precision` is "float32" or "bfloat16"; under bfloat16 weights stay float32 (mixed precision)
    and the first and the last layers (normalisation, pooling, logits) compute in float32.
    """
    return _clone(model, FUSED.get(keras.backend.backend(), {}), precision)


def stock(model: keras.Model) -> keras.Model:
    """A float32 clone of `model` made of Keras' own layers only, holding the same weights."""
    own: dict[type, type] = {
        _FusedBatchNormalization: keras.layers.BatchNormalization,
        TensorFlowConv2D: keras.layers.Conv2D,
        ScaledChannels: keras.layers.DepthwiseConv2D,
    }
    return _clone(model, own, "float32")


FLOAT32_LAYERS = ("normalise", "pool", "logits")  # and what stands between the last two


def _clone(model: keras.Model, swap: dict[type, type], precision: str) -> keras.Model:
    names = [layer.name for layer in model.layers]
    exact = {*FLOAT32_LAYERS, *(names[names.index("pool") :] if "pool" in names else ())}

    def twin(layer: keras.layers.Layer) -> keras.layers.Layer:
        target: Any = type(layer)
        for original, replacement in swap.items():
            if target is original or (issubclass(target, original) and replacement in target.__mro__):
                target = replacement
        config = layer.get_config()
        if not isinstance(layer, keras.layers.InputLayer):
            mixed = precision == "bfloat16" and layer.name not in exact
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
        """Outputs by the moving statistics: each backend's own kernel."""
        raise NotImplementedError  # abstract; a Keras layer cannot be an ABC as well

    def normalise(self, inputs: Any) -> tuple[Any, Any, Any]:
        """Outputs, mean and sample variance of the batch: each backend's own kernel."""
        raise NotImplementedError  # abstract, as above


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


class TensorFlowConv2D(keras.layers.Conv2D):
    """Convolution whose weight gradient avoids the shapes where TensorFlow's CPU kernel is slow.

    That kernel (oneDNN on TensorFlow's own threads) runs at a fraction of the forward speed when few
    positions meet many channels, at strided 1x1 kernels over odd sizes, and in bfloat16 at all 1x1 kernels
    over small maps. There the same sums are taken by matrix products, one for each shift of the inputs, or
    over the inputs the stride meets; the outputs and the inputs' gradient stay with the kernel.
    docs/performance.md has the figures.
    """

    def call(self, inputs: Any) -> Any:
        gradient = self._weight_gradient(tuple(inputs.shape))
        if gradient is None:
            return super().call(inputs)
        import tensorflow as tf

        strides, padding = [1, *self.strides, 1], self.padding.upper()

        @tf.custom_gradient
        def convolve(images: Any, kernel: Any) -> Any:
            def backward(upstream: Any) -> tuple[Any, Any]:
                to_images = tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=tf.shape(images),
                    filter=kernel,
                    out_backprop=upstream,
                    strides=strides,
                    padding=padding,
                )
                return to_images, gradient(images, upstream)

            return tf.raw_ops.Conv2D(input=images, filter=kernel, strides=strides, padding=padding), backward

        return convolve(inputs, tf.convert_to_tensor(self.kernel))

    def _weight_gradient(self, shape: tuple[int | None, ...]) -> Any:
        """(inputs, upstream) -> the kernel's gradient, where another way than the kernel's is faster."""
        _, height, width, channels = shape
        plain = not self.use_bias and self.groups == 1 and self.dilation_rate == (1, 1)
        channels_last = self.data_format == "channels_last" and self.activation is keras.activations.linear
        stride = self.strides[0]
        if not plain or not channels_last or not height or not width or stride not in (1, 2):
            return None
        if self.strides[1] != stride or len(set(self.kernel_size)) > 1:
            return None
        _, rows, columns, _ = self.compute_output_shape((1, *shape[1:]))
        half = self.compute_dtype == "bfloat16"
        if self.kernel_size == (1, 1):
            if half and rows * columns <= 400:
                return self._product_gradient
            return self._strided_gradient if stride == 2 and (height % 2 or width % 2) else None
        enough = 256 if half else 512  # measured at 32 and 128 images
        few = rows * columns <= (100 if half else 64) and min(channels or 0, self.filters) >= enough
        centred = self.padding == "valid" or stride == 1
        return self._shifted_gradient if self.kernel_size == (3, 3) and few and centred else None

    def _strided_gradient(self, images: Any, upstream: Any) -> Any:
        import tensorflow as tf

        return tf.raw_ops.Conv2DBackpropFilter(
            input=_every(images, self.strides[0]),
            filter_sizes=self.kernel.shape,
            out_backprop=upstream,
            strides=[1, 1, 1, 1],
            padding="VALID",
        )

    def _product_gradient(self, images: Any, upstream: Any) -> Any:
        """Of a 1x1 kernel: sum over images and positions of input times upstream."""
        import tensorflow as tf

        met = tf.reshape(_every(images, self.strides[0]), [-1, images.shape[3]])
        product = tf.matmul(met, tf.reshape(upstream, [-1, self.filters]), transpose_a=True)
        return tf.reshape(product, self.kernel.shape)

    def _shifted_gradient(self, images: Any, upstream: Any) -> Any:
        """Sum over images and positions of input times upstream, a product for each of the nine shifts."""
        import tensorflow as tf

        stride, (size, _) = self.strides[0], self.kernel_size
        if self.padding == "same":  # stride 1: as much on either side
            images = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
        rows, columns = ((side - 1) * stride + 1 for side in upstream.shape[1:3])
        met = (
            _every(images[:, y : y + rows, x : x + columns, :], stride)
            for y in range(size)
            for x in range(size)
        )
        upstream = tf.reshape(upstream, [-1, self.filters])
        products = [tf.matmul(tf.reshape(m, [-1, m.shape[3]]), upstream, transpose_a=True) for m in met]
        return tf.reshape(tf.stack(products), self.kernel.shape)


def _every(images: Any, stride: int) -> Any:
    """images[:, ::stride, ::stride] by the pooling kernel, several times faster than TensorFlow's slicing."""
    import tensorflow as tf

    return tf.nn.max_pool2d(images, 1, stride, "VALID") if stride > 1 else images


class ScaledChannels(keras.layers.DepthwiseConv2D):
    """Depthwise convolution whose 1x1 kernel, a number a channel, is one product (ConvNeXt's layer scale)."""

    def call(self, inputs: Any) -> Any:
        plain = self.kernel_size == (1, 1) and self.strides == (1, 1) and self.depth_multiplier == 1
        linear = not self.use_bias and self.activation is keras.activations.linear
        if not plain or not linear or self.data_format != "channels_last":
            return super().call(inputs)
        kernel = ops.cast(self.kernel, self.compute_dtype)
        return inputs * ops.reshape(kernel, (1, 1, 1, self.kernel.shape[2]))


FUSED: dict[str, dict[type, type]] = {
    "tensorflow": {
        keras.layers.BatchNormalization: TensorFlowBatchNormalization,
        keras.layers.Conv2D: TensorFlowConv2D,
        keras.layers.DepthwiseConv2D: ScaledChannels,
    },
    "jax": {keras.layers.DepthwiseConv2D: ScaledChannels},
    "torch": {
        keras.layers.BatchNormalization: TorchBatchNormalization,
        keras.layers.DepthwiseConv2D: ScaledChannels,
    },
}
