"""A table of many images as a folder of Parquet files, each of a part of them: what is there is whole, the rest is not.

part-00000.parquet ...   the rows of one part; its footer says which images they are of, and which could not be read
_parts.json              what was asked, written first
_unreadable.csv          path and reason of every file that could not be read, written at the end
_SUCCESS                 empty, the last of all, as Hadoop and Spark leave it

pandas, pyarrow and Spark read the folder as one table and pass over names that begin with "_" or "."; DuckDB reads its
*.parquet.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rightfit.data.stream import chunks
from rightfit.errors import RightfitError, UsageError, WriteError
from rightfit.files import write_text, write_with
from rightfit.saving.folder import write_json, write_quarantine

ASKED, UNREADABLE, DONE = "_parts.json", "_unreadable.csv", "_SUCCESS"
NOTE = b"rightfit"  # key of a part's footer
# What `_parts.json` holds, and what is wrong with a folder that holds something else.
HOLDS = {
    "format": "another format",
    "listing": "other images",
    "run": "another run",
    "images_a_part": "parts of another size",
    "operating_point": "another operating point",
    "precision": "another precision",
}


class Part(NamedTuple):
    file: str
    names: bytes  # of its images as the system has them, which may be no UTF-8, with a zero byte between

    @property
    def paths(self) -> list[str]:
        return [os.fsdecode(name) for name in self.names.split(b"\0")]

    @property
    def images(self) -> int:
        return self.names.count(b"\0") + 1

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.names).hexdigest()


class Made(NamedTuple):
    """What is in a part's file: rows, and the path and reason of each image that could not be read."""

    rows: int
    unreadable: list[tuple[str, str]]


def cut(paths: Iterable[str], images: int) -> list[Part]:
    """Parts of so many `images` in their order, whose files sort as they do."""
    found = [b"\0".join(map(os.fsencode, some)) for some in chunks(paths, images)]
    digits = max(5, len(str(len(found) - 1)))
    return [Part(f"part-{number:0{digits}}.parquet", names) for number, names in enumerate(found)]


def listing(parts: Iterable[Part], home: str) -> str:
    """The digest of all their images in order, and of where relative paths start."""
    found = hashlib.sha256(os.fsencode(home))
    for part in parts:
        found.update(b"\0" + part.names)
    return found.hexdigest()


def claim(folder: Path, asked: dict[str, Any], parts: Sequence[Part]) -> None:
    """Make the folder for what is `asked` (keys of HOLDS), or find it made for just that; UsageError otherwise."""
    visible = {name for name in _names(folder) if not name.startswith((".", "_"))}
    try:
        before = json.loads((folder / ASKED).read_text(encoding="utf-8"))
        other = [text for key, text in HOLDS.items() if before.get(key) != asked[key]]
    except FileNotFoundError:
        before, other = None, []
    except (OSError, ValueError, AttributeError):
        other = ["nothing that can be continued"]
    if other:
        raise UsageError(
            f"{folder} holds predictions of {', '.join(other)}; choose another --output, or remove it"
        )
    if visible if before is None else visible.difference(part.file for part in parts):
        raise UsageError(f"{folder} exists and holds other files; choose another --output, or remove it")
    if before is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{folder}: cannot be made: {error.strerror}") from error
        write_json(folder / ASKED, asked)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}; choose another --output") from None


def write(
    folder: Path,
    part: Part,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    unreadable: Sequence[tuple[str, str]],
) -> None:
    """The part's file. `columns` are path, label and numbers. RightfitError unless rows and `unreadable` are of each of
    its images once."""
    import pyarrow as pa
    from pyarrow import parquet

    if Counter(row[0] for row in rows) + Counter(path for path, _ in unreadable) != Counter(part.paths):
        raise RightfitError(f"{folder / part.file}: the rows are not those of its images, each once")
    kinds = [pa.string(), pa.string(), *[pa.float64()] * (len(columns) - 2)]
    note = json.dumps({"listing": part.digest, "unreadable": list(unreadable)})
    schema = pa.schema(list(zip(columns, kinds, strict=True)), metadata={NOTE: note})
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    table = pa.table([pa.array(v, kind) for v, kind in zip(values, kinds, strict=True)], schema=schema)
    write_with(folder / part.file, lambda temporary: parquet.write_table(table, temporary))


def made(folder: Path, part: Part) -> Made | None:
    """What the part's file holds; None where there is none, or it is not of these images."""
    from pyarrow import parquet

    try:
        footer = parquet.read_metadata(folder / part.file)
        note = json.loads(footer.metadata[NOTE])
        found = Made(footer.num_rows, [(path, reason) for path, reason in note["unreadable"]])
    except (OSError, ValueError, TypeError, KeyError):  # those of pyarrow are the first two
        return None
    whole = note["listing"] == part.digest and found.rows + len(found.unreadable) == part.images
    return found if whole else None


def begin(folder: Path) -> None:
    """It is not whole until `finish`; nobody has begun a part."""
    (folder / DONE).unlink(missing_ok=True)
    _tidy(folder)


def begun(folder: Path, part: Part) -> int:
    """How often the part has been begun, with this time. WriteError where the folder is not there to write in."""
    try:
        with (folder / f".{part.file}.begun").open("ab") as file:
            file.write(b".")
            return file.tell()
    except OSError as error:
        raise WriteError(
            f"{folder}: cannot be written: {error.strerror}; every node has to reach it"
        ) from error


def _tidy(folder: Path) -> None:
    """Away with what workers left half written, and with the count of their beginnings."""
    for leftover in folder.glob(".part-*"):
        leftover.unlink(missing_ok=True)


def finish(folder: Path, unreadable: Iterable[tuple[str, str]]) -> None:
    """All parts are there: name what could not be read."""
    _tidy(folder)
    (folder / UNREADABLE).unlink(missing_ok=True)
    write_quarantine(
        folder / UNREADABLE,
        [(path.encode(errors="backslashreplace").decode(), reason) for path, reason in unreadable],
    )
    write_text(folder / DONE, "")
