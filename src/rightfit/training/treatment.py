"""The doctor's decisions carried out: what changes in `Progress`, and what goes on record. None without evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings
from rightfit.data.loader import TrainLoader
from rightfit.evaluation.intervals import half_width
from rightfit.records import DOUBTS
from rightfit.training import race
from rightfit.training.diagnosis import MISSED, Measured, at_random, looks_of, percent
from rightfit.training.doctor import SETTLED, Condition, Look, decide, first_stride
from rightfit.training.doubt import bootstrapped
from rightfit.training.judging import Judged
from rightfit.training.recipe import Decision
from rightfit.training.signals import surer_half
from rightfit.training.state import Progress
from rightfit.training.step import Step

NEARLY_ZERO = 0.05  # of the peak rate
SOONEST, AGAIN = 0.3, 0.15  # of the epochs, until labels are doubted, and again
# Wrong labels are being learnt where no epoch is as good as the kept one for this share of all, and so many at least.
STALE, STALE_AT_LEAST = 0.03, 2
SHORTEST, LENGTH = 3, 0.15  # epochs of the last descent, at least; of those that were planned


def begin(progress: Progress, strength: float, looks: int) -> None:
    """At `strength`, in a run of so many looks."""
    progress.doctor = asdict(Condition(strength, first_stride(looks)))


def try_rates(
    progress: Progress, step: Step, loader: TrainLoader, settings: TrainSettings, check: Callable[[], None]
) -> Decision | None:
    """Before the first step: the learning rate that was set, or a higher one that surely learns faster. None where the
    run is too short for a race; whatever `check` raises ends it."""
    steps = race.length(progress.epochs * loader.steps)
    assert settings.learning_rate
    found = race.race(step, loader, settings.learning_rate, steps, check) if steps else None
    progress.raced = True  # not before: a race that was broken off is held again
    if found is None:
        return None
    progress.rate_factor *= found.factor
    return Decision("learning_rate", settings.learning_rate * found.factor, found.because, epoch=0)


def treat(
    progress: Progress, epoch: int, first: int, brief: bool, train: Judged, val: Judged
) -> Decision | None:
    """After a look at training and validation images: strength for the epochs to come, if it has to change. `first` is
    where the schedule began; `brief`: of less than `BRIEF` of the epochs that the recipe takes.

    Losses are taken at the temperature that suits validation images: a net that is held back more is less sure of
    itself, which is no fault of its answers.
    """
    temperature = val.temperature
    train_losses, val_losses = train.losses(temperature), val.losses(temperature)

    def since(name: str, losses: NDArray[np.float64], groups: NDArray[np.int64] | None) -> Measured | None:
        if (before := progress.arrays.get(name)) is None:
            return None
        return Measured(float((losses - before).mean()), half_width(losses - before, groups))

    look = Look(
        epoch=epoch,
        epochs=progress.epochs,
        train_accuracy=Measured(train.result.accuracy, train.result.accuracy_half_width),
        val_accuracy=Measured(val.result.accuracy, val.result.accuracy_half_width),
        train_since_last=since("train_last", train_losses, train.images.groups),
        train_since_move=since("train_moved", train_losses, train.images.groups),
        val_since_move=since("val_moved", val_losses, val.images.groups),
        earlier=_earlier(progress, epoch, first),
        sure_wrong=seen[0] if (seen := surer_half(val)) else None,
        brief=brief,
    )
    now = Condition(**progress.doctor)
    move = decide(look, now)
    progress.arrays["train_last"] = train_losses
    progress.doctor = asdict(move.condition)
    if not move.because:
        return None
    progress.arrays |= {"train_moved": train_losses, "val_moved": val_losses}
    progress.doctor["changed"] = epoch
    return Decision("strength", move.condition.strength, move.because, epoch)


def _earlier(progress: Progress, epoch: int, first: int) -> tuple[int, Measured] | None:
    """The last look up to the middle of the epochs so far; the first one since the schedule began anew (`first`), or
    strength changed, where that was later. None where there is none yet."""
    since = max(first + 1, progress.doctor["changed"])
    looks = [look for look in looks_of(progress.history) if since <= look[0] < epoch]
    return next((look for look in reversed(looks) if 2 * look[0] <= epoch), looks[0] if looks else None)


def doubt(
    progress: Progress,
    epoch: int,
    train: Judged,
    val: Judged,
    stale: int,
    peak: float,
    all_of: Callable[[bool], tuple[Judged, float | None]],
    agreed: Callable[[float], float] = float,
) -> list[Decision]:
    """Where labels are wrong at random and are not learnt by heart yet: targets for the epochs to come that are partly
    the net's own answers, by what its weights say of all training images; from time to time anew, as the net gets
    better. Where for `stale` epochs none has been as good as the one that is kept, the wrong ones are being learnt:
    answers are those of the weights that are kept, and the last descent begins there; `peak` is the schedule's rate.

    `all_of(kept)` says of all training images what the weights of now, or those that are kept, do, and the temperature
    that suits the kept ones; it may raise, as a look may be broken off, and nothing is changed before it has returned.
    `agreed` is what the first of several workers says.
    """
    before, epochs = progress.doctor["doubted"], progress.epochs
    due = before + AGAIN * epochs if before else SOONEST * epochs
    if epoch < due or epoch == epochs or progress.annealed:
        return []
    because, back = "by the losses of training images as they are now", False
    if not before:
        seen, right = surer_half(val), train.result
        learnt = right.accuracy + right.accuracy_half_width >= 1 - MISSED
        random = seen is not None and not learnt and at_random(*seen, val.logits.shape[1])
        if epoch > (1 - SETTLED) * epochs or not agreed(random):
            return []
        if seen is not None:
            because = (
                f"{percent(seen[0])} of the surer half of validation's answers are not the label, which is the second "
                f"answer in {percent(seen[1])} of those: wrong at random; the net's own answers are learnt in part of "
                "training images whose loss is of the higher of two kinds"
            )
        back = stale >= max(STALE_AT_LEAST, STALE * epochs) and _share(progress, epoch, peak) > 0
        if back:
            because += f"; the answers of epoch {progress.best_epoch}, as wrong labels are being learnt since"
    judged, temperature = all_of(back)
    targets, share = bootstrapped(judged, temperature or val.temperature)
    progress.arrays["targets"] = targets
    progress.doctor |= {"doubted": epoch, "changed": epoch, "doubts": share}
    descent = last_descent(progress, epoch, peak) if back else None
    return [Decision(DOUBTS, round(share, 4), because, epoch), *([descent] if descent else [])]


def last_descent(progress: Progress, epoch: int, peak: float) -> Decision | None:
    """When patience has run out after `epoch`, or wrong labels are being learnt: back to the weights that are kept, and
    from the rate at which they were reached down to zero; `peak` is the schedule's. None where that was done already,
    the rate was nearly zero anyway, no weights are kept or no epoch is left."""
    share = _share(progress, epoch, peak)
    if not share:
        return None
    left = progress.epochs - epoch
    progress.epochs = epoch + min(left, max(SHORTEST, math.ceil(LENGTH * progress.epochs)))
    progress.restarts.append(epoch)
    progress.annealed = share
    because = (
        f"no validation loss is as good as that of epoch {progress.best_epoch} any more; back to its weights with "
        f"{share:.2f} of the peak learning rate, which falls to zero by epoch {progress.epochs}"
    )
    return Decision("epochs", progress.epochs, because, epoch)


def _share(progress: Progress, epoch: int, peak: float) -> float:
    """Of the peak rate, what a last descent that begins after this epoch has to go down from; 0 where there is none."""
    rates = [row["learning_rate"] for row in progress.history if row["epoch"] == progress.best_epoch]
    share = min(1.0, rates[0] / (peak * progress.rate_factor)) if rates else 0.0
    possible = not progress.annealed and share >= NEARLY_ZERO and epoch < progress.epochs and progress.weights
    return share if possible else 0.0
