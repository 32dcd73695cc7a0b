"""The verbs: train, load, and what a run can do. The command line calls these functions and adds nothing."""

from __future__ import annotations

import csv
import inspect
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rightfit.config import TrainSettings, to_yaml, train_settings
from rightfit.console import Console, duration
from rightfit.errors import RunError, UsageError
from rightfit.files import replacing, write_text
from rightfit.runtime import choose_backend, choose_precision, installed_backends

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from rightfit.data.dataset import Dataset
    from rightfit.saving.bundle import Description
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
    source = asked.data if named else data
    console = Console(quiet)
    backend = choose_backend(asked.backend)
    precision = choose_precision(asked.precision)
    if asked.output:
        from rightfit.saving.folder import check_free

        check_free(asked.output)
    if asked.model != "auto":
        from rightfit.nets.resnet import variant_named

        variant_named(asked.model)
    if asked.tensorboard:
        _require("tensorboard")

    from rightfit.data.dataset import prepare

    dataset, asked = prepare(source, asked, console, _split_beside(config, asked))
    return _train(dataset, asked, console, backend, precision)


def _train(dataset: Dataset, asked: TrainSettings, console: Console, backend: str, precision: str) -> Run:
    from rightfit.data.augment import POLICIES
    from rightfit.data.loader import TrainLoader
    from rightfit.nets.resnet import build
    from rightfit.saving import bundle, folder
    from rightfit.training import loop, recipe

    table = dataset.table
    rows = table.rows("train")
    counts = dataset.class_counts(rows)
    facts = recipe.Facts(len(rows), counts, table.label_mode, max(asked.height_width))
    settings, decisions = recipe.resolve(asked, facts)
    settings = settings.model_copy(update={"backend": backend, "precision": precision})
    weights, weighing = recipe.sample_weights(settings, table.codes()[rows], counts, table.label_mode)
    model = build(settings.model, table.outputs, settings.height_width, settings.seed)

    place = folder.new_folder(settings.output, settings.data)
    settings = settings.model_copy(update={"output": str(place), "label_mode": table.label_mode})
    console.log_to(place / "log.txt")
    write_text(place / "config.yaml", to_yaml(settings))
    table.write_csv(place / "data.csv")
    folder.write_quarantine(place / "quarantine.csv", dataset.quarantined)
    for decision in decisions + ([weighing] if weighing else []):
        folder.record(
            place / "decisions.jsonl",
            setting=decision.setting,
            value=decision.value,
            evidence=decision.because,
        )
    _introduce(console, dataset, settings, model.count_params(), backend, precision)

    assert settings.batch_size is not None
    loader = TrainLoader(
        dataset.store,
        dataset.store_rows[rows],
        dataset.targets(rows),
        weights,
        settings.batch_size,
        settings.seed,
        POLICIES[settings.augment],
    )
    held_out = table.rows("val")
    validation = loop.Validation(
        dataset.store, dataset.store_rows[held_out], dataset.targets(held_out), dataset.groups(held_out)
    )
    board = _tensorboard(place) if settings.tensorboard else None

    def after_epoch(progress: Progress) -> None:
        folder.write_table(place / "history.csv", progress.history)
        if board:
            board(progress.history[-1])

    started = time.monotonic()
    progress = loop.train(
        model, loader, validation, settings, table.label_mode, console, after_epoch, precision
    )
    if not progress.weights:
        raise RunError(f"{progress.ended}: nothing was trained, {place} holds no model")
    model.set_weights(progress.weights)
    description = bundle.Description(
        settings.model, table.classes, table.label_mode, settings.height_width, settings.resize
    )
    golden = dataset.store.gather(dataset.store_rows[rows[: min(4, len(rows))]])
    bundle.save(place, model, description, golden)
    folder.record(
        place / "decisions.jsonl",
        setting="epoch",
        value=progress.best_epoch,
        evidence=f"{progress.ended}; lowest validation loss {progress.best_loss:.4f}"
        if len(held_out)
        else f"{progress.ended}; no validation images, so the last epoch",
    )
    console.say(
        f"{progress.ended} after {duration(time.monotonic() - started)}; kept epoch {progress.best_epoch}"
        + (f", val_loss {progress.best_loss:.4f}" if len(held_out) else "")
    )
    run = Run(place)
    run._dataset = dataset
    metrics = run._measure("val", Console(quiet=True)) if len(held_out) else None
    folder.write_json(place / "metrics.json", {"validation": metrics} if metrics else {})
    if metrics:
        console.say(_sentence("validation", metrics))
    return run


