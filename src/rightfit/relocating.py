"""Images that were moved, or a run that was taken to another machine: where the run finds them from then on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rightfit.console import counted, few
from rightfit.errors import DataError, UsageError
from rightfit.provenance import image_digests_of
from rightfit.records import SEARCHED, instead_of_a_run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE = 20  # images by which the folder is recognised, and as many that are read


def relocate(run: Path, data: str) -> int:
    """The run's images are in `data` by now, a folder or URL that holds them as the one before did (or the table in
    it), or one further up or down; returns their number.

    All are looked for by name, and some read, whether they are the run's; whatever opens them later compares them all.
    Recorded in moved.json, and data.csv stays as it is. DataError, and nothing is recorded, where an image is not
    there or another one. UsageError for data in memory, for no place or one that cannot be listed, and for a search
    that goes on. RunError for a damaged run.
    """
    from rightfit.data import listing, recorded, remote, sources, table
    from rightfit.saving import folder

    if not (run / "data.csv").exists():
        raise UsageError(f"{run} {instead_of_a_run(run)}")
    if (run / SEARCHED).parent.is_dir() and not (run / "architecture.json").exists():
        raise UsageError(f"{run} is a search that is not done: its images have to stay where they were")
    if not data.strip():
        raise UsageError("no folder is named; give the one that holds the run's images by now")
    now = table.normal(sources.root_of(data)).rstrip("/")
    if not remote.is_listable(now):
        raise UsageError(f"{now}: the web cannot be listed, so nobody knows whether all images are there")
    if not remote.is_url(now) and not Path(now or "/").is_dir():
        raise DataError(f"{now}: {'is no folder' if Path(now).exists() else 'no such folder'}")
    with folder.locked(run):
        paths = recorded.paths_of(run / "data.csv")
        if paths[0].startswith("array:"):
            raise UsageError(f"{run} was trained on data in memory, which are in no folder")
        before = _recognised(paths, now)
        found = recorded.moved(paths, before, now)
        if gone := listing.missing(found):
            advice = (
                f"give the folder that holds what {before or '/'} held"
                if len(gone) == len(paths)
                else f"bring them there, too; all that {before or '/'} held is looked for, below one folder"
            )
            which = f"{len(gone):,} of the run's {counted(len(paths), 'image')}"
            are = "is" if len(gone) == 1 else "are"
            raise DataError(f"{which} {are} not there: {few(sorted(gone))}; {advice}")
        if others := _others(found, image_digests_of(run)):
            raise DataError(
                f"other images by the same names than the run was trained with, {len(others)} of "
                f"{min(SAMPLE, len(paths))} that were read: {few(others)}"
            )
        folder.write_json(run / recorded.MOVED, {"from": before, "to": now})
    return len(paths)


def _others(paths: list[str], digests: NDArray[np.uint8] | None) -> list[str]:
    """Of some of the images, those that are not what `digests` (N, 16) say."""
    import numpy as np

    from rightfit.data.resize import ImageSpec
    from rightfit.data.uncached import Files

    if digests is None or len(digests) != len(paths):
        return []
    rows = np.linspace(0, len(paths) - 1, min(SAMPLE, len(paths))).astype(int)
    now = Files([paths[row] for row in rows], ImageSpec(1, 1)).contents
    return [paths[row] for row in rows[(now != digests[rows]).any(axis=1)]]


def _recognised(paths: list[str], now: str) -> str:
    """The folder, of those above all `paths`, that `now` is most like; the deepest of several."""
    from rightfit.data.listing import missing
    from rightfit.data.recorded import moved
    from rightfit.data.table import folder_of_all

    sample = paths[:: -(-len(paths) // SAMPLE)]
    above = _with_those_above(folder_of_all(paths))
    return min(above, key=lambda before: len(missing(moved(sample, before, now))))


def _with_those_above(folder: str) -> Iterator[str]:
    """As far as the root, which is "", or a URL's bucket."""
    start = folder.find("://") + len("://") if "://" in folder else 0
    yield folder
    while "/" in folder[start:]:
        folder = folder.rpartition("/")[0]
        yield folder
