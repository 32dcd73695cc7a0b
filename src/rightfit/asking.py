"""What a person asks of `train` in; settings that are whole and checked, before an image is decoded, out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rightfit.config import TrainSettings, train_settings
from rightfit.console import Console
from rightfit.errors import UsageError


def settled(data: Any, config: str | Path | None, settings: dict[str, Any]) -> tuple[TrainSettings, Any]:
    """The settings as asked, with paths in full, and the source: a path, or data in memory. Raises UsageError."""
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
        if data is None and _is_of_a_run(config):
            from rightfit.data.recorded import source_of

            asked = asked.model_copy(update={"data": source_of(Path(str(config)).parent, asked.data)})
    epochs, warmup = asked.epochs, asked.warmup_epochs
    if epochs is not None and warmup is not None and warmup >= epochs:
        if settings.get("warmup_epochs") is not None or not _is_of_a_run(config):
            raise UsageError(f"warmup_epochs {warmup:g} must be less than epochs ({epochs}); 0 is none")
        asked = asked.model_copy(update={"warmup_epochs": None})  # it was chosen for that run's epochs
    if asked.cache_folder:
        asked = asked.model_copy(update={"cache_folder": _absolute(asked.cache_folder)})
    if asked.weights not in ("auto", "imagenet", "none"):
        asked = asked.model_copy(update={"weights": _absolute(asked.weights)})
    from rightfit.saving.folder import RUNS, check_can_be_made, check_free

    if asked.output:
        check_free(asked.output)
    else:
        check_can_be_made(Path(RUNS))
    _check_early(asked)
    return asked, asked.data if named else data


def check(asked: TrainSettings) -> None:
    """UsageError for a model or weights that there are not, where it takes Keras to know."""
    if asked.model != "auto":
        from rightfit.nets import catalogue, pretrained

        catalogue.check(asked.model)
        pretrained.check(asked.weights, asked.model)


def _check_early(asked: TrainSettings) -> None:
    """UsageError for a ResNet, weights to start from or a package that there is not."""
    if asked.model != "auto" and ":" not in asked.model:
        from rightfit.nets.variants import variant_named

        variant_named(asked.model)
    if asked.tensorboard:
        _require("tensorboard")
    if asked.weights == "none" and asked.finetune != "auto":
        raise UsageError(f"--finetune {asked.finetune} needs weights to start from; give --weights")
    if asked.weights not in ("auto", "imagenet", "none"):
        from rightfit.nets.importers.files import check_there

        check_there(Path(asked.weights))


def split_beside(config: str | Path | None, asked: TrainSettings) -> dict[str, str] | None:
    """The split of the run that `config` belongs to, when it is a run's config.yaml and what decides
    a split is still as it was there."""
    if config is None or not _is_of_a_run(config):
        return None
    then = train_settings({}, config)
    if then.data.startswith("<"):  # its rows have no names to find them by
        return None
    from rightfit.data import recorded

    place = Path(config).parent
    deciding = ("split", "seed", "group_by", "group_near_duplicates")
    if any(getattr(then, name) != getattr(asked, name) for name in deciding):
        return None
    if _same_place(asked.data, then.data):  # also of a relocated run whose first folder is still there
        return recorded.splits_of(place / "data.csv", as_recorded=True)
    source = recorded.source_of(place, then.data)
    return recorded.splits_of(place / "data.csv") if source and _same_place(asked.data, source) else None


def _same_place(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")


def _is_of_a_run(config: str | Path | None) -> bool:
    return config is not None and all(
        (Path(config).parent / name).exists() for name in ("data.csv", "decisions.jsonl")
    )


def check_weights(class_weights: str, label_mode: str) -> None:
    """UsageError where classes are to count alike that an image may have several of."""
    if class_weights == "balanced" and label_mode == "multilabel":
        raise UsageError(
            "--class-weights balanced is for images of one class each; these have several labels"
        )


def say_grades(classes: tuple[str, ...], label_mode: str, console: Console) -> None:
    """UsageError where classes have no order; their order is that of their names, which may not be meant."""
    if label_mode == "multilabel":
        raise UsageError("--ordinal is for classes that exclude each other; these images have several labels")
    console.say(
        f"grades, in the order of their names: {' < '.join(classes)}; "
        "for another, name the folders or labels so that they sort in it, such as 0_none, 1_mild"
    )


def _absolute(source: str) -> str:
    return source if "://" in source else os.path.abspath(os.path.expanduser(source))


def _require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise UsageError(f"{package} is not installed; `pip install {package}` brings it")
