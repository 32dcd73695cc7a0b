"""How far does the best of many epochs flatter itself? Validation losses are simulated, whose truth is known.

    python benchmarks/luckiest_epoch.py           2,000 runs of each kind; a minute
    python benchmarks/luckiest_epoch.py --quick   100

An image's loss is its own (images differ more than epochs do) times what an epoch adds, which depends on the epoch
before; the mean over all images that could have been drawn falls to a floor, as with a rate that is annealed, or rises
again, as when images are learnt by heart. Three rules choose an epoch: the lowest validation loss, as Keras'
`restore_best_weights` has it; the last that is not surely (95 %) worse than the lowest; and rightfit's own, the last
within one standard error of the lowest. `flattery`
is the true loss of the chosen epoch less the validation loss told of it; `regret` its true loss less that of the
truly best epoch. Both are in hundredths of the floor.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from common import QUICK, RESULTS

EPOCHS = 40
IMAGES = (50, 200, 1_000)
SPREAD, MOVE, KEEPS = (
    1.0,
    0.5,
    0.7,
)  # of images' own losses (log), of what an epoch adds, and how much of that stays
SHAPES = {
    "annealed": 1 + 1.5 * np.exp(-np.arange(EPOCHS) / 6),
    "learnt by heart": 1
    + 1.5 * np.exp(-np.arange(EPOCHS) / 4)
    + 0.012 * np.maximum(0, np.arange(EPOCHS) - 15),
}


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--runs", type=int, default=2_000)
    made.add_argument("--output", type=Path, default=None)
    made.add_argument("--quick", action="store_true")
    args = made.parse_args()
    runs = 100 if args.quick else args.runs
    rows = [
        {"shape": shape, "images": images, "rule": rule, **figures}
        for shape in SHAPES
        for images in IMAGES
        for rule, figures in simulated(SHAPES[shape], images, runs).items()
    ]
    output = args.output or (QUICK if args.quick else RESULTS) / "luckiest_epoch.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        json.dumps({"benchmark": "luckiest_epoch", "runs": runs, "rows": rows}, indent=1) + "\n"
    )
    print(table(rows))
    return 0


def simulated(truth: np.ndarray, images: int, runs: int) -> dict[str, dict[str, list[float]]]:
    """Mean and half its 95 % interval of flattery and regret, by rule."""
    from rightfit.training.judging import is_kept
    from rightfit.training.state import Progress

    found: dict[str, list[tuple[float, float]]] = {"the lowest": [], "not surely worse": [], "rightfit's": []}
    for run in range(runs):
        generator = np.random.default_rng([run, images])
        losses = truth[:, None] * drawn(generator, images)
        told = losses.mean(axis=1)
        progress, kept = Progress(), 0
        for epoch in range(EPOCHS):
            if is_kept(progress, losses[epoch], epoch + 1, None):
                kept = epoch
        for rule, chosen in zip(found, (int(told.argmin()), not_surely_worse(losses), kept), strict=True):
            found[rule].append((truth[chosen] - told[chosen], truth[chosen] - truth.min()))
    return {
        rule: {
            name: [round(100 * float(v.mean()), 3), round(196 * float(v.std(ddof=1)) / np.sqrt(runs), 3)]
            for name, v in zip(("flattery", "regret"), np.array(values).T, strict=True)
        }
        for rule, values in found.items()
    }


def not_surely_worse(losses: np.ndarray) -> int:
    from rightfit.evaluation.intervals import half_width

    lowest = chosen = 0
    for epoch in range(1, EPOCHS):
        worse = losses[epoch] - losses[lowest]
        if worse.mean() <= half_width(worse):
            chosen = epoch
        if worse.mean() < 0:
            lowest = epoch
    return chosen


def drawn(generator: np.random.Generator, images: int) -> np.ndarray:
    """(EPOCHS, images) factors of mean 1."""
    own = np.exp(SPREAD * generator.standard_normal(images) - SPREAD**2 / 2)
    steps = generator.standard_normal((EPOCHS, images))
    moved = np.empty_like(steps)
    moved[0] = steps[0]
    for epoch in range(1, EPOCHS):
        moved[epoch] = KEEPS * moved[epoch - 1] + np.sqrt(1 - KEEPS**2) * steps[epoch]
    return own * np.exp(MOVE * moved - MOVE**2 / 2)


def table(rows: list[dict]) -> str:
    lines = ["| loss | validation images | rule | flattery, % | regret, % |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (f"{row[name][0]:+.2f} ±{row[name][1]:.2f}" for name in ("flattery", "regret"))
        lines.append(f"| {row['shape']} | {row['images']:,} | {row['rule']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
