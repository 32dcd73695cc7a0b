"""Parts of a training run, each with the layers that learn and a schedule of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings
from rightfit.nets.layers import fused
from rightfit.training.schedule import WarmupCosine
from rightfit.training.state import Progress

LAYERS = (
    5  # this stream of random numbers; data/loader.py, nets/resnet.py and training/head.py have the others
)


@dataclass(frozen=True)
class Phase:
    """A part of training: what it is called, its share of the epochs, and which layers learn."""

    name: str
    share: float = 1.0
    rates: Mapping[str, float] | None = None  # layer -> multiple of the learning rate, the others frozen


ALL = Phase("all")  # every layer alike


class Span(NamedTuple):
    """Epochs that share one schedule, from epoch `first` (from 0) to before `end`."""

    number: int
    phase: Phase
    first: int
    end: int
    # Share of the peak rate that it goes down from, without a warm-up; 0: warm-up and peak.
    annealed: float = 0.0


def span_at(phases: Sequence[Phase], progress: Progress) -> Span:
    """Where the next epoch lies: in one of `phases`, or in the last of them begun again."""
    if progress.restarts:
        index = len(phases) - 1 + len(progress.restarts)
        return Span(index, phases[-1], progress.restarts[-1], progress.epochs, progress.annealed)
    epochs = progress.epochs
    ends = [round(epochs * sum(phase.share for phase in phases[: i + 1])) for i in range(len(phases))]
    ends[-1] = epochs
    index = next(i for i, end in enumerate(ends) if progress.epoch < end)
    return Span(index, phases[index], ends[index - 1] if index else 0, ends[index])


def thawed(
    model: keras.Model, weights: list[NDArray[np.float32]], phase: Phase, precision: str, seed: list[int]
) -> keras.Model:
    """A clone of `model` to train, holding `weights`, in which only the layers of `phase` learn.

    The generators of its layers (dropout) start from `seed` and their place.
    """
    runner = fused(model, precision)
    runner.set_weights(weights)
    own = {id(variable) for variable in runner.weights}
    generators = [variable for variable in runner.variables if id(variable) not in own]
    for index, variable in enumerate(generators):
        drawn = np.random.default_rng([*seed, LAYERS, index]).integers(0, 2**31, variable.shape)
        variable.assign(drawn.astype("uint32"))
    for layer in runner.layers:
        if (generator := getattr(layer, "seed_generator", None)) is not None:
            # Keras on torch draws from the process's own generator while a layer was given no seed.
            generator._initial_seed = seed[0]
    if phase.rates is not None:
        for layer in runner.layers:
            layer.trainable = layer.name in phase.rates
    return runner


def schedule_of(settings: TrainSettings, span: Span, steps: int) -> WarmupCosine:
    """Of a span of epochs of so many steps: its share of the warm-up, and a cosine that ends with it."""
    steps_in_span = (span.end - span.first) * steps
    if span.annealed:
        return WarmupCosine(span.annealed * (settings.learning_rate or 0.0), 0, steps_in_span)
    share = (span.end - span.first) / (settings.epochs or 1)
    warmup = round((settings.warmup_epochs or 0.0) * share * steps)
    return WarmupCosine(settings.learning_rate or 0.0, warmup, steps_in_span)
