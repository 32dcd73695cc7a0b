"""How far does the best of many epochs flatter itself, and which rule for choosing one is good?

    python benchmarks/luckiest_epoch.py             2,000 simulated runs of each kind; a minute
    python benchmarks/luckiest_epoch.py --trained   also 18 real ones; ten minutes
    python benchmarks/luckiest_epoch.py --quick     100 simulated ones

Simulated validation losses have a truth that is known. An image's loss is its own (images differ more than epochs do)
times what an epoch adds, which depends on the epoch before; the mean over all images that could have been drawn falls
to a floor, as with a rate that is annealed, or rises again, as when images are learnt by heart. `flattery` is the true
loss of the chosen epoch less the validation loss told of it; `regret` its true loss less that of the truly best epoch.
Both are in hundredths of the floor.

Real runs are small nets of benchmarks/doctor.py, three seeds a task, all epochs without patience; after each epoch the
loss (at validation's temperature) and the accuracy of 2,000 test images are taken, which no rule sees.

Three rules choose: the lowest validation loss, as Keras' `restore_best_weights` has it; the last epoch that is not
surely (95 %) worse than the lowest; and rightfit's own, the last within one standard error of the lowest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    made.add_argument("--trained", action="store_true", help="train nets, too")
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
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for run in range(runs):
        generator = np.random.default_rng([run, images])
        losses = truth[:, None] * drawn(generator, images)
        told = losses.mean(axis=1)
        for rule, choose in RULES.items():
            chosen = choose(losses)
            found[rule].append((truth[chosen] - told[chosen], truth[chosen] - truth.min()))
    return {
        rule: {
            name: [round(100 * float(v.mean()), 3), round(196 * float(v.std(ddof=1)) / np.sqrt(runs), 3)]
            for name, v in zip(("flattery", "regret"), np.array(values).T, strict=True)
        }
        for rule, values in found.items()
    }


def lowest(losses: np.ndarray) -> int:
    return int(losses.mean(axis=1).argmin())


def not_surely_worse(losses: np.ndarray) -> int:
    from rightfit.evaluation.intervals import half_width

    best = chosen = 0
    for epoch in range(1, len(losses)):
        worse = losses[epoch] - losses[best]
        if worse.mean() <= half_width(worse):
            chosen = epoch
        if worse.mean() < 0:
            best = epoch
    return chosen


def within_a_standard_error(losses: np.ndarray) -> int:
    from rightfit.training.judging import is_kept, remember
    from rightfit.training.state import Progress

    progress, chosen = Progress(), 0
    for epoch, each in enumerate(losses):
        if is_kept(progress, each, None):
            chosen = epoch
        remember(progress, each, epoch + 1)
    return chosen


RULES = {"the lowest": lowest, "not surely worse": not_surely_worse, "rightfit's": within_a_standard_error}


def drawn(generator: np.random.Generator, images: int) -> np.ndarray:
    """(EPOCHS, images) factors of mean 1."""
    own = np.exp(SPREAD * generator.standard_normal(images) - SPREAD**2 / 2)
    steps = generator.standard_normal((EPOCHS, images))
    moved = np.empty_like(steps)
    moved[0] = steps[0]
    for epoch in range(1, EPOCHS):
        moved[epoch] = KEEPS * moved[epoch - 1] + np.sqrt(1 - KEEPS**2) * steps[epoch]
    return own * np.exp(MOVE * moved - MOVE**2 / 2)


# Real runs ------------------------------------------------------------------------------------------

REAL = (
    "digits, 1,000", "fashion, 200", "fashion, 1,000", "20 % wrong labels", "45 % wrong labels", "nothing held back",
)  # fmt: skip
TESTED = 2_000  # test images after each epoch


def real_runs() -> list[dict[str, Any]]:
    os.environ |= {
        name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    }
    asked = [(name, seed) for name in REAL for seed in range(3)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(real_run, *zip(*asked, strict=True)))


def real_run(name: str, seed: int) -> dict[str, Any]:
    """What each rule chooses of one run: epoch, test accuracy in %, test loss."""
    import doctor

    from rightfit import runtime

    runtime.choose_backend("tensorflow")
    from rightfit.training.judging import Validation, judged_on
    from rightfit.training.running import Training

    task = doctor.TASKS[name]
    doctor.TASKS["real"] = replace(task, settings={**task.settings, "patience": 10_000})
    _, (images, labels) = doctor.drawn(task, seed)
    images, labels = images[:TESTED], labels[:TESTED]
    targets = np.eye(int(labels.max()) + 1, dtype=np.float32)[labels]
    test = Validation(doctor.InMemory(images), np.arange(len(images)), targets, None)
    losses, seen, epoch = [], [], Training.one_epoch

    def looked_at(training: Training) -> Any:
        row = epoch(training)
        val = training.judged(training.validation)  # the judge holds the epoch's averaged weights
        told = judged_on(training.judge, test, training.settings, "categorical", 0)
        losses.append(val.losses())
        seen.append((100 * told.result.accuracy, float(told.losses(val.temperature).mean())))
        return row

    Training.one_epoch = looked_at
    try:
        doctor.taken({"task": "real", "seed": seed, "way": "off", "point": None}, False)
    finally:
        Training.one_epoch = epoch
    chosen = {rule: choose(np.array(losses)) for rule, choose in RULES.items()}
    return {"task": name, "seed": seed, "chosen": {rule: (at + 1, *seen[at]) for rule, at in chosen.items()}}


def table_of_real(runs: list[dict[str, Any]]) -> str:
    lines = ["| test accuracy, % (loss) | " + " | ".join(RULES) + " |", "|---" * (1 + len(RULES)) + "|"]
    for name in [*REAL, "mean"]:
        cells = []
        for rule in RULES:
            found = np.array([run["chosen"][rule][1:] for run in runs if name in (run["task"], "mean")])
            cells.append("{:.1f} ({:.3f})".format(*found.mean(axis=0)))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    lines = ["| loss | validation images | rule | flattery, % | regret, % |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (f"{row[name][0]:+.2f} ±{row[name][1]:.2f}" for name in ("flattery", "regret"))
        lines.append(f"| {row['shape']} | {row['images']:,} | {row['rule']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
