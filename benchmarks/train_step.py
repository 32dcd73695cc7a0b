"""Training speed on a CPU, in images/s: rightfit beside stock Keras and plain PyTorch, in one run.

Every contender trains the same ResNet on the same random batch with the same optimizer, each in a
process of its own, in rounds (A B C A B C), so that a machine whose speed drifts treats all alike.
A ratio is the median over rounds of the ratios within a round. rightfit's and PyTorch's processes also
multiply two 3072 x 3072 matrices, the fastest of which says what the machine can do: a step's
arithmetic is 3 x 2 x the net's multiply-adds an image (forward, and backward twice).

    python benchmarks/train_step.py --set resnet50-150
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from common import Contender, Metric, answered, finish, parser, race, summarise

OUTPUTS = 10
WARM_UP = 2  # steps not timed: tracing, kernel selection, the optimizer's slots
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
MATRIX, PRODUCTS = 3072, 5
EPOCH_STEPS = 2_274  # of 16 images: 36,384 images
# model, pixels, batch size
SETS = {
    "resnet50-150": ("resnet50", 150, 32),
    "resnet50-224": ("resnet50", 224, 32),
    "resnet18-150": ("resnet18", 150, 32),
    "resnet18-224": ("resnet18", 224, 32),
    "resnet20-32": ("resnet20", 32, 128),
    "epoch": ("resnet50", 150, 16),  # rightfit alone, many steps: how long 2,274 of them take
}
SPEED = "training"
METRICS = {SPEED: Metric("images/s")}

Step = Callable[[np.ndarray, np.ndarray], float]  # images uint8, labels -> loss


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parse()
    model, side, size = SETS[args.set]
    args.model, args.image_size, args.batch_size = model, side, args.batch_size or size
    name = f"train_step-{args.set}" + ("" if args.backend == "tensorflow" else f"-{args.backend}")
    print(f"{name}: {model}, {side} px, batches of {args.batch_size}")
    rounds, left_out = race(__file__, chosen(args), args)
    more = details(rounds, args)
    print(json.dumps(more, indent=1))
    return finish(name, args, rounds, left_out, summarise(rounds, METRICS), **more)


def parse() -> argparse.Namespace:
    made = parser(__doc__, rounds=3)
    made.add_argument("--set", choices=SETS, default="resnet50-150")
    made.add_argument(
        "--backend", choices=("tensorflow", "torch", "jax"), default="tensorflow", help="rightfit's"
    )
    made.add_argument(
        "--steps", type=int, help="timed steps of each contender in each round; default 6, epoch 200"
    )
    made.add_argument("--batch-size", type=int, help="another than the set's")
    args = made.parse_args()
    epoch = args.set == "epoch"
    if args.quick:
        args.rounds, args.steps = 1, args.steps or (8 if epoch else 2)
        args.batch_size = args.batch_size or (128 if args.set == "resnet20-32" else 16)
    args.steps = args.steps or (200 if epoch else 6)
    args.rounds = 1 if epoch else args.rounds
    if min(args.rounds, args.steps) < 1 or (args.batch_size or 1) < 1:
        made.error("--rounds, --steps and --batch-size start at 1")
    return args


def chosen(args: argparse.Namespace) -> dict[str, Contender]:
    """rightfit alone to count out an epoch; in the quick form Keras only as it comes."""
    if args.set == "epoch":
        return {"rightfit": replace(CONTENDERS["rightfit"], backend=args.backend)}
    found = {name: c for name, c in CONTENDERS.items() if not (args.quick and name in LONG)}
    return found | {"rightfit": replace(CONTENDERS["rightfit"], backend=args.backend)}


def timed(
    make: Callable[[argparse.Namespace], tuple[Step, int, str]], rate: Callable[[], dict[str, float]] | None
):
    """A contender: seconds of each timed step, and what the matrix product reaches on the same library."""

    def run(args: argparse.Namespace) -> dict[str, Any]:
        step, parameters, precision = make(args)
        images, labels = batch(args)
        losses = [step(images, labels) for _ in range(WARM_UP)]
        seconds = []
        for _ in range(args.steps):
            start = time.perf_counter()
            losses.append(step(images, labels))
            seconds.append(time.perf_counter() - start)
        if not all(math.isfinite(loss) for loss in losses):
            raise SystemExit(f"the loss is not finite: {losses}")
        return {
            SPEED: [args.batch_size / second for second in seconds],
            "seconds": seconds,
            "losses": losses,
            "parameters": parameters,
            "precision": precision,
            "rate": rate() if rate else {},
        }

    return run


def keras_rate() -> dict[str, float]:
    from keras import ops

    def multiply(kind: str) -> Callable[[], Any]:
        a = ops.cast(np.random.default_rng(0).normal(size=(MATRIX, MATRIX)), kind)
        return lambda: float(ops.cast(ops.matmul(a, a)[0, 0], "float32"))

    return {kind: flops(multiply(kind)) for kind in ("float32", "bfloat16")}


def torch_rate() -> dict[str, float]:
    import torch

    def multiply(kind: str) -> Callable[[], Any]:
        a = torch.randn(MATRIX, MATRIX).to(getattr(torch, kind))
        return lambda: float((a @ a)[0, 0])

    return {kind: flops(multiply(kind)) for kind in ("float32", "bfloat16")}


def flops(multiply: Callable[[], Any]) -> float:
    """FLOP/s of one product, the best of several after one to warm up."""
    best = math.inf
    for count in range(PRODUCTS + 1):
        start = time.perf_counter()
        multiply()
        if count:
            best = min(best, time.perf_counter() - start)
    return 2 * MATRIX**3 / best


def details(rounds: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Precision of each contender, the machine's matrix rate, and the share of it that training reaches."""
    turns = [(name, found) for r in rounds for name, found in r.items() if isinstance(found, dict)]
    counts = {name: found["parameters"] for name, found in turns}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"these are not the same net; trainable parameters: {counts}")
    rates = {
        kind: max((found["rate"][kind] for _, found in turns if kind in found["rate"]), default=None)
        for kind in ("float32", "bfloat16")
    }
    adds = multiply_adds(args)
    fractions = {}
    for name in counts:
        mine = [found for other, found in turns if other == name]
        kind = "bfloat16" if "bfloat16" in mine[0]["precision"] else "float32"
        speed = statistics.median(value for found in mine for value in found[SPEED])
        if rates[kind]:
            fractions[name] = 6 * adds * speed / rates[kind]
    more = {
        "parameters": next(iter(counts.values())),
        "multiply_adds": adds,
        "precision": {name: found["precision"] for name, found in turns},
        "matrix_rate_gflops": {kind: rate and round(rate / 1e9, 1) for kind, rate in rates.items()},
        "fraction_of_matrix_rate": {name: round(value, 3) for name, value in fractions.items()},
    }
    if args.set == "epoch":
        step = statistics.median(second for _, found in turns for second in found["seconds"])
        more |= {"epoch_seconds": EPOCH_STEPS * 16 / args.batch_size * step, "measured_steps": args.steps}
    return more


