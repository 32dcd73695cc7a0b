"""What every check looks at: images with their labels, splits and facts, and which of them are copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rightfit.data.audit.duplicates import Copies
from rightfit.data.audit.facts import Facts
from rightfit.data.table import SPLITS, Table

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Subject:
    """Row i of the table is row i of the facts; unreadable images are in no split."""

    table: Table
    facts: Facts
    given: bool  # the splits came with the data
    copies: Copies

    @cached_property
    def splits(self) -> npt.NDArray[np.object_]:
        return self.table.frame["split"].to_numpy(object)

    @cached_property
    def members(self) -> npt.NDArray[np.bool_]:
        """(N, K): is image i of class k."""
        codes = self.table.codes()
        if codes.ndim == 2:
            return codes.astype(bool)
        return codes[:, None] == np.arange(len(self.table.classes))

    @cached_property
    def label_sets(self) -> Ints:
        """(N,) equal where all labels of two images are."""
        codes = self.table.codes()
        if codes.ndim == 2:
            codes = np.unique(codes, axis=0, return_inverse=True)[1].ravel()
        return codes.astype(np.int64)

    @cached_property
    def groups(self) -> Ints:
        """(N,) number of the group; an image without one is its own."""
        names = self.table.frame["group"].to_numpy(object)
        index: dict[str, int] = {}
        return np.array(
            [
                index.setdefault(name, len(index)) if name else len(names) + row
                for row, name in enumerate(names)
            ],
            np.int64,
        )

    def names(self, rows: Sequence[int] | Ints) -> tuple[str, ...]:
        return tuple(self.table.frame["name"].iloc[np.asarray(rows, np.int64)])

    def together(self, number: Ints) -> list[Ints]:
        """Rows of each readable set of two or more with one number; sets and rows in the order of rows."""
        rows = np.flatnonzero(self.facts.ok)
        order = rows[np.argsort(number[rows], kind="stable")]
        ends = np.flatnonzero(np.diff(number[order])) + 1
        sets = [part for part in np.split(order, ends) if len(part) > 1]
        return sorted(sets, key=lambda part: int(part[0]))

    def split_sizes(self) -> dict[str, int]:
        splits = self.splits
        return {name: int((splits == name).sum()) for name in SPLITS}
