"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Linear from 0 to `peak` over `warmup` steps, then half a cosine to 0 at `total` steps
    (Loshchilov and Hutter 2017, one cycle; warm-up after Goyal et al. 2017)."""

    peak: float
    warmup: int
    total: int

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def averaging_decay(decay: float | None, step: int) -> float | None:
    """What the averaged weights are multiplied by after `step` (from 0); None: leave them as they are.

    `decay` is per step. Its memory is short at first, as in TensorFlow's ExponentialMovingAverage
    with num_updates. An average over 80 steps or more is updated every eighth only, by the eighth
    power: nearly the same average for an eighth of the memory traffic.
    """
    if not decay:
        return None
    every = 8 if decay >= 1 - 1 / 80 else 1
    if step % every:
        return None
    updates = step // every
    return float(min(decay**every, (1 + updates) / (10 + updates)))
