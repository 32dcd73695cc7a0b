"""What the benchmarks share: contenders in turns in processes of their own, the machine, peers, results, tables.

A benchmark names its contenders and what each measures; `race` runs them A B C A B C and keeps every
repetition, `summarise` makes medians and ratios of them, `table` prints those, `write` keeps all of it.
Needs only NumPy, so that it also imports where a peer is installed and rightfit is not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUICK = ROOT / "build" / "bench"  # where quick runs leave their figures, for goals.py
DATA = ROOT / "build" / "bench-data"
PEERS = ROOT / "build" / "peers-venv"
PACKAGES = (
    "keras", "tensorflow-cpu", "tensorflow", "torch", "jax", "numpy", "opencv-python-headless", "pillow",
    "torchvision", "timm", "fastai", "onnxruntime", "openvino",
)  # fmt: skip
# torchvision's compiled operators, which a build for another device leaves undefined; no ResNet calls one.
OPERATORS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")

Rounds = list[dict[str, Any]]


@dataclass(frozen=True)
class Contender:
    """Who is measured: `run` is called in a fresh process and returns {metric: number or repetitions, ...}."""

    run: Callable[[argparse.Namespace], dict[str, Any]]
    needs: tuple[str, ...] = ()  # packages; those of peers are looked for in the peers' environment
    backend: str = "tensorflow"  # Keras'
    peer: bool = False  # runs in the peers' environment
    gpu: bool = False  # sees the GPU


@dataclass(frozen=True)
class Metric:
    unit: str
    more_is_better: bool = True


# The command line -----------------------------------------------------------------------------------


def parser(doc: str, rounds: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help="how often each contender has its turn")
    made.add_argument("--quick", action="store_true", help="a minute or two; shows that it runs")
    made.add_argument("--output", type=Path, help="JSON; default benchmarks/results/NAME-PROCESSOR.json")
    return made


def answered(contenders: dict[str, Contender]) -> bool:
    """In a contender's own process: measure it, print its JSON, and say so."""
    if sys.argv[1:2] != ["--contender"]:
        return False
    _, _, name, settings = sys.argv
    print("\n" + json.dumps(contenders[name].run(argparse.Namespace(**json.loads(settings)))))
    return True


# Many runs, a line each ----------------------------------------------------------------------------


