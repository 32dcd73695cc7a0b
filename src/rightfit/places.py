"""Where the trials of a search are trained: here, one after the other, or on the nodes of a Ray cluster.

Both take a task and give back what became of it; what a place knows beside that is how many it can have going.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any, Protocol

from rightfit import cluster, trials
from rightfit.aside import Interrupted
from rightfit.tuning.halving import Task

CPUS = 4  # of a trial, where nodes have them: small nets do not use more
LOST = 8  # times that a trial is begun again elsewhere, from its checkpoint, before it counts as failed
PATIENCE = 60  # seconds for trials to save where they stand


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

    def __init__(self, own: trials.Trials) -> None:
        self.trials = own
        self._done: list[tuple[Task, dict[str, Any]]] = []

    def begin(self, task: Task, chosen: dict[str, Any], last: int) -> None:
        self._done.append((task, self.trials.attempt(task, chosen, last)))

    def next_done(self) -> tuple[Task, dict[str, Any]]:
        return self._done.pop()

    def ask(self, what: str) -> dict[str, Any]:
        return self.trials.ask(what)


class Nodes:
    """Of the cluster that this process is connected to; a trial whose node is lost is trained on another one."""

    def __init__(self, place: Path, backend: str) -> None:
        import ray

        cluster.refuse_unshared(place)
        room = cluster.room(CPUS)
        self.place = str(place.resolve())
        variables = cluster.environment(KERAS_BACKEND=backend, **cluster.threads(room.cpus))
        self._call = ray.remote(
            num_cpus=room.cpus,
            num_gpus=room.gpus,
            max_retries=LOST,
            runtime_env={"env_vars": variables},
        )(_called)
        self._going: dict[Any, tuple[Task, float]] = {}  # with when it was begun

    @property
    def count(self) -> int:
        return cluster.room(CPUS).workers  # now: a cluster grows and shrinks

    def begin(self, task: Task, chosen: dict[str, Any], last: int) -> None:
        self._going[self._call.remote(self.place, "attempt", task, chosen, last)] = task, time.monotonic()

    def next_done(self) -> tuple[Task, dict[str, Any]]:
        import ray

        try:
            done, _ = ray.wait(list(self._going), num_returns=1)
        except KeyboardInterrupt:
            self._stop()
            raise Interrupted(f"stopped with {len(self._going)} trials under way") from None
        task, began = self._going.pop(done[0])
        found = self._result(done[0])
        return task, {"seconds": round(time.monotonic() - began, 1), **found}

    def ask(self, what: str) -> dict[str, Any]:
        import ray

        began, asked = time.monotonic(), self._call.remote(self.place, "ask", what)
        try:
            found = self._result(asked)
        except KeyboardInterrupt:
            ray.cancel(asked)
            raise Interrupted("stopped before the first trial") from None
        return {"seconds": round(time.monotonic() - began, 1), **found}

    def _result(self, reference: Any) -> dict[str, Any]:
        import ray

        try:
            found: dict[str, Any] = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            why = cluster.reason_of(error)
            return {"failed": f"its process was lost {LOST + 1} times: {why}"}
        return found

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
