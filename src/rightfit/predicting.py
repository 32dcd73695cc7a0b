"""A run, images and the address of a Ray cluster in, a folder of Parquet files out: images labelled on many machines.

The images are cut into parts. Ray Data deals them to workers, each of which loads the run once and writes a part's file
itself; what comes back is that it is there. A part whose worker or node is lost is made again by another one, and a
command that is run again makes what is missing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rightfit import cluster, errors
from rightfit.console import Console
from rightfit.data.remote import is_url
from rightfit.data.stream import files_of, left_out
from rightfit.errors import DataError, RightfitError, UsageError
from rightfit.run import CALIBRATION, Run
from rightfit.saving import parts
from rightfit.saving.folder import locked
from rightfit.saving.parts import Made, Part

if TYPE_CHECKING:
    import pyarrow as pa

IMAGES_A_PART = 1024
CPUS_A_WORKER = 4  # where the smallest node has so many; each worker holds a model
TRIES = 5  # of a part whose worker or node is lost each time
DECIDES = ("architecture.json", "weights.safetensors", CALIBRATION)  # the files of a run that rows depend on
AGAIN = "what is done stays; the same command goes on"


class Order(NamedTuple):
    """What every worker is told."""

    run: Path
    output: Path
    home: str  # where relative paths of images start, "" where there are none
    precision: str
    backend: str
    operating_point: str | None
    batch_size: int
    tries: int


def predict(
    run: Run,
    backend: str,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    address: str,
    batch_size: int,
    operating_point: str | None,
    console: Console,
) -> int:
    """Label `paths` on the cluster at `address` into the folder `output`; the number of images labelled.

    `backend` is what the workers are to compute on; "auto" each chooses for its own machine.
    """
    folder = _folder(output)
    cluster.check_installed()
    cluster.refuse_client(address)
    run.labelling(operating_point, console)  # there is such a point
    named = [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    home = "" if all(is_url(path) or os.path.isabs(path) for path in named) else os.getcwd()
    listed = parts.cut(files_of(named), IMAGES_A_PART)
    asked = {
        "format": 1,
        "listing": parts.listing(listed, home),
        "run": _digest(run.path),
        "images_a_part": IMAGES_A_PART,
        "operating_point": operating_point,
        "precision": run.precision,
    }
    parts.claim(folder, asked, listed)
    order = Order(
        run.path.resolve(),
        folder.resolve(),
        home,
        run.precision,
        backend,
        operating_point,
        batch_size,
        TRIES,
    )
    with locked(folder):
        parts.claim(folder, asked, listed)  # once more: two commands may have begun at once
        there = {part.file: found for part in listed if (found := parts.made(folder, part))}
        if changed := [part for part in listed if part.file in there and _is_outdated(folder, part)]:
            of = "part holds" if len(changed) == 1 else "parts hold"
            console.say(f"{len(changed):,} {of} images that have changed since, to be made again")
            parts.begin(folder)  # first, as nothing is finished from here on
            for part in changed:
                del there[part.file]
                (folder / part.file).unlink()  # or a worker would take it for made
        missing = [part for part in listed if part.file not in there]
        if missing:
            parts.begin(folder)
            if there:
                console.say(f"{len(there):,} of {len(listed):,} parts are there already")
            with console.bar("Predicting", sum(part.images for part in listed)) as bar:
                done = sum(part.images for part in listed if part.file in there)
                for part, found in _made_on_ray(order, missing, address, console):
                    there[part.file] = found
                    done += part.images
                    bar.update(done)
        else:
            console.say(f"{folder} is finished: each of its {len(listed):,} parts is there")
        if lost := [part.file for part in listed if part.file not in there]:
            raise RightfitError(f"{folder}: {', '.join(lost[:3])} were not made; {AGAIN}")
        unreadable = [left for part in listed for left in there[part.file].unreadable]
        parts.finish(folder, unreadable)
    rows = sum(found.rows for found in there.values())
    if unreadable:
        console.say(left_out(len(unreadable), f"named in {folder / parts.UNREADABLE}", rows, "labelled"))
    return rows


def _folder(output: str | os.PathLike[str]) -> Path:
    if re.match(r"[a-z0-9]{2,}:/", os.fspath(output)):  # a Path of a URL has lost a slash
        raise UsageError(f"{output}: workers write to a folder that all of them reach, not to a URL")
    if Path(output).suffix != ".parquet":
        raise UsageError(f"{output}: with --ray a folder of Parquet files is written; name it .parquet")
    return Path(output)


def _is_outdated(folder: Path, part: Part) -> bool:
    """Whether a local image of the part was changed or replaced after its file was written; URLs are not asked."""
    written = (folder / part.file).stat().st_mtime_ns
    for path in part.paths:
        with suppress(OSError, ValueError):
            if not is_url(path) and os.stat(path).st_ctime_ns > written:
                return True
    return False


def _digest(run: Path) -> str:
    found = hashlib.sha256()
    for name in DECIDES:
        with suppress(FileNotFoundError), (run / name).open("rb") as file:
            found.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def _made_on_ray(
    order: Order, missing: Sequence[Part], address: str, console: Console
) -> Iterator[tuple[Part, Made]]:
    """Each part as its file is there. What a worker raises that is ours is raised here, and what Ray gives up on as
    RightfitError."""
    with cluster.connected(address, console), cluster.quiet_data():
        import ray
        from ray.exceptions import RayError, RayTaskError

        cluster.refuse_unshared(order.output)
        room = cluster.room(CPUS_A_WORKER)
        _say_room(room, len(missing), console)
        rows = ray.data.from_items(
            [{"file": part.file, "names": part.names} for part in missing], override_num_blocks=len(missing)
        ).map_batches(
            Worker,
            fn_constructor_args=(order,),
            batch_size=1,
            batch_format="pyarrow",
            # As many as there is room for, and more where the cluster grows.
            compute=ray.data.ActorPoolStrategy(
                min_size=min(room.workers, len(missing)), max_size=len(missing)
            ),
            num_cpus=room.cpus,
            num_gpus=room.gpus,
            runtime_env={"env_vars": cluster.environment(**cluster.threads(room.cpus))},
        )
        named = {part.file: part for part in missing}
        try:
            for row in rows.iter_rows():
                if row["error"]:
                    raise errors.from_text(row["error"])
                part = named[row["file"]]
                yield part, _seen(order.output, part, console)
        except RayTaskError:  # a fault of ours, with its traceback
            raise
        except RayError as error:
            raise RightfitError(f"Ray gave up: {cluster.reason_of(error)}; {AGAIN}") from error


def _say_room(room: cluster.Room, count: int, console: Console) -> None:
    workers = min(room.workers, count)
    each = f"{room.cpus} CPU{'s' if room.cpus != 1 else ''}" + (" and a GPU" if room.gpus else "")
    each += " each" if workers > 1 else ""
    console.say(
        f"{count:,} part{'s' if count > 1 else ''} of up to {IMAGES_A_PART:,} images, "
        f"{workers:,} worker{'s' if workers > 1 else ''} with {each}"
    )


def _seen(folder: Path, part: Part, console: Console) -> Made:
    found = parts.made(folder, part)
    if found is None:
        raise RightfitError(
            f"{folder / part.file}: a worker has written it, and it is not here; the folder has to be one that "
            "every node reaches by this path"
        )
    for path, reason in found.unreadable:
        console.say(f"left out: {path}: {reason}")
    return found


class Worker:
    """What labels parts on a node: the run loaded with the first, and a row back that says what went wrong."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._run: Run | None = None
        if order.home:
            with suppress(OSError):  # where it is not there, relative paths lead nowhere, which is said
                os.chdir(order.home)

    def __call__(self, batch: pa.Table) -> dict[str, list[str]]:
        part = Part(batch["file"][0].as_py(), batch["names"][0].as_py())
        error = ""
        try:
            self._make(part)
        except RightfitError as raised:
            import ray

            error = errors.as_text(raised, f"on {ray.util.get_node_ip_address()}: ")
        return {"file": [part.file], "error": [error]}

    def _make(self, part: Part) -> None:
        order, paths = self.order, part.paths
        if parts.made(order.output, part):  # and the node lost before that was known
            return
        if not any(is_url(path) or os.path.lexists(path) for path in paths):
            raise DataError(
                f"{paths[0]} is not there, nor any other image of its part; every node needs them"
            )
        if parts.begun(order.output, part) > order.tries:
            raise RightfitError(
                f"{part.file} was begun {order.tries} times, and each time its worker or node was lost; is memory too "
                f"short for --batch-size {order.batch_size}? {AGAIN}"
            )
        if self._run is None:
            self._run = Run(order.run, order.precision, backend=order.backend)
        run, unreadable = self._run, list[tuple[str, str]]()
        labelling = run.labelling(order.operating_point)
        batches = run.predictions(labelling, paths, order.batch_size, unreadable, Console(quiet=True))
        rows = [row for batch in batches for row in batch]
        parts.write(order.output, part, labelling.columns, rows, unreadable)
