"""A run and images in; where the model looked out: a picture of each image beside its heat map, and a table of them."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.console import Console
from rightfit.errors import RunError, UsageError
from rightfit.run import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.evaluation.inner_map import InnerMap

TABLE = "explanations.csv"
SHORTEST = 224  # px a side that a picture is shown with at least
DOUBTFUL = 0.2  # agreement below which gradient and occlusion tell different stories
BATCH = 32


def explain(
    run: Run,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    method: str,
    of: str | None,
    layer: str | None,
    check: bool,
    console: Console,
) -> list[dict[str, Any]]:
    """Write a picture of each image that can be read and explanations.csv into `output`; returns the table's rows.

    `columns`: path; picture, its file in `output`; label, the likeliest class; its probability; explained, the
    class whose logit is; method; with `check` agreement, the rank correlation with occlusion. Images that
    cannot be read are named and left out; where none can, an earlier explanation stays. Raises UsageError for a
    method, class or layer that is not there, a path that does not exist, and an `output` that holds anything but
    explanations.
    """
    import numpy as np

    from rightfit.data.listing import decodable
    from rightfit.data.stream import readable, said_left_out
    from rightfit.evaluation.explain import METHODS
    from rightfit.evaluation.heat import agreement, normalised
    from rightfit.evaluation.infer import logits_of
    from rightfit.evaluation.inner_map import InnerMap
    from rightfit.evaluation.metrics import probabilities

    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}; there are {', '.join(METHODS)}")
    if method == "occlusion" and (check or layer):
        asked = "check" if check else "layer"
        raise UsageError(
            f"--{asked} is for methods that take a gradient; occlusion is what they are checked by"
        )
    explained = None if of is None else _class(of, run.classes)
    folder = Path(output)
    earlier = _own_files(folder)
    files = _files(paths, folder)
    pictures = dict(zip(files, picture_names(files), strict=True))
    inner = None if method == "occlusion" else InnerMap(run.model, layer)
    coming = [{"path": file, "picture": pictures[file]} for file in files if decodable(file)]

    batch_size = min(BATCH, len(files))
    height, width = run.image_size
    rows: list[dict[str, Any]] = []
    unreadable: list[tuple[str, str]] = []
    empty = 0
    with console.bar("Explaining", len(files)) as bar:
        for batch in readable(files, height, width, run.description.resize, batch_size, console, unreadable):
            logits = logits_of(run.model, batch.images, batch_size)
            shares = probabilities(logits, run.label_mode, run.calibration.temperature)
            likeliest = shares.argmax(axis=1)
            classes = likeliest if explained is None else np.full_like(likeliest, explained)
            heat = _heat(run, batch.images, classes, method, inner, batch_size)
            agreed: list[tuple[float, ...]] = [()] * len(heat)
            if check:
                covered = _heat(run, batch.images, classes, "occlusion", None, batch_size)
                agreed = [(float(value),) for value in agreement(heat, covered)]
            heat = normalised(heat)
            if not rows:  # run, method and images have worked
                _make_free(folder, earlier, coming)
            empty += int((heat.max(axis=(1, 2)) == 0).sum())
            for i, path in enumerate(batch.paths):
                _write_picture(folder / pictures[path], batch.images[i], heat[i])
                label, share = run.classes[likeliest[i]], float(shares[i, likeliest[i]])
                values = (path, pictures[path], label, share, run.classes[classes[i]], method)
                rows.append(dict(zip(columns(check), values + agreed[i], strict=True)))
            bar.update(len(rows) + len(unreadable))
    if rows:
        from rightfit.saving.folder import write_table

        write_table(folder / TABLE, rows)
    _say(rows, empty, inner, method, check, console)
    said_left_out(console, unreadable, len(rows), "explained")
    return rows


def columns(check: bool) -> tuple[str, ...]:
    """Of explanations.csv, in their order."""
    return (
        "path",
        "picture",
        "label",
        "probability",
        "explained",
        "method",
        *(("agreement",) if check else ()),
    )


def picture_names(files: Sequence[str]) -> list[str]:
    """A file name of its own for the picture of each path, by which it is recognised: `a.png`; `red-a.png` and
    `blue-a.png` where folders hold the same name, numbered where that is not enough. Names that differ in case
    or in how Unicode writes an accent count as the same, as file systems have them."""
    stems = [_stem(file) for file in files]
    counts = Counter(map(_key, stems))
    taken: set[str] = set()
    names = []
    for file, stem in zip(files, stems, strict=True):
        name = stem
        if counts[_key(stem)] > 1:
            parent = _cleaned(file.replace(os.sep, "/").rstrip("/").split("/")[-2:-1])
            name = f"{parent}-{stem}" if parent else stem
        number, free = 1, name
        while _key(free) in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(_key(free))
        names.append(f"{free}.png")
    return names


def _stem(file: str) -> str:
    last = file.replace(os.sep, "/").rstrip("/").split("/")[-1]
    return _cleaned([os.path.splitext(last)[0]]) or "image"


def _cleaned(parts: Sequence[str]) -> str:
    """Without what a file system may refuse, at most 90 bytes of UTF-8, so that two of them make a name."""
    text = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", "".join(parts)).lstrip(".")
    return text.encode("utf-8", "replace")[:90].decode("utf-8", "ignore").strip()


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _class(name: str, classes: tuple[str, ...]) -> int:
    if name not in classes:
        listed = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
        raise UsageError(f"the run has no class {name!r}; it has {listed}")
    return classes.index(name)


def _files(paths: Any, folder: Path) -> list[str]:
    """Every image file of `paths`, once; without what lies in `folder`, where pictures of them are."""
    from rightfit.data.remote import is_url
    from rightfit.data.stream import files_of

    own = os.path.join(os.path.realpath(folder), "")
    found = dict.fromkeys(files_of(paths))
    files = [f for f in found if is_url(f) or not os.path.realpath(f).startswith(own)]
    if not files:
        raise UsageError(f"no images but those in {folder} itself, which are explanations")
    return files


def _own_files(folder: Path) -> list[Path]:
    """What an earlier explanation left in `folder`, its table last; UsageError if it holds anything else."""
    from rightfit.saving.folder import check_free

    table = folder / TABLE
    if not table.is_file():
        check_free(str(folder))
        return []
    try:
        with table.open(newline="", encoding="utf-8") as file:
            own = {row["picture"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UsageError(
            f"{table} is no table of explanations ({error!r}); choose another --output"
        ) from error
    held = [path for path in folder.iterdir() if path.name != TABLE]
    others = sorted(path.name for path in held if path.name not in own or not path.is_file())
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise UsageError(
            f"{folder} holds {others[0]}{more}, which {TABLE} does not name; "
            "choose another --output, or remove it"
        )
    return [*held, table]


def _make_free(folder: Path, earlier: Sequence[Path], coming: Sequence[dict[str, str]]) -> None:
    """The table names what is there and what is to come before either changes, so that a kill leaves nothing that
    is not known as ours."""
    from rightfit.saving.folder import write_table

    there = [path for path in earlier if path.name != TABLE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_table(folder / TABLE, [*coming, *({"path": "", "picture": path.name} for path in there)])
        for path in there:
            path.unlink()
    except OSError as error:
        raise RunError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error


def _heat(
    run: Run,
    images: NDArray[np.uint8],
    classes: NDArray[np.int64],
    method: str,
    inner: InnerMap | None,
    batch_size: int,
) -> NDArray[np.float32]:
    """(B, H, W): a heat map 0..1, or the logit's drop by occlusion."""
    from rightfit.evaluation.explain import logits_for, occlusion_maps

    outputs, signs = logits_for(classes, run.label_mode)
    if inner is None:
        return occlusion_maps(run.model, images, outputs, signs, batch_size=BATCH)
    return inner.heat_maps(images, outputs, method, signs, batch_size)


