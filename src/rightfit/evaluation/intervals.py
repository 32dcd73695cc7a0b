"""95 % intervals of means over images, whole groups (patients) together."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def half_width(values: Floats, groups: NDArray[np.int64] | None = None) -> float:
    """Half of the 95 % interval of the mean of `values` (N,), by the normal approximation.

    With `groups` (N,) the images of one group count as one draw (the cluster-robust variance of a
    ratio of means; Cochran 1977, section 6.3). For 0/1 values without groups it is Wilson's (1927)
    interval, which stays above zero when every answer is right. NaN for no values.
    """
    count = len(values)
    if count == 0:
        return float("nan")
    if groups is None and np.isin(values, (0.0, 1.0)).all():
        z, p = 1.96, float(values.mean())
        return z / (1 + z * z / count) * float(np.sqrt(p * (1 - p) / count + z * z / (4 * count * count)))
    sums, sizes = group_sums(values[:, None], groups)
    clusters = len(sizes)
    if clusters < 2:
        return float("nan")
    residuals = sums[:, 0] - values.mean() * sizes
    return 1.96 * float(np.sqrt(clusters / (clusters - 1) * (residuals**2).sum())) / count


def group_sums(columns: Floats, groups: NDArray[np.int64] | None) -> tuple[Floats, Floats]:
    """Sum each column (N, M) over the images of a group -> (G, M), and group sizes (G,)."""
    if groups is None:
        return columns, np.ones(len(columns))
    index = np.unique(groups, return_inverse=True)[1]
    sizes: Floats = np.bincount(index).astype(np.float64)
    sums: Floats = np.stack([np.bincount(index, weights=column) for column in columns.T], axis=1)
    return sums, sizes


def open_ends(values: Floats, low: Floats, high: Floats, draws: Floats) -> tuple[Floats, Floats]:
    """Intervals of shares, all (S,): where every draw was right (or wrong) no resample can differ, so
    the open end is Wilson's (1927) for that many `draws`. Where `draws` is 0 nothing is changed."""
    with np.errstate(invalid="ignore"):
        reach = 1.96**2 / (draws + 1.96**2)
    sure = (draws > 0) & (low == high)
    return (
        np.where(sure & (values == 1), 1 - reach, low),
        np.where(sure & (values == 0), reach, high),
    )


def bootstrap(
    columns: Floats,
    statistic: Callable[[Floats], Floats],
    groups: NDArray[np.int64] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Floats:
    """95 % percentile interval (2, S) of statistics that are functions of column sums (Efron 1979).

    `columns` (N, M) is summed over the images of each group; `statistic` takes resampled sums
    (R, M) to (R, S). Groups are drawn with replacement. Resamples in which a statistic is undefined
    (NaN, such as a class that was not drawn) are left out of its percentiles.
    """
    sums, _ = group_sums(columns, groups)
    generator = np.random.default_rng([seed, len(sums)])
    clusters = len(sums)
    chunk = max(1, 4_000_000 // max(1, clusters))
    drawn = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # How often each group is drawn; the product with the sums is one matrix product.
        picks = generator.integers(0, clusters, (size, clusters))
        offsets = np.arange(size)[:, None] * clusters
        counts = np.bincount((picks + offsets).ravel(), minlength=size * clusters).reshape(size, clusters)
        drawn.append(statistic(counts.astype(np.float64) @ sums))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "All-NaN slice", RuntimeWarning
        )  # a class without images: NaN is the answer
        return np.nanpercentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
