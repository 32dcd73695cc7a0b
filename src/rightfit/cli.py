"""The command line: parse, then one call of `rightfit.api`. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer

from rightfit.console import Lossy, fitted
from rightfit.errors import DataError, RightfitError, UsageError
from rightfit.flags import (
    AsJson,
    Backend,
    CsvFile,
    Paths,
    Precision,
    Quiet,
    Ray,
    RunFolder,
    Workers,
    with_settings,
)
from rightfit.reports import tables
from rightfit.run import BATCH, Run

app = typer.Typer(
    name="rightfit",
    help="A folder of labelled images in; a ResNet you can trust out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(metadata.version("rightfit"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script: run a command; typed errors become one message and their exit code. What cannot be said on
    stderr is lost, and changes neither work nor code; a result that stdout does not take is an error."""
    sys.stderr = cast(TextIO, Lossy(sys.stderr))
    try:
        app()
    except RightfitError as error:
        print(fitted(f"rightfit: {error}", sys.stderr), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # it names the file and says what the system said
        print(fitted(f"rightfit: {error}", sys.stderr), file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # which typer makes of Ctrl-C
            raise
        print("rightfit: interrupted", file=sys.stderr)
        sys.exit(130)


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="Folder of class folders, split folders, or a table")],
    label: Annotated[str | None, typer.Option(help="Label column of a table", show_default=False)] = None,
    label_mode: Annotated[str, typer.Option(help="auto, binary, categorical or multilabel")] = "auto",
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Column of a table, or regex whose first capture of the file name is the group",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Shares that training would make")] = "6:1:2",
    seed: Annotated[int, typer.Option(help="Decides that split")] = 0,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with thumbnails", show_default=False)
    ] = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What is wrong with the data, before an hour is spent on it; exit code 3 if training would be pointless."""
    from rightfit import api

    audit = api.check(
        data,
        label=label,
        label_mode=label_mode,
        group_by=group_by,
        split=split,
        seed=seed,
        html=html,
        quiet=quiet,
    )
    if json:
        _print_json(audit.to_dict())
    else:
        from rightfit.reports.audit_text import as_text

        print(fitted(as_text(audit), sys.stdout))
    if html and not quiet:
        print(f"→ {html}", file=sys.stderr)
    if audit.pointless:
        raise SystemExit(DataError.exit_code)


@app.command()
@with_settings
def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="Folder of class folders, split folders (train, val, test), or a table", show_default=False
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; flags win over it", show_default=False)
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    json: AsJson = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Check, split, train, validate and save."""
    from rightfit import api

    _print_run(api.train(data, config=config, workers=workers, ray=ray, quiet=quiet, **settings), json)


@app.command()
@with_settings
def tune(
    data: Annotated[
        str | None,
        typer.Argument(help="As of `rightfit train`, whose settings hold here too", show_default=False),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings; flags win over it", show_default=False)
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="End the search after so many trials", show_default=False)
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(help="YAML file of what to tune, and within which bounds", show_default=False),
    ] = None,
    ray: Ray = None,
    json: AsJson = False,
    quiet: Quiet = False,
    **settings: Any,
) -> None:
    """Search for the settings that suit the images, within --time-limit, and train with them."""
    from rightfit import api

    found = api.tune(data, config=config, space=space, trials=trials, ray=ray, quiet=quiet, **settings)
    _print_run(found, json)


