"""Keras' layers on three backends: the same weights and inputs give the same, but for what docs/backends.md lists."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")
ROUNDING = 1e-5  # of the largest number
RESIZED = (("Resizing", ", larger"), ("Resizing", ", smaller"))
LANCZOS = [f"{what} lanczos{n}{how}" for n in (3, 5) for what, how in (("UpSampling2D", ""), *RESIZED)]
# The rows of the page's table, and the cases here that each tells of.
KNOWN = {
    "average pools": (
        "AveragePooling2D 4x4, stride 1, same",
        "AveragePooling2D 3x3, stride 2, same",
        "AveragePooling2D 3x3, stride 2, same: gradient",
        "AveragePooling2D 4x4, stride 2, same",
        "AveragePooling2D 4x4, stride 2, same: gradient",
        "AveragePooling2D 4x4, stride 3, same",
        "AveragePooling1D 3, stride 2, same",
    ),
    "bicubic resizing": ("UpSampling2D bicubic", "Resizing bicubic, larger", "Resizing bicubic, smaller"),
    "Lanczos resizing": LANCZOS,
    "gradients at a kink": (
        "leaky_relu: gradient",
        "selu: gradient",
        "celu: gradient",
        "hard_tanh: gradient",
    ),
    "gradients of equal numbers": ("Maximum: gradient", "Minimum: gradient"),
}
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


def test_layers_give_the_same_on_every_backend_but_for_the_known(found):
    apart = {}
    for case, own in found["tensorflow"].items():
        by_backend = [distance(own, found[b][case]) for b in ("jax", "torch")]
        by_backend.append(distance(found["jax"][case], found["torch"][case]))
        apart[case] = max(by_backend)
    assert len(apart) > 200
    unknown = {case: far for case, far in apart.items() if far > ROUNDING and known(case) is None}
    assert unknown == {}
    agreeing = [case for case in apart if apart[case] <= ROUNDING and known(case)]
    assert agreeing == [], "these differ no longer: take them off the list and the page"


def known(case):
    """The row of the page that tells of it."""
    return next((row for row, cases in KNOWN.items() if case in cases), None)


def test_every_case_on_the_list_was_tried_and_is_on_the_page(found):
    page = PAGE.read_text(encoding="utf-8")
    for row, cases in KNOWN.items():
        assert f"| {row} |" in page
        assert set(cases) <= set(found["torch"])


def test_no_layer_failed_but_those_that_torch_has_not(found):
    failed = {b: [c for c, value in found[b].items() if value.dtype.kind == "U"] for b in BACKENDS}
    assert failed["tensorflow"] == failed["jax"] == []
    assert failed["torch"] == [case for case in found["torch"] if "lanczos" in case]