def load(run: str | os.PathLike[str], precision: str = "float32") -> Run:
    """Open a finished run; its model is built, and checked against the golden logits, when first used.

    Raises RunError when `run` is no finished run, or damaged.
    """
    return Run(run, precision)


def models(outputs: int = 1000, image_size: int = 224) -> list[dict[str, Any]]:
    """Every model that can be built: name, trainable parameters, multiply-adds an image, and the paper."""
    choose_backend()
    from rightfit.nets.resnet import VARIANTS, describe

    return [describe(name, outputs, (image_size, image_size)) for name in VARIANTS]


def machine(measure: bool = True) -> dict[str, Any]:
    """What this machine has; with `measure`, how fast each installed backend trains (half a minute)."""
    from rightfit.machine import describe

    return describe(measure)


class Run:
    """A finished run. `model` is a plain keras.Model that ends in logits."""

    def __init__(self, path: str | os.PathLike[str], precision: str = "float32") -> None:
        self.path = Path(path)
        self.precision = precision
        if not self.path.is_dir():
            raise RunError(f"{self.path} is no folder; give the run folder that training made")
        if not (self.path / "architecture.json").exists():
            raise RunError(f"{self.path} holds no trained model (no architecture.json); did training finish?")
        choose_backend()
        self._loaded: tuple[keras.Model, Description] | None = None
        self._dataset: Dataset | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def model(self) -> keras.Model:
        """Images (B, H, W, 3), 0..255 RGB -> logits (B, outputs), on the backend's fused kernels."""
        return self._load()[0]

    @property
    def classes(self) -> tuple[str, ...]:
        return self._load()[1].classes

    @property
    def label_mode(self) -> str:
        return self._load()[1].label_mode

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._load()[1].image_size

    @property
    def settings(self) -> TrainSettings:
        path = self.path / "config.yaml"
        try:
            return train_settings({}, path)
        except UsageError as error:  # nobody asked for it: the run holds it
            raise RunError(f"{error}; the run is incomplete or damaged") from error

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch, as in history.csv."""
        import pandas as pd

        return pd.read_csv(self.path / "history.csv")

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json: of the validation images, and of the test images once they were opened."""
        from rightfit.saving.folder import read_json

        content: dict[str, Any] = read_json(self.path / "metrics.json")
        return content

    def _load(self) -> tuple[keras.Model, Description]:
        if self._loaded is None:
            from rightfit.saving.bundle import load as load_bundle

            self._loaded = load_bundle(self.path, choose_precision(self.precision))
        return self._loaded

    def evaluate(self, quiet: bool = False) -> dict[str, Any]:
        """Open the sealed test set: accuracy, loss and balanced accuracy with 95 % intervals.

        Writes them to metrics.json and a line to test-ledger.jsonl. Raises UsageError when the data
        have no test images, DataError when the images have changed beyond reading.
        """
        from rightfit.saving import folder

        console = Console(quiet)
        metrics = self._measure("test", console)
        ledger = self.path / "test-ledger.jsonl"
        openings = len(ledger.read_text(encoding="utf-8").splitlines()) if ledger.exists() else 0
        folder.record(
            ledger,
            opening=openings + 1,
            weights=_sha256(self.path / "weights.safetensors"),
            settings=_sha256(self.path / "config.yaml"),
            rightfit=metadata.version("rightfit"),
            backend=choose_backend(),
            images=metrics["images"],
            accuracy=metrics["accuracy"]["value"],
        )
        folder.write_json(self.path / "metrics.json", {**self.metrics, "test": metrics})
        if openings:
            console.say(f"the test set had been opened {openings} times before (test-ledger.jsonl)")
        return metrics

    def _measure(self, split: str, console: Console) -> dict[str, Any]:
        from rightfit.evaluation.infer import all_logits
        from rightfit.evaluation.metrics import summary

        dataset = self._data()
        rows = dataset.table.rows(split)
        if not len(rows):
            raise UsageError(f"{self.path}: the data hold no {split} images; --split 6:1:2 makes some")
        if dataset.table.classes != self.classes:
            raise RunError(f"{self.path}: data.csv and the model have different classes")
        with console.bar("Evaluating", len(rows)) as bar:
            logits = all_logits(self.model, dataset.store, dataset.store_rows[rows], 64, bar.update)
        return summary(logits, dataset.targets(rows), self.label_mode, self.classes, dataset.groups(rows))

    def _data(self) -> Dataset:
        """The run's own data, splits as recorded in data.csv."""
        if self._dataset is None:
            settings = self.settings
            if settings.data.startswith("<"):
                raise UsageError(f"{self.path} was trained on data in memory, which are gone; predict works")
            from rightfit.data.dataset import prepare

            recorded = _recorded_split(self.path / "data.csv")
            again = settings.model_copy(update={"allow_bad": True})
            found, _ = prepare(settings.data, again, Console(quiet=True), recorded)
            self._dataset = found.only(recorded)
        return self._dataset

    def predict(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        output: str | os.PathLike[str] | TextIO | None = None,
        batch_size: int = 64,
        quiet: bool = False,
    ) -> pd.DataFrame | int:
        """The class of each image, and the probability of each class.

        `paths` are files, folders (walked) or URLs. Without `output`: a data frame with columns path,
        label and `probability_<class>`, a row an image, in order. With `output`, a path or an open text
        file: CSV of the same, written batch by batch, and the number of rows is returned. Files that are
        no readable images are named on stderr and left out; `frame.attrs["unreadable"]` of a data frame
        lists them.
        Raises UsageError for a path that does not exist.
        """
        console = Console(quiet)
        columns = ["path", "label", *(f"probability_{name}" for name in self.classes)]
        unreadable: list[tuple[str, str]] = []
        chunks = self._predictions(paths, batch_size, unreadable, console)
        if output is None:
            import pandas as pd

            frame = pd.DataFrame([row for chunk in chunks for row in chunk], columns=columns)
            frame.attrs["unreadable"] = unreadable
            return frame
        if isinstance(output, (str, os.PathLike)):
            with replacing(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                return _write_rows(file, columns, chunks)
        return _write_rows(output, columns, chunks)

    def _predictions(
        self, paths: Any, batch_size: int, unreadable: list[tuple[str, str]], console: Console
    ) -> Iterator[list[list[Any]]]:
        from rightfit.data.stream import images_of
        from rightfit.evaluation.infer import logits_of
        from rightfit.evaluation.metrics import decide, probabilities

        height, width = self.image_size
        done = 0
        with console.bar("Predicting", 0) as bar:
            for batch in images_of(paths, height, width, self._load()[1].resize, batch_size):
                for path, reason in batch.unreadable:
                    console.say(f"left out: {path}: {reason}")
                unreadable += batch.unreadable
                if not batch.paths:
                    continue
                shares = probabilities(logits_of(self.model, batch.images, batch_size), self.label_mode)
                labels = decide(shares, self.label_mode, self.classes)
                yield [[p, c, *map(float, s)] for p, c, s in zip(batch.paths, labels, shares, strict=True)]
                done += len(batch.paths)
                bar.update(done)


def _write_rows(file: TextIO, columns: list[str], chunks: Iterable[list[list[Any]]]) -> int:
    writer = csv.writer(file, lineterminator="\n")
    chunks = iter(chunks)
    first = next(chunks, [])  # an error in it comes before the header
    writer.writerow(columns)
    count = 0
    for chunk in itertools.chain([first], chunks):
        writer.writerows(chunk)
        count += len(chunk)
    return count


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(os.path.expanduser(source))


def _split_beside(config: str | Path | None, asked: TrainSettings) -> dict[str, str] | None:
    """The split of the run that `config` belongs to, when it is a run's config.yaml and what decides
    a split is still as it was there."""
    if config is None or not all((Path(config).parent / n).exists() for n in ("data.csv", "decisions.jsonl")):
        return None
    then = train_settings({}, config)
    deciding = ("data", "split", "seed", "group_by")
    if any(getattr(then, name) != getattr(asked, name) for name in deciding):
        return None
    return _recorded_split(Path(config).parent / "data.csv")


def _recorded_split(recorded: Path) -> dict[str, str]:
    """Path -> split, as a run wrote them."""
    try:
        with recorded.open(newline="", encoding="utf-8") as file:
            splits = {row["path"]: row["split"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise RunError(f"{recorded}: cannot be read ({error}); the run is incomplete or damaged") from error
    if not splits or not set(splits.values()) <= {"train", "val", "test"}:
        raise RunError(f"{recorded}: holds no split of each image; the run is incomplete or damaged")
    return splits


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
        f"{settings.model}, {parameters:,} parameters, {height}x{width} px, batches of {settings.batch_size}, "
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


def _tensorboard(place: Path) -> Any:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(place / "tensorboard"))

    def write(row: dict[str, Any]) -> None:
        values = [
            Summary.Value(tag=name, simple_value=float(value))
            for name, value in row.items()
            if isinstance(value, (int, float)) and name != "epoch"
        ]
        writer.add_event(Event(wall_time=time.time(), step=row["epoch"], summary=Summary(value=values)))
        writer.flush()

    return write


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
