"""A learning-rate range test (Smith 2017): a hundred steps, say, while the rate rises from far too low to too high.

Loss falls, and leaps where steps are too long. A tenth of the rate at which it is lowest is one to train with (Howard
and Gugger 2020), here the highest rate at which it is not surely above that: a first, cheap estimate, which a search
holds against others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightfit.data.loader import TrainLoader
from rightfit.evaluation.intervals import half_width
from rightfit.training.step import Step

SAFE = 10.0  # the rate of the lowest loss is so many times one that lasts
WINDOW = 9  # steps that are averaged, as a batch's loss is a noisy one
SURE = 2.0  # times the interval, as the lowest of many means is low by chance too
FAR = 4.0  # times the lowest loss: what comes after is no better


@dataclass(frozen=True)
class Ranged:
    rates: list[float]  # of each step taken
    losses: list[float]  # mean of the steps around it
    suggested: float | None  # None where no rate surely lowered the loss


def range_test(
    step: Step, loader: TrainLoader, low: float, high: float, steps: int, check: Callable[[], None]
) -> Ranged:
    """Take `steps` from rate `low` to `high`, evenly on a log scale, or until the loss is far from its lowest.

    `step` is left as it came out. `check` is called before each step, and may raise.
    """
    step.begin()
    rates, found, before = np.geomspace(low, high, steps), [], 0.0
    for index, rate in enumerate(rates):
        check()
        step(loader.batch(*divmod(index, loader.steps)), float(rate), None)
        total = float(step.totals()[0])
        if not math.isfinite(total):
            break
        found.append((total - before) / loader.batch_size)
        before = total
        if index >= WINDOW and np.mean(found[-WINDOW:]) > FAR * smoothed(np.array(found)).min():
            break
    losses = np.array(found)
    smooth = smoothed(losses)
    return Ranged(rates[: len(smooth)].tolist(), smooth.tolist(), _suggested(rates, losses, smooth))


def smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): the mean of each and those around it, of fewer at the ends."""
    if not len(losses):
        return losses
    ones = np.ones(min(WINDOW, len(losses)))
    return np.convolve(losses, ones, "same") / np.convolve(np.ones(len(losses)), ones, "same")


def _suggested(
    rates: NDArray[np.float64], losses: NDArray[np.float64], smooth: NDArray[np.float64]
) -> float | None:
    if len(losses) < 2 * WINDOW:
        return None
    lowest = int(np.argmin(smooth))
    around = losses[max(0, lowest - WINDOW // 2) : lowest + WINDOW // 2 + 1]
    first, unsure = losses[:WINDOW], half_width(around)
    if first.mean() - around.mean() <= SURE * math.hypot(half_width(first), unsure):
        return None
    last = int(np.flatnonzero(smooth <= smooth[lowest] + unsure)[-1])
    return float(rates[last] / SAFE)
