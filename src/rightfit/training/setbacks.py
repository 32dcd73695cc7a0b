"""What becomes of a run whose loss was lost, or whose memory is short: back to a checkpoint, and on another way."""

from __future__ import annotations

import gc

from rightfit.errors import RightfitError
from rightfit.training.phases import schedule_of
from rightfit.training.running import Training
from rightfit.training.safety import images_of_the_first_lost_step


def set_back(training: Training, what: str, limit: float) -> None:
    """Back to the last whole epoch at half the learning rate; without one, or three times after, the end:
    the best epoch so far is kept, and without one there is nothing to keep. A step's loss above `limit`
    is lost too."""
    failed, safety = training.progress, training.safety
    found = safety.last_good(failed) if safety else None
    if safety is None or found is None:
        assert training.settings.learning_rate
        advice = f"{what}; try --learning-rate {training.settings.learning_rate / 10:g}"
        if not failed.weights:
            raise RightfitError(advice)
        failed.ended, failed.lost = advice, True
        return
    found.progress.micro = failed.micro
    training.go_on_from(found)
    lost: list[str] = []
    if found.progress.epoch == failed.epoch:
        span = training.enter()
        assert training.step
        rate, ema = schedule_of(training.settings, span, training.loader.steps), training.settings.ema
        positions = images_of_the_first_lost_step(
            training.step, training.loader, rate, span.first, failed, ema, training.interrupt, limit
        )
        lost = safety.files(positions) if len(positions) else []
        again = safety.last_good(failed)
        assert again is not None
        again.progress.micro = failed.micro
        training.go_on_from(again)
    safety.set_back(training.progress, failed, what, lost, training.console)


def halve(training: Training, what: str) -> None:
    """Half as many images a gradient from the last checkpoint on: the step that failed may have changed
    some variables and not others, and on JAX its state is gone."""
    batch_size = training.settings.batch_size or 1
    images = min(training.progress.micro or batch_size, batch_size)
    training.step = None
    gc.collect()  # models are cycles; their memory is needed now
    found = training.safety.checkpoints.newest() if training.safety and images > 1 else None
    if training.safety is None or found is None:
        raise RightfitError(
            f"memory is too short for a gradient of {images} image{'s' if images > 1 else ''}: {what}; "
            "a smaller --image-size or --model needs less"
        )
    found.progress.micro = -(-images // 2)
    training.go_on_from(found)
    training.safety.halved(training.progress, batch_size, what, training.console)
    training.save()  # a run that is killed now takes the same parts
    training.safety.checkpoints.wait()
