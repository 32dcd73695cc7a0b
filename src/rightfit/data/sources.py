"""Folders, files with columns, data frames and arrays in; names, labels, splits and groups as they gave them out."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rightfit.data.columns import SUFFIXES, read_columns
from rightfit.data.listing import IMAGE_SUFFIXES, below, decodable, folders_in, missing
from rightfit.data.remote import is_url
from rightfit.data.table import (
    SPLITS,
    STRATUM_SEPARATOR,
    UNSPLIT,
    categories,
    join,
    neat,
    neat_name,
    normal,
    some,
)
from rightfit.errors import DataError, UsageError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# Files that lie beside images and are not missed.
COMPANIONS = (
    *(".txt", ".md", ".log", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".db", ".ini"),
)
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
LAYOUTS = (
    "rightfit reads ROOT/class/image.jpg, ROOT/{train,val,test}/class/image.jpg, or a .csv, .tsv or "
    f".parquet file with columns path and label; images end in {' '.join(IMAGE_SUFFIXES)}"
)


@dataclass
class Found:
    """What a source gave, before classes and groups are settled."""

    names: pd.Series[str]
    labels: pd.Categorical[Any]
    root: str
    splits: pd.Categorical[Any] | None = None
    groups: pd.Series[str] | None = None
    stratum: pd.Categorical[Any] | None = None  # None: the label
    images: npt.NDArray[np.uint8] | None = None
    matrix: bool = False  # labels came as a 0/1 matrix in which some row has not exactly one 1
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # for each of which the data are refused
    grouped_by: Any = None  # the column that `group_by` names
    place: Callable[[int], str] = "row {}".format


# Folders


def root_of(source: str) -> str:
    """The folder or URL that a source's names are relative to: itself, or the one a table lies in."""
    path = _full(source)
    return posixpath.dirname(path) if _is_table(path) else path


def _full(source: str) -> str:
    return source if is_url(source) else Path(source).expanduser().absolute().as_posix()


def _is_table(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not Path(path).is_dir()


def split_of(name: str) -> str | None:
    """The split that a folder or a value of the column split names, in any case; None if it names none."""
    return SPLIT_NAMES.get(re.sub(r"[-_ ]?set$", "", name.strip().lower()))


def from_path(source: str, label: str | None, group_by: str | None) -> Found:
    path = _full(source)
    if not decodable(path):
        raise DataError(f"{path!a} is not valid UTF-8: rename the folder")
    if _is_table(path):
        return _from_file(path, label or "label", group_by)
    if is_url(path) or Path(path).is_file():
        if path.lower().endswith(SPREADSHEETS):
            raise DataError(f"{path}: spreadsheets are not read; save it as CSV UTF-8 and give that file")
        if path.lower().endswith(ARCHIVES):
            raise DataError(f"{path}: archives are not read; unpack it and give the folder")
    if Path(path).is_file():
        raise DataError(f"{path}: not a folder and not a table; {LAYOUTS}")
    return _from_folder(path)


def _from_folder(root: str) -> Found:
    """Class folders, or class folders below split folders if all folders with images are named as splits."""
    if all(Path(root, name).is_file() for name in ("data.csv", "decisions.jsonl")):
        raise DataError(
            f"{root} is a run folder; its images are listed in a table, {root}/data.csv: give that"
        )
    kinds: dict[str, list[str]] = {"image": [], "other": [], "broken": [], "undecodable": []}
    for kind, name in below(root):
        kinds[kind if decodable(name) else "undecodable"].append(name)
    tops = {name[: name.index("/")] for name in kinds["image"] if "/" in name}
    named = {top for top in tops if split_of(top)}
    is_split = tops == named and "train" in map(split_of, tops)
    if not is_split:
        _check_classes(root, kinds["image"], tops, named)
    names: list[str] = []
    stray: list[str] = []
    labels: dict[str, int] = {}
    label_codes: list[int] = []
    split_codes: list[int] = []
    for name in sorted(kinds["image"]):
        folders = name.split("/", 2 if is_split else 1)[:-1]
        if len(folders) < 1 + is_split:
            stray.append(name)
            continue
        names.append(name)
        label_codes.append(labels.setdefault(folders[-1], len(labels)))
        split_codes.append(1 + SPLITS.index(split_of(folders[0]) or "") if is_split else 0)
    unread = _unread(kinds["other"])
    if not names:
        raise DataError(f"{root}: no images in class folders; {' '.join([*unread, LAYOUTS])}")

    listed = [*kinds["image"], *kinds["broken"], *kinds["undecodable"]]
    notes = [*unread, *_empty(root, listed, tops if is_split else set())]
    for found, what in (
        (stray, "images lie in no class folder"),
        (kinds["broken"], "links lead nowhere or back to a folder above"),
        ([ascii(name) for name in kinds["undecodable"]], "names are not valid UTF-8"),
    ):
        if found:
            notes.append(f"{len(found)} {what} and were left out: {some(sorted(found))}.")
    if named and not is_split:
        notes.append(f"Folders named as splits were taken as classes: {some(sorted(named))}.")
    return Found(
        names=pd.Series(names, dtype="str"),
        labels=categories(np.asarray(label_codes), list(labels)),
        root=root,
        splits=pd.Categorical.from_codes(np.asarray(split_codes, np.int8), UNSPLIT),
        notes=notes,
    )


def _check_classes(root: str, images: list[str], tops: set[str], named: set[str]) -> None:
    """DataError where the folders that would be classes all hold folders of the same names: these are the classes."""
    inside: dict[str, set[str]] = {top: set() for top in tops}
    for name in images:
        top, *rest = name.split("/", 2)
        if rest:
            inside[top].add(rest[0] if len(rest) > 1 else "")  # "" for an image right in it
    for suspects in (named, tops):
        common = set.intersection(*(inside[top] for top in suspects)) - {""} if len(suspects) > 1 else set()
        if len(common) > 1 and (suspects is named or all(inside[top] == common for top in tops)):
            raise DataError(
                f"{root}: the folders {some(sorted(suspects))} hold folders of the same names "
                f"({some(sorted(common))}), which look like the classes; name the folders above them train, val and "
                "test, or give a table with columns path, label and split"
            )


def _unread(names: list[str]) -> list[str]:
    """A note that counts, by suffix, the files in folders that may have been meant as images."""
    suffixes = (posixpath.splitext(name)[1].lower() for name in names if "/" in name)
    counts = Counter(suffix or "without suffix" for suffix in suffixes if suffix not in COMPANIONS)
    if not counts:
        return []
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common(8))
    return [f"{counts.total()} files are of kinds that are not read: {kinds}."]


