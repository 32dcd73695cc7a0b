"""Which trial goes on, which begins, and when it is enough: successive halving without brackets (Li et al. 2020).

A trial is trained to the first rung, then waits. For each three that reached a rung the best that waits there goes on
to the next: a third, and no more where trials get better one after the other, of which ASHA would promote each. When
all the trials that were asked for are begun, who is among the best third and still waits goes on too. Pure functions of
the trials so far, so a search that was killed decides the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from rightfit.tuning.journal import Trial

ETA = 3  # a third goes on, to three times the epochs
RUNGS = 3  # at most
FEWEST = 2  # epochs of the first rung
FINALISTS = 2  # beside the default recipe
SEEDS = 3  # of each finalist


@dataclass(frozen=True)
class Task:
    """What to do next: train `trial` with `seed` up to `epochs`."""

    trial: int
    seed: int
    epochs: int


def rungs(epochs: int) -> tuple[int, ...]:
    """Epochs at which trials are compared; the last is all of them."""
    found = [epochs]
    while len(found) < RUNGS and found[0] // ETA >= FEWEST:
        found.insert(0, found[0] // ETA)
    return tuple(found)


def next_task(
    trials: Sequence[Trial], levels: Sequence[int], most: int | None, going: Collection[int] = ()
) -> Task | None:
    """The next step of the search; a `trial` that is not there yet is to be begun. None: `most` trials are done with,
    but for those that are `going`.

    Trial 0, the default recipe, goes all the way, as what others are measured by.
    """
    if trials and not trials[0].failed and trials[0].epochs(0) < levels[-1] and 0 not in going:
        return Task(0, 0, next(level for level in levels if level > trials[0].epochs(0)))
    for trial in trials:  # one that was broken off
        if not trial.failed and not trial.losses.get(0) and trial.number not in going:
            return Task(trial.number, 0, levels[0])
    ended = most is not None and len(trials) >= most
    for place in reversed(range(len(levels) - 1)):
        if (found := promotable(trials, levels, place, ended and not going, going)) is not None:
            return Task(found, 0, levels[place + 1])
    return None if ended else Task(len(trials), 0, levels[0])


def promotable(
    trials: Sequence[Trial], levels: Sequence[int], place: int, ended: bool, going: Collection[int] = ()
) -> int | None:
    """The best trial that waits at a rung, where fewer than a third of those that reached it went on; None where none
    does. Once the search has `ended`, who waits and is among the best third. Who is `going` does not wait.

    Trial 0 goes on without being asked, and is counted at no rung.
    """
    level = levels[place]
    there = sorted(
        (loss, t.number) for t in trials[1:] if not t.failed and (loss := t.loss(0, level)) is not None
    )
    share = len(there) // ETA
    waiting = [number for _, number in there if trials[number].epochs(0) == level and number not in going]
    if ended:
        waiting = [number for number in waiting if number in [n for _, n in there[:share]]]
    elif len(there) - len(waiting) >= share:
        return None
    return waiting[0] if waiting else None


def finalists(trials: Sequence[Trial], levels: Sequence[int]) -> list[int]:
    """The trials that deserve more seeds: the best that went all the way, and the default recipe."""
    done = sorted((t.loss(0, levels[-1]), t.number) for t in trials if _done(t, levels[-1]))
    best = [number for _, number in done if number][:FINALISTS]
    return ([0] if trials and _done(trials[0], levels[-1]) else []) + best


def next_seed(
    trials: Sequence[Trial], levels: Sequence[int], going: Collection[tuple[int, int]] = ()
) -> Task | None:
    """Which finalist is to be trained again with another seed; None when all were, or are `going` (trial and seed)."""
    for seed in range(1, SEEDS):
        for number in finalists(trials, levels):
            trial = trials[number]
            known = trial.loss(seed, levels[-1]) is not None or seed in trial.lost
            if not known and (number, seed) not in going:
                return Task(number, seed, levels[-1])
    return None


def _done(trial: Trial, epochs: int) -> bool:
    return not trial.failed and trial.loss(0, epochs) is not None
