"""What a search has done, one line an event, appended and flushed: all that it decides by, and enough to go on from.

{"event": "begun", "space": ..., "asked": ...}
{"event": "ends", "trials": 40, "time_limit": "4h"}    of a search that goes on, in place of those it began with
{"event": "epochs", "epochs": 27, "seconds": 8.1}
{"event": "range_test", "rates": [...], "losses": [...], "suggested": 0.13, "steps": 99, "seconds": 6.0}
{"event": "trial", "trial": 3, "chosen": {...}}
{"event": "rung", "trial": 3, "seed": 0, "epochs": 9, "loss": 0.41, "steps": 900, "seconds": 12.5}
{"event": "failed", "trial": 3, "seed": 0, "why": "...", "seconds": 2.0}
{"event": "stopped"}    by Ctrl-C, SIGTERM or an error

Every line of a search at work has "used": the seconds, by the clock, that it has been at work so far.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rightfit.files import append_line


@dataclass
class Trial:
    number: int
    chosen: dict[str, Any]
    # By seed, what was measured after so many epochs: loss of the selection images.
    losses: dict[int, dict[int, float]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)  # by seed, taken so far
    seconds: dict[int, float] = field(default_factory=dict)  # by seed
    reported: dict[int, dict[str, Any]] = field(
        default_factory=dict
    )  # by seed, of the images kept for reporting
    failed: str = ""  # with its first seed
    lost: set[int] = field(default_factory=set)  # other seeds that failed

    def epochs(self, seed: int) -> int:
        return max(self.losses.get(seed, {}), default=0)

    def loss(self, seed: int, epochs: int) -> float | None:
        return self.losses.get(seed, {}).get(epochs)


@dataclass(frozen=True)
class Rung:
    """A trial that reached a rung, after so many more steps."""

    trial: int
    seed: int
    epochs: int
    loss: float
    steps: int


@dataclass
class Record:
    """All that a journal holds."""

    begun: dict[str, Any] = field(default_factory=dict)  # what the search was begun with
    range_test: dict[str, Any] = field(default_factory=dict)  # of the learning rate
    epochs: int = 0  # of a training, where the time limit decided it
    trials: list[Trial] = field(default_factory=list)
    rungs: list[Rung] = field(default_factory=list)  # in their order
    used: float = 0.0  # seconds by the clock
    failures: int = 0  # trials that failed, one after the other, since the search was last stopped

    @property
    def steps(self) -> int:
        """That the range test and all trials took."""
        spent: int = self.range_test.get("steps", 0)
        return spent + sum(rung.steps for rung in self.rungs)

    def best(self, epochs: int) -> list[tuple[int, float]]:
        """Steps spent, the range test's too, and the lowest loss after `epochs`, each time that one was reached."""
        found, spent, lowest = [], self.range_test.get("steps", 0), float("inf")
        for rung in self.rungs:
            spent += rung.steps
            if rung.epochs == epochs and rung.seed == 0:
                lowest = min(lowest, rung.loss)
                found.append((spent, lowest))
        return found


def read(path: Path) -> Record:
    """An empty record where there is no journal. A line that is cut short is left out."""
    found = Record()
    for line in _lines(path):
        found.used = line.get("used", found.used)
        if line["event"] == "begun":
            found.begun = line
        elif line["event"] == "ends":
            found.begun |= {name: line[name] for name in ("trials", "time_limit") if line[name] is not None}
        elif line["event"] == "range_test":
            found.range_test = line
        elif line["event"] == "epochs":
            found.epochs = line["epochs"]
        elif line["event"] == "trial":
            found.trials.append(Trial(line["trial"], line["chosen"]))
        elif line["event"] == "failed":
            if line["seed"]:
                found.trials[line["trial"]].lost.add(line["seed"])
            else:
                found.failures += 1
                found.trials[line["trial"]].failed = line["why"]
        elif line["event"] == "stopped":
            found.failures = 0
        elif line["event"] == "rung":
            trial, seed, found.failures = found.trials[line["trial"]], line["seed"], 0
            steps = line["steps"] - trial.steps.get(seed, 0)
            found.rungs.append(Rung(trial.number, seed, line["epochs"], line["loss"], steps))
            trial.losses.setdefault(seed, {})[line["epochs"]] = line["loss"]
            trial.steps[seed] = line["steps"]
            trial.seconds[seed] = trial.seconds.get(seed, 0.0) + line["seconds"]
            if "reported" in line:
                trial.reported[seed] = line["reported"]
    return found


def write(path: Path, event: str, **values: Any) -> None:
    append_line(path, json.dumps({"event": event, **values}, ensure_ascii=False))


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        yield found
