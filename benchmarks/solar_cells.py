"""How good is the default command on a question that people have? Defective or functional: ELPV's 2,624 solar cells.

    rightfit train build/elpv --weights none --seed S; rightfit evaluate

for three seeds, each of which decides the split, the order and the first weights; from scratch, and no other setting
chosen. The test images are opened once, by `evaluate`, when training is over. To be read beside what Deitsch et al.
2019 reached on another split of the same photographs with a CNN pretrained on ImageNet (88.42 %) and an SVM (82.44 %).

    python benchmarks/solar_cells.py             hours without a GPU; broken off, it goes on where it stood
    python benchmarks/solar_cells.py --table     the table of docs/benchmarks.md from benchmarks/results
    python benchmarks/solar_cells.py --quick     one seed, small images, few epochs; shows that it runs
"""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml
from common import ROOT, installed, lines_asked, lines_parser, markdown, read_lines, worked_off
from doctor import missing

PACKAGES = ("rightfit", "keras", "tensorflow-cpu", "numpy")
RUNS = ROOT / "build" / "solar_cells"
PEERS = {"CNN pretrained on ImageNet": 88.42, "SVM": 82.44}
TOLD = ("model", "image_size", "epochs", "batch_size", "learning_rate", "augment", "backend")
MEASURES = ("accuracy", "balanced_accuracy", "auroc", "loss")


def main() -> int:
    made = lines_parser(__doc__, seeds=3)
    made.set_defaults(processes=1)  # a training takes every core
    args, output = lines_asked(made, "solar_cells")
    if args.table:
        print(tables(read_lines(output)))
        return 0
    if reason := missing("elpv"):
        print(f"left out: {reason}")
        return 0
    done = {row["seed"] for row in read_lines(output)}
    runs = [{"seed": seed} for seed in range(1 if args.quick else args.seeds) if seed not in done]
    taken = functools.partial(measured, quick=args.quick)
    for row in worked_off(runs, taken, output, args.processes, args.minutes):
        print(
            f"  seed {row['seed']}: {100 * row['test']['accuracy']['value']:.2f} % in {row['seconds']:.0f} s",
            flush=True,
        )
    print(tables(read_lines(output)))
    return 0


def measured(run: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """One training by the command, or the rest of it, and what the test says of it, which is asked once."""
    place = RUNS / ("quick" if quick else f"seed-{run['seed']}")
    began = time.monotonic()
    if (place / "checkpoints" / "start.json").exists() and not quick:
        _rightfit("resume", place)
    else:
        shutil.rmtree(place, ignore_errors=True)
        few = ["--image-size", 32, "--epochs", 2] if quick else []
        asked = ["--weights", "none", "--seed", run["seed"], "--output", place, *few]
        _rightfit("train", ROOT / "build" / "elpv", *asked)
    metrics = json.loads((place / "metrics.json").read_text(encoding="utf-8"))
    if unfinished := metrics.get("unfinished"):
        raise SystemExit(f"{place} is not trained to its end: {unfinished}; the same command goes on with it")
    test = metrics["test"] if "test" in metrics else json.loads(_rightfit("evaluate", place, "--json"))
    settings = yaml.safe_load((place / "config.yaml").read_text(encoding="utf-8"))
    with (place / "history.csv").open(encoding="utf-8", newline="") as file:
        history = list(csv.DictReader(file))
    decisions = (place / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        **run,
        "test": {name: test[name] for name in ("images", *MEASURES)},
        "settings": {name: settings[name] for name in TOLD},
        "epochs": len(history),
        "train_seconds": round(sum(float(row["train_seconds"]) for row in history), 1),
        "decisions": [json.loads(line) for line in decisions],
        "versions": installed(PACKAGES),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _rightfit(*arguments: Any) -> str:
    """The command in its own process, on every core; what it prints."""
    command = [sys.executable, "-m", "rightfit", *map(str, arguments)]
    one_thread = {"OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in one_thread}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: what the test says of each split, with its interval, their mean, and the peers."""
    if not rows:
        return "Not measured yet.\n"
    rows = sorted(rows, key=lambda row: row["seed"])
    header = ["seed", "test images", "accuracy, %", "balanced, %", "AUROC", "loss, nats", "hours of steps"]
    lines = [
        [
            row["seed"],
            row["test"]["images"],
            *(_told(row["test"][name], 100, 1) for name in MEASURES[:2]),
            *(_told(row["test"][name], 1, 3) for name in MEASURES[2:]),
            f"{row['train_seconds'] / 3600:.1f}",
        ]
        for row in rows
    ]
    mean = np.mean([100 * row["test"]["accuracy"]["value"] for row in rows])
    peers = ", ".join(f"{name} {accuracy} %" for name, accuracy in PEERS.items())
    ending = (
        f"The mean is {mean:.1f} %; on another split of the same photographs: {peers} (Deitsch et al. 2019)."
    )
    return f"{markdown(header, lines)}\n\n{ending}\n"


def _told(found: Mapping[str, float], times: int, digits: int) -> str:
    value, low, high = (f"{times * found[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    sys.exit(main())
