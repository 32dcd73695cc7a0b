"""What a run does about its fit: a look at an epoch's end in, at most one change out, and never one without evidence.

Pure decisions; training/treatment.py carries them out. docs/doctor.md has the rules in words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rightfit.training.diagnosis import DOUBTED, MISSED, Measured, nats, percent, points

# Of validation's share of wrong answers, training's: below it there is little left to learn but the images themselves,
# above it they are not learnt either. One number, as its interval keeps strength from moving to and fro.
SHARE = 1 / 2
RANGE = 0.15  # of the looks, in which strength can cross its whole range
FEWEST, LARGEST = 0.05, 0.35  # of a change of strength
REST = 2  # looks without a change after one that turned back
SETTLED = 0.25  # of a brief run's epochs at the end, in which strength stays; of any run's, no first doubts
SETTLED_LONG = 0.15  # of another run's, where fewer are enough to learn something else
SLOW = 0.3  # of the epochs: who has not learnt by then is held back less, where there is reason to
BRIEF = 1 / 2  # of the epochs that the recipe takes: in a run of fewer there is no time to learn slowly
ANNEALED = 2 / 3  # of wrong answers at the peak rate, those that still are at none; a rule of thumb


@dataclass(frozen=True)
class Look:
    """An epoch's end: images as they are, the weights that would be kept."""

    epoch: int
    epochs: int
    train_accuracy: Measured
    val_accuracy: Measured
    # Changes of the mean loss in nats, from the losses of the same images:
    train_since_last: Measured | None  # training images since the look before
    train_since_move: Measured | None  # training images since strength last changed
    val_since_move: Measured | None  # validation images since then
    earlier: tuple[int, Measured] | None = None  # an epoch since then, with its training accuracy
    sure_wrong: Measured | None = None  # share of wrong answers in the surer half of validation's
    brief: bool = False  # a run of less than BRIEF of the epochs that the recipe takes


@dataclass(frozen=True)
class Condition:
    """What the next decision depends on besides the look."""

    strength: float
    stride: float  # of the next change
    ceiling: float = 1.0  # where a raise was undone
    last: float = 0.0  # the last change; its sign is the direction
    rest: int = 0  # looks to wait
    changed: int = 0  # epoch of the last change of what is learnt
    doubted: int = 0  # epoch in which labels were last doubted
    doubts: float = 0.0  # share of the training images, by their probabilities


@dataclass(frozen=True)
class Move:
    condition: Condition
    because: str


def first_stride(looks: int) -> float:
    """How far strength moves at a time in a run of so many looks."""
    return min(LARGEST, max(FEWEST, 1 / max(1.0, RANGE * looks)))


def decide(look: Look, now: Condition) -> Move:
    """The condition after the look, with the reason for a change of strength; without one, "" ."""
    settled = SETTLED if look.brief else SETTLED_LONG
    if look.epoch > (1 - settled) * look.epochs or now.doubted:  # by labels that are wrong no fit can be told
        return Move(now, "")
    if now.rest:
        return Move(replace(now, rest=now.rest - 1), "")
    if now.last > 0 and (rises := _harm(look)):
        back = round(max(0.0, now.strength - now.last), 4)
        because = (
            f"since it was raised, the loss of training images rose by {nats(rises[0])} and that of validation images "
            f"by {nats(rises[1])}: undone"
        )
        return Move(replace(now, strength=back, ceiling=back, last=0.0, rest=REST), because)
    gap = look.train_accuracy - look.val_accuracy
    both = f"{percent(look.train_accuracy)} of training and {percent(look.val_accuracy)} of validation images are right"
    beyond = _beyond_the_share(look)
    if beyond.high < 0 and gap.low > 0 and now.strength < now.ceiling:
        return Move(_moved(now, +1), f"{both}, a gap of {points(gap)}")
    learnt = look.train_accuracy.high >= 1 - MISSED
    if beyond.low > 0 and not learnt and now.strength > 0 and (why := _slow(look)):
        return Move(_moved(now, -1), f"{both}, and {why}")
    return Move(now, "")


def _slow(look: Look) -> str:
    """Why training images will not be learnt as things are; "" where they may be, or where labels may be in the way.

    The recipe's strength suits the recipe's epochs, over which a net learns slowly, and most of it when the learning
    rate falls: what has not been learnt yet says little there, and what is learnt by heart early is not forgotten.
    """
    if look.brief and look.train_since_last is not None and look.train_since_last.high >= 0:
        return "the loss of training images falls no more"
    noisy = look.sure_wrong is not None and look.sure_wrong.low > DOUBTED
    if noisy or look.epoch < SLOW * look.epochs:
        return ""
    if look.brief:
        return f"{look.epoch} of {look.epochs} epochs are over"
    if look.earlier is None:
        return ""
    wrong = _wrong_at_the_end(look.epoch, look.train_accuracy, look.epochs, *look.earlier)
    if not wrong > MISSED:
        return ""
    return f"going on as since epoch {look.earlier[0]}, {100 * wrong:.0f} % or more would still be wrong at the end"


def _wrong_at_the_end(epoch: int, accuracy: Measured, epochs: int, earlier: int, then: Measured) -> float:
    """An estimate of the share of training images that will be wrong after all `epochs`, by their `accuracy` after
    `epoch` and `then`, after an `earlier` one: a power of the epochs, less what both intervals leave open (more than
    is, as both are of the same images), times what is left when what remains of the learning rate has fallen.
    """
    wrong = 1 - accuracy.value
    wrong_then = max(1 - then.value, wrong)
    exponent = math.log(epochs / epoch) / math.log(epoch / earlier)
    left_open = math.hypot((1 + exponent) * accuracy.half / wrong, exponent * then.half / wrong_then)
    rate = (1 + math.cos(math.pi * epoch / epochs)) / 2  # of its peak
    return ANNEALED**rate * wrong * (wrong / wrong_then) ** exponent * math.exp(-left_open)


def _beyond_the_share(look: Look) -> Measured:
    """Training's share of wrong answers less `SHARE` of validation's."""
    train, val = look.train_accuracy, look.val_accuracy
    value = (1 - train.value) - SHARE * (1 - val.value)
    return Measured(value, math.hypot(train.half, SHARE * val.half))


def _harm(look: Look) -> tuple[Measured, Measured] | None:
    """How far both losses rose since strength was raised, where they surely did. Memorising lowers one of them."""
    train, val = look.train_since_move, look.val_since_move
    return (train, val) if train and val and train.low > 0 and val.low > 0 else None


def _moved(now: Condition, sign: int) -> Condition:
    turned = now.last * sign < 0
    stride = max(FEWEST, now.stride / 2) if turned else now.stride
    strength = min(now.ceiling, max(0.0, now.strength + sign * stride))
    return replace(
        now,
        strength=round(strength, 4),
        stride=stride,
        last=round(strength - now.strength, 4),
        rest=REST if turned else 0,
    )
