"""What every kind of source gives, before classes and groups are settled; and the words that sources share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rightfit.data.listing import IMAGE_SUFFIXES

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

    def group(self, groups: pd.Series[str]) -> None:
        """By what `group_by` says, in place of a column group."""
        if self.groups is not None:
            self.notes.append("group_by was given, so the column group was not used.")
        self.groups = groups


def split_of(name: str) -> str | None:
    """The split that a folder or a value of the column split names, in any case; None if it names none."""
    return SPLIT_NAMES.get(re.sub(r"[-_ ]?set$", "", name.strip().lower()))


def quoted(name: Any) -> str:
    """As a shell takes it."""
    text = str(name)
    return text if re.fullmatch(r"\w+", text) else shlex.quote(text)