def lines_parser(doc: str | None, seeds: int) -> argparse.ArgumentParser:
    """Of a benchmark whose results are a line for each run."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--seeds", type=int, default=seeds)
    made.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--minutes", type=float, default=None, help="start no run after so many")
    made.add_argument("--output", type=Path, default=None, help="JSON lines to add to")
    made.add_argument("--table", action="store_true", help="print the tables instead")
    made.add_argument("--quick", action="store_true", help="a minute or two; shows that it runs")
    return made


def lines_asked(made: argparse.ArgumentParser, name: str) -> tuple[argparse.Namespace, Path]:
    """What was asked, and the file of the lines, which a quick run begins anew."""
    args = made.parse_args()
    output = args.output or (QUICK if args.quick else RESULTS) / f"{name}.jsonl"
    if not args.table:
        output.parent.mkdir(parents=True, exist_ok=True)
        if args.quick:
            output.unlink(missing_ok=True)
    return args, output


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of JSON that are whole: the last one of a run that was killed may not be."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def not_taken(
    rows: Iterable[dict[str, Any]], tasks: Iterable[str], ways: Iterable[str], seeds: int
) -> list[dict[str, Any]]:
    """Each way of each task with each seed that has no row yet, seed by seed."""
    done = {(row["task"], row["seed"], row["way"]) for row in rows}
    every = itertools.product(range(seeds), tasks, ways)
    return [{"task": t, "seed": s, "way": w} for s, t, w in every if (t, s, w) not in done]


def worked_off(
    runs: Sequence[dict[str, Any]],
    measured: Callable[[dict[str, Any]], dict[str, Any]],
    output: Path,
    processes: int,
    minutes: float | None = None,
) -> Iterator[dict[str, Any]]:
    """What `measured` says of each run, as a line of `output` once it is there; so many at a time, each on one thread
    of a process of its own kind. None begins after so many minutes."""
    os.environ |= {
        name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    }
    started, todo = time.monotonic(), iter(runs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool, output.open("a", encoding="utf-8") as file:
        going = {pool.submit(measured, run) for run in itertools.islice(todo, processes)}
        while going:
            finished = next(as_completed(going))
            going.discard(finished)
            row = finished.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            yield row
            late = minutes is not None and time.monotonic() - started > 60 * minutes
            if not late and (run := next(todo, None)) is not None:
                going.add(pool.submit(measured, run))


# Measuring ------------------------------------------------------------------------------------------


def race(
    script: str, contenders: dict[str, Contender], args: argparse.Namespace
) -> tuple[Rounds, dict[str, str]]:
    """Every round of every contender that can run here, and why the others are left out.

    A peer that fails is left out, too; SystemExit if it is rightfit (a name that starts so).
    """
    chosen, left_out = {}, {}
    for name, contender in contenders.items():
        if reason := _cannot_run(contender):
            left_out[name] = reason
        else:
            chosen[name] = contender
    rounds: Rounds = []
    for index in range(args.rounds):
        found: dict[str, Any] = {"load_before": os.getloadavg()[0]}
        for name in [name for name in chosen if name not in left_out]:
            started = time.perf_counter()
            print(f"  round {index + 1} of {args.rounds}: {name} ...", end=" ", file=sys.stderr, flush=True)
            outcome = measure(script, name, contenders[name], args)
            print(f"{time.perf_counter() - started:.0f} s", file=sys.stderr)
            if isinstance(outcome, dict):
                found[name] = outcome
            elif name.startswith("rightfit"):
                raise SystemExit(f"{name} failed:\n{outcome}")
            else:
                left_out[name] = "failed: " + (outcome.strip().splitlines() or ["no message"])[-1]
                print(f"  {name} failed:\n{outcome}", file=sys.stderr)
        rounds.append(found)
    for name, reason in left_out.items():
        print(f"left out: {name} ({reason})")
    return rounds, left_out


def measure(script: str, name: str, contender: Contender, args: argparse.Namespace) -> dict[str, Any] | str:
    """One turn of one contender in a fresh process: what it returned, or the end of its error output."""
    python = peers_python() if contender.peer else Path(sys.executable)
    settings = json.dumps(vars(args), default=str)
    environment = {
        **os.environ,
        **({} if contender.gpu else {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": contender.backend,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [str(python), script, "--contender", name, settings], env=environment, capture_output=True, text=True
    )
    return done.stderr[-4000:] if done.returncode else dict(json.loads(done.stdout.splitlines()[-1]))


def _cannot_run(contender: Contender) -> str:
    if contender.peer and peers_python() is None:
        return "its environment could not be installed"
    python = peers_python() if contender.peer else None
    missing = [package for package in contender.needs if not _has(package, python)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def _has(package: str, python: Path | None) -> bool:
    if python is None:
        return importlib.util.find_spec(package) is not None
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([str(python), "-c", code]).returncode == 0


# The peers' environment -----------------------------------------------------------------------------

# Without their dependencies, which would bring another torch and, with fastprogress from 1.1 on, a web framework.
PEERS_THEMSELVES = (
    "torchvision==0.28.0", "timm==1.0.31", "fastai==2.8.12", "fastcore==2.2.39", "fastprogress==1.0.3",
    "fasttransform==0.0.5", "fastdownload==0.0.8", "huggingface_hub==2.4.0",
)  # fmt: skip
PEERS_NEED = (  # in the versions of constraints.txt
    "torch", "numpy", "pillow", "pandas", "scipy", "scikit-learn", "requests", "PyYAML", "packaging",
    "cloudpickle", "safetensors", "psutil", "matplotlib", "plum-dispatch==2.10.1",
)  # fmt: skip
_peers: list[Path | None] = []


def peers_python() -> Path | None:
    """The interpreter that has fastai, timm and torchvision; installed into build/peers-venv when first asked.

    None, with the reason printed, where that fails.
    """
    if not _peers:
        _peers.append(_install_peers())
    return _peers[0]


def _install_peers() -> Path | None:
    python = PEERS / "bin" / "python"
    if (PEERS / "complete").exists():
        return python
    print(
        f"installing the peers (fastai, timm, torchvision) into {PEERS.relative_to(ROOT)} ...",
        file=sys.stderr,
    )
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    steps: list[Sequence[Any]] = [
        [sys.executable, "-m", "venv", PEERS],
        [*pip, "-c", ROOT / "constraints.txt", *PEERS_NEED],
        [*pip, "--no-deps", *PEERS_THEMSELVES],
    ]
    for step in steps:
        done = subprocess.run([str(part) for part in step], capture_output=True, text=True)
        if done.returncode:
            print(f"the peers could not be installed:\n{done.stderr[-2000:]}", file=sys.stderr)
            return None
    (PEERS / "complete").touch()
    return python


def declare_torchvision() -> None:
    """Make `import torchvision` work where its compiled operators do not load: their names are declared."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # "operator torchvision::nms does not exist"
        for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[module]
        library = torch.library.Library("torchvision", "DEF")
        declare_torchvision.kept = library  # type: ignore[attr-defined]  # undone once collected
        for operator in OPERATORS:
            for name in (operator, f"_{operator}_backward"):
                library.define(f"{name}() -> ()")


