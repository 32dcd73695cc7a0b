"""The verbs: train, load, and what a run can do. The command line calls these functions and adds nothing."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import resuming
from rightfit.config import TrainSettings, to_yaml, train_settings
from rightfit.console import Console
from rightfit.errors import RunError, UsageError
from rightfit.files import write_text
from rightfit.fitting import Job, fit
from rightfit.precision import choose_precision
from rightfit.run import Run
from rightfit.runtime import cache_folder, choose_backend, installed_backends

if TYPE_CHECKING:
    from rightfit.data.audit.findings import Audit
    from rightfit.data.dataset import Dataset
    from rightfit.nets.pretrained import Start

BEGUN = "start.json"  # what was asked: enough to begin again until there is a checkpoint


def check(
    data: Any,
    *,
    label: str | None = None,
    label_mode: str = "auto",
    group_by: str | None = None,
    split: str = "6:1:2",
    seed: int = 0,
    html: str | os.PathLike[str] | None = None,
    quiet: bool = False,
) -> Audit:
    """What is wrong with the data, before anything is trained: each finding with its severity, files and remedy.

    `data` and the settings are those of `train`, whose split is looked at where the data have none. `html` is a
    file to write a page with thumbnails to. The audit is `pointless` when a finding is an error.
    Raises UsageError for settings that are wrong, DataError when there are no images or one class only.
    """
    from rightfit.data.audit import check as audits

    source = os.fspath(data) if isinstance(data, os.PathLike) else data
    found = audits.check(source, label, label_mode, group_by, split, seed, Console(quiet))
    if html is not None:
        from rightfit.report import audit_page

        audit_page.write(found, html)
    return found


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
    if asked.cache_folder:
        asked = asked.model_copy(update={"cache_folder": _absolute(asked.cache_folder)})
    if asked.weights not in ("auto", "imagenet", "none"):
        asked = asked.model_copy(update={"weights": _absolute(asked.weights)})
    if asked.output:
        from rightfit.saving.folder import check_free

        check_free(asked.output)
    source = asked.data if named else data
    console = Console(quiet)
    backend = choose_backend(asked.backend)
    precision, because = choose_precision(asked.precision, cache_folder(asked.cache_folder))
    if asked.model != "auto":
        from rightfit.nets import catalogue, pretrained

        catalogue.check(asked.model)
        pretrained.check(asked.weights, asked.model)
    _check_start(asked)
    if asked.tensorboard:
        _require("tensorboard")

    from rightfit.data.dataset import prepare

    dataset, asked = prepare(source, asked, console, _split_beside(config, asked))
    if asked.ordinal:
        _say_grades(dataset.table.classes, dataset.table.label_mode, console)
    with ExitStack() as held:
        return _train(dataset, asked, console, backend, precision, because, held)


def _train(
    dataset: Dataset,
    asked: TrainSettings,
    console: Console,
    backend: str,
    precision: str,
    because: str,
    held: ExitStack,
    place: Path | None = None,
) -> Run:
    """`held` takes the lock on the run's folder; `place` is one that is locked already."""
    from rightfit.nets import catalogue, pretrained
    from rightfit.saving import folder
    from rightfit.training import recipe
    from rightfit.training.checkpoints import FOLDER, Checkpoints

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
    weights_from = settings.weights if start.kind == "file" else start.kind
    settings = settings.model_copy(
        update={"backend": backend, "precision": precision, "weights": weights_from}
    )
    _, weighing = recipe.sample_weights(settings, table.codes()[rows], counts, table.label_mode)

    if place is None:
        place = folder.new_folder(settings.output, settings.data)
        held.enter_context(folder.locked(place))
        (place / FOLDER).mkdir()
        begun = {"asked": asked.model_dump(), "backend": backend, "precision": precision, "because": because}
        folder.write_json(place / FOLDER / BEGUN, begun)
    settings = settings.model_copy(update={"output": str(place), "label_mode": table.label_mode})
    console.log_to(place / "log.txt")
    write_text(place / "config.yaml", to_yaml(settings))
    table.write_csv(place / "data.csv")
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

    if asked.precision == "auto":
        decisions.append(recipe.Decision("precision", precision, because))
    for decision in decisions + ([weighing] if weighing else []):
        record(decision)
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    _introduce(console, dataset, settings, parameters, backend, precision)

    return fit(Job(place, dataset, model, asked, settings, facts), console, Checkpoints(place, console))


