"""Two runs and a split in; which is better on the images they share there, and whether noise could do that, out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rightfit.console import Console, counted
from rightfit.errors import UsageError
from rightfit.evaluation.lines import points_of
from rightfit.run import BATCH, Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.data.dataset import Dataset
    from rightfit.evaluation.paired import Difference

    Ints = NDArray[np.int64]

TESTS = {"mcnemar": "McNemar", "sign_test": "sign test"}  # as a sentence names them


def compare(a: Run, b: Run, split: str, console: Console) -> dict[str, Any]:
    """Accuracy and loss of B minus A on the same images, an exact test, and a sentence; plain numbers.

    The test is McNemar's; of several labels, of which an image can have some right, the sign test of the images on
    which either run has more right. B is called better, or worse, where the interval of the difference of accuracy
    excludes 0 and the test gives p < 0.05 for the same run: the one knows groups, of either run, the other small
    counts. By fewer than FEWEST images, or groups, it is called neither. No test image is opened for another split.
    Raises UsageError when the runs answer different questions or share no image of the split.
    """
    import numpy as np

    from rightfit.evaluation.metrics import image_hits, image_losses
    from rightfit.evaluation.paired import difference

    if split not in ("val", "test"):
        raise UsageError(f"split {split!r} is neither val nor test")
    if a.path.resolve() == b.path.resolve():
        raise UsageError(f"{a.path} and {b.path} are one run; give two")
    if (a.classes, a.label_mode) != (b.classes, b.label_mode):
        raise UsageError(
            f"{a.path} and {b.path} do not answer the same question: {a.label_mode} of "
            f"{', '.join(a.classes[:5])} against {b.label_mode} of {', '.join(b.classes[:5])}"
        )
    data_a, data_b = (run._data() if split == "test" else run.seen_images() for run in (a, b))
    of_a, of_b = _shared((a, data_a), (b, data_b), split, console)
    targets = data_a.targets(of_a)
    if not np.array_equal(targets, data_b.targets(of_b)):
        raise UsageError(
            f"{a.path} and {b.path} have different labels for the same images; compare needs the same"
        )
    hits, losses = [], []
    with ExitStack() as held:
        if split == "test":
            for run in (a, b):  # both, before a line of either is written
                held.enter_context(run.alone())
            for run, other in ((a, b), (b, a)):
                before = run.open_test(f"compare with {other.path}")
                if before.openings:
                    console.say(f"{run.path}: {before}")
        for run, dataset, rows in ((a, data_a, of_a), (b, data_b, of_b)):
            logits = _logits(run, dataset, rows, console)
            hits.append(image_hits(logits, targets, run.label_mode))
            losses.append(image_losses(logits / run.calibration.temperature, targets, run.label_mode))
    groups = joined(data_a.groups(of_a), data_b.groups(of_b))
    accuracy, name, test, told_apart = judged(hits[0], hits[1], groups, a.label_mode)
    loss = difference(losses[0], losses[1], groups)
    units = len(of_a) if groups is None else len(np.unique(groups))
    return {
        "a": str(a.path),
        "b": str(b.path),
        "split": split,
        "label_mode": a.label_mode,
        "images": len(of_a),
        "groups": units,
        "accuracy": {"a": float(hits[0].mean()), "b": float(hits[1].mean()), "difference": asdict(accuracy)},
        "loss": {"a": float(losses[0].mean()), "b": float(losses[1].mean()), "difference": asdict(loss)},
        name: test,
        "told_apart": told_apart,
        "sentence": sentence(
            str(b.path),
            accuracy,
            test["p"],
            told_apart,
            len(of_a),
            units,
            points_of(a.label_mode),
            TESTS[name],
        ),
    }


def judged(
    a: NDArray[np.float64], b: NDArray[np.float64], groups: Ints | None, label_mode: str
) -> tuple[Difference, str, dict[str, Any], bool]:
    """Hits (N,) of both in; their difference, the name of the test, what it gives, and whether they are told apart."""
    import numpy as np

    from rightfit.evaluation.paired import FEWEST, difference, mcnemar, sign_test

    accuracy = difference(a, b, groups, shares=True)
    several = label_mode == "multilabel"
    test = sign_test(a, b) if several else mcnemar(a == 1, b == 1)
    # With several labels B may be much better on few images and a little worse on many.
    more = np.sign(b - a).sum()
    alike = (more > 0) == (accuracy.value > 0)
    units = len(a) if groups is None else len(np.unique(groups))
    told_apart = accuracy.seen and test["p"] < 0.05 and alike and units >= FEWEST
    return accuracy, "sign_test" if several else "mcnemar", test, told_apart


def sentence(
    name: str,
    accuracy: Difference,
    p: float,
    told_apart: bool,
    images: int,
    groups: int | None = None,
    share: str = "accuracy",
    test: str = TESTS["mcnemar"],
) -> str:
    """B by its `name`, better or worse by how many points of a `share`, or what it would take to tell.

    `groups` is how many the images are of, by default as many."""
    from rightfit.evaluation.paired import FEWEST

    points = [100 * x for x in (accuracy.value, accuracy.low, accuracy.high)]
    if told_apart:
        size, low, high = points if accuracy.value > 0 else (-points[0], -points[2], -points[1])
        word = "better" if accuracy.value > 0 else "worse"
        return (
            f"{name} is {word} by {size:.1f} points of {share} ({low:.1f} to {high:.1f}; {test} p = {p:.2g})"
        )
    value, low, high = points
    said = (
        f"cannot be told apart: {name} {value:+.1f} points of {share} "
        f"({low:+.1f} to {high:+.1f}; {test} p = {p:.2g})"
    )
    if (groups := images if groups is None else groups) < FEWEST:
        few = counted(images, "shared image") + (f" of {counted(groups, 'group')}" if groups < images else "")
        return f"{said}; {few} can show no difference: {FEWEST} are the least that may"
    if accuracy.images is None or accuracy.images <= images:  # a few, all one way: McNemar wants more of them
        return said
    return f"{said}; about {accuracy.images:,} images would show a difference of this size"


def joined(one: Ints | None, other: Ints | None) -> Ints | None:
    """The groups (N,) of images that two tables group each in its own way: what either holds together stays so."""
    import numpy as np

    from rightfit.data.audit.duplicates import components

    if one is None or other is None:
        return other if one is None else one
    one, other = (np.unique(groups, return_inverse=True)[1] for groups in (one, other))
    count = len(one)
    return components(2 * count, np.column_stack([one, count + other]))[one]


def _logits(run: Run, dataset: Dataset, rows: Ints, console: Console) -> NDArray[np.float32]:
    from rightfit.evaluation.infer import all_logits
    from rightfit.evaluation.metrics import finite

    with console.bar("Evaluating", len(rows)) as bar:
        model = run.predictor(console)
        return finite(all_logits(model, dataset.images, dataset.image_rows[rows], BATCH, bar.update))


def _shared(
    of_a: tuple[Run, Dataset], of_b: tuple[Run, Dataset], split: str, console: Console
) -> tuple[Ints, Ints]:
    """Rows in the tables of A and of B of the split's images that both have there, in the order of A."""
    import numpy as np

    rows = [dataset.table.rows(split) for _, dataset in (of_a, of_b)]
    for (run, _), found in zip((of_a, of_b), rows, strict=True):
        if not len(found):
            raise UsageError(f"{run.path}: the data hold no {split} images; --split 6:1:2 makes some")
    names = [dataset.table.paths(r) for (_, dataset), r in zip((of_a, of_b), rows, strict=True)]
    place = {name: i for i, name in enumerate(names[1])}
    pairs = [(i, place[name]) for i, name in enumerate(names[0]) if name in place]
    if len(pairs) < 2:
        raise UsageError(
            f"{of_a[0].path} and {of_b[0].path} share {len(pairs)} {split} images; there is nothing to compare on"
        )
    if len(pairs) < max(map(len, names)):
        console.say(
            f"{len(pairs):,} {split} images are in both runs (of {len(names[0]):,} and {len(names[1]):,}); "
            "the comparison is on these"
        )
    first, second = np.array(pairs, np.int64).T
    return rows[0][first], rows[1][second]
