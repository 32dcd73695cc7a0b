"""Training speed on a CPU, in images/s: rightfit beside stock Keras and plain PyTorch, in one run.

Every contender trains the same ResNet on the same random batch with the same optimizer, each in a
process of its own, in rounds (A B C A B C), so that a machine whose speed drifts treats all alike.
A ratio is the median over rounds of the ratios within a round.

    python benchmarks/train_step.py --backend tensorflow
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OUTPUTS = 10
WARM_UP = 2  # steps not timed: tracing, kernel selection, the optimizer's slots
LEARNING_RATE = 1e-3
MOMENTUM = 0.9
RESULTS = Path(__file__).parent / "results"

Step = Callable[[np.ndarray, np.ndarray], float]  # images uint8, labels -> loss


def main() -> int:
    args = parse()
    if args.contender:
        print(json.dumps(time_steps(args)))
        return 0
    machine = describe_machine()
    chosen, left_out = contenders(args.backend, machine)
    for name, reason in left_out.items():
        print(f"left out: {name} ({reason})")
    if "rightfit" not in chosen:
        return 1
    rounds = []
    for index in range(args.rounds):
        load = os.getloadavg()[0]
        rounds.append({"load_before": load} | {name: measure(name, args) for name in chosen})
        print(f"round {index + 1} of {args.rounds} done, load before it {load:.2f}", file=sys.stderr)
    result = {
        "settings": {key: str(value) for key, value in vars(args).items() if value is not None},
        "machine": machine,
        "versions": versions(),
        "left_out": left_out,
        "summary": summarise(rounds, chosen, args.batch_size),
        "rounds": rounds,
    }
    print(table(result["summary"]))
    output = args.output or RESULTS / f"train_step-{slug(machine['processor'])}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {output}", file=sys.stderr)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=DEPTHS, default="resnet50")
    parser.add_argument("--image-size", type=int, default=150, metavar="PX")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="tensorflow")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each contender in each round")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; shows that it runs")
    parser.add_argument("--output", type=Path, help="JSON; default results/train_step-PROCESSOR.json")
    parser.add_argument("--contender", choices=PEERS, help="time this one here and print its JSON")
    args = parser.parse_args()
    if args.quick:
        args.model, args.image_size, args.batch_size, args.rounds, args.steps = "resnet18", 64, 8, 1, 2
        args.output = args.output or Path(os.devnull)
    if min(args.rounds, args.steps, args.batch_size) < 1:
        parser.error("--rounds, --steps and --batch-size start at 1")
    return args


def contenders(backend: str, machine: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Who can run here, and why the others cannot."""
    chosen, left_out = [], {}
    for name in PEERS:
        needed = ["torch"] if name.startswith("pytorch") else ["keras", backend]
        missing = [p for p in needed if importlib.util.find_spec(p) is None]
        if missing:
            left_out[name] = f"not installed: {', '.join(missing)}"
        elif name.endswith("-bfloat16") and not machine["bfloat16"]:
            left_out[name] = "this processor has no bfloat16 instructions"
        else:
            chosen.append(name)
    return chosen, left_out


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One contender's steps in a fresh process."""
    flags = ("model", "image_size", "batch_size", "backend", "steps")
    command = [sys.executable, __file__, "--contender", name]
    for flag in flags:
        command += [f"--{flag.replace('_', '-')}", str(getattr(args, flag))]
    environment = os.environ | {
        "KERAS_BACKEND": args.backend,
        "CUDA_VISIBLE_DEVICES": "",
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def time_steps(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each timed step of one contender, in this process."""
    step, parameters, precision = PEERS[args.contender](args)
    images, labels = batch(args)
    losses = [step(images, labels) for _ in range(WARM_UP)]
    seconds = []
    for _ in range(args.steps):
        start = time.perf_counter()
        losses.append(step(images, labels))
        seconds.append(time.perf_counter() - start)
    if not all(math.isfinite(loss) for loss in losses):
        raise SystemExit(f"{args.contender}: the loss is not finite: {losses}")
    return {"seconds": seconds, "losses": losses, "parameters": parameters, "precision": precision}


def batch(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.batch_size, args.image_size, args.image_size, 3), dtype=np.uint8)
    return images, rng.integers(0, OUTPUTS, args.batch_size)


def rightfit_step(args: argparse.Namespace) -> tuple[Step, int, str]:
    """The step that `rightfit train` takes, with its weight decay and averaged weights; uint8 goes in."""
    from rightfit import runtime

    runtime.choose_backend(args.backend)
    from rightfit.config import TrainSettings
    from rightfit.data.loader import Batch
    from rightfit.nets import layers, resnet
    from rightfit.precision import choose_precision
    from rightfit.training.optimizers import make_optimizer
    from rightfit.training.schedule import averaging_decay
    from rightfit.training.step import make_step

    precision, _ = choose_precision("auto", runtime.cache_folder())
    model = resnet.build(args.model, OUTPUTS, (args.image_size, args.image_size))
    model = layers.fused(model, precision)
    settings = TrainSettings(data="", learning_rate=LEARNING_RATE, weight_decay=0.005)
    take = make_step(model, make_optimizer(settings, model), "categorical", 0.1, averaging=True)
    weights = np.ones(args.batch_size, np.float32)

    steps = itertools.count()

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        targets = np.eye(OUTPUTS, dtype=np.float32)[labels]
        take(Batch(images, targets, weights), LEARNING_RATE, averaging_decay(0.999, next(steps)))
        loss, _, count = take.totals()
        return float(loss / count)

    return step, parameters_of(model), precision


def keras_step(args: argparse.Namespace, policy: str) -> tuple[Step, int, str]:
    """The same net of stock layers, trained as Keras' own guide does; images are float32 already."""
    import keras

    from rightfit.nets import resnet

    keras.config.set_dtype_policy(policy)
    model = resnet.build(args.model, OUTPUTS, (args.image_size, args.image_size))
    step = compiled(model, jit_compile="auto")
    ready = batch(args)[0].astype("float32")
    return lambda images, labels: step(ready, labels), parameters_of(model), policy


def compiled(model: Any, jit_compile: bool | str) -> Step:
    import keras

    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit_compile)
    return lambda images, labels: float(model.train_on_batch(images, labels))


def parameters_of(model: Any) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def pytorch_step(args: argparse.Namespace, mixed: bool) -> tuple[Step, int, str]:
    """Channels last, autocast where `mixed`, float32 images ready: what PyTorch's CPU guide recommends."""
    import torch
    from torch import nn

    net = pytorch_resnet(args.model).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, nesterov=True)
    images, labels = batch(args)
    x = torch.from_numpy(images.astype("float32") / 127.5 - 1).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels)

    def step(images: np.ndarray, labels: np.ndarray) -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in net.parameters()), "autocast bfloat16" if mixed else "float32"


