"""How rightfit's cost grows, in seconds: with the number of images, their size and the batch size.

Reading a CSV, which looks for every file, splitting it and the order of an epoch, each for a thousand to a
million images; opening a finished store, which asks for every file's time and size, up to 100,000; the
training step for image and batch sizes. The files are hard links to 200 textures. Each figure is the
least of the repetitions; a slope is that of a line through logarithms: 1 is in proportion.

    python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, Contender, Metric, answered, finish, linked, parser, race, summarise, write_table

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
LINKS = (1_000, 10_000, 100_000)
SIDES, BATCHES = (64, 96, 128, 160, 192, 224), (4, 8, 16, 32, 64)
CASES = (
    "read a table",
    "split it",
    "order of an epoch",
    "open a store",
    "step by image size",
    "step by batch",
)


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parser(__doc__, rounds=3).parse_args()
    args.counts, args.links, args.sides, args.batches, args.model = COUNTS, LINKS, SIDES, BATCHES, "resnet50"
    if args.quick:
        args.rounds, args.counts, args.links = 1, COUNTS[:3], LINKS[:2]
        args.sides, args.batches, args.model = (64, 96, 128), (8, 16, 32), "resnet18"
    DATA.mkdir(parents=True, exist_ok=True)
    rounds, left_out = race(__file__, CONTENDERS, args)
    lines = {}
    for case in CASES:
        sizes = [int(size) for size in rounds[0]["rightfit"][case]]
        seconds = [min(r["rightfit"][case][str(size)] for r in rounds) for size in sizes]
        slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        lines[case] = {"sizes": sizes, "seconds": seconds, "slope": slope}
        shown = ", ".join(f"{size:,}: {second:.3g} s" for size, second in zip(sizes, seconds, strict=True))
        print(f"{case:<20} slope {slope:5.2f}   {shown}")
    slopes = [{"rightfit": {case: line["slope"] for case, line in lines.items()}}]
    summary = summarise(slopes, {case: Metric("slope", more_is_better=False) for case in CASES})
    return finish("growth", args, rounds, left_out, summary, lines=lines)


def all_cases(args: argparse.Namespace) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {case: {} for case in CASES}
    with tempfile.TemporaryDirectory(dir=DATA) as work:
        by_images(Path(work) / "table.csv", linked(Path(work) / "few", 100))  # imports
        for count in args.counts:  # each in a folder of its own, as a folder is listed whole
            images = linked(Path(work) / f"{count}-images", count)
            for case, seconds in by_images(Path(work) / "table.csv", images).items():
                found[case][count] = seconds
            if count in args.links:
                found["open a store"][count] = opening(Path(work) / "cache", images)
    for side in args.sides:
        found["step by image size"][side] = step_seconds(args.model, side, 16)
    for size in args.batches:
        found["step by batch"][size] = step_seconds(args.model, args.sides[0], size)
    return found


def by_images(path: Path, images: list[str]) -> dict[str, float]:
    from rightfit.data import loader, split
    from rightfit.data.reading import read

    write_table(path, images)
    found, reading = timed(lambda: read(path))
    divided, splitting = timed(lambda: split.assign(found))
    rows = divided.rows("train")
    ones = np.ones(len(rows), np.float32)
    batches = loader.TrainLoader(None, rows, ones, ones, 32, len(images), None)  # type: ignore[arg-type]
    _, ordering = timed(lambda: [batches.positions(0, step) for step in range(batches.steps)])
    return dict(zip(CASES, (reading, splitting, ordering), strict=False))


def opening(cache: Path, images: list[str]) -> float:
    from rightfit.data.resize import ImageSpec
    from rightfit.data.store import open_or_build

    def opened() -> Any:
        return open_or_build(images, ImageSpec(8, 8), cache, f"{len(images)} images")

    opened()  # builds it
    return min(timed(opened)[1] for _ in range(3))


def step_seconds(model: str, side: int, size: int) -> float:
    from train_step import rightfit_step

    asked = argparse.Namespace(backend="tensorflow", model=model, image_size=side, batch_size=size)
    step, _, _ = rightfit_step(asked)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, size)
    return min(timed(lambda: step(images, labels))[1] for _ in range(6))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


CONTENDERS = {"rightfit": Contender(all_cases)}


if __name__ == "__main__":
    sys.exit(main())
