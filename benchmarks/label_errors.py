"""Does `rightfit suspects` find wrong labels? Some are planted in Fashion-MNIST, and what is found is counted.

    python benchmarks/label_errors.py --data build/fashion     10,000 images, 500 of them under another label
    python benchmarks/label_errors.py --quick                  1,500 images, 75 wrong labels; a minute

`python examples/fashion_mnist.py build/fashion` makes the images. A random 5 % of them get one of the other nine
classes, each as likely, by seed. A small net is trained on these labels (8:2, no test set, since no test image is
looked at), and `suspects` is run on the result. Precision counts planted errors only: what the data set's own labels
have wrong, and what nobody could tell from a shirt, count as false alarms.

Beside the run's own way, which is the heads of five folds on the net's features: the probabilities of the net
itself, which has seen the labels of its training images.

Writes benchmarks/results/label_errors.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import QUICK, RESULTS, ROOT, describe_machine, versions

SHARE = 0.05
RECALL = 0.6
GOALS = {"precision": 0.8, "recall": RECALL}


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--data", type=Path, default=ROOT / "build" / "fashion")
    made.add_argument("--images", type=int, default=10_000)
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--output", type=Path, default=None, help="JSON file to write")
    made.add_argument("--quick", action="store_true", help="a minute; shows that it runs")
    args = made.parse_args()
    if not (args.data / "train").is_dir():
        print(f"left out: {args.data} is not there (`python examples/fashion_mnist.py {args.data}` makes it)")
        return 0
    images, epochs = (1500, 8) if args.quick else (args.images, args.epochs)
    with tempfile.TemporaryDirectory(prefix="rightfit-label-errors-") as work:
        found = measured(args.data / "train", Path(work), images, epochs, args.seed)
    result = {
        "benchmark": "label_errors",
        "settings": {
            "images": images,
            "epochs": epochs,
            "seed": args.seed,
            "quick": args.quick,
            "goals": GOALS,
        },
        "machine": describe_machine(),
        "versions": versions(),
        "found": found,
    }
    output = args.output or (QUICK if args.quick else RESULTS) / "label_errors.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, figures in found.items():
        print(name, json.dumps(figures))
    print("→", output)
    return 0


def plant(source: Path, table: Path, count: int, seed: int) -> dict[str, tuple[str, str]]:
    """A table of `count` images in which SHARE of the labels are wrong; path -> (label, truth)."""
    rng = np.random.default_rng([seed, 1])
    files = sorted(source.glob("*/*.png"))
    classes = sorted({path.parent.name for path in files})
    chosen = rng.permutation(len(files))[:count]
    labels = {}
    for place, number in enumerate(chosen.tolist()):
        truth = label = files[number].parent.name
        if place < round(SHARE * count):
            label = str(rng.choice([name for name in classes if name != truth]))
        labels[str(files[number].resolve())] = (label, truth)
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows((path, label) for path, (label, _) in sorted(labels.items()))
    return labels


def measured(source: Path, work: Path, images: int, epochs: int, seed: int) -> dict[str, Any]:
    import rightfit

    labels = plant(source, work / "labels.csv", images, seed)
    wrong = {path for path, (label, truth) in labels.items() if label != truth}
    started = time.perf_counter()
    run = rightfit.train(
        work / "labels.csv", model="resnet20", image_size=28, split="8:2", epochs=epochs, precision="float32",
        output=str(work / "run"), cache_folder=str(work / "cache"),
    )  # fmt: skip
    trained = time.perf_counter()
    frame = rightfit.suspects(run)
    seconds = {"train": trained - started, "suspects": time.perf_counter() - trained}
    paths = frame["path"].tolist()
    right = [labels[path][1] == said for path, said in zip(paths, frame["suggested"], strict=True)]
    corrected = sum(good for path, good in zip(paths, right, strict=True) if path in wrong)
    return {
        "planted": len(wrong),
        "validation_accuracy": run.metrics["validation"]["accuracy"]["value"],
        "heads of five folds": counted(paths, wrong),
        "suggestion_right": round(corrected / max(1, len(wrong & set(paths))), 4),
        "the net itself": counted(by_the_net(run), wrong),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "load": os.getloadavg()[0],
    }


def counted(paths: list[str], wrong: set[str]) -> dict[str, Any]:
    """Precision and recall of a list, and its precision where it has reached a recall of RECALL."""
    hits = np.cumsum([path in wrong for path in paths])
    total = int(hits[-1]) if len(hits) else 0
    enough = np.flatnonzero(hits >= RECALL * len(wrong))
    reached = int(enough[0]) if len(enough) else None
    return {
        "suspects": len(paths),
        "precision": round(total / max(1, len(paths)), 4),
        "recall": round(total / len(wrong), 4),
        "precision_at_recall_0.6": None
        if reached is None
        else round(float(hits[reached]) / (reached + 1), 4),
    }


def by_the_net(run: Any) -> list[str]:
    """What the net's own probabilities make suspicious."""
    from rightfit.console import Console
    from rightfit.evaluation import label_errors
    from rightfit.evaluation.metrics import probabilities

    dataset = run.seen_images()
    table = dataset.table
    rows = np.concatenate([table.rows(split) for split in ("train", "val")])
    logits = np.concatenate([run.logits(split, Console(quiet=True)) for split in ("train", "val")])
    shares = probabilities(logits, run.label_mode, run.calibration.temperature)
    judged = label_errors.suspects(shares, table.codes()[rows], run.label_mode, run.classes)
    return table.paths(rows[[suspect.position for suspect in judged.found]])


if __name__ == "__main__":
    sys.exit(main())
