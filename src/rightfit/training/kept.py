"""At the end of training: what the weights that are kept say of training and validation images, as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.data.table import OneHot
from rightfit.evaluation.intervals import half_width
from rightfit.evaluation.metrics import image_hits
from rightfit.memory import is_short
from rightfit.training import inner, signals
from rightfit.training.diagnosis import MISSED, Measured, looks_of
from rightfit.training.interrupt import Stop
from rightfit.training.judging import Judged, columns
from rightfit.training.phases import ALL
from rightfit.training.running import Training


def look_at_the_kept(training: Training) -> None:
    """Into `Progress.kept`: evidence for training/diagnosis.py, which goes on record with the run.

    Looks that cost something are taken where what is known already asks for them.
    """
    progress = training.progress
    if not training.probe or not progress.weights or not progress.best_epoch:
        return
    try:
        progress.kept = _seen(training)
    except Stop:
        training.stop()


def _seen(training: Training) -> dict[str, float]:
    progress, probe = training.progress, training.probe
    assert probe
    row = next(row for row in progress.history if row["epoch"] == progress.best_epoch)
    training.judge.set_weights(progress.weights)
    train, val = training.judged(probe.images), training.judged(training.validation)
    row = row | columns("probe", train)
    found = {name: value for name, value in row.items() if name.startswith(("val_", "probe_"))}
    found |= _named("learnt", _most_learnt(training))
    found |= _named("carried", signals.carried_over(val, _shares(training)))
    if doubted := signals.surer_half(val):
        found |= _named("sure_wrong", doubted[0]) | _named("second_right", doubted[1])
    if doubts := progress.doctor.get("doubts"):
        found["doubts"] = doubts
    found |= _named("falling", signals.still_falling(progress.history, progress.epochs))
    steps = [row["update_ratio"] for row in progress.history if "update_ratio" in row]
    if len(steps) > 1:  # the last one of a schedule has no rate to speak of
        found["update_ratio"] = max(steps)
    if progress.micro:  # memory is short, and where it ends, processes may end
        return found
    try:
        return found | _looked_into(training, row, train)
    except Exception as error:  # each backend has a type of its own for memory
        if not is_short(error):
            raise
        return found


def _looked_into(training: Training, row: dict[str, Any], train: Judged) -> dict[str, float]:
    """What takes a pass over pixels, or the net once more."""
    progress, check = training.progress, training.interrupt.check
    assert training.probe
    found: dict[str, float] = {}
    if training.label_mode != "multilabel":
        for name, shift in signals.shifts(training.probe.images, training.validation, check).items():
            found |= _named(f"shift_{name}", shift)
    right = Measured(row["probe_accuracy"], row["probe_accuracy_half_width"])
    # Steps saw changed images by weights that moved: where they were right more often, there is more to it.
    if row["accuracy"] > right.high and row["trainable"].startswith(ALL.name):
        found |= _named("modes", _modes(training, train))
    if right.high < 1 - MISSED:
        dead = inner.dead_share(training.model, progress.weights, training.probe.images, check)
        found |= {} if dead is None else {"dead": dead}
    return found


def _most_learnt(training: Training) -> Measured | None:
    looks = [accuracy for _, accuracy in looks_of(training.progress.history)]
    return max(looks, key=lambda accuracy: accuracy.value, default=None)


def _shares(training: Training) -> NDArray[np.float64]:
    """(K,) of the training images, as training weighs them, by class; of two for a single output."""
    targets, weights = training.plain.targets, training.plain.weights
    if isinstance(targets, OneHot):
        return np.bincount(targets.codes, weights, targets.classes) / weights.sum(dtype=np.float64)
    weighed = np.average(targets[:], axis=0, weights=weights).astype(np.float64)
    return weighed if len(weighed) > 1 else np.array([1 - weighed[0], weighed[0]])


def _modes(training: Training, train: Judged) -> Measured:
    """Accuracy on the same training images by their batch's statistics, less that by the moving averages."""
    settings, progress, images = training.settings, training.progress, train.images
    places, by_batch = inner.hits_by_batch(
        training.model,
        progress.weights,
        training.precision,
        images,
        settings.batch_size or 1,
        training.label_mode,
        settings.seed,
        training.interrupt.check,
    )
    by_averages = image_hits(train.logits.astype(np.float64), images.targets, training.label_mode)[places]
    difference = by_batch - by_averages
    groups = None if images.groups is None else images.groups[places]
    return Measured(float(difference.mean()), half_width(difference, groups))


def _named(name: str, measured: Measured | None) -> dict[str, float]:
    return {} if measured is None else {name: measured.value, f"{name}_half_width": measured.half}
