"""The verbs: train, load, and what a run can do. The command line calls these functions and adds nothing."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.config import TrainSettings, to_yaml, train_settings
from rightfit.console import Console, duration
from rightfit.errors import RunError, UsageError
from rightfit.files import write_text
from rightfit.precision import choose_precision
from rightfit.run import Run
from rightfit.runtime import cache_folder, choose_backend, installed_backends

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.nets.pretrained import Start
    from rightfit.training.loop import Progress


def train(data: Any = None, *, config: str | Path | None = None, quiet: bool = False, **settings: Any) -> Run:
    """Check, split, train, validate and save; returns the finished run.

    `data` is a folder of class folders, split folders (train, val, test), a CSV, TSV or Parquet file,
    a pandas data frame, or a tuple of arrays (images (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8,
    labels (N,) or 0/1 (N, K)). `settings` are the fields of `rightfit.config.TrainSettings`;
    they win over the YAML file `config`, which wins over the defaults.

    Raises UsageError for settings that are wrong, DataError for data that cannot be trained on,
    RightfitError when the work fails.
    """
    if data is None and config is None:
        raise UsageError("no data: give a folder of class folders, a table or a --config that names one")
    settings = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in settings.items()}
    named = data is None or isinstance(data, (str, os.PathLike))
    if data is not None:
        settings["data"] = os.fspath(data) if named else f"<{type(data).__name__} in memory>"
    asked = train_settings(settings, config)
    if named:
        if asked.data.startswith("<"):
            raise UsageError(f"{config} is of a run on data in memory, which are gone; give the data again")
        asked = asked.model_copy(update={"data": _absolute(asked.data)})
    if asked.cache:
        asked = asked.model_copy(update={"cache": _absolute(asked.cache)})
    source = asked.data if named else data
    console = Console(quiet)
    backend = choose_backend(asked.backend)
    precision, because = choose_precision(asked.precision, cache_folder(asked.cache))
    if asked.output:
        from rightfit.saving.folder import check_free

        check_free(asked.output)
    if asked.model != "auto":
        from rightfit.nets import catalogue, pretrained

        catalogue.check(asked.model)
        pretrained.check(asked.weights, asked.model)
    _check_start(asked)
    if asked.tensorboard:
        _require("tensorboard")

    from rightfit.data.dataset import prepare

    dataset, asked = prepare(source, asked, console, _split_beside(config, asked))
    return _train(dataset, asked, console, backend, precision, because)


def _train(
    dataset: Dataset, asked: TrainSettings, console: Console, backend: str, precision: str, because: str
) -> Run:
    from rightfit.data.augment import policy_named
    from rightfit.data.loader import TrainLoader
    from rightfit.nets import catalogue, pretrained
    from rightfit.saving import bundle, folder
    from rightfit.training import finetune, loop, recipe
    from rightfit.training.head import Extractor

    table = dataset.table
    rows = table.rows("train")
    counts = dataset.class_counts(rows)
    facts = recipe.Facts(len(rows), counts, table.label_mode, max(asked.height_width))
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
    weights_from = _absolute(settings.weights) if start.kind == "file" else start.kind
    settings = settings.model_copy(
        update={"backend": backend, "precision": precision, "weights": weights_from}
    )
    weights, weighing = recipe.sample_weights(settings, table.codes()[rows], counts, table.label_mode)

    place = folder.new_folder(settings.output, settings.data)
    settings = settings.model_copy(update={"output": str(place), "label_mode": table.label_mode})
    console.log_to(place / "log.txt")
    write_text(place / "config.yaml", to_yaml(settings))
    table.write_csv(place / "data.csv")
    folder.write_quarantine(place / "quarantine.csv", dataset.quarantined)

    def record(decision: recipe.Decision) -> None:
        folder.record(
            place / "decisions.jsonl",
            setting=decision.setting,
            value=decision.value,
            evidence=decision.because,
        )

    if asked.precision == "auto":
        decisions.append(recipe.Decision("precision", precision, because))
    for decision in decisions + ([weighing] if weighing else []):
        record(decision)
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    _introduce(console, dataset, settings, parameters, backend, precision)

    assert settings.batch_size is not None
    loader = TrainLoader(
        dataset.store,
        dataset.store_rows[rows],
        dataset.targets(rows),
        weights,
        settings.batch_size,
        settings.seed,
        policy_named(settings.augment, settings.mirror),
        dataset.groups(rows),
    )
    held_out = table.rows("val")
    validation = loop.Validation(
        dataset.store, dataset.store_rows[held_out], dataset.targets(held_out), dataset.groups(held_out)
    )
    board = _TensorBoard(place / "tensorboard") if settings.tensorboard else None

    def after_epoch(progress: Progress) -> None:
        folder.write_table(place / "history.csv", progress.history)
        if board:
            board.write(progress.history[-1])

    started = time.monotonic()
    settings_for = functools.partial(recipe.shortened, asked, facts, settings)
    learning = (settings, table.label_mode, console, after_epoch, precision, settings_for)
    if facts.pretrained:
        extractor = Extractor(
            model, precision, dataset.store, dataset.store.fingerprint, cache_folder(settings.cache)
        )
        progress, chosen = finetune.train(model, extractor, loader, validation, *learning)
        for decision in chosen:
            record(decision)
    else:
        progress = loop.train(model, loader, validation, *learning)
    if board:
        board.close()
    if not progress.weights:
        raise RunError(f"{progress.ended}: nothing was trained, {place} holds no model")
    model.set_weights(progress.weights)
    description = bundle.Description(
        settings.model, table.classes, table.label_mode, settings.height_width, settings.resize
    )
    bundle.save(place, model, description, bundle.synthetic_images(*settings.height_width))
    if progress.epochs not in (0, settings.epochs):
        because = f"what the first epoch took, and a time limit of {settings.time_limit}; what depends on it follows"
        record(recipe.Decision("epochs", progress.epochs, because))
    kept = f"{progress.ended}; kept epoch {progress.best_epoch}"
    if len(held_out):
        kept += f", val_loss {progress.best_loss:.4f}"
        lowest = float(progress.lowest.mean()) if progress.lowest is not None else progress.best_loss
        if progress.lowest_epoch != progress.best_epoch:
            kept += f" (not to be told from the lowest, {lowest:.4f} in epoch {progress.lowest_epoch})"
    record(recipe.Decision("epoch", progress.best_epoch, kept))
    console.say(kept.replace(";", f" after {duration(time.monotonic() - started)};", 1))
    run = Run(place, dataset=dataset)
    metrics = run.measure("val", Console(quiet=True)) if len(held_out) else None
    folder.write_json(place / "metrics.json", {"validation": metrics} if metrics else {})
    if metrics:
        console.say(_sentence("validation", metrics))
    return run


def load(run: str | os.PathLike[str], precision: str = "float32") -> Run:
    """Open a finished run; its model is built, and checked against the golden logits, when first used.

    Raises RunError when `run` is no finished run, or damaged.
    """
    return Run(run, precision)


def import_weights(path: str | os.PathLike[str], model: str, output: str | os.PathLike[str]) -> str:
    """Write another library's weights as ours: safetensors, `layer/variable` -> tensor.

    Reads PyTorch (torchvision, timm), safetensors, Keras (keras.applications, KerasHub), TensorFlow
    checkpoints (TF-Slim, official models, Sonnet) and TensorLayer's .npz. Returns the library's name.
    Raises WeightsError when anything is missing, left over or of another shape.
    """
    choose_backend()
    from safetensors.numpy import save_file

    from rightfit.files import write_with
    from rightfit.nets import catalogue

    source, weights = catalogue.bring(os.fspath(path), model, None)
    metadata = {"format": "rightfit 1", "model": model, "source": source}
    write_with(Path(output), lambda temporary: save_file(weights, temporary, metadata=metadata))
    return source


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


def models(outputs: int = 1000, image_size: int = 224) -> list[dict[str, Any]]:
    """Every model that can be built: name, trainable parameters, multiply-adds an image, where it is from,
    and which weights can be had by name. Other libraries' nets are not counted (None)."""
    choose_backend()
    from rightfit.nets import catalogue

    return catalogue.listing(outputs, (image_size, image_size))


def machine(measure: bool = True) -> dict[str, Any]:
    """What this machine has; with `measure`, how fast each installed backend trains (half a minute)."""
    from rightfit.machine import describe

    return describe(measure)


def _check_start(asked: TrainSettings) -> None:
    """UsageError for weights that cannot be started from, before an image is decoded."""
    if asked.weights == "none" and asked.finetune != "auto":
        raise UsageError(f"--finetune {asked.finetune} needs weights to start from; give --weights")
    if asked.weights not in ("auto", "imagenet", "none"):
        from rightfit.nets.importers.files import check_there

        check_there(Path(asked.weights).expanduser())


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(os.path.expanduser(source))


def _split_beside(config: str | Path | None, asked: TrainSettings) -> dict[str, str] | None:
    """The split of the run that `config` belongs to, when it is a run's config.yaml and what decides
    a split is still as it was there."""
    if config is None or not all((Path(config).parent / n).exists() for n in ("data.csv", "decisions.jsonl")):
        return None
    then = train_settings({}, config)
    if then.data.startswith("<"):  # its rows have no names to find them by
        return None
    deciding = ("data", "split", "seed", "group_by")
    if any(getattr(then, name) != getattr(asked, name) for name in deciding):
        return None
    from rightfit.data.recorded import splits_of

    return splits_of(Path(config).parent / "data.csv")


def _introduce(
    console: Console, dataset: Dataset, settings: TrainSettings, parameters: int, backend: str, precision: str
) -> None:
    table = dataset.table
    sizes = {s: len(table.rows(s)) for s in ("train", "val", "test")}
    console.say(
        f"{len(table):,} images of {len(table.classes)} classes: {sizes['train']:,} to train on, "
        f"{sizes['val']:,} to validate, {sizes['test']:,} sealed for the test"
    )
    height, width = settings.height_width
    console.say(
        f"{settings.model}, {parameters:,} trainable parameters, {height}x{width} px, "
        f"batches of {settings.batch_size}, "
        f"on {backend} {installed_backends()[backend]} in {precision} → {settings.output}"
    )


def _sentence(split: str, metrics: dict[str, Any]) -> str:
    accuracy = metrics["accuracy"]
    return (
        f"{split} accuracy {accuracy['value']:.4f}, 95 % interval {accuracy['low']:.4f} to "
        f"{accuracy['high']:.4f}, over {metrics['images']:,} images"
    )


def _require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{package} is not installed; `pip install {package}` brings it")


class _TensorBoard:
    """Event files by TensorBoard's own writer, which needs no TensorFlow; a file an epoch is flushed to."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.writer = EventFileWriter(str(folder))

    def write(self, row: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, (int, float)) and name != "epoch"
        ]
        self.writer.add_event(Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values)))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def _signature() -> inspect.Signature:
    """What `help(rightfit.train)` shows: every setting with its default."""
    own = inspect.signature(train, eval_str=False).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    fields = [
        inspect.Parameter(name, keyword, default=field.default, annotation=field.annotation)
        for name, field in TrainSettings.model_fields.items()
        if name != "data"
    ]
    return inspect.Signature([own["data"], own["config"], own["quiet"], *fields], return_annotation="Run")


train.__signature__ = _signature()  # type: ignore[attr-defined]
