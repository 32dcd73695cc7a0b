"""What a run's time went into, by its history; in words what bounded it, and what would help; and of one epoch
its line, and how many more fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rightfit.console import duration
from rightfit.precision import PAYS

WORTH_SAYING = 0.1  # of the time: what waiting for images takes before a way out of it is named
SMALL = 32  # pixels: images are not made smaller than this

INTO = {
    "steps": "training steps",
    "compiling": "compiling them",
    "input": "waiting for images",
    "validation": "validation",
    "saving": "saving",
}


@dataclass(frozen=True)
class Spent:
    """Seconds of all epochs, by what they went into."""

    steps: float
    compiling: float
    input: float
    validation: float
    saving: float

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def shares(self) -> dict[str, float]:
        """Largest first; together 1."""
        parts = sorted(asdict(self).items(), key=lambda part: -part[1])
        return {name: seconds / self.total for name, seconds in parts}


@dataclass(frozen=True)
class Setting:
    """What advice depends on."""

    gpu: bool
    precision: str
    bfloat16_gain: float | None  # its measured speed over float32's; None where it was not measured
    cache: str  # disk, memory or none
    side: int  # the image's longer side in pixels


def measured(history: Iterable[Mapping[str, Any]], batch_size: int, setting: Setting) -> dict[str, Any]:
    """What metrics.json says under "speed"; empty when no step was taken.

    `history` are the rows of history.csv; "images_per_second" counts steps and the waits between them.
    """
    rows = [row for row in history if row["steps"]]
    count = sum(row["steps"] for row in rows)
    spent = spent_in(rows)
    if not count or spent.steps + spent.input <= 0:
        return {}
    return {
        "seconds": round(spent.total, 3),
        "images_per_second": round(count * batch_size / (spent.steps + spent.input), 1),
        "ms_per_step": round(1000 * spent.steps / count, 1),
        "shares": {name: round(share, 3) for name, share in spent.shares().items()},
        "in_words": in_words(spent, count, batch_size, setting),
    }


def spent_in(rows: Iterable[Mapping[str, Any]]) -> Spent:
    """A row's train_seconds hold its input_seconds, and its first step's, which compiles."""
    compiling = steps = waiting = validation = saving = 0.0
    for row in rows:
        train, count = row["train_seconds"], row["steps"]
        waits, first = row["input_seconds"], row["first_step_seconds"]
        pace = (train - first) / (count - 1) if count > 1 else first
        # The first step may have waited too, for how long is not known: at most all that was waited.
        extra = max(0.0, first - waits - pace)
        compiling, waiting = compiling + extra, waiting + waits
        steps += max(0.0, train - waits - extra)
        validation, saving = validation + row["validation_seconds"], saving + row["saving_seconds"]
    return Spent(steps, compiling, waiting, validation, saving)


def idle(waited: float, behind: float, pace: float) -> float:
    """Seconds of `waited` for input that count as such: none on a device that works behind the loop and had
    steps to do all the while. `behind` is how long it took to finish when nothing more was asked of it,
    `pace` the seconds of a step: without a queue that is its last step at most.
    """
    return 0.0 if behind > 2 * pace else waited


def in_words(spent: Spent, count: int, batch_size: int, setting: Setting) -> str:
    """Of `count` steps: the shares of the time, what the largest means, and what would make it smaller."""
    shares = spent.shares()
    rate = count * batch_size / (spent.steps + spent.input)
    told = [f"{share:.0%} into {INTO[name]}" for name, share in shares.items() if share >= 0.005]
    told[0] = told[0].replace("% into", f"% of {duration(spent.total)} went into", 1)
    if next(iter(shares)) == "steps":
        told[0] += f" ({1000 * spent.steps / count:.0f} ms each)"
    largest = next(iter(shares))
    text = f"{rate:,.0f} images/s; {', '.join(told)}: bound by {_bound(largest, setting)}"
    advice = [_advice(largest, setting)]
    if largest != "input" and shares["input"] >= WORTH_SAYING and "--cache" not in advice[0]:
        advice.append(f"against the waiting, {_advice('input', setting)}")
    return "; ".join([text, *filter(None, advice)]).replace("%", " %")


def _bound(largest: str, setting: Setting) -> str:
    return {
        "steps": "the GPU" if setting.gpu else "the processor",
        "compiling": "compiling, once a process and phase",
        "input": "decoding" if setting.cache == "none" else "reading and augmenting images",
        "validation": "validation",
        "saving": "the disk that checkpoints go to",
    }[largest]


def _advice(largest: str, setting: Setting) -> str:
    if largest == "input":
        if setting.cache == "none":
            return "--cache disk or memory would help"
        return "a lighter --augment or more processors would help"
    if largest == "compiling":
        return "more epochs make it a smaller part"
    if largest == "validation":
        return "fewer validation images (--split) would help"
    if largest == "saving":
        return "an --output on a faster disk would help"
    gain = setting.bfloat16_gain
    known = ""
    if setting.cache == "none" and not setting.gpu:
        known = "it decodes as well, so --cache disk or memory would help; "
    if setting.precision == "float32" and not setting.gpu and gain is not None:
        if gain >= PAYS:
            known += f"--precision bfloat16 would help, measured {gain:.2f} times as fast as float32; "
        else:
            known += f"bfloat16 was measured {gain:.2f} times as fast as float32, which does not pay; "
    less = ["a smaller --image-size or --model" if setting.side > SMALL else "a smaller --model"]
    return known + ", or ".join(less + ([] if setting.gpu else ["a GPU,"])) + " would help"


# An epoch ------------------------------------------------------------------------------------------


def epochs_that_fit(row: Mapping[str, Any], left: float) -> int:
    """Epochs for the whole schedule when `left` seconds remain after the first."""
    each = seconds_of_an_epoch(row)
    return 1 + int(min(left / each, 1e9)) if each > 0 else 10**9


def seconds_of_an_epoch(row: Mapping[str, Any]) -> float:
    """What the next one takes, by the first, whose first step compiled."""
    steps = row["steps"]
    pace = (row["train_seconds"] - row["first_step_seconds"]) / (steps - 1) if steps > 1 else math.inf
    return float(min(row["train_seconds"], pace * steps) + row["validation_seconds"])


def epoch_line(row: Mapping[str, Any], epochs: int, steps: int) -> str:
    """Epoch 12/12 · 34s · loss 0.5586 acc 0.769 · val_loss 0.5107 val_acc 0.788 ±0.047; 80 columns are enough."""
    cut_short = f" · {row['steps']} of {steps} steps" if row["steps"] != steps else ""
    line = (
        f"Epoch {row['epoch']}/{epochs}{cut_short} · {duration(row['train_seconds'])}"
        f" · loss {row['loss']:.4f} acc {row['accuracy']:.3f}"
    )
    if "val_loss" in row:
        line += f" · val_loss {row['val_loss']:.4f} val_acc {row['val_accuracy']:.3f}"
        line += f" ±{row['val_accuracy_half_width']:.3f}"
    return line
