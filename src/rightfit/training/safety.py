"""What a run falls back on when its loss is lost: the last whole epoch, half the learning rate, and a name
for the images with which it happened."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rightfit.console import Console
from rightfit.data.loader import TrainLoader
from rightfit.records import SETBACK
from rightfit.training.checkpoints import Checkpoints
from rightfit.training.interrupt import Interrupt
from rightfit.training.recipe import Decision
from rightfit.training.schedule import averaging_decay
from rightfit.training.state import Progress, Saved
from rightfit.training.step import Step

SETBACKS = 3  # at most
EXPLODED = 10.0  # times the lowest training loss of an epoch
NAMED = 5  # files


@dataclass(frozen=True)
class Safety:
    """Where checkpoints go, where decisions are put on record, and what the training images are called."""

    checkpoints: Checkpoints
    record: Callable[[Decision], None]
    files: Callable[[NDArray[np.int64]], list[str]]  # of positions among the training images

    def last_good(self, progress: Progress) -> Saved | None:
        """The state to return to: the last whole epoch, which does not depend on when somebody last saved.
        None when there is none, or after three times."""
        return self.checkpoints.last_whole_epoch() if progress.setbacks < SETBACKS else None

    def exploded(self, progress: Progress, loss: float) -> bool:
        """Is an epoch's loss far above the best, and above where training began? Then it is not noise."""
        return (
            loss > highest(progress) and progress.setbacks < SETBACKS and self.last_good(progress) is not None
        )

    def set_back(
        self, progress: Progress, failed: Progress, what: str, lost: list[str], console: Console
    ) -> None:
        """Make `progress`, as it was read, go another way than `failed` did, and put that on record."""
        progress.rate_factor, progress.setbacks = failed.rate_factor / 2, failed.setbacks + 1
        progress.raced = failed.raced
        because = f"{what}; training returned to the end of epoch {progress.epoch} at half the learning rate"
        if lost:
            more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            because += f"; it was first seen in the step with the images {', '.join(lost[:NAMED])}{more}"
        self.record(Decision(SETBACK, progress.rate_factor, because, progress.epoch))
        console.say(because)

    def halved(self, progress: Progress, batch_size: int, what: str, console: Console) -> None:
        """Put on record that memory ran short."""
        because = (
            f"memory ran short ({what}); from step {progress.step} of epoch {progress.epoch + 1} on the gradient of "
            f"a batch of {batch_size} is summed over parts of at most {progress.micro}"
        )
        self.record(Decision("micro_batch", progress.micro, because, progress.epoch))
        console.say(because)


def highest(progress: Progress) -> float:
    """The training loss of an epoch that noise could explain; infinite before there was one."""
    before = [row["loss"] for row in progress.history if row["epoch"] > 0]
    return max(EXPLODED * min(before), before[0]) if before else math.inf


def images_of_the_first_lost_step(
    step: Step,
    loader: TrainLoader,
    rate: Callable[[int], float],
    first: int,
    failed: Progress,
    ema: float | None,
    interrupt: Interrupt,
    limit: float,
) -> NDArray[np.int64]:
    """Take the epoch's steps again, looking after each: the positions of the first batch whose loss is not
    finite or above `limit`, or that left weights that are not finite; empty when it does not happen again."""
    step.begin()
    before = 0.0
    with closing(loader.epoch(failed.epoch)) as batches:
        for index in range(failed.step):
            if interrupt.asked:
                break
            position = (failed.epoch - first) * loader.steps + index
            step(next(batches), rate(position) * failed.rate_factor, averaging_decay(ema, position))
            sound = all(np.isfinite(weight).all() for weight in step.weights(averaged=False))
            total = float(step.totals()[0])
            loss, before = (total - before) / loader.batch_size, total
            if not sound or not math.isfinite(loss) or loss > limit:
                return loader.positions(failed.epoch, index)
    return np.empty(0, np.int64)
