"""Validation images as they were predicted in; those to look at, each as a picture for the page, out."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.console import Console
from rightfit.data.dataset import Dataset
from rightfit.errors import RightfitError
from rightfit.evaluation import label_errors
from rightfit.evaluation.answers import Answers
from rightfit.evaluation.explain import heat_maps, logits_for
from rightfit.evaluation.heat import overlay
from rightfit.evaluation.metrics import probabilities
from rightfit.reports.pictures import data_uri
from rightfit.reports.story import Picture, Suspects

MISTAKES = 12  # that are shown
SUSPECTED = 16
LONGEST = 160  # pixels of a picture's longer side


def mistakes(
    answers: Answers, dataset: Dataset, root: str, model: Callable[[], keras.Model], console: Console
) -> list[Picture]:
    """The images with the wrong answers that were surest, each once, with the heat map of that answer."""
    rows = dataset.table.rows("val")
    shares = probabilities(answers.logits, answers.label_mode)
    if answers.several:
        sure = np.where(answers.truth, 1 - shares, shares)
        wrong = answers.truth != (answers.raw > 0)
        sure = np.where(wrong, sure, -1)
        places = np.argsort(-sure.max(axis=1), kind="stable")[: min(MISTAKES, int(wrong.any(axis=1).sum()))]
        labels = sure[places].argmax(axis=1)
        names = [
            (("present", "absent") if answers.truth[i, k] else ("absent", "present")) + (answers.classes[k],)
            for i, k in zip(places, labels, strict=True)
        ]
        probability, shown = sure[places, labels], labels
        present = ~answers.truth[places, labels]  # what was said of the label, wrongly
    else:
        truth, said = answers.codes()
        sure = np.where(truth != said, shares[np.arange(len(said)), said], -1)
        places = np.argsort(-sure, kind="stable")[: min(MISTAKES, int((truth != said).sum()))]
        names = [(answers.classes[truth[i]], answers.classes[said[i]], "") for i in places]
        probability, shown, present = sure[places], said[places], np.ones(len(places), bool)
    if not len(places):
        return []
    images = dataset.images.gather(dataset.image_rows[rows[places]])
    heats = _heats(model, answers.label_mode, images, shown, present, console)
    files = _names(dataset, rows[places], root)
    return [
        Picture(name, data_uri(image, LONGEST), given, answer, float(p), label, heat)
        for name, image, (given, answer, label), p, heat in zip(
            files, images, names, probability, heats, strict=True
        )
    ]


def _heats(
    model: Callable[[], keras.Model],
    label_mode: str,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    present: NDArray[np.bool_],
    console: Console,
) -> list[str]:
    """Data URIs of Grad-CAM overlays: what speaks for the class of each image, or against it where it was said to
    be absent; "" where the net has no map to show."""
    outputs, signs = logits_for(classes, label_mode)
    try:
        signs = np.where(present, signs, -signs)
        maps = heat_maps(model(), images, outputs, signs=signs, batch_size=len(images))
    except RightfitError as error:
        console.say(f"no heat maps: {error}")
        return [""] * len(images)
    return [data_uri(overlay(image, heat), LONGEST) for image, heat in zip(images, maps, strict=True)]


def suspects(answers: Answers, dataset: Dataset, root: str) -> Suspects:
    """By confident learning on the answers to the validation images, whose labels the net did not see."""
    shares = probabilities(answers.logits, answers.label_mode)
    rows = dataset.table.rows("val")
    codes = dataset.table.codes()[rows]
    judged = label_errors.suspects(shares, codes, answers.label_mode, answers.classes, answers.groups)
    shown = judged.found[:SUSPECTED]
    positions = np.array([s.position for s in shown], np.int64)
    images = dataset.images.gather(dataset.image_rows[rows[positions]])
    names = _names(dataset, rows[positions], root)
    pictures = [
        Picture(name, data_uri(image, LONGEST), s.label, s.suggested, s.probability_suggested)
        for name, s, image in zip(names, shown, images, strict=True)
    ]
    return Suspects(pictures, len(judged.found), judged.images, judged.unknown)


def _names(dataset: Dataset, rows: NDArray[np.int64], root: str) -> list[str]:
    """Paths below `root`, else whole."""
    return [path.removeprefix(f"{root.rstrip('/')}/") for path in dataset.table.paths(rows)]
