"""Which backend trains fastest here: measured once, each in a process of its own, and remembered.

No order of backends holds everywhere: it turns with the processor, the GPU, the number of threads and the versions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rightfit.console import Console
from rightfit.files import remember, remembered
from rightfit.precision import choose_precision
from rightfit.runtime import (
    SPEEDS,
    cache_folder,
    choose_backend,
    hardware_and_versions,
    installed_backends,
    speeds_of,
)

MODEL, SIDE, BATCH, STEPS = "resnet18", 96, 32, 5
WHAT = f"training images/s of a {MODEL} at {SIDE} px in batches of {BATCH}, each in the precision it is faster in"
PATIENCE = 2  # seconds of steps, after which fewer than STEPS do
LONGEST = 60  # seconds for one backend, before a training
MATRIX = 2048  # rows and columns of the product that says what the machine can do
LONG_ENOUGH = 0.1  # seconds of products


def choose(backend: str, cache: Path, console: Console) -> tuple[str, str]:
    """The backend to train on, settled as by `choose_backend`, and why it is that.

    Where nobody asks for one, several are installed and `cache` does not know their speeds, they are measured now and
    remembered there.
    """
    if backend != "auto":
        return choose_backend(backend), "as asked"
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return choose_backend(), "KERAS_BACKEND, or Keras in this process, has settled it"
    names = list(installed_backends())
    if len(names) < 2:
        return choose_backend(), "no other is installed"
    rows = _rows(cache)
    if not set(names) <= set(rows):
        console.say(
            f"measuring which of {', '.join(names[:-1])} and {names[-1]} trains fastest here: once, about a "
            "minute; --backend and KERAS_BACKEND leave it out"
        )
        rows = measure(cache, LONGEST, again=False)  # which may not have been remembered
    speeds = speeds_of(rows)
    chosen = choose_backend(max(speeds, key=lambda name: speeds[name]) if speeds else "auto", cache)
    because = in_words(speeds)
    console.say(f"{chosen}: {because}")
    return chosen, because


def in_words(speeds: Mapping[str, float]) -> str:
    """Why the fastest is chosen."""
    if not speeds:
        return "the first of the usual order; no speed could be measured"
    ranked = sorted(speeds, key=lambda name: -speeds[name])
    first, *others = (f"{name} {speeds[name]:.1f}" for name in ranked)
    beside = f"; {', '.join(others)}" if others else "; no other could be measured"
    return f"it trains fastest here: {first} images/s of a {MODEL} at {SIDE} px{beside}"


def measure(cache: Path, longest: float, again: bool = True) -> dict[str, dict[str, Any]]:
    """Each installed backend's `measured` or error, no longer than `longest` seconds each; not `again` where that is
    known. Remembered in `cache` one by one, as a person may stop it."""
    found = _rows(cache)
    for name in installed_backends():
        if again or name not in found:
            found[name] = measured_apart(name, cache, longest)
            remember(cache / SPEEDS, hardware_and_versions(), found)
    return found


def _rows(cache: Path) -> dict[str, dict[str, Any]]:
    """What is remembered of this hardware with these versions, by backend."""
    rows = remembered(cache / SPEEDS).get(hardware_and_versions())
    return rows if isinstance(rows, dict) else {}


def measured_apart(backend: str, cache: Path, longest: float) -> dict[str, Any]:
    """`measured` in a process of its own, or an error."""
    command = [sys.executable, "-m", "rightfit.fastest"]
    environment = {**os.environ, "KERAS_BACKEND": backend, "RIGHTFIT_CACHE": str(cache)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=longest, check=True
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    except subprocess.TimeoutExpired:
        return {"error": f"took over {longest:.0f} s"}
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        return {"error": ((getattr(error, "stderr", "") or str(error)).strip().splitlines() or ["?"])[-1]}


def measured() -> dict[str, Any]:
    """Training images/s of KERAS_BACKEND in the precision it is faster in, median of a few steps after two to warm up;
    and GFLOP/s of these steps and of a matrix product. A step is 3 x 2 x the net's multiply-adds: forward, and
    backward twice.
    """
    choose_backend()
    kind, _ = choose_precision("auto", cache_folder())
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
    step = make_step(model, make_optimizer(settings, model), "categorical", averaging=True)
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
        "precision": kind,
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
    print(json.dumps(measured()))
