"""The verbs: train, load, and what a run can do. The command line calls these functions and adds nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import asking, beginning, cluster, continuing, working
from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.errors import UsageError
from rightfit.run import BATCH, Run
from rightfit.runtime import choose_backend
from rightfit.team import team_of

if TYPE_CHECKING:
    import pandas as pd

    from rightfit.data.audit.findings import Audit
    from rightfit.diagnosing import FitStory
    from rightfit.more_images import LearningCurve


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
    from rightfit.saving.folder import check_page

    if html is not None:
        check_page(html)
    source = os.fspath(data) if isinstance(data, os.PathLike) else data
    found = audits.check(source, label, label_mode, group_by, split, seed, Console(quiet))
    if html is not None:
        from rightfit.reports import audit_page

        audit_page.write(found, html)
    return found


def train(
    data: Any = None,
    *,
    config: str | Path | None = None,
    workers: int | str | None = None,
    ray: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Check, split, train, validate and save; returns the finished run.

    `data` is a folder of class folders, split folders (train, val, test), a CSV, TSV or Parquet file,
    a pandas data frame, or a tuple of arrays (images (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8,
    labels (N,) or 0/1 (N, K)). `settings` are the fields of `rightfit.config.TrainSettings`;
    they win over the YAML file `config`, which wins over the defaults.

    `workers`, a number, or "2:4" for as many as there are of 2 to 4, train together on the Ray cluster at `ray`: "auto"
    is one that runs here, "local" one that is begun for this run. They share each batch, on the JAX backend; the run
    is that of one worker, to rounding. Images and the run's folder have to be on a disk that all of them reach.

    Raises UsageError for settings that are wrong, DataError for data that cannot be trained on,
    RightfitError when the work fails.
    """
    shared = team_of(workers, ray, working.work)
    asked, source = asking.settled(data, config, settings)
    if shared and asked.backend == "auto":
        asked = asked.model_copy(update={"backend": "jax"})
    if shared:
        shared.check_backend(asked.backend)
    console = Console(quiet)
    with ExitStack() as held:
        if shared:  # before images are decoded for a cluster that does not answer, or is too small
            held.enter_context(shared.connected(console))
        prepared = beginning.prepared(asked, source, config, console)
        return beginning.begin(prepared, console, held, team=shared)


