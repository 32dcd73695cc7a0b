"""Does a run survive what machines do to it? Real processes of the command, killed, filled and damaged.

    python benchmarks/reliability.py --kills 100 --backend tensorflow     SIGKILL at random instants, then resume
    python benchmarks/reliability.py --saves 200                          a disk that fills at a random byte
    python benchmarks/reliability.py --bits 10000                         one flipped bit at a time
    python benchmarks/reliability.py --cost                               what checkpoints cost a ResNet-50
    python benchmarks/reliability.py --quick                              a little of each but the cost

Each writes benchmarks/results/reliability-<what>.json with every kill, save or flip that mattered.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import random
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from common import describe_machine, versions

RESULTS = Path(__file__).parent / "results"
SAME = ("weights.safetensors", "golden.npz", "data.csv", "architecture.json")
BACKENDS = ("tensorflow", "jax", "torch")


def main() -> int:
    args = parse()
    failed = False
    with tempfile.TemporaryDirectory(prefix="rightfit-reliability-") as work:
        args.work = Path(work)
        os.environ["RIGHTFIT_CACHE"] = str(args.work / "cache")
        if args.kills:
            for result in killed(args):  # after each run, so that what was measured is kept
                lost = report(f"kills-{args.backend}", args, result)
            failed |= lost
        if args.saves:
            failed |= report("saves", args, full_disks(args))
        if args.bits:
            failed |= report("bits", args, flipped(args))
        if args.cost:
            failed |= report("cost", args, cost(args))
    return int(failed)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--saves", type=int, default=0)
    parser.add_argument("--bits", type=int, default=0)
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--backend", choices=BACKENDS, default="tensorflow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--cost-steps", type=int, default=120)
    parser.add_argument("--quick", action="store_true", help="3 kills, 10 saves, 300 bits")
    args = parser.parse_args()
    if args.quick:
        args.kills, args.saves, args.bits, args.epochs = 3, 10, 300, 12
    return args


def report(what: str, args: argparse.Namespace, result: dict[str, Any]) -> bool:
    RESULTS.mkdir(exist_ok=True)
    settings = {"seed": args.seed, "quick": args.quick}
    result = {"settings": settings, "machine": describe_machine(), "versions": versions(), **result}
    seed = f"-seed{args.seed}" if args.seed else ""  # other seeds add to it
    path = RESULTS / f"reliability-{what}{seed}{'-quick' if args.quick else ''}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["summary"]), "→", path)
    return not result["summary"]["held"]


# Kills ----------------------------------------------------------------------------------------------


def photos(folder: Path) -> Path:
    """Three colours with noise, 60 PNG of 12 px each."""
    import cv2

    generator = np.random.default_rng(0)
    for name, colour in {"blue": (40, 60, 200), "green": (60, 200, 40), "red": (200, 40, 60)}.items():
        (folder / name).mkdir(parents=True)
        for number in range(60):
            pixels = np.clip(colour + generator.normal(0, 60, (12, 12, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f"{number:02d}.png"), pixels[..., ::-1])
    return folder


class Forked:
    """`rightfit ARGUMENTS` in a process of its own, forked from this one, which has imported Keras and run nothing
    with it: of ten seconds of a command's life seven would be imports, which nobody needs killed a thousand times."""

    def __init__(self, *arguments: Any, said: Path) -> None:
        self.said = said
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._command([str(argument) for argument in arguments])

    def _command(self, arguments: list[str]) -> NoReturn:
        code: Any = 1
        try:
            out = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            from rightfit.cli import main as command

            sys.argv = ["rightfit", *arguments]
            command()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.005)
        return int(self.returncode or 0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()


def import_all(backend: str, work: Path) -> None:
    """What a command imports, without a computation: a process that has run one must not be forked."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(work / "compiled")  # the same programs, compiled once
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    import keras  # noqa: F401  (these stay in sys.modules for the forked ones)
    import tensorflow  # noqa: F401

    import rightfit

    for module in pkgutil.walk_packages(rightfit.__path__, "rightfit."):
        if not module.name.endswith(("__main__", *(f"_{other}" for other in BACKENDS if other != backend))):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(module.name)


def killed(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Runs that are killed until `args.kills` kills are spent, each compared with the undisturbed one: the result
    after each."""
    chance = random.Random(args.seed)
    images = photos(args.work / "photos")
    common: list[Any] = ["train", images, "--image-size", 8, "--epochs", args.epochs, "--patience", 9999]
    common += ["--batch-size", 16, "--precision", "float32", "--seed", args.seed]
    common += ["--checkpoint-every", "0.2s", "--quiet"]
    whole, said = args.work / "whole", args.work / "said.txt"
    import_all(args.backend, args.work)
    for place in (args.work / "first", whole):  # the first compiles and decodes, the second is timed
        started = time.monotonic()
        assert Forked(*common, "--output", place, said=said).wait() == 0, said.read_text()
        took = time.monotonic() - started
    assert not differences(whole, args.work / "first"), "two undisturbed runs differ"
    kills: list[dict[str, Any]] = []
    differing: list[str] = []
    runs = 0
    while len(kills) < args.kills:
        run = args.work / f"run-{runs}"
        runs += 1
        while True:
            resumed = (run / "checkpoints" / "start.json").exists()
            given = ("resume", run, "--quiet") if resumed else (*common, "--output", run)
            if run.exists() and not resumed:
                shutil.rmtree(run)
            left = half_written(run)  # by kills before
            process = Forked(*given, said=said)
            last = len(kills) >= args.kills
            begun = time.monotonic()
            if not last and ended_by_kill(process, run, chance, took, left):
                kills.append(traces(run, begun, runs, left))
                print(f"kill {len(kills)} of {args.kills}", file=sys.stderr)
                continue
            if process.wait() != 0:
                raise SystemExit(f"{given} ended with {process.returncode}: {said.read_text()}")
            break
        differing += [f"run {runs}: {name}" for name in differences(whole, run)]
        shutil.rmtree(run)
        summary = {
            "held": not differing,
            "kills": len(kills),
            "inside_saving": sum(bool(kill["half_written"]) for kill in kills),
            "runs": runs,
            "differing": differing,
        }
        yield {"summary": summary, "undisturbed_seconds": round(took, 1), "kills": list(kills)}


def ended_by_kill(process: Forked, run: Path, chance: random.Random, took: float, left: set[str]) -> bool:
    """SIGKILL after a random while; four times in ten at the next instant at which a file is being written."""
    until = time.monotonic() + chance.uniform(0.05, 0.5) * took
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    if chance.random() < 0.4:
        while process.poll() is None and not half_written(run) - left:
            time.sleep(0.0005)
    if process.poll() is not None:
        return False
    process.kill()
    return True


def half_written(run: Path) -> set[str]:
    places = [place for place in (run, run / "checkpoints") if place.exists()]
    return {n for place in places for n in os.listdir(place) if n.startswith(".") and n != ".lock"}


def traces(run: Path, begun: float, runs: int, left: set[str]) -> dict[str, Any]:
    folder = run / "checkpoints"
    names = sorted(os.listdir(folder)) if folder.exists() else []
    steps = [int(name[5:13]) for name in names if name.startswith("step-")]
    seconds = round(time.monotonic() - begun, 3)
    half = sorted(half_written(run) - left)
    return {
        "run": runs,
        "after_seconds": seconds,
        "newest_step": max(steps, default=None),
        "half_written": half,
    }


def differences(whole: Path, run: Path) -> list[str]:
    found = [n for n in SAME if (whole / n).read_bytes() != (run / n).read_bytes()]
    if validation(whole) != validation(run):
        found.append("metrics.json")
    if history(whole) != history(run):
        found.append("history.csv")
    if decisions(whole) != decisions(run):
        found.append("decisions.jsonl")
    return found


def validation(run: Path) -> Any:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))["validation"]


