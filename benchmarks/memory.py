"""Resident memory, in MB: while training on 1,000 to 60,000 images, of a table of a million rows, while predicting.

The store is written directly, noise at 150 px, so nothing is decoded; every batch of every epoch is
made and augmented from all of it, and a ResNet-50 takes a step on 20 of them an epoch. "resident" is
what the system calls so, which counts pages of the store's file that the system may drop at any time;
"own" leaves file pages out. Both are sampled from outside, main process and children together. Of
predicting, an epoch is a quarter of the files. The table's figure is what reading a CSV of a million
rows and splitting it add to the process, at their end and at their highest. Its files and those that
are predicted are hard links to one set of PNG files.

    python benchmarks/memory.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, Contender, Metric, answered, finish, linked, parser, summarise, write_table

SIDE, BATCH, STEPS = 150, 32, 20
IMAGES = (1_000, 10_000, 60_000)
EPOCHS = 4
ROWS, FILES = 1_000_000, 20_000
LIMIT_MB, TABLE_LIMIT_MB = 2_500, 300


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parser(__doc__, rounds=1).parse_args()
    args.images, args.epochs, args.steps, args.rows, args.files = IMAGES, EPOCHS, STEPS, ROWS, FILES
    args.model = "resnet50"
    if args.quick:
        args.images, args.epochs, args.steps, args.files, args.model = (1_000, 4_000), 3, 5, 2_000, "resnet18"
        args.rows = 200_000
    DATA.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for count in args.images:
        args.count = count
        samples, marks = sampled("training", args)
        found[f"training on {count:,} images"] = epochs_of(samples, marks)
    samples, marks = sampled("predicting", args)
    found[f"predicting {args.files:,} files"] = epochs_of(samples, marks)
    samples, marks = sampled("table", args)
    before = [mb for at, _, mb in samples if at <= marks[0]][-1]
    found[f"a table of {args.rows:,} rows"] = {
        "added at its end": marks[-1] - before,
        "added at its highest": max(mb for at, _, mb in samples if at >= marks[0]) - before,
    }
    rounds = [{"rightfit, " + case: figures for case, figures in found.items()}]
    titles = dict.fromkeys(title for figures in found.values() for title in figures)
    metrics = {title: Metric("MB", more_is_better=False) for title in titles}
    return finish("memory", args, rounds, {}, summarise(rounds, metrics))


def sampled(name: str, args: argparse.Namespace) -> tuple[list[tuple[float, float, float]], list[float]]:
    """(time, resident MB, own MB) of a contender's processes every 50 ms, and the numbers that it printed."""
    import psutil

    command = [sys.executable, __file__, "--contender", name, json.dumps(vars(args), default=str)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    print(f"  {name} ...", end=" ", file=sys.stderr, flush=True)
    started = time.time()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        watched, samples = psutil.Process(child.pid), []
        while child.poll() is None:
            try:
                parts = [p.memory_info() for p in (watched, *watched.children(recursive=True))]
            except psutil.NoSuchProcess:
                continue
            resident = sum(part.rss for part in parts)
            shared = sum(getattr(part, "shared", 0) for part in parts)
            samples.append((time.time(), resident / 1e6, (resident - shared) / 1e6))
            time.sleep(0.05)
        if child.returncode:
            errors.seek(0)
            raise SystemExit(f"rightfit failed at {name}:\n{errors.read()[-4000:]}")
    assert child.stdout is not None
    print(f"{time.time() - started:.0f} s", file=sys.stderr)
    return samples, list(json.loads(child.stdout.read().splitlines()[-1])["marks"])


def epochs_of(samples: list[tuple[float, float, float]], marks: list[float]) -> dict[str, float]:
    """Highest of each stretch between `marks`: of the first, of the last, and of all."""
    stretches = [
        [sample for sample in samples if start <= sample[0] <= end]
        for start, end in itertools.pairwise(marks)
    ]
    own = [max(sample[2] for sample in stretch) for stretch in stretches if stretch]
    return {
        "own, first epoch": own[0],
        "own, second epoch": own[1],
        "own, last epoch": own[-1],
        "resident, highest": max(sample[1] for sample in samples),
    }


def training(args: argparse.Namespace) -> dict[str, Any]:
    from train_step import rightfit_step

    from rightfit.data.augment import POLICIES
    from rightfit.data.loader import TrainLoader
    from rightfit.data.opened import Pages, Store

    side = SIDE
    with tempfile.TemporaryDirectory(dir=DATA) as work:
        path = Path(work) / "images.u8"
        block = np.random.default_rng(0).integers(0, 256, (500, side, side, 3), dtype=np.uint8).tobytes()
        with path.open("wb") as file:
            for _ in range(args.count // 500):
                file.write(block)
        pages = Pages(path, (args.count, side, side, 3))
        contents = np.zeros((args.count, 16), np.uint8)
        store = Store(pages.array, np.ones(args.count, bool), {}, "noise", contents, pages=pages)
        ones = np.ones(args.count, np.float32)
        rows = np.arange(args.count)
        loader = TrainLoader(store, rows, ones[:, None], ones, BATCH, 0, POLICIES["medium"])
        asked = argparse.Namespace(backend="tensorflow", model=args.model, image_size=side, batch_size=BATCH)
        step, _, _ = rightfit_step(asked)
        every = max(1, loader.steps // args.steps)
        labels = np.zeros(BATCH, int)
        marks = [time.time()]
        for epoch in range(args.epochs):
            for index, batch in enumerate(loader.epoch(epoch)):
                if index % every == 0:
                    step(batch.images, labels)
            marks.append(time.time())
    return {"marks": marks}


def predicting(args: argparse.Namespace) -> dict[str, Any]:
    """A mark every quarter of the files, which stand for epochs."""
    import rightfit

    rightfit.runtime.choose_backend("tensorflow")
    from rightfit.nets.resnet import build
    from rightfit.run import Run
    from rightfit.saving import bundle

    with tempfile.TemporaryDirectory(dir=DATA) as work:
        run, images = Path(work) / "run", Path(work) / "images"
        run.mkdir()
        linked(images, args.files)
        description = bundle.Description("resnet20", ("a", "b"), "binary", (96, 96), "crop")
        bundle.save(run, build("resnet20", 1, (96, 96)), description, bundle.synthetic_images(96, 96))
        opened = Run(run)
        marks = [time.time()]

        class Clock:
            """A file that counts its lines and keeps none."""

            lines = 0

            def write(self, text: str) -> None:
                self.lines += text.count("\n")
                if self.lines >= len(marks) * args.files / 4:
                    marks.append(time.time())

        opened.predict(images, output=Clock(), quiet=True)
    return {"marks": marks}


def table(args: argparse.Namespace) -> dict[str, Any]:
    """Marks: when reading began, and own MB at the end."""
    import psutil

    from rightfit.data import split
    from rightfit.data.reading import read

    with tempfile.TemporaryDirectory(dir=DATA) as work:
        path = Path(work) / "table.csv"
        images = linked(Path(work) / "images", args.rows)
        write_table(path, images)
        few = Path(work) / "few.csv"
        write_table(few, images[:100])
        del images
        split.assign(read(few))  # what is imported late
        time.sleep(0.2)
        began = time.time()
        found = split.assign(read(path))
        own = psutil.Process().memory_info()
        assert len(found) == args.rows
    return {"marks": [began, (own.rss - own.shared) / 1e6]}


CONTENDERS = {run.__name__: Contender(run) for run in (training, predicting, table)}


if __name__ == "__main__":
    sys.exit(main())
