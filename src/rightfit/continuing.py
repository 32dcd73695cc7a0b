"""The folder of a run or search that was broken off in, the finished run out: which it is, and who goes on with it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit import beginning, cluster, resuming, searching, working
from rightfit.config import parse_seconds
from rightfit.console import Console
from rightfit.errors import RunError, UsageError
from rightfit.records import SEARCHED
from rightfit.run import Run
from rightfit.searching import Ends
from rightfit.team import team_of

if TYPE_CHECKING:
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.state import Saved


@dataclass(frozen=True)
class Asked:
    """What `rightfit.resume` takes, with its meaning."""

    data: Any
    epochs: int | None
    micro_batch: int | None
    accept_data_changes: bool
    workers: int | str | None
    ray: str | None
    ends: Ends


def go_on(place: Path, asked: Asked, console: Console) -> Run:
    """What `rightfit.resume` does."""
    from rightfit.saving import folder
    from rightfit.training.checkpoints import FOLDER, Checkpoints

    if asked.ends.time_limit is not None:
        parse_seconds(asked.ends.time_limit)  # or it is no time
    searched = (place / SEARCHED).parent.is_dir()
    if not searched and not (place / FOLDER).is_dir():
        if not place.exists():
            raise RunError(
                f"{place}: no such folder; `rightfit train` makes it once the images are decoded: if it was broken off "
                "before, run it again"
            )
        raise RunError(f"{place} holds no checkpoints; give the run folder that `rightfit train` made")
    with ExitStack() as held:
        held.enter_context(folder.locked(place))
        folder.remove_half_written(place)
        checkpoints = Checkpoints(place, console)
        saved = checkpoints.newest()
        searching_still = searched and saved is None and not checkpoints.identity()
        if searching_still and not resuming.is_finished(checkpoints):
            return _search(place, asked, console, held)
        if asked.ends.trials is not None or (asked.ends.time_limit is not None and asked.epochs is None):
            raise UsageError(
                f"{place} is no search that goes on; --trials is for one, and --time-limit too, or goes with --epochs"
            )
        return _run(place, asked, console, held, checkpoints, saved, searched)


def _search(place: Path, asked: Asked, console: Console, held: ExitStack) -> Run:
    """Trials go on."""
    if asked.epochs is not None or asked.accept_data_changes or asked.workers is not None:
        raise UsageError(
            f"{place} is a search that goes on as it began: with its epochs, on its images; on a cluster --ray "
            "alone shares out its trials"
        )
    if asked.ray is not None and asked.micro_batch is not None:
        raise UsageError("--micro-batch is for a search on one machine; nodes have memory of their own")
    if asked.ray is not None:
        held.enter_context(cluster.connected(asked.ray, console))
    return searching.go_on(place, asked.data, asked.micro_batch, console, held, asked.ray, asked.ends)


def _run(
    place: Path,
    asked: Asked,
    console: Console,
    held: ExitStack,
    checkpoints: Checkpoints,
    saved: Saved | None,
    searched: bool,
) -> Run:
    """From its checkpoint; from its beginning, where it was broken off before the first; or not at all, as it is done
    or lost. One that a search ends in is trained here, its trials being done, unless `workers` are asked for."""
    ray = None if searched and asked.workers is None else asked.ray
    team = team_of(asked.workers, ray, working.work)
    if team:
        held.enter_context(team.connected(console))
    if saved is not None:
        return resuming.go_on(
            place, checkpoints, saved, asked.data, asked.epochs, asked.ends.time_limit, asked.micro_batch,
            asked.accept_data_changes, console, team,
        )  # fmt: skip
    if checkpoints.identity():
        raise RunError(
            f"{place}: none of its checkpoints is whole; "
            f"`rightfit train --config {place / 'config.yaml'} --output NEW` repeats the run"
        )
    if resuming.is_finished(checkpoints):
        if asked.epochs is not None:
            raise UsageError(f"{place}: only the head was fitted, which more epochs do not change")
        console.say(f"{place} is finished")
        return Run(place)
    if asked.epochs is not None:
        raise UsageError(
            f"{place} is not finished; `rightfit resume {place}` without --epochs does that first"
        )
    return beginning.begin_again(place, asked.data, asked.micro_batch, console, team)
