"""From settled settings, or a checkpoint, to a finished run folder: train, keep, measure, write."""

from __future__ import annotations

import gc
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rightfit import reporting
from rightfit.console import Console, counted, duration
from rightfit.errors import DataError, RunError
from rightfit.evaluation.lines import name_of_accuracy, without_points
from rightfit.learning import on_record, trained
from rightfit.precision import measured_gain, uses_gpu
from rightfit.provenance import Job, machine, why_this_backend, write_image_digests
from rightfit.records import LEARNING_CURVE
from rightfit.run import BATCH, CALIBRATION, METRICS, VALIDATION, Run
from rightfit.runtime import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.team import Team
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.recipe import Decision
    from rightfit.training.state import Progress, Saved

FINISHED = "finished.json"  # which checkpoint the artefacts are of; written after all of them


def fit(
    job: Job,
    console: Console,
    checkpoints: Checkpoints,
    saved: Saved | None = None,
    team: Team | None = None,
) -> Run:
    """Train from the start, or on from `saved`, and write all that a finished run has; returns it.

    A `team` trains on from the first checkpoint, which is written here, to the last, from which the rest is done here.
    A run that was stopped has the artefacts of the best epoch so far, if there is one. Raises DataError for
    an image of `cache` "none", or a file of the cache, that can no longer be read; where training stood is kept.
    """
    try:
        return _fit(job, console, checkpoints, saved, team)
    except DataError as error:
        again = team.again(job.place) if team else f"rightfit resume {job.place}"
        # Of `cache` "disk" it is a file of the cache, which is made anew.
        put = "put it back, and " if job.settings.cache == "none" else ""
        advice = f"{put}`{again}` goes on from where training stood"
        raise DataError(f"{error}; {advice}") from error


def _fit(
    job: Job,
    console: Console,
    checkpoints: Checkpoints,
    saved: Saved | None,
    team: Team | None,
) -> Run:
    from rightfit.saving import folder

    place, settings, dataset = job.place, job.settings, job.dataset
    table = dataset.table
    held_out = table.rows("val")

    record = on_record(job, console, checkpoints)
    if saved is None:
        write_image_digests(job)
    elif saved.changed:  # first of all, as where training has ended no other checkpoint follows
        checkpoints.save(saved.progress, saved.tensors, saved.steps)
        checkpoints.wait()
        if checkpoints.saved_at:  # or the digests would be of other images than the checkpoint
            write_image_digests(job)
    started = time.monotonic()
    until = (saved.progress.epoch if saved else 0) if team else None
    progress, chosen = trained(job, console, checkpoints, saved, record.or_later, until)
    if team and not (progress.ended or progress.stopped):
        team.train(place, console)
        saved = checkpoints.newest()
        if saved is None or not saved.progress.ended:
            raise RunError(
                f"{place}: the workers ended, and their last checkpoint is not here; is the disk full (see log.txt) "
                "or not shared?"
            )
        progress, chosen = trained(job, console, checkpoints, saved, record.or_later)
    gc.collect()  # the net that was trained is a cycle; the one that was saved is about to be loaded
    if progress.stopped:
        return _stopped(job, progress, console)
    for decision in chosen:
        record(decision)
    if not progress.weights:
        raise RunError(f"{progress.ended}: nothing was trained, {place} holds no model")
    _write_model(job, progress)
    if progress.shortened:
        because = f"what the first epoch took, and a time limit of {settings.time_limit}; what depends on it follows"
        record(_decision("epochs", progress.shortened, because))
    kept = f"{progress.ended}; kept epoch {progress.best_epoch}"
    if len(held_out):
        kept += f", val_loss {progress.best_loss:.4f}"
        if progress.lowest_epoch != progress.best_epoch:
            kept += f" (within a standard error of the lowest, epoch {progress.lowest_epoch}'s)"
    record(_decision("epoch", progress.best_epoch, kept))
    seconds = max(progress.seconds, time.monotonic() - started)
    console.say(kept.replace(";", f" after {duration(seconds)};", 1))
    run = Run(place, dataset=dataset)
    metrics = None
    if len(held_out):
        metrics = _on_validation(run, progress, progress.logits)
    speed, diagnosis = _speed(job, progress), _diagnosis(job, progress)
    if diagnosis:
        record(_decision("diagnosis", diagnosis["word"], diagnosis["sentence"]))
    content = {
        "validation": metrics,
        "diagnosis": diagnosis,
        "speed": speed,
        "machine": machine() | why_this_backend(place),
    }
    folder.write_json(place / METRICS, {name: found for name, found in content.items() if found})
    checkpoints.keep_the_last_only()
    folder.write_json(checkpoints.folder / FINISHED, {"ended": progress.ended, "of": checkpoints.identity()})
    if speed:
        console.say(speed["in_words"])
    if metrics:
        console.say(calibration_sentence(metrics))
        if said := without_points(metrics):
            console.say(said)
        console.say(sentence("validation", metrics))
    if diagnosis:
        console.say(f"diagnosis: {diagnosis['word']}: {diagnosis['sentence']}")
    _draw(run, console)
    return run


