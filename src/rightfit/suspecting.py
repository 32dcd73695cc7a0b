"""A finished run in; training and validation images whose label is suspected, and those most like an image, out.

Both look at features: what the run's own net computes below its last layer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.console import Console
from rightfit.errors import DataError, UsageError
from rightfit.files import write_with
from rightfit.run import Run
from rightfit.runtime import cache_folder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from rightfit.data.dataset import Dataset
    from rightfit.training.head import Extractor

SUSPECTS = (
    "path", "split", "label", "suggested", "probability_label", "probability_suggested", "score",
)  # fmt: skip
NEIGHBOURS = ("path", "rank", "similarity", "neighbour", "label")
BATCH = 64


def suspects(run: Run, console: Console) -> pd.DataFrame:
    """Suspected label errors among training and validation images, the most suspicious first.

    Columns: path, split, label (as given), suggested, probability_label, probability_suggested, score
    (`rightfit.evaluation.label_errors`). `attrs` of the frame: `images`, whose labels were judged, and
    `unknown`, classes of too few images to judge. The probabilities of an image are those of a last layer
    that was fitted to the features of other folds of whole groups (`rightfit.training.crossfit`), at
    the temperature that suits all of them best. No test image is opened. Raises UsageError when the run was
    trained on arrays that are gone, DataError when its images are, or when they are too few.
    """
    import numpy as np
    import pandas as pd

    from rightfit.evaluation import label_errors
    from rightfit.evaluation.calibration import at_fitted_temperature
    from rightfit.training.crossfit import FOLDS, held_out_probabilities

    dataset = run.seen_images()
    by_split = [dataset.table.rows(split) for split in ("train", "val")]  # as `neighbours` keeps features
    rows = np.concatenate(by_split)
    classes, codes, groups = run.classes, dataset.table.codes()[rows], dataset.groups(rows)
    known = label_errors.known_classes(codes, len(classes), groups)
    fewest, needed = (1, "one label") if run.label_mode == "multilabel" else (2, "two classes")
    if known.sum() < fewest:
        raise DataError(
            f"{run.path}: too few of its {len(rows):,} images to judge a label by the others, which takes "
            f"{needed} of at least {label_errors.FEWEST} images or groups"
        )
    extractor = _extractor(run, dataset)
    features = np.concatenate([_features(extractor, dataset, part, console) for part in by_split])
    with console.bar("Judging labels", FOLDS) as bar:
        shares = held_out_probabilities(
            features, dataset.targets(rows), codes, run.label_mode, groups, bar.update
        )
    shares = at_fitted_temperature(shares, dataset.targets(rows), run.label_mode)
    judged = label_errors.suspects(shares, codes, run.label_mode, classes, groups)
    positions = [suspect.position for suspect in judged.found]
    paths = dataset.table.paths(rows[positions])
    splits = dataset.table.frame["split"].iloc[rows[positions]].astype(str)
    records = [
        (path, split, s.label, s.suggested, s.probability_label, s.probability_suggested, s.score)
        for path, split, s in zip(paths, splits, judged.found, strict=True)
    ]
    frame = pd.DataFrame(records, columns=list(SUSPECTS))
    frame.attrs.update(images=judged.images, unknown=judged.unknown)
    _warn_of_chance(run, dataset, console)
    if judged.unknown:
        console.say(f"not judged, for want of images: {', '.join(judged.unknown)}")
    return frame


def _warn_of_chance(run: Run, dataset: Dataset, console: Console) -> None:
    """A net that is not told from a guess has features that judge no label. Nor does it help that the last layer
    alone was fitted without an image, where all layers below it have learnt its label."""
    import numpy as np

    accuracy = run.metrics.get("validation", {}).get("accuracy", {}).get("low")
    if accuracy is None:
        console.say(
            "no validation images show that the run is better than always predicting the most frequent class, so "
            "its suspicions may say little; train with some (--split 6:1:2) to know"
        )
        return
    codes = dataset.table.codes()[dataset.table.rows("val")]
    if run.label_mode == "multilabel" or not len(codes):
        return
    most = float(np.bincount(codes).max() / len(codes))
    if accuracy <= most:
        console.say(
            f"the run is not told from always predicting the most frequent class ({most:.0%} of the validation "
            "images), so its suspicions say little; train a better one first"
        )


def neighbours(
    run: Run,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    k: int,
    console: Console,
) -> pd.DataFrame:
    """The k training images most like each of `paths`, by the cosine of their features.

    `paths` are files, folders (walked) or URLs. Columns: path, rank (1..k), similarity (-1..1), neighbour (the
    training image) and its label. Files that are no readable images are named on stderr and left out;
    `frame.attrs["unreadable"]` lists them. Raises UsageError for a path that does not exist, k below 1 or a
    run on arrays that are gone; DataError when its images are gone or none of the files can be read.
    """
    import numpy as np
    import pandas as pd

    from rightfit.evaluation.neighbours import nearest

    if k < 1:
        raise UsageError(f"--k {k} asks for no image; give 1 or more")
    dataset = run.seen_images()
    rows = dataset.table.rows("train")
    extractor = _extractor(run, dataset)
    names, queries, unreadable = _features_of_files(run, extractor, paths, console)
    if not names:
        raise DataError("no file could be read as an image, so nothing is compared")
    indices, similarities = nearest(queries, _features(extractor, dataset, rows, console), k)
    count = indices.shape[1]
    found = rows[indices.ravel()]
    frame = pd.DataFrame(
        {
            "path": np.repeat(np.array(names, object), count),
            "rank": np.tile(np.arange(1, count + 1), len(names)),
            "similarity": similarities.ravel().astype(np.float64).round(6),
            "neighbour": dataset.table.paths(found),
            "label": dataset.table.frame["label"].iloc[found].astype(str).to_numpy(),
        },
        columns=list(NEIGHBOURS),
    )
    frame.attrs["unreadable"] = unreadable
    return frame


def write_csv(frame: pd.DataFrame, output: str | os.PathLike[str]) -> None:
    """The frame as a whole file, or none: WriteError."""
    write_with(Path(output), lambda temporary: frame.to_csv(temporary, index=False, lineterminator="\n"))


def _extractor(run: Run, dataset: Dataset) -> Extractor:
    from rightfit.training.head import Extractor

    cache = cache_folder(run.settings.cache_folder)
    return Extractor(run.model, run._precision(), dataset.images, dataset.images.fingerprint, cache)


def _features(
    extractor: Extractor, dataset: Dataset, rows: NDArray[np.int64], console: Console
) -> NDArray[np.float32]:
    return extractor.features(dataset.image_rows[rows], None, 0, 0, console)


def _features_of_files(
    run: Run, extractor: Extractor, paths: Any, console: Console
) -> tuple[list[str], NDArray[np.float32], list[tuple[str, str]]]:
    """Names (M), features (M, D) of the files that can be read; those that cannot, with reasons."""
    import numpy as np

    from rightfit.data.stream import files_of, readable, said_left_out
    from rightfit.evaluation.infer import logits_of

    names: list[str] = []
    parts = [np.empty((0, extractor.width), np.float32)]
    unreadable: list[tuple[str, str]] = []
    height, width = run.image_size
    with console.bar("Features of images", 0) as bar:
        for batch in readable(
            files_of(paths), height, width, run.description.resize, BATCH, console, unreadable
        ):
            names += batch.paths
            parts.append(logits_of(extractor.model, batch.images, BATCH))
            bar.update(len(names))
    said_left_out(console, unreadable, len(names), "compared")
    return names, np.concatenate(parts), unreadable
