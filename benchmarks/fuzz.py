"""A million damaged files: does any crash the process, leave its memory, or touch what it should not?

    python benchmarks/fuzz.py --inputs 1000000        coverage-guided (pip install 'rightfit[fuzz]'), hours
    python benchmarks/fuzz.py --target yaml --inputs 50000    one of them anew; the others' figures stay
    python benchmarks/fuzz.py --quick                 a few seconds

Inputs are shared out over what reads files of strangers: HDF5, .keras, safetensors, JSON, YAML, .npz, images, and the
check of an architecture. Each target runs in its own process by atheris (libFuzzer with the coverage of Python code),
or by plain mutation where atheris is not installed. benchmarks/results/fuzz.json is written anew after each part:
inputs, how many were accepted and refused, findings (errors of another type, deaths of the process, files or sockets
outside), how often libhdf5 died in the process that is there for it, and the peak of resident memory.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PART = 25_000  # inputs a process, so that results are kept and memory is measured afresh
MOST_MB = 1_000
LARGEST_INPUT = 2**16
MOST_DEATHS = 20  # of one target, after which it is left


def main() -> int:
    args = parse()
    if args.part:
        return part(args)
    from common import QUICK, describe_machine, installed, versions
    from fuzz_targets import TARGETS

    chosen = [args.target] if args.target else list(TARGETS)
    engine = "atheris" if importlib.util.find_spec("atheris") and not args.mutation else "mutation"
    result: dict[str, Any] = {
        "benchmark": "fuzz",
        "settings": {"inputs": args.inputs, "seed": args.seed, "quick": args.quick, "engine": engine},
        "machine": describe_machine(),
        "versions": versions() | installed(READERS) | {"libhdf5": libhdf5()},
        "summary": {},
        "targets": {},
    }
    output = args.output or (QUICK / "fuzz.json" if args.quick else RESULTS / "fuzz.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    if args.target and output.exists():  # the others stay as they were found
        result["targets"] = json.loads(output.read_text())["targets"]
    whole = sum(TARGETS[name][0] for name in chosen)
    for name in chosen:
        wanted = round(args.inputs * TARGETS[name][0] / whole)
        for found in fuzzed(name, wanted, engine, args.seed):
            result["targets"][name] = found
            result["summary"] = summary(result["targets"])
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps({key: found[key] for key in SHOWN}), flush=True)
    print(json.dumps(result["summary"]), "→", output)
    return int(not result["summary"]["held"])


READERS = ("atheris", "h5py", "safetensors", "PyYAML", "simplejpeg")


def libhdf5() -> str:
    import h5py

    return str(h5py.version.hdf5_version)


SHOWN = ("inputs", "accepted", "refused", "deaths", "hdf5_deaths", "peak_rss_mb", "seconds")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutation", action="store_true", help="mutate without looking at coverage")
    parser.add_argument("--quick", action="store_true", help="2,000 inputs, by mutation")
    parser.add_argument("--output", type=Path)
    parser.add_argument(
        "--part", type=Path, help=argparse.SUPPRESS
    )  # a process of our own: where its figures go
    args = parser.parse_args()
    if args.quick:
        args.inputs, args.mutation = 2_000, True
    return args


def summary(targets: dict[str, Any]) -> dict[str, Any]:
    total = {
        key: sum(found[key] for found in targets.values())
        for key in ("inputs", "accepted", "refused", "deaths", "hdf5_deaths")
    }
    total["findings"] = sum(len(found["findings"]) for found in targets.values())
    total["outside"] = sum(len(found["outside"]) for found in targets.values())
    total["peak_rss_mb"] = max(found["peak_rss_mb"] for found in targets.values())
    quiet = not total["findings"] and not total["outside"] and not total["deaths"]
    return total | {"held": bool(quiet and total["peak_rss_mb"] < MOST_MB)}


# One target, part by part ---------------------------------------------------------------------------


def fuzzed(name: str, wanted: int, engine: str, seed: int) -> Any:
    """Figures so far, after each part."""
    found: dict[str, Any] = {
        "inputs": 0, "accepted": 0, "refused": 0, "deaths": 0, "hdf5_deaths": 0, "peak_rss_mb": 0.0, "seconds": 0.0,
        "findings": {}, "outside": [], "died_on": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="rightfit-fuzz-", dir=_memory()) as work:
        folder = Path(work)
        (folder / "corpus").mkdir()
        number = 0
        while found["inputs"] < wanted and found["deaths"] <= MOST_DEATHS:
            count = min(PART, wanted - found["inputs"])
            figures = folder / "figures.json"
            figures.unlink(missing_ok=True)
            command = [
                sys.executable,
                __file__,
                "--part",
                str(figures),
                "--target",
                name,
                "--inputs",
                str(count),
            ]
            command += ["--seed", str(seed + number), *(["--mutation"] if engine == "mutation" else [])]
            started = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
            number += 1
            add(found, folder, done, time.monotonic() - started)
            yield found


def _memory() -> str | None:
    """Where files cost no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def add(found: dict[str, Any], folder: Path, done: subprocess.CompletedProcess[str], seconds: float) -> None:
    path = folder / "figures.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    for key in ("inputs", "accepted", "refused", "hdf5_deaths"):
        found[key] += figures.get(key, 0)
    found["seconds"] = round(found["seconds"] + seconds, 1)
    found["peak_rss_mb"] = round(max(found["peak_rss_mb"], figures.get("peak_rss_mb", 0.0)), 1)
    for words, data in figures.get("findings", {}).items():
        found["findings"].setdefault(words, data)
    found["outside"] = sorted({*found["outside"], *figures.get("outside", [])})[:100]
    if done.returncode:
        found["deaths"] += 1
        found["inputs"] += not figures  # so that a process that dies at once is not started for ever
        last = folder / "last"
        data = base64.b64encode(last.read_bytes()).decode() if last.exists() else ""
        found["died_on"].append(
            {"code": done.returncode, "error": done.stderr[-1000:], "input": data[:20_000]}
        )


