"""Checkpoints of a run: whole files, written in the background, every byte checked when they are read.

    <run>/checkpoints/step-00001234.safetensors   the state of training after so many steps
                      best-00005.safetensors      the weights kept of that epoch, named by the states

Each file carries a digest of its tensors and of its JSON, so a damaged one is known as such and the
one before it serves.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.console import Console
from rightfit.errors import RightfitError, RunError
from rightfit.files import SAFETENSORS, write_tensors
from rightfit.training.state import Progress, Saved, Tensors
from rightfit.training.workers import ALONE, Workers

DIFFER = "workers see different checkpoints; is the folder on a disk that all nodes share?"
FORMAT = "rightfit checkpoint 2"
FOLDER = "checkpoints"
ARRAYS = "arrays/"  # tensors of `Progress.arrays`
LOOKS, WAIT = (
    20,
    3.0,
)  # of several workers at what there is, so many seconds apart: a shared disk may show a file late
KEPT = 2  # the newest; and the newest from the end of an epoch, to which a diverged run returns

Weights = list[NDArray[Any]]


@dataclass(frozen=True)
class _Entry:
    """A checkpoint of this folder that is known to be good."""

    name: str
    whole_epochs: bool
    best: frozenset[str]  # the files of kept weights that it names


class Checkpoints:
    """The checkpoints of one run; only one process may use a run's at a time, but for `workers` of one training, of
    which one writes."""

    def __init__(self, run: Path, console: Console, workers: Workers = ALONE) -> None:
        """`every` is in seconds; `describe` says in JSON's kinds what run this is, at each save."""
        self.folder, self.console, self.workers = run / FOLDER, console, workers
        self.every = 300.0
        self.describe: Callable[[], dict[str, Any]] = dict
        self.saved_at: tuple[int, int] | None = None  # epoch and step of the last that was begun
        self._last = time.monotonic()
        self._entries: list[_Entry] = []  # oldest first
        self._best: dict[str, tuple[Weights, str]] = {}  # file name -> its weights and digest
        self._writer: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._cleared = False  # of what killed processes left
        self.folder.mkdir(exist_ok=True)

    def due(self) -> bool:
        """Has enough time passed since the last, and is that one written?"""
        busy = self._writer is not None and self._writer.is_alive()
        return not busy and time.monotonic() - self._last >= self.every

    def save(self, progress: Progress, tensors: Tensors, steps: int) -> None:
        """Write the state after `steps` steps of the run: the arrays, which nobody may change any more,
        in the background; a save that is still under way is waited for."""
        self.wait()
        self._remove_half_written()
        self._last = time.monotonic()
        self.saved_at = (progress.epoch, progress.step)
        best: dict[str, Weights] = {}
        if progress.weights:
            best[_best_name(progress.best_epoch)] = progress.weights
        if progress.fitted:
            best[_best_name(0)] = progress.fitted
        content = {"progress": progress.to_json(), "fitted": bool(progress.fitted), **self.describe()}
        tensors = {**tensors, **{f"{ARRAYS}{name}": array for name, array in progress.arrays.items()}}
        entry = _Entry(f"step-{steps:08d}.safetensors", progress.step == 0, frozenset(best))

        def work() -> None:
            try:
                self._write(entry, tensors, content, best)
            except BaseException as error:  # an error of our own is raised where somebody sees it
                self._failure = error

        self._writer = threading.Thread(target=work, name="rightfit-checkpoint", daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Until the save that is under way is on disk, or has failed and said so."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write(
        self, entry: _Entry, tensors: Tensors, content: dict[str, Any], best: dict[str, Weights]
    ) -> None:
        for value in tensors.values():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                return self.not_saved("a number in the weights or the optimizer is no longer finite")
        try:
            for name, weights in best.items():
                if name not in self._best or self._best[name][0] is not weights:
                    self._best.pop(name, None)
                    named = {f"{index:04d}": weight for index, weight in enumerate(weights)}
                    self._best[name] = weights, write(self.folder / name, named, {})
            content["best"] = {name: self._best[name][1] for name in best}
            write(self.folder / entry.name, tensors, content)
        except (RightfitError, MemoryError) as error:
            return self.not_saved(str(error) or "memory is short")
        self._entries = [*(e for e in self._entries if e.name != entry.name), entry]
        self._tidy()

    def _remove_half_written(self) -> None:
        """What a process that was killed left of files that it was writing; not before this one writes, as only then no
        other one does."""
        if not self._cleared and self.workers.writes:
            self._cleared = True
            for pattern in (".*-*", SAFETENSORS):
                for leftover in self.folder.glob(pattern):
                    with suppress(OSError):
                        leftover.unlink()

    def not_saved(self, why: str) -> None:
        """Say so; training goes on."""
        self.saved_at = None
        last = f"; {self._entries[-1].name} stays" if self._entries else ""
        self.console.say(f"checkpoint not saved: {why}{last}, and training goes on")

    def _tidy(self) -> None:
        """Remove all but the newest, the newest of whole epochs, and what they name."""
        whole = [entry for entry in self._entries if entry.whole_epochs]
        kept = [e for e in self._entries if e in self._entries[-KEPT:] or e in whole[-1:]]
        names = {entry.name for entry in kept}.union(*(entry.best for entry in kept))
        self._entries = kept
        self._best = {name: best for name, best in self._best.items() if name in names}
        for pattern in ("step-*.safetensors", "best-*.safetensors"):
            for path in self.folder.glob(pattern):
                if path.name not in names:
                    with suppress(OSError):
                        path.unlink()

    def keep_the_last_only(self) -> None:
        """Of a finished run, for which it is enough."""
        self.wait()
        self._remove_half_written()
        if self._entries:
            self._entries = self._entries[-1:]
            self._tidy()

    def identity(self) -> list[str] | None:
        """Name and digest of the newest file, good or not; None where there is none."""
        self.wait()
        paths = sorted(self.folder.glob("step-*.safetensors"))
        try:
            return [paths[-1].name, _opened(paths[-1], with_tensors=False)[0]["digest"]] if paths else None
        except RunError:
            return [paths[-1].name, "damaged"]

    def newest(self) -> Saved | None:
        """The newest checkpoint that is whole, saying which newer ones are not; None where there is none.

        From now on it is the last: what is newer is removed with the next save.
        """
        self.wait()
        found = None
        entries: list[_Entry] = []
        for path in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                read_now = self._read(path.name) if found is None else None
                content = glance(path)
                whole = content["progress"]["step"] == 0
                entries.insert(0, _Entry(path.name, whole, frozenset(content["best"])))
                found = found or read_now
            except (RunError, KeyError, TypeError) as error:
                if found is None:
                    self.console.say(f"{error}; going back to the checkpoint before it")
        self._entries = entries
        return found

    def last_whole_epoch(self) -> Saved | None:
        """The newest good checkpoint from between two epochs; those after it are forgotten. All workers ask; RunError
        where they do not come to see the same one."""
        self.wait()
        self.workers.together()

        def look() -> Saved | None:
            if not self.workers.writes:
                self.newest()
            return self._last_whole_epoch()

        found, same = self.looked_together(look)
        if not same:
            raise RunError(f"{self.folder.parent}: {DIFFER}")
        self.workers.together()  # before the next save removes what another one still reads
        return found

    def looked_together(
        self, look: Callable[[], Saved | None], empty: bool = True
    ) -> tuple[Saved | None, bool]:
        """What every worker sees by `look`, and whether all see the same: workers that go on from different steps would
        sum their gradients without a word. Where nothing is no answer (not `empty`), it is looked for again."""
        found, same = None, False
        for number in range(LOOKS):
            time.sleep(WAIT if number else 0)
            found = look()
            same = self._is_everywhere(found)
            if same and (empty or found):
                break
        return found, same

    def _is_everywhere(self, found: Saved | None) -> bool:
        if self.workers.alone:
            return True
        mine = [_number(f"{self.identity()} {found.name}") if found else 0]
        every = self.workers.gathered(np.array([mine], np.float32), self.workers.count)
        return bool((every == every[0]).all())

    def _last_whole_epoch(self) -> Saved | None:
        while self._entries:
            entry = self._entries[-1]
            if entry.whole_epochs:
                with suppress(RunError):
                    return self._read(entry.name)
            self._entries.pop()
        return None

    def _read(self, name: str) -> Saved:
        tensors, content, _ = read(self.folder / name)
        progress = Progress.from_json(content.pop("progress"))
        best = content.pop("best")
        fields = [("weights", progress.best_epoch), *([("fitted", 0)] if content.pop("fitted") else [])]
        for field, epoch in fields:
            file = _best_name(epoch)
            if file not in best:
                continue
            if file not in self._best or self._best[file][1] != best[file]:
                kept, _, digest = read(self.folder / file)
                if digest != best[file]:
                    raise RunError(f"{self.folder / file} is not the file that {name} was saved with")
                self._best[file] = [kept[key] for key in sorted(kept)], digest
            setattr(progress, field, self._best[file][0])
        for tensor in [tensor for tensor in tensors if tensor.startswith(ARRAYS)]:
            progress.arrays[tensor.removeprefix(ARRAYS)] = tensors.pop(tensor)
        return Saved(name, progress, tensors, content)


