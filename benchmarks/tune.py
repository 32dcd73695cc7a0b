"""Does a search find good settings sooner than chance, and does it tell the truth about them?

    python benchmarks/tune.py --task NAME --seed N     one search and one random search; hours
    python benchmarks/tune.py --table                  what was found, from benchmarks/results/tune.jsonl
    python benchmarks/tune.py --quick                  a few tiny trials; shows that it runs

Random search takes 64 trials, each to the end, from the same space, whose ranges are bad on purpose: learning rates
from a thousandth to ten times the recipe's. It is counted in training steps how many of rightfit's lead to a
selection loss as good as the best of the 64; each search ends with its own figure of the reporting half, beside the
sealed test's, and beside what the best selection loss would have claimed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import QUICK, RESULTS

RANDOM = 64
TASKS = {"fashion": (10_000, 16, 9), "digits": (1_000, 8, 27), "solar cells": (2_000, 32, 18)}  # images, px, epochs
SPACE = """\
learning_rate: {{low: {low}, high: {high}, log: true}}
weight_decay: {{low: 0.00001, high: 1, log: true}}
strength: {{low: 0, high: 1}}
augment: [none, light, medium, strong]
"""


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--task", choices=TASKS, default="digits")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--table", action="store_true")
    made.add_argument("--quick", action="store_true")
    args = made.parse_args()
    output = (QUICK if args.quick else RESULTS) / "tune.jsonl"
    if args.table:
        print(table([json.loads(line) for line in output.read_text().splitlines()]))
        return 0
    row = compared(args.task, args.seed, 3 if args.quick else RANDOM, 3 if args.quick else None)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row, indent=1))
    return 0
