"""What was tried on the training step and on inference, each beside the step as it is, in images/s, in one run.

Each contender changes one thing: layers without the backend's fused kernels, a compiler, threads, several
steps a call, batch normalisation folded into the convolutions of inference. docs/performance.md says what
was expected of each and what is kept.

    python benchmarks/options.py
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Contender, Metric, answered, finish, parser, race, summarise

OUTPUTS, RATE = 10, 1e-3
WARM_UP = 2
TOGETHER = 4  # steps in one call
SHORT = (
    "rightfit",
    "TensorFlow: stock layers",
    "torch",
    "JAX",
    "inference: batch normalisation folded",
)  # of --quick
METRICS = {"training": Metric("images/s"), "inference": Metric("images/s")}
XLA = "--xla_cpu_enable_fast_math=true --xla_cpu_enable_fast_min_max=true"

Model = Any


def main() -> int:
    if answered(CONTENDERS):
        return 0
    made = parser(__doc__, rounds=2)
    made.add_argument("--model", default="resnet50")
    made.add_argument("--image-size", type=int, default=150, metavar="PX")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--steps", type=int, default=6)
    args = made.parse_args()
    if args.quick:
        args.model, args.image_size, args.steps, args.rounds = "resnet18", 64, 2, 1
    print(f"options: {args.model}, {args.image_size} px, batches of {args.batch_size}")
    chosen = {name: of for name, of in CONTENDERS.items() if not args.quick or name in SHORT}
    rounds, left_out = race(__file__, chosen, args)
    return finish("options", args, rounds, left_out, summarise(rounds, METRICS))


def training(
    change: Callable[[], None] = lambda: None,
    layers: Callable[[Model, str], Model] | None = None,
    prepare: Callable[[Any], Callable[..., Any]] | None = None,
    per_call: int = 1,
) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """rightfit's step after `change`, its model made by `layers` and its step by `prepare`."""

    def run(args: argparse.Namespace) -> dict[str, Any]:
        change()
        from rightfit import runtime

        backend = runtime.choose_backend()
        from rightfit.config import TrainSettings
        from rightfit.data.loader import Batch
        from rightfit.nets.layers import fused
        from rightfit.nets.resnet import build
        from rightfit.precision import choose_precision
        from rightfit.training.backend_steps import make_step
        from rightfit.training.optimizers import make_optimizer
        from rightfit.training.schedule import averaging_decay

        precision, _ = choose_precision("auto", runtime.cache_folder())
        side = (args.image_size, args.image_size)
        model = (layers or fused)(build(args.model, OUTPUTS, side), precision)
        settings = TrainSettings(data="", learning_rate=RATE, weight_decay=0.005)
        step = make_step(model, make_optimizer(settings, model), "categorical", averaging=True)
        take = prepare(step) if prepare else step
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (args.batch_size, *side, 3), dtype=np.uint8)
        targets = np.eye(OUTPUTS, dtype=np.float32)[rng.integers(0, OUTPUTS, args.batch_size)]
        batch = Batch(images, targets, np.ones(args.batch_size, np.float32))
        count = itertools.count()
        seconds = []
        for _ in range(WARM_UP + args.steps):
            started = time.perf_counter()
            take(batch, RATE, averaging_decay(0.999, next(count)))
            step.totals()
            seconds.append(time.perf_counter() - started)
        speeds = [args.batch_size * per_call / second for second in seconds[WARM_UP:]]
        return {"training": speeds, "backend": backend, "precision": precision}

    return run


def inference(
    layers: Callable[[Model], Model] = lambda model: model, jit_compile: bool | None = None
) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """The function that `rightfit predict` calls, on a model changed by `layers`."""

    def run(args: argparse.Namespace) -> dict[str, Any]:
        from rightfit import runtime

        runtime.choose_backend()
        from rightfit.evaluation.infer import logits_of, plain_graph
        from rightfit.nets.layers import fused
        from rightfit.nets.resnet import build
        from rightfit.precision import choose_precision

        precision, _ = choose_precision("auto", runtime.cache_folder())
        side = (args.image_size, args.image_size)
        model = plain_graph(fused(layers(build(args.model, OUTPUTS, side)), precision))
        if jit_compile is not None:
            model.jit_compile = jit_compile
        images = np.random.default_rng(0).integers(0, 256, (args.batch_size, *side, 3), dtype=np.uint8)
        speeds = []
        for turn in range(WARM_UP + 2 * args.steps):
            started = time.perf_counter()
            logits_of(model, images, args.batch_size)
            if turn >= WARM_UP:
                speeds.append(args.batch_size / (time.perf_counter() - started))
        return {"inference": speeds, "precision": precision}

    return run


# What is changed ------------------------------------------------------------------------------------


def stock_layers(model: Model, precision: str) -> Model:
    """No fused kernels; the first and last layers in float32 all the same."""
    from rightfit.nets import layers

    return layers._clone(model, {}, precision)


