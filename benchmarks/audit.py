"""Does `rightfit check` find what is wrong? Faults are planted in real photographs, and what is found is counted.

    python benchmarks/audit.py                 2,624 solar cells (build/elpv) and scikit-learn's digits, three seeds
    python benchmarks/audit.py --quick         600 of the cells and of the digits, one seed

Planted: 40 exact copies and 60 near-duplicates (resized, as JPEG, mirrored, 10 % brighter or darker: each alone, and
all at once) on another side of given splits, 10 copies under another label, 15 broken files (empty, cut off, text, a
flipped header), and a class whose photographs are half as bright again. False alarms are images of the untouched set
that a finding of severity warning or error names, other than the broken and the copied.

The cells lie in train, val and test folders, because a leak needs given splits. Images/s are of the whole command on
the files of the untouched set. Writes benchmarks/results/audit.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from common import QUICK, RESULTS, ROOT, describe_machine, versions

EXACT, NEAR, CONFLICTS, BROKEN = 40, 60, 10, 15
BRIGHTER = 1.5
SIDES = ("train", "val", "test")
GOALS = {"exact": 0.98, "near": 0.90, "broken": 1.0, "conflicts": 1.0, "shortcut": 1.0}


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--quick", action="store_true", help="half a minute; shows that it runs")
    args = made.parse_args()
    limit = 600 if args.quick else None
    seeds = range(1 if args.quick else args.seeds)
    with tempfile.TemporaryDirectory(prefix="rightfit-audit-") as work:
        sources = {"solar cells": cells(limit), "digits": digits(Path(work) / "digits", limit)}
        found: dict[str, Any] = {}
        for name, source in sources.items():
            if not source:
                print(f"left out: {name} (`python examples/elpv.py build/elpv` makes it)")
                continue
            checked(source[0][0].parent.parent)  # imports, and the files into the system's memory
            planted = [measured(source, Path(work) / f"{name}-{seed}", seed) for seed in seeds]
            found[name] = {"clean": clean(source, Path(work) / f"{name}-clean"), "planted": planted}
    result = {
        "benchmark": "audit",
        "settings": {"seeds": len(seeds), "quick": args.quick, "brighter": BRIGHTER, "goals": GOALS},
        "machine": describe_machine(),
        "versions": versions(),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "found": found,
    }
    output = (QUICK if args.quick else RESULTS) / "audit.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, parts in found.items():
        print(name, "clean:", json.dumps(parts["clean"]))
        for one in parts["planted"]:
            print(name, json.dumps(one))
    print("→", output)
    return 0


# Sources: (path, class) of real files ---------------------------------------------------------------

Source = list[tuple[Path, str]]


def cells(limit: int | None) -> Source:
    files = sorted((ROOT / "build" / "elpv").glob("*/*.png"))
    chosen = np.sort(np.random.default_rng(0).permutation(len(files))[:limit])
    return [(files[i], files[i].parent.name) for i in chosen]


def digits(folder: Path, limit: int | None) -> Source:
    """8 x 8 pixels, as PNG."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    source = []
    for number, (image, label) in enumerate(zip(images[:limit], labels[:limit], strict=True)):
        path = folder / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), (image.reshape(8, 8) * (255 / 16)).astype(np.uint8))
        source.append((path, str(label)))
    return source


# Planting -------------------------------------------------------------------------------------------


def plant(
    source: Source, folder: Path, seed: int, counts: tuple[int, ...] = (EXACT, NEAR, CONFLICTS, BROKEN)
) -> dict[str, Any]:
    """Copies the source into split folders and adds the faults; returns what was planted, as relative names."""
    rng = np.random.default_rng([seed, 1])
    sides = rng.choice(SIDES, len(source), p=(0.6, 0.2, 0.2))
    classes = sorted({label for _, label in source})
    bright = classes[0]
    names = []
    for (path, label), side in zip(source, sides, strict=True):
        name = f"{side}/{label}/{path.name}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if label == bright:
            image = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
            cv2.imwrite(str(folder / name), np.clip(image * BRIGHTER, 0, 255).astype(np.uint8))
        else:
            shutil.copyfile(path, folder / name)
        names.append(name)
    chosen = rng.permutation(len(source))[: sum(counts)].tolist()
    parts = np.split(np.array(chosen), np.cumsum(counts[:-1]))
    planted: dict[str, Any] = {"exact": [], "near": [], "conflicts": [], "broken": [], "bright": bright}

    def elsewhere(row: int, suffix: str, label: str) -> str:
        side = SIDES[(SIDES.index(str(sides[row])) + 1 + int(rng.integers(2))) % 3]
        return f"{side}/{label}/planted-{row:05d}{suffix}"

    for row in parts[0].tolist():
        name = elsewhere(row, Path(names[row]).suffix, source[row][1])
        shutil.copyfile(folder / names[row], folder / name)
        planted["exact"].append((names[row], name, ""))
    for count, row in enumerate(parts[1].tolist()):
        change, suffix = list(CHANGES.items())[count % len(CHANGES)]
        name = elsewhere(row, suffix, source[row][1])
        image = np.asarray(cv2.imread(str(folder / names[row]), cv2.IMREAD_GRAYSCALE))
        options = [cv2.IMWRITE_JPEG_QUALITY, 80] if suffix == ".jpg" else []
        cv2.imwrite(str(folder / name), changed(image, change, rng), options)
        planted["near"].append((names[row], name, change))
    for row in parts[2].tolist():
        other = classes[(classes.index(source[row][1]) + 1) % len(classes)]
        name = f"{sides[row]}/{other}/planted-{row:05d}{Path(names[row]).suffix}"
        shutil.copyfile(folder / names[row], folder / name)
        planted["conflicts"].append((names[row], name, ""))
    for count, row in enumerate(parts[3].tolist()):
        name = f"{sides[row]}/{source[row][1]}/planted-{row:05d}.png"
        (folder / name).write_bytes(broken((folder / names[row]).read_bytes(), count))
        planted["broken"].append(name)
    return planted


