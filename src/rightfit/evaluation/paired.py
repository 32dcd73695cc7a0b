"""Two models' answers to the same images in; their difference, its interval and how sure it is out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.intervals import STILL, Z, bootstrap, half_interval, interval
from rightfit.evaluation.sums import Sums

Floats = NDArray[np.float64]
FEWEST = 10  # images, or groups of them, that can show a difference
POWER = 1.96 + 0.8416  # a two-sided test at 5 % sees the difference in 80 of 100 data sets


@dataclass(frozen=True)
class Difference:
    """Of a mean over images, B minus A, with its 95 % interval and the images that would show it."""

    value: float
    low: float
    high: float
    images: int | None  # None where nothing differs, or by too few to say

    @property
    def seen(self) -> bool:
        return not self.low <= 0 <= self.high


def difference(
    a: Floats, b: Floats, groups: NDArray[np.int64] | None = None, shares: bool = False
) -> Difference:
    """Of the means of a and b (N,), by paired bootstrap over `groups`: both change with the same draws.

    Of `shares`, whose values are 0 to 1, it is `score_interval` of what varies as much.
    """
    columns = Sums(len(a), groups)
    columns.add("images", np.ones(len(a)))
    columns.add("difference", b - a)
    matrix = columns.matrix()

    def statistic(sums: Floats) -> dict[str, Floats]:
        of = columns.named(sums)
        return {"mean": of["difference"] / of["images"]}

    value = statistic(np.asarray(matrix.sum(axis=1)))["mean"][:, 0]
    drawn = bootstrap([(matrix, statistic)])[0]["mean"]
    if shares:
        reach = float(half_interval(drawn, np.array([float(columns.groups)]))[0])
        low, high = score_interval(float(np.abs(b - a).mean()), value, reach, columns.groups)
    else:
        low, high = interval(value, drawn, columns.groups, "plain")
    error = float(drawn.std())
    needed = None
    if value[0] and error and columns.groups >= FEWEST:
        needed = math.ceil(len(a) * (POWER * error / float(value[0])) ** 2)
    return Difference(float(value[0]), float(low[0]), float(high[0]), needed)


def score_interval(differing: float, value: Floats, reach: float, groups: int) -> tuple[Floats, Floats]:
    """Ends of the 95 % interval of a difference of two paired shares, `value` (1,), by Tango's (1998) score.

    `differing` is the share of images on which they differ. The score is that of as many independent images as
    would vary by `reach`, half of the bootstrap's interval; where no resample varies, of `groups`. So the ends lie
    within -1 and 1, and they are never one: where none of n differs, up to z² / (n + z²) still may.
    """
    from scipy.optimize import brentq

    d = float(value[0])
    n = groups / Z**2 if reach < STILL else (differing - d * d) / reach**2  # images over z squared

    def beyond(supposed: float) -> float:
        """The squared score of the difference that is supposed, less what is believed."""
        minor = (differing - d) / 2  # images that only A has right
        linear = (2 - d) * supposed - differing
        root = math.sqrt(max(0.0, linear**2 + 8 * minor * supposed * (1 - supposed)))
        variance = max(0.0, (root - linear) / 2 + supposed * (1 - supposed))
        return n * (d - supposed) ** 2 - variance

    aside = 1e-9  # at the value itself the score is 0, and where nothing differs so is what is believed
    low = brentq(beyond, -1, d - aside) if d > -1 and beyond(-1) > 0 else -1.0
    high = brentq(beyond, d + aside, 1) if d < 1 and beyond(1) > 0 else 1.0
    return np.array([low]), np.array([high])


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, Any]:
    """Exact test of which model is right where only one is (McNemar 1947), images taken as independent."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return {"only_a_right": only_a, "only_b_right": only_b, "p": _as_uneven(only_a, only_b)}


def sign_test(a: Floats, b: Floats) -> dict[str, Any]:
    """The same of shares of labels that are right (N,): on how many images either model has more of them."""
    more_a, more_b = int((a > b).sum()), int((b > a).sum())
    return {"more_right_by_a": more_a, "more_right_by_b": more_b, "p": _as_uneven(more_a, more_b)}


def _as_uneven(one: int, other: int) -> float:
    """Probability that as many tosses of a coin fall as unevenly, or more so."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(one, other), one + other, 0.5))) if one + other else 1.0
