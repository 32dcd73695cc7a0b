"""Files in, rows of a table of predictions out: the class of each image and its probabilities, batch by batch."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rightfit.console import Console

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.data.resize import ImageSpec
    from rightfit.evaluation.infer import Predicts


@dataclass(frozen=True, eq=False)
class Labelling:
    """How a run labels."""

    classes: tuple[str, ...]
    label_mode: str
    spec: ImageSpec
    temperature: float
    thresholds: NDArray[np.float64] | None  # of each class; None decides for the likeliest, or at 1/2

    @property
    def columns(self) -> list[str]:
        return ["path", "label", *(f"probability_{name}" for name in self.classes)]

    def rows(
        self,
        model: Predicts,
        files: Iterable[str],
        batch_size: int,
        unreadable: list[tuple[str, str]],
        console: Console,
    ) -> Iterator[list[list[Any]]]:
        """Of files that are listed, a list a batch; what cannot be read is said, and added to `unreadable`."""
        from rightfit.data.stream import readable, said_left_out
        from rightfit.evaluation.infer import logits_of
        from rightfit.evaluation.metrics import decide, finite, probabilities

        spec, done = self.spec, 0
        with console.bar("Predicting", 0) as bar:
            for batch in readable(
                files, spec.height, spec.width, spec.resize, batch_size, console, unreadable
            ):
                logits = finite(logits_of(model, batch.images, batch_size))
                shares = probabilities(logits, self.label_mode, self.temperature)
                labels = decide(shares, self.label_mode, self.classes, self.thresholds)
                yield [[p, c, *map(float, s)] for p, c, s in zip(batch.paths, labels, shares, strict=True)]
                done += len(batch.paths)
                bar.update(done)
        said_left_out(console, unreadable, done, "labelled")


def write(file: TextIO, columns: list[str], chunks: Iterable[list[list[Any]]]) -> int:
    """The table as CSV; the number of its rows."""
    writer = csv.writer(file, lineterminator="\n")
    chunks = iter(chunks)
    first = next(chunks, [])  # an error in it comes before the header
    writer.writerow(columns)
    count = 0
    for chunk in itertools.chain([first], chunks):
        writer.writerows(chunk)
        count += len(chunk)
    return count
