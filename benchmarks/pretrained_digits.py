"""What pretraining is worth on few images and few epochs: 500 digits of MNIST, from Fashion-MNIST's weights
and from nothing, otherwise by the same command.

For each seed the two commands of docs/how-to/pretrained.md run as a person would type them, and each run
opens MNIST's 10,000 test images once. The weights are those of a ResNet-20 trained on Fashion-MNIST by
`rightfit train fashion --model resnet20 --epochs 12`.

    python examples/mnist.py build/mnist500 --images 500
    python benchmarks/pretrained_digits.py --data build/mnist500 --weights runs/f/weights.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, describe_machine, slug, versions


def main() -> int:
    args = parse()
    runs = []
    with tempfile.TemporaryDirectory(prefix="rightfit-digits-") as work:
        for seed in range(args.seeds):
            for start in ("pretrained", "scratch"):
                runs.append(one_run(start, seed, args, Path(work) / f"{start}-{seed}"))
                print("{start:<12}seed {seed}  {accuracy:.4f} ({low:.4f} to {high:.4f})".format(**runs[-1]))
    result = {"machine": describe_machine(), "versions": versions(), "summary": summarise(runs), "runs": runs}
    print(json.dumps(result["summary"], indent=1))
    output = args.output or RESULTS / f"pretrained_digits-{slug(result['machine']['processor'])}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {output}", file=sys.stderr)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/mnist500"), help="made by examples/mnist.py")
    parser.add_argument("--weights", type=Path, default=Path("runs/f/weights.safetensors"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="the same for both")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs; shows that it runs")
    parser.add_argument("--output", type=Path, help="JSON; default results/pretrained_digits-PROCESSOR.json")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs = 1, 2
        args.output = args.output or Path(os.devnull)
        if not (args.data.exists() and args.weights.exists()):
            print(
                f"left out: needs {args.data} and {args.weights}; the lines above this script's code make them"
            )
            sys.exit(0)
    return args


def one_run(start: str, seed: int, args: argparse.Namespace, output: Path) -> dict[str, Any]:
    weights = str(args.weights) if start == "pretrained" else "none"
    command = ["train", args.data, "--model", "resnet20", "--weights", weights, "--augment", "none"]
    command += ["--epochs", args.epochs, "--seed", seed, "--output", output]
    started = time.perf_counter()
    call(command)
    seconds = time.perf_counter() - started
    tested = json.loads(call(["evaluate", output, "--json"]))["accuracy"]
    shown = " ".join(map(str, command)).replace(str(output), "RUN").replace(str(args.weights), "WEIGHTS")
    return {
        "start": start,
        "seed": seed,
        "command": f"rightfit {shown}".replace(str(args.data), "mnist500"),
        "accuracy": tested["value"],
        "low": tested["low"],
        "high": tested["high"],
        "seconds": seconds,
        "decisions": [json.loads(line) for line in (output / "decisions.jsonl").read_text().splitlines()],
    }


def call(arguments: list[Any]) -> str:
    command = [sys.executable, "-m", "rightfit", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}"
        )
    return done.stdout


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found = {start: [run for run in runs if run["start"] == start] for start in ("pretrained", "scratch")}
    return {
        **{start: statistics.mean(run["accuracy"] for run in some) for start, some in found.items()},
        "intervals_apart": all(
            ours["low"] > theirs["high"] for ours in found["pretrained"] for theirs in found["scratch"]
        ),
    }


if __name__ == "__main__":
    sys.exit(main())