@app.command()
def resume(
    run: RunFolder,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Take a finished run further, to this epoch", show_default=False),
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Sum gradients over parts of so many images, after a process that memory was too short for",
            show_default=False,
        ),
    ] = None,
    accept_data_changes: Annotated[
        bool, typer.Option("--accept-data-changes", help="Go on though images or labels have changed")
    ] = False,
    workers: Workers = None,
    ray: Ray = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Of a search: end it after so many", show_default=False)
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="Of a search: end it after so long in all, such as 4h; with --epochs, that of the epochs to come",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped or killed, as if it had not been."""
    from rightfit import api

    done = api.resume(
        run,
        epochs=epochs,
        micro_batch=micro_batch,
        accept_data_changes=accept_data_changes,
        workers=workers,
        ray=ray,
        trials=trials,
        time_limit=time_limit,
        quiet=quiet,
    )
    _print_run(done, json)


def _print_run(run: Run, json: bool) -> None:
    searching = not (run.path / "metrics.json").exists()
    if json:
        found = {"unfinished": "a search that was stopped"} if searching else run.metrics
        _print_json({"run": str(run.path), **found})
    else:
        print(run.path)
    if searching:  # as of Ctrl-C elsewhere: it has no model that a next command could use
        raise SystemExit(130)


@app.command()
def evaluate(
    run: RunFolder,
    backend: Backend = "auto",
    precision: Precision = "float32",
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Open the sealed test set; print every metric with its 95 % interval."""
    from rightfit import api
    from rightfit.evaluation.lines import lines_of

    opened = api.load(run, precision, backend)
    metrics = opened.evaluate(quiet=quiet)
    if json:
        _print_json(metrics)
        api.redraw(opened, quiet=quiet)
        return
    groups = "" if metrics["groups"] == metrics["images"] else f" of {metrics['groups']:,} groups"
    print(f"{metrics['images']:,} test images{groups}, each counted once; 95 % intervals by bootstrap")
    for line in lines_of(metrics):
        print(line)
    sys.stdout.flush()
    api.redraw(opened, quiet=quiet)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder that training made")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="The run to compare with it")],
    split: Annotated[
        str, typer.Option(help="val, or test: that opens the test set of both, on record")
    ] = "val",
    precision: Precision = "float32",
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Is RUN_B better than RUN_A on the same images, or can that not be told from noise?"""
    from rightfit import api

    found = api.compare(run_a, run_b, split=split, precision=precision, quiet=quiet)
    _print(found, tables.of_comparison, json)


@app.command()
def predict(
    run: RunFolder,
    paths: Paths,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="CSV file to write [default: stdout]; with --ray a folder, NAME.parquet",
            show_default=False,
        ),
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            help="Decide at youden, specificity-95 or sensitivity-95, as chosen on validation [default: the "
            "likeliest class]",
            show_default=False,
        ),
    ] = None,
    backend: Backend = "auto",
    precision: Precision = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step")] = BATCH,
    ray: Ray = None,
    quiet: Quiet = False,
) -> None:
    """Label images: path, label, and the probability of each class; with --ray on many machines, as Parquet."""
    from rightfit import api

    if ray is None:
        opened = api.load(run, precision, backend)
        count = opened.predict(paths, output or sys.stdout, batch_size, quiet, operating_point)
    elif output is None:
        raise UsageError("with --ray a folder of Parquet files is written; --output NAME.parquet says which")
    else:
        count = api.predict_many(
            run,
            paths,
            output,
            ray=ray,
            batch_size=batch_size,
            operating_point=operating_point,
            precision=precision,
            backend=backend,
            quiet=quiet,
        )
    if not count:
        raise DataError("no file could be read as an image, so nothing is labelled")
    if output and not quiet:
        print(f"{count:,} images → {output}", file=sys.stderr)


@app.command()
def report(
    run: RunFolder,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="HTML file to write [default: RUN/report.html]", show_default=False
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="en or zh [default: the run's]", show_default=False)
    ] = None,
    precision: Precision = "float32",
    quiet: Quiet = False,
) -> None:
    """One HTML file that opens offline and can be mailed: what was asked, what came of it, where it is wrong."""
    from rightfit import api

    print(api.report(run, output, language=language, precision=precision, quiet=quiet))


@app.command()
def diagnose(run: RunFolder, json: AsJson = False) -> None:
    """Over- or underfit? The word with its numbers, what the epochs showed, what was changed and what came of it."""
    from rightfit import api

    _print(api.diagnose(run).to_dict(), tables.of_fit, json)


@app.command()
def relocate(
    run: RunFolder,
    data: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="Folder or URL that holds the images as the one before did"),
    ],
) -> None:
    """Tell a run where its images are by now.

    After they were moved, or the run was taken to another machine: whatever looks at the run's own images finds them
    there from then on. All are looked for first, by name, and some are compared with what the run was trained on; where
    one is missing or another, nothing changes. FOLDER holds them in the same subfolders as before; of a table, it is
    the folder below which all its images lie. May be repeated."""
    from rightfit import api
    from rightfit.console import counted

    print(f"{counted(api.relocate(run, data), 'image')} of {run} found in {data}")


@app.command()
def learning_curve(run: RunFolder, json: AsJson = False, quiet: Quiet = False) -> None:
    """Would more images help? Trains on parts of them.

    Two halves and two quarters of the run's training images are trained on as the run was, in one and a half to three
    times its time; a line through the errors says what twice and four times as many images are expected to bring. The
    same command goes on after Ctrl-C or a kill. The result is remembered in the run and shown on its page. It takes
    validation images, 40 training images, and four of each class."""
    from rightfit import api

    _print(api.learning_curve(run, quiet=quiet).to_dict(), tables.of_learning_curve, json)


@app.command()
def suspects(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write all of them as CSV", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many are shown")] = 20,
    precision: Precision = "float32",
    json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Which training and validation images are probably labelled wrong? The most suspicious first."""
    from rightfit import api

    found = api.suspects(run, output, precision=precision, quiet=quiet)
    images, unknown = found.attrs["images"], list(found.attrs["unknown"])
    if json:
        _print_json({"images": images, "not_judged": unknown, "suspects": found.to_dict("records")})
        return
    print(f"{len(found):,} of {images:,} labels of training and validation images are suspected")
    if len(found):
        _print_lines(tables.of_suspects(found.head(limit).to_dict("records"), len(found)))
    if output and not quiet:
        print(f"{len(found):,} images → {output}", file=sys.stderr)


