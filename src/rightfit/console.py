"""What a person sees while work goes on: plain lines and one moving bar, on stderr, copied to the run's log."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


class Bar:
    """A moving line: `update(done, note)` redraws it at most ten times a second; silent without a terminal."""

    def __init__(self, title: str, total: int, progress: Any = None) -> None:
        self.total = total
        self._progress = progress
        self._task = progress.add_task(title, total=total, note="") if progress else None
        self._shown = 0.0

    @property
    def visible(self) -> bool:
        return self._progress is not None

    def due(self) -> bool:
        """Is it time to compute a note? Notes may cost a wait for the device."""
        return self.visible and time.monotonic() - self._shown > 0.25

    def update(self, done: int, note: str | None = None) -> None:
        if self._progress is None or (done < self.total and time.monotonic() - self._shown < 0.1):
            return
        self._shown = time.monotonic()
        fields = {} if note is None else {"note": note}
        self._progress.update(self._task, completed=done, **fields)


class Lossy:
    """A stream for what may be lost: a full disk, or a terminal that is gone, ends no work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Console:
    """Says lines on stderr; with `quiet` only to the log, once there is one."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._log: Path | None = None
        self._said: list[str] = []

    def echo(self, line: str) -> None:
        """Say what is in the log already."""
        if not self.quiet:
            print(fitted(line, sys.stderr), file=Lossy(sys.stderr), flush=True)

    def say(self, line: str = "") -> None:
        self.echo(line)
        self._said.append(line)
        if self._log:
            self._flush()

    def log_to(self, path: Path) -> None:
        """From now on (and what was said before) lines also go to `path`."""
        self._log = path
        self._flush()

    def _flush(self) -> None:
        # Appended, not replaced: a log is read while it grows, and a cut last line misleads no one.
        if self._log and self._said:
            try:
                with self._log.open("a", encoding="utf-8") as file:
                    file.write("".join(f"{line}\n" for line in self._said))
            except OSError:  # a full disk ends no training; what is not in the log yet goes there later
                return
        self._said = []

    @contextmanager
    def bar(self, title: str, total: int) -> Iterator[Bar]:
        if self.quiet or not sys.stderr.isatty():
            yield Bar(title, total)
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as progress:
            yield Bar(title, total, progress)


def fitted(text: str, stream: TextIO) -> str:
    """`text` with lines broken between words for a `stream` that is a terminal; a file has them whole."""
    if not stream.isatty():
        return text
    try:
        width = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns
    except (ValueError, OSError):
        width = 80
    return "\n".join(_broken(line, width) if len(line) > width else line for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    begins = re.match(r" *(?:\S+  +)?", line)  # a margin, and perhaps a word in a column of its own
    assert begins
    margin = begins[0]
    if not margin.strip() or len(margin) > width // 3:
        margin = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(
        line, width, subsequent_indent=" " * len(margin), break_long_words=False, break_on_hyphens=False
    )


def counted(number: int, thing: str, things: str = "") -> str:
    """1, "image" -> "1 image"; 2 -> "2 images"; `things` where an s does not make it several."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def few(names: Sequence[str]) -> str:
    """The first five, where their number is said already."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def duration(seconds: float) -> str:
    """42s, 7m05s, 2h03m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s" if seconds >= 10 else f"{seconds:.1f}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