def _best_name(epoch: int) -> str:
    return f"best-{epoch:05d}.safetensors"


def write(path: Path, tensors: Tensors, content: Mapping[str, Any]) -> str:
    """Write arrays and what JSON can hold as one file; returns their digest. WriteError where it cannot."""
    whole = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in tensors.items()}
    text = json.dumps(content, ensure_ascii=False)
    about = {"format": FORMAT, "content": text, "digest": _digest(whole, text)}
    write_tensors(path, whole, about)
    return about["digest"]


def read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any], str]:
    """What `write` wrote, and its digest. RunError unless every byte of it is as it was, another RightfitError where
    the system does not let it be read, or memory is short: that says nothing of the file."""
    about, tensors = _opened(path, with_tensors=True)
    if _digest(tensors, about["content"]) != about["digest"]:
        raise RunError(f"{path} is damaged: its content is not what was saved")
    return tensors, json.loads(about["content"]), about["digest"]


def glance(path: Path) -> dict[str, Any]:
    """What a file says it holds, unchecked. Errors as of `read`."""
    about, _ = _opened(path, with_tensors=False)
    try:
        content = json.loads(about["content"])
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return content if isinstance(content, dict) else {}


def _opened(path: Path, with_tensors: bool) -> tuple[dict[str, str], dict[str, NDArray[Any]]]:
    from safetensors import safe_open

    try:
        path.open("rb").close()  # safetensors takes whatever the system refuses for a missing file
        with safe_open(path, framework="numpy") as file:
            about: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()} if with_tensors else {}  # noqa: SIM118  (no mapping: `in` it fails)
    except FileNotFoundError as error:
        raise RunError(f"{path} is gone") from error
    except (OSError, MemoryError) as error:
        raise RightfitError(f"{path}: cannot be read now: {error or 'memory is short'}") from error
    except Exception as error:  # safetensors, NumPy and json have a dozen kinds for a damaged file
        raise RunError(f"{path} is damaged: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how safetensors says that memory is short for an array
            raise
        raise RightfitError(f"{path}: cannot be read now: memory is short") from error
    if about.get("format") != FORMAT or not {"content", "digest"} <= set(about):
        raise RunError(f"{path} is damaged, or no checkpoint of this version of rightfit")
    return about, tensors


def _digest(tensors: Tensors, text: str) -> str:
    total = hashlib.blake2b(digest_size=32)
    for name in sorted(tensors):
        value = tensors[name]
        total.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        total.update(value.reshape(-1).view(np.uint8).data)
    total.update(text.encode())
    return total.hexdigest()


def _number(text: str) -> int:
    """A digest that a float32 holds, above 0."""
    return 1 + zlib.crc32(text.encode()) % (2**24 - 1)
