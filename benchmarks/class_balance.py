"""What weighing classes brings where some are rare, and what it costs: Fashion-MNIST and solar cells made uneven.

    none       each image counts as one
    auto       the default: images weigh inverse to the square root of their class's count
    balanced   inverse to the count, so that classes count alike
    deferred   balanced from the middle of the epochs on, none before (as Cao et al. 2019 weigh)

Training and validation images are uneven alike. The test images are not; they are counted twice: as many of each class
as in training, by weights ("as they come"), and all classes alike ("by class"). `--doctor off`, all else by default.

    python benchmarks/class_balance.py            what is not in the results yet, a run a core; half an hour
    python benchmarks/class_balance.py --table    the table of docs/benchmarks.md from benchmarks/results
    python benchmarks/class_balance.py --quick    one task, few epochs; shows that it runs
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from common import installed, lines_asked, lines_parser, markdown, not_taken, read_lines, worked_off
from doctor import PACKAGES, Arrays, apart, mean, missing, set_up, source_of, values, with_the_loop

WAYS = ("none", "auto", "balanced", "deferred")
LATE = 0.5  # of the epochs


@dataclass(frozen=True)
class Task:
    source: str  # as of doctor.py
    images: int  # drawn, before classes are thinned out
    side: int  # px
    epochs: int
    ratio: float  # how many times rarer the rarest class is made
    tail: bool = False  # counts fall from class to class by one factor; else every second class is rare


TASKS = {
    "every second class 3 times rarer": Task("fashion", 1_000, 16, 40, 3),
    "every second class 10 times rarer": Task("fashion", 2_000, 16, 40, 10),
    "a tail, 20 to 1": Task("fashion", 1_500, 16, 40, 20, tail=True),
    "a tail, 100 to 1": Task("fashion", 6_000, 16, 30, 100, tail=True),
    "solar cells, one class 10 times rarer": Task("elpv", 2_000, 32, 20, 10),
}
FIGURES = {"as they come": 1, "by class": 1, "loss": 3, "loss by class": 3}  # with their digits


def main() -> int:
    args, output = lines_asked(lines_parser(__doc__, seeds=3), "class_balance")
    if args.table:
        print(tables(read_lines(output)))
        return 0
    tasks, seeds = (list(TASKS)[:1], 1) if args.quick else (list(TASKS), args.seeds)
    there = [name for name in tasks if not missing(TASKS[name].source)]
    runs = not_taken(read_lines(output), there, WAYS, seeds)
    for row in worked_off(
        runs, functools.partial(measured, quick=args.quick), output, args.processes, args.minutes
    ):
        print(f"  {row['task']}, seed {row['seed']}, {row['way']}: {row['as they come']:.1f} % as they come, "
              f"{row['by class']:.1f} % by class, in {row['seconds']:.0f} s", flush=True)  # fmt: skip
    return 0


def drawn(task: Task, seed: int) -> tuple[Arrays, Arrays]:
    """The uneven images to learn from, and the even ones of the test."""
    (images, codes), test = source_of(task.source, task.side)
    generator = np.random.default_rng([seed, 77])
    chosen = generator.permutation(len(images))[: task.images]
    count = int(codes.max()) + 1
    if task.tail:
        share = task.ratio ** (-generator.permutation(count) / (count - 1))
    else:
        share = np.where(np.arange(count) % 2, 1 / task.ratio, 1.0)
    chosen = chosen[generator.random(len(chosen)) < share[codes[chosen]]]
    return (images[chosen], codes[chosen]), test


def measured(run: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    started, task, seed, way = time.monotonic(), TASKS[run["task"]], run["seed"], run["way"]
    weights = "balanced" if way == "deferred" else way
    changes = {"doctor": "off", "epochs": 3 if quick else task.epochs, "class_weights": weights}
    setup = set_up(drawn(task, seed), task.side, seed, changes)
    if way == "deferred":
        setup = replace(setup, loader=deferred(setup.loader, LATE * changes["epochs"]))
    judge, _, epochs = with_the_loop(setup)
    val, told = setup.judged(judge)
    test_labels, count, counts = setup.labels, setup.count, setup.facts.class_counts
    right = told.logits.argmax(axis=1) == test_labels
    losses = told.losses(val.temperature)
    right_of, loss_of = (
        np.array([of[test_labels == code].mean() for code in range(count)]) for of in (right, losses)
    )
    shares = np.array(counts) / sum(counts)
    return {
        **run,
        "of": repr(task),
        "counts": counts,
        "as they come": round(100 * float(shares @ right_of), 3),
        "by class": round(100 * float(right_of.mean()), 3),
        "loss": round(float(shares @ loss_of), 5),
        "loss by class": round(float(loss_of.mean()), 5),
        "epochs": epochs,
        "versions": installed(PACKAGES),
        "seconds": round(time.monotonic() - started, 1),
    }


def deferred(loader: Any, epoch: float) -> Any:
    """The loader, whose images count as one before that epoch."""
    from rightfit.data.loader import Batch, TrainLoader

    class Deferred(TrainLoader):
        def batch(self, at: int, step: int) -> Batch:
            made = super().batch(at, step)
            return made if at >= epoch else made._replace(weights=np.ones_like(made.weights))

    return Deferred(**{field.name: getattr(loader, field.name) for field in fields(loader)})


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: each way by task, the test's images counted as they come and by class; differences over tasks."""
    rows = [row for row in rows if row["task"] in TASKS and row["of"] == repr(TASKS[row["task"]])]
    if not rows:
        return "Not measured yet.\n"
    names = [name for name in TASKS if values(rows, name, "none", "loss")]
    parts = []
    for one, other, unit in (
        ("as they come", "by class", "accuracy, %"),
        ("loss", "loss by class", "loss, nats"),
    ):
        header = [
            unit,
            "seeds",
            *(f"{way}, as they come" for way in WAYS),
            *(f"{way}, by class" for way in WAYS),
        ]
        lines = [
            [name, len(values(rows, name, "none", one)),
             *(mean(values(rows, name, way, figure), FIGURES[figure]) for figure in (one, other) for way in WAYS)]
            for name in names
        ]  # fmt: skip
        parts.append(markdown(header, lines))
    said = []
    for figure, called in (("as they come", "counted as they come"), ("by class", "by class")):
        of_task = {way: dict(enumerate(_means(rows, names, way, figure))) for way in WAYS}
        against = ", ".join(
            f"{apart(of_task['auto'], of_task[way], 1)} against {way}" for way in WAYS if way != "auto"
        )
        said.append(f"{called} {against}")
    ending = (
        f"auto less the others in points of accuracy, the mean of {len(names)} tasks with intervals over tasks: "
        f"{'; '.join(said)}."
    )
    return "\n\n".join([*parts, ending]) + "\n"


def _means(rows: list[dict[str, Any]], names: list[str], way: str, figure: str) -> list[float]:
    return [float(np.mean(list(values(rows, name, way, figure).values()))) for name in names]


if __name__ == "__main__":
    sys.exit(main())