def multiply_adds(args: argparse.Namespace) -> int:
    """Of one image, forward."""
    from rightfit import runtime

    runtime.choose_backend()
    from rightfit.nets.resnet import describe

    return int(describe(args.model, OUTPUTS, (args.image_size, args.image_size))["multiply_adds"])


def batch(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch_size, args.image_size, args.image_size, 3), dtype=np.uint8)
    return images, rng.integers(0, OUTPUTS, args.batch_size)


def rightfit_step(args: argparse.Namespace) -> tuple[Step, int, str]:
    """The step that `rightfit train` takes, with its weight decay and averaged weights; uint8 goes in."""
    from rightfit import runtime

    runtime.choose_backend(args.backend)
    from rightfit.config import TrainSettings
    from rightfit.data.loader import Batch
    from rightfit.nets import layers, resnet
    from rightfit.precision import choose_precision
    from rightfit.training.backend_steps import make_step
    from rightfit.training.optimizers import make_optimizer
    from rightfit.training.schedule import averaging_decay

    precision, _ = choose_precision("auto", runtime.cache_folder())
    model = resnet.build(args.model, OUTPUTS, (args.image_size, args.image_size))
    model = layers.fused(model, precision)
    settings = TrainSettings(data="", learning_rate=LEARNING_RATE, weight_decay=0.005)
    take = make_step(model, make_optimizer(settings, model), "categorical", averaging=True)
    weights = np.ones(args.batch_size, np.float32)

    steps = itertools.count()

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        targets = np.eye(OUTPUTS, dtype=np.float32)[labels]
        take(Batch(images, targets, weights), LEARNING_RATE, averaging_decay(0.999, next(steps)))
        loss, _, count = take.totals()
        return float(loss / count)

    return step, parameters_of(model), precision


