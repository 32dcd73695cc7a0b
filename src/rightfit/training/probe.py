"""A part of the training images, looked at as the validation images are: unchanged, in inference mode, with the weights
that are kept.

The loss of training steps is of changed images, of weights that moved on, with layers left out: it can lie above the
validation loss of a net that has learnt its images by heart. Only what is measured alike can be compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightfit.data.loader import TrainLoader
from rightfit.training.judging import Validation, codes_of

STREAM = 8  # of random numbers; training/phases.py names where the others are
ENOUGH, MOST = 500, 2_000  # images
SHARE = 0.12  # looks at images for each image that is learnt from, which costs three times as much


@dataclass(frozen=True)
class Probe:
    images: Validation
    every: int  # epochs

    def due(self, epoch: int, epochs: int) -> bool:
        """After `epoch` (from 1) of `epochs`?"""
        return epoch % self.every == 0 or epoch == epochs


def choose(loader: TrainLoader, seed: int) -> Probe:
    """A fixed, stratified sample of the training images, and how often it is looked at for 4 % of the time."""
    count = len(loader.rows)
    size = min(count, max(ENOUGH, min(MOST, int(SHARE * count))))
    drawn = np.random.default_rng([seed, STREAM]).permutation(count)
    # Of each class the share that it has of all: images sorted by the share of their class that comes before them.
    order = drawn[np.argsort(_before(codes_of(loader.targets)[drawn]), kind="stable")]
    places = np.sort(order[:size])
    groups = None if loader.groups is None else loader.groups[places]
    chosen = Validation(loader.images, loader.rows[places], loader.targets[places], groups)
    return Probe(chosen, max(1, math.ceil(size / (SHARE * count))))


def _before(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) the share of the image's class that stands before it."""
    order = np.argsort(codes, kind="stable")
    counts = np.bincount(codes)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    places = np.empty(len(codes), np.int64)
    places[order] = np.arange(len(codes))
    return (places - starts[codes] + 0.5) / counts[codes]
