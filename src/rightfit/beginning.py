"""A new run, from decoded images and what was asked: its recipe, its model and its folder, then the fit."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import asking, fastest, resuming
from rightfit.config import TrainSettings, to_yaml, train_settings
from rightfit.console import Console
from rightfit.errors import UsageError
from rightfit.files import write_text
from rightfit.fitting import fit
from rightfit.precision import choose_precision
from rightfit.provenance import Job
from rightfit.run import Run
from rightfit.runtime import cache_folder, installed_backends

if TYPE_CHECKING:
    import keras

    from rightfit.data.dataset import Dataset
    from rightfit.nets.pretrained import Start
    from rightfit.team import Team
    from rightfit.training import recipe

BEGUN = "start.json"  # what was asked: enough to begin again, or to do likewise with other images


@dataclass(frozen=True)
class Prepared:
    """What a run begins from: images that are decoded and split, what was asked of them, and what computes."""

    dataset: Dataset
    asked: TrainSettings
    backend: str
    precision: str
    reasons: Mapping[str, str]  # for backend and precision, by name

    def record(self) -> dict[str, Any]:
        """In JSON's kinds, what `prepared_again` takes."""
        return {
            "asked": self.asked.model_dump(),
            "backend": self.backend,
            "precision": self.precision,
            "reasons": dict(self.reasons),
        }


def prepared(asked: TrainSettings, source: Any, config: str | Path | None, console: Console) -> Prepared:
    """Of what was `asked`: images decoded and split, the image size, backend and precision, and why these two."""
    from rightfit.data.dataset import prepare, read

    found = read(source, asked)  # before Keras is imported, and perhaps backends are measured
    asking.check_weights(asked.class_weights, found.label_mode)
    cache = cache_folder(asked.cache_folder)
    backend, reason = fastest.choose(asked.backend, cache, console)
    asking.check(asked)
    precision, because = choose_precision(asked.precision, cache)
    dataset, asked = prepare(source, asked, console, asking.split_beside(config, asked), found)
    if asked.ordinal:
        asking.say_grades(dataset.table.classes, dataset.table.label_mode, console)
    return Prepared(dataset, asked, backend, precision, {"backend": reason, "precision": because})


def begin(
    prepared: Prepared,
    console: Console,
    held: ExitStack,
    place: Path | None = None,
    team: Team | None = None,
) -> Run:
    """`held` takes the lock on the run's folder; `place` is one that is locked already; a `team` trains in place of
    this process."""
    from rightfit.data.recorded import MOVED
    from rightfit.saving import folder
    from rightfit.training import recipe
    from rightfit.training.checkpoints import FOLDER, Checkpoints

    dataset, asked = prepared.dataset, prepared.asked
    table = dataset.table
    rows = table.rows("train")
    model, settings, facts, decisions = planned(dataset, asked, console)
    if team and not asked.batch_size:
        asked = asked.model_copy(
            update={"batch_size": team.batch_for(settings.batch_size or 1, facts.images)}
        )
        prepared = dataclasses.replace(prepared, asked=asked)
        model, settings, facts, decisions = planned(dataset, asked, Console(quiet=True))
        decisions.append(
            recipe.Decision("batch_size", settings.batch_size, f"{team} workers share each batch alike")
        )
    settings = settings.model_copy(update={"backend": prepared.backend, "precision": prepared.precision})
    if team:
        team.check(settings, str(table.frame["name"].iloc[0]))
    _, weighing = recipe.sample_weights(settings, table.codes()[rows], facts.class_counts, table.label_mode)

    if place is None:
        place = folder.new_folder(settings.output, settings.data)
        held.enter_context(folder.locked(place))
    (place / FOLDER).mkdir(exist_ok=True)
    folder.write_json(place / FOLDER / BEGUN, prepared.record())
    settings = settings.model_copy(update={"output": str(place), "label_mode": table.label_mode})
    console.log_to(place / "log.txt")
    write_text(place / "config.yaml", to_yaml(settings))
    table.write_csv(place / "data.csv")
    (place / MOVED).unlink(missing_ok=True)  # of a run that begins again, and has them where they are now
    folder.write_quarantine(place / "quarantine.csv", dataset.quarantined)
    if dataset.audit:
        folder.write_json(place / "audit.json", dataset.audit.to_dict())

    def record(decision: recipe.Decision) -> None:
        folder.record(
            place / "decisions.jsonl",
            setting=decision.setting,
            value=decision.value,
            evidence=decision.because,
        )

    for name in ("backend", "precision"):
        if getattr(asked, name) == "auto":
            decisions.append(recipe.Decision(name, getattr(prepared, name), prepared.reasons[name]))
    for decision in decisions + ([weighing] if weighing else []):
        record(decision)
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    _introduce(console, dataset, settings, parameters)

    job = Job(place, dataset, model, asked, settings, facts)
    return fit(job, console, Checkpoints(place, console), team=team)