@app.command()
def neighbours(
    run: RunFolder,
    paths: Paths,
    k: Annotated[int, typer.Option("--k", min=1, help="Training images for each")] = 5,
    output: CsvFile = None,
    precision: Precision = "float32",
    quiet: Quiet = False,
) -> None:
    """The training images most like each image, with their labels: path, rank, similarity, neighbour, label."""
    from rightfit import api

    found = api.neighbours(run, paths, k, output, precision=precision, quiet=quiet)
    if output is None:
        found.to_csv(sys.stdout, index=False, lineterminator="\n")
    elif not quiet:
        print(f"{len(found):,} rows → {output}", file=sys.stderr)


@app.command()
def explain(
    run: RunFolder,
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of pictures to make")],
    method: Annotated[
        str, typer.Option(metavar="grad-cam|grad-cam++|occlusion", help="How the heat map is made")
    ] = "grad-cam",
    of: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="NAME",
            help="The class to explain [default: the likeliest of each image]",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The layer whose map is looked at [default: the last before the pooling]",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Add each map's rank correlation with occlusion (slow)")
    ] = False,
    precision: Precision = "float32",
    quiet: Quiet = False,
) -> None:
    """Where the model looked: each image beside its heat map, and explanations.csv."""
    from rightfit import api

    table = api.explain(
        run,
        paths,
        output=output,
        method=method,
        of=of,
        layer=layer,
        check=check,
        precision=precision,
        quiet=quiet,
    )
    if table.empty:
        raise DataError("no file could be read as an image, so nothing is explained")
    print(output)


@app.command("import-weights")
def import_weights(
    file: Annotated[Path, typer.Argument(help="Weights of another library's net")],
    model: Annotated[str, typer.Option(help="A name from `rightfit models`")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write")],
    quiet: Quiet = False,
) -> None:
    """Bring weights from PyTorch, Keras, TensorFlow: every tensor checked by name and shape."""
    from rightfit import api

    source = api.import_weights(file, model, output)
    if not quiet:
        print(f"{file}: {model} of {source}", file=sys.stderr)
    print(output)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Model file of any kind, or a run folder")],
    json: AsJson = False,
) -> None:
    """What is in a model file, and whether it would be loaded, without building or running any of it."""
    from rightfit import api

    _print(api.inspect(file), tables.of_model_file, json)


@app.command()
def convert(
    old: Annotated[Path, typer.Argument(help="Model file of Keras 1, 2 or tf.keras (.h5), or .keras")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".keras file to write")],
    architecture: Annotated[
        Path | None,
        typer.Option(help="JSON or YAML file, for an OLD of weights alone", show_default=False),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="theano|tensorflow",
            help="What trained OLD, where the file does not say (Keras 1 never did)",
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="Predict with tf-keras too, where that is installed"),
    ] = True,
    json: AsJson = False,
) -> None:
    """Write a model of another age as a Keras 3 file; what could not be carried is named."""
    from rightfit import exchange

    found = exchange.convert(old, output, architecture=architecture, backend=backend, compare=compare)
    _print(found.to_dict(), tables.of_conversion, json)


@app.command()
def models(
    json: AsJson = False,
    outputs: Annotated[int, typer.Option(min=1, help="Units of the last layer")] = 1000,
    image_size: Annotated[int, typer.Option(min=8, help="Pixels a side, for the multiply-adds")] = 224,
) -> None:
    """What can be built: trainable parameters, billions of multiply-adds an image, the paper, weights to start from."""
    from rightfit import api

    _print(api.models(outputs, image_size), lambda rows: tables.of_models(rows, outputs, image_size), json)


@app.command()
def machine(
    json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Only look, measure nothing")] = False,
) -> None:
    """What this machine has, and how fast each backend trains on it."""
    from rightfit import api

    _print(api.machine(measure=not quick), tables.of_machine, json)


def _print(found: Any, lines: Callable[[Any], list[str]], json: bool) -> None:
    if json:
        _print_json(found)
    else:
        _print_lines(lines(found))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(fitted(line, sys.stdout))


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False))
