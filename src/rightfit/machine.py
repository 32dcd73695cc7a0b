"""What this machine has, and a short measured training speed of each backend, each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from rightfit import precision, runtime

MODEL, SIDE, BATCH, STEPS = "resnet18", 96, 32, 5


def describe(measure: bool = True) -> dict[str, Any]:
    """Processor, GPU, backends with versions and, if `measure`, training images/s (about half a minute)."""
    chosen = runtime.choose_backend()
    kind, because = precision.choose_precision("auto", runtime.cache_folder())
    backends: dict[str, Any] = {}
    for name in runtime.BACKENDS:
        version = runtime.installed_backends().get(name)
        backends[name] = {"version": version, "install": None if version else runtime.INSTALL[name]}
        if version and measure:
            backends[name] |= _measure_apart(name, kind)
    return {
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
        return {"images_per_second": json.loads(done.stdout.splitlines()[-1])}
    except subprocess.TimeoutExpired:
        return {"error": "took over 300 s"}
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        return {"error": (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]}


def _measure(kind: str) -> float:
    """Training images/s of the running backend, median of a few steps after two to warm up."""
    runtime.choose_backend()
    import numpy as np

    from rightfit.config import TrainSettings
    from rightfit.data.loader import Batch
    from rightfit.nets.layers import fused
    from rightfit.nets.resnet import build
    from rightfit.training.optimizers import make_optimizer
    from rightfit.training.step import make_step

    model = fused(build(MODEL, 10, (SIDE, SIDE)), kind)
    settings = TrainSettings(data="", learning_rate=0.01, weight_decay=0.005)
    step = make_step(model, make_optimizer(settings, model), "categorical", 0.1, averaging=True)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (BATCH, SIDE, SIDE, 3), dtype=np.uint8)
    targets = np.eye(10, dtype=np.float32)[generator.integers(0, 10, BATCH)]
    batch = Batch(images, targets, np.ones(BATCH, np.float32))
    seconds = []
    for _ in range(STEPS + 2):
        started = time.perf_counter()
        step(batch, 0.01, 0.9)
        step.totals()
        seconds.append(time.perf_counter() - started)
    return round(BATCH / float(np.median(seconds[2:])), 1)


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
