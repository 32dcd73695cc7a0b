"""A folder or URL of class folders, or of split folders that hold them, in; names, labels, splits and notes out."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from rightfit.console import counted
from rightfit.data.found import LAYOUTS, Found, split_of
from rightfit.data.listing import below, decodable, folders_in
from rightfit.data.table import SPLITS, UNSPLIT, categories, some
from rightfit.errors import DataError

# Files that lie beside images and are not missed.
COMPANIONS = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".db", ".ini")


def from_folder(root: str) -> Found:
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
    """DataError where folders that would be classes are called as splits or folds are and hold folders of the same
    names: these are the classes."""
    inside: dict[str, set[str]] = {top: set() for top in tops}
    for name in images:
        top, *rest = name.split("/", 2)
        if rest:
            inside[top].add(rest[0] if len(rest) > 1 else "")  # "" for an image right in it
    parts = {top for top in tops if re.fullmatch(r"(fold|split|part|subset)[ _-]?\d+", top.lower())}
    for suspects in (named, named | parts):
        common = set.intersection(*(inside[top] for top in suspects)) - {""} if len(suspects) > 1 else set()
        if len(common) > 1:
            raise DataError(
                f"{root}: the folders {some(sorted(suspects))} hold folders of the same names "
                f"({some(sorted(common))}), which look like the classes; name the folders above them train, val and "
                "test, or give a table with columns path and label (and split)"
            )


def _unread(names: list[str]) -> list[str]:
    """A note that counts, by suffix, the files in folders that may have been meant as images."""
    suffixes = (posixpath.splitext(name)[1].lower() for name in names if "/" in name)
    counts = Counter(suffix or "without suffix" for suffix in suffixes if suffix not in COMPANIONS)
    if not counts:
        return []
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common(8))
    are = counted(counts.total(), "file is of a kind that is", "files are of kinds that are")
    return [f"{are} not read: {kinds}."]


def _empty(root: str, files: list[str], splits: set[str]) -> list[str]:
    """A note of the folders that would be classes if an image lay in them; `files` are images and links."""
    depth = 2 if splits else 1
    full = {"/".join(name.split("/", depth)[:depth]) for name in files}
    above = [f"{split}/" for split in splits] or [""]
    found = [prefix + name for prefix in above for name in folders_in(f"{root}/{prefix}")]
    empty = sorted(name if decodable(name) else ascii(name) for name in found if name not in full)
    if not empty:
        return []
    holds = counted(len(empty), "folder holds", "folders hold")
    return [f"{holds} no image{'' if splits else ', so there are no such classes'}: {some(empty)}."]
