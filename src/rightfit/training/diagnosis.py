"""What a run's numbers say of its fit, in one word and one sentence: never more than their intervals allow.

The rules, in the order in which they are asked, and their thresholds are explained in docs/doctor.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MATTERS = 0.02  # of accuracy: a gap that is surely larger is worth acting on
WIDE = 0.05  # half an interval of the gap, beyond which too little is known of it
MISSED = 0.1  # share of training images that are still wrong, where a fit that falls short is worth naming
DOUBTED = 0.1  # share of wrong answers among the surer half, which images alone do not explain
NOTHING = 0.15  # share of a guess's loss: answers that take no more of it away carry nothing over
BY_CHANCE = 5.0  # times chance: labels wrong at random are the second answer no more often
ONE_SIDED = 1.645 / 1.96  # of half a 95 % interval: what is asked is only whether it is less
FALLING = 0.1  # share of the loss, lost over a quarter of the epochs: a net on its way
FALLING_SLOWLY = 0.05  # the same where no step was larger than SMALL
SMALL = 3e-4  # of the kernels' size: a third of what is usual for a step (rule of thumb: 1e-3)
APART = 0.1  # from a half, of pairs of a validation and a training image
SEVERAL = 1.3  # times an interval, where the farthest of four looks is chosen (Bonferroni)
# What images look like: what more of it is called, and less.
LOOKS = {
    "brightness": ("brighter", "darker"),
    "contrast": ("richer in contrast", "poorer in contrast"),
    "sharpness": ("sharper", "blurred"),
    "colour": ("more colourful", "greyer"),
}
SLOW, FAST = (
    1e-5,
    0.1,
)  # of the weights' size, moved by one step: hardly anything is learnt, or forgotten again
DEAD = 0.1  # share of the channels


@dataclass(frozen=True)
class Measured:
    """A number with half of its 95 % interval."""

    value: float
    half: float

    def __sub__(self, other: Measured) -> Measured:
        """The difference of two that were measured on different images."""
        return Measured(self.value - other.value, math.hypot(self.half, other.half))

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half


def looks_of(history: Sequence[Mapping[str, float]]) -> list[tuple[int, Measured]]:
    """The epochs in which training images were looked at as they are, each with their accuracy."""
    return [
        (int(row["epoch"]), Measured(row["probe_accuracy"], row["probe_accuracy_half_width"]))
        for row in history
        if "probe_accuracy" in row
    ]


@dataclass(frozen=True)
class Evidence:
    """Of the weights that are kept, measured alike on training and validation images; None is not measured."""

    train_loss: Measured
    train_accuracy: Measured
    val_loss: Measured
    val_accuracy: Measured
    images: int  # validation images
    common: float  # share of the most frequent class, which a net that has learnt nothing reaches
    ended: str = ""  # why training ended, where it lost its way
    learnt: Measured | None = None  # the highest accuracy on training images that an epoch had
    carried: Measured | None = (
        None  # share of the loss of a guess by classes' shares that validation's answers save
    )
    sure_wrong: Measured | None = None  # of the surer half of validation's answers, the share that is wrong
    second_right: Measured | None = None  # of those, the share whose second answer is the label
    classes: int = 2
    modes: Measured | None = (
        None  # accuracy on training images by their batch's statistics, less that by the averages
    )
    shifts: Mapping[str, Measured] = field(
        default_factory=dict
    )  # of LOOKS: share of pairs in which validation has more
    falling: Measured | None = (
        None  # share of training's loss that was lost in the second quarter of the epochs
    )
    update: float | None = (
        None  # share of the weights' size by which the last step of an epoch moved them, at most
    )
    dead: float | None = None  # share of channels that no image makes fire
    doubts: float | None = None  # share of the training images whose labels were in doubt on the way


@dataclass(frozen=True)
class Diagnosis:
    word: str
    sentence: str


WORDS = (
    "diverged", "label noise", "stalled", "batch-norm mismatch", "leak suspected", "shifted", "overfit",
    "still learning", "underfit", "can't tell", "right fit",
)  # fmt: skip


def diagnose(found: Evidence) -> Diagnosis:
    """One of `WORDS`, with the numbers that say so and what may help."""
    gap = found.train_accuracy - found.val_accuracy
    both = (
        f"{percent(found.train_accuracy)} of the training images are right and {percent(found.val_accuracy)} of the "
        f"{found.images:,} validation images"
    )
    between = f"a gap of {points(gap)}"
    if found.ended:
        return Diagnosis("diverged", f"training ended because {found.ended}")
    if nothing := _nothing_carried(found):
        return Diagnosis("label noise", nothing)
    if not found.train_accuracy.low > found.common:
        return Diagnosis(
            "stalled",
            f"{percent(found.train_accuracy)} of the training images are right, which the most frequent class alone "
            f"would be in {100 * found.common:.1f} %: nothing was learnt that shows{_why_not(found)}; more "
            "--epochs, another --learning-rate, or do the labels belong to these images?",
        )
    if found.doubts:
        return Diagnosis(
            "label noise",
            f"labels seem to be wrong at random: those of {100 * found.doubts:.0f} % of the training images were in "
            "doubt while it trained, and the net's own answers were learnt in part; `rightfit suspects` lists labels "
            "that are probably wrong",
        )
    if random := _wrong_at_random(found):
        return Diagnosis("label noise", random)
    if found.modes and found.modes.low > MATTERS:
        return Diagnosis(
            "batch-norm mismatch",
            f"training images are right more often, by {points(found.modes)}, with the mean and variance of their own "
            "batch than with the moving averages that predictions use; a larger --batch-size or more steps",
        )
    loss = found.val_loss - found.train_loss
    if gap.high < 0 and loss.high < 0:
        return Diagnosis(
            "leak suspected",
            f"{both}: validation is better than training beyond chance ({points(gap)}), which honest splits are not; "
            "are the same images or patients on both sides, or are validation's labels easier?",
        )
    if gap.low > 0 and (other := _shifted(found.shifts)):
        return Diagnosis(
            "shifted",
            f"{both}, {between}, and validation images are of another kind: {other}; split images of one source "
            "alike, or bring training images that look like those",
        )
    if gap.low > MATTERS:
        return Diagnosis(
            "overfit",
            f"{both}: {between}; stronger --augment, --weight-decay, a smaller --model or more images",
        )
    if found.train_accuracy.high < 1 - MISSED:
        small = found.update is not None and found.update < SMALL
        if found.falling and found.falling.low > (FALLING_SLOWLY if small else FALLING):
            steps = (
                f", with steps of {100 * found.update:.2g} % of the kernels' size at most"
                if found.update and small
                else ""
            )
            return Diagnosis(
                "still learning",
                f"{both}: {between}, and the loss of training was still falling, by {percent(found.falling)} in the "
                f"second quarter of the epochs{steps}: more --epochs, or a higher --learning-rate",
            )
        return Diagnosis(
            "underfit",
            f"{both}: {between}, but the training images themselves are not learnt{_why_not(found)}; more --epochs, a "
            "larger --model or --image-size, a lighter --augment, unless their labels are that uncertain",
        )
    if not gap.half <= WIDE:
        left = WIDE**2 - found.train_accuracy.half**2  # for validation's part of it
        enough = (
            f"about {math.ceil(found.images * found.val_accuracy.half**2 / left):,} validation images would narrow it "
            "enough (--split)"
            if left > 0
            else "only more training and validation images would narrow it enough"
        )
        return Diagnosis(
            "can't tell",
            f"{both}: {between}, over {100 * WIDE:.0f} points either way, which is too wide to say; {enough}",
        )
    return Diagnosis("right fit", f"{both}: {between}")


def _nothing_carried(found: Evidence) -> str:
    """Why the labels seem to say nothing of the images, or ""."""
    if (
        not _learnt(found)
        or not found.carried
        or not (found.carried.low <= 0 and found.carried.high < NOTHING)
    ):
        return ""
    assert found.learnt
    return (
        f"training images can be learnt by heart, {percent(found.learnt)} of them in some epoch, but nothing of it "
        f"carries over: answers about validation images save {percent(found.carried)} of a guess's loss; do the labels "
        "belong to these images? `rightfit suspects` lists which do not seem to"
    )


def at_random(wrong: Measured, second: Measured, classes: int) -> bool:
    """Are surely over a tenth of the surer answers `wrong`, and their `second` ones right less than five times as often
    as by chance, and in less than half? A net that is still learning has them right more often."""
    rarely = second.value + ONE_SIDED * second.half
    return classes >= 4 and wrong.low > DOUBTED and rarely < min(0.5, BY_CHANCE / (classes - 1))


def _wrong_at_random(found: Evidence) -> str:
    """Why labels seem to be wrong at random, or ""."""
    wrong, second = found.sure_wrong, found.second_right
    if wrong is None or second is None or not _learnt(found):
        return ""
    if not at_random(wrong, second, found.classes):
        return ""
    return (
        f"even of the surer half of the answers about validation images {percent(wrong)} are not the label, and the "
        f"second answer is in {percent(second)} of those: labels seem to be wrong at random; `rightfit suspects` "
        "lists them"
    )


def _learnt(found: Evidence) -> bool:
    """Did some epoch surely know more of the training images than their most frequent class?"""
    return found.learnt is not None and found.learnt.low > found.common + MISSED


def _shifted(shifts: Mapping[str, Measured]) -> str:
    """In what validation images surely differ most, or ""."""
    name, most = max(shifts.items(), key=lambda item: abs(item[1].value - 0.5), default=("", None))
    if most is None or not abs(most.value - 0.5) - SEVERAL * most.half > APART:
        return ""
    more, less = LOOKS[name]
    share = most if most.value > 0.5 else Measured(1 - most.value, most.half)
    return f"{more if most.value > 0.5 else less} than a training image of their class in {percent(share)} of pairs"


def _why_not(found: Evidence) -> str:
    """What keeps a net from learning, where that was seen."""
    seen = []
    if found.update is not None and found.update < SLOW:
        seen.append(
            f"no step moved the weights by more than {found.update:.1g} of their size: a higher --learning-rate"
        )
    if found.update is not None and found.update > FAST:
        seen.append(f"a step moved the weights by {found.update:.1g} of their size: a lower --learning-rate")
    if found.dead is not None and found.dead > DEAD:
        seen.append(
            f"{100 * found.dead:.0f} % of the channels never fire: a lower --learning-rate or --weight-decay"
        )
    return f" ({'; '.join(seen)})" if seen else ""


def evidence(
    kept: Mapping[str, float], images: int, common: float, ended: str = "", classes: int = 2
) -> Evidence:
    """From a run's `Progress.kept`."""

    def measured(name: str) -> Measured:
        return Measured(kept[name], kept[f"{name}_half_width"])

    def maybe(name: str) -> Measured | None:
        return measured(name) if name in kept else None

    return Evidence(
        measured("probe_loss"),
        measured("probe_accuracy"),
        measured("val_loss"),
        measured("val_accuracy"),
        images,
        common,
        ended,
        learnt=maybe("learnt"),
        carried=maybe("carried"),
        sure_wrong=maybe("sure_wrong"),
        second_right=maybe("second_right"),
        classes=classes,
        modes=maybe("modes"),
        shifts={name: measured(f"shift_{name}") for name in LOOKS if f"shift_{name}" in kept},
        falling=maybe("falling"),
        update=kept.get("update_ratio"),
        dead=kept.get("dead"),
        doubts=kept.get("doubts"),
    )


def percent(measured: Measured) -> str:
    return f"{100 * measured.value:.1f} ±{100 * measured.half:.1f} %"


def points(measured: Measured) -> str:
    return f"{100 * measured.value:.1f} ±{100 * measured.half:.1f} points"


def nats(measured: Measured) -> str:
    return f"{measured.value:.3f} ±{measured.half:.3f}"