# Medians, ratios and their tables -------------------------------------------------------------------


def summarise(rounds: Rounds, metrics: dict[str, Metric], base: str = "rightfit") -> dict[str, Any]:
    """metric -> contender -> median, 95 % interval of the repetitions, and how many times `base` is better.

    A ratio is the median over rounds of the ratios of medians within a round.
    """
    summary: dict[str, Any] = {}
    for title, metric in metrics.items():
        of_round = [
            {
                name: _flat(found[title])
                for name, found in r.items()
                if isinstance(found, dict) and title in found
            }
            for r in rounds
        ]
        names = list(dict.fromkeys(name for found in of_round for name in found))
        contenders = {}
        for name in names:
            everything = sorted(value for found in of_round for value in found.get(name, []))
            low, high = median_interval(everything)
            row = {"median": statistics.median(everything), "low": low, "high": high}
            pairs = [
                (statistics.median(found[base]), statistics.median(found[name]))
                for found in of_round
                if base in found and name in found
            ]
            if name != base and pairs:
                ratios = [ours / other if metric.more_is_better else other / ours for ours, other in pairs]
                row |= {
                    "ratio": statistics.median(ratios),
                    "ratio_low": min(ratios),
                    "ratio_high": max(ratios),
                }
            contenders[name] = row | {"repetitions": len(everything)}
        if contenders:
            better = "more" if metric.more_is_better else "less"
            summary[title] = {"unit": metric.unit, "better": better, "contenders": contenders}
    return summary


def _flat(value: Any) -> list[float]:
    return list(value) if isinstance(value, list) else [value]


def median_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """The order statistics around the median of sorted `values` that hold it with chance `level`.

    Distribution-free (binomial, repetitions taken as independent); under six values it is the whole
    range, which holds it less often.
    """
    count, skip = len(values), 0
    tail = 0.5**count
    while skip < (count - 1) // 2 and tail + math.comb(count, skip + 1) * 0.5**count <= (1 - level) / 2:
        skip += 1
        tail += math.comb(count, skip) * 0.5**count
    return values[skip], values[count - 1 - skip]


def rows_of(summary: dict[str, Any]) -> list[list[str]]:
    """A row a contender, a column a metric: `12.3 (11.9 to 12.8); 2.10×`, the last how many times rightfit is."""
    names = list(dict.fromkeys(name for metric in summary.values() for name in metric["contenders"]))
    units = {metric["unit"] for metric in summary.values()}
    common = units.pop() if len(units) == 1 else ""
    titles = [title if common else f"{title}, {metric['unit']}" for title, metric in summary.items()]
    rows = [[common, *titles]]
    for name in names:
        rows.append([name, *(_cell(metric["contenders"].get(name)) for metric in summary.values())])
    return rows


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    text = short(found["median"])
    if found["repetitions"] > 1:
        text += f" ({short(found['low'])} to {short(found['high'])})"
    return f"{text}; {found['ratio']:.2f}×" if "ratio" in found else text


