"""The training loop: batches in, best weights and a history out, one line an epoch on the way.

It may be broken off anywhere and gone on with from a checkpoint: what comes out is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import keras

from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.data.loader import TrainLoader
from rightfit.errors import DataError
from rightfit.memory import is_short, words
from rightfit.training.interrupt import Stop, interruptible
from rightfit.training.judging import Validation
from rightfit.training.kept import look_at_the_kept
from rightfit.training.phases import ALL, Phase
from rightfit.training.running import Diverged, Training
from rightfit.training.safety import Safety
from rightfit.training.setbacks import halve, set_back
from rightfit.training.state import Progress, Saved
from rightfit.training.workers import ALONE, Workers


def train(
    model: keras.Model,
    loader: TrainLoader,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
    console: Console,
    after_epoch: Callable[[Progress], None],
    precision: str,
    settings_for: Callable[[int], TrainSettings],
    phases: Sequence[Phase] = (ALL,),
    before: Progress | None = None,
    safety: Safety | None = None,
    saved: Saved | None = None,
    until: int | None = None,
    workers: Workers = ALONE,
) -> Progress:
    """Train `model` (left as it is; its weights are read) by the resolved `settings`.

    Returns the weights of the last epoch whose validation loss is as good as the lowest (`is_kept`; of the
    last epoch without validation images), averaged over steps when `settings.ema` is set. `after_epoch` is
    called with the progress after each epoch. When a time limit leaves room for fewer epochs, the settings
    are those of `settings_for(epochs)`, whose schedule ends there.
    Each of `phases` has a schedule of its own and starts from the averaged weights of the one before;
    frozen batch normalisation stays in inference mode. `before` is what was reached already, with
    the epoch called 0: better weights have to beat it.
    `safety` keeps checkpoints: at the start, at each epoch's end and when its interval has passed. `saved` is
    one to go on from, and the result is that of a run which was never broken off. Ctrl-C and SIGTERM end
    training at the next step with a checkpoint; `stopped` of the result then says where. DataError, after a
    checkpoint, when an image can no longer be read.
    A loss that is no longer finite sends training back to the last whole epoch at half the learning rate,
    three times; then, or without `safety`, it ends training; RightfitError if no epoch had a finite one.
    With `until` training pauses after that epoch: neither ended nor stopped, and to be gone on with; after 0, what
    there is to go on from is saved.
    Where memory is too short for a step, its gradient is taken of half as many images at a time, from the last
    checkpoint on; RightfitError without `safety`, or when one image is too many.
    Several `workers` call this alike, each with `safety` and a checkpoint to go on from; the result is one worker's
    to rounding. The kept weights are not looked at, and where memory is short that is raised.
    """
    _assert_resolved(settings)
    progress = saved.progress if saved else before or Progress()
    if not saved:
        progress.epochs, progress.micro = settings.epochs or 0, settings.micro_batch or 0
    elif progress.shortened:
        settings = settings_for(progress.shortened)
    training = Training(
        model, loader, validation, settings, label_mode, console, precision, phases, progress, safety, workers
    )
    if saved and not progress.ended:
        training.go_on_from(saved)
    with _written(safety), interruptible(console) as interrupt:
        training.interrupt = interrupt
        if safety and (saved is None or saved.changed) and not training.progress.ended:
            training.enter()
            training.save()
            safety.checkpoints.wait()  # not beside the first step, in which memory runs short if ever
        while not training.progress.ended and training.progress.epoch < min(
            training.progress.epochs if until is None else until, training.progress.epochs
        ):
            short = ""
            try:
                row = training.one_epoch()
            except Stop:
                training.stop()
                break
            except DataError:  # an image that is read at each use is gone, or another one by now
                training.stop()
                raise
            except Diverged as diverged:
                set_back(training, str(diverged), diverged.limit)
                continue
            except Exception as error:  # each backend has a type of its own for memory
                if not is_short(error) or not workers.alone:
                    raise
                short = words(error)
            if short:  # out here the error is gone, and the arrays of the frames that it held
                halve(training, short)
                continue
            if row is None:
                break
            progress = training.progress
            if progress.epoch == 1:
                training.shorten(row, settings_for)
                training.foretell(row)
            if progress.epoch >= progress.epochs:
                progress.ended = progress.ended or f"all {progress.epochs} epochs done"
            training.save(row)
            after_epoch(progress)
        if training.progress.ended and not training.progress.stopped and workers.alone:
            look_at_the_kept(training)
    return training.progress


@contextmanager
def _written(safety: Safety | None) -> Iterator[None]:
    """At the end, and at an error, the checkpoint that is under way gets written; a second Ctrl-C does not wait."""
    try:
        yield
    except Exception:
        if safety:
            safety.checkpoints.wait()
        raise
    if safety:
        safety.checkpoints.wait()


def _assert_resolved(settings: TrainSettings) -> None:
    assert settings.epochs and settings.learning_rate and settings.patience and settings.batch_size
    assert settings.warmup_epochs is not None
