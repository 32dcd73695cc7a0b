"""What is known of each image, as named columns; their sums over any draw of groups give every metric."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]


class Sums:
    """Columns over N images, kept sparse: a column a class costs a number an image, not one a class."""

    def __init__(self, count: int, groups: NDArray[np.int64] | None = None) -> None:
        self.index = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
        self.groups = int(self.index.max()) + 1 if count else 0
        self._places: dict[str, slice] = {}
        self._rows: list[Codes] = []
        self._columns: list[Codes] = []
        self._values: list[Floats] = []
        self._height = 0

    def add(self, name: str, values: NDArray[Any]) -> None:
        """values (N,) or (N, M): a column, or M of them."""
        table = values.reshape(len(values), -1).astype(np.float64)
        images, columns = table.nonzero()
        self._put(name, columns, self.index[images], table[images, columns], table.shape[1])

    def add_coded(
        self, name: str, codes: Codes, size: int, values: Floats | None = None, pooled: bool = False
    ) -> None:
        """codes (N,) or (N, M), each 0..size-1 -> M times `size` columns that hold 1, or `values`, at the code;
        `pooled` makes one set of `size` columns of all M."""
        table = codes.reshape(len(codes), -1)
        sets = table.shape[1]
        columns = table if pooled else table + size * np.arange(sets)
        numbers = np.ones(columns.size) if values is None else values.ravel().astype(np.float64)
        groups = np.repeat(self.index, sets)
        self._put(name, columns.ravel(), groups, numbers, size if pooled else size * sets)

    def _put(self, name: str, columns: Codes, groups: Codes, values: Floats, width: int) -> None:
        self._places[name] = slice(self._height, self._height + width)
        self._rows.append(columns + self._height)
        self._columns.append(groups)
        self._values.append(values)
        self._height += width

    def matrix(self) -> Any:
        """scipy's CSR matrix (columns, groups)."""
        from scipy.sparse import csr_matrix

        where = (np.concatenate(self._rows), np.concatenate(self._columns))
        made = csr_matrix((np.concatenate(self._values), where), shape=(self._height, self.groups))
        made.eliminate_zeros()
        return made

    def named(self, sums: Floats) -> dict[str, Floats]:
        """sums (M, R) -> name -> (columns of that name, R)."""
        return {name: sums[place] for name, place in self._places.items()}

    def draws(self, matrix: Any) -> dict[str, Floats]:
        """name -> how many groups each of its columns is not 0 in."""
        held = np.diff(matrix.indptr).astype(np.float64)
        return {name: held[place] for name, place in self._places.items()}
