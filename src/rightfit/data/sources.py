"""Folders, files with columns, data frames and arrays in; names, labels, splits and groups as they gave them out."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rightfit.data.listing import IMAGE_SUFFIXES, below, decodable, missing
from rightfit.data.remote import is_url, opened, reaching
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

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "": ""}
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
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
    place: Callable[[int], str] = "row {}".format


# Folders


def root_of(source: str) -> str:
    """The folder or URL that a source's names are relative to: itself, or the one a table lies in."""
    path = _full(source)
    return posixpath.dirname(path) if _is_table(path) else path


def _full(source: str) -> str:
    return source if is_url(source) else Path(source).expanduser().absolute().as_posix()


def _is_table(path: str) -> bool:
    return path.lower().endswith(TABLE_SUFFIXES) and not Path(path).is_dir()


def from_path(source: str, label: str | None) -> Found:
    path = _full(source)
    if not decodable(path):
        raise DataError(f"{path!a} is not valid UTF-8: rename the folder")
    if _is_table(path):
        return _from_file(path, label or "label")
    if Path(path).is_file():
        raise DataError(f"{path}: not a folder and not a table; {LAYOUTS}")
    return _from_folder(path)


def _from_folder(root: str) -> Found:
    """Class folders, or class folders below split folders if all folders with images are named as splits."""
    kinds: dict[str, list[str]] = {"image": [], "other": [], "broken": [], "undecodable": []}
    for kind, name in below(root):
        kinds[kind if decodable(name) else "undecodable"].append(name)
    tops = {name[: name.index("/")] for name in kinds["image"] if "/" in name}
    named = {top for top in tops if top.lower() in SPLIT_NAMES}
    is_split = tops == named and "train" in map(str.lower, tops)
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
        split_codes.append(1 + SPLITS.index(SPLIT_NAMES[folders[0].lower()]) if is_split else 0)
    if not names:
        raise DataError(f"{root}: no images in class folders; {LAYOUTS}")

    notes = []
    for found, what in (
        (kinds["other"], "files are not images by their extension"),
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


# Files with columns, and DataFrames


def _from_file(path: str, label: str) -> Found:
    if is_url(path):
        with reaching(path), opened(path) as file:
            frame = _parsed(path, file)
    else:
        frame = _parsed(path, path)
    if path.lower().endswith(".parquet"):
        return from_frame(frame, posixpath.dirname(path), label, lambda row: f"{path}, row {row}")
    kept = np.flatnonzero((frame != "").any(axis=1).to_numpy())

    def place(row: int) -> str:
        before = frame.iloc[: kept[row]]
        breaks = sum(int(before[column].str.count("\n").sum()) for column in before)
        return f"{path}, line {2 + int(kept[row]) + breaks}"

    return from_frame(
        frame if len(kept) == len(frame) else frame.iloc[kept], posixpath.dirname(path), label, place
    )


def _parsed(path: str, file: str | IO[bytes]) -> pd.DataFrame:
    """The columns of a Parquet file as they are, of others as text; blank lines are kept, so that a row
    knows its line."""
    try:
        if path.lower().endswith(".parquet"):
            return pd.read_parquet(file)
        pieces = pd.read_csv(
            file,
            sep="\t" if path.lower().endswith(".tsv") else ",",
            dtype="str",
            keep_default_na=False,
            skip_blank_lines=False,
            index_col=False,
            encoding="utf-8-sig",
            chunksize=20_000,  # a million rows at once take three times the memory of their frame
        )
        with pieces:
            return pd.concat(pieces, ignore_index=True).fillna("")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder") from None
    except PermissionError:
        raise DataError(f"{path}: no permission to read this file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None


def from_frame(frame: pd.DataFrame, root: str, label: str, place: Callable[[int], str]) -> Found:
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
    found.stratum = _stratum(frame, label)
    _check_files(found)
    return found


def _neat_names(column: pd.Series[Any]) -> pd.Series[str]:
    """The same column if all names in it are neat: a copy of a million takes 50 MB."""
    if column.dtype == "str" and all(neat_name(name) == name for piece in _pieces(column) for name in piece):
        return column
    neat = ([neat_name(os.fspath(path)) for path in piece] for piece in _pieces(column))
    return pd.concat([pd.Series(piece, dtype="str") for piece in neat], ignore_index=True)


def _splits(column: pd.Series[Any], place: Callable[[int], str]) -> pd.Categorical[Any]:
    given = neat(column)
    texts = [str(text) for text in given.categories]
    for code, text in enumerate(texts):
        if text.strip().lower() not in SPLIT_NAMES:
            row = int(np.flatnonzero(given.codes == code)[0])
            allowed = ", ".join(filter(None, SPLIT_NAMES))
            raise DataError(f"{place(row)}: unknown split {text!r}; use {allowed} or leave it empty")
    codes = [UNSPLIT.get_loc(SPLIT_NAMES[text.strip().lower()]) for text in texts]
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
            raise DataError(f"{len(twice)} paths are repeated: {some(twice)}; keep one row for each")
    gone = missing(paths)
    if gone:
        raise DataError(f"{len(gone)} of {len(paths)} files do not exist: {some(gone)}")


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
