"""ImageDataGenerator, rightfit's beside the original (tf-keras), in images/s from JPEG class folders, in one run.

Synthetic JPEGs (smooth noise at several scales, quality 90) of 300 and 1,000 px become batches of 32 at 150 px,
with rescaling alone and with the transforms that old scripts ask for (rotation, shifts, shear, zoom, flip). The
original is asked for its batches one after another by as many threads as there are cores, as fit_generator's
workers did. The first pass decodes in both; later passes decode again in the original and read the store here.

    python benchmarks/old_generator.py
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common import Contender, Metric, answered, finish, jpeg_folders, parser, race, summarise

BATCH, SIDE = 32, 150
COUNTS = {300: 640, 1_000: 192}  # files of each size in pixels
QUICK_COUNTS = {300: 192, 1_000: 64}
RESCALED = {"rescale": 1 / 255}
AUGMENTED = {
    "rescale": 1 / 255,
    "rotation_range": 20,
    "width_shift_range": 0.1,
    "height_shift_range": 0.1,
    "shear_range": 10.0,
    "zoom_range": 0.2,
    "horizontal_flip": True,
}
PASSES = {"first pass": 1, "later passes": 2}
KINDS = {"rescaled": RESCALED, "augmented": AUGMENTED}
METRICS = {
    f"{side:,} px, {kind}, {which}": Metric("images/s")
    for side in COUNTS
    for kind in KINDS
    for which in PASSES
}


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parser(__doc__, rounds=3).parse_args()
    if args.quick:
        args.rounds = 1
    args.folders = jpeg_folders(QUICK_COUNTS if args.quick else COUNTS)
    rounds, left_out = race(__file__, CONTENDERS, args)
    del args.folders  # places of this machine
    return finish("old_generator", args, rounds, left_out, summarise(rounds, METRICS))


def with_rightfit(args: argparse.Namespace) -> dict[str, float]:
    from rightfit.keras2 import ImageDataGenerator

    found = {}
    for side in COUNTS:
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as cache:  # every kind decodes for itself
                os.environ["RIGHTFIT_CACHE"] = cache
                found |= rates(ImageDataGenerator, args.folders[str(side)], side, kind)
    return found


def with_original(args: argparse.Namespace) -> dict[str, float]:
    from tf_keras.preprocessing.image import ImageDataGenerator

    found = {}
    for side in COUNTS:
        for kind in KINDS:
            found |= rates(ImageDataGenerator, args.folders[str(side)], side, kind)
    return found


def rates(generator: Any, folder: str, side: int, kind: str) -> dict[str, float]:
    flow = generator(**KINDS[kind]).flow_from_directory(folder, (SIDE, SIDE), batch_size=BATCH, seed=0)
    found = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for which, passes in PASSES.items():
            started = time.perf_counter()
            images = 0
            for _ in range(passes):
                images += sum(len(batch[0]) for batch in pool.map(flow.__getitem__, range(len(flow))))
                flow.on_epoch_end()
            found[f"{side:,} px, {kind}, {which}"] = images / (time.perf_counter() - started)
    return found


CONTENDERS = {
    "rightfit": Contender(with_rightfit),
    "tf-keras": Contender(with_original, ("tf_keras",)),
}


if __name__ == "__main__":
    sys.exit(main())