def short(number: float) -> str:
    """Three digits, thousands apart."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:#.3g}".rstrip(".")


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of a document."""
    lines = (header, ["---"] * len(header), *rows)
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def text_table(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# Results --------------------------------------------------------------------------------------------


def finish(
    name: str, args: argparse.Namespace, rounds: Rounds, left_out: dict[str, str], summary: Any, **more: Any
) -> int:
    """Print the table, write the JSON; the exit code."""
    result = {
        "benchmark": name,
        "settings": {
            key: str(value) for key, value in vars(args).items() if value is not None and key != "output"
        },
        "machine": describe_machine(),
        "versions": versions(),
        "left_out": left_out,
        "summary": summary,
        **more,
        "rounds": rounds,
    }
    print(text_table(rows_of(summary)))
    quick = QUICK / f"{name}.json"
    output = args.output or (
        quick if args.quick else RESULTS / f"{name}-{slug(describe_machine()['processor'])}.json"
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    # Where the project lies on this machine is nobody's business.
    output.write_text(json.dumps(result, indent=1).replace(f"{ROOT}{os.sep}", "") + "\n")
    print(f"written to {output}", file=sys.stderr)
    return 0


def describe_machine() -> dict[str, Any]:
    cpuinfo, meminfo = (Path("/proc") / name for name in ("cpuinfo", "meminfo"))
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", meminfo.read_text() if meminfo.exists() else "")
    present = set(flags.group(1).split()) if flags else set()
    kept = sorted(f for f in present if f.startswith("amx") or f in ("avx2", "avx512f", "avx512_bf16"))
    return {
        "processor": name.group(1).strip() if name else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(int(memory.group(1)) / 2**20, 1) if memory else None,
        "flags": kept,
        "bfloat16": bool({"avx512_bf16", "amx_bf16"} & present),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Of this environment, and of the peers' where it is there."""
    found = {"python": platform.python_version()}
    if (PEERS / "complete").exists():
        code = f"import common, json; print(json.dumps(common.installed({PACKAGES!r})))"
        done = subprocess.run(
            [str(PEERS / "bin" / "python"), "-c", code],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
        with contextlib.suppress(ValueError):
            found |= json.loads(done.stdout)
    return found | installed(PACKAGES)


def installed(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# Images ---------------------------------------------------------------------------------------------


def textures(count: int, side: int, seed: int = 0) -> Any:
    """`count` images (side, side, 3) uint8, one after the other: smooth noise at every scale, as in
    photographs whose amplitude falls with frequency."""
    import cv2

    for index in range(count):
        rng = np.random.default_rng([seed, index])
        image = np.full((side, side, 3), 128.0, np.float32)
        cells = 4
        while cells <= side:
            noise = rng.normal(0, 40 * (4 / cells) ** 0.5, (cells, cells, 3)).astype(np.float32)
            image += cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
            cells *= 2
        yield np.clip(image, 0, 255).astype(np.uint8)


def class_folder(name: str, count: int, side: int, suffix: str) -> Path:
    """build/bench-data/NAME/{a,b}/00000.SUFFIX: synthetic images in two classes, made once; JPEG quality 90."""
    import cv2

    folder = DATA / f"{name}-{side}px-{count}"
    if not (folder / "a").exists():
        beside = folder.with_name(folder.name + ".part")
        for index, image in enumerate(textures(count, side)):
            path = beside / "ab"[index % 2] / f"{index:05}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        beside.rename(folder)
    return folder


def jpeg_folders(counts: dict[int, int]) -> dict[str, str]:
    """Side in pixels -> the folder of so many JPEG, which the system has in memory already."""
    folders = {str(side): class_folder("jpeg", count, side, "jpg") for side, count in counts.items()}
    for path in (path for folder in folders.values() for path in folder.glob("*/*.jpg")):
        path.read_bytes()
    return {side: str(folder) for side, folder in folders.items()}


def linked(folder: Path, count: int) -> list[str]:
    """folder/0000000.png ...: `count` hard links to 200 textures of 96 px."""
    files = sorted(class_folder("png", 200, 96, "png").glob("*/*.png"))
    folder.mkdir(parents=True)
    paths = [f"{folder}/{index:07}.png" for index in range(count)]
    for index, path in enumerate(paths):
        os.link(files[index % len(files)], path)
    return paths


def write_table(path: Path, images: list[str]) -> None:
    """CSV with the columns path and label; ten classes."""
    with path.open("w") as file:
        file.write("path,label\n")
        file.writelines(f"{image},class-{index % 10}\n" for index, image in enumerate(images))
