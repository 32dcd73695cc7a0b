"""Which number format this machine trains faster in: measured once on a convolution, and remembered.

That a processor has bfloat16 instructions does not say that they are fast: an AMD Zen 5 convolves
nearly twice as fast in bfloat16 as in float32, an Intel Emerald Rapids without its matrix unit half
as fast, with the same libraries.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

from rightfit.errors import BackendError
from rightfit.files import remember, remembered
from rightfit.runtime import cpu_flags, cpu_name, has_nvidia_gpu, version_of

PRECISIONS = ("float32", "bfloat16")
PAYS = 1.2  # times as fast as float32; below, the casts of mixed precision eat the gain
REMEMBERED = "machine.json"


def choose_precision(precision: str, cache: Path) -> tuple[str, str]:
    """("float32" or "bfloat16", the reason); auto is bfloat16 where processor or GPU is faster in it.

    What was measured on a processor is remembered in `cache`. Keras' backend must have been chosen.
    """
    if precision in PRECISIONS:
        return precision, "as asked"
    if precision != "auto":
        raise BackendError(f"unknown precision {precision!r}; there are auto, {', '.join(PRECISIONS)}")
    if uses_gpu():
        if _gpu_has_bfloat16():
            return "bfloat16", "the GPU computes in it"
        return "float32", "the GPU does not compute in bfloat16"
    if not {"avx512_bf16", "amx_bf16"} & cpu_flags():
        return "float32", "the processor has no bfloat16 instructions"
    gain = _remembered_or_measured(cache / REMEMBERED)
    chosen = "bfloat16" if gain >= PAYS else "float32"
    return chosen, f"in bfloat16 this processor convolves {gain:.2f} times as fast as in float32"


def uses_gpu() -> bool:
    """Does the running backend train on an NVIDIA GPU?"""
    return has_nvidia_gpu() and _backend_uses_gpu()


def measured_gain(cache: Path) -> float | None:
    """Speed in bfloat16 over speed in float32 on the running backend, if it was measured here."""
    gain = remembered(cache / REMEMBERED).get(_key())
    if isinstance(gain, (int, float)) and math.isfinite(gain) and gain > 0:
        return float(gain)
    return None


def _remembered_or_measured(path: Path) -> float:
    gain = measured_gain(path.parent)
    if gain is None:
        gain = round(measure(), 2)
        remember(path, _key(), gain)
    return gain


def _key() -> str:
    backend = os.environ["KERAS_BACKEND"]
    flags = " ".join(sorted(flag for flag in cpu_flags() if "bf16" in flag))
    return f"{cpu_name()}, {flags}, {backend} {version_of(backend)}"


def measure(rounds: int = 7) -> float:
    """Speed of a 3x3 convolution in bfloat16 over that in float32, each its best of `rounds` in turns."""
    import numpy as np
    from keras import ops

    generator = np.random.default_rng(0)
    images, kernel = generator.normal(size=(16, 38, 38, 64)), generator.normal(size=(3, 3, 64, 64))
    inputs = {kind: (ops.cast(images, kind), ops.cast(kernel, kind)) for kind in PRECISIONS}
    best = dict.fromkeys(PRECISIONS, math.inf)
    for count in range(rounds + 1):
        for kind, (x, w) in inputs.items():
            started = time.perf_counter()
            float(ops.cast(ops.sum(ops.conv(x, w, padding="same")), "float32"))  # waits for the result
            if count:  # the first compiles and warms up
                best[kind] = min(best[kind], time.perf_counter() - started)
    return best["float32"] / best["bfloat16"]


def _backend_uses_gpu() -> bool:
    """A machine's GPU does not help a backend that was installed for the processor."""
    backend = os.environ["KERAS_BACKEND"]
    if backend == "jax":
        import jax

        return jax.default_backend() == "gpu"
    if backend == "torch":
        import torch

        return torch.cuda.is_available()
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _gpu_has_bfloat16() -> bool:
    """Compute capability 8.0 (Ampere) and later; asked of nvidia-smi, which needs no framework."""
    import subprocess

    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        return min(float(line) for line in answer.split()) >= 8.0
    except (OSError, subprocess.SubprocessError, ValueError):
        return False