def _write_picture(path: Path, image: NDArray[np.uint8], heat: NDArray[np.float32]) -> None:
    """The image beside its overlay, each pixel as several where there are few."""
    import cv2
    import numpy as np

    from rightfit.evaluation.heat import overlay
    from rightfit.files import write_with

    times = -(-SHORTEST // min(image.shape[:2]))
    image = np.kron(image, np.ones((times, times, 1), np.uint8))
    heat = cv2.resize(heat, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    gap = np.full((len(image), 4, 3), 255, np.uint8)
    pair = np.concatenate([image, gap, overlay(image, np.clip(heat, 0, 1))], axis=1)
    encoded = cv2.imencode(".png", pair[..., ::-1])[1].tobytes()
    write_with(path, lambda temporary: temporary.write_bytes(encoded))


def _say(
    rows: Sequence[dict[str, Any]],
    empty: int,
    inner: InnerMap | None,
    method: str,
    check: bool,
    console: Console,
) -> None:
    if rows and inner is not None:
        console.say(f"{method} of the {inner.size[0]}x{inner.size[1]} map of {inner.layer}")
    if check and rows:
        found = sorted(row["agreement"] for row in rows)
        median = found[len(found) // 2]
        doubt = "; so low, the maps are not to be believed" if median < DOUBTFUL else ""
        console.say(f"rank correlation with occlusion: median {median:.2f}, least {found[0]:.2f}{doubt}")
    if empty:
        console.say(
            f"{empty:,} of {len(rows):,} maps are empty: nothing that was seen there speaks for the class"
        )
