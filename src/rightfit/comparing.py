"""Two runs and a split in; which is better on the images they share there, and whether noise could do that, out."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rightfit.console import Console, counted
from rightfit.errors import UsageError
from rightfit.evaluation.lines import points_of
from rightfit.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.evaluation.paired import Difference


def compare(a: Run, b: Run, split: str, console: Console) -> dict[str, Any]:
    """Accuracy and loss of B minus A on the same images, McNemar's test, and a sentence; plain numbers.

    B is called better, or worse, where the interval of the difference of accuracy excludes 0 and McNemar's
    exact test gives p < 0.05: the one knows groups, the other small counts. By fewer than FEWEST images, or groups,
    it is called neither. Raises UsageError when the runs answer different questions or share no image of the split.
    """
    import numpy as np

    from rightfit.evaluation.metrics import image_hits, image_losses
    from rightfit.evaluation.paired import FEWEST, difference, mcnemar

    if split not in ("val", "test"):
        raise UsageError(f"split {split!r} is neither val nor test")
    if a.path.resolve() == b.path.resolve():
        raise UsageError(f"{a.path} and {b.path} are one run; give two")
    if (a.classes, a.label_mode) != (b.classes, b.label_mode):
        raise UsageError(
            f"{a.path} and {b.path} do not answer the same question: {a.label_mode} of "
            f"{', '.join(a.classes[:5])} against {b.label_mode} of {', '.join(b.classes[:5])}"
        )
    of_a, of_b = _shared(a, b, split, console)
    dataset = a._data()
    rows = dataset.table.rows(split)[of_a]
    targets = dataset.targets(rows)
    if not np.array_equal(targets, b._data().targets(b._data().table.rows(split)[of_b])):
        raise UsageError(
            f"{a.path} and {b.path} have different labels for the same images; compare needs the same"
        )
    hits, losses = [], []
    with ExitStack() as held:
        if split == "test":
            for run, other in ((a, b), (b, a)):
                before = held.enter_context(run.opened_test(f"compare with {other.path}"))
                if before.openings:
                    console.say(f"{run.path}: {before}")
        for run, places in ((a, of_a), (b, of_b)):
            logits = run.logits(split, console)[places]
            hits.append(image_hits(logits, targets, run.label_mode))
            losses.append(image_losses(logits / run.calibration.temperature, targets, run.label_mode))
    groups = dataset.groups(rows)
    accuracy = difference(hits[0], hits[1], groups, shares=True)
    loss = difference(losses[0], losses[1], groups)
    test = mcnemar(hits[0] == 1, hits[1] == 1)
    units = len(rows) if groups is None else len(np.unique(groups))
    told_apart = accuracy.seen and test["p"] < 0.05 and units >= FEWEST
    return {
        "a": str(a.path),
        "b": str(b.path),
        "split": split,
        "label_mode": a.label_mode,
        "images": len(rows),
        "groups": units,
        "accuracy": {"a": float(hits[0].mean()), "b": float(hits[1].mean()), "difference": asdict(accuracy)},
        "loss": {"a": float(losses[0].mean()), "b": float(losses[1].mean()), "difference": asdict(loss)},
        "mcnemar": test,
        "told_apart": told_apart,
        "sentence": sentence(
            str(b.path), accuracy, test["p"], told_apart, len(rows), units, points_of(a.label_mode)
        ),
    }


def sentence(
    name: str,
    accuracy: Difference,
    p: float,
    told_apart: bool,
    images: int,
    groups: int | None = None,
    share: str = "accuracy",
) -> str:
    """B by its `name`, better or worse by how many points of a `share`, or what it would take to tell.

    `groups` is how many the images are of, by default as many."""
    from rightfit.evaluation.paired import FEWEST

    points = [100 * x for x in (accuracy.value, accuracy.low, accuracy.high)]
    if told_apart:
        size, low, high = points if accuracy.value > 0 else (-points[0], -points[2], -points[1])
        word = "better" if accuracy.value > 0 else "worse"
        return (
            f"{name} is {word} by {size:.1f} points of {share} ({low:.1f} to {high:.1f}; McNemar p = {p:.2g})"
        )
    value, low, high = points
    said = (
        f"cannot be told apart: {name} {value:+.1f} points of {share} "
        f"({low:+.1f} to {high:+.1f}; McNemar p = {p:.2g})"
    )
    if (groups := images if groups is None else groups) < FEWEST:
        few = counted(images, "shared image") + (f" of {counted(groups, 'group')}" if groups < images else "")
        return f"{said}; {few} can show no difference: {FEWEST} are the least that may"
    if accuracy.images is None or accuracy.images <= images:  # a few, all one way: McNemar wants more of them
        return said
    return f"{said}; about {accuracy.images:,} images would show a difference of this size"


def _shared(a: Run, b: Run, split: str, console: Console) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions within the split of A and of B of the images that both have there, in the order of A."""
    import numpy as np

    names = [run._data().table.paths(run._rows(split)) for run in (a, b)]
    place = {name: i for i, name in enumerate(names[1])}
    pairs = [(i, place[name]) for i, name in enumerate(names[0]) if name in place]
    if len(pairs) < 2:
        raise UsageError(
            f"{a.path} and {b.path} share {len(pairs)} {split} images; there is nothing to compare on"
        )
    if len(pairs) < max(map(len, names)):
        console.say(
            f"{len(pairs):,} {split} images are in both runs (of {len(names[0]):,} and {len(names[1]):,}); "
            "the comparison is on these"
        )
    of_a, of_b = np.array(pairs, np.int64).T
    return of_a, of_b
