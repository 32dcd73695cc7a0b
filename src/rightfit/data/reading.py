"""Reads any source of labelled images into one table, so that what follows knows one shape of data."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rightfit.data.sources import LAYOUTS, Found, from_arrays, from_frame, from_path
from rightfit.data.table import UNSPLIT, Table, parts_of, some
from rightfit.errors import DataError, UsageError

LABEL_MODES = ("auto", "binary", "categorical", "multilabel")


def read(
    source: str | os.PathLike[str] | pd.DataFrame | tuple[Any, Any],
    label: str | None = None,
    label_mode: str = "auto",
    group_by: str | None = None,
) -> Table:
    """A folder, a CSV/TSV/Parquet file, a DataFrame or (images, labels) -> Table.

    label: the label column of a file or DataFrame, "label" if None. label_mode "auto": multilabel if a label
    holds "|", binary for two classes, else categorical. group_by: a regular expression searched in the file
    name without folders; its first capture group is the group. Raises UsageError or DataError.
    """
    if label_mode not in LABEL_MODES:
        raise UsageError(f"unknown label mode {label_mode!r}; choose from {', '.join(LABEL_MODES)}")
    if isinstance(source, pd.DataFrame):
        found = from_frame(source, Path.cwd().as_posix(), label or "label", lambda row: f"row {row}")
    elif isinstance(source, tuple):
        found = from_arrays(source)
    else:
        found = from_path(os.fspath(source), label)
    if label is not None and found.stratum is None:
        raise UsageError(f"label {label!r} names a column, but this source has none: leave it out")
    if group_by is not None:
        _group(found, group_by)

    used = set(np.unique(found.labels.codes).tolist())
    labels = [str(text) for code, text in enumerate(found.labels.categories) if code in used]
    if label_mode == "auto" and (found.matrix or any("|" in text for text in labels)):
        label_mode = "multilabel"
    if label_mode != "multilabel" and "" in labels:
        empty = np.flatnonzero(np.asarray(found.labels == "")).tolist()
        raise DataError(f"{len(empty)} labels are empty: {some([found.place(row) for row in empty[:6]])}")
    if len(labels) < 2:
        raise DataError(f"one class only ({labels[0]!r}): nothing to learn; {LAYOUTS}")
    classes = (
        labels if label_mode != "multilabel" else sorted({part for text in labels for part in parts_of(text)})
    )
    if label_mode == "auto":
        label_mode = "binary" if len(classes) == 2 else "categorical"
    if label_mode == "binary" and len(classes) != 2:
        raise UsageError(
            f"binary needs two classes, these are {len(classes)}: {some(classes)}; use categorical"
        )

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


def _group(found: Found, pattern: str) -> None:
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise UsageError(f"group_by {pattern!r} is not a regular expression: {error}") from None
    if re.compile(pattern).groups < 1:
        raise UsageError(
            f"group_by {pattern!r} captures nothing; put brackets around the group, as in '^(\\d+)_'"
        )
    if found.images is not None:
        raise UsageError("group_by searches file names, and arrays have none")
    if found.groups is not None:
        found.notes.append("group_by was given, so the column group was not used.")
    matches = (search(name[name.rfind("/") + 1 :]) for name in found.names)
    groups = [match[1] or "" if match else "" for match in matches]
    found.groups = pd.Series(groups, dtype="str")
    alone = groups.count("")
    if alone:
        found.notes.append(
            f"{alone} of {len(groups)} file names do not match group_by {pattern!r}; each is alone."
        )
