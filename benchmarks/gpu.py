"""ResNet-50 at 224 px on one NVIDIA GPU: rightfit on JAX and on torch beside plain PyTorch, in one run.

Training steps in images/s for batches of 64, 128 and 256, in bfloat16 and in float32 (with TF32 where
the library takes it by default or is asked to), and from a store to trained images. Beside them what the
GPU does in the same run: a product of two 8192 x 8192 matrices, and a copy of 1 GiB (read and written).
Ends without a result, and without an error, where there is no GPU.

    python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
from common import Contender, Metric, answered, finish, parser, race, summarise

SIDE, OUTPUTS, MATRIX = 224, 1000, 8192
MULTIPLY_ADDS = 4_089_184_256  # of ResNet-50 at 224 px with 1,000 outputs, as `rightfit models` counts
KINDS = ("bfloat16", "float32")


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parser(__doc__, rounds=3).parse_args()
    args.batches, args.steps = [64, 128, 256], 30
    if args.quick:
        args.batches, args.steps, args.rounds = [64], 10, 1
    card = gpu()
    if card is None:
        print("gpu: no NVIDIA GPU here, nothing is measured")
        return 0
    print(f"gpu: {card}")
    metrics = {step_title(size, kind): Metric("images/s") for size in args.batches for kind in KINDS}
    metrics |= {"from a store, bfloat16": Metric("images/s")}
    metrics |= {f"matrix product, {kind}": Metric("TFLOP/s") for kind in (*KINDS, "TF32")} | {
        "copy": Metric("GB/s")
    }
    rounds, left_out = race(__file__, CONTENDERS, args)
    summary = summarise(rounds, metrics, base="rightfit on JAX")
    shares = fractions(summary)
    for name, share in shares.items():
        print(f"{name}: {share:.0%} of the measured matrix rate")
    return finish("gpu", args, rounds, left_out, summary, gpu=card, fraction_of_matrix_rate=shares)


def gpu() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        return None


def step_title(size: int, kind: str) -> str:
    return f"step, batch {size}, {kind}"


def fractions(summary: dict[str, Any]) -> dict[str, float]:
    """Of each contender's best batch size, in bfloat16."""
    rates = summary.get("matrix product, bfloat16", {"contenders": {}})["contenders"].values()
    rate = max((row["median"] for row in rates), default=math.nan)
    best: dict[str, float] = {}
    for title, metric in summary.items():
        if title.startswith("step") and title.endswith("bfloat16"):
            for name, row in metric["contenders"].items():
                best[name] = max(best.get(name, 0.0), row["median"])
    return {name: 6 * MULTIPLY_ADDS * speed / (rate * 1e12) for name, speed in best.items()}


def pace(step: Callable[[], Any], wait: Callable[[], Any], size: int, steps: int) -> float:
    """Images/s over `steps` in a row, after five: a GPU is asked ahead and waited for once."""
    for _ in range(5):
        step()
    wait()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    return size * steps / (time.perf_counter() - started)


def with_rightfit(args: argparse.Namespace) -> dict[str, Any]:
    """float32 is as the backend has it: JAX's convolutions take TF32 by default, torch's as cuDNN is set."""
    from rightfit import runtime

    backend = runtime.choose_backend()
    from rightfit.config import TrainSettings
    from rightfit.data.augment import POLICIES
    from rightfit.data.loader import Batch, TrainLoader
    from rightfit.data.opened import Store
    from rightfit.nets import layers, resnet
    from rightfit.training.backend_steps import make_step
    from rightfit.training.optimizers import make_optimizer

    def taken(kind: str) -> Any:
        model = layers.fused(resnet.build("resnet50", OUTPUTS, (SIDE, SIDE)), kind)
        settings = TrainSettings(data="", learning_rate=0.001, weight_decay=0.005)
        return make_step(model, make_optimizer(settings, model), "categorical", averaging=True)

    found: dict[str, Any] = {}
    for kind in KINDS:
        for size in args.batches:
            take = taken(kind)
            images, labels = data(size)
            batch = Batch(images, np.eye(OUTPUTS, dtype=np.float32)[labels], np.ones(size, np.float32))
            step, wait = (
                lambda take=take, batch=batch: take(batch, 0.001, 0.9),
                lambda take=take: take.totals(),
            )
            found[step_title(size, kind)] = pace(step, wait, size, args.steps)
    size = args.batches[-1]
    images, labels = data(1_024)
    ones = np.ones(len(images), np.float32)
    store = Store(images, np.ones(len(images), bool), {}, "noise", np.zeros((len(images), 16), np.uint8))
    targets = np.eye(OUTPUTS, dtype=np.float32)[labels]
    loader = TrainLoader(store, np.arange(len(images)), targets, ones, size, 0, POLICIES["medium"])
    take, endless = taken("bfloat16"), (batch for epoch in range(10**6) for batch in loader.epoch(epoch))
    found["from a store, bfloat16"] = pace(
        lambda: take(next(endless), 0.001, 0.9), take.totals, size, args.steps
    )
    return found | (jax_rates() if backend == "jax" else torch_rates())


