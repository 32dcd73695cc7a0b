"""Reads any source of labelled images into one table, so that what follows knows one shape of data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rightfit.data.found import LAYOUTS, Found
from rightfit.data.frames import from_frame
from rightfit.data.sources import from_arrays, from_path
from rightfit.data.table import UNSPLIT, Table, in_order, parts_of, some
from rightfit.errors import DataError, UsageError

LABEL_MODES = ("auto", "binary", "categorical", "multilabel")


def read(
    source: str | os.PathLike[str] | pd.DataFrame | tuple[Any, Any],
    label: str | None = None,
    label_mode: str = "auto",
    group_by: str | None = None,
    positive: str | None = None,
) -> Table:
    """A folder, a CSV/TSV/Parquet file, a DataFrame or (images, labels) -> Table.

    label: the label column of a file or DataFrame, "label" if None. label_mode "auto": multilabel if a label
    holds "|", binary for two classes, else categorical. group_by: a column of a file or DataFrame; or a regular
    expression searched in the file name without folders, whose first capture group is the group. Classes are sorted,
    whole numbers by number; of two, `positive` comes second. Raises UsageError or DataError.
    """
    if label_mode not in LABEL_MODES:
        raise UsageError(f"unknown label mode {label_mode!r}; choose from {', '.join(LABEL_MODES)}")
    if isinstance(source, pd.DataFrame):
        root = Path.cwd().as_posix()
        found = from_frame(source, root, label or "label", lambda row: f"row {row}", group_by)
    elif isinstance(source, tuple):
        found = from_arrays(source)
    else:
        found = from_path(os.fspath(source), label, group_by)
    if label is not None and found.stratum is None:
        raise UsageError(f"label {label!r} names a column, but this source has none: leave it out")
    if group_by is not None and found.grouped_by is None:
        _group(found, group_by)

    used = set(np.unique(found.labels.codes).tolist())
    labels = [str(text) for code, text in enumerate(found.labels.categories) if code in used]
    if label_mode == "auto" and (found.matrix or any("|" in text for text in labels)):
        label_mode = "multilabel"
    if label_mode != "multilabel" and "" in labels:
        empty = np.flatnonzero(np.asarray(found.labels == "")).tolist()
        found.faults.append(f"{len(empty)} labels are empty: {some([found.place(row) for row in empty[:6]])}")
    if found.faults:
        raise DataError("; and ".join(found.faults))
    if len(labels) < 2:
        raise DataError(f"one class only ({labels[0]!r}): nothing to learn; {LAYOUTS}")
    several = label_mode == "multilabel"
    classes = in_order({part for text in labels for part in parts_of(text)} if several else labels)
    if label_mode == "auto":
        label_mode = "binary" if len(classes) == 2 else "categorical"
    if label_mode == "binary" and len(classes) != 2:
        raise UsageError(
            f"binary needs two classes, these are {len(classes)}: {some(classes)}; use categorical"
        )
    if positive is not None:
        classes = _with_second(classes, positive, label_mode)

    count = len(found.names)
    blank = pd.Categorical.from_codes(np.zeros(count, np.int8), UNSPLIT)
    frame = pd.DataFrame(
        {
            "name": found.names,
            "label": found.labels,
            "split": blank if found.splits is None else found.splits,
            "group": pd.Series("", range(count), dtype="str") if found.groups is None else found.groups,
            "stratum": found.labels if found.stratum is None else found.stratum,
        }
    )
    return Table(frame, tuple(classes), label_mode, found.root, found.images, tuple(found.notes))


def _with_second(classes: list[str], positive: str, label_mode: str) -> list[str]:
    """The two classes of a binary question, `positive` being the second."""
    if label_mode != "binary":
        raise UsageError(
            f"positive {positive!r} needs two classes, of which an image has one; these are {len(classes)} "
            f"({label_mode}): {some(classes)}"
        )
    if positive not in classes:
        raise UsageError(f"positive {positive!r} is no class; the classes are {', '.join(classes)}")
    return sorted(classes, key=lambda name: name == positive)


def _group(found: Found, pattern: str) -> None:
    said = f"group_by '{pattern}'" + ("" if found.stratum is None else " is no column, and")
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"{said} is not a regular expression: {error}") from None
    if re.compile(pattern).groups < 1:
        raise UsageError(f"{said} captures nothing; put brackets around the group, as in '^(\\d+)_'")
    if found.images is not None:
        raise UsageError("group_by searches file names, and arrays have none")
    matches = (search(name[name.rfind("/") + 1 :]) for name in found.names)
    groups = [(match[1] or "").strip() if match else "" for match in matches]
    alone = groups.count("")
    if alone == len(groups):
        name = found.names.iloc[0]
        raise UsageError(f"{said} matches none of {alone} file names, such as {name[name.rfind('/') + 1 :]}")
    found.group(pd.Series(groups, dtype="str"))
    if alone:
        found.notes.append(
            f"{alone} of {len(groups)} file names do not match group_by '{pattern}'; each is alone."
        )
