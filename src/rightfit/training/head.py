"""The last layer alone, on features of a frozen net that are computed once: seconds instead of epochs.

For fixed features the best last layer is a convex problem: multinomial (or one-an-output) logistic
regression with an L2 penalty, solved to its minimum by L-BFGS, for a grid of penalties of which
validation chooses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.console import Console
from rightfit.data.augment import Policy, augment
from rightfit.data.features import Features, digest, kept_or_computed
from rightfit.data.loader import Images, prefetch
from rightfit.errors import RightfitError
from rightfit.evaluation.infer import logits_of, plain_graph
from rightfit.evaluation.metrics import image_losses
from rightfit.nets.layers import fused
from rightfit.runtime import installed_backends

FEATURES = 1  # raise it when a change to augmentation or kernels changes them
VIEW, FOLD = 4, 6  # these streams of random numbers; data/loader.py and nets/resnet.py have the others
BATCH = 64
ROWS = 8192  # of features at a time in passes that make temporaries
PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # times half the squared norm
ITERATIONS = 200


@dataclass(frozen=True)
class Samples:
    """Images as the head sees them; `features` holds a block of rows for each view of them."""

    features: list[Features]  # each (N, D)
    targets: NDArray[np.float32]  # (N, outputs)
    weights: NDArray[np.float32]  # (N,)


@dataclass(frozen=True)
class Head:
    """A last layer: logits = features @ kernel + bias."""

    kernel: NDArray[np.float32]  # (D, outputs)
    bias: NDArray[np.float32]  # (outputs,)
    penalty: float

    def logits(self, features: Features) -> NDArray[np.float32]:
        return np.asarray(features @ self.kernel + self.bias, np.float32)


class Extractor:
    """Features of images by a frozen net, in inference mode, computed once and kept in the cache."""

    def __init__(self, model: keras.Model, precision: str, images: Images, fingerprint: str, cache: Path):
        """`model` ends in the layer "logits", whose inputs are the features."""
        last = model.get_layer("logits").input
        body = keras.Model(model.input, last)
        self.model = plain_graph(fused(body, precision))
        self.width = int(last.shape[-1])
        self.images, self.cache = images, cache
        weights = [np.ascontiguousarray(w).tobytes() for w in body.get_weights()]
        backend = keras.backend.backend()
        kind = f"{FEATURES} {precision} {backend} {installed_backends()[backend]}"
        layers = [f"{type(layer).__name__} {layer.get_config()}" for layer in body.layers]
        self.key = digest(kind, fingerprint, *layers, *weights)

    def features(
        self, rows: NDArray[np.int64], policy: Policy | None, seed: int, view: int, console: Console
    ) -> Features:
        """(len(rows), D) features of the images as they are, or of view number `view` under `policy`.

        RightfitError when the weights overflow on them.
        """
        changed = "as is" if policy is None else f"{policy} {seed} {view}"
        key = digest(self.key, changed, rows.tobytes())

        def batches() -> Iterator[Features]:
            title = "Features" if policy is None else f"Features of view {view}"
            with console.bar(title, len(rows)) as bar:
                makers = (
                    lambda start=start: self._batch(rows[start : start + BATCH], policy, seed, view, start)
                    for start in range(0, len(rows), BATCH)
                )
                done = 0
                for batch in prefetch(makers):
                    found = logits_of(self.model, batch, BATCH)
                    if not np.isfinite(found).all():
                        raise RightfitError(
                            "the features that the given weights make of these images are not finite numbers, "
                            "so no head can be fitted to them; check the file of --weights, or train without it"
                        )
                    yield found
                    done += len(batch)
                    bar.update(done)

        return kept_or_computed(self.cache, key, (len(rows), self.width), batches)

    def _batch(
        self, rows: NDArray[np.int64], policy: Policy | None, seed: int, view: int, start: int
    ) -> NDArray[np.uint8]:
        images = self.images.gather(rows)
        if policy is None:
            return images
        return augment(images, np.random.default_rng([seed, VIEW, view, start]), policy)


def fit(
    train: Samples, validation: Samples | None, label_mode: str, groups: NDArray[np.int64] | None = None
) -> tuple[Head, dict[float, float]]:
    """The head with the lowest validation loss, and that loss for each penalty that was tried.

    Penalties go from strong to weak, each starting from the last solution, until two in a row have
    made validation worse. Without validation images a fifth of the training images, whole `groups` (N,)
    together, judges the penalty, and the head is then fitted on all of them.
    """
    if validation is None:
        units = np.arange(len(train.targets)) if groups is None else groups
        held = _a_fifth(units)
        if held.any() and not held.all():
            chosen, tried = fit(_part(train, ~held), _part(train, held, views=1), label_mode)
            return _Problem(train, label_mode).solve(chosen.penalty), tried
        return _Problem(train, label_mode).solve(0.1), {}
    problem = _Problem(train, label_mode)
    best: Head | None = None
    losses: dict[float, float] = {}
    for penalty in PENALTIES:
        head = problem.solve(penalty)
        logits = head.logits(validation.features[0])
        losses[penalty] = float(image_losses(logits, validation.targets, label_mode).mean())
        if best is None or losses[penalty] < losses[best.penalty]:
            best = head
        elif list(losses.values())[-2] > losses[best.penalty]:
            break
    assert best is not None
    return best, losses


def _a_fifth(units: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) True for the rows of a random fifth of the different values of `units` (N,)."""
    names = np.unique(units)
    drawn = np.random.default_rng([len(names), FOLD]).permutation(names)[: len(names) // 5]
    return np.isin(units, drawn)


def _part(samples: Samples, rows: NDArray[np.bool_], views: int | None = None) -> Samples:
    blocks = [block[rows] for block in samples.features[:views]]
    return Samples(blocks, samples.targets[rows], samples.weights[rows])


class _Problem:
    """Weighted mean cross entropy over all views plus the penalty, on standardised features."""

    def __init__(self, train: Samples, label_mode: str) -> None:
        blocks = train.features
        count = sum(map(len, blocks))
        self.mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / count
        mean = self.mean.astype(np.float32)
        squares = sum(
            np.square(block[start : start + ROWS] - mean).sum(axis=0, dtype=np.float64)
            for block in blocks
            for start in range(0, len(block), ROWS)  # the blocks may be larger than memory
        )
        deviation = np.sqrt(squares / count)
        self.deviation = np.where(deviation > 1e-6 * max(deviation.max(), 1e-30), deviation, np.inf)
        self.train, self.label_mode = train, label_mode
        self.total = float(train.weights.sum(dtype=np.float64)) * len(blocks)
        width, outputs = blocks[0].shape[1], train.targets.shape[1]
        self.shape = (width + 1, outputs)
        self.solution = np.zeros(self.shape)  # standardised kernel, then the bias

    def solve(self, penalty: float) -> Head:
        from scipy.optimize import minimize

        found = minimize(
            self._objective,
            self.solution.ravel(),
            args=(penalty,),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": ITERATIONS, "ftol": 1e-9, "gtol": 1e-5},
        )
        self.solution = found.x.reshape(self.shape)
        kernel, bias = self._raw(self.solution)
        return Head(kernel.astype(np.float32), bias.astype(np.float32), penalty)

    def _raw(self, solution: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Kernel and bias on features as they are."""
        kernel = solution[:-1] / self.deviation[:, None]
        return kernel, solution[-1] - self.mean @ kernel

    def _objective(self, flat: NDArray[np.float64], penalty: float) -> tuple[float, NDArray[np.float64]]:
        solution = flat.reshape(self.shape)
        kernel, bias = self._raw(solution)
        kernel32, bias32 = kernel.astype(np.float32), bias.astype(np.float32)
        loss, slope, summed = 0.0, np.zeros((self.shape[0] - 1, self.shape[1])), np.zeros(self.shape[1])
        for block in self.train.features:
            each, upstream = _cross_entropy(block @ kernel32 + bias32, self.train.targets, self.label_mode)
            loss += float(each @ self.train.weights)
            upstream *= self.train.weights[:, None]
            slope += block.T @ upstream
            summed += upstream.sum(axis=0, dtype=np.float64)
        gradient = np.empty(self.shape)
        gradient[:-1] = (slope - np.outer(self.mean, summed)) / self.deviation[:, None] / self.total
        gradient[:-1] += penalty * solution[:-1]
        gradient[-1] = summed / self.total
        value = loss / self.total + 0.5 * penalty * float((solution[:-1] ** 2).sum())
        return value, gradient.ravel()


def _cross_entropy(
    logits: NDArray[np.float32], targets: NDArray[np.float32], label_mode: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Loss of each row (N,) and its gradient by the logits (N, outputs)."""
    if label_mode == "categorical":
        shifted = logits - logits.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=1, keepdims=True)
        return np.log(sums[:, 0]) - (targets * shifted).sum(axis=1), powers / sums - targets
    outputs = logits.shape[1]
    each = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits)))
    positive = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    return each.mean(axis=1), (positive - targets) / outputs
