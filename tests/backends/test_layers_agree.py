"""Keras' layers on three backends: the same weights and inputs give the same, but for what docs/backends.md lists."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
ROUNDING = 1e-5  # of the largest number
KNOWN = {}
PAGE = Path(__file__).parents[2] / "docs" / "backends.md"


@pytest.fixture(scope="module")
def found(tmp_path_factory, process):
    """backend -> case -> what came out."""
    folder = tmp_path_factory.mktemp("layers")

    def run(backend):
        command = [sys.executable, str(Path(__file__).with_name("layers.py")), str(folder / f"{backend}.npz")]
        environment = process.environment(KERAS_BACKEND=backend)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        with np.load(folder / f"{backend}.npz", allow_pickle=False) as kept:
            return dict(kept)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(BACKENDS, pool.map(run, BACKENDS), strict=True))


def distance(own, other):
    """Of the largest number; infinite where one backend cannot, or gives another shape or what is no number."""
    if "U" in (own.dtype.kind, other.dtype.kind) or own.shape != other.shape:
        return np.inf
    apart = np.abs(own - other).max() / max(np.abs(own).max(), 1e-6)
    return float(apart) if np.isfinite(apart) else np.inf
