"""A run folder in, the same run going on: read its last good checkpoint, check that nothing it depends on changed."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.config import TrainSettings, to_yaml, train_settings
from rightfit.console import Console, few
from rightfit.errors import DataError, RunError, UsageError
from rightfit.files import write_text
from rightfit.fitting import FINISHED, fit
from rightfit.provenance import Job, digest_of_file, digest_of_images, image_digests_of, machine, put_back
from rightfit.run import Run
from rightfit.runtime import cache_folder, choose_backend

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.team import Team
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.state import Progress, Saved

# Settings that decide nothing about the weights.
FREE = ("output", "cache", "cache_folder", "checkpoint_every", "tensorboard", "backend", "ordinal")


def backend_of(recorded: str) -> str:
    """The run's own backend, unless KERAS_BACKEND asks for another, or Keras runs another here."""
    asked = os.environ.get("KERAS_BACKEND")
    return choose_backend("auto" if asked or "keras" in sys.modules else recorded)


def go_on(
    place: Path,
    checkpoints: Checkpoints,
    saved: Saved,
    data: Any,
    epochs: int | None,
    time_limit: str | None,
    micro_batch: int | None,
    accept_data_changes: bool,
    console: Console,
    team: Team | None = None,
) -> Run:
    """Continue from `saved`; or, finished and with `epochs`, begin the schedule again up to there, within `time_limit`
    where one is given anew; with a `team`, on its workers."""
    finished = is_finished(checkpoints)
    if finished and epochs is None:
        console.say(f"{place} is finished: {saved.progress.ended}; --epochs N trains it further")
        return Run(place)
    if epochs is not None:
        _check_further(place, saved.progress, epochs, finished)
    settings = _settings(place, saved)
    backend_of(str(settings.backend))
    console.log_to(place / "log.txt")
    dataset = _dataset(place, settings, tuple(saved.about["classes"]), data)
    notes = _data_changes(place, saved, dataset)
    if notes and not accept_data_changes:
        raise DataError(f"{'; '.join(notes)}; --accept-data-changes goes on with the data as they are")
    _say_differences(saved, console)
    put_back(place, saved)
    job = _job(place, dataset, settings, saved)
    if team:
        team.check(job.settings, str(dataset.table.frame["name"].iloc[0]))
    if notes:
        _record(place, "data", "accepted as they are", "; ".join(notes))
        saved.changed = True
        if saved.progress.arrays.pop("targets", None) is not None:  # made from labels as they were
            saved.progress.doctor |= {"doubted": 0, "doubts": 0.0}
    if epochs is not None:
        job = replace(job, settings=_extend(place, saved, settings, epochs, time_limit))
    progress = saved.progress
    if micro_batch is not None:
        because = f"asked of resume: from step {progress.step} of epoch {progress.epoch + 1} on"
        _record(place, "micro_batch", micro_batch, because)
        progress.micro, saved.changed = micro_batch, True
    where = f"step {progress.step} of epoch {progress.epoch + 1}" if not progress.ended else "the end"
    console.say(f"going on with {place} from {where} ({saved.name})")
    return fit(job, console, checkpoints, saved, team)


def job_of(place: Path, saved: Saved) -> Job:
    """The run as its checkpoint has it, for another process; DataError where the images are not the same here."""
    settings = _settings(place, saved)
    dataset = _dataset(place, settings, tuple(saved.about["classes"]), None)
    if notes := _data_changes(place, saved, dataset):
        raise DataError("; ".join(notes))
    return _job(place, dataset, settings, saved)


def is_finished(checkpoints: Checkpoints) -> bool:
    """Were all artefacts written, and of this very checkpoint?"""
    from rightfit.saving.folder import read_json

    try:
        content = read_json(checkpoints.folder / FINISHED)
    except RunError:
        return False
    return isinstance(content, dict) and content.get("of") == checkpoints.identity()


def _settings(place: Path, saved: Saved) -> TrainSettings:
    """Those of the checkpoint; the free ones as config.yaml has them now. UsageError for any other difference."""
    from pydantic import ValidationError

    try:
        then = TrainSettings(**saved.about["settings"])
    except (ValidationError, TypeError) as error:
        raise RunError(f"{place}: {saved.name} is of another version of rightfit: {error}") from error
    path = place / "config.yaml"
    if not path.exists():
        write_text(path, to_yaml(then))
    now = train_settings({}, path)
    # The epochs that `resume --epochs` asked for have a time limit of their own, which the file does not know.
    first = then.model_copy(update={"time_limit": saved.about["asked"].get("time_limit")})
    names = [n for n in TrainSettings.model_fields if n not in FREE and getattr(now, n) != getattr(first, n)]
    if names:
        changed = ", ".join(f"{name} from {getattr(first, name)} to {getattr(now, name)}" for name in names)
        raise UsageError(
            f"{path} was changed since the run began: {changed}; put it back to resume, "
            f"or `rightfit train --config {path} --output NEW` starts another run"
        )
    free = {name: getattr(now, name) for name in FREE if name not in ("output", "backend")}
    return then.model_copy(update={**free, "output": str(place)})


