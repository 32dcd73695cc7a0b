"""A run folder: its names, and what is written into it as tables and records."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rightfit.errors import ModelFileError, RunError, UsageError, WriteError
from rightfit.files import SAFETENSORS, append_line, check_writable, write_text
from rightfit.formats.bounds import RECORDS
from rightfit.formats.text import json_file

RUNS = "runs"  # folder of those for which nobody asks for another


def new_folder(output: str | None, source: str) -> Path:
    """Make the run's folder: `output`, or <RUNS>/<source's name>-<n>. UsageError if it holds anything."""
    try:
        if output is None:
            return _numbered(Path(RUNS), "arrays" if source.startswith("<") else Path(source).stem or "run")
        check_free(output)
        folder = Path(output)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{error.filename or output}: cannot be made: {error.strerror}") from error
    return folder


def _numbered(parent: Path, stem: str) -> Path:
    """The first free number is taken by making the folder, so two runs started together get two."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / f"{stem}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("unreachable")


def check_free(output: str) -> None:
    """UsageError if the folder holds anything, RunError if it cannot be written: both before any work."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, where a folder is made; choose another --output")
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} exists and is not empty; choose another --output, or remove it")
    check_can_be_made(folder)


def check_can_be_made(folder: Path) -> None:
    """RunError where nothing can be written into the folder, or into what would hold it."""
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        check_writable(above / folder.name)
    except WriteError as error:
        assert isinstance(error.__cause__, OSError)
        raise RunError(f"{folder} cannot be written: {error.__cause__.strerror} in {above}") from error


def check_output(output: str | os.PathLike[str], ours: Callable[[str], bool] | None = None) -> None:
    """Before any work: UsageError where a file at `output` would replace one of a run's, or one whose first 1,000
    characters are not `ours` (None: any that holds something); WriteError where none can be written there."""
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the file to write in it")
    if path.is_file():
        if path.name in FILES and (path.parent / "architecture.json").exists():
            raise UsageError(f"{path} is a file of the run in {path.parent}; name another one")
        with path.open(encoding="utf-8", errors="replace") as file:
            begins = file.read(1000)
        if begins and (ours is None or not ours(begins)):
            known = "" if ours is None else ", and no earlier result of this"
            raise UsageError(f"{path} is there{known}; name another file, or remove it")
    check_writable(path)


def check_csv(output: str | os.PathLike[str], columns: Sequence[str]) -> None:
    """`check_output` of a CSV file whose first columns these are."""
    if Path(output).suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise UsageError(f"{output}: this writes CSV, which spreadsheets open; name it .csv")
    check_output(output, lambda text: text.replace('"', "").startswith(",".join(columns)))


def check_page(output: str | os.PathLike[str]) -> None:
    """`check_output` of a page; that of a run may be drawn anew."""
    path = Path(output)
    if path.name != "report.html" or path.is_dir():
        check_output(path, lambda text: text.lstrip().startswith("<!doctype html>") and "rightfit" in text)
    check_writable(path)


LOCK = ".lock"
FILES = (
    "config.yaml", "data.csv", "moved.json", "quarantine.csv", "audit.json", "architecture.yaml", "architecture.json",
    "weights.safetensors", "model.keras", "golden.npz", "history.csv", "decisions.jsonl", "metrics.json",
    "calibration.json", "validation.npz", "learning_curve.json", "report.html", "test-ledger.jsonl",
)  # fmt: skip


def remove_half_written(run: Path) -> None:
    """What a process that was killed left beside the files it was writing; the run must be locked."""
    for pattern in (*(f".{name}-*" for name in FILES), SAFETENSORS):
        for leftover in run.glob(pattern):
            leftover.unlink(missing_ok=True)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """One process at a time; the system gives the lock back when its process ends, however it ends.

    Raises UsageError that names the other process, RunError where nothing can be written.
    """
    from filelock import FileLock, Timeout

    path = run / LOCK
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        other = ""
        with suppress(OSError):
            other = path.read_text(encoding="utf-8").strip()
        raise UsageError(
            f"{run}: another process works on it ({other or 'unknown'}); wait for it or end it"
        ) from None
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        with suppress(OSError):  # on a full disk the lock holds without its name
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        lock.release()


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """CSV of dicts; the columns are the union of their keys in order of appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_quarantine(path: Path, quarantined: Iterable[tuple[str, str]]) -> None:
    rows = [{"path": p, "reason": r} for p, r in quarantined]
    if rows:
        write_table(path, rows)


def record(path: Path, **entry: Any) -> None:
    """Add one JSON line, stamped with the time (UTC)."""
    append_line(path, stamped(**entry))


def stamped(**entry: Any) -> str:
    """The entry as one JSON line, with the time (UTC)."""
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **entry}, ensure_ascii=False)


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json_file(path, RECORDS)
    except ModelFileError as error:
        raise RunError(f"{error}; the run is incomplete or damaged") from error
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error}); the run is incomplete or damaged") from error
