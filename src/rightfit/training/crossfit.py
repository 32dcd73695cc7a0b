"""Features and labels in; for each image the probabilities of a head that was fitted without it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.data.features import Features
from rightfit.evaluation.metrics import probabilities
from rightfit.training.head import Samples, fit

FOLDS = 5
STREAM = 7  # of random numbers; data/loader.py, training/head.py and nets/resnet.py have the others


def folds(codes: NDArray[Any], groups: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """(N,) the fold of each image, 0..FOLDS-1: whole groups, and as many of each class in each as goes.

    `codes` (N,) are class indices, or (N, K) of 0 and 1, whose combinations then are the classes. A group
    counts for the class of its first image. The same images in the same order get the same folds.
    """
    strata = codes if codes.ndim == 1 else np.unique(codes, axis=0, return_inverse=True)[1].ravel()
    units = np.arange(len(codes)) if groups is None else groups
    _, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng([len(first), STREAM]).permutation(len(first))
    dealt = shuffled[np.argsort(strata[first][shuffled], kind="stable")]
    fold = np.empty(len(first), np.int64)
    fold[dealt] = np.arange(len(first)) % FOLDS
    return fold[unit_of.ravel()]


def held_out_probabilities(
    features: Features,
    targets: NDArray[np.float32],
    codes: NDArray[Any],
    label_mode: str,
    groups: NDArray[np.int64] | None = None,
    on_fold: Callable[[int], None] | None = None,
) -> NDArray[np.float64]:
    """(N, classes) of images with `features` (N, D) and `targets` (N, outputs), each by the head that was
    fitted to the other folds, whose penalty a fifth of those chose.

    `on_fold` hears how many folds are done. ValueError when the images are of one group.
    """
    fold = folds(codes, groups)
    if len(np.unique(fold)) < 2:
        raise ValueError(f"{len(codes)} images of one group have no other folds to fit a head to")
    found = np.empty((len(features), 2 if label_mode == "binary" else targets.shape[1]))
    for number in range(FOLDS):
        held = fold == number
        if not held.any():
            continue
        rest = Samples([features[~held]], targets[~held], np.ones(int((~held).sum()), np.float32))
        head, _ = fit(rest, None, label_mode, None if groups is None else groups[~held])
        found[held] = probabilities(head.logits(features[held]), label_mode)
        if on_fold:
            on_fold(number + 1)
    return found
