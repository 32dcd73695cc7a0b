"""Features of queries and of many images in; for each query the images most like it out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

ROWS = 4096  # of the images at a time
QUERIES = 1024  # at a time
DECIMALS = 6  # of a similarity; sums in float64, so that their order decides no tie


def nearest(queries: NDArray[Any], features: NDArray[Any], k: int) -> tuple[Ints, NDArray[np.float32]]:
    """Features of queries (M, D) and of images (N, D) -> indices (M, k) int64 and cosine similarities
    (M, k) float32, the most similar first and of equal ones the lowest index first.

    Similarities count to six decimals; a row of zeros is similar to nothing (0). Where there are fewer than
    k images, all are given. `features` may be a memory map larger than memory: it is read once, in blocks.
    ValueError when the shapes do not fit or k is below 1.
    """
    if queries.ndim != 2 or features.ndim != 2 or queries.shape[1] != features.shape[1]:
        raise ValueError(f"queries {queries.shape} and features {features.shape} are not (M, D) and (N, D)")
    if k < 1:
        raise ValueError(f"k is {k}; at least 1 is needed")
    indices = np.empty((len(queries), 0), np.int64)
    similarities = np.empty((len(queries), 0))
    parts = [slice(start, start + QUERIES) for start in range(0, len(queries), QUERIES)]
    for first in range(0, len(features), ROWS):
        block = _unit(features[first : first + ROWS])
        places = np.arange(first, first + len(block))
        best = [_merged(indices[p], similarities[p], places, _unit(queries[p]) @ block.T, k) for p in parts]
        if best:
            indices, similarities = (np.concatenate(found) for found in zip(*best, strict=True))
    return indices, similarities.astype(np.float32)


def _unit(rows: NDArray[Any]) -> Floats:
    """(B, D) -> the same directions, each of length 1, float64."""
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))


def _merged(
    indices: Ints, similarities: Floats, places: Ints, products: Floats, k: int
) -> tuple[Ints, Floats]:
    """The best k of those so far (M, <= k) and of the images at `places` (B,) with `products` (M, B)."""
    values = np.hstack([similarities, np.round(products, DECIMALS)])
    numbers = np.hstack([indices, np.broadcast_to(places, products.shape)])
    k = min(k, values.shape[1])
    least = np.partition(values, -k, axis=1)[:, -k]  # the k-th largest, which others may equal
    chosen = np.empty((len(values), k), np.int64)
    for row, (line, limit) in enumerate(zip(values, least, strict=True)):
        above = np.flatnonzero(line >= limit)
        chosen[row] = above[np.argsort(-line[above], kind="stable")[:k]]
    return np.take_along_axis(numbers, chosen, 1), np.take_along_axis(values, chosen, 1)
