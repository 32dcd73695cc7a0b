"""The process that looks into HDF5 files for this one: started when first needed, ended when it has been idle."""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds

START = 120.0  # seconds in which it must have imported h5py
IDLE = 10.0  # seconds after which it ends; starting it again takes a quarter of one
PATHS = "RIGHTFIT_HDF5_PATHS"  # read by the script, which Python's own variables do not reach
SCRIPT = Path(__file__).with_name("hdf5_survey.py")


class Surveyor:
    """Asks one question at a time; whatever happens to the process is a ModelFileError here."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.owner = 0
        self.lock = threading.Lock()
        self.idle: threading.Timer | None = None
        self.deaths = 0  # by a crash or at the end of its time

    def survey(self, source: Path | bytes, place: str, bounds: Bounds) -> dict[str, Any]:
        """{"groups": ..., "tensors": ...} as `hdf5_survey` found them, of a file or of its bytes."""
        data = source if isinstance(source, bytes) else b""
        request = {
            "path": None if isinstance(source, bytes) else str(source.absolute()),
            "bytes": len(data),
            "bounds": asdict(bounds),
        }
        with self.lock:
            answer, late = self._asked(json.dumps(request).encode() + b"\n", data, bounds.seconds)
        if not answer:
            reason = (
                f"takes more than {bounds.seconds:g} seconds to look through"
                if late
                else "damaged: libhdf5 crashed"
            )
            raise ModelFileError(f"{place}: {reason}; the file is not to be trusted")
        found: dict[str, Any] = json.loads(answer)
        if "error" in found:
            raise ModelFileError(f"{place}: {found['error']}; the file is damaged, or not to be trusted")
        return found

    def _asked(self, request: bytes, data: bytes, seconds: float) -> tuple[bytes, bool]:
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        with _watched(process, seconds) as late:
            try:
                process.stdin.write(request)
                process.stdin.write(data)
                process.stdin.flush()
                answer = process.stdout.readline()
            except OSError:
                answer = b""
            except BaseException:  # Ctrl-C: the answer to this must not be taken for that to the next
                self.close()
                raise
        if not answer.endswith(b"\n"):
            self.deaths += 1
            self.close()
            return b"", late.is_set()
        self.idle = threading.Timer(IDLE, self._close_idle, [process])
        self.idle.daemon = True
        self.idle.start()
        return answer, False

    def _running(self) -> subprocess.Popen[bytes]:
        if self.idle is not None:
            self.idle.cancel()
        if self.owner != os.getpid():  # a fork has its parent's pipes, and must not use them
            self.process, self.owner = None, os.getpid()
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={
                    **{name: value for name, value in os.environ.items() if not name.startswith("HDF5")},
                    PATHS: os.pathsep.join(_homes()),
                    "OPENBLAS_NUM_THREADS": "1",  # each thread reserves address space, of which it has 2 GB
                },
            )
            assert self.process.stdout is not None
            with _watched(self.process, START):
                ready = self.process.stdout.readline()
            if not ready:
                self.close()
                raise ModelFileError(
                    "HDF5 files cannot be looked into: the process that does it did not start"
                )
        return self.process

    def _close_idle(self, process: subprocess.Popen[bytes]) -> None:
        with self.lock:
            if process is self.process:
                self.close()

    def close(self) -> None:
        """End the process, if this one started it."""
        if self.process is None or self.owner != os.getpid():
            return
        process, self.process = self.process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not yet written to it is nobody's any more
                    pipe.close()
        process.wait()


@contextmanager
def _watched(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """The process is killed after so many seconds, and the event set."""
    late = threading.Event()

    def stop() -> None:
        late.set()
        process.kill()

    watch = threading.Timer(seconds, stop)
    watch.daemon = True
    watch.start()
    try:
        yield late
    finally:
        watch.cancel()


SURVEYOR = Surveyor()
atexit.register(SURVEYOR.close)


def _homes() -> list[str]:
    """The folders that h5py and NumPy are in, which an isolated Python looks into only where they are its own."""
    found = (importlib.util.find_spec(name) for name in ("h5py", "numpy"))
    return [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin]
