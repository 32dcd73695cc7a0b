"""A data frame of file names and labels in, what flow_from_dataframe takes of it out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rightfit.keras2.folders import are_images, slice_of

if TYPE_CHECKING:
    import pandas as pd

WITHOUT_CLASSES = ("input", "multi_output", "raw", None)


@dataclass(frozen=True)
class Taken:
    """Rows that are used, in their order."""

    filenames: list[str]
    labels: Any  # class numbers (a list of them for a row of several), arrays of `raw` and `multi_output`, or None
    classes: list[str] | None
    weights: NDArray[Any] | None


def taken(
    frame: pd.DataFrame,
    directory: str,
    options: dict[str, Any],
    modes: Sequence[str | None],
    part: tuple[float, float] | None,
) -> Taken:
    """`options` are flow_from_dataframe's. ValueError and TypeError as Keras raises them; rows whose file is
    missing or no image are left out, with a warning that counts them."""
    mode, x_col, y_col, weight_col = (
        options[name] for name in ("class_mode", "x_col", "y_col", "weight_col")
    )
    classes = list(dict.fromkeys(options["classes"])) if options["classes"] else None
    _check(frame, mode, x_col, y_col, weight_col, classes, modes)
    if options["validate_filenames"]:
        there = are_images([os.path.join(directory, name) for name in frame[x_col]])
        if not all(there):
            warnings.warn(
                f'Found {there.count(False)} invalid image filename(s) in x_col="{x_col}". These filename(s) '
                "will be ignored.",
                stacklevel=5,
            )
        frame = frame[there]
    names = None
    if mode not in WITHOUT_CLASSES:
        frame, names = _of_classes(frame, y_col, classes)
    if part is not None:
        frame = frame.iloc[slice_of(len(frame), part)]
    return Taken(
        frame[x_col].tolist(),
        _labels(frame, mode, y_col, names),
        names,
        frame[weight_col].to_numpy() if weight_col else None,
    )


def encoded(labels: Any, count: int, mode: str | None, dtype: str) -> NDArray[Any]:
    """Class numbers (B,), or lists of them, as `mode` has them: (B,) or (B, count) of 0 and 1."""
    if mode in ("binary", "sparse"):
        return np.asarray(labels, dtype)
    targets = np.zeros((len(labels), count), dtype)
    for row, label in enumerate(labels):
        targets[row, label] = 1
    return targets


def _check(
    frame: pd.DataFrame,
    mode: str | None,
    x_col: str,
    y_col: Any,
    weight_col: str | None,
    classes: list[str] | None,
    modes: Sequence[str | None],
) -> None:
    if mode not in modes:
        raise ValueError(f"Invalid class_mode: {mode}; expected one of: {modes}")
    wanted = [x_col, *(y_col if isinstance(y_col, list) else [y_col] if mode not in ("input", None) else [])]
    missing = [name for name in (*wanted, *([weight_col] if weight_col else [])) if name not in frame]
    if missing:
        raise KeyError(f"the data frame has no column {missing[0]!r}; it has {', '.join(map(str, frame))}")
    if mode == "multi_output" and not isinstance(y_col, list):
        raise TypeError(f'If class_mode="{mode}", y_col must be a list. Received {type(y_col).__name__}.')
    if not frame[x_col].map(lambda value: isinstance(value, str)).all():
        raise TypeError(f"All values in column x_col={x_col} must be strings.")
    kinds = (str, list, tuple) if mode == "categorical" else (str,)
    if mode not in WITHOUT_CLASSES and not frame[y_col].map(lambda value: isinstance(value, kinds)).all():
        listed = ", list or tuple" if mode == "categorical" else ""
        raise TypeError(f'If class_mode="{mode}", y_col="{y_col}" column values must be strings{listed}.')
    if mode == "binary":
        found = len(set(classes)) if classes else frame[y_col].nunique()
        if found != 2:
            raise ValueError(f'If class_mode="binary" there must be 2 classes. Found {found} classes.')
    if classes and mode in WITHOUT_CLASSES:
        warnings.warn(f'`classes` will be ignored given the class_mode="{mode}"', stacklevel=6)
    if weight_col and frame[weight_col].dtype.kind not in "iuf":
        raise TypeError(f"Column weight_col={weight_col} must be numeric.")


def _of_classes(frame: pd.DataFrame, y_col: str, classes: list[str] | None) -> tuple[pd.DataFrame, list[str]]:
    """The rows that belong to one of `classes`, and those that there are, sorted, if none are named."""
    several = frame[y_col].map(lambda label: list(label) if isinstance(label, (list, tuple)) else [label])
    if classes is None:
        return frame, sorted({name for labels in several for name in labels})
    kept = several.map(lambda labels: [name for name in labels if name in classes])
    single = frame[y_col].map(lambda label: isinstance(label, str))
    labels = [names[0] if one and names else names for names, one in zip(kept, single, strict=True)]
    frame = frame.assign(**{y_col: labels})
    return frame[[bool(names) for names in kept]], classes


def _labels(frame: pd.DataFrame, mode: str | None, y_col: Any, classes: list[str] | None) -> Any:
    if mode == "multi_output":
        return [np.array(frame[column].tolist()) for column in y_col]
    if mode == "raw":
        return frame[y_col].to_numpy()
    if classes is None:
        return None
    number = {name: place for place, name in enumerate(classes)}
    return [
        [number[name] for name in label] if isinstance(label, (list, tuple)) else number[label]
        for label in frame[y_col]
    ]
