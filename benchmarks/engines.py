"""One net predicted by every backend and engine, in float32, in one run: images/s, and seconds to the first logits.

A ResNet-50 for 150 px as a run's files, batches of 32 random uint8 images, each contender as `rightfit predict` uses
it. The start counts from a fresh interpreter: imports, reading the run, the check of its golden logits, compiling.

    python benchmarks/engines.py
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, Contender, Metric, answered, finish, parser, race, summarise

OUTPUTS = 10


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parser(__doc__, rounds=2).parse_args()
    args.model, args.side, args.batch_size, args.batches = "resnet50", 150, 32, 8
    if args.quick:
        args.batches, args.rounds = 2, 1
    args.run = str(run_folder(args.model, args.side))
    print(f"engines: {args.model}, {args.side} px, batches of {args.batch_size}, float32")
    rounds, left_out = race(__file__, CONTENDERS, args)
    metrics = {"inference": Metric("images/s"), "to the first logits": Metric("s", more_is_better=False)}
    return finish("engines", args, rounds, left_out, summarise(rounds, metrics))


def run_folder(name: str, side: int) -> Path:
    """The files by which a run is loaded, of a net with its first weights; made once."""
    folder = DATA / f"{name}-{side}px-run"
    if not (folder / "golden.npz").exists():
        from rightfit.runtime import choose_backend

        choose_backend("tensorflow")
        from rightfit.nets import catalogue
        from rightfit.saving import bundle

        folder.mkdir(parents=True, exist_ok=True)
        classes = tuple(f"class-{index}" for index in range(OUTPUTS))
        description = bundle.Description(name, classes, "categorical", (side, side), "crop")
        model = catalogue.build(name, OUTPUTS, (side, side))
        bundle.save(folder, model, description, bundle.synthetic_images(side, side))
    return folder


def on(backend: str) -> Contender:
    def run(args: argparse.Namespace) -> dict[str, Any]:
        shape = (args.batch_size, args.side, args.side, 3)
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        begun = time.perf_counter()
        import rightfit
        from rightfit.console import Console

        model = rightfit.load(args.run, backend=backend).predictor(Console(quiet=True))
        from rightfit.evaluation.infer import logits_of

        logits_of(model, images, args.batch_size)
        first = time.perf_counter() - begun
        speeds = []
        for _ in range(args.batches):
            started = time.perf_counter()
            logits_of(model, images, args.batch_size)
            speeds.append(args.batch_size / (time.perf_counter() - started))
        return {"inference": speeds, "to the first logits": first}

    needs = (backend,) if backend in ("tensorflow", "torch", "jax") else (backend, "onnx")
    return Contender(run, needs=needs, backend=backend if len(needs) == 1 else "tensorflow")


CONTENDERS = {
    "rightfit": on("tensorflow"),
    "rightfit on torch": on("torch"),
    "rightfit on JAX": on("jax"),
    "rightfit on ONNX Runtime": on("onnxruntime"),
    "rightfit on OpenVINO": on("openvino"),
}


if __name__ == "__main__":
    sys.exit(main())