def history(run: Path) -> list[dict[str, str]]:
    import csv

    with (run / "history.csv").open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(file)]


def decisions(run: Path) -> list[dict[str, Any]]:
    lines = (run / "decisions.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "time"} for line in lines]


# Files ----------------------------------------------------------------------------------------------


def state(megabytes: float, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    generator = np.random.default_rng(seed)
    count = int(megabytes * 2**20 / 4 / 8)
    return {f"model/layer{i}/0/kernel": generator.normal(size=count).astype(np.float32) for i in range(8)}


def full_disks(args: argparse.Namespace) -> dict[str, Any]:
    """Saves of which each meets the end of the disk at a random byte: the last good one must stay readable."""
    from rightfit.console import Console
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.state import Progress

    chance = random.Random(args.seed)
    place = args.work / "full"
    place.mkdir()
    kept = Checkpoints(place, Console(quiet=True))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    size, saves, good = 0, [], -1
    for number in range(args.saves):
        progress = Progress(epoch=number, epochs=args.saves, weights=[np.full(50_000, number, np.float32)])
        progress.best_epoch = number
        limit = chance.randrange(0, int(1.2 * size)) if size else None
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            kept.save(progress, state(0.5, number), number)
            kept.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        if kept.saved_at is not None:
            good = number
        size = max(size, *(path.stat().st_size for path in kept.folder.iterdir()))
        found = kept.newest()
        right = found is not None and found.progress.epoch == good
        right = right and all(
            np.array_equal(found.tensors[name], value) for name, value in state(0.5, good).items()
        )
        right = right and float(found.progress.weights[0][0]) == good
        saves.append({"limit": limit, "saved": good == number, "last_good_whole": bool(right)})
    failed = sum(not save["saved"] for save in saves)
    held = all(save["last_good_whole"] for save in saves)
    return {"summary": {"held": held, "saves": len(saves), "met_a_full_disk": failed}, "saves": saves}


def flipped(args: argparse.Namespace) -> dict[str, Any]:
    """One bit of a checkpoint flipped at a time: refused with a typed error, or the content is equal."""
    from rightfit.errors import RunError
    from rightfit.training import checkpoints

    path = args.work / "flipped.safetensors"
    checkpoints.write(path, state(0.05, args.seed), {"progress": {"epoch": 3, "history": [1.0, 2.5]}})
    whole = path.read_bytes()
    before = checkpoints.read(path)
    chance = random.Random(args.seed)
    refused, equal, bad = 0, 0, []
    for _ in range(args.bits):
        bit = chance.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            tensors, content, digest = checkpoints.read(path)
        except RunError:
            refused += 1
            continue
        except BaseException as error:
            bad.append({"bit": bit, "error": repr(error)})
            continue
        same = (content, digest) == before[1:] and all(
            np.array_equal(tensors[n], v) for n, v in before[0].items()
        )
        equal += same
        if not same:
            bad.append({"bit": bit, "error": "read as something else"})
    summary = {
        "held": not bad,
        "bits": args.bits,
        "refused": refused,
        "equal_all_the_same": equal,
        "bad": len(bad),
    }
    return {"summary": summary, "bad": bad}


# What it costs --------------------------------------------------------------------------------------


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """ResNet-50 at 150 px, batches of 32: seconds that the loop is held up by a save, and while one is written."""
    os.environ["KERAS_BACKEND"] = args.backend
    from rightfit.runtime import choose_backend

    choose_backend(args.backend)
    from rightfit.config import TrainSettings
    from rightfit.console import Console
    from rightfit.data.loader import Batch
    from rightfit.nets.layers import fused
    from rightfit.nets.resnet import build
    from rightfit.training.backend_steps import make_step
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.optimizers import make_optimizer
    from rightfit.training.state import Progress

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (32, 150, 150, 3), np.uint8)
    batch = Batch(images, np.eye(10, dtype=np.float32)[np.arange(32) % 10], np.ones(32, np.float32))
    settings = TrainSettings(data="x", learning_rate=0.01, weight_decay=0.005)
    model = fused(build("resnet50", 10, (150, 150), 0), "float32")
    step = make_step(model, make_optimizer(settings, model), "categorical", True)
    place = args.work / "cost"
    place.mkdir()
    kept = Checkpoints(place, Console(quiet=True))

    def timed(count: int) -> float:
        began = time.monotonic()
        for _ in range(count):
            step(batch, 0.001, 0.99)
        step.totals()
        return time.monotonic() - began

    timed(2)
    rounds = []
    block = max(4, args.cost_steps // 12)
    for number in range(3):
        free = timed(block)
        began = time.monotonic()
        kept.save(Progress(epoch=number, weights=step.weights()), step.state(), number)
        held_up = time.monotonic() - began
        beside = timed(block)
        kept.wait()
        written = time.monotonic() - began
        rounds.append({"free": free, "held_up": held_up, "beside_a_write": beside, "written_after": written})
    extra = [r["held_up"] + max(0.0, r["beside_a_write"] - r["free"]) for r in rounds]
    share = statistics.median(extra) / 300
    summary = {
        "held": share <= 0.035,
        "share_at_every_5m": round(share, 5),
        "held_up_seconds": round(statistics.median(r["held_up"] for r in rounds), 3),
        "seconds_a_step": round(statistics.median(r["free"] for r in rounds) / block, 3),
    }
    return {"summary": summary, "backend": args.backend, "rounds": rounds}


if __name__ == "__main__":
    sys.exit(main())
