"""Ctrl-C and SIGTERM while training: the first asks for an end at the next step, a second is not held back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rightfit.console import Console


class Interrupt:
    """Set by the first Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self.asked = False

    def check(self, done: int = 0) -> None:
        """Raise Stop if it was asked for; for work that may be broken off because it is done again."""
        if self.asked:
            raise Stop


class Stop(Exception):
    """Work was broken off because an end was asked for."""


@contextmanager
def interruptible(console: Console) -> Iterator[Interrupt]:
    """Only in the main thread; elsewhere signals are left alone."""
    interrupt = Interrupt()

    def ask(number: int, frame: Any) -> None:
        interrupt.asked = True
        for asked, handler in previous.items():
            signal.signal(asked, handler)
        with suppress(RuntimeError):  # the signal came while this very thread was printing
            console.say("stopping after this step and saving; once more ends at once")

    if threading.current_thread() is not threading.main_thread():
        yield interrupt
        return
    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
