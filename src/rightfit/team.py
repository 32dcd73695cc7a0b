"""A run trained by several workers of a Ray cluster: how many, and a run folder in, the same with the last checkpoint
in it.

Ray starts the workers, makes JAX's processes known to each other, and starts them again when one is lost; each time
they go on from the run's newest checkpoint. What a worker does is handed in (`working.work`).
"""

from __future__ import annotations

import math
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rightfit import cluster, errors
from rightfit.config import TrainSettings
from rightfit.console import Console, counted
from rightfit.errors import RightfitError, UsageError

FAILURES = 8  # starts after workers were lost; with each, training goes on from the last checkpoint
WAITS = 30  # times that Ray waits a minute for workers to begin
OWN = "ray"  # folder beside the checkpoints, for what Ray writes down
REFUSAL = "refusal.json"  # in it: an error of a worker that no other start would mend
EVERY = 0.3  # seconds between looks at the run's log
ROOM = 30.0  # seconds between looks at whether the cluster holds the workers still
LARGER = 8  # times the batch that was meant, at most, for one that every number of workers divides


@dataclass(frozen=True)
class Team:
    """From `fewest` to `most` workers on the cluster at `address`, each of which calls `work`."""

    fewest: int
    most: int
    address: str
    work: Callable[[dict[str, str]], None]

    def __str__(self) -> str:
        return f"{self.most}" if self.fewest == self.most else f"{self.fewest}:{self.most}"

    def again(self, place: Path) -> str:
        """The command by which this team goes on with a run that was broken off."""
        return f"rightfit resume {place} --workers {self} --ray {self.address}"

    def check(self, settings: TrainSettings, first_image: str) -> None:
        """UsageError for a run that cannot be shared."""
        self.check_backend(settings.backend)
        if first_image.startswith("array:"):
            raise UsageError("workers reach images by their path; data in memory are this process's alone")
        if settings.batch_size != self.batch_for(settings.batch_size or 1):
            raise UsageError(
                f"a batch of {settings.batch_size} cannot be dealt out evenly to {self} workers; take as many as "
                f"divide it, or begin a run with --batch-size {self.batch_for(settings.batch_size or 1)}"
            )

    def check_backend(self, backend: str) -> None:
        """UsageError for another one than JAX."""
        if backend != "jax":
            raise UsageError(f"several workers train on JAX, this run is one of {backend}")

    def batch_for(self, size: int, most: int | None = None) -> int:
        """The least batch of `size` images or more that each number of workers can deal out evenly; the largest that is
        no larger than `most` images, where that one would be. UsageError where such batches are larger than `most`, or
        absurdly large."""
        each = math.lcm(*range(self.fewest, self.most + 1))
        if most and self.most > most:
            raise UsageError(f"--workers {self}: {most:,} training images are too few for so many workers")
        if each > (most or math.inf) or (self.fewest < self.most and each > LARGER * size):
            raise UsageError(
                f"--workers {self}: a batch that can be dealt out evenly to each number of workers has {each:,} images "
                f"at least; ask for fewer numbers, such as {self.most}"
            )
        found = -(-size // each) * each
        return found if most is None or found <= most else most // each * each

    @contextmanager
    def connected(self, console: Console) -> Iterator[None]:
        """To the cluster. UsageError where none answers, or it can never hold the fewest workers."""
        with cluster.connected(self.address, console):
            self._check_room(console)
            yield

    def train(self, place: Path, console: Console) -> None:
        """Train the run on from its newest checkpoint to the end of training, while `connected`. RightfitError, or the
        error of a worker, where that is not reached; the checkpoint stays."""
        own = place.resolve() / "checkpoints" / OWN
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
        try:
            cluster.refuse_unshared(place)
            with _told(place / "log.txt", console):
                self._fit(place.resolve(), own, console)
        except KeyboardInterrupt:
            console.say(f"stopped; `{self.again(place)}` goes on from the last checkpoint")
            raise
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _fit(self, place: Path, own: Path, console: Console) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
        from ray.train.v2.jax import JaxConfig, JaxTrainer

        share = cluster.share(self.most)
        each = f"{counted(share.gpus, 'GPU')} and " if share.gpus else ""
        console.say(f"workers: {self}, with {each}{counted(share.cpus, 'processor')} each")
        kind = "cuda" if share.gpus else "cpu"
        variables = cluster.environment(
            KERAS_BACKEND="jax", JAX_PLATFORMS=kind, **cluster.threads(share.cpus)
        )
        trainer = JaxTrainer(
            self.work,
            train_loop_config={"place": str(place), "refusal": str(own / REFUSAL)},
            # Ray's JaxConfig makes the processes known to each other only for GPUs and TPUs; which of them
            # JAX then is on is JAX_PLATFORMS' matter.
            jax_config=JaxConfig(use_gpu=True),
            scaling_config=ScalingConfig(
                num_workers=self.most if self.fewest == self.most else (self.fewest, self.most),
                use_gpu=share.gpus > 0,
                resources_per_worker={"CPU": share.cpus, **({"GPU": 1} if share.gpus else {})},
                placement_strategy="SPREAD",
            ),
            run_config=RunConfig(
                name="workers",
                storage_path=str(own),
                failure_config=FailureConfig(
                    max_failures=FAILURES, max_preemption_failures=FAILURES, controller_failure_limit=WAITS
                ),
                worker_runtime_env={"env_vars": variables},
            ),
        )
        ended: list[BaseException] = []

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:  # raised below, in the thread that waits
                ended.append(error)

        # In the main thread Ray would take Ctrl-C for itself and end the process with code 0.
        waited = threading.Thread(target=fit, name="rightfit-team", daemon=True)
        waited.start()
        looked, enough = time.monotonic(), cluster.places(share.cpus, share.gpus) >= self.fewest
        while waited.is_alive():
            waited.join(EVERY)
            if time.monotonic() - looked > ROOM:
                before, enough = enough, cluster.places(share.cpus, share.gpus) >= self.fewest
                looked = time.monotonic()
                if before and not enough:
                    console.say(
                        f"the cluster has no room for {counted(self.fewest, 'worker')} any more; training waits for it "
                        f"to grow{self._at_most()}, or until Ctrl-C; `{self.again(place)}` goes on, also with fewer"
                    )
        if refused := refusal(own / REFUSAL):
            raise refused
        for error in ended:
            if not isinstance(error, TrainingFailedError):
                raise error
            lost = isinstance(error, WorkerGroupError)
            what = (
                f"the workers were lost {FAILURES + 1} times, the last time as follows"
                if lost
                else "Ray gave up"
            )
            raise RightfitError(
                f"{what}: {cluster.reason_of(error)}; `{self.again(place)}` goes on from the last checkpoint"
            ) from error

    def _at_most(self) -> str:
        """How long Ray waits for a number of workers; for as many as there are it has no end."""
        return f", {WAITS} minutes in all" if self.fewest == self.most else ""

    def _check_room(self, console: Console) -> None:
        """A cluster of this machine's own cannot grow; others may."""
        share = cluster.share(self.most)
        room = cluster.room(share.cpus).workers
        if room >= self.fewest:
            return
        said = f"{self.fewest} workers are asked for, and there is room for {room}"
        if cluster.is_own():
            raise UsageError(f"{said}: a worker takes a processor, or a GPU where there are any")
        console.say(f"{said}; training waits for the cluster to grow{self._at_most()}, or until Ctrl-C")


def team_of(
    workers: int | str | None, address: str | None, work: Callable[[dict[str, str]], None]
) -> Team | None:
    """For `workers` such as 4 or "2:4"; None where neither they nor an address are asked for. UsageError for others."""
    if workers is None and address is None:
        return None
    if workers is None:
        raise UsageError(
            "--ray says where workers train; --workers N says how many, or N:M from how many to how many"
        )
    try:
        fewest, colon, most = str(workers).partition(":")
        found = Team(int(fewest), int(most if colon else fewest), address or "local", work)
    except ValueError:
        raise UsageError(f"--workers {workers}: a number, such as 4, or two, such as 2:4") from None
    if not 1 <= found.fewest <= found.most:
        raise UsageError(f"--workers {workers}: at least 1, and no fewer at most than at least")
    cluster.check_installed()
    cluster.refuse_client(found.address)
    return found


def refuse(path: Path, error: Exception) -> None:
    """Leave `error` for who began the training: the workers end, and the next ones end at once."""
    with suppress(OSError):
        path.write_text(errors.as_text(error, f"on {platform.node()}: "), encoding="utf-8")


def refusal(path: Path) -> RightfitError | None:
    """What `refuse` left, if anything."""
    try:
        return errors.from_text(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def _told(log: Path, console: Console) -> Iterator[None]:
    """What workers write into the run's log is said here, too."""
    ended = threading.Event()

    def follow() -> None:
        with log.open(encoding="utf-8") as file:
            file.seek(0, 2)
            while True:
                last = ended.wait(EVERY)
                for line in file.read().splitlines():
                    console.echo(line)
                if last:
                    return

    follower = threading.Thread(target=follow, name="rightfit-log", daemon=True)
    follower.start()
    try:
        yield
    finally:
        ended.set()
        follower.join()
