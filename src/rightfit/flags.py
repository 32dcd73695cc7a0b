"""The flags that commands share; those of `train` are made from the settings' fields, so that they cannot drift."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from rightfit.config import TrainSettings
from rightfit.runtime import BACKENDS, ENGINES

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that training made")]
Precision = Annotated[
    str, typer.Option(help="float32 is the same on every backend; bfloat16 and auto are faster")
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="|".join(("auto", *BACKENDS, *ENGINES)),
        help="What computes; auto is KERAS_BACKEND, else the fastest known here. onnxruntime and openvino start sooner",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="auto|local|HOST:PORT",
        help="Ray cluster to work on: auto is the one that runs here, else local, one begun for this command",
        show_default=False,
    ),
]
Workers = Annotated[
    str | None,
    typer.Option(
        metavar="N|N:M",
        help="Train with so many workers of a Ray cluster, on JAX; N:M is as many as there are of N to M",
        show_default=False,
    ),
]
Paths = Annotated[list[str], typer.Argument(help="Image files, folders or URLs")]
CsvFile = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="CSV file to write [default: stdout]", show_default=False),
]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command(**values)` one flag for each field of TrainSettings; a flag not given is None."""
    own = inspect.signature(command, eval_str=True).parameters
    parameters = [p for p in own.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, field in TrainSettings.model_fields.items():
        if name in own:
            continue
        flag = f"--{name.replace('_', '-')}"
        kind = _flag_type(field.annotation)
        unset = field.default in (None, "auto") or "[default:" in (field.description or "")
        text = field.description if unset else f"{field.description} [default: {_shown(field.default)}]"
        choices = "|".join(get_args(field.annotation)) if get_origin(field.annotation) is Literal else None
        option = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=text,
            show_default=False,
            metavar=choices,
        )
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    return command


def _flag_type(annotation: Any) -> type:
    """int | None -> int; a Literal is text, and pydantic says what it may be."""
    kinds = (
        [a for a in get_args(annotation) if a is not type(None)] if get_origin(annotation) else [annotation]
    )
    kind = str if get_origin(annotation) is Literal else kinds[0]
    return kind if kind in (int, float, bool) else str


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
