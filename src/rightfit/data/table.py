"""The one shape of data that everything after it knows: a row an image, with its label, split and group."""

from __future__ import annotations

import csv
import os
import posixpath
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rightfit.data.remote import is_url
from rightfit.errors import UsageError
from rightfit.files import replacing

SPLITS = ("train", "val", "test")
UNSPLIT = pd.Index(["", *SPLITS])
COLUMNS = ("path", "label", "split", "group")  # of data.csv
STRATUM_SEPARATOR = "\x1f"


@dataclass(frozen=True, eq=False)
class OneHot:
    """Targets of images of one class each, held as that class's number: 4 bytes an image, however many classes."""

    codes: npt.NDArray[np.int32]  # (N,)
    classes: int

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: npt.NDArray[np.int64] | slice) -> npt.NDArray[np.float32]:
        """(len(rows), classes), a one in each row."""
        codes = self.codes[rows]
        targets = np.zeros((len(codes), self.classes), np.float32)
        targets[np.arange(len(codes)), codes] = 1
        return targets


@dataclass(frozen=True, eq=False)
class Table:
    """One row per image; `select` and `with_splits` give new tables, nothing changes in place.

    frame: name (str, relative to root with "/", or absolute or a URL as a CSV gave it), label (category),
    split (one of SPLITS, or "" while not assigned), group (str, "" is alone), stratum (category; what the
    split balances). images: (N, H, W, C) uint8 in the order of the rows when the source was arrays.
    """

    frame: pd.DataFrame
    classes: tuple[str, ...]
    label_mode: str
    root: str
    images: npt.NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def outputs(self) -> int:
        """Units in the last layer: one for binary, one per class otherwise."""
        return 1 if self.label_mode == "binary" else len(self.classes)

    def path(self, row: int) -> str:
        return self.paths([row])[0]

    def paths(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
        """Absolute paths or URLs; for arrays the names, "array:0000012"."""
        names = self.frame["name"].iloc[np.asarray(rows, np.int64)].tolist()
        return names if self.images is not None else [join(self.root, name) for name in names]

    def codes(self) -> npt.NDArray[Any]:
        """(N,) int32 class indices, or (N, K) uint8 with a one for each class of the image if multilabel."""
        label = self.frame["label"].cat
        index = {name: i for i, name in enumerate(self.classes)}
        if self.label_mode != "multilabel":
            of_label = np.array([index.get(name, -1) for name in label.categories], np.int32)
            return of_label[label.codes.to_numpy()]
        hot = np.zeros((len(label.categories), len(self.classes)), np.uint8)
        for row, text in zip(hot, label.categories, strict=True):
            row[[index[part] for part in parts_of(text)]] = 1
        return hot[label.codes.to_numpy()]

    def targets(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(len(rows), outputs): one-hot, or the 0/1 of the second class for binary, or multi-hot."""
        return self.held_targets(rows)[:]

    def held_targets(self, rows: npt.NDArray[np.int64]) -> OneHot | npt.NDArray[np.float32]:
        """What `targets` gives, to be read a few rows at a time."""
        codes = self.codes()[rows]
        if self.label_mode == "categorical":
            return OneHot(codes, len(self.classes))
        targets = codes.astype(np.float32)
        return targets[:, None] if self.label_mode == "binary" else targets

    def groups(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
        """(len(rows),) numbers of the groups, an image without one being its own; None if none has one."""
        named = self.frame["group"].iloc[rows]
        if (named == "").all():
            return None
        codes = pd.factorize(named)[0].astype(np.int64)
        alone = (named == "").to_numpy()
        codes[alone] = len(rows) + np.arange(int(alone.sum()))
        return codes

    def rows(self, split: str) -> npt.NDArray[np.int64]:
        """Row numbers of one split, ascending."""
        return np.flatnonzero((self.frame["split"] == split).to_numpy())

    def select(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Table:
        """The given rows in the given order; the classes stay."""
        index = np.asarray(rows, np.int64)
        frame = self.frame.iloc[index].reset_index(drop=True)
        return replace(self, frame=frame, images=None if self.images is None else self.images[index])

    def with_splits(self, splits: npt.NDArray[Any]) -> Table:
        """splits: (N,) str, each one of SPLITS or ""."""
        unknown = sorted(set(np.unique(splits).tolist()) - {"", *SPLITS})
        if unknown:
            raise UsageError(f"unknown split {unknown[0]!r}; a split is one of {', '.join(SPLITS)}")
        return replace(self, frame=self.frame.assign(split=pd.Categorical(splits, UNSPLIT)))

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Columns path (absolute, or a URL), label, split, group: for files, itself a valid source."""
        columns = (self.frame[name].tolist() for name in ("label", "split", "group"))
        with replacing(os.fspath(path)) as beside, beside.open("w", newline="", encoding="utf-8") as file:
            # every field quoted: csv before Python 3.13 leaves a lone "\r" bare, which ends a row
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(zip(self.paths(np.arange(len(self))), *columns, strict=True))


# Text


def parts_of(label: str) -> list[str]:
    """The classes that a multilabel label names."""
    return [part.strip() for part in label.split("|") if part.strip()]


def neat(column: pd.Series[Any]) -> pd.Categorical[Any]:
    """Values as text without blanks around, "" for a missing one; in a column of numbers 1.0 becomes "1"."""
    codes, values = pd.factorize(column)
    texts = [str(value).strip() for value in values]
    if all(re.fullmatch(r"-?\d+(\.\d*)?|", text) for text in texts):
        texts = [re.sub(r"\.0*$", "", text) for text in texts]
    codes[codes < 0] = len(texts)
    return categories(codes, [*texts, ""])


def in_order(classes: Collection[str]) -> list[str]:
    """Sorted; by number where all are whole numbers, so that 10 comes after 2."""
    numbers = all(re.fullmatch(r"[+-]?[0-9]+", name) for name in classes)
    return sorted(classes, key=lambda name: (int(name) if numbers else 0, name))


def categories(codes: npt.NDArray[Any], texts: list[str]) -> pd.Categorical[Any]:
    """Categories sorted, each once and used; equal texts fall together."""
    used = sorted({texts[code] for code in np.flatnonzero(np.bincount(codes))})
    index = {text: i for i, text in enumerate(used)}
    of_code = np.array([index.get(text, -1) for text in texts], np.int32)
    return pd.Categorical.from_codes(of_code[codes], pd.Index(used))


def neat_name(path: str) -> str:
    if absolute(path):
        return path
    return posixpath.normpath(path.replace(os.sep, "/"))


def absolute(name: str) -> bool:
    return is_url(name) or os.path.isabs(name)  # a Path costs much, a million times over


def join(root: str, name: str) -> str:
    if absolute(name):
        return name
    return f"{root.rstrip('/')}/{name}"


def folder_of_all(paths: Collection[str]) -> str:
    """The deepest folder, or URL, that all `paths` are in, without a slash at its end."""
    parts = zip(min(paths).split("/")[:-1], max(paths).split("/")[:-1], strict=False)
    return "/".join(part for part, other in takewhile(lambda pair: pair[0] == pair[1], parts))


def normal(path: str) -> str:
    scheme, separator, rest = path.rpartition("://")
    return scheme + separator + posixpath.normpath(rest.replace(os.sep, "/"))


def some(names: Sequence[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
