"""How a run's fit came about: what its epochs showed, what was changed and what came of that."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rightfit.records import changes_of, epochs_of, kept_epoch, learning_curve_of, objects_of
from rightfit.run import Run

STAGES = 8  # epochs that are shown


@dataclass(frozen=True)
class Stage:
    """An epoch's end: training and validation images unchanged, with the weights that would have been kept."""

    epoch: int
    train: float  # accuracy
    train_half: float | None  # of its 95 % interval; None where there is none
    val: float
    val_half: float | None
    learning_rate: float
    strength: float | None  # None: nothing moved it


@dataclass(frozen=True)
class Action:
    """What was changed after an epoch (0: before the first) and why."""

    epoch: int
    setting: str
    value: Any
    evidence: str
    before: float | None  # validation's accuracy then
    after: float | None  # and of the weights that are kept, where they are of a later epoch


@dataclass(frozen=True)
class FitStory:
    run: str
    model: str
    images: dict[str, int]  # by split
    epochs: int  # done
    kept: int | None
    doctor: str  # how it was set
    word: str  # "" where the fit was not measured
    sentence: str
    stages: tuple[Stage, ...]
    actions: tuple[Action, ...]
    learning_curve: dict[str, Any]  # as of `rightfit.learning_curve`; {} where that was not asked

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(run: Run) -> FitStory:
    """Read from what `run` has on record; nothing is trained or predicted. RunError for a damaged run."""
    from rightfit.data import recorded

    settings, metrics = run.settings, run.metrics
    rows = [row for row in epochs_of(run.path / "history.csv") if row.get("steps")]
    found = metrics.get("diagnosis", {})
    records = objects_of(run.path / "decisions.jsonl")
    kept = kept_epoch(metrics, records)
    table = recorded.table_of(run.path / "data.csv", run.classes, run.label_mode)
    return FitStory(
        run=str(run.path),
        model=settings.model,
        images={split: len(table.rows(split)) for split in ("train", "val", "test")},
        epochs=len(rows),
        kept=kept,
        doctor=settings.doctor,
        word=found.get("word", ""),
        sentence=found.get("sentence", metrics.get("unfinished", "")),
        stages=_stages([_with_the_end(row, found) if row["epoch"] == kept else row for row in rows], kept),
        actions=_actions(records, rows, kept, settings.learning_rate),
        learning_curve={name: of for name, of in learning_curve_of(run.path).items() if name != "of"},
    )


def _stages(rows: list[dict[str, float]], kept: int | None) -> tuple[Stage, ...]:
    """Of the epochs that were looked at some, evenly chosen, with the last and the kept one."""
    looked = [row for row in rows if not math.isnan(row.get("probe_accuracy", math.nan))]
    places = {round(number * (len(looked) - 1) / (STAGES - 1)) for number in range(STAGES)}
    chosen = [row for place, row in enumerate(looked) if place in places or row["epoch"] == kept]
    return tuple(
        Stage(
            int(row["epoch"]),
            row["probe_accuracy"],
            _known(row.get("probe_accuracy_half_width")),
            row["val_accuracy"],
            _known(row.get("val_accuracy_half_width")),
            row["learning_rate"],
            _known(row.get("strength")),
        )
        for row in chosen
    )


def _with_the_end(row: dict[str, float], found: dict[str, Any]) -> dict[str, float]:
    """The kept epoch as it was looked at in the end, of which the word is."""
    return row | {name: value for name, value in found.items() if name.startswith(("probe_", "val_"))}


def _actions(
    records: list[dict[str, Any]], rows: list[dict[str, float]], kept: int | None, rate: float | None
) -> tuple[Action, ...]:
    """Without the race of learning rates where `rate`, the one that was set, has won it."""
    accuracy = {int(row["epoch"]): _known(row.get("val_accuracy")) for row in rows}
    return tuple(
        Action(
            record["epoch"],
            record["setting"],
            record["value"],
            record["evidence"],
            accuracy.get(record["epoch"]),
            accuracy.get(kept) if kept and kept > record["epoch"] else None,
        )
        for record in changes_of(records)
        if (record["setting"], record["value"]) != ("learning_rate", rate)
    )


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
