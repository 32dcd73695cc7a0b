"""How a run's fit came about: what its epochs showed, what was done about it and what came of that, what may help."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rightfit.records import epochs_of, objects_of
from rightfit.run import Run

STAGES = 8  # epochs that are shown
FAMILIES = (
    ("resnet20", "resnet32", "resnet44", "resnet56"),
    ("resnet18", "resnet34", "resnet50", "resnet101"),
)
AGAIN = "rightfit train --config {run}/config.yaml --output NEW"
HELPS: dict[str, tuple[str, ...]] = {
    "diverged": (AGAIN + " --learning-rate {lower:g}",),
    "label noise": ("rightfit suspects {run} --output suspects.csv",),
    "stalled": (AGAIN + " --doctor act", AGAIN + " --image-size {sharper}"),
    "batch-norm mismatch": (AGAIN + " --batch-size {larger}",),
    "leak suspected": ("rightfit check {data}", AGAIN + " --group-by REGEX"),
    "shifted": ("rightfit report {run}",),
    "overfit": (AGAIN + " --doctor act", AGAIN + " --augment strong"),
    "still learning": (AGAIN + " --epochs {more}",),
    "underfit": (AGAIN + " --doctor act", AGAIN + " --model {deeper}", AGAIN + " --epochs {more}"),
    "can't tell": (AGAIN + " --split 4:2:2",),
}


@dataclass(frozen=True)
class Stage:
    """An epoch's end: training and validation images unchanged, with the weights that would have been kept."""

    epoch: int
    train: float  # accuracy
    train_half: float  # of its 95 % interval
    val: float
    val_half: float
    learning_rate: float
    strength: float | None  # None: nothing moved it


@dataclass(frozen=True)
class Action:
    """What was changed, why, and validation's accuracy before it and at the end."""

    epoch: int
    setting: str
    value: Any
    evidence: str
    before: float | None
    after: float | None


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
    helps: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def diagnose(run: Run) -> FitStory:
    """Read from what `run` has on record; nothing is trained or predicted. RunError for a damaged run."""
    from rightfit.data import recorded

    settings, metrics = run.settings, run.metrics
    rows = [row for row in epochs_of(run.path / "history.csv") if row.get("steps")]
    found = metrics.get("diagnosis", {})
    records = objects_of(run.path / "decisions.jsonl")
    decided = [record["value"] for record in records if record["setting"] == "epoch"]
    kept = metrics.get("epoch", int(decided[-1]) if decided else None)
    table = recorded.table_of(run.path / "data.csv", run.classes, run.label_mode)
    values = {
        "run": run.path,
        "data": settings.data,
        "lower": (settings.learning_rate or 0.1) / 10,
        "larger": 4 * (settings.batch_size or 8),
        "sharper": 2 * max(settings.height_width),
        "more": 3 * (settings.epochs or 10),
        "deeper": _deeper(settings.model),
    }
    word = found.get("word", "")
    return FitStory(
        run=str(run.path),
        model=settings.model,
        images={split: len(table.rows(split)) for split in ("train", "val", "test")},
        epochs=len(rows),
        kept=kept,
        doctor=settings.doctor,
        word=word,
        sentence=found.get("sentence", metrics.get("unfinished", "")),
        stages=_stages(rows, kept),
        actions=_actions(records, rows, kept),
        helps=tuple(line.format(**values) for line in HELPS.get(word, ())),
    )


def _stages(rows: list[dict[str, float]], kept: int | None) -> tuple[Stage, ...]:
    """Evenly chosen epochs that were looked at, the last and the kept one among them."""
    looked = [row for row in rows if not math.isnan(row.get("probe_accuracy", math.nan))]
    places = (
        {round(number * (len(looked) - 1) / (STAGES - 1)) for number in range(STAGES)} if looked else set()
    )
    chosen = [row for place, row in enumerate(looked) if place in places or row["epoch"] == kept]
    return tuple(
        Stage(
            int(row["epoch"]),
            row["probe_accuracy"],
            row["probe_accuracy_half_width"],
            row["val_accuracy"],
            row["val_accuracy_half_width"],
            row["learning_rate"],
            row.get("strength"),
        )
        for row in chosen
    )


def _actions(
    records: list[dict[str, Any]], rows: list[dict[str, float]], kept: int | None
) -> tuple[Action, ...]:
    of = {int(row["epoch"]): row.get("val_accuracy") for row in rows}
    return tuple(
        Action(
            record["epoch"],
            record["setting"],
            record["value"],
            record["evidence"],
            of.get(record["epoch"]),
            of.get(kept or 0),
        )
        for record in records
        if "epoch" in record
    )


def _deeper(model: str) -> str:
    """The next larger of its family, or a word for it."""
    for family in FAMILIES:
        if model in family[:-1]:
            return family[family.index(model) + 1]
    return "LARGER"
