"""Would an average over the last epochs be better than the weights that are kept? Tasks and seeds of doctor.py.

rightfit keeps weights that are averaged over the last 2 % of the steps, of one epoch. Here the same weights of the last
5, 10, 20 and 40 % of the epochs up to that one are averaged once more, moving statistics and all (as Izmailov et al.
2018, section 3, but for their second pass), and looked at beside it. `by validation` takes of all five the one with the
lowest validation loss, as a run could.

    python benchmarks/soup.py            what is not in the results yet, a run a core; half an hour
    python benchmarks/soup.py --table    the table of docs/doctor.md from benchmarks/results
    python benchmarks/soup.py --quick    one task, few epochs; shows that it runs
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from common import installed, lines_asked, lines_parser, markdown, not_taken, read_lines, worked_off
from doctor import PACKAGES, TASKS, apart, drawn, missing, set_up, with_the_loop

SHARES = (0.05, 0.1, 0.2, 0.4)  # of the epochs
WAYS = ("off", "act")
ASKED = [name for name in TASKS if TASKS[name].settings["epochs"] <= 40]


def main() -> int:
    args, output = lines_asked(lines_parser(__doc__, seeds=2), "soup")
    if args.table:
        print(tables(read_lines(output)))
        return 0
    tasks, seeds = (["digits, 200"], 1) if args.quick else (ASKED, args.seeds)
    there = [name for name in tasks if not missing(TASKS[name].source)]
    runs = not_taken(read_lines(output), there, WAYS, seeds)
    taken = functools.partial(measured, quick=args.quick)
    for row in worked_off(runs, taken, output, args.processes, args.minutes):
        print(f"  {row['task']}, seed {row['seed']}, {row['way']}: {row['looks'][0]['accuracy']:.2f} % in "
              f"{row['seconds']:.0f} s", flush=True)  # fmt: skip
    return 0


def measured(run: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    started, task = time.monotonic(), TASKS[run["task"]]
    asked = {"mirror": task.source != "digits", "doctor": run["way"], **task.settings}
    if quick:
        asked["epochs"] = 3
    setup = set_up(drawn(task, run["seed"]), task.side, run["seed"], asked, task.rate)
    with _Epochs() as epochs:
        judge, _, _ = with_the_loop(setup)
    kept = epochs.progress.best_epoch
    looks = []
    for share in (0, *SHARES):
        count = max(1, round(share * epochs.progress.epochs))
        if count > kept:
            break
        judge.set_weights(
            [np.mean(each, axis=0) for each in zip(*epochs.weights[kept - count : kept], strict=True)]
        )
        val, told = setup.judged(judge)
        looks.append({
            "share": share,
            "accuracy": round(100 * told.result.accuracy, 3),
            "loss": round(float(told.losses(val.temperature).mean()), 5),
            "val_loss": round(float(val.losses(val.temperature).mean()), 5),
        })  # fmt: skip
    return {
        **run, "of": repr(task), "kept": kept, "looks": looks, "versions": installed(PACKAGES),
        "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


class _Epochs:
    """While it is open, the weights that each epoch's end would keep; a run holds those of the best one alone."""

    def __enter__(self) -> _Epochs:
        from rightfit.training.running import Training

        self.weights: list[list[np.ndarray]] = []
        self.progress: Any = None
        self.of, self.one_epoch = Training, Training.one_epoch

        def one_epoch(training: Any) -> Any:
            row = self.one_epoch(training)
            del self.weights[training.progress.epoch - 1 :]  # after a setback
            self.weights.append([np.array(weight) for weight in training.step.weights(averaged=True)])
            self.progress = training.progress
            return row

        Training.one_epoch = one_epoch  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        self.of.one_epoch = self.one_epoch  # type: ignore[method-assign]


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: what each average brings over the kept weights, by the mean over tasks."""
    rows = [row for row in rows if row["task"] in ASKED and row["of"] == repr(TASKS[row["task"]])]
    names = [name for name in ASKED if {row["way"] for row in rows if row["task"] == name} == set(WAYS)]
    if not names:
        return "Not measured yet.\n"
    header = ["", *(f"last {100 * share:.0f} % of the epochs" for share in SHARES), "by validation"]
    lines = []
    for way in WAYS:
        for figure, unit, digits in (("accuracy", "accuracy, points", 2), ("loss", "loss, nats", 4)):
            found = [
                _gains([row for row in rows if (row["task"], row["way"]) == (name, way)], figure)
                for name in names
            ]
            nothing = dict.fromkeys(range(len(names)), 0.0)
            cells = [apart(dict(enumerate(of_share)), nothing, digits) for of_share in np.transpose(found)]
            lines.append([f"{way}: {unit}", *cells])
    ending = (
        f"Means of {len(names)} tasks ({len(rows)} runs), less the kept weights, on the test images, with 95 % "
        "intervals over tasks."
    )
    return f"{markdown(header, lines)}\n\n{ending}\n"


def _gains(rows: list[dict[str, Any]], figure: str) -> list[float]:
    """Over the kept weights, by share and by validation, the mean of seeds; where a run has not so many epochs, its
    longest average stands for it."""
    found = []
    for row in rows:
        looks = row["looks"]
        asked = [looks[min(number, len(looks) - 1)] for number in range(1, len(SHARES) + 1)]
        chosen = min(looks, key=lambda look: look["val_loss"])
        found.append([look[figure] - looks[0][figure] for look in (*asked, chosen)])
    return [float(each) for each in np.mean(found, axis=0)]


if __name__ == "__main__":
    sys.exit(main())
