"""Does a learning curve foretell what more images bring? Nets on two and four times the images, beside what it says.

For each task and seed a run learns from N images, `rightfit.learning_curve` says what 2 N and 4 N would bring, and runs
on those are trained, which hold the N. All are judged by the same validation images, as the forecast is of them. Runs
take 40 epochs at N images, and of more images fewer, as the recipe has it (to the power of -0.7).

    python benchmarks/learning_curve.py            what is not in the results yet, a run a core; two hours
    python benchmarks/learning_curve.py --table    the table of docs/how-to/would-more-images-help.md
    python benchmarks/learning_curve.py --quick    one task, few epochs; shows that it runs

It can be stopped and started again: each seed of a task is a line of benchmarks/results/learning_curve.jsonl.
"""

from __future__ import annotations

import csv
import functools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import installed, lines_asked, lines_parser, markdown, read_lines, worked_off
from doctor import missing, source_of

PACKAGES = ("keras", "tensorflow-cpu", "numpy")
TASKS = {  # source, side, training images, validation images
    "digits": ("digits", 8, 200, 300),
    "Fashion-MNIST": ("fashion", 16, 500, 1_000),
    "solar cells": ("elpv", 32, 300, 600),
}
EPOCHS = 40
TIMES = (1, 2, 4)


def main() -> int:
    args, output = lines_asked(lines_parser(__doc__, seeds=5), "learning_curve")
    if args.table:
        print(tables(read_lines(output)))
        return 0
    done = {(row["task"], row["seed"]) for row in read_lines(output)}
    runs = [
        {"task": task, "seed": seed}
        for seed in range(1 if args.quick else args.seeds)
        for task in (["digits"] if args.quick else TASKS)
        if (task, seed) not in done and not missing(TASKS[task][0])
    ]
    for row in worked_off(
        runs, functools.partial(measured, quick=args.quick), output, args.processes, args.minutes
    ):
        said = [f"{each['expected']:.1f} expected, {each['reached']:.1f} reached" for each in row["ahead"]]
        print(f"  {row['task']}, seed {row['seed']}: {'; '.join(said)} ({row['seconds']:.0f} s)", flush=True)
    return 0


def measured(run: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    """One task and seed: what was expected of 2 N and 4 N images, and what came of them, in %."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}
    import rightfit

    began = time.monotonic()
    source, side, count, held = TASKS[run["task"]]
    (images, codes), _ = source_of(source, side)
    order = np.random.default_rng([run["seed"], 78]).permutation(len(images))
    with tempfile.TemporaryDirectory() as place:
        os.environ["RIGHTFIT_CACHE"] = f"{place}/cache"
        reached, curve = {}, None
        for times in TIMES:
            listing = _written(Path(place), images, codes, order[:held], order[held : held + times * count])
            epochs = 2 if quick else round(EPOCHS * times**-0.7)
            trained = rightfit.train(
                listing, image_size=str(side), epochs=epochs, seed=run["seed"], weights="none", report="none",
                precision="float32", output=f"{place}/run-{times}", quiet=True,
            )  # fmt: skip
            reached[times] = trained.metrics["validation"]["accuracy"]["value"]
            curve = curve or rightfit.learning_curve(trained, quiet=True)
    assert curve
    ahead = [
        {
            "times": times,
            **{name: round(100 * getattr(forecast, name), 2) for name in ("low", "high")},
            "expected": round(100 * forecast.accuracy, 2),
            "reached": round(100 * reached[times], 2),
        }
        for times, forecast in zip(TIMES[1:], curve.forecasts, strict=True)
    ]
    points = [[point.images, round(100 * point.accuracy, 2)] for point in curve.points]
    return {
        **run, "points": points, "ahead": ahead, "versions": installed(PACKAGES),
        "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def _written(place: Path, images: Any, codes: Any, validation: Sequence[int], training: Sequence[int]) -> str:
    """A table of image files, each written once."""
    import cv2

    (place / "images").mkdir(exist_ok=True)
    listing = place / f"{len(training)}.csv"
    with listing.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for split, rows in (("val", validation), ("train", training)):
            for row in rows:
                path = place / "images" / f"{row}.png"
                if not path.exists():
                    cv2.imwrite(str(path), images[row][..., ::-1])
                writer.writerow((path, f"class {codes[row]}", split))
    return str(listing)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown, means over seeds."""
    header = ["task, seeds", "N", "accuracy at N", *["2 N expected", "reached", "4 N expected", "reached"]]
    lines = []
    for task in TASKS:
        found = [row for row in rows if row["task"] == task]
        if not found:
            continue
        cells = [f"{np.mean([row['points'][-1][1] for row in found]):.1f}"]
        for number in range(len(TIMES) - 1):
            each = [row["ahead"][number] for row in found]
            error = np.mean([one["reached"] - one["expected"] for one in each])
            half = np.mean([(one["high"] - one["low"]) / 2 for one in each])
            cells += [
                f"{np.mean([one['expected'] for one in each]):.1f} ±{half:.1f}",
                f"{np.mean([one['reached'] for one in each]):.1f} ({error:+.1f})",
            ]
        every = [one for row in found for one in row["ahead"]]
        within = sum(one["low"] <= one["reached"] <= one["high"] for one in every)
        lines.append((f"{task}, {len(found)}", f"{TASKS[task][2]:,}", *cells, f"{within} of {len(every)}"))
    return markdown([*header, "within the interval"], lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
