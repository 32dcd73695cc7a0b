"""Which finalist is best: by the mean over its seeds and the interval of the difference, never by one lucky number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rightfit.tuning.halving import finalists
from rightfit.tuning.journal import Trial


@dataclass(frozen=True)
class Choice:
    trial: int
    loss: float  # of the selection images, mean over seeds
    because: str


def choose(trials: Sequence[Trial], levels: Sequence[int]) -> Choice | None:
    """The finalist with the lowest mean loss over seeds; the default recipe where that is within a standard error of
    it. None where nothing was trained to the end."""
    last = levels[-1]
    found = {
        n: [x for x in (trials[n].loss(s, last) for s in trials[n].losses) if x is not None]
        for n in finalists(trials, levels)
    }
    if not found:
        return None
    means = {number: sum(losses) / len(losses) for number, losses in found.items()}
    best = min(means, key=lambda number: means[number])
    told = ", ".join(f"{'the default recipe' if n == 0 else f'trial {n}'} {means[n]:.4f}" for n in found)
    if best and 0 in found:
        error = math.hypot(_error(found[0]), _error(found[best]))
        if means[0] - means[best] <= error:
            return Choice(
                0,
                means[0],
                f"mean loss over seeds: {told}; the default is within a standard error of the best",
            )
    return Choice(best, means[best], f"mean loss over seeds: {told}")


def _error(losses: Sequence[float]) -> float:
    """The standard error of a mean; of one value it is not known, and taken for none."""
    if len(losses) < 2:
        return 0.0
    mean = sum(losses) / len(losses)
    return math.sqrt(sum((x - mean) ** 2 for x in losses) / (len(losses) - 1) / len(losses))
