"""Which of a few learning rates learns fastest: each tried for a few steps, from the same weights on the same batches.

A rate that is ten times too low shows within a twenty-fifth of the steps. What is compared is the loss of training
steps, batch by batch, so no image is looked at that training does not look at anyway. Short tries favour low rates
(Wu et al. 2018), most of all where labels are noisy, so lower ones are not tried: a rate that is too high loses the
loss, which training/setbacks.py mends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightfit.data.loader import TrainLoader
from rightfit.evaluation.intervals import half_width
from rightfit.memory import is_short
from rightfit.training.step import Step

RUNG = 6.0  # one rate to the next
MOST_RUNGS = 2  # above the rate that was set
SHARE = 1 / 25  # of all steps, each try
FEWEST, MOST = 20, 150  # steps of a try
FAR = 3.0  # times the first step's loss: beyond it, how far does not matter


@dataclass(frozen=True)
class Outcome:
    factor: float  # of the learning rate
    steps: int  # that all tries took
    because: str


def length(total: int) -> int:
    """Steps of a try in a run of `total` steps; 0 where the race would cost too much of it."""
    steps = min(MOST, int(SHARE * total))
    return steps if steps >= FEWEST else 0


def race(step: Step, loader: TrainLoader, rate: float, steps: int, check: Callable[[], None]) -> Outcome:
    """Try `rate`, and rates `RUNG` times higher for as long as each is surely better than the one before.

    `step` is left as it was found, but where memory was too short for it. `check` is called before
    each step, and may raise.
    """
    start = step.state()
    tried: dict[int, NDArray[np.float64]] = {}

    def losses(rung: int) -> NDArray[np.float64]:
        if rung not in tried:
            step.restore(start)
            tried[rung] = _losses(step, loader, rate * RUNG**rung, steps, check)
        return tried[rung]

    best = 0
    try:
        for rung in range(1, MOST_RUNGS + 1):
            if not _better(losses(rung), losses(best)):
                break
            best = rung
    except BaseException as error:
        if not is_short(error):  # else the step is made anew, and on JAX its state is gone
            step.restore(start)
        raise
    step.restore(start)
    seen = ", ".join(f"{rate * RUNG**rung:.3g}: {_end(tried[rung]).mean():.3f}" for rung in sorted(tried))
    because = f"loss of training at the end of {steps} steps by learning rate: {seen}"
    return Outcome(RUNG**best, steps * len(tried), because)


def _losses(
    step: Step, loader: TrainLoader, rate: float, steps: int, check: Callable[[], None]
) -> NDArray[np.float64]:
    """(steps,) the mean loss of each batch, before its step; the rate rises over the first half."""
    step.begin()
    found, before = np.full(steps, np.inf), 0.0
    for index in range(steps):
        check()
        step(loader.batch(*divmod(index, loader.steps)), rate * min(1.0, 2 * (index + 1) / steps), None)
        total = float(step.totals()[0])
        if not math.isfinite(total):
            break
        found[index], before = (total - before) / loader.batch_size, total
    return found


def _end(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    return losses[-max(1, len(losses) // 3) :]


def _better(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Is the loss at the end of `one` surely lower than at that of `other`, on the same batches?"""
    mine, others = _end(one), _end(other)
    if not np.isfinite(mine).all():
        return False
    if not np.isfinite(others).all():
        return True
    far = FAR * one[0]  # the first step's loss is the same for all
    lower = np.minimum(others, far) - np.minimum(mine, far)
    return bool(lower.mean() > half_width(lower))