def _draw(run: Run, console: Console) -> None:
    if drawn := reporting.draw(run, console):
        console.say(f"report: {drawn}")


def _speed(job: Job, progress: Progress) -> dict[str, Any]:
    """What the run's time went into, as metrics.json has it; empty for the head's fit alone."""
    from rightfit.training import speed

    settings = job.settings
    cache = cache_folder(settings.cache_folder)
    setting = speed.Setting(
        uses_gpu(), settings.precision, measured_gain(cache), settings.cache, max(settings.height_width)
    )
    return speed.measured(progress.history, settings.batch_size or 1, setting)


def _diagnosis(job: Job, progress: Progress) -> dict[str, Any]:
    """What metrics.json says of the fit; empty where training images were not looked at."""
    from rightfit.training.diagnosis import diagnose, evidence

    if not progress.kept:
        return {}
    table = job.dataset.table
    rows, counts = table.rows("val"), job.facts.class_counts
    common = 0.0 if table.label_mode == "multilabel" else max(counts) / sum(counts)
    lost = progress.ended if progress.lost else ""
    found = diagnose(evidence(progress.kept, len(rows), common, lost, len(table.classes)))
    return {**asdict(found), **{name: round(value, 6) for name, value in progress.kept.items()}}


def _stopped(job: Job, progress: Progress, console: Console) -> Run:
    """A run to go on with: the checkpoint is written; what was kept so far is made usable."""
    from rightfit.saving import folder

    content: dict[str, Any] = {"unfinished": progress.stopped}
    usable = bool(progress.weights)
    if usable:
        _write_model(job, progress)
        content["epoch"] = progress.best_epoch
        if len(job.dataset.table.rows("val")):
            run = Run(job.place, dataset=job.dataset)
            content["validation"] = _on_validation(run, progress)
    folder.write_json(job.place / METRICS, content)
    kept = f"; until then it holds epoch {progress.best_epoch}" if usable else ""
    console.say(f"{progress.stopped}; `rightfit resume {job.place}` goes on{kept}")
    run = Run(job.place, dataset=job.dataset, unfinished=True)
    if usable:
        _draw(run, console)
    return run


def _on_validation(run: Run, progress: Progress, logits: NDArray[np.float32] | None = None) -> dict[str, Any]:
    """Calibrated, and measured; by no more images at a time than a step took, where memory is short."""
    at_once = min(progress.micro or BATCH, BATCH)
    return run.measure("val", Console(quiet=True), calibrating=True, logits=logits, batch_size=at_once)


def _write_model(job: Job, progress: Progress) -> None:
    from rightfit.saving import bundle

    settings, table = job.settings, job.dataset.table
    job.model.set_weights(progress.weights)
    # Of the weights that are about to be replaced. The metrics go first and come last: without them a run is known to
    # be without its calibration.
    for name in (METRICS, CALIBRATION, VALIDATION, LEARNING_CURVE):
        (job.place / name).unlink(missing_ok=True)
    description = bundle.Description(
        settings.model, table.classes, table.label_mode, settings.height_width, settings.resize
    )
    bundle.save(job.place, job.model, description, bundle.synthetic_images(*settings.height_width))


def _decision(setting: str, value: Any, because: str) -> Decision:
    from rightfit.training.recipe import Decision

    return Decision(setting, value, because)


def sentence(split: str, metrics: dict[str, Any]) -> str:
    accuracy = metrics["accuracy"]
    return (
        f"{split} {name_of_accuracy(metrics)} {accuracy['value']:.4f}, 95 % interval {accuracy['low']:.4f} to "
        f"{accuracy['high']:.4f}, over {counted(metrics['images'], 'image')}"
    )


def calibration_sentence(metrics: dict[str, Any]) -> str:
    before, after = metrics["ece_uncalibrated"]["value"], metrics["ece"]
    known = after["low"] is not None and after["high"] is not None
    span = f" ({after['low']:.4f} to {after['high']:.4f})" if known else ""  # one group has no interval
    return (
        f"temperature {metrics['temperature']:.3g} from the validation images: "
        f"expected calibration error {before:.4f} → {after['value']:.4f}{span} on them"
    )
