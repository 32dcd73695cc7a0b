"""What this machine has, how fast each backend trains on it, and what that means."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

from rightfit import fastest, precision, runtime

LONGEST = 300  # seconds for one backend
MOSTLY = 0.5  # of the rate of a product: from here on a step is bound by arithmetic


def describe(measure: bool = True) -> dict[str, Any]:
    """Processor, GPU, backends with versions and, if `measure`, training images/s (about a minute), which are
    remembered: from then on "auto" is the fastest of them."""
    cache = runtime.cache_folder()
    measured = fastest.measure(cache, LONGEST) if measure else {}
    chosen = runtime.choose_backend()
    kind, because = precision.choose_precision("auto", cache)
    backends: dict[str, Any] = {}
    for name in runtime.BACKENDS:
        version = runtime.installed_backends().get(name)
        backends[name] = {"version": version, "install": None if version else runtime.INSTALL[name]}
        backends[name] |= measured.get(name, {})
    facts = {
        "processor": runtime.cpu_name(),
        "cores": runtime.cpu_count(),
        "bfloat16": sorted({"avx512_bf16", "amx_bf16"} & runtime.cpu_flags()),
        "gpu": _gpu(),
        "backends": backends,
        "measured": fastest.WHAT if measure else None,
        "chosen": chosen,
        "precision": kind,
        "precision_because": because,
    }
    return {**facts, "in_words": in_words(backends, chosen, kind) if measure else []}


def in_words(backends: Mapping[str, Mapping[str, Any]], chosen: str, kind: str) -> list[str]:
    """Which backend is fastest here, by how much, and what bounds a step of the chosen one in `kind`.

    A backend has, where it was measured, images_per_second, step_gflops and matrix_gflops.
    """
    speeds = {
        name: row["images_per_second"] for name, row in backends.items() if row.get("images_per_second")
    }
    if not speeds:
        return []
    fastest, *others = sorted(speeds, key=lambda name: -speeds[name])
    times = " and ".join(f"{speeds[fastest] / speeds[name]:.1f} times {name}" for name in others)
    said = [f"{fastest} trains fastest here" + (f": {times}" if times else "")]
    row = backends.get(chosen, {})
    if chosen in speeds and row.get("matrix_gflops"):
        share = round(row["step_gflops"] / row["matrix_gflops"], 2)
        bound = (
            "arithmetic: a smaller model or smaller images are what makes it faster"
            if share >= MOSTLY
            else "moving data between operators more than by arithmetic"
        )
        said.append(
            f"a step of {chosen} reaches {100 * share:.0f} % of the rate of one matrix product in {kind} "
            f"({row['step_gflops']:,.0f} of {row['matrix_gflops']:,.0f} GFLOP/s): bound by {bound}"
        )
    return said


def _gpu() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            or None
        )
    except (OSError, subprocess.SubprocessError):
        return None
