"""Does a search find good settings sooner than chance, and does it tell the truth about them?

    python benchmarks/tune.py                    what is not in the results yet, a run a core; hours
    python benchmarks/tune.py --task NAME ...    only these
    python benchmarks/tune.py --table            the table of docs/how-to/tune.md from benchmarks/results
    python benchmarks/tune.py --quick            a few tiny trials; shows that it runs

Both searches see the same images and the same ranges, which are bad on purpose: learning rates over four and a half
decades. Random search trains 64 trials to their ends. Of rightfit's, with 48 trials at most, which take about a
third of those steps, it is counted how many it took to a trial whose selection loss is as low as the best of the 64,
the steps of its default recipe among them. Then what each search would tell is held against the sealed test, which
this script alone opens: rightfit's figure of the reporting half, and the selection loss of the best of the 64, which
chose it. Losses are at the temperature that suits the selection half.

Each line of the results is one random trial, or one whole search of rightfit's; it can be stopped and started again.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import installed, lines_asked, lines_parser, markdown, read_lines, worked_off
from doctor import drawn_from, missing

if TYPE_CHECKING:
    from rightfit.trials import Trials
    from rightfit.tuning.space import Space

PACKAGES = ("keras", "tensorflow-cpu", "numpy", "optuna")
RANDOM, TRIALS = 64, 48
SPACE = {
    "learning_rate": {"low": 0.00003, "high": 1, "log": True},
    "weight_decay": {"low": 0.00001, "high": 1, "log": True},
    "strength": {"low": 0, "high": 1},
    "augment": ["none", "light", "medium", "strong"],
}


@dataclass(frozen=True)
class Task:
    source: str
    images: int
    side: int
    epochs: int
    precision: str = "float32"
    model: str = "resnet8"  # a thousand trainings are taken


TASKS = {
    "digits": Task("digits", 1_000, 8, 27),
    "fashion, 10,000": Task("fashion", 10_000, 16, 6),
    "solar cells": Task("elpv", 1_000, 96, 6, "bfloat16"),
}


def main() -> int:
    made = lines_parser(__doc__, seeds=5)
    made.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    args, output = lines_asked(made, "tune")
    if args.table:
        print(tables(read_lines(output)))
        return 0
    names, chance, seeds = args.task, RANDOM, args.seeds
    if args.quick:
        names, chance, seeds = ["digits"], 3, 1
    done = {key_of(row) for row in read_lines(output)}
    asked = [
        {"task": name, "of": repr(TASKS[name]), "seed": seed, "trial": trial}
        for seed in range(seeds)
        for name in names
        for trial in (None, *range(chance))
        if not missing(TASKS[name].source)
    ]
    ready = [run for run in asked if key_of(run) not in done]
    print(f"tune: {len(ready)} runs to take, {len(done)} are there")
    for row in worked_off(
        ready, functools.partial(measured, quick=args.quick), output, args.processes, args.minutes
    ):
        who = "rightfit" if row["trial"] is None else f"at random {row['trial'] + 1}"
        print(
            f"  {row['task']}, seed {row['seed']}, {who}: {row['loss']:.4f} in {row['seconds']:.0f} s",
            flush=True,
        )
    print(tables(read_lines(output)))
    return 0


def key_of(row: dict[str, Any]) -> str:
    return json.dumps([row["task"], row["of"], row["seed"], row["trial"]])


def measured(run: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    """One trial at random, or all that rightfit's search does, with what the sealed test says of it."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    from rightfit import runtime

    runtime.choose_backend("tensorflow")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        own = trials_of(TASKS[run["task"]], run["seed"], Path(work), quick)
        found = searched(own, 4 if quick else TRIALS) if run["trial"] is None else at_random(own, run)
    import keras

    keras.utils.clear_session(free_memory=True)  # a process takes many of these
    return {**run, **found, "versions": installed(PACKAGES), "seconds": round(time.monotonic() - began, 1)}


def trials_of(task: Task, seed: int, work: Path, quick: bool) -> Trials:
    from rightfit import asking, beginning
    from rightfit.console import Console
    from rightfit.trials import FOLDER, Trials

    os.environ["RIGHTFIT_CACHE"] = str(work / "cache")
    (work / "search" / FOLDER).mkdir(parents=True)
    settings = {
        "model": task.model, "epochs": 6 if quick else task.epochs, "seed": seed, "precision": task.precision,
        "report": "none", "weights": "none", "backend": "tensorflow",
    }  # fmt: skip
    console = Console(quiet=True)
    asked, source = asking.settled(drawn_from(task.source, task.images, task.side, seed), None, settings)
    prepared = beginning.prepared(asked, source, None, console)
    _, base, facts, _ = beginning.planned(prepared.dataset, prepared.asked, console)
    return Trials(work / "search", prepared, base, facts)


def space() -> Space:
    from rightfit.tuning.space import from_mapping

    return from_mapping(SPACE)