# In a process of its own ----------------------------------------------------------------------------


class Figures:
    """What came of the inputs so far, kept in a file that outlives the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = {"inputs": 0, "accepted": 0, "refused": 0, "findings": {}}
        with open(path.with_name("last"), "w+b") as file:
            file.truncate(LARGEST_INPUT + 8)
            self.last = mmap.mmap(file.fileno(), LARGEST_INPUT + 8)

    def about_to(self, data: bytes) -> None:
        """What is read next, where a crash leaves it."""
        self.last[: len(data) + 8] = len(data).to_bytes(8, "little") + data

    def add(self, outcome: str, data: bytes) -> None:
        self.found["inputs"] += 1
        if outcome in ("accepted", "refused"):
            self.found[outcome] += 1
        else:
            self.found["findings"].setdefault(outcome, base64.b64encode(data).decode()[:20_000])

    def write(self, watch: Any) -> None:
        import resource

        from rightfit.formats.surveyor import SURVEYOR

        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        child = max(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, _running(SURVEYOR.process))
        figures = self.found | {
            "peak_rss_mb": own + child,
            "outside": watch.seen,
            "hdf5_deaths": SURVEYOR.deaths,
        }
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(figures))
        beside.replace(self.path)


def _running(process: subprocess.Popen[bytes] | None) -> float:
    """Peak memory in MB of a process that has not ended."""
    status = Path(f"/proc/{process.pid}/status") if process else None
    if status is None or not status.exists():
        return 0.0
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


def part(args: argparse.Namespace) -> int:
    """Feed `args.inputs` inputs to a target; the figures go to `args.part`."""
    if args.mutation:
        return by_mutation(args)
    import atheris
    import numpy as np

    with atheris.instrument_imports(
        include=["rightfit.formats", "rightfit.saving", "rightfit.data.image", "zipfile", "yaml", "json"]
    ):
        import fuzz_targets

        import rightfit.data.image
        import rightfit.formats.model_file
        import rightfit.saving.checked  # noqa: F401

    _, seeds, target = fuzz_targets.TARGETS[args.target]
    folder = args.part.parent
    read, watch, figures = target(folder), fuzz_targets.Watch(folder), Figures(args.part)
    corpus = folder / "corpus"
    for number, seed in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
        fuzz_targets.tried(read, seed)  # whatever is imported at first use is imported now

    def one(data: bytes) -> None:
        figures.about_to(data)
        watch.on = True
        outcome = fuzz_targets.tried(read, data)
        watch.on = False
        figures.add(outcome, data)
        if figures.found["inputs"] % 1000 == 0 or figures.found["inputs"] >= args.inputs:
            figures.write(watch)
        if figures.found["inputs"] >= args.inputs:
            os._exit(0)  # libFuzzer itself never returns

    def changed(data: bytes, most: int, number: int) -> bytes:
        """libFuzzer's own changes, or a few that leave more of a format as it was."""
        generator = np.random.default_rng(number)
        if generator.integers(2):
            return bytes(atheris.Mutate(data, most))
        return fuzz_targets.mutated([bytes(data)], generator)[:most]

    options = [
        f"-seed={args.seed + 1}",
        f"-max_len={LARGEST_INPUT}",
        f"-rss_limit_mb={MOST_MB}",
        "-timeout=60",
    ]
    arguments = [sys.argv[0], *options, "-verbosity=0", f"-artifact_prefix={corpus.parent}/", str(corpus)]
    atheris.Setup(arguments, one, custom_mutator=changed)
    atheris.Fuzz()
    return 0


def by_mutation(args: argparse.Namespace) -> int:
    import fuzz_targets
    import numpy as np

    _, seeds, target = fuzz_targets.TARGETS[args.target]
    folder, started = args.part.parent, seeds()
    read, watch, figures = target(folder), fuzz_targets.Watch(folder), Figures(args.part)
    for seed in started:
        fuzz_targets.tried(read, seed)
    for index in range(args.inputs):
        data = fuzz_targets.mutated(started, np.random.default_rng([args.seed, index]))[:LARGEST_INPUT]
        figures.about_to(data)
        watch.on = True
        outcome = fuzz_targets.tried(read, data)
        watch.on = False
        figures.add(outcome, data)
        if index % 1000 == 999:
            figures.write(watch)
    figures.write(watch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
