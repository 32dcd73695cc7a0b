"""What a search has done, one line an event, appended and flushed: all that it decides by, and enough to go on from.

{"event": "begun", "space": ..., "asked": ...}
{"event": "trial", "trial": 3, "chosen": {...}}
{"event": "rung", "trial": 3, "seed": 0, "epochs": 9, "loss": 0.41, "half": 0.03, "steps": 900, "seconds": 12.5}
{"event": "failed", "trial": 3, "seed": 0, "why": "..."}
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
    reported: dict[int, dict[str, Any]] = field(
        default_factory=dict
    )  # by seed, of the images kept for reporting
    failed: str = ""

    def epochs(self, seed: int) -> int:
        return max(self.losses.get(seed, {}), default=0)

    def loss(self, seed: int, epochs: int) -> float | None:
        return self.losses.get(seed, {}).get(epochs)


def read(path: Path) -> tuple[dict[str, Any], list[Trial]]:
    """What the search was begun with ({} for none), and its trials. A last line that a kill cut short is left out."""
    begun: dict[str, Any] = {}
    trials: list[Trial] = []
    for line in _lines(path):
        if line["event"] == "begun":
            begun = line
        elif line["event"] == "trial":
            trials.append(Trial(line["trial"], line["chosen"]))
        elif line["event"] == "failed":
            trials[line["trial"]].failed = line["why"]
        elif line["event"] == "rung":
            trial, seed = trials[line["trial"]], line["seed"]
            trial.losses.setdefault(seed, {})[line["epochs"]] = line["loss"]
            trial.steps[seed] = line["steps"]
            if "reported" in line:
                trial.reported[seed] = line["reported"]
    return begun, trials


def write(path: Path, event: str, **values: Any) -> None:
    append_line(path, json.dumps({"event": event, **values}, ensure_ascii=False))


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(line)
        except ValueError:  # cut short by a kill: what it told of is done again
            continue
        yield found