def without(*names: str) -> Callable[[Model, str], Model]:
    """Fused but for these of Keras' layers."""

    def made(model: Model, precision: str) -> Model:
        import keras

        from rightfit.nets import layers

        table = layers.FUSED[keras.backend.backend()]
        kept = {original: twin for original, twin in table.items() if original.__name__ not in names}
        return layers._clone(model, kept, precision)

    return made


def products_for_1x1(model: Model, precision: str) -> Model:
    """1x1 convolutions of stride 1 as one matrix product."""
    import keras

    from rightfit.nets import layers

    class Product(layers.TensorFlowConv2D):
        def call(self, inputs: Any) -> Any:
            import tensorflow as tf

            if self.kernel_size != (1, 1) or self.strides != (1, 1) or self.use_bias:
                return super().call(inputs)
            kernel = tf.reshape(tf.convert_to_tensor(self.kernel), [-1, self.filters])
            flat = tf.matmul(tf.reshape(inputs, [-1, inputs.shape[-1]]), kernel)
            return tf.reshape(flat, [-1, *inputs.shape[1:3], self.filters])

    table = {**layers.FUSED["tensorflow"], keras.layers.Conv2D: Product}
    return layers._clone(model, table, precision)


def one_operation_at_a_time() -> None:
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"


def xla_flags() -> None:
    os.environ["XLA_FLAGS"] = XLA


def xla(step: Any) -> Callable[..., Any]:
    import tensorflow as tf

    step._compiled = tf.function(step._step, jit_compile=True, autograph=False)
    return step


def several_steps(step: Any) -> Callable[..., Any]:
    """TOGETHER steps in one call of a TensorFlow graph."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def steps(images: Any, targets: Any, weights: Any, rate: Any) -> Any:
        def once(index: Any) -> Any:
            step._step(images, targets, weights, rate)
            return index + 1

        return tf.while_loop(lambda index: index < TOGETHER, once, [0], parallel_iterations=1)

    def take(batch: Any, rate: float, decay: float | None) -> None:
        steps(*map(tf.convert_to_tensor, batch), tf.constant(rate, tf.float32))
        if decay is not None:
            step._averaging(tf.constant(decay, tf.float32))

    return take


def torch_compiled(step: Any) -> Callable[..., Any]:
    import torch

    model = step.model
    compiled = torch.compile(lambda images: model(images, training=True))
    step.model = _Called(model, compiled)
    return step


class _Called:
    """`model`, its call replaced."""

    def __init__(self, model: Any, call: Callable[[Any], Any]) -> None:
        self._model, self._call = model, call

    def __call__(self, images: Any, training: bool) -> Any:
        return self._call(images)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def folded(model: Model) -> Model:
    """Batch normalisation after a convolution becomes part of its kernel and a bias (Jacob et al. 2018, 3.2)."""
    import keras

    class Passed(keras.layers.Layer):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            return inputs

    into = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            before = layer._inbound_nodes[0].parent_nodes[0].operation
            if isinstance(before, keras.layers.Conv2D) and len(before._outbound_nodes) == 1:
                into[before.name] = layer
    gone = {layer.name for layer in into.values()}

    def twin(layer: Any) -> Any:
        if layer.name in gone:
            return Passed(name=layer.name)
        return type(layer).from_config(
            {**layer.get_config(), **({"use_bias": True} if layer.name in into else {})}
        )

    made = keras.models.clone_model(model, clone_function=twin)
    for layer in model.layers:
        weights = layer.get_weights()
        if layer.name in into:
            gamma, beta, mean, variance = into[layer.name].get_weights()
            scale = gamma / np.sqrt(variance + into[layer.name].epsilon)
            weights = [weights[0] * scale, beta - mean * scale]
        if layer.name not in gone:
            made.get_layer(layer.name).set_weights(weights)
    return made


CONTENDERS = {
    "rightfit": Contender(lambda args: training()(args) | inference()(args)),
    "TensorFlow: stock layers": Contender(training(layers=stock_layers)),
    "TensorFlow: stock batch normalisation": Contender(training(layers=without("BatchNormalization"))),
    "TensorFlow: its own weight gradients": Contender(training(layers=without("Conv2D"))),
    "TensorFlow: 1x1 convolutions as products": Contender(training(layers=products_for_1x1)),
    "TensorFlow: one operation at a time": Contender(training(one_operation_at_a_time)),
    "TensorFlow: XLA": Contender(training(prepare=xla)),
    f"TensorFlow: {TOGETHER} steps a call": Contender(training(prepare=several_steps, per_call=TOGETHER)),
    "torch": Contender(training(), ("torch",), "torch"),
    "torch: stock layers": Contender(training(layers=stock_layers), ("torch",), "torch"),
    "torch: compiled": Contender(training(prepare=torch_compiled), ("torch",), "torch"),
    "JAX": Contender(training(), ("jax",), "jax"),
    "JAX: fast math": Contender(training(xla_flags), ("jax",), "jax"),
    "inference: batch normalisation folded": Contender(inference(folded)),
    "inference: XLA": Contender(inference(jit_compile=True)),
}


if __name__ == "__main__":
    sys.exit(main())
