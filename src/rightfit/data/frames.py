"""A data frame with the columns path and label in, perhaps of a file; names, labels, splits and groups out."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd

from rightfit.data.found import SPLIT_NAMES, Found, quoted, split_of
from rightfit.data.listing import missing
from rightfit.data.table import STRATUM_SEPARATOR, UNSPLIT, categories, join, neat, neat_name, normal, some
from rightfit.errors import DataError, UsageError


def from_frame(
    frame: pd.DataFrame,
    root: str,
    label: str,
    place: Callable[[int], str],
    group_by: str | None = None,
) -> Found:
    """`group_by` is taken where it names a column, else left for the names. Columns match in any case, but for `group`:
    another kind of group may be meant."""
    frame = frame.rename(columns={_named(frame, wanted): wanted for wanted in ("path", label, "split")})
    columns = [str(column) for column in frame.columns]
    if "path" not in columns:
        raise DataError(f"no column path; the columns are {some(columns, shown=30)}")
    if label not in columns or label in ("path", "split", "group"):
        raise UsageError(f"no label column {label!r}; the columns are {some(columns, shown=30)}")
    if not len(frame):
        raise DataError("the table has no rows")
    frame = frame.reset_index(drop=True)
    if frame["path"].isna().any() or (frame["path"] == "").any():
        row = int(np.flatnonzero(frame["path"].isna() | (frame["path"] == ""))[0])
        raise DataError(f"{place(row)}: the path is empty")
    names = _neat_names(frame["path"])
    found = Found(names, neat(frame[label]), root, place=place)
    if "split" in columns:
        found.splits = _splits(frame["split"], place)
    if "group" in columns:
        found.groups = pd.Series(neat(frame["group"]), dtype="str")
    _by_column(found, frame, label, group_by)
    # a split that balanced the groups themselves would balance nothing else
    found.stratum = _stratum(frame.drop(columns=found.grouped_by or []), label)
    _check_files(found)
    return found


def _named(frame: pd.DataFrame, wanted: str) -> Any:
    """The column of that name, else the only one that differs in case and blanks around; else `wanted` itself."""
    if wanted in frame.columns:
        return wanted
    alike = [column for column in frame.columns if str(column).strip().lower() == wanted.strip().lower()]
    return alike[0] if len(alike) == 1 else wanted


# Columns that say whose image it is.
OWNERS = re.compile(
    r"(group|patient|subject|person|participant|individual|case|study|slide|specimen|animal|mouse|患者|病人|病例|受试者)s?"
    r"[ _-]*(id|ids|no|nr|number|name|code|编号|号)?",
    re.IGNORECASE,
)


def _by_column(found: Found, frame: pd.DataFrame, label: str, group_by: str | None) -> None:
    """Groups from the column that `group_by` names; a note where a column that looks like one goes unused."""
    column = None if group_by is None else _named(frame, group_by)
    if column in frame.columns and column not in ("path", label, "split"):
        if column != "group":
            found.group(pd.Series(neat(frame[column]), dtype="str"))
        found.grouped_by = column
    elif group_by is None and found.groups is None:
        for name in frame.columns:
            if name == label or not OWNERS.fullmatch(str(name).strip()):
                continue
            given = frame[name][frame[name].notna() & (frame[name] != "")].astype(str)
            values, count = given.nunique(), len(given)
            if 2 < values < count:
                found.notes.append(
                    f"Column {name} has {values:,} values in {count:,} rows and was not used: "
                    f"`--group-by {quoted(name)}` keeps the images of each in one split."
                )


def _neat_names(column: pd.Series[Any]) -> pd.Series[str]:
    """The same column if all names in it are neat: a copy of a million takes 50 MB."""
    if column.dtype == "str" and all(neat_name(name) == name for piece in _pieces(column) for name in piece):
        return column
    neat = ([neat_name(os.fspath(path)) for path in piece] for piece in _pieces(column))
    return pd.concat([pd.Series(piece, dtype="str") for piece in neat], ignore_index=True)


def _splits(column: pd.Series[Any], place: Callable[[int], str]) -> pd.Categorical[Any]:
    given = neat(column)
    splits = [split_of(text) if text else "" for text in given.categories]
    if None in splits:
        row = int(np.flatnonzero(given.codes == splits.index(None))[0])
        raise DataError(
            f"{place(row)}: unknown split {given[row]!r}; use {', '.join(SPLIT_NAMES)} or leave it empty"
        )
    codes = [UNSPLIT.get_loc(split) for split in splits]
    return pd.Categorical.from_codes(np.asarray(codes, np.int8)[given.codes], UNSPLIT)


def _stratum(frame: pd.DataFrame, label: str) -> pd.Categorical[Any]:
    """Joint of all label-like columns, so that two labels of the same images get one and the same split."""
    columns = sorted(str(column) for column in frame.columns if column not in ("path", "split", "group"))
    chosen = [column for column in columns if _label_like(frame[column])]
    codes, texts = np.zeros(len(frame), np.int64), [""]
    for column in chosen if label in chosen else [*chosen, label]:
        values = neat(frame[column])
        count = len(values.categories)
        codes, joint = pd.factorize(codes * count + values.codes, sort=True)
        texts = [f"{texts[i // count]}{STRATUM_SEPARATOR}{values.categories[i % count]}" for i in joint]
    return categories(codes, [text[1:] for text in texts])


def _label_like(column: pd.Series[Any]) -> bool:
    try:
        if (
            column.iloc[:10_000].nunique(dropna=False) > 50
        ):  # the many names of a million patients are not counted
            return False
        distinct = column.nunique(dropna=False)
    except TypeError:  # lists and the like
        return False
    return distinct <= 50 and len(column) >= 10 * distinct


def _check_files(found: Found) -> None:
    paths = _Paths(found.root, found.names)
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    ordered = np.sort(hashes)
    if len(doubtful := ordered[1:][ordered[1:] == ordered[:-1]]):
        rows = np.flatnonzero(np.isin(hashes, doubtful)).tolist()
        seen = pd.Series([paths[row] for row in rows], dtype="str")
        if twice := seen[seen.duplicated()].unique().tolist():
            found.faults.append(f"{len(twice)} paths are repeated: {some(twice)}; keep one row for each")
    if gone := missing(paths):
        first = int(np.flatnonzero(hashes == hash(gone[0]))[0])
        foreign = os.sep == "/" and len(gone) == len(paths) and all("\\" in path for path in gone)
        advice = "; they are written as Windows writes paths: write / for \\" if foreign else ""
        found.faults.append(
            f"{len(gone)} of {len(paths)} files do not exist: {some(gone)}; the first in {found.place(first)}{advice}"
        )


class _Paths(Collection[str]):
    """The full paths of names, made when they are asked for: of a million, they take 100 MB."""

    def __init__(self, root: str, names: pd.Series[str]) -> None:
        self.root, self.names = root, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str:
        return normal(join(self.root, self.names.iloc[row]))

    def __iter__(self) -> Iterator[str]:
        for piece in _pieces(self.names):
            yield from (normal(join(self.root, name)) for name in piece)

    def __contains__(self, path: object) -> bool:
        return any(path == other for other in self)


def _pieces(column: pd.Series[Any], rows: int = 20_000) -> Iterator[list[Any]]:
    """The values of a column, a list of so many at a time."""
    for start in range(0, len(column), rows):
        yield column.iloc[start : start + rows].tolist()
