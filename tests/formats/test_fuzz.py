"""A few thousand damaged files of a fixed seed: what reads them answers, or refuses by a typed error.

benchmarks/fuzz.py runs the same at length, guided by coverage.
"""

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
COUNT = {"hdf5": 150, "keras": 300, "image": 500}


@pytest.fixture(scope="module")
def targets():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import fuzz_targets

        yield fuzz_targets


@pytest.mark.filterwarnings("ignore")  # NumPy and Pillow warn of what they refuse a moment later
@pytest.mark.parametrize(
    "name", ["hdf5", "keras", "safetensors", "json", "yaml", "npz", "image", "architecture"]
)
def test_damaged_files_are_read_or_refused(targets, name, tmp_path):
    _, make, target = targets.TARGETS[name]
    read, seeds = target(tmp_path), make()
    outcomes = [targets.tried(read, seed) for seed in seeds]
    assert set(outcomes) == {"accepted"}, "the honest files are"
    for index in range(COUNT.get(name, 700)):
        data = targets.mutated(seeds, np.random.default_rng([7, index]))
        outcome = targets.tried(read, data)
        assert outcome in ("accepted", "refused"), f"input {index}: {outcome}"


def test_an_error_of_another_type_would_be_found(targets):
    def read(data):
        raise KeyError("a")

    assert targets.tried(read, b"").startswith("KeyError: 'a' (in test_fuzz.py:")


def test_the_quick_fuzz_writes_its_figures(tmp_path):
    import json
    import subprocess

    output = tmp_path / "fuzz.json"
    command = [sys.executable, BENCHMARKS / "fuzz.py", "--target", "json", "--inputs", "300", "--mutation"]
    subprocess.run([*command, "--output", output], check=True, capture_output=True, timeout=120)
    found = json.loads(output.read_text())
    assert found["summary"]["held"] and found["targets"]["json"]["inputs"] == 300
    assert found["targets"]["json"]["accepted"] + found["targets"]["json"]["refused"] == 300
