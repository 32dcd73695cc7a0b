"""A run's data.csv in, its own images, labels and splits out, whatever became of the source since.

Where images were moved, moved.json beside it has the folder that they were in and the one that they are in now; what is
recorded stays as it was.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from rightfit.data.table import COLUMNS, SPLITS, Table, parts_of
from rightfit.errors import ModelFileError, RunError
from rightfit.formats.bounds import BOUNDS
from rightfit.formats.text import check_regular, json_file

MOVED = "moved.json"


def table_of(recorded: Path, classes: tuple[str, ...], label_mode: str) -> Table:
    """The table as it was trained on, of the model's classes, with the paths of now. Raises RunError when the file is
    damaged."""
    columns = _columns(recorded)
    paths = located(recorded.parent, columns["path"])
    labels = pd.Categorical(columns["label"])
    named = {part for label in labels.categories for part in _classes(label, label_mode)}
    if foreign := sorted(named - set(classes)):
        raise RunError(
            f"{recorded}: {foreign[0]!r} is no class of the model; the run is incomplete or damaged"
        )
    frame = pd.DataFrame(
        {
            "name": pd.Series(paths, dtype="str"),
            "label": labels,
            "split": "",
            "group": pd.Series(columns["group"], dtype="str"),
            "stratum": labels,
        }
    )
    return Table(frame, classes, label_mode, root="").with_splits(np.array(columns["split"]))


def splits_of(recorded: Path, as_recorded: bool = False) -> dict[str, str]:
    """Path of now, or `as_recorded`, -> split. Raises RunError when the file is damaged."""
    columns = _columns(recorded)
    paths = columns["path"] if as_recorded else located(recorded.parent, columns["path"])
    return dict(zip(paths, columns["split"], strict=True))


def paths_of(recorded: Path) -> list[str]:
    """As they were when the run began. Raises RunError when the file is damaged."""
    return _columns(recorded)["path"]


def located(run: Path, paths: Sequence[str]) -> list[str]:
    """Where recorded `paths` are by now. Raises RunError when the record of the move is damaged."""
    try:
        record = json_file(run / MOVED)
        return moved(paths, record["from"], record["to"])
    except FileNotFoundError:
        return list(paths)
    except ModelFileError as error:
        raise RunError(f"{error}; `rightfit relocate` writes it anew") from error
    except (OSError, TypeError, KeyError) as error:
        why = f"cannot be read ({error.strerror})" if isinstance(error, OSError) else "is damaged"
        raise RunError(f"{run / MOVED}: {why}; `rightfit relocate` writes it anew") from error


def moved(paths: Sequence[str], before: str, now: str) -> list[str]:
    """What is in the folder `before` as in the folder `now`; both without a slash at their ends, "" is the root."""
    return [
        now + path.removeprefix(before) if f"{path}/".startswith(f"{before}/") else path for path in paths
    ]


def source_of(run: Path, data: str) -> str | None:
    """Where `data`, the setting, is by now; None for what had no name."""
    return None if data.startswith("<") else located(run, [data])[0]


def _classes(label: str, label_mode: str) -> list[str]:
    return parts_of(label) if label_mode == "multilabel" else [label]


def _columns(recorded: Path) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {name: [] for name in COLUMNS}
    try:
        check_regular(recorded, BOUNDS.file_bytes)
        with recorded.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file, strict=True)
            if tuple(next(rows, ())) != COLUMNS:
                raise ValueError(f"the columns are not {', '.join(COLUMNS)}")
            for row in rows:
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    except ModelFileError as error:
        raise RunError(f"{error}; the run is incomplete or damaged") from error
    except (OSError, ValueError, csv.Error) as error:
        raise RunError(f"{recorded}: cannot be read ({error}); the run is incomplete or damaged") from error
    if not columns["split"] or not set(columns["split"]) <= set(SPLITS):
        raise RunError(f"{recorded}: holds no split of each image; the run is incomplete or damaged")
    return columns
