"""Folders, files with columns, data frames and arrays in; names, labels, splits and groups as they gave them out."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rightfit.data.columns import SUFFIXES, read_columns
from rightfit.data.folders import from_folder
from rightfit.data.found import LAYOUTS, Found
from rightfit.data.frames import from_frame
from rightfit.data.listing import decodable
from rightfit.data.remote import is_url
from rightfit.data.table import neat, some
from rightfit.errors import DataError, UsageError

SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


def root_of(source: str) -> str:
    """The folder or URL that a source's names are relative to: itself, or the one a table lies in."""
    path = _full(source)
    return posixpath.dirname(path) if _is_table(path) else path


def _full(source: str) -> str:
    return source if is_url(source) else Path(source).expanduser().absolute().as_posix()


def _is_table(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not Path(path).is_dir()


def from_path(source: str, label: str | None, group_by: str | None) -> Found:
    path = _full(source)
    if not decodable(path):
        raise DataError(f"{path!a} is not valid UTF-8: rename the folder")
    if _is_table(path):
        frame, place = read_columns(path)
        return from_frame(frame, posixpath.dirname(path), label or "label", place, group_by)
    if is_url(path) or Path(path).is_file():
        if path.lower().endswith(SPREADSHEETS):
            raise DataError(f"{path}: spreadsheets are not read; save it as CSV UTF-8 and give that file")
        if path.lower().endswith(ARCHIVES):
            raise DataError(f"{path}: archives are not read; unpack it and give the folder")
    if Path(path).is_file():
        raise DataError(f"{path}: not a folder and not a table; {LAYOUTS}")
    return from_folder(path)


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
