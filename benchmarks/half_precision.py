"""Does bfloat16 cost accuracy? The same trainings in bfloat16 and in float32, in one run.

For each seed `rightfit train` and `rightfit evaluate` run as a person would type them on 12,000 training
images of Fashion-MNIST and its 10,000 test images. The difference of a seed is taken over the same test
images, and its interval is that of the mean over seeds (Student's t): seeds differ more than images do.

    python examples/fashion_mnist.py build/fashion
    python benchmarks/half_precision.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Metric, finish, parser, summarise
from scipy.stats import t as student
from time_to_accuracy import fashion, few

METRICS = {"test accuracy": Metric("%"), "train and evaluate": Metric("s", more_is_better=False)}
KINDS = ("float32", "bfloat16")


def main() -> int:
    made = parser(__doc__, rounds=3)
    made.add_argument("--images", type=int, default=12_000, help="to train and validate on")
    made.add_argument("--epochs", type=int, default=6)
    args = made.parse_args()
    tested = 10_000
    if args.quick:
        args.images, args.epochs, tested, args.rounds = 500, 2, 500, 1
    folder = few(fashion(), f"fashion-{args.images}", train=args.images // 10, test=tested // 10)
    rounds = []
    for seed in range(args.rounds):
        found: dict[str, Any] = {"load_before": os.getloadavg()[0], "seed": seed}
        rounds.append(found | {kind: trained(folder, kind, seed, args) for kind in KINDS})
        print(f"seed {seed}: {[rounds[-1][kind]['test accuracy'] for kind in KINDS]}", file=sys.stderr)
    more = {"difference_points": difference(rounds)}
    print("bfloat16 less float32, in points:", json.dumps(more["difference_points"]))
    return finish("half_precision", args, rounds, {}, summarise(rounds, METRICS, "float32"), **more)


def trained(folder: Path, kind: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="rightfit-half-") as work:
        run = Path(work) / "run"
        started = time.perf_counter()
        call(
            *("train", folder, "--model", "resnet20", "--epochs", args.epochs, "--seed", seed),
            *("--precision", kind, "--output", run),
        )
        accuracy = json.loads(call("evaluate", run, "--json"))["accuracy"]["value"]
    return {"test accuracy": 100 * accuracy, "train and evaluate": time.perf_counter() - started}


def call(*arguments: Any) -> str:
    command = [sys.executable, "-m", "rightfit", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout


def difference(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Points of accuracy that bfloat16 has over float32: each seed's, their mean and its 95 % interval."""
    each = [r["bfloat16"]["test accuracy"] - r["float32"]["test accuracy"] for r in rounds]
    found: dict[str, Any] = {"mean": statistics.mean(each), "each": each}
    if len(each) > 1:
        error = statistics.stdev(each) / math.sqrt(len(each))
        half = float(student.ppf(0.975, len(each) - 1)) * error
        found |= {"low": found["mean"] - half, "high": found["mean"] + half}
    return found


if __name__ == "__main__":
    sys.exit(main())
