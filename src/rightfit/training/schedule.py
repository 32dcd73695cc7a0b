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


def average_decay(limit: float, step: int) -> float:
    """Decay of the averaged weights at `step`: short memory at first, `limit` in the end
    (as in TensorFlow's ExponentialMovingAverage with num_updates)."""
    return min(limit, (1 + step) / (10 + step))
