"""The table of what rightfit wants to reach on a CPU, beside what was measured: `make bench` ends with it.

    python benchmarks/goals.py          from the quick runs in build/bench
    python benchmarks/goals.py --full   from benchmarks/results, of a machine with this processor

Numbers that fall short are printed as they are, and what was not measured is said to be so.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import QUICK, RESULTS, describe_machine, short, slug, text_table

Result = dict[str, Any]
BUSY = 1.5  # load a core at which the figures are suspect: threads that wait for each other lose most


@dataclass(frozen=True)
class Goal:
    text: str
    benchmark: str
    target: float
    measured: Callable[[Result], float]  # KeyError, IndexError or ValueError: not measured
    unit: str = "×"
    at_least: bool = True
    otherwise: str = "not in this run"  # what it means that there is no such figure


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--full", action="store_true", help="from benchmarks/results instead of the quick runs")
    full = made.parse_args().full
    processor = describe_machine()["processor"]
    print(f"goals, from {'full' if full else 'quick'} runs on {processor}:")
    print(text_table(rows(full, slug(processor))))
    if not full:
        print(
            "Quick runs are short and small: they show the direction. The full ones are in docs/benchmarks.md."
        )
    return 0


def rows(full: bool, machine: str) -> list[list[str]]:
    table = [["goal", "target", "measured", "reached", "measured with"]]
    for goal in GOALS:
        path = RESULTS / f"{goal.benchmark}-{machine}.json" if full else QUICK / f"{goal.benchmark}.json"
        value, how = figure(goal, path)
        reached = "" if value is None else "yes" if (value >= goal.target) == goal.at_least else "no"
        sign = "≥" if goal.at_least else "≤"
        shown = "–" if value is None else f"{short(value)} {goal.unit}"
        table.append([goal.text, f"{sign} {goal.target:.3g} {goal.unit}", shown, reached, how])
    return table


def figure(goal: Goal, path: Path) -> tuple[float | None, str]:
    """The measured value, and with what; or None, and why."""
    if not path.exists():
        return None, "not run"
    result = json.loads(path.read_text())
    try:
        value = goal.measured(result)
    except (KeyError, IndexError, ValueError):
        return None, "left out: " + ", ".join(result["left_out"]) if result["left_out"] else goal.otherwise
    settings = result["settings"]
    parts = [settings.get("model"), f"batch {settings['batch_size']}" if "batch_size" in settings else None]
    parts.append(precisions(result))
    load, cores = max(r.get("load_before", 0.0) for r in result["rounds"]), result["machine"]["cores"]
    parts.append(f"busy machine, load {load:.1f}" if load > BUSY * cores else None)
    return value, ", ".join(part for part in parts if part)


def precisions(result: Result) -> str | None:
    """What rightfit computed in."""
    if isinstance(result.get("precision"), dict):
        return result["precision"]["rightfit"]
    return result["rounds"][0].get("rightfit", {}).get("precision")


def times(metric: str, *peers: str) -> Callable[[Result], float]:
    """How many times rightfit is the best of the peers whose names start so."""

    def measured(result: Result) -> float:
        found = result["summary"][metric]["contenders"]
        return min(row["ratio"] for name, row in found.items() if name.startswith(peers) and "ratio" in row)

    return measured


def times_stock_keras(result: Result) -> float:
    found = result["summary"]["training"]["contenders"]
    return min(row["ratio"] for name, row in found.items() if name.startswith("Keras") and "default" in name)


def share_of_matrix_rate(result: Result) -> float:
    return 100 * result["fraction_of_matrix_rate"]["rightfit"]


def time_beside_fastai(result: Result) -> float:
    return 1 / result["summary"]["to 94%"]["contenders"]["fastai"]["ratio"]


STEP, SMALL, END = "train_step-resnet50-150", "train_step-resnet20-32", "end_to_end"
LARGE = "JPEG 2,000 px to 224 px"
GOALS = (
    Goal("ResNet-50 150 px step beside plain PyTorch, its better precision", STEP, 1.3, times("training", "PyTorch")),
    Goal("ResNet-50 150 px step beside stock Keras, default, its best backend", STEP, 2.3, times_stock_keras),
    Goal("ResNet-50 150 px step, share of the measured matrix rate", STEP, 60, share_of_matrix_rate, "%"),
    Goal("ResNet-20 32 px step beside plain PyTorch, its better precision", SMALL, 1.2, times("training", "PyTorch")),
    Goal("PNG folders to ResNet-50, second epoch, beside fastai", END, 3.3, times("second epoch", "fastai")),
    Goal("PNG folders to ResNet-50, second epoch, beside Keras", END, 2.2, times("second epoch", "Keras")),
    Goal("JPEG 2,000 px to 224 px batches beside torchvision", "input", 4, times(LARGE, "torchvision")),
    Goal("JPEG 2,000 px to 224 px batches beside Keras' better loader", "input", 4, times(LARGE, "Keras")),
    Goal(
        "store to augmented 150 px batches over the ResNet-50 step's demand", "input", 50,
        lambda result: statistics.median(result["times_the_demand"]),
    ),
    Goal(
        "time to 94 % on Fashion-MNIST over fastai's", "time_to_accuracy", 1 / 3, time_beside_fastai,
        at_least=False, otherwise="one of the two did not come to 94 %",
    ),
    Goal(
        "epoch of 36,384 images, ResNet-50 150 px, batches of 16 (from some steps)", "train_step-epoch", 900,
        lambda result: result["epoch_seconds"], "s", at_least=False,
    ),
)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
