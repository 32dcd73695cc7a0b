"""Two models' answers to the same images in; their difference, its interval and how sure it is out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.intervals import bootstrap, interval
from rightfit.evaluation.sums import Sums

Floats = NDArray[np.float64]
POWER = 1.96 + 0.8416  # a two-sided test at 5 % sees the difference in 80 of 100 data sets


@dataclass(frozen=True)
class Difference:
    """Of a mean over images, B minus A, with its 95 % interval and the images that would show it."""

    value: float
    low: float
    high: float
    images: int | None  # None where nothing differs

    @property
    def seen(self) -> bool:
        return not self.low <= 0 <= self.high


def difference(a: Floats, b: Floats, groups: NDArray[np.int64] | None = None) -> Difference:
    """Of the means of a and b (N,), by paired bootstrap over `groups`: both change with the same draws."""
    columns = Sums(len(a), groups)
    columns.add("images", np.ones(len(a)))
    columns.add("difference", b - a)
    matrix = columns.matrix()

    def statistic(sums: Floats) -> dict[str, Floats]:
        of = columns.named(sums)
        return {"mean": of["difference"] / of["images"]}

    value = statistic(np.asarray(matrix.sum(axis=1)))["mean"][:, 0]
    drawn = bootstrap([(matrix, statistic)])[0]["mean"]
    low, high = interval(value, drawn, columns.groups, "plain")
    error = float(drawn.std())
    needed = None
    if value[0] and error:
        needed = math.ceil(len(a) * (POWER * error / float(value[0])) ** 2)
    return Difference(float(value[0]), float(low[0]), float(high[0]), needed)


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, Any]:
    """Exact test of which model is right where only one is (McNemar 1947), images taken as independent."""
    from scipy.special import bdtr

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    alone = only_a + only_b
    p = min(1.0, 2 * float(bdtr(min(only_a, only_b), alone, 0.5))) if alone else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p": p}