def data(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8), rng.integers(0, OUTPUTS, size)


def with_pytorch(args: argparse.Namespace) -> dict[str, Any]:
    """Channels last, autocast or TF32, fused SGD, images on the GPU already."""
    import torch
    from train_step import pytorch_resnet

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        torch.backends.cudnn.benchmark
    ) = True
    found: dict[str, Any] = {}
    for kind in KINDS:
        for size in args.batches:
            net = pytorch_resnet("resnet50", OUTPUTS).to("cuda", memory_format=torch.channels_last).train()
            optimizer = torch.optim.SGD(net.parameters(), 0.001, 0.9, nesterov=True, fused=True)
            images, labels = data(size)
            x = torch.from_numpy(images.astype("float32") / 127.5 - 1).permute(0, 3, 1, 2).cuda()
            y = torch.from_numpy(labels).cuda()

            def step(
                net: Any = net, optimizer: Any = optimizer, x: Any = x, y: Any = y, kind: str = kind
            ) -> None:
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cuda", torch.bfloat16) if kind == "bfloat16" else nullcontext():
                    loss = torch.nn.functional.cross_entropy(net(x), y)
                loss.backward()
                optimizer.step()

            found[step_title(size, kind)] = pace(step, torch.cuda.synchronize, size, args.steps)
    return found | torch_rates()


def torch_rates() -> dict[str, float]:
    import torch

    def best(work: Callable[[], Any]) -> float:
        return min(seconds_of(work, torch.cuda.synchronize) for _ in range(10))

    found = {}
    for kind, tf32 in (("bfloat16", False), ("float32", False), ("TF32", True)):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a = torch.randn(
            MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16 if kind == "bfloat16" else torch.float32
        )
        found[f"matrix product, {kind}"] = 2 * MATRIX**3 / best(lambda a=a: a @ a) / 1e12
    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    return found | {"copy": 2 * 2**30 / best(lambda: target.copy_(source)) / 1e9}


def jax_rates() -> dict[str, float]:
    import jax
    import jax.numpy as jnp

    found = {}
    for kind, exactly in (("bfloat16", "default"), ("float32", "highest"), ("TF32", "tensorfloat32")):
        multiply = jax.jit(lambda a, exactly=exactly: jnp.matmul(a, a, precision=exactly))
        a = jnp.ones((MATRIX, MATRIX), jnp.bfloat16 if kind == "bfloat16" else jnp.float32)
        seconds = min(seconds_of(lambda a=a, m=multiply: m(a).block_until_ready()) for _ in range(10))
        found[f"matrix product, {kind}"] = 2 * MATRIX**3 / seconds / 1e12
    source, copy = jnp.ones(2**28), jax.jit(lambda x: x + 1)
    seconds = min(seconds_of(lambda: copy(source).block_until_ready()) for _ in range(10))
    return found | {"copy": 2 * 2**30 / seconds / 1e9}


def seconds_of(work: Callable[[], Any], wait: Callable[[], Any] = lambda: None) -> float:
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


CONTENDERS = {
    "rightfit on JAX": Contender(with_rightfit, ("jax",), "jax", gpu=True),
    "rightfit on torch": Contender(with_rightfit, ("torch",), "torch", gpu=True),
    "PyTorch": Contender(with_pytorch, ("torch",), gpu=True),
}


if __name__ == "__main__":
    sys.exit(main())