def keras_step(args: argparse.Namespace, policy: str) -> tuple[Step, int, str]:
    """The same net of stock layers, trained as Keras' own guide does; images are float32 already."""
    import keras

    from rightfit.nets import resnet

    keras.config.set_dtype_policy(policy)
    model = resnet.build(args.model, OUTPUTS, (args.image_size, args.image_size))
    step = compiled(model, jit_compile="auto")
    ready = batch(args)[0].astype("float32")
    return lambda images, labels: step(ready, labels), parameters_of(model), policy


def compiled(model: Any, jit_compile: bool | str) -> Step:
    import keras

    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return lambda images, labels: float(model.train_on_batch(images, labels))


def parameters_of(model: Any) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def pytorch_step(args: argparse.Namespace, mixed: bool) -> tuple[Step, int, str]:
    """Channels last, autocast where `mixed`, float32 images ready: what PyTorch's CPU guide recommends."""
    import torch
    from torch import nn

    net = pytorch_resnet(args.model).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, nesterov=True)
    images, labels = batch(args)
    x = torch.from_numpy(images.astype("float32") / 127.5 - 1).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels)

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in net.parameters()), "autocast bfloat16" if mixed else "float32"


def pytorch_resnet(name: str, outputs: int = OUTPUTS) -> Any:
    """torchvision's ResNet v1.5, or He's ResNet-20 with projections: (B, 3, H, W) -> (B, outputs)."""
    from torch import nn

    def conv(before: int, after: int, kernel: int, stride: int) -> list[Any]:
        bias_free = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        return [bias_free, nn.BatchNorm2d(after)]

    class Block(nn.Module):
        def __init__(self, before: int, width: int, stride: int, bottleneck: bool) -> None:
            super().__init__()
            after = 4 * width if bottleneck else width
            if bottleneck:
                body = [*conv(before, width, 1, 1), nn.ReLU(inplace=True)]
                body += [*conv(width, width, 3, stride), nn.ReLU(inplace=True), *conv(width, after, 1, 1)]
            else:
                body = [*conv(before, width, 3, stride), nn.ReLU(inplace=True), *conv(width, after, 3, 1)]
            nn.init.zeros_(body[-1].weight)
            same = stride == 1 and before == after
            self.body = nn.Sequential(*body)
            self.shortcut = nn.Identity() if same else nn.Sequential(*conv(before, after, 1, stride))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    bottleneck = name not in ("resnet18", "resnet20", "resnet34")
    channels = 16 if name == "resnet20" else 64
    parts = [*conv(3, channels, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    if name == "resnet20":
        parts = [*conv(3, channels, 3, 1), nn.ReLU(inplace=True)]
    first = channels
    for stage, depth in enumerate(DEPTHS[name]):
        width = first * 2**stage
        for index in range(depth):
            parts.append(Block(channels, width, 2 if index == 0 and stage > 0 else 1, bottleneck))
            channels = 4 * width if bottleneck else width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet20": (3, 3, 3),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}

LONG = ("Keras on TensorFlow, bfloat16", "Keras on torch, its default", "Keras on JAX, its default")
CONTENDERS = {
    "rightfit": Contender(timed(rightfit_step, keras_rate)),
    "Keras on TensorFlow, its default": Contender(timed(lambda args: keras_step(args, "float32"), None)),
    "Keras on TensorFlow, bfloat16": Contender(timed(lambda args: keras_step(args, "mixed_bfloat16"), None)),
    "Keras on torch, its default": Contender(
        timed(lambda args: keras_step(args, "float32"), None), ("torch",), "torch"
    ),
    "Keras on JAX, its default": Contender(
        timed(lambda args: keras_step(args, "float32"), None), ("jax",), "jax"
    ),
    "PyTorch, float32": Contender(
        timed(lambda args: pytorch_step(args, mixed=False), torch_rate), ("torch",)
    ),
    "PyTorch, bfloat16": Contender(
        timed(lambda args: pytorch_step(args, mixed=True), torch_rate), ("torch",)
    ),
}


if __name__ == "__main__":
    sys.exit(main())
