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
    """The finalist with the lowest mean loss over seeds, of those that were trained twice at least; the default recipe
    where it is within a standard error of that, or was trained but once. None where nothing was trained to the end."""
    last = levels[-1]
    found = {
        n: [x for x in (trials[n].loss(s, last) for s in trials[n].losses) if x is not None]
        for n in finalists(trials, levels)
    }
    if not found:
        return None
    if 0 in found:
        again = {n: losses for n, losses in found.items() if n and len(losses) > 1 and len(found[0]) > 1}
        if len(found) > 1 and not again:
            because = "the default recipe is kept, as one training each cannot tell luck from better"
            return Choice(0, found[0][0], because)
        found = {0: found[0], **again}
    means = {number: sum(losses) / len(losses) for number, losses in found.items()}
    best = min(means, key=lambda number: means[number])
    told = ", ".join(f"{'the default recipe' if n == 0 else f'trial {n}'} {means[n]:.4f}" for n in found)
    if best and 0 in found:
        error = math.hypot(_error(found[0]), _error(found[best]))
        if means[0] - means[best] <= error:
            return Choice(
                0,
                means[0],
                f"mean loss over seeds: {told}; the default recipe is kept, within a standard error of the best",
            )
    kept = "" if best else "; the default recipe is kept, as nothing did better"
    return Choice(best, means[best], f"mean loss over seeds: {told}{kept}")


def _error(losses: Sequence[float]) -> float:
    """The standard error of a mean of two values or more."""
    mean = sum(losses) / len(losses)
    return math.sqrt(sum((x - mean) ** 2 for x in losses) / (len(losses) - 1) / len(losses))