def searched(own: Trials, most: int) -> dict[str, Any]:
    """rightfit's search: the lowest loss by steps spent, what it would tell, and the chosen settings on the test."""
    from rightfit.console import Console
    from rightfit.places import Here
    from rightfit.study import Study
    from rightfit.tuning.choosing import choose

    quiet = Console(quiet=True)
    study = Study(own, space(), most, None, quiet, Here(own, quiet))
    study.run()
    choice = choose(study.trials, study.levels)
    assert choice is not None
    trial = study.trials[choice.trial]
    reported = list(trial.reported.values())
    told = {name: float(np.mean([each[name] for each in reported])) for name in ("loss", "loss_half")}
    best = study.record.best(study.levels[-1])
    test, _ = trained(own, trial.chosen)
    return {
        "loss": best[-1][1], "best": best, "told": told, "test": test["test"], "steps": study.record.steps,
        "range_test": study.record.range_test.get("suggested"), "chosen": choice.trial, "settings": trial.chosen,
    }  # fmt: skip


def at_random(own: Trials, run: dict[str, Any]) -> dict[str, Any]:
    """One trial; of one that fails, as its loss is no number any more, no steps are counted."""
    from rightfit.errors import RightfitError

    generator = np.random.default_rng([run["seed"], run["trial"]])
    chosen: dict[str, Any] = {}
    for knob in space():
        if knob.choices:
            chosen[knob.name] = knob.choices[generator.integers(len(knob.choices))]
        elif knob.log:
            chosen[knob.name] = float(np.exp(generator.uniform(math.log(knob.low), math.log(knob.high))))
        else:
            chosen[knob.name] = float(generator.uniform(knob.low, knob.high))
    try:
        figures, steps = trained(own, chosen)
    except RightfitError as error:
        return {"loss": math.inf, "steps": 0, "settings": chosen, "failed": str(error)}
    selected = figures["selection"]
    return {
        "loss": selected["loss"], "told": selected, "test": figures["test"], "steps": steps, "settings": chosen,
    }  # fmt: skip


def trained(own: Trials, chosen: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """One training to the end: what it says of the selection half and of the test, and its steps."""
    from rightfit.aside import figures_of
    from rightfit.trials import IN_A_TRIAL

    assert own.base.epochs
    asked = own.settings_of(chosen, 0, own.base.epochs).model_copy(update=IN_A_TRIAL)
    progress, job, steps = own.train(asked, "to-the-end", None)
    parts = own.selection, own.dataset.table.rows("test")
    selection, test = figures_of(job, progress, *parts, calibrated=True)
    return {"selection": selection, "test": test}, progress.epoch * steps


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: by task, steps to the best of the random search as a share of its own, what both searches chose, and
    how far each was from the test in what it told."""
    header = [
        "task", "seeds", "reached", "share of the steps, %", "test loss of its choice, nats",
        f"of the best of {RANDOM}", "what it told − test", f"what the best of {RANDOM} told − test",
    ]  # fmt: skip
    lines = []
    for name in TASKS:
        pairs = [pair for seed in range(64) if (pair := pair_of(rows, name, seed))]
        if not pairs:
            continue
        shares = [share for ours, chance in pairs if (share := share_of(ours, chance)) is not None]
        searches = (
            [ours for ours, _ in pairs],
            [min(chance, key=lambda row: row["loss"]) for _, chance in pairs],
        )
        losses = [spread([row["test"]["loss"] for row in of], "{:.3f}") for of in searches]
        lines.append(
            [name, len(pairs), f"{len(shares)} of {len(pairs)}", spread([100 * s for s in shares], "{:.0f}")]
            + losses + [apart(of) for of in searches]
        )  # fmt: skip
    return f"{markdown(header, lines)}\n" if lines else "Not measured yet.\n"


def apart(searches: list[dict[str, Any]]) -> str:
    """How far what was told is above the test, and in how many searches by no more than the interval of the two."""
    found = [row["told"]["loss"] - row["test"]["loss"] for row in searches]
    halves = [math.hypot(row["told"]["loss_half"], row["test"]["loss_half"]) for row in searches]
    within = sum(abs(far) <= half for far, half in zip(found, halves, strict=True))
    return f"{spread(found, '{:+.3f}')}; {within} of {len(found)} within"


def pair_of(
    rows: list[dict[str, Any]], name: str, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """rightfit's search and the random trials of one seed, where both are whole."""
    found = [
        row for row in rows if row["task"] == name and row["seed"] == seed and row["of"] == repr(TASKS[name])
    ]
    ours = [row for row in found if row["trial"] is None]
    chance = [row for row in found if row["trial"] is not None]
    return (ours[0], chance) if ours and len(chance) == RANDOM else None


def share_of(ours: dict[str, Any], chance: list[dict[str, Any]]) -> float | None:
    """Of random search's steps, those after which rightfit's had a trial as good as its best; None for never."""
    goal = min(row["loss"] for row in chance)
    spent = next((steps for steps, loss in ours["best"] if loss <= goal), None)
    return None if spent is None else spent / sum(row["steps"] for row in chance)


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