def pytorch_resnet(name: str) -> Any:
    """ResNet v1.5 in plain torch.nn, (B, 3, H, W) -> (B, outputs): what torchvision builds."""
    from torch import nn

    def conv(before: int, after: int, kernel: int, stride: int) -> list[Any]:
        bias_free = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        return [bias_free, nn.BatchNorm2d(after)]

    class Block(nn.Module):
        def __init__(self, before: int, width: int, stride: int, bottleneck: bool) -> None:
            super().__init__()
            after = 4 * width if bottleneck else width
            if bottleneck:
                body = [*conv(before, width, 1, 1), nn.ReLU(inplace=True)]
                body += [*conv(width, width, 3, stride), nn.ReLU(inplace=True), *conv(width, after, 1, 1)]
            else:
                body = [*conv(before, width, 3, stride), nn.ReLU(inplace=True), *conv(width, after, 3, 1)]
            nn.init.zeros_(body[-1].weight)
            same = stride == 1 and before == after
            self.body = nn.Sequential(*body)
            self.shortcut = nn.Identity() if same else nn.Sequential(*conv(before, after, 1, stride))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Any) -> Any:
            return self.relu(self.body(x) + self.shortcut(x))

    bottleneck = name not in ("resnet18", "resnet34")
    parts = [*conv(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for stage, depth in enumerate(DEPTHS[name]):
        width = 64 * 2**stage
        for index in range(depth):
            parts.append(Block(channels, width, 2 if index == 0 and stage > 0 else 1, bottleneck))
            channels = 4 * width if bottleneck else width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, OUTPUTS))


DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}

PEERS: dict[str, Callable[[argparse.Namespace], tuple[Step, int, str]]] = {
    "rightfit": rightfit_step,
    "keras-default": lambda args: keras_step(args, "float32"),
    "keras-bfloat16": lambda args: keras_step(args, "mixed_bfloat16"),
    "pytorch-float32": lambda args: pytorch_step(args, mixed=False),
    "pytorch-bfloat16": lambda args: pytorch_step(args, mixed=True),
}


def summarise(rounds: list[dict[str, Any]], names: list[str], batch_size: int) -> dict[str, Any]:
    """Images/s of each contender and rightfit's ratio to it."""
    counts = {name: rounds[0][name]["parameters"] for name in names}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"these are not the same net; trainable parameters: {counts}")
    speeds = [{n: batch_size / statistics.median(r[n]["seconds"]) for n in names} for r in rounds]
    summary = {}
    for name in names:
        steps = sorted(batch_size / seconds for r in rounds for seconds in r[name]["seconds"])
        low, high = median_interval(steps)
        ratios = [speed["rightfit"] / speed[name] for speed in speeds]
        summary[name] = {
            "precision": rounds[0][name]["precision"],
            "parameters": counts[name],
            "images_per_second": statistics.median(steps),
            "interval": [low, high],
            "steps": len(steps),
            "rightfit_ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return summary


def median_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """The order statistics around the median of sorted `values` that hold it with chance `level`.

    Distribution-free (binomial, steps taken as independent); under six values it is the whole range,
    which holds it less often.
    """
    count, skip = len(values), 0
    tail = 0.5**count
    while skip < (count - 1) // 2 and tail + math.comb(count, skip + 1) * 0.5**count <= (1 - level) / 2:
        skip += 1
        tail += math.comb(count, skip) * 0.5**count
    return values[skip], values[count - 1 - skip]


def table(summary: dict[str, Any]) -> str:
    lines = [
        f"{'':<16}{'precision':<20}{'images/s':>9}{'95% interval':>17}{'rightfit is':>13}{'(min-max)':>14}"
    ]
    for name, row in summary.items():
        low, high = row["interval"]
        line = (
            f"{name:<16}{row['precision']:<20}{row['images_per_second']:>9.1f}{f'{low:.1f}-{high:.1f}':>17}"
        )
        if name != "rightfit":
            spread = f"({row['ratio_min']:.2f}-{row['ratio_max']:.2f})"
            line += f"{row['rightfit_ratio']:>11.2f} x{spread:>14}"
        lines.append(line)
    return "\n".join(lines)


def describe_machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    kept = sorted(f for f in present if f.startswith("amx") or f in ("avx2", "avx512f", "avx512_bf16"))
    return {
        "processor": name.group(1).strip() if name else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "flags": kept,
        "bfloat16": bool({"avx512_bf16", "amx_bf16"} & present),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("keras", "tensorflow-cpu", "tensorflow", "torch", "jax", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main())
