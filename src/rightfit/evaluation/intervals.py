"""95 % intervals of numbers counted over images, whole groups (patients) together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Sums (M, R) of R resamples in, named statistics (S, R) out, NaN where one is undefined.
Statistic = Callable[[Floats], dict[str, Floats]]
Scale = Literal["share", "signed", "positive", "plain"]
RESAMPLES = 2000
Z = 1.96
STILL = 1e-9  # half an interval; below it resamples differ by rounding alone
CHUNK, CHUNK_BYTES = 64, 32 * 2**20  # resamples at a time, at most


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
        p = float(values.mean())
        return Z / (1 + Z * Z / count) * float(np.sqrt(p * (1 - p) / count + Z * Z / (4 * count * count)))
    index = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, sizes = np.bincount(index, weights=values), np.bincount(index)
    clusters = len(sizes)
    if clusters < 2:
        return float("nan")
    residuals = sums - values.mean() * sizes
    return Z * float(np.sqrt(clusters / (clusters - 1) * (residuals**2).sum())) / count


def bootstrap(
    parts: Sequence[tuple[Any, Statistic]], resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Floats]]:
    """Statistics (S, resamples) of groups drawn with replacement (Efron 1979), all parts on the same draws.

    A part is a sparse matrix (M, G), what is summed over the images of each group, and the statistic of
    such sums. How often each group is drawn is a matrix (G, R), and its product with the sums is every
    resample at once, R of them at a time to bound memory. The draws depend on G and the seed alone.
    """
    groups = parts[0][0].shape[1]
    chunk = min(CHUNK, max(1, CHUNK_BYTES // (8 * max(1, groups))))
    drawn: list[list[dict[str, Floats]]] = [[] for _ in parts]
    for start in range(0, resamples, chunk):
        counts = draw_counts(groups, chunk, [seed, groups, start])[:, : resamples - start]
        for found, (sums, statistic) in zip(drawn, parts, strict=True):
            found.append(statistic(sums @ counts))
    return [{name: np.concatenate([f[name] for f in found], axis=1) for name in found[0]} for found in drawn]


def draw_counts(groups: int, resamples: int, seed: Sequence[int]) -> Floats:
    """(groups, resamples): how often each group is among as many draws with replacement."""
    picks = np.random.default_rng(seed).integers(0, groups, (groups, resamples))
    picks *= resamples
    picks += np.arange(resamples)
    counts = np.bincount(picks.ravel(), minlength=groups * resamples)
    return counts.reshape(groups, resamples).astype(np.float64)


def interval(
    values: Floats, drawn: Floats, draws: Floats | float, scale: Scale, parts: float = 1
) -> tuple[Floats, Floats]:
    """Ends of the 95 % intervals of `values` (S,) from their resamples `drawn` (S, R).

    The standard deviation of the resamples, times sqrt(n / (n - 1)) and Student's t of n - 1, where n is
    `draws` (S,), the groups that the number rests on (`welch`, `of_mean`). Of a share it makes Wilson's interval
    (1927) for as many independent draws as would vary that much (Kish 1965; Korn and Graubard 1998). Else it is
    laid off on a scale on which the number has no ends: the inverse hyperbolic tangent of what lies within -1
    and 1, the logarithm of what is positive (the delta method). benchmarks/coverage.py says why.

    Where every answer was right (or wrong) no resample can differ: the open end of a share is Wilson's
    for `draws`, and divided by `parts` for what moves by so much less (a mean over classes) or more. Where they
    do differ (a sensitivity whose threshold moves with them) it is no nearer than their percentile. A share
    between 0 and 1 that no resample differs from (all groups agree) has Wilson's interval for `draws` times
    `parts`. How far a signed or positive number would move no resample says then, such as the kappa of a net
    that gives one answer only: its ends are NaN.
    """
    draws = np.broadcast_to(np.asarray(draws, np.float64), values.shape)
    whole = np.round(values)
    values = np.where(np.abs(values - whole) < 1e-12, whole, values)  # sums of shares miss 1 by a rounding
    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that no resample holds: NaN is the answer
        reach = half_interval(drawn, draws)
        still = reach < STILL
        open_end = Z * Z / (np.maximum(draws, 1) + Z * Z) / parts
        if scale == "share":
            n = values * (1 - values) / reach**2  # independent draws over t squared
            n = np.where(still, np.maximum(draws, 1) * parts / (Z * Z), n)
            middle, side = (values * n + 0.5) / (n + 1), np.sqrt(values * (1 - values) * n + 0.25) / (n + 1)
            low, high = middle - side, middle + side
            ends = np.full((2, len(values)), np.nan)
            if (moved := ~still & ((values == 0) | (values == 1))).any():
                ends[:, moved] = np.nanpercentile(drawn[moved], [2.5, 97.5], axis=1)
            low = np.where(values == 1, np.fmin(1 - open_end, ends[0]), np.where(values == 0, 0.0, low))
            high = np.where(values == 0, np.fmax(open_end, ends[1]), np.where(values == 1, 1.0, high))
        elif scale == "signed":
            sides = np.where(still, np.nan, reach / (1 - values**2))
            low, high = np.tanh(np.arctanh(values) - sides), np.tanh(np.arctanh(values) + sides)
            low = np.where(values == 1, np.maximum(1 - open_end, -1), np.where(values == -1, -1, low))
            high = np.where(values == -1, np.minimum(open_end - 1, 1), np.where(values == 1, 1, high))
        elif scale == "positive":
            sides = np.where(reach < STILL * values, np.nan, reach / values)
            low, high = values * np.exp(-sides), values * np.exp(sides)
        else:
            low, high = values - reach, values + reach
        low, high = np.minimum(low, values), np.maximum(high, values)  # there and back on a scale rounds
        low, high = (np.where(np.isnan(values), np.nan, end) for end in (low, high))
    return low, high


def interval_of_distance(values: Floats, drawn: Floats, draws: float, noise: float) -> tuple[Floats, Floats]:
    """The same of a distance from what is claimed, such as ECE, which noise alone lifts above 0.

    `noise` is what the distance would be on average if every claim were true; a resample adds to that of the
    sample, and its excess over the value says the same where claims are false. So the low end is moved down
    by the larger of both, the high end not at all.
    """
    reach = half_interval(drawn, np.full(values.shape, float(draws)))
    lifted = np.maximum(noise, drawn.mean(axis=1) - values)
    return np.clip(values - lifted - reach, 0, values), np.clip(values + reach, values, 1)


def half_interval(drawn: Floats, draws: Floats) -> Floats:
    """Half an interval on the scale of the resamples (S, R); without end for a single draw."""
    from scipy.special import stdtrit

    spread = np.nanstd(drawn, axis=1) * np.sqrt(draws / np.maximum(draws - 1, 1))
    return np.where(draws < 2, np.inf, spread * stdtrit(np.maximum(draws - 1, 1), 0.975))


def welch(one: Floats, other: Floats) -> Floats:
    """Draws behind a comparison of `one` with `other` many: their sum where they are as many, the fewer
    where they are much fewer (Welch 1947, of equal variances)."""
    one, other = np.maximum(one, 1), np.maximum(other, 1)
    parts = 1 / (one**2 * np.maximum(one - 1, 0.5)) + 1 / (other**2 * np.maximum(other - 1, 0.5))
    return np.asarray(1 + (1 / one + 1 / other) ** 2 / parts)


def of_mean(drawn: Floats, draws: Floats) -> float:
    """Draws behind a mean over classes from the resamples (S, R) of each and the draws behind it (S,): most
    count those that vary most (Satterthwaite 1946). Where none varies, the fewest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that no resample holds
        spread = np.nan_to_num(np.nanvar(drawn, axis=1))
    if not spread.any():
        return float(draws[draws > 0].min()) if (draws > 0).any() else 0.0
    return float(1 + spread.sum() ** 2 / (spread**2 / np.maximum(draws - 1, 1)).sum())