def resume(
    run: str | os.PathLike[str],
    *,
    data: Any = None,
    epochs: int | None = None,
    micro_batch: int | None = None,
    accept_data_changes: bool = False,
    quiet: bool = False,
) -> Run:
    """Go on with a run that was stopped or killed, from its last checkpoint; returns the finished run.

    Weights, history (but for the seconds) and decisions are those of a run that was never broken off, bit
    for bit on a processor with the same backend, versions and number of threads; otherwise to rounding,
    and that is said. `data` is for a run on arrays in memory: the same (images, labels) again. `epochs` takes
    a finished run further: from its last state warm-up and cosine begin again and end with that epoch (a
    warm restart; Loshchilov and Hutter 2017), which is another run than one that was planned so long.
    `micro_batch` is for a run whose process was ended for want of memory: from here on gradients are summed
    over parts of so many images.

    Raises DataError when images, labels or splits have changed, unless `accept_data_changes`; UsageError
    when config.yaml has, or another process works on the run; RunError when no checkpoint is whole.
    """
    from rightfit.saving import folder
    from rightfit.training.checkpoints import FOLDER, Checkpoints

    console, place = Console(quiet), Path(run)
    if not (place / FOLDER).is_dir():
        raise RunError(f"{place} holds no checkpoints; give the run folder that `rightfit train` made")
    with folder.locked(place):
        folder.remove_half_written(place)
        checkpoints = Checkpoints(place, console)
        saved = checkpoints.newest()
        if saved is not None:
            return resuming.go_on(
                place, checkpoints, saved, data, epochs, micro_batch, accept_data_changes, console
            )
        if checkpoints.identity():
            raise RunError(
                f"{place}: none of its checkpoints is whole; "
                f"`rightfit train --config {place / 'config.yaml'} --output NEW` repeats the run"
            )
        if resuming.is_finished(checkpoints):
            if epochs is not None:
                raise UsageError(f"{place}: only the head was fitted, which more epochs do not change")
            console.say(f"{place} is finished")
            return Run(place)
        return _begin_again(place, data, micro_batch, console)


def _begin_again(place: Path, data: Any, micro_batch: int | None, console: Console) -> Run:
    """A run that was killed before its first checkpoint starts from what it was asked."""
    from rightfit.data.dataset import prepare
    from rightfit.data.recorded import splits_of
    from rightfit.saving import folder
    from rightfit.training.checkpoints import FOLDER

    begun = folder.read_json(place / FOLDER / BEGUN)
    asked = train_settings({**begun["asked"], **({"micro_batch": micro_batch} if micro_batch else {})})
    backend = resuming.backend_of(begun["backend"])
    if asked.data.startswith("<") and data is None:
        raise UsageError(
            f"{place} was trained on data in memory; rightfit.resume(run, data=...) takes them again"
        )
    known = splits_of(place / "data.csv") if (place / "data.csv").exists() else None
    for name in ("decisions.jsonl", "history.csv"):
        (place / name).unlink(missing_ok=True)
    console.say(f"{place} was broken off before its first checkpoint, and begins again")
    dataset, asked = prepare(asked.data if data is None else data, asked, console, known)
    return _train(dataset, asked, console, backend, begun["precision"], begun["because"], ExitStack(), place)


def load(run: str | os.PathLike[str], precision: str = "float32") -> Run:
    """Open a finished run; its model is built, and checked against the golden logits, when first used.

    Raises RunError when `run` is no finished run, or damaged.
    """
    return Run(run, precision)


def compare(
    run_a: str | os.PathLike[str] | Run,
    run_b: str | os.PathLike[str] | Run,
    *,
    split: str = "val",
    precision: str = "float32",
    quiet: bool = False,
) -> dict[str, Any]:
    """Which of two runs is better on the images both have in `split`, val or test, and whether that can be
    told from noise: `rightfit.comparing.compare`. `split="test"` opens the test set of both, on record."""
    from rightfit import comparing

    a, b = (run if isinstance(run, Run) else load(run, precision) for run in (run_a, run_b))
    return comparing.compare(a, b, split, Console(quiet))


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
    """What this machine has; with `measure`, how fast each installed backend trains and what bounds it, in about
    a minute."""
    from rightfit.machine import describe

    return describe(measure)


def _check_start(asked: TrainSettings) -> None:
    """UsageError for weights that cannot be started from, before an image is decoded."""
    if asked.weights == "none" and asked.finetune != "auto":
        raise UsageError(f"--finetune {asked.finetune} needs weights to start from; give --weights")
    if asked.weights not in ("auto", "imagenet", "none"):
        from rightfit.nets.importers.files import check_there

        check_there(Path(asked.weights))


def _say_grades(classes: tuple[str, ...], label_mode: str, console: Console) -> None:
    """UsageError where classes have no order; their order is that of their names, which may not be meant."""
    if label_mode == "multilabel":
        raise UsageError("--ordinal is for classes that exclude each other; these images have several labels")
    console.say(f"grades, in the order of their names: {' < '.join(classes)}")


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
    deciding = ("data", "split", "seed", "group_by", "group_near_duplicates")
    if any(getattr(then, name) != getattr(asked, name) for name in deciding):
        return None
    from rightfit.data.recorded import splits_of

    return splits_of(Path(config).parent / "data.csv")


def _introduce(
    console: Console, dataset: Dataset, settings: TrainSettings, parameters: int, backend: str, precision: str
) -> None:
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
        f"on {backend} {installed_backends()[backend]} in {precision} → {settings.output}"
    )


def _require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{package} is not installed; `pip install {package}` brings it")


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