def _dataset(place: Path, settings: TrainSettings, classes: tuple[str, ...], data: Any) -> Dataset:
    """The run's own images, as data.csv lists them."""
    from rightfit.data import recorded
    from rightfit.data.dataset import again, reopen
    from rightfit.data.resize import ImageSpec

    found = recorded.table_of(place / "data.csv", classes, settings.label_mode)
    spec = ImageSpec(*settings.height_width, settings.resize)
    if found.frame["name"].iloc[0].startswith("array:"):
        if not isinstance(data, tuple):
            raise UsageError(
                f"{place} was trained on data in memory; give them again: "
                "rightfit.resume(run, data=(images, labels))"
            )
        return again(found, data, spec, settings.label_mode)
    if data is not None:
        raise UsageError(f"{place} was trained on files, which data.csv lists; it takes no other data")
    source = recorded.source_of(place, settings.data)
    return reopen(found, source, spec, settings.cache, cache_folder(settings.cache_folder))


def _data_changes(place: Path, saved: Saved, dataset: Dataset) -> list[str]:
    """What differs from the data that the checkpoint was trained on, in words."""
    notes, then = [], saved.about["data"]
    if then["data.csv"] != digest_of_file(place / "data.csv"):
        notes.append(f"{place / 'data.csv'} was changed: labels, splits or images are not those of the run")
    if then["images"] != digest_of_images(dataset):
        named = ""
        before, now = image_digests_of(place), dataset.contents()
        if before is not None and before.shape == now.shape:
            rows = (before != now).any(axis=1).nonzero()[0]
            if len(rows):  # none where the digests are of another moment than the checkpoint
                named = f"{len(rows):,}: {few(dataset.table.paths(rows))}"
        notes.append(f"images were changed since the run began ({named or 'which, is not known any more'})")
    return notes


def _say_differences(saved: Saved, console: Console) -> None:
    then, now = saved.about["machine"], machine()
    differing = [
        f"{name} {then.get(name, 'none')} → {now.get(name, 'none')}"
        for name in dict.fromkeys((*then, *now))
        if then.get(name) != now.get(name)
    ]
    if differing:
        console.say(
            f"not all is as when the checkpoint was saved: {', '.join(differing)}; "
            "the run goes on from the same state, but equal to rounding only, not bit for bit"
        )


def _job(place: Path, dataset: Dataset, settings: TrainSettings, saved: Saved) -> Job:
    from rightfit.saving.architecture import from_config
    from rightfit.training.recipe import Facts

    about = saved.about
    facts = Facts(**{**about["facts"], "class_counts": tuple(about["facts"]["class_counts"])})
    lowest = saved.progress.lowest
    held_out = len(dataset.table.rows("val"))
    if len(dataset.table.rows("train")) != facts.images or (lowest is not None and len(lowest) != held_out):
        raise DataError(f"{place / 'data.csv'}: the splits are not of the size that the run began with")
    model = from_config(about["architecture"])
    return Job(place, dataset, model, TrainSettings(**about["asked"]), settings, facts)


def _check_further(place: Path, progress: Progress, epochs: int, finished: bool) -> None:
    if not finished:
        raise UsageError(
            f"{place} is not finished; `rightfit resume {place}` without --epochs does that first"
        )
    if epochs <= progress.epoch:
        raise UsageError(f"{place} has {progress.epoch} epochs; --epochs must be more than that")


def _extend(
    place: Path, saved: Saved, settings: TrainSettings, epochs: int, time_limit: str | None
) -> TrainSettings:
    """Where the run goes on to, in `saved`; and its settings, with this limit in place of the one before."""
    progress = saved.progress
    because = (
        f"asked of resume: after epoch {progress.epoch} ({progress.ended}) the warm-up and the cosine begin "
        f"again and end with epoch {epochs}" + (f", or after {time_limit}" if time_limit else "")
    )
    _record(place, "epochs", epochs, because)
    progress.restarts.append(progress.epoch)
    progress.annealed = 0.0
    progress.epochs, progress.ended, progress.seconds, progress.shortened = epochs, "", 0.0, 0
    saved.changed = True
    return settings.model_copy(update={"time_limit": time_limit})


def _record(place: Path, setting: str, value: Any, because: str) -> None:
    from rightfit.saving.folder import record

    record(place / "decisions.jsonl", setting=setting, value=value, evidence=because)
