"""What docs/scale.md reckons with: what workers tell each other, and what each makes of a batch.

exchange   seconds in which two processes of JAX sum a ResNet-50's gradient (25.6 million numbers in float32) over
           this machine's loopback, and bytes a second of it
part       images/s of the loader (224 px, batches of 256, `medium` augmentation) on one thread, by parts of a batch

python benchmarks/scale.py             three rounds
python benchmarks/scale.py --quick     one round, a tenth of the numbers and images
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import QUICK, RESULTS, describe_machine, installed, slug

NUMBERS = 25_600_000  # of a ResNet-50's gradient
REPEATED = 5
SIDE, BATCH, BATCHES = 224, 256, 4


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--quick", action="store_true")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--output", type=Path)
    made.add_argument("--process", nargs=3, type=int, help=argparse.SUPPRESS)  # number, port, numbers
    args = made.parse_args()
    if args.process:
        print(json.dumps(exchange(*args.process)))
        return 0
    numbers, rounds = (NUMBERS // 10, 1) if args.quick else (NUMBERS, args.rounds)
    seconds = [s for _ in range(rounds) for s in exchanged(numbers)]
    parts = {str(count): [part(count, args.quick) for _ in range(rounds)] for count in (1, 2, 4)}
    sent = 4 * numbers  # by each of two, in a ring: 2 × (n - 1) / n of the array
    found = {
        "benchmark": "scale",
        "machine": describe_machine(),
        "versions": installed(("jax", "numpy", "opencv-python-headless")),
        "exchange": {
            "numbers": numbers,
            "seconds": seconds,
            "bytes_per_second": round(sent / statistics.median(seconds)),
        },
        "part": {"images_per_second": parts, "side": SIDE, "batch": BATCH},
    }
    name = "scale.json" if args.quick else f"scale-{slug(found['machine']['processor'])}.json"
    output = args.output or (QUICK if args.quick else RESULTS) / name
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"exchange of {4 * numbers / 1e6:.0f} MB: {statistics.median(seconds):.3f} s, "
          f"{found['exchange']['bytes_per_second'] / 1e9:.2f} GB/s")  # fmt: skip
    for count, speeds in parts.items():
        print(f"one of {count} parts: {statistics.median(speeds):,.0f} images/s of its own")
    print(f"→ {output}")
    return 0


def exchanged(numbers: int) -> list[float]:
    """Seconds, as the first of two processes measured them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--process"]
    processes = [
        subprocess.Popen([*command, str(n), str(port), str(numbers)], stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    found: list[float] = json.loads(said[0].strip().splitlines()[-1])
    return found


def exchange(number: int, port: int, numbers: int) -> list[float]:
    """As process `number` of two: seconds of each sum."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    jax.distributed.initialize(f"127.0.0.1:{port}", 2, number)
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    dealt, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("batch", None))
    mine = jax.make_array_from_process_local_data(dealt, np.ones((1, numbers), np.float32))
    summed = jax.jit(lambda each: each.sum(axis=0), out_shardings=whole)
    summed(mine).block_until_ready()
    seconds = []
    for _ in range(REPEATED):
        began = time.perf_counter()
        summed(mine).block_until_ready()
        seconds.append(round(time.perf_counter() - began, 4))
    return seconds


def part(count: int, quick: bool) -> float:
    """Images/s of the first of `count` parts of each batch, on one thread."""
    import cv2

    from rightfit.data.augment import policy_named
    from rightfit.data.loader import TrainLoader
    from rightfit.training.workers import Workers

    cv2.setNumThreads(1)
    batches = 1 if quick else BATCHES
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE, 3), np.uint8)

    class InMemory:
        def gather(self, rows: Any) -> Any:
            return images[rows]

    rows, ones = np.arange(BATCH), np.ones((BATCH, 1), np.float32)
    loader = TrainLoader(
        InMemory(), rows, ones, ones[:, 0], BATCH, 0, policy_named("medium"), part=Workers(0, count).part(BATCH)
    )  # fmt: skip
    began = time.perf_counter()
    for epoch in range(batches):
        loader.batch(epoch, 0)
    return round(batches * (BATCH // count) / (time.perf_counter() - began), 1)


if __name__ == "__main__":
    sys.exit(main())