def _empty(root: str, files: list[str], splits: set[str]) -> list[str]:
    """A note of the folders that would be classes if an image lay in them; `files` are images and links."""
    depth = 2 if splits else 1
    full = {"/".join(name.split("/", depth)[:depth]) for name in files}
    above = [f"{split}/" for split in splits] or [""]
    found = [prefix + name for prefix in above for name in folders_in(f"{root}/{prefix}")]
    empty = sorted(name if decodable(name) else ascii(name) for name in found if name not in full)
    return [f"{len(empty)} folders hold no image and are no classes: {some(empty)}."] if empty else []


# Files with columns, and DataFrames


def _from_file(path: str, label: str, group_by: str | None) -> Found:
    frame, place = read_columns(path)
    return from_frame(frame, posixpath.dirname(path), label, place, group_by)


def from_frame(
    frame: pd.DataFrame,
    root: str,
    label: str,
    place: Callable[[int], str],
    group_by: str | None = None,
) -> Found:
    """`group_by` is taken where it names a column, else left for the names. Columns match in any case."""
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
        if found.groups is not None and column != "group":
            found.notes.append("group_by was given, so the column group was not used.")
        found.groups, found.grouped_by = pd.Series(neat(frame[column]), dtype="str"), column
    elif group_by is None and found.groups is None:
        for name in frame.columns:
            if name == label or not OWNERS.fullmatch(str(name).strip()):
                continue
            values, count = frame[name].nunique(), int((frame[name].notna() & (frame[name] != "")).sum())
            if 2 < values < count:
                found.notes.append(
                    f"Column {name} has {values:,} values in {count:,} rows and was not used: "
                    f"`--group-by {quoted(name)}` keeps the images of each in one split."
                )


def quoted(name: Any) -> str:
    """As a shell takes it."""
    text = str(name)
    return text if re.fullmatch(r"\w+", text) else f"'{text}'"


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


# Arrays


def from_arrays(source: tuple[Any, ...]) -> Found:
    if len(source) != 2:
        raise UsageError(f"arrays come as (images, labels), this tuple has {len(source)} parts")
    images, labels = np.asarray(source[0]), np.asarray(source[1])
    if images.dtype != np.uint8:
        raise UsageError(
            f"images are {images.dtype}, not uint8 in 0..255: "
            "for floats in 0..1 pass (255 * images).round().astype('uint8')"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UsageError(f"images have shape {images.shape}; pass (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != len(images):
        raise UsageError(
            f"labels have shape {labels.shape} for {len(images)} images; pass (N,), or (N, K) of 0 and 1"
        )
    if not len(images):
        raise DataError("the arrays hold no images")
    names = pd.Series([f"array:{i:07d}" for i in range(len(images))], dtype="str")
    if labels.ndim == 1:
        return Found(names, neat(pd.Series(labels)), root="", images=images)
    if not np.isin(labels, (0, 1)).all():
        raise UsageError("a matrix of labels holds 0 and 1 only: a one for each class of the image")
    texts = pd.Series(["|".join(map(str, np.flatnonzero(row))) for row in labels], dtype="str")
    unused = np.flatnonzero(~labels.any(axis=0)).tolist()
    empty = some([str(column) for column in unused])
    notes = [f"{len(unused)} label columns hold no 1 and are no classes: {empty}."] if unused else []
    matrix = bool((labels.sum(axis=1) != 1).any())
    return Found(names, neat(texts), root="", images=images, matrix=matrix, notes=notes)
