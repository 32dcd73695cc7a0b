"""What a run's folder has on record, read as it stands: rows of numbers, and one object a line."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rightfit.errors import ModelFileError, RunError
from rightfit.formats.bounds import BOUNDS, RECORDS
from rightfit.formats.text import check_regular, from_json, json_file

SETBACK = "learning_rate factor"  # the setting that is on record where training returned to an earlier epoch
DOUBTS = (
    "share of labels in doubt"  # the setting that is on record where the net's own answers are learnt in part
)
SEARCHED = "search/tuning.json"
LEARNING_CURVE = "learning_curve.json"


def objects_of(path: Path) -> list[dict[str, Any]]:
    """Of decisions.jsonl or test-ledger.jsonl; none where it is not there or no such file."""
    with suppress(OSError, ValueError, ModelFileError):
        check_regular(path, RECORDS.json_bytes)
        lines = path.read_text(encoding="utf-8").splitlines()
        return [from_json(line, str(path), RECORDS) for line in lines]
    return []


def instead_of_a_run(path: Path) -> str:
    """What a folder is that holds no trained model, and what to do."""
    if (path / "checkpoints").is_dir() or (path / SEARCHED).parent.is_dir():
        return f"holds no trained model yet; `rightfit resume {path}` goes on"
    if (path / "config.yaml").exists():
        return "holds no trained model (no architecture.json); did training finish?"
    runs = sorted(place.parent for place in path.glob("*/architecture.json"))
    if runs:
        return f"is no run but holds {len(runs)}, such as {runs[-1]}"
    return "is no run folder: there is no architecture.json in it; training prints the folder that it makes"


def search_of(place: Path) -> dict[str, Any]:
    """What the search for settings found that the run in `place` ended; {} where there was none."""
    return object_in(place / SEARCHED)


def learning_curve_of(place: Path) -> dict[str, Any]:
    """What parts of the training images of the run in `place` taught; {} where that was not asked."""
    found = object_in(place / LEARNING_CURVE)
    whole = {"of", "validation", "half_width", "points", "forecasts"} <= found.keys()
    return found if whole and found["points"] and found["forecasts"] else {}


def would_help(curve: Mapping[str, Any]) -> str:
    """Whether twice as many images would, by a learning curve: "help", "harm", or "unsure"."""
    now, ahead = curve["points"][-1]["accuracy"], curve["forecasts"][0]
    return "help" if ahead["low"] > now else "harm" if ahead["high"] < now else "unsure"


def object_in(path: Path) -> dict[str, Any]:
    """Of a JSON file; {} where it is not there or holds no object."""
    with suppress(OSError, ModelFileError):
        found = json_file(path, RECORDS)
        return found if isinstance(found, dict) else {}
    return {}


def epochs_of(path: Path) -> list[dict[str, float]]:
    """The rows of history.csv; what is no number is left out. Raises RunError when it is no such file."""
    if not path.exists():
        return []
    try:
        check_regular(path, BOUNDS.file_bytes)
        with path.open(newline="", encoding="utf-8") as file:
            return [_numbers(row) for row in csv.DictReader(file)]
    except ModelFileError as error:
        raise RunError(f"{error}; the run is incomplete or damaged") from error
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read ({error}); the run is incomplete or damaged") from error


def kept_epoch(metrics: Mapping[str, Any], decisions: Sequence[Mapping[str, Any]]) -> int | None:
    """The epoch whose weights a run holds: of a stopped one as metrics.json has it, else as it was decided."""
    decided = [int(each["value"]) for each in decisions if each["setting"] == "epoch"]
    return metrics.get("epoch", decided[-1] if decided else None)


def changes_of(decisions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was changed while training went on, in its order, without what was done in epochs that a setback undid."""
    standing: list[Mapping[str, Any]] = []
    for decision in decisions:
        if "epoch" not in decision:
            continue
        if decision["setting"] == SETBACK:
            standing = [d for d in standing if d["epoch"] <= decision["epoch"] or d["setting"] == SETBACK]
        standing.append(decision)
    return standing


def _numbers(row: Mapping[str, str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, text in row.items():
        with suppress(TypeError, ValueError):
            found[name] = float(text)
    return found
