"""A run folder: its names, and what is written into it as tables and records."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rightfit.errors import RunError, UsageError
from rightfit.files import append_line, write_text


def new_folder(output: str | None, source: str) -> Path:
    """Make the run's folder: `output`, or runs/<source's name>-<n>. UsageError if it holds anything."""
    if output is None:
        stem = Path(source).resolve().stem or "run"
        numbers = (n for n in range(1, 1_000_000) if not Path("runs", f"{stem}-{n}").exists())
        output = str(Path("runs", f"{stem}-{next(numbers)}"))
    check_free(output)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder


def check_free(output: str) -> None:
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty; choose another --output, or remove it")


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
    stamped = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **entry}
    append_line(path, json.dumps(stamped, ensure_ascii=False))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read ({error}); the run is incomplete or damaged") from error
