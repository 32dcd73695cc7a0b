"""Where the trials of a search are trained: here, one after the other, or on the nodes of a Ray cluster.

Both take a task and give back what became of it; what a place knows beside that is how many it can have going.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rightfit import cluster, records, trials
from rightfit.aside import Interrupted
from rightfit.console import Console, counted
from rightfit.files import write_text
from rightfit.tuning.halving import Task

CPUS = 4  # of a trial, where nodes have them: small nets do not use more
LOST = 8  # times that a trial is begun again elsewhere, from its checkpoint, before it counts as failed
PATIENCE = 60  # seconds for trials to save where they stand
LOOK = 60  # seconds between looks at whether the cluster holds a trial still
NOTE, ENDED = "at-work.json", 3  # what is at work here; ends in one of these, after which a way out is named


class Places(Protocol):
    @property
    def count(self) -> int:
        """Trials at once."""

    def begin(self, task: Task, chosen: dict[str, Any], last: int) -> None:
        """Train `task` of a trial with what was `chosen`, which ends after `last` epochs."""

    def next_done(self) -> tuple[Task, dict[str, Any]]:
        """Wait for one that was begun: what `Trials.attempt` says of it."""

    def ask(self, what: str) -> dict[str, Any]:
        """What `Trials.ask` says."""


class Here:
    count = 1

    def __init__(self, own: trials.Trials, console: Console) -> None:
        self.trials, self.console = own, console
        self._done: list[tuple[Task, dict[str, Any]]] = []

    def begin(self, task: Task, chosen: dict[str, Any], last: int) -> None:
        with self._noted(f"trial {task.trial}, seed {task.seed}, up to epoch {task.epochs}"):
            self._done.append((task, self.trials.attempt(task, chosen, last)))

    def next_done(self) -> tuple[Task, dict[str, Any]]:
        return self._done.pop()

    def ask(self, what: str) -> dict[str, Any]:
        with self._noted(what.replace("_", " ")):
            return self.trials.ask(what)

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        """A note for as long as the body is at work; where it is there already, the process was ended in it."""
        note = self.trials.place / trials.FOLDER / NOTE
        before = records.object_in(note)
        times = int(before["times"]) if before.get("at work on") == what else 0
        if times >= ENDED:
            self.console.say(
                f"{what}: the process was ended in it {times} times; where memory is too short for it, "
                f"`rightfit resume {self.trials.place} --micro-batch N` sums gradients over parts of N images"
            )
        write_text(note, json.dumps({"at work on": what, "times": times + 1}))
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


@dataclass
class _Sent:
    """To a node: a method of `Trials` and what it takes, when, and how often its process was lost."""

    what: tuple[Any, ...]
    task: Task | None = None
    began: float = field(default_factory=time.monotonic)
    lost: int = 0


class Nodes:
    """Of the cluster that this process is connected to; a trial whose node is lost is trained on another one."""

    def __init__(self, place: Path, backend: str, console: Console) -> None:
        import ray

        cluster.refuse_unshared(place)
        self.room = room = cluster.room(CPUS)
        self.place, self.console, self._waits = str(place.resolve()), console, False
        each = f"{counted(room.gpus, 'GPU')} and " if room.gpus else ""
        console.say(f"a trial has {each}{counted(room.cpus, 'processor')}")
        variables = cluster.environment(KERAS_BACKEND=backend, **cluster.threads(room.cpus))
        # Ray's own tries have no end where its memory monitor ends a process (task_oom_retries).
        self._call = ray.remote(
            num_cpus=room.cpus, num_gpus=room.gpus, max_retries=0, runtime_env={"env_vars": variables}
        )(_called)
        self._going: dict[Any, _Sent] = {}

    @property
    def count(self) -> int:
        return max(1, self._held())  # where there is no room, one waits for it

    def _held(self) -> int:
        return cluster.places(self.room.cpus, self.room.gpus)  # now: a cluster grows and shrinks

    def begin(self, task: Task, chosen: dict[str, Any], last: int) -> None:
        self._send(_Sent(("attempt", task, chosen, last), task))

    def next_done(self) -> tuple[Task, dict[str, Any]]:
        sent, found = self._back()
        assert sent.task
        return sent.task, found

    def ask(self, what: str) -> dict[str, Any]:
        assert not self._going, "what comes back first is the answer"
        self._send(_Sent(("ask", what)))
        return self._back()[1]

    def _send(self, sent: _Sent) -> None:
        self._going[self._call.remote(self.place, *sent.what)] = sent

    def _back(self) -> tuple[_Sent, dict[str, Any]]:
        """What is done first; what is lost on the way is sent again."""
        try:
            while True:
                if found := self._first():
                    return found
        except KeyboardInterrupt:
            self._stop()
            count = sum(sent.task is not None for sent in self._going.values())
            when = f"with {counted(count, 'trial')} under way" if count else "before the first trial"
            raise Interrupted(f"stopped {when}") from None

    def _first(self) -> tuple[_Sent, dict[str, Any]] | None:
        """What is done first; None where it was lost, and sent again, or nothing is done yet."""
        import ray

        lost = (
            ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError,
            ray.exceptions.ObjectLostError, ray.exceptions.LocalRayletDiedError,
        )  # fmt: skip
        done, _ = ray.wait(list(self._going), num_returns=1, timeout=LOOK)
        waited, self._waits = self._waits, not done and not self._held()
        if self._waits and not waited:
            self.console.say(
                "no node of the cluster has room for a trial; the search waits for one, or for Ctrl-C"
            )
        if not done:
            return None
        try:
            found: dict[str, Any] = ray.get(done[0])
        except (ray.exceptions.RayTaskError, *lost) as error:
            # A node that goes sends its processes SIGTERM first; this process is told of its own by KeyboardInterrupt.
            if isinstance(error, ray.exceptions.RayTaskError) and not isinstance(error.cause, Interrupted):
                raise error.cause from None
            sent = self._going.pop(done[0])
            sent.lost += 1
            if sent.lost <= LOST:
                self._send(sent)
                return None
            found = {"failed": f"its process was lost {sent.lost} times: {cluster.reason_of(error)}"}
        except ray.exceptions.RayError as error:
            sent = self._going.pop(done[0])
            found = {"failed": cluster.reason_of(error)}
        else:
            sent = self._going.pop(done[0])
        return sent, {"seconds": round(time.monotonic() - sent.began, 1), **found}

    def _stop(self) -> None:
        """Trials save where they stand."""
        import ray

        for reference in self._going:
            ray.cancel(reference)
        ray.wait(list(self._going), num_returns=len(self._going), timeout=PATIENCE)


def _called(place: str, what: str, *asked: Any) -> dict[str, Any]:
    """On a node: a method of the search's trials, which a process opens once."""
    found: dict[str, Any] = getattr(_opened(place), what)(*asked)
    return found


@functools.lru_cache(maxsize=1)
def _opened(place: str) -> trials.Trials:
    return trials.opened(Path(place))
