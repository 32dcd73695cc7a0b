"""What this machine has, a short measured training speed of each backend in its own process, and what that means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from rightfit import precision, runtime

MODEL, SIDE, BATCH, STEPS = "resnet18", 96, 32, 5
PATIENCE = 2  # seconds of steps, after which fewer than STEPS do
MATRIX = 2048  # rows and columns of the product that says what the machine can do
LONG_ENOUGH = 0.1  # seconds of products
MOSTLY = 0.5  # of the rate of a product: from here on a step is bound by arithmetic


def describe(measure: bool = True) -> dict[str, Any]:
    """Processor, GPU, backends with versions and, if `measure`, training images/s (about a minute)."""
    chosen = runtime.choose_backend()
    kind, because = precision.choose_precision("auto", runtime.cache_folder())
    backends: dict[str, Any] = {}
    for name in runtime.BACKENDS:
        version = runtime.installed_backends().get(name)
        backends[name] = {"version": version, "install": None if version else runtime.INSTALL[name]}
        if version and measure:
            backends[name] |= _measure_apart(name, kind)
    facts = {
        "processor": runtime.cpu_name(),
        "cores": runtime.cpu_count(),
        "bfloat16": sorted({"avx512_bf16", "amx_bf16"} & runtime.cpu_flags()),
        "gpu": _gpu(),
        "backends": backends,
        "measured": f"{MODEL}, {SIDE} px, batch {BATCH}, {kind}, training images/s" if measure else None,
        "chosen": chosen,
        "precision": kind,
        "precision_because": because,
    }
    return {**facts, "in_words": in_words(backends, chosen, kind) if measure else []}


def in_words(backends: Mapping[str, Mapping[str, Any]], chosen: str, kind: str) -> list[str]:
    """Which backend is fastest here, by how much, and what bounds a step of the chosen one in `kind`.

    A backend has, where it was measured, images_per_second, step_gflops and matrix_gflops.
    """
    speeds = {
        name: row["images_per_second"] for name, row in backends.items() if row.get("images_per_second")
    }
    if not speeds:
        return []
    fastest, *others = sorted(speeds, key=lambda name: -speeds[name])
    times = " and ".join(f"{speeds[fastest] / speeds[name]:.1f} times {name}" for name in others)
    said = [f"{fastest} trains fastest here" + (f": {times}" if times else "")]
    row = backends.get(chosen, {})
    if chosen in speeds and row.get("matrix_gflops"):
        share = round(row["step_gflops"] / row["matrix_gflops"], 2)
        bound = (
            "arithmetic: a smaller model or smaller images are what makes it faster"
            if share >= MOSTLY
            else "moving data between operators more than by arithmetic"
        )
        said.append(
            f"a step of {chosen} reaches {100 * share:.0f} % of the rate of one matrix product in {kind} "
            f"({row['step_gflops']:,.0f} of {row['matrix_gflops']:,.0f} GFLOP/s): bound by {bound}"
        )
    return said


def _gpu() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _measure_apart(backend: str, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "rightfit.machine", kind]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return {"error": "took over 300 s"}
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        return {"error": (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]}


def _measure(kind: str) -> dict[str, float]:
    """Training images/s of the running backend, median of a few steps after two to warm up; and GFLOP/s of
    these steps and of a matrix product. A step is 3 x 2 x the net's multiply-adds: forward, and backward twice.
    """
    runtime.choose_backend()
    import numpy as np

    from rightfit.config import TrainSettings
    from rightfit.data.loader import Batch
    from rightfit.nets.layers import fused
    from rightfit.nets.resnet import build
    from rightfit.nets.resnet import describe as costs
    from rightfit.training.backend_steps import make_step
    from rightfit.training.optimizers import make_optimizer

    model = fused(build(MODEL, 10, (SIDE, SIDE)), kind)
    settings = TrainSettings(data="", learning_rate=0.01, weight_decay=0.005)
    step = make_step(model, make_optimizer(settings, model), "categorical", 0.1, averaging=True)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, BATCH)]
    batch = Batch(images, targets, np.ones(BATCH, np.float32))
    seconds: list[float] = []
    while len(seconds) < STEPS + 2 and sum(seconds[2:]) < PATIENCE:
        started = time.perf_counter()
        step(batch, 0.01, 0.9)
        step.totals()
        seconds.append(time.perf_counter() - started)
    speed = BATCH / float(np.median(seconds[2:]))
    adds = costs(MODEL, 10, (SIDE, SIDE))["multiply_adds"]
    return {
        "images_per_second": round(speed, 1),
        "step_gflops": round(6 * adds * speed / 1e9, 1),
        "matrix_gflops": round(_matrix_rate(kind) / 1e9, 1),
    }


def _matrix_rate(kind: str) -> float:
    """FLOP/s of products of two MATRIX x MATRIX matrices, one after the other, best of three rounds."""
    import numpy as np
    from keras import ops

    scaled = np.random.default_rng(0).normal(size=(MATRIX, MATRIX)) / MATRIX**0.5  # products stay as large
    a = ops.cast(scaled, kind)

    def seconds(count: int) -> float:
        started, x = time.perf_counter(), a
        for _ in range(count):
            x = ops.matmul(x, a)
        float(ops.cast(x[0, 0], "float32"))  # waits for the result
        return time.perf_counter() - started

    count = 1
    seconds(count)  # warms up
    while (taken := seconds(count)) < LONG_ENOUGH:
        count *= 2
    return 2 * MATRIX**3 * count / min(taken, seconds(count), seconds(count))


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
