"""Biases that our convolutions do not have: a batch norm that reads one can carry it in its moving mean."""

from __future__ import annotations

import numpy as np

from rightfit.nets.importers.core import Array, WeightsError


def absorbed(moving_mean: Array, bias: Array, place: str) -> Array:
    """The mean with which norm(x) equals norm(x + bias): exact, as (x + b) - m = x - (m - b).

    WeightsError when the two are not equally long; `place` says whose bias it is.
    """
    if moving_mean.shape != bias.shape:
        raise WeightsError(f"{place} has shape {bias.shape}, the norm that follows {moving_mean.shape}")
    less: Array = np.asarray(moving_mean, np.float64) - bias
    return less