def planned(
    dataset: Dataset, asked: TrainSettings, console: Console
) -> tuple[keras.Model, TrainSettings, recipe.Facts, list[recipe.Decision]]:
    """The model with the weights to start from, and what the recipe makes of what was asked."""
    from rightfit.nets import catalogue, pretrained
    from rightfit.training import recipe

    table = dataset.table
    rows = table.rows("train")
    facts = recipe.Facts(len(rows), dataset.class_counts(rows), table.label_mode, max(asked.height_width))
    settings, decisions = recipe.resolve(asked, facts)
    start = pretrained.choose(settings.weights, settings.model, min(settings.height_width))
    if start.kind == "none" and settings.finetune != "auto":
        why = "" if settings.weights == "none" else f"; {start.because}"
        raise UsageError(f"--finetune {settings.finetune} needs weights to start from; give --weights{why}")
    model = catalogue.build(
        settings.model,
        table.outputs,
        settings.height_width,
        settings.seed,
        settings.dropout,
        settings.stochastic_depth,
    )
    if start.kind != "none":
        _start_from(start, settings, model, table.outputs, console)
        facts = dataclasses.replace(facts, pretrained=True)
        settings, decisions = recipe.resolve(asked, facts)
    if settings.weights == "auto":
        decisions.append(recipe.Decision("weights", start.kind, start.because))
        if start.kind == "none":
            console.say(f"starting from scratch: {start.because}")
    weights_from = settings.weights if start.kind == "file" else start.kind
    return model, settings.model_copy(update={"weights": weights_from}), facts, decisions


def begin_again(
    place: Path, data: Any, micro_batch: int | None, console: Console, team: Team | None = None
) -> Run:
    """A run that was killed before its first checkpoint starts from what it was asked."""
    from rightfit.saving import folder
    from rightfit.training.checkpoints import FOLDER

    begun = folder.read_json(place / FOLDER / BEGUN)
    console.say(f"{place} was broken off before its first checkpoint, and begins again")
    prepared = prepared_again(place, begun, data, micro_batch, console)
    for name in ("decisions.jsonl", "history.csv"):
        (place / name).unlink(missing_ok=True)
    return begin(prepared, console, ExitStack(), place, team)


def prepared_again(
    place: Path, begun: Mapping[str, Any], data: Any, micro_batch: int | None, console: Console
) -> Prepared:
    """What `begun` says was asked, the images split as they were in `place`. UsageError for data in memory that are not
    given again."""
    from rightfit.data.dataset import prepare
    from rightfit.data.recorded import source_of, splits_of

    asked = train_settings({**begun["asked"], **({"micro_batch": micro_batch} if micro_batch else {})})
    backend, reasons = resuming.backend_of(begun["backend"]), begun["reasons"]
    if asked.data.startswith("<") and data is None:
        raise UsageError(f"{place} is of data in memory; rightfit.resume(run, data=...) takes them again")
    known = splits_of(place / "data.csv") if (place / "data.csv").exists() else None
    if data is None:
        asked = asked.model_copy(update={"data": source_of(place, asked.data)})
    dataset, asked = prepare(asked.data if data is None else data, asked, console, known)
    if backend != begun["backend"]:
        reasons = {**reasons, "backend": "asked of resume"}
    return Prepared(dataset, asked, backend, begun["precision"], reasons)


def _start_from(start: Start, settings: TrainSettings, model: Any, outputs: int, console: Console) -> None:
    from rightfit.nets import catalogue, pretrained

    if start.path:
        source, weights = catalogue.bring(start.path, settings.model, outputs, settings.height_width)
    else:
        source = f"the preset {settings.model}"
        weights = pretrained.preset_weights(settings.model, settings.height_width)
    for layer in model.layers:
        for variable in layer.weights:
            if (name := f"{layer.name}/{variable.name}") in weights:
                variable.assign(weights[name])
    why = f" ({start.because})" if settings.weights == "auto" else ""
    found = f" in {start.path}" if start.path else ""
    console.say(
        f"starting from the weights of {source}{found}{why}; the last layer is fitted to these images"
    )


def _introduce(console: Console, dataset: Dataset, settings: TrainSettings, parameters: int) -> None:
    table = dataset.table
    sizes = {s: len(table.rows(s)) for s in ("train", "val", "test")}
    sealed = f"{sizes['test']:,} sealed" if sizes["test"] else "none"
    console.say(
        f"{len(table):,} images of {len(table.classes)} classes: {sizes['train']:,} to train on, "
        f"{sizes['val']:,} to validate, {sealed} for the test"
    )
    height, width = settings.height_width
    console.say(
        f"{settings.model}, {parameters:,} trainable parameters, {height}x{width} px, "
        f"batches of {settings.batch_size}, "
        f"on {settings.backend} {installed_backends()[settings.backend]} in {settings.precision} → {settings.output}"
    )
