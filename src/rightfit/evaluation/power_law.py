"""Shares of wrong answers of nets by how many images they learnt from in, what more images would bring out.

The error falls in a straight line on two logarithmic axes (Cortes et al. 1994; Hestness et al. 2017) until what no
image can teach is left. Beyond the images that were learnt from, the line is therefore the hopeful end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Forecast:
    """Of a net trained on so many images, with the 95 % interval of what one such training would reach."""

    images: int
    accuracy: float
    low: float
    high: float


def forecasts(
    images: Sequence[int], errors: Sequence[float], at: Sequence[int], one: float
) -> list[Forecast]:
    """For each number of images in `at`, by the line through three or more nets' `errors` (shares, 0 to 1).

    The interval is that of a new point of the regression (Student's t); that all nets were judged by the same images
    is not in it. `one` is the share of one of those: half of it is added to each error, and nets scatter by half of it
    at least, so that nets without an error make no certainty.
    """
    from scipy import stats

    x, y = np.log(np.asarray(images, np.float64)), np.log(np.asarray(errors, np.float64) + one / 2)
    spread = float(((x - x.mean()) ** 2).sum())
    line_of = stats.linregress(x, y)
    left = y - line_of.intercept - line_of.slope * x
    noise = max(float(np.sqrt((left**2).sum() / (len(x) - 2))), float(np.log1p(one / 2 / np.exp(y[-1]))))
    wide = float(stats.t.ppf(0.975, len(x) - 2))
    found = []
    for count in at:
        away = np.log(count) - x.mean()
        half = wide * noise * np.sqrt(1 + 1 / len(x) + away**2 / spread)
        line = line_of.intercept + line_of.slope * np.log(count)
        low, middle, high = (
            1 - float(np.clip(np.exp(line + side * half) - one / 2, 0, 1)) for side in (1, 0, -1)
        )
        found.append(Forecast(int(count), middle, low, high))
    return found