CHANGES = {"resized": ".png", "JPEG": ".jpg", "mirrored": ".png", "brightness": ".png", "all": ".jpg"}


def changed(image: np.ndarray, change: str, rng: np.random.Generator) -> np.ndarray:
    """(H, W) uint8 -> the same picture."""
    if change in ("mirrored", "all"):
        image = image[:, ::-1]
    if change in ("resized", "all"):
        side = (
            int(len(image) * rng.uniform(0.5, 0.9))
            if len(image) > 32
            else int(len(image) * rng.uniform(1.5, 3))
        )
        image = cv2.resize(
            image, (side, side), interpolation=cv2.INTER_AREA if len(image) > 32 else cv2.INTER_LINEAR
        )
    if change in ("brightness", "all"):
        image = np.clip(image * rng.choice([0.9, 1.1]), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)


def broken(data: bytes, kind: int) -> bytes:
    ways = (b"", data[: len(data) // 2], b"no image at all\n", data[:8] + b"\xff" * 8 + data[16:], data[:20])
    return ways[kind % len(ways)]


# Counting -------------------------------------------------------------------------------------------


def measured(source: Source, folder: Path, seed: int) -> dict[str, Any]:
    planted = plant(source, folder, seed)
    audit, seconds = checked(folder)
    shutil.rmtree(folder)
    speed = {"seconds": round(seconds, 1), "images_per_second": round(audit.images / seconds)}
    return {"seed": seed, **shares(audit, planted), **speed, "load": os.getloadavg()[0]}


def shares(audit: Any, planted: dict[str, Any]) -> dict[str, Any]:
    """Which part of each kind of fault was found, and which original images were named without cause."""
    sets: dict[str, list[set[str]]] = {}
    for finding in audit:
        sets.setdefault(finding.kind, []).extend(map(set, finding.files))

    def joined(pair: tuple[str, str, str], *kinds: str) -> bool:
        return any({*pair[:2]} <= found for kind in kinds for found in sets.get(kind, []))

    near: dict[str, list[bool]] = {}
    for pair in planted["near"]:
        near.setdefault(pair[2], []).append(joined(pair, "leak"))
    caused = {name for kind in ("exact", "near", "conflicts") for pair in planted[kind] for name in pair[:2]}
    said = [
        f
        for f in audit
        if f.kind == "shortcut" and f.figures["class"] in (planted["bright"], *_others(audit, planted))
    ]
    return {
        "exact": _share(
            [joined(pair, "exact-duplicates") and joined(pair, "leak") for pair in planted["exact"]]
        ),
        "near": _share([hit for hits in near.values() for hit in hits]),
        "near_by_change": {change: _share(hits) for change, hits in near.items()},
        "conflicts": _share([joined(pair, "label-conflicts") for pair in planted["conflicts"]]),
        "broken": _share([{name} in sets.get("unreadable", []) for name in planted["broken"]]),
        "shortcut": float(any(f.figures["family"] == "brightness" and f.severity == "warning" for f in said)),
        "brightness_score": max((f.figures["balanced_accuracy"]["low"] for f in said), default=None),
        "false_alarms": len(_alarms(audit) - caused - set(planted["broken"])) / audit.images,
    }


def _others(audit: Any, planted: dict[str, Any]) -> list[str]:
    """Of two classes the audit names one: what tells one tells the other."""
    return list(audit.classes) if len(audit.classes) == 2 else []


def _alarms(audit: Any) -> set[str]:
    """Images named by a warning or an error, and near-duplicates, which the split acts upon."""
    return {
        name
        for finding in audit
        if finding.severity != "note" or finding.kind == "near-duplicates"
        for together in finding.files
        for name in together
    }


def _share(hits: list[bool]) -> float:
    return round(sum(hits) / len(hits), 4)


def clean(source: Source, folder: Path) -> dict[str, Any]:
    """The set as it is, in class folders: what is said of it, and how fast."""
    for path, label in source:
        (folder / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / label / path.name)
    audit, seconds = checked(folder)
    shutil.rmtree(folder)
    return {
        "images": audit.images,
        "false_alarms": len(_alarms(audit)) / audit.images,
        "findings": [[finding.severity, finding.kind, finding.images, finding.text] for finding in audit],
        "seconds": round(seconds, 1),
        "images_per_second": round(audit.images / seconds),
        "load": os.getloadavg()[0],
    }


def checked(folder: Path) -> tuple[Any, float]:
    from rightfit.console import Console
    from rightfit.data.audit.check import check

    started = time.perf_counter()
    audit = check(str(folder), None, "auto", None, "6:1:2", 0, Console(quiet=True))
    return audit, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
