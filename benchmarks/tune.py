"""Does a search find good settings sooner than chance, and does it tell the truth about them?

    python benchmarks/tune.py                    what is not in the results yet; hours
    python benchmarks/tune.py --task NAME ...    only these
    python benchmarks/tune.py --table            what was found, from benchmarks/results/tune.jsonl
    python benchmarks/tune.py --quick            a few tiny trials; shows that it runs

Both searches see the same images and the same ranges, which are bad on purpose: learning rates over four and a half
decades. Random search trains 64 trials to their ends. Of rightfit's, with 32 trials at most, it is counted how many
training steps it took to a trial whose selection loss is as low as the best of the 64, the steps of its default recipe
among them. Then what each search would tell is held against the sealed test, which this script alone opens: rightfit's
figure of the reporting half, and the selection loss of the best of the 64, which chose it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import QUICK, RESULTS, installed, text_table
from doctor import drawn_from, read

RANDOM, TRIALS = 64, 32
SPACE = """\
learning_rate: {low: 0.00003, high: 1, log: true}
weight_decay: {low: 0.00001, high: 1, log: true}
strength: {low: 0, high: 1}
augment: [none, light, medium, strong]
"""


@dataclass(frozen=True)
class Task:
    source: str
    images: int
    side: int
    epochs: int


TASKS = {
    "fashion, 10,000": Task("fashion", 10_000, 16, 9),
    "digits": Task("digits", 1_000, 8, 27),
    "solar cells": Task("elpv", 2_000, 96, 18),
}


def main() -> int:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--table", action="store_true", help="print the table instead")
    made.add_argument("--quick", action="store_true", help="a minute; shows that it runs")
    args = made.parse_args()
    output = (QUICK if args.quick else RESULTS) / "tune.jsonl"
    if args.table:
        print(table(read(output)))
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    tasks = {name: TASKS[name] for name in args.task}
    counts, seeds = (RANDOM, TRIALS), args.seeds
    if args.quick:
        tasks, counts, seeds = {"digits": Task("digits", 400, 8, 6)}, (3, 3), 1
        output.unlink(missing_ok=True)
    done = {(row["task"], row["of"], row["seed"]) for row in read(output)}
    for seed in range(seeds):
        for name, task in tasks.items():
            if (name, repr(task), seed) in done:
                continue
            row = {"task": name, "of": repr(task), "seed": seed, **compared(task, seed, *counts)}
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(table(read(output)))
    return 0


def compared(task: Task, seed: int, chance: int, trials: int) -> dict[str, Any]:
    """Both searches on one draw of the images."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from rightfit import asking, beginning, runtime
    from rightfit.console import Console
    from rightfit.data.dataset import prepare
    from rightfit.trials import FOLDER, Search
    from rightfit.tuning import space
    from rightfit.tuning.choosing import choose

    runtime.choose_backend("tensorflow")
    with tempfile.TemporaryDirectory() as work:
        os.environ["RIGHTFIT_CACHE"] = work
        ranges = Path(work) / "space.yaml"
        ranges.write_text(SPACE, encoding="utf-8")
        knobs = space.from_file(ranges)
        settings = {
            "epochs": task.epochs,
            "seed": seed,
            "precision": "float32",
            "report": "none",
            "weights": "none",
        }
        asked, source = asking.settled(drawn_from(task.source, task.images, task.side, seed), None, settings)
        console = Console(quiet=True)
        dataset, asked = prepare(source, asked, console)
        _, base, facts, _ = beginning.planned(dataset, asked, console)

        def search(name: str, most: int) -> Search:
            place = Path(work) / name
            (place / FOLDER).mkdir(parents=True)
            told = Console(quiet=False)
            return Search(
                place, dataset, asked, base, facts, knobs, most, None, told, "tensorflow", "float32"
            )

        ours = search("ours", trials)
        ours.run()
        choice = choose(ours.trials, ours.levels)
        assert choice is not None
        chosen = judged(ours, ours.trials[choice.trial].chosen, "chosen")
        reported = list(ours.trials[choice.trial].reported.values())
        told = {name: float(np.mean([each[name] for each in reported])) for name in ("loss", "loss_half")}
        theirs, found = search("theirs", chance), []
        for number in range(chance):
            found.append(judged(theirs, at_random(knobs, [seed, number]), f"{number:02d}"))
            print(f"  at random {number + 1} of {chance}: {found[-1]['selection']['loss']:.4f}", flush=True)
        best = min(found, key=lambda each: each["selection"]["loss"])
        return {
            "ours": {
                "best": ours.record.best(ours.levels[-1]),
                "told": told,
                "test": chosen["test"],
                "steps": sum(rung.steps for rung in ours.record.rungs),
            },
            "random": {
                "losses": [each["selection"]["loss"] for each in found],
                "steps": sum(each["steps"] for each in found),
                "told": best["selection"],
                "test": best["test"],
            },
            "recipe": asdict(task),
            "versions": installed(("keras", "tensorflow-cpu", "numpy", "optuna")),
        }


def judged(search: Any, chosen: dict[str, Any], name: str) -> dict[str, Any]:
    """One training to the end, and what it says of the selection half and of the test."""
    from rightfit.trials import IN_A_TRIAL

    asked = search.settings_of(chosen, 0).model_copy(update=IN_A_TRIAL)
    progress, job, steps = search.train(asked, name, None)
    rows = {"selection": search.selection, "test": search.dataset.table.rows("test")}
    figures = {of: search.figures_of(job, progress, at) for of, at in rows.items()}
    return {**figures, "steps": progress.epoch * steps}


def at_random(knobs: Any, seed: list[int]) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for knob in knobs:
        if knob.choices:
            found[knob.name] = knob.choices[generator.integers(len(knob.choices))]
        elif knob.log:
            found[knob.name] = float(np.exp(generator.uniform(math.log(knob.low), math.log(knob.high))))
        else:
            found[knob.name] = float(generator.uniform(knob.low, knob.high))
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """By task: steps to the best of the random search as a share of its own, and errors of what was told."""
    lines = [
        [
            "task",
            "seeds",
            "reached",
            "share of the steps",
            "told less test, rightfit",
            "told less test, best of N",
        ]
    ]
    for name in dict.fromkeys(row["task"] for row in rows):
        of = [row for row in rows if row["task"] == name]
        shares = [share for row in of if (share := share_of(row)) is not None]
        lines.append(
            [name, str(len(of)), f"{len(shares)} of {len(of)}", spread(shares, "{:.3f}")]
            + [spread([row[who]["told"]["loss"] - row[who]["test"]["loss"] for row in of], "{:+.4f}")
               for who in ("ours", "random")]
        )  # fmt: skip
    return text_table(lines)


def share_of(row: dict[str, Any]) -> float | None:
    """Of random search's steps, those after which rightfit's had a trial as good as its best; None for never."""
    goal = min(row["random"]["losses"])
    spent = next((steps for steps, loss in row["ours"]["best"] if loss <= goal), None)
    return None if spent is None else spent / row["random"]["steps"]


def spread(values: list[float], form: str) -> str:
    """Mean and half of its 95 % interval by Student's t."""
    if not values:
        return "–"
    told = form.format(np.mean(values))
    if len(values) < 2:
        return told
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{told} ±{form.format(half).lstrip('+')}"


if __name__ == "__main__":
    sys.exit(main())
