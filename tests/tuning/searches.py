"""A small search, undisturbed and then killed by SIGKILL again and again: `searches.py FOLDER KILLS`. Each process is
killed a moment after it has written something, so that the kills are spread over the whole.

Prints one line of JSON: the journals of both without what the clock says, what was chosen, and a digest of the weights.
Processes are forked after the imports, which cost seconds, and before the backend wakes.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

FOLDER, KILLS = Path(sys.argv[1]), int(sys.argv[2])
os.environ |= {
    "KERAS_BACKEND": "torch",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "RIGHTFIT_CACHE": str(FOLDER / "cache"),
}
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras  # noqa: E402, F401  (for the processes that are forked)
import numpy as np  # noqa: E402
import optuna  # noqa: E402, F401
import torch  # noqa: E402, F401

import rightfit  # noqa: E402
from rightfit import study, trials  # noqa: E402
from rightfit.tuning import halving  # noqa: E402

ASKED = {
    "epochs": 6,
    "model": "resnet8",
    "precision": "float32",
    "report": "none",
    "batch_size": 32,
    "quiet": True,
}


halving.SEEDS = 2  # of each finalist: enough to see that both are told
study.RANGE_WORTH, trials.RANGE_STEPS = 0, 30  # so that a search as small as this one has a range test


def images():
    """Three colours with much noise, 240 of 8 px."""
    generator = np.random.default_rng(0)
    codes = np.arange(240) % 3
    pixels = generator.normal(120, 60, (240, 8, 8, 3)) + 25 * np.eye(3)[codes][:, None, None]
    return np.clip(pixels, 0, 255).astype(np.uint8), codes


def start(place):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if (place / "search" / "journal.jsonl").exists():
            rightfit.resume(place, data=images(), quiet=True)
        else:
            rightfit.tune(images(), trials=4, output=place, space=FOLDER / "space.yaml", **ASKED)
        code = 0
    finally:
        os._exit(code)


def ended(place):
    """An undisturbed one."""
    assert os.waitpid(start(place), 0)[1] == 0
    return told(place)


def told(place):
    lines = [json.loads(line) for line in (place / "search" / "journal.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in ("seconds", "used", "asked")} for line in lines]
    weights = (place / "weights.safetensors").read_bytes()
    tuning = json.loads((place / "search" / "tuning.json").read_text())
    return {"journal": kept, "tuning": tuning, "weights": hashlib.sha256(weights).hexdigest()}


def written(place):
    """What a kill leaves: so many events, and these checkpoints."""
    journal = place / "search" / "journal.jsonl"
    events = len(journal.read_text().splitlines()) if journal.exists() else 0
    return events, sorted(str(path) for path in place.glob("**/checkpoints/step-*"))


def main():
    (FOLDER / "space.yaml").write_text(
        "learning_rate: {low: 0.001, high: 0.3, log: true}\nstrength: {low: 0, high: 1}\n"
    )
    began = time.monotonic()
    whole = ended(FOLDER / "whole")
    took, chance, kills, place = time.monotonic() - began, random.Random(3), [], FOLDER / "killed"
    while True:
        before, until = written(place), float("inf")
        child = start(place)
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
            if len(kills) < KILLS and until == float("inf") and written(place) != before:
                until = time.monotonic() + chance.uniform(0, took / (KILLS + 1))
            time.sleep(0.005)
        if done[0]:
            assert done[1] == 0
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills.append(written(place)[0])
        if place.exists() and not kills[-1]:  # before there was a search
            shutil.rmtree(place)
    print(json.dumps({"whole": whole, "killed": told(place), "kills": kills, "seconds": took}))


main()
