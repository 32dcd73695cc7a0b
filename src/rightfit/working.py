"""What a worker of a team does: a run folder in, its training gone on with from the newest checkpoint, as one of them.

Ray calls it on any node; the run folder and the images are reached by the same paths on all of them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rightfit import memory, team
from rightfit.console import Console
from rightfit.errors import RightfitError, RunError

if TYPE_CHECKING:
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.state import Saved


def work(about: dict[str, str]) -> None:
    """Train to the end. An error that another start would meet again is left where the team looks for it."""
    import jax

    refusal = Path(about["refusal"])
    if refusal.exists():
        return
    try:
        _work(Path(about["place"]))
    except jax.errors.JaxRuntimeError as error:
        if memory.is_short(error):
            advice = "workers do not halve a batch by themselves; `rightfit resume --micro-batch N` does"
            team.refuse(refusal, RightfitError(f"memory is too short ({memory.words(error)}); {advice}"))
        raise  # else it is what is left of a step whose other workers are gone
    except Exception as error:
        team.refuse(refusal, error)
        raise


def same_start(place: Path, checkpoints: Checkpoints) -> Saved:
    """The newest checkpoint, once every worker has read it. RunError where there is none, or they differ."""
    from rightfit.training.checkpoints import DIFFER

    saved, same = checkpoints.looked_together(checkpoints.newest, empty=False)
    if saved and same:
        return saved
    raise RunError(f"{place}: {'none of its checkpoints is whole' if same else DIFFER}")


def _work(place: Path) -> None:
    import ray
    from ray import train

    if gpus := ray.get_gpu_ids():  # Ray's JaxConfig has numbered each worker's own from 0
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    from rightfit import resuming
    from rightfit.learning import train_together
    from rightfit.provenance import put_back
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.workers import Workers

    context = train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size())
    console = Console(quiet=True)
    if workers.writes:
        console.log_to(place / "log.txt")
    checkpoints = Checkpoints(place, console, workers)
    saved = same_start(place, checkpoints)
    job = resuming.job_of(place, saved)
    if workers.writes:
        where = f"step {saved.progress.step} of epoch {saved.progress.epoch + 1}"
        go = "1 worker goes" if workers.alone else f"{workers.count} workers go"
        console.say(f"{go} on from {where} ({saved.name})")
        put_back(place, saved)
    train_together(job, console, checkpoints, saved, workers)
