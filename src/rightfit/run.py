"""A finished run: load its model, open its test set, label images with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from rightfit.config import TrainSettings, train_settings
from rightfit.console import Console
from rightfit.errors import DataError, ModelFileError, RunError, UsageError
from rightfit.files import replacing, write_with
from rightfit.formats.bounds import BOUNDS
from rightfit.formats.text import check_regular
from rightfit.precision import choose_precision
from rightfit.records import instead_of_a_run
from rightfit.runtime import ENGINES, cache_folder, choose_backend, choose_engine, version_of

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from rightfit.data.dataset import Dataset
    from rightfit.data.loader import Images
    from rightfit.data.table import Table
    from rightfit.evaluation.calibration import Calibration
    from rightfit.evaluation.infer import Predicts
    from rightfit.labelling import Labelling
    from rightfit.saving.bundle import Description
    from rightfit.saving.ledger import Before

CALIBRATION = "calibration.json"
VALIDATION = "validation.npz"  # the logits that calibration and metrics.json were made from
METRICS = "metrics.json"  # not there while weights are replaced and until they are measured
BATCH = 64  # images that are predicted at a time


class Run:
    """A finished run. `model` is a plain keras.Model that ends in logits."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        precision: str = "float32",
        dataset: Dataset | None = None,
        unfinished: bool = False,
        backend: str | None = "auto",
    ) -> None:
        """`unfinished`: it may be without a model yet. `backend` is one of Keras' or an engine to predict with; None
        where this process only reads what is on record."""
        self.path = Path(path)
        self.precision = precision
        if not self.path.is_dir():
            raise RunError(f"{self.path} is no folder; give the run folder that training made")
        if not unfinished and not (self.path / "architecture.json").exists():
            raise RunError(f"{self.path} {instead_of_a_run(self.path)}")
        self.backend = _chosen(backend, precision)
        self._model: keras.Model | None = None
        self._engine: Predicts | None = None
        self._description: Description | None = None
        self._loaded: tuple[int, ...] | None = None  # which file of weights
        self._dataset = dataset

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def model(self) -> keras.Model:
        """Images (B, H, W, 3), 0..255 RGB -> logits (B, outputs), on the kernels of Keras' backend."""
        if self._model is None:
            choose_backend()
            from rightfit.saving import bundle

            self._loaded = self._weights_now()
            self._model, self._description = bundle.load(self.path, self._precision())
        return self._model

    def predictor(self, console: Console) -> Predicts:
        """The model, or the engine that was asked for in its place."""
        if self.backend not in ENGINES:
            return self.model
        if self._engine is None:
            from rightfit.export import engines

            self._loaded = self._weights_now()
            self._engine, distance = engines.open_run(self.path, self.backend)
            version = version_of(self.backend)
            console.say(
                f"on {self.backend} {version}, within {distance:.1g} of the logits saved with the run"
            )
        return self._engine

    @property
    def classes(self) -> tuple[str, ...]:
        return self.description.classes

    @property
    def label_mode(self) -> str:
        return self.description.label_mode

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.description.image_size

    @property
    def settings(self) -> TrainSettings:
        path = self.path / "config.yaml"
        try:
            if path.exists():
                check_regular(path, BOUNDS.yaml_bytes)
            return train_settings({}, path)
        except (UsageError, ModelFileError) as error:  # nobody asked for it: the run holds it
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

        self._check_measured()
        content: dict[str, Any] = read_json(self.path / METRICS)
        return content

    def _check_measured(self) -> None:
        if (self.path / "checkpoints").is_dir() and not (self.path / METRICS).exists():
            raise RunError(
                f"{self.path}: its weights are not measured yet; where no other process is at that, "
                f"`rightfit resume {self.path}` does it"
            )

    @property
    def description(self) -> Description:
        """What the model is called, sees and says, read without building it."""
        if self._description is None:
            from rightfit.saving import bundle

            self._description = bundle.describe(self.path)
        return self._description

    def _precision(self) -> str:
        if self.backend in ENGINES:
            return "float32"
        return choose_precision(self.precision, cache_folder())[0]

    @property
    def calibration(self) -> Calibration:
        """Temperature and operating points, as validation gave them; none of either in runs without. RunError where the
        weights were replaced and not measured yet."""
        from rightfit.evaluation.calibration import Calibration, from_dict
        from rightfit.saving.folder import read_json

        path = self.path / CALIBRATION
        if not path.exists():
            self._check_measured()
            return Calibration()
        labels = len(self.classes) if self.label_mode == "multilabel" else 1
        try:
            return from_dict(read_json(path), labels)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{path}: cannot be read ({error!r}); the run is incomplete or damaged") from error

    def evaluate(self, quiet: bool = False) -> dict[str, Any]:
        """Open the sealed test set: every metric with its 95 % interval (`rightfit.evaluation.summary`).

        Writes them to metrics.json and a line to test-ledger.jsonl. Raises UsageError when the data
        have no test images or another process works on the run, DataError when images of the run are gone, unreadable
        or not what they were.
        """
        from rightfit.saving import folder

        console = Console(quiet)
        self._rows("test")  # nothing is opened where there is nothing
        if unfinished := self.metrics.get("unfinished"):
            console.say(f"{self.path} is not trained to its end: {unfinished}")
        with self.alone():
            before = self.open_test("evaluate")
            metrics = self.measure("test", console)
            folder.write_json(self.path / METRICS, {**self.metrics, "test": metrics})
        if before.openings:
            console.say(str(before))
        return metrics

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While the test is open, no other process works on the run. UsageError where one does, RunError where one has
        replaced the weights since this one loaded them."""
        from rightfit.saving import folder

        with folder.locked(self.path):
            if self._loaded not in (None, self._weights_now()):
                raise RunError(f"{self.path}: its weights are others by now than those loaded; load it again")
            yield

    def open_test(self, purpose: str) -> Before:
        """The ledger's line of one opening, before an image is read; what it held before."""
        from rightfit.saving import ledger

        return ledger.open_test(self.path, purpose, self.backend, self._precision())

    def _weights_now(self) -> tuple[int, ...] | None:
        try:
            found = (self.path / "weights.safetensors").stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def measure(
        self,
        split: str,
        console: Console,
        calibrating: bool = False,
        logits: NDArray[np.float32] | None = None,
        batch_size: int = BATCH,
    ) -> dict[str, Any]:
        """Metrics of one split, each with its interval; `evaluate` is the way to open the test set.

        `calibrating` fits temperature and operating points to these images first, and saves them.
        `logits` (N, outputs) are this model's where they are known already; else `batch_size` images at a time are
        looked at.
        """
        import numpy as np

        from rightfit.evaluation.calibration import calibrate
        from rightfit.evaluation.slices import Brightness, own_groups, pixels_beside, slices_of
        from rightfit.evaluation.summary import summary
        from rightfit.saving import folder

        dataset, rows = self._data(), self._rows(split)
        images, targets = Brightness(dataset.images), dataset.targets(rows)
        areas = pixels_beside(dataset.table.paths(rows))
        if logits is None:
            logits = self.logits(split, console, images, batch_size)
        if calibrating:
            write_with(self.path / VALIDATION, lambda path: np.savez(path, logits=logits))
            found = calibrate(logits, targets, self.label_mode)
            folder.write_json(self.path / CALIBRATION, found.to_dict())
        frame = dataset.table.frame
        groups = own_groups(frame["group"].tolist(), frame["name"].tolist())
        return summary(
            logits,
            targets,
            self.label_mode,
            self.classes,
            dataset.groups(rows),
            calibration=self.calibration,
            ordinal=self.settings.ordinal,
            slices=slices_of(images.of(dataset.image_rows[rows]), areas(), [groups[row] for row in rows]),
        )

    def logits(
        self, split: str, console: Console, images: Images | None = None, batch_size: int = BATCH
    ) -> NDArray[np.float32]:
        """(N, outputs) of the images of one split, as the model gives them; `images` stand for the store. RightfitError
        where they are no finite numbers."""
        from rightfit.evaluation.infer import all_logits
        from rightfit.evaluation.metrics import finite

        dataset, rows = self._data(), self._rows(split)
        with console.bar("Evaluating", len(rows)) as bar:
            model = self.predictor(console)
            store = images or dataset.images
            return finite(all_logits(model, store, dataset.image_rows[rows], batch_size, bar.update))

    def recorded_logits(self, images: int) -> NDArray[np.float32] | None:
        """(images, outputs) of the validation images, as training left them; None where there are none."""
        import numpy as np

        from rightfit.formats.model_file import opened

        try:
            with opened(self.path / VALIDATION) as kept:
                logits = np.asarray(kept.tensors["logits"].read(), np.float32)
        except (ModelFileError, KeyError):
            return None
        outputs = 1 if self.label_mode == "binary" else len(self.classes)
        return logits if logits.shape == (images, outputs) else None

    def _rows(self, split: str) -> NDArray[np.int64]:
        rows = self._data().table.rows(split)
        if not len(rows):
            raise UsageError(f"{self.path}: the data hold no {split} images; --split 6:1:2 makes some")
        return rows

    def _data(self) -> Dataset:
        """The run's own images, labels and splits as data.csv has them, whatever the source holds by now."""
        if self._dataset is None:
            self._dataset = self._reopened(self._recorded())
        return self._dataset

    def seen_images(self) -> Dataset:
        """As `_data`, of the training and validation images at least: a test image is not looked for, let alone
        opened, where the images are not open yet."""
        import numpy as np

        if self._dataset is not None:
            return self._dataset
        found = self._recorded()
        return self._reopened(found, np.flatnonzero((found.frame["split"] != "test").to_numpy()))

    def _recorded(self) -> Table:
        from rightfit.data import recorded

        found = recorded.table_of(self.path / "data.csv", self.classes, self.label_mode)
        if found.frame["name"].iloc[0].startswith("array:"):
            raise UsageError(f"{self.path} was trained on data in memory, which are gone; predict works")
        return found

    def _reopened(self, found: Table, rows: NDArray[np.int64] | None = None) -> Dataset:
        """Its images, or `rows` of them. DataError unless they are those that the run was trained with."""
        from rightfit.data.dataset import reopen
        from rightfit.data.recorded import source_of
        from rightfit.data.resize import ImageSpec
        from rightfit.provenance import image_digests_of

        settings = self.settings
        source = source_of(self.path, settings.data)
        spec = ImageSpec(*self.image_size, self.description.resize)
        # What is read once is not worth the memory.
        mode = "none" if settings.cache == "memory" else settings.cache
        contents = image_digests_of(self.path)
        if contents is not None and len(contents) != len(found):  # data.csv was written anew since
            contents = None
        if rows is not None:
            found, contents = found.select(rows), None if contents is None else contents[rows]
        try:
            return reopen(found, source, spec, mode, cache_folder(settings.cache_folder), contents)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error

    def predict(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        output: str | os.PathLike[str] | TextIO | None = None,
        batch_size: int = BATCH,
        quiet: bool = False,
        operating_point: str | None = None,
    ) -> pd.DataFrame | int:
        """The class of each image, and the probability of each class at the run's temperature.

        `paths` are files, folders (walked) or URLs. Without `output`: a data frame with columns path,
        label and `probability_<class>`, a row an image, in order. With `output`, a path or an open text
        file: CSV of the same, written batch by batch, and the number of rows is returned. Files that are
        no readable images are named on stderr and left out; `frame.attrs["unreadable"]` of a data frame
        lists them. `operating_point`, youden, specificity-95 or sensitivity-95, decides at the threshold
        that validation gave instead of the likeliest class (binary) or 1/2 (multilabel).
        Raises UsageError for a path that does not exist, or an operating point that the run has not; DataError
        where nothing can be read that `output`, a path, would be of: what is there stays.
        """
        from rightfit.data.stream import files_of
        from rightfit.labelling import write

        console = Console(quiet)
        if isinstance(output, (str, os.PathLike)) and Path(output).suffix == ".parquet":
            raise UsageError(f"{output}: this writes CSV; name it .csv, or ask for Parquet with --ray local")
        if isinstance(output, (str, os.PathLike)):
            from rightfit.saving.folder import check_csv

            check_csv(output, ("path", "label", "probability_"))
        labelling, unreadable = self.labelling(operating_point, console), list[tuple[str, str]]()
        chunks = self.predictions(labelling, files_of(paths), batch_size, unreadable, console)
        if output is None:
            import pandas as pd

            frame = pd.DataFrame([row for chunk in chunks for row in chunk], columns=labelling.columns)
            frame.attrs["unreadable"] = unreadable
            return frame
        if isinstance(output, (str, os.PathLike)):
            with replacing(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                count = write(file, labelling.columns, chunks)
                if not count:
                    raise DataError(f"{output}: no file could be read as an image, so what is there stays")
                return count
        return write(output, labelling.columns, chunks)

    def labelling(self, operating_point: str | None, console: Console | None = None) -> Labelling:
        """How it labels, at this operating point's thresholds; labels that have none, said to `console`, at 1/2.
        UsageError as of `predict`."""
        import numpy as np

        from rightfit.data.resize import ImageSpec
        from rightfit.data.table import some
        from rightfit.labelling import Labelling

        points, thresholds = self.calibration.points, None
        if operating_point is not None:
            if operating_point not in points:
                has = (
                    ", ".join(points)
                    or "none: they are of two classes or several labels, and validation images with and without"
                )
                raise UsageError(f"{self.path} has no operating point {operating_point!r}; it has {has}")
            thresholds = np.nan_to_num(points[operating_point], nan=0.5)
            if console and (lacking := self.calibration.lacking(self.classes)):
                console.say(
                    f"{some(lacking)}: decided at 1/2, for want of validation images with and without it"
                )
        spec = ImageSpec(*self.image_size, self.description.resize)
        return Labelling(self.classes, self.label_mode, spec, self.calibration.temperature, thresholds)

    def predictions(
        self,
        labelling: Labelling,
        files: Iterable[str],
        batch_size: int,
        unreadable: list[tuple[str, str]],
        console: Console,
    ) -> Iterator[list[list[Any]]]:
        """The rows of `predict` for files that are listed, a list a batch; the model is loaded when the first is asked
        for."""
        yield from labelling.rows(self.predictor(console), files, batch_size, unreadable, console)


def _chosen(backend: str | None, precision: str) -> str:
    if backend is None:
        return ""
    return choose_engine(backend, precision) if backend in ENGINES else choose_backend(backend)
