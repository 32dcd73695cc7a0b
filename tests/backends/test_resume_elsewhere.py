"""A run that one backend began and another goes on with: the same images in the same order, equal to rounding."""

import json
import subprocess
import sys

import numpy as np
import pytest

# A whole run of four epochs, and one that SIGTERM stopped after the first; digits of 8 px, a ResNet-20.
BEGIN = """
import os, signal, sys, threading, time
from pathlib import Path
import rightfit
photos, whole, stopped = sys.argv[1:]
common = dict(image_size=8, epochs=4, batch_size=24, model="resnet20", precision="float32", learning_rate=0.02,
              weights="none", quiet=True, report="none")
rightfit.train(photos, output=whole, **common)

def stop():
    history = Path(stopped, "history.csv")
    while not history.exists():
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop).start()
rightfit.train(photos, output=stopped, **common)
"""
GO_ON = "import sys; from rightfit.cli import main; main()"
ROUNDING = (
    2e-3  # of the loss of the epoch in which the backend changes; another order gives over ten times that
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, write_digits):
    return write_digits(tmp_path_factory.mktemp("digits"), 60)


def ran(process, backend, script, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=process.environment(KERAS_BACKEND=backend),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(("first", "then"), [("tensorflow", "jax"), ("torch", "tensorflow")])
def test_a_run_goes_on_on_another_backend_from_the_same_state_within_rounding_and_says_so(
    first, then, pictures, process, tmp_path, rows_of
):
    whole, run = tmp_path / "whole", tmp_path / "run"
    ran(process, first, BEGIN, pictures, whole, run)
    before = rows_of(run / "history.csv")
    stopped = json.loads((run / "metrics.json").read_text())["unfinished"]
    assert 1 <= len(before) < 4, stopped
    done = ran(process, then, GO_ON, "resume", run)
    assert f"backend {first} → {then}" in done.stderr
    assert "goes on from the same state, but equal to rounding only, not bit for bit" in done.stderr
    expected, found = rows_of(whole / "history.csv"), rows_of(run / "history.csv")
    assert len(found) == 4

    def losses(rows):
        return np.array([[float(row["loss"]), float(row["val_loss"])] for row in rows])

    changed = len(before)  # the epoch in which the backend changed, or the first on the new one
    assert np.array_equal(losses(found)[:changed], losses(expected)[:changed])
    np.testing.assert_allclose(
        losses(found)[changed, 0], losses(expected)[changed, 0], rtol=0, atol=ROUNDING, err_msg=stopped
    )
    apart = np.abs(np.diff(losses(expected)[:, 0]))
    assert apart[changed - 1] > 5 * ROUNDING, "epochs differ by more than that"
