"""What the numbers of a finished training say besides its gap: answers, losses and pixels in, intervals out.

Each is a share or a difference with its 95 % interval, to be weighed by training/diagnosis.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.intervals import half_width
from rightfit.training.diagnosis import LOOKS, Measured
from rightfit.training.judging import Judged, Validation, codes_of

MOST = 2_000  # images whose pixels are looked at
FEWEST_EPOCHS = 16  # of which a quarter says something


def surer_half(judged: Judged) -> tuple[Measured, Measured] | None:
    """Of the half of the answers that are surest, the share that is wrong; of those, the share whose second answer is
    the label. None for answers about single labels.

    Hard images are hard for a reason: a net is unsure of them, or takes them for what they are nearest to. Wrong
    labels are wrong at random, also where it is sure.
    """
    logits, targets = judged.logits, judged.images.targets
    if judged.label_mode != "categorical" or len(logits) < 2:
        return None
    truth, order = targets.argmax(axis=1), np.argsort(logits, axis=1, kind="stable")
    first, second = order[:, -1], order[:, -2]
    shifted = logits - logits.max(axis=1, keepdims=True)
    sure = -np.log(np.exp(shifted).sum(axis=1))  # the log probability of the answer
    surest = np.argsort(-sure, kind="stable")[: max(1, len(sure) // 2)]
    groups = judged.images.groups
    wrong = (first != truth)[surest]
    those = surest[wrong]
    share = _mean(wrong.astype(np.float64), None if groups is None else groups[surest])
    nearly = (second == truth)[those].astype(np.float64)
    return share, _mean(nearly, None if groups is None else groups[those]) if len(those) else Measured(
        0.0, 1.0
    )


def carried_over(judged: Judged, shares: NDArray[np.float64]) -> Measured | None:
    """The share of the loss of a guess by classes' `shares` (K,) that the answers, as sure as suits them, take away.
    None for several labels an image."""
    if judged.label_mode == "multilabel" or not len(judged.logits):
        return None
    guessed = -np.log(np.maximum(shares, 1e-12))[codes_of(judged.images.targets)]
    saved = _mean(guessed - judged.losses(judged.temperature), judged.images.groups)
    whole = float(guessed.mean())
    return Measured(saved.value / whole, saved.half / whole) if whole else None


def still_falling(history: Sequence[Mapping[str, Any]], epochs: int) -> Measured | None:
    """The share of training's loss that was lost in the second quarter of `epochs`, while the rate was high: where it
    is large, the net was on its way. By the slope of a line through these losses, whose interval
    is of what is left around it. None for short or broken-off runs, and where the doctor's strength changed on the
    way, which moves that loss by itself."""
    from scipy.special import stdtrit

    rows = [row for row in history if row.get("steps")]
    early = [row for row in rows if row["epoch"] <= epochs / 2]
    if epochs < FEWEST_EPOCHS or len(rows) < epochs / 2 or len({row["trainable"] for row in rows}) > 1:
        return None
    if len({row.get("strength") for row in early}) > 1:
        return None

    measured = [row for row in early if row["epoch"] > epochs / 4]
    epoch, loss = (np.array([row[of] for row in measured], np.float64) for of in ("epoch", "loss"))
    away = epoch - epoch.mean()
    slope = float(away @ loss / (away @ away))
    noise = loss - loss.mean() - slope * away
    freedom = len(loss) - 2
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(float(noise @ noise) / freedom / float(away @ away))
    quarter = epochs / 4
    before = float(loss.mean()) - slope * quarter / 2
    return Measured(-slope * quarter / before, half * quarter / before)


def moved(before: Sequence[NDArray[Any]], after: Sequence[NDArray[Any]]) -> float:
    """The share of their size by which kernels moved (Euclidean norms over all that are not frozen)."""
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.ndim > 1 and not np.array_equal(a, b)]
    size = math.fsum(float(np.square(a, dtype=np.float64).sum()) for a, _ in pairs)
    way = math.fsum(float(np.square(b - a, dtype=np.float64).sum()) for a, b in pairs)
    return math.sqrt(way / size) if size else 0.0


def shifts(
    train: Validation, val: Validation, check: Callable[[], None] = lambda: None
) -> dict[str, Measured]:
    """How often a validation image has more of something than a training image of its class, by what that is: a half
    where both are of one kind. `check` is called on the way, and may raise.

    The Mann-Whitney statistic within each class, weighted by validation's shares, with DeLong's (1988) variance.
    """
    one, other = _some_of(train), _some_of(val)
    mine, theirs = codes_of(one.targets), codes_of(other.targets)
    both = np.intersect1d(mine, theirs)
    if not len(both):
        return {}
    shared = np.isin(mine, both), np.isin(theirs, both)
    looks = _looks(one, check)[shared[0]], _looks(other, check)[shared[1]]
    mine, theirs = np.searchsorted(both, mine[shared[0]]), np.searchsorted(both, theirs[shared[1]])
    groups = [None if s.groups is None else s.groups[k] for s, k in zip((one, other), shared, strict=True)]
    counts = np.bincount(mine), np.bincount(theirs)
    weights = (counts[1] / len(theirs)) / (counts[0] / len(mine))  # of a training image of each class
    found = {}
    for place, name in enumerate(LOOKS):
        a, b = looks[0][:, place], looks[1][:, place]
        above = _shares_below(b, theirs, a, mine)  # of each validation image, the training images below it
        below = 1 - _shares_below(
            a, mine, b, theirs
        )  # of each training image, the validation images above it
        usual = np.bincount(mine, weights=below) / counts[0]
        half = math.hypot(
            half_width(above, groups[1]), half_width(weights[mine] * (below - usual[mine]), groups[0])
        )
        found[name] = Measured(float(above.mean()), half)
    return found


def _mean(values: NDArray[np.float64], groups: NDArray[np.int64] | None) -> Measured:
    return Measured(float(values.mean()), half_width(values, groups))


def _some_of(side: Validation) -> Validation:
    """At most `MOST` of its images, evenly over all."""
    count = len(side.rows)
    places = np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64))
    groups = None if side.groups is None else side.groups[places]
    return Validation(side.images, side.rows[places], side.targets[places], groups)


def _looks(side: Validation, check: Callable[[], None]) -> NDArray[np.float64]:
    """(N, 4) of each image, in the order of `LOOKS`."""
    parts: list[NDArray[np.float64]] = []
    for row in side.rows:
        check()
        pixels = side.images.gather(np.array([row])).astype(np.float32)
        grey = pixels.mean(axis=3)
        contrast = grey.std(axis=(1, 2))
        steps = sum(np.abs(np.diff(grey, axis=axis)).mean(axis=(1, 2)) for axis in (1, 2))
        colour = np.abs(pixels - grey[..., None]).mean(axis=(1, 2, 3))
        found = (grey.mean(axis=(1, 2)), contrast, steps / (contrast + 1), colour)
        parts.append(np.stack(found, axis=1).astype(np.float64))
    return np.concatenate(parts)


def _shares_below(
    values: NDArray[np.float64], codes: NDArray[np.int64], others: NDArray[np.float64], of: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N,) of each value, the share of `others` of its class (there are some) that lie below it, ties by half."""
    found = np.empty(len(values))
    for code in np.unique(codes):
        mine, theirs = codes == code, np.sort(others[of == code])
        left, right = (np.searchsorted(theirs, values[mine], side) for side in ("left", "right"))
        found[mine] = (left + right) / (2 * len(theirs))
    return found
