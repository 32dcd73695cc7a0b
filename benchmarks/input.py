"""From JPEG files to batches, in images/s: rightfit beside torchvision, tf.data and Keras' old generator, in one run.

Sources are synthetic JPEGs (smooth noise at several scales, as in photographs; quality 90) of 300, 500
and 2,000 px, whose files the system has in memory already. Everyone gives batches of 32 at 224 px by plain
scaling, with a worker a core; peers are timed on their second pass, when their workers run. rightfit
decodes once, into its store (on disk, flushed): that is its figure for files. Later epochs take
augmented batches from the store, which the peers' figures are to be compared with, too.

The last rows set those batches beside what the training step eats: ResNet-50 at 150 px, batch 32.

    python benchmarks/input.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from common import Contender, Metric, answered, finish, jpeg_folders, parser, race, summarise

BATCH, SIDE, STEP_SIDE = 32, 224, 150
COUNTS = {300: 1_000, 500: 800, 2_000: 200}  # files of each size in pixels
QUICK_COUNTS = {300: 192, 500: 128, 2_000: 32}
FILES = {side: f"JPEG {side:,} px to {SIDE} px" for side in COUNTS}
STORE = {side: f"store to augmented {side} px" for side in (SIDE, STEP_SIDE)}
DEMAND = f"training step, {STEP_SIDE} px"
METRICS = {title: Metric("images/s") for title in (*FILES.values(), *STORE.values(), DEMAND)}


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parser(__doc__, rounds=3).parse_args()
    if args.quick:
        args.rounds = 1
    args.folders = jpeg_folders(QUICK_COUNTS if args.quick else COUNTS)
    rounds, left_out = race(__file__, CONTENDERS, args)
    summary = summarise(rounds, METRICS)
    ratios = [r["rightfit"][STORE[STEP_SIDE]] / r["rightfit"][DEMAND] for r in rounds]
    print(f"store to augmented {STEP_SIDE} px is {statistics.median(ratios):.0f} times the step's demand")
    return finish("input", args, rounds, left_out, summary, times_the_demand=ratios)


def every_source(args: argparse.Namespace, rate: Callable[[str], float]) -> dict[str, float]:
    return {FILES[side]: rate(args.folders[str(side)]) for side in FILES}


def second_pass(batches: Iterable[Any], count: Callable[[Any], int]) -> float:
    """Images/s over the second pass."""
    for _ in batches:
        pass
    started = time.perf_counter()
    images = sum(count(batch) for batch in batches)
    return images / (time.perf_counter() - started)


def with_rightfit(args: argparse.Namespace) -> dict[str, float]:
    from rightfit.data.augment import POLICIES
    from rightfit.data.loader import TrainLoader
    from rightfit.data.resize import ImageSpec
    from rightfit.data.store import open_or_build

    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as work:

        def build(folder: str, side: int) -> Any:
            paths = sorted(map(str, Path(folder).glob("*/*.jpg")))
            spec = ImageSpec(side, side, "crop")
            return open_or_build(paths, spec, Path(work) / f"{Path(folder).name}-{side}", folder)

        def rate(folder: str) -> float:
            started = time.perf_counter()
            return len(build(folder, SIDE)) / (time.perf_counter() - started)

        build(args.folders["300"], 32)  # imports and threads
        found |= every_source(args, rate)
        for side, title in STORE.items():
            store = build(args.folders["300"], side)
            rows = np.tile(np.arange(len(store)), 4)
            ones = np.ones(len(rows), np.float32)
            loader = TrainLoader(store, rows, ones[:, None], ones, BATCH, 0, POLICIES["medium"])
            for _ in loader.epoch(0):
                pass
            started = time.perf_counter()
            images = sum(len(batch.images) for batch in loader.epoch(1))
            found[title] = images / (time.perf_counter() - started)
    return found | {DEMAND: demand()}


def demand() -> float:
    """Images/s of rightfit's training step."""
    from train_step import rightfit_step

    asked = argparse.Namespace(backend="tensorflow", model="resnet50", image_size=STEP_SIDE, batch_size=BATCH)
    step, _, _ = rightfit_step(asked)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH, STEP_SIDE, STEP_SIDE, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, BATCH)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        step(images, labels)
        seconds.append(time.perf_counter() - started)
    return BATCH / statistics.median(seconds[2:])


def with_torchvision(args: argparse.Namespace) -> dict[str, float]:
    from common import declare_torchvision

    declare_torchvision()
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    change = transforms.Compose([transforms.Resize((SIDE, SIDE)), transforms.ToTensor()])
    workers = len(os.sched_getaffinity(0))

    def rate(folder: str) -> float:
        images = datasets.ImageFolder(folder, change)
        loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, persistent_workers=True)
        return second_pass(loader, lambda batch: len(batch[0]))

    return every_source(args, rate)


def with_tf_data(args: argparse.Namespace) -> dict[str, float]:
    import keras
    import tensorflow as tf

    def rate(folder: str) -> float:
        images = keras.utils.image_dataset_from_directory(
            folder, image_size=(SIDE, SIDE), batch_size=BATCH, seed=0, verbose=False
        )
        return second_pass(images.prefetch(tf.data.AUTOTUNE), lambda batch: len(batch[0]))

    return every_source(args, rate)


def with_generator(args: argparse.Namespace) -> dict[str, float]:
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    def rate(folder: str) -> float:
        flow = ImageDataGenerator().flow_from_directory(folder, (SIDE, SIDE), batch_size=BATCH)
        started = time.perf_counter()
        images = sum(len(flow[index][0]) for index in range(len(flow)))  # it has no workers of its own
        return images / (time.perf_counter() - started)

    return every_source(args, rate)


CONTENDERS = {
    "rightfit": Contender(with_rightfit),
    "torchvision and DataLoader": Contender(with_torchvision, ("torchvision",), peer=True),
    "Keras, image_dataset_from_directory": Contender(with_tf_data, ("tensorflow",)),
    "Keras, ImageDataGenerator": Contender(with_generator, ("tensorflow",)),
}


if __name__ == "__main__":
    sys.exit(main())
