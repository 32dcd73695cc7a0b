"""From borrowed weights to a model of one's own: the head first, then, where it pays, the layers below.

A head fitted on frozen features comes first in every way, as fine-tuning from a random head distorts
the features it starts from (Kumar et al. 2022). `gradual` then unfreezes from
the top (Howard and Ruder 2018), each part of the net at a lower rate than the one above it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np

from rightfit.config import TrainSettings
from rightfit.console import Console, duration
from rightfit.data.loader import TrainLoader
from rightfit.evaluation.infer import all_logits, plain_graph
from rightfit.evaluation.intervals import half_width
from rightfit.evaluation.metrics import image_losses, quick
from rightfit.nets.layers import fused
from rightfit.training import loop
from rightfit.training.head import Extractor, Head, Samples, fit
from rightfit.training.judging import Validation
from rightfit.training.phases import Phase
from rightfit.training.recipe import SMALL, Decision
from rightfit.training.safety import Safety
from rightfit.training.state import Progress, Saved
from rightfit.training.workers import ALONE, Workers

HEAD = "logits"
PARTS = 5  # of a net without stages
SLOWER = 0.4  # of the learning rate, with each part further from the head
ENOUGH = 100  # training images below which layers under the head are left alone


def train(
    model: keras.Model,
    extractor: Extractor | None,
    loader: TrainLoader,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
    console: Console,
    after_epoch: Callable[[Progress], None],
    precision: str,
    settings_for: Callable[[int], TrainSettings],
    safety: Safety | None = None,
    saved: Saved | None = None,
    until: int | None = None,
    workers: Workers = ALONE,
) -> tuple[Progress, list[Decision]]:
    """Fit the head of `model`, which holds borrowed weights, then train below it as `settings.finetune` says.

    `auto` keeps what training below the head gave only if validation loss fell beyond its interval.
    The head's fit is epoch 0 of the history. Going on from `saved` it is not repeated, and `extractor` not used.
    """
    how, images = settings.finetune, len(loader.rows)
    fitted = saved.progress if saved else None
    if fitted is None:
        assert extractor is not None
        fitted = _fit_head(model, extractor, loader, validation, settings, label_mode, console, precision)
        after_epoch(fitted)
        decisions = [Decision(*decided) for decided in fitted.decided]
        if how == "head":
            return fitted, decisions
        if how == "auto" and images < ENOUGH:
            because = f"{images:,} training images are too few to change more than the head"
            return fitted, [*decisions, Decision("finetune", "head", because)]
    reached = loop.train(
        model,
        loader,
        validation,
        settings,
        label_mode,
        console,
        after_epoch,
        precision,
        settings_for,
        phases=phases(model, way(model, how)),
        before=replace(fitted, history=list(fitted.history), ended="", logits=None),
        safety=safety,
        saved=saved,
        until=until,
        workers=workers,
    )
    decisions = [Decision(*decided) for decided in reached.decided]
    if how == "auto" and reached.ended and not reached.stopped and workers.alone:
        decisions.append(_judge(model, reached, validation, settings, label_mode))
        if decisions[-1].value == "head" and reached.best_epoch:
            console.say(f"kept the head's fit: {decisions[-1].because}")
            reached.best_loss, reached.best_epoch, reached.weights = reached.fitted_loss, 0, reached.fitted
            reached.kept = {}  # that was of the weights which are not
    return reached, decisions


def _fit_head(
    model: keras.Model,
    extractor: Extractor,
    loader: TrainLoader,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
    console: Console,
    precision: str,
) -> Progress:
    started = time.monotonic()
    views = settings.views if settings.augment != "none" else 0
    blocks = [extractor.features(loader.rows, None, 0, 0, console)]
    for view in range(1, views + 1):
        blocks.append(extractor.features(loader.rows, loader.policy, settings.seed, view, console))
    train = Samples(blocks, loader.targets[:], loader.weights)
    held = None
    if len(validation.rows):
        features = extractor.features(validation.rows, None, 0, 0, console)
        held = Samples([features], validation.targets, np.ones(len(features), np.float32))
    computed = time.monotonic()
    head, tried = fit(train, held, label_mode, loader.groups)
    _use(head, model)
    seen = quick(head.logits(blocks[0]), train.targets, label_mode)
    row: dict[str, Any] = {"epoch": 0, "steps": 0, "loss": seen.loss, "accuracy": seen.accuracy}
    row |= {"learning_rate": 0.0, "train_seconds": round(time.monotonic() - started, 3)}
    row |= {"input_seconds": round(computed - started, 3), "trainable": "head"}
    line = f"head fitted to {len(loader.rows):,} images"
    if views:
        line += f" and {views} changed view{'s' if views > 1 else ''} of each"
    line += f" in {duration(time.monotonic() - started)} · loss {seen.loss:.4f} acc {seen.accuracy:.3f}"
    fit_weights = model.get_weights()
    progress = Progress([row], weights=fit_weights, ended="the head is fitted", fitted=fit_weights)
    if held is not None:
        logits = head.logits(held.features[0])
        result = quick(logits, held.targets, label_mode, validation.groups)
        row |= {"val_loss": result.loss, "val_accuracy": result.accuracy}
        row["val_accuracy_half_width"] = result.accuracy_half_width
        progress.best_loss = progress.fitted_loss = result.loss
        progress.arrays["lowest"] = image_losses(logits, held.targets, label_mode)
        progress.logits = logits if precision == "float32" else None  # else not quite the saved model's
        line += (
            f" · val_loss {result.loss:.4f} val_acc {result.accuracy:.3f} ±{result.accuracy_half_width:.3f}"
        )
    console.say(line)
    losses = ", ".join(f"{penalty:g}: {loss:.4f}" for penalty, loss in tried.items())
    because = f"held-out loss by penalty {losses}" if losses else "too few images to choose by"
    progress.decided = [["head penalty", head.penalty, because]]
    return progress


def _use(head: Head, model: keras.Model) -> None:
    layer = model.get_layer(HEAD)
    layer.kernel.assign(head.kernel)
    layer.bias.assign(head.bias)


def _judge(
    model: keras.Model,
    reached: Progress,
    validation: Validation,
    settings: TrainSettings,
    label_mode: str,
) -> Decision:
    """Which is kept: what training below the head reached, or the head alone."""
    if not len(validation.rows):
        return Decision("finetune", way(model, "auto"), "no validation images to compare with the head's fit")
    if not reached.best_epoch:
        return Decision("finetune", "head", "no epoch below the head had a lower validation loss")
    judge = plain_graph(fused(model))
    losses = []
    for weights in (reached.fitted, reached.weights):
        judge.set_weights(weights)
        logits = all_logits(judge, validation.images, validation.rows, max(settings.batch_size or 0, 32))
        losses.append(image_losses(logits, validation.targets, label_mode))
    fallen = losses[0] - losses[1]
    mean, half = float(fallen.mean()), half_width(fallen, validation.groups)
    kept = way(model, "auto") if mean > half else "head"
    return Decision("finetune", kept, f"below the head validation loss fell by {mean:.4f} ±{half:.4f}")


def parts(model: keras.Model) -> list[list[str]]:
    """Names of the layers that have weights, from the input to the head: a stage of a ResNet each,
    else five parts of equally many layers; the head alone is the last."""
    names = [layer.name for layer in model.layers if layer.weights and layer.name != HEAD]
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(name.partition("_")[0], []).append(name)
    if {"stem", "stage1"} <= set(stages):
        *below, last = (key for key in stages if key != "final")
        groups = [stages[key] for key in below] + [stages[last] + stages.get("final", [])]
    else:
        groups = [list(group) for group in np.array_split(np.array(names, dtype=object), PARTS) if len(group)]
    return [*groups, [HEAD]]


def way(model: keras.Model, how: str) -> str:
    """How to train below the head: `auto` is full for small images, whose weights are a start rather than
    features to keep, and gradual for larger ones."""
    if how != "auto":
        return how
    return "full" if max(model.input_shape[1:3]) <= SMALL else "gradual"


def phases(model: keras.Model, how: str) -> tuple[Phase, ...]:
    """What learns when: `full` trains everything at one rate; `gradual` the top part for a fifth of
    the epochs, the upper half for a fifth, then everything, lower parts more slowly."""
    if how == "full":
        return (Phase("all"),)
    groups = parts(model)
    rates = {
        name: SLOWER ** max(0, len(groups) - 2 - depth)
        for depth, group in enumerate(groups)
        for name in group
    }

    def above(depth: int) -> dict[str, float]:
        return {name: rates[name] for group in groups[depth:] for name in group}

    top, half = len(groups) - 2, max(0, (len(groups) - 1) // 2)
    named = {depth: f"{_title(groups[depth])} and above" for depth in (top, half)}
    return (
        Phase(named[top], 0.2, above(top)),
        Phase(named[half], 0.2, above(half)),
        Phase("all, lower parts slower", 0.6, rates),
    )


def _title(group: list[str]) -> str:
    stage = group[0].partition("_")[0]
    return stage if stage.startswith(("stage", "stem")) else group[0]