def tune(
    data: Any = None,
    *,
    config: str | Path | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    trials: int | None = None,
    time_limit: str | None = None,
    ray: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Search for the settings that suit these images, and train a run with them; returns that run.

    `data` and `settings` are those of `train`; what is set is not tuned. `space` is a mapping, or a YAML file, of what
    is tuned instead (`rightfit.tuning.space`); `trials` and `time_limit` end the search, one of them is needed. Trials
    are chosen by one half of the validation images; the other half, which chose nothing, is what the figures told at
    the end are of (search/tuning.json). The test images stay sealed. A search that was killed goes on with `resume`.
    With `ray`, a Ray cluster as of `train`, trials are trained on its nodes, as many at once as they hold.
    Raises UsageError, DataError and RightfitError as `train` does; DataError for too few validation images, RunError
    where trials fail one after the other.
    """
    from rightfit import searching
    from rightfit.tuning import space as spaces

    knobs = None
    if space is not None:
        knobs = spaces.from_mapping(space) if isinstance(space, Mapping) else spaces.from_file(space)
    if time_limit is not None:
        settings["time_limit"] = time_limit
    asked, source = asking.settled(data, config, settings)
    time_limit, asked = asked.time_limit, asked.model_copy(update={"time_limit": None})
    ends = searching.Ends(trials, time_limit)
    ends.check()
    if ray is not None and asked.data.startswith("<"):
        raise UsageError(
            "nodes read data from where they lie; with --ray give a folder or a table, not data in memory"
        )
    console = Console(quiet)
    open_size = asked.image_size == "auto"
    with ExitStack() as held:
        if ray is not None:
            held.enter_context(cluster.connected(ray, console))
        prepared = beginning.prepared(asked, source, config, console)
        from rightfit.data.dataset import sizes_to_try

        sizes = sizes_to_try(prepared.dataset.table) if open_size else ()
        return searching.tune(prepared, console, held, knobs, ends, ray, sizes=sizes)


def resume(
    run: str | os.PathLike[str],
    *,
    data: Any = None,
    epochs: int | None = None,
    micro_batch: int | None = None,
    accept_data_changes: bool = False,
    workers: int | str | None = None,
    ray: str | None = None,
    trials: int | None = None,
    time_limit: str | None = None,
    quiet: bool = False,
) -> Run:
    """Go on with a run that was stopped or killed, from its last checkpoint; returns the finished run.

    Weights, history (but for the seconds) and decisions are those of a run that was never broken off, bit
    for bit on a processor with the same backend, versions and number of threads; otherwise to rounding,
    and that is said. `data` is for a run on arrays in memory: the same (images, labels) again. `epochs` takes
    a finished run further: from its last state warm-up and cosine begin again and end with that epoch (a
    warm restart; Loshchilov and Hutter 2017), which is another run than one that was planned so long.
    `micro_batch` is for a run whose process was ended for want of memory: from here on gradients are summed
    over parts of so many images. `workers` and `ray` are those of `train`; a run may go on with another number of
    workers than it began with. `trials` and `time_limit` are of a search, in place of what it was to end with; with
    `epochs`, `time_limit` is that of the epochs to come, which have none without it.

    Raises DataError when images, labels or splits have changed, unless `accept_data_changes`; UsageError
    when config.yaml has, or another process works on the run; RunError when no checkpoint is whole.
    """
    from rightfit.searching import Ends

    asked = continuing.Asked(
        data, epochs, micro_batch, accept_data_changes, workers, ray, Ends(trials, time_limit)
    )
    return continuing.go_on(Path(run), asked, Console(quiet))


def load(run: str | os.PathLike[str], precision: str = "float32", backend: str = "auto") -> Run:
    """Open a finished run; its model is built, and checked against the golden logits, when first used.

    `backend` is tensorflow, jax or torch; or onnxruntime or openvino, with which `predict` and `evaluate` need no
    Keras. "auto" is KERAS_BACKEND, else what `rightfit machine` measured to train fastest, else the first installed
    of tensorflow, torch and jax. Raises RunError when `run` is no finished run, or damaged; BackendError when the
    backend is not installed, or Keras already runs another in this process.
    """
    return Run(run, precision, backend=backend)


def predict_many(
    run: str | os.PathLike[str] | Run,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    ray: str = "auto",
    batch_size: int = BATCH,
    operating_point: str | None = None,
    precision: str = "float32",
    backend: str = "auto",
    quiet: bool = False,
) -> int:
    """`run.predict` on the Ray cluster at `ray`, into a folder of Parquet files; returns how many images are labelled.

    `ray` is "auto", "local" or "host:port", as of `train`. `output`, named .parquet, holds the columns path, label and
    `probability_<class>`, a row an image, in order; files that are no readable images are left out and named in its
    _unreadable.csv. Run, images and output have to be on paths that every node reaches, or images at URLs. Called
    again, it makes the parts that are missing. A run that is open keeps its precision and backend; with a path,
    `backend` "auto" is chosen by each worker.

    Raises UsageError where Ray is not installed, no cluster answers, or `output` holds something else; RightfitError
    where Ray gives up, and whatever `load` and `predict` raise.
    """
    from rightfit import predicting

    if isinstance(run, Run):
        opened, backend = run, run.backend
    else:
        opened = Run(run, precision, backend=None)
    return predicting.predict(
        opened, backend, paths, output, ray, batch_size, operating_point, Console(quiet)
    )


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

    a, b = (_opened(run, precision) for run in (run_a, run_b))
    return comparing.compare(a, b, split, Console(quiet))


def report(
    run: str | os.PathLike[str] | Run,
    output: str | os.PathLike[str] | None = None,
    *,
    language: str | None = None,
    precision: str = "float32",
    quiet: bool = False,
) -> Path:
    """Draw the page of a run, `output` or its report.html, in "en", "zh" or the run's own language; returns where:
    `rightfit.reporting.write`. Training draws it too; after `evaluate` it has the test's numbers.
    """
    from rightfit import reporting
    from rightfit.saving.folder import check_page

    if output is not None:
        check_page(output)
    opened = _opened(run, precision)
    return reporting.write(opened, Path(output) if output else None, language, Console(quiet))


def redraw(run: Run, *, quiet: bool = False) -> None:
    """The page of a run that has one, with what is new; what goes wrong with it is said."""
    from rightfit import reporting

    if (run.path / reporting.NAME).exists():
        reporting.draw(run, Console(quiet))


def relocate(run: str | os.PathLike[str], data: str | os.PathLike[str]) -> int:
    """Tell a run where its images are now, after they were moved or the run was taken to another machine; returns their
    number.

    `data` is the folder or URL that holds them as the one before did. All are looked for first, by name; where one is
    not there, DataError names it and nothing is recorded: `rightfit.relocating.relocate`."""
    from rightfit import relocating

    return relocating.relocate(Path(run), os.fspath(data))


def diagnose(run: str | os.PathLike[str] | Run) -> FitStory:
    """How the run's fit came about, from what is on record: its epochs, the diagnosis with its numbers, what was
    changed and what came of that. Nothing is trained or predicted. RunError for a damaged run."""
    from rightfit import diagnosing

    return diagnosing.diagnose(_on_record(run))


def learning_curve(run: str | os.PathLike[str] | Run, *, quiet: bool = False) -> LearningCurve:
    """What more images would bring: nets that learn from two halves and two quarters of the training images as the run
    did, and the line through their errors (`rightfit.evaluation.power_law`).

    Takes one and a half to three times as long as the run; what is broken off goes on, and the result is remembered in
    the run. The test set stays sealed. Raises UsageError for a run that is not finished, was taken further by
    `resume --epochs`, has no validation images, or was trained on data in memory that are gone; DataError for too few
    training images, or where they are gone or changed.
    """
    from rightfit import more_images

    return more_images.learning_curve(_on_record(run), Console(quiet))


def suspects(
    run: str | os.PathLike[str] | Run,
    output: str | os.PathLike[str] | None = None,
    *,
    precision: str = "float32",
    quiet: bool = False,
) -> pd.DataFrame:
    """Training and validation images whose label is probably wrong, the most suspicious first, as a data
    frame and, with `output`, a CSV file: `rightfit.suspecting.suspects`. The test set stays sealed."""
    from rightfit import suspecting
    from rightfit.saving.folder import check_csv

    if output is not None:
        check_csv(output, suspecting.SUSPECTS)
    opened = _opened(run, precision)
    frame = suspecting.suspects(opened, Console(quiet))
    if output is not None:
        suspecting.write_csv(frame, output)
    return frame


def neighbours(
    run: str | os.PathLike[str] | Run,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    k: int = 5,
    output: str | os.PathLike[str] | None = None,
    *,
    precision: str = "float32",
    quiet: bool = False,
) -> pd.DataFrame:
    """The `k` training images most like each image of `paths`, with their labels, as a data frame and, with
    `output`, a CSV file: `rightfit.suspecting.neighbours`."""
    from rightfit import suspecting
    from rightfit.saving.folder import check_csv

    if output is not None:
        check_csv(output, suspecting.NEIGHBOURS)
    opened = _opened(run, precision)
    frame = suspecting.neighbours(opened, paths, k, Console(quiet))
    if output is not None:
        suspecting.write_csv(frame, output)
    return frame


def explain(
    run: str | os.PathLike[str] | Run,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    output: str | os.PathLike[str],
    method: str = "grad-cam",
    of: str | None = None,
    layer: str | None = None,
    check: bool = False,
    precision: str = "float32",
    quiet: bool = False,
) -> pd.DataFrame:
    """Where the model looked: a picture of each image beside its heat map, and explanations.csv, in `output`.

    `paths` are files, folders (walked) or URLs; `method` is grad-cam, grad-cam++ or occlusion; `of` names the
    class that is explained, else the likeliest of each image; `layer` the map that is looked at, else the last
    before the pooling; `check` adds the rank correlation with occlusion. Returns the table:
    `rightfit.explaining.explain`, which says its columns and what it raises.
    """
    from rightfit import explaining

    opened = _opened(run, precision)
    rows = explaining.explain(opened, paths, output, method, of, layer, check, Console(quiet))
    import pandas as pd

    return pd.DataFrame(rows, columns=explaining.columns(check))


def import_weights(path: str | os.PathLike[str], model: str, output: str | os.PathLike[str]) -> str:
    """Write another library's weights as ours: safetensors, `layer/variable` -> tensor.

    Reads PyTorch (torchvision, timm), safetensors, Keras (keras.applications, KerasHub), TensorFlow
    checkpoints (TF-Slim, official models, Sonnet) and TensorLayer's .npz. Returns the library's name.
    Raises WeightsError when anything is missing, left over or of another shape; WriteError when `output` cannot be
    written.
    """
    from rightfit.saving.folder import check_output

    check_output(output, lambda text: '"rightfit 1"' in text)
    choose_backend()
    from rightfit.files import write_tensors
    from rightfit.nets import catalogue

    source, weights = catalogue.bring(os.fspath(path), model, None)
    metadata = {"format": "rightfit 1", "model": model, "source": source}
    write_tensors(Path(output), weights, metadata)
    return source


def inspect(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What is in a model file of any kind, or a run folder, without building it: `rightfit.inspecting.inspect`.

    Raises ModelFileError for a file that is damaged, of no known kind, or refused for what it is.
    """
    from rightfit import inspecting

    return inspecting.inspect(path)


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


def _opened(run: str | os.PathLike[str] | Run, precision: str) -> Run:
    """A run that is open already keeps its precision."""
    return run if isinstance(run, Run) else load(run, precision)


def _on_record(run: str | os.PathLike[str] | Run) -> Run:
    """To read what is on record, for which no backend has to wake."""
    return run if isinstance(run, Run) else Run(run, backend=None)


def _signature() -> Signature:
    """What `help(rightfit.train)` shows: every setting with its default."""
    own = signature(train, eval_str=False).parameters
    keyword = Parameter.KEYWORD_ONLY
    fields = [
        Parameter(name, keyword, default=field.default, annotation=field.annotation)
        for name, field in TrainSettings.model_fields.items()
        if name != "data"
    ]
    return Signature([own["data"], own["config"], own["quiet"], *fields], return_annotation="Run")


train.__signature__ = _signature()  # type: ignore[attr-defined]  # typing knows it not, `help` reads it
