"""A search at work: which trial goes on or begins, on as many places as there are, until time or trials are used up.

Everything that is decided follows from the journal (tuning/journal.py), which this alone writes to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rightfit.aside import Interrupted
from rightfit.console import Console, duration
from rightfit.errors import RightfitError, RunError, WriteError
from rightfit.places import Places
from rightfit.trials import FOLDER, JOURNAL, RANGE_STEPS, Trials

if TYPE_CHECKING:
    from rightfit.tuning.halving import Task
    from rightfit.tuning.space import Space

TRAININGS = 16  # to the end that are to fit into the time
SEARCH = 0.5  # of the time; the rest is for more seeds of the finalists and the run at the end
RANGE_WORTH = 10  # range tests that a training's steps must hold, at least
FAILURES = 3  # in a row end a search: what is wrong is not the settings
OTHERS = "begin another search with other settings, such as --learning-rate, --batch-size or --micro-batch"


@dataclass
class Study:
    """What is done next, and what is on record: everything follows from the journal."""

    own: Trials
    space: Space
    trials_at_most: int | None
    seconds: float | None
    console: Console
    places: Places

    def __post_init__(self) -> None:
        self.journal = self.own.place / FOLDER / JOURNAL
        self._read()
        self._began, self._before = time.monotonic(), self.record.used

    def _read(self) -> None:
        from rightfit.tuning import halving, journal

        self.record = journal.read(self.journal)
        self.trials = self.record.trials
        assert self.own.base.epochs
        self.levels = halving.rungs(self.record.epochs or self.own.base.epochs)

    def run(self) -> None:
        """Until the trials asked for are done with, or the search's share of the time is used; then more seeds of the
        finalists. Interrupted; RunError where nothing can be trained."""
        try:
            self._run()
        except (Interrupted, RightfitError):
            with suppress(WriteError):  # where the disk is full, which is what is told
                self._write("stopped")
            raise

    def _run(self) -> None:
        from rightfit.tuning import halving

        self._fit_epochs()
        self._test_the_range()
        self.console.say(
            f"tuning {', '.join(knob.name for knob in self.space)}; rungs at "
            f"{', '.join(map(str, self.levels))} epochs; {len(self.own.selection):,} validation images to choose by, "
            f"{len(self.own.reporting):,} to report"
        )

        def next_task(going: Collection[tuple[int, int]]) -> Task | None:
            trials = [trial for trial, _ in going]
            task = halving.next_task(self.trials, self.levels, self.trials_at_most, trials)
            # The default recipe goes to its end whatever the clock says.
            return None if task and task.trial and self._late(SEARCH) else task

        def next_seed(going: Collection[tuple[int, int]]) -> Task | None:
            task = halving.next_seed(self.trials, self.levels, going)
            if task and self._late(1.0):
                self.console.say(
                    "no time is left for more trainings of the finalists; a longer --time-limit has them"
                )
                return None
            return task

        for what_next in (next_task, next_seed):
            self._work_off(what_next)

    def _work_off(self, what_next: Callable[[Collection[tuple[int, int]]], Task | None]) -> None:
        """As many tasks at once as there are places, until there is no next one."""
        going: set[tuple[int, int]] = set()
        while True:
            while len(going) < self.places.count and (task := what_next(going)):
                self._begin(task)
                going.add((task.trial, task.seed))
            if not going:
                return
            task, found = self.places.next_done()
            going.remove((task.trial, task.seed))
            self._done(task, found)

    def _fit_epochs(self) -> None:
        """So few epochs that several trainings fit into the time, by one epoch of the default recipe; before the first
        trial, and once."""
        asked, base = self.own.asked, self.own.base
        if self.seconds is None or asked.epochs is not None or self.record.epochs or self.trials:
            return
        from rightfit.training.speed import seconds_of_an_epoch

        assert base.epochs
        found, seconds = self.places.ask("pace"), self.seconds * self.places.count
        if "failed" in found:
            raise RunError(f"the first epoch of the default recipe failed: {found['failed']}; {OTHERS}")
        each = seconds_of_an_epoch(found["row"]) if found.get("row") else 0.0
        epochs = max(1, int(min(base.epochs, seconds / TRAININGS / each if each else base.epochs)))
        self._write("epochs", epochs=epochs, seconds=found["seconds"])
        if epochs < base.epochs:
            self.console.say(
                f"{epochs} epochs a training in place of {base.epochs}, as {TRAININGS} are to fit into "
                f"{duration(seconds)}; --epochs asks for others"
            )

    def _test_the_range(self) -> None:
        """Which learning rate a range test suggests, where it costs little beside one training; once."""
        base, facts, trials = self.own.base, self.own.facts, self.record.trials
        tuned = any(knob.name == "learning_rate" for knob in self.space)
        if not tuned or facts.pretrained or self.record.range_test:
            return  # borrowed weights learn in phases, whose rates differ
        if len(trials) > 1 or self.trials_at_most == 1:
            return  # the second trial is there, or will not be
        assert base.batch_size
        if self.levels[-1] * -(-facts.images // base.batch_size) < RANGE_WORTH * RANGE_STEPS:
            return
        found = self.places.ask("range_test")
        self._write("range_test", **found)
        if "failed" in found:
            told = f"failed: {found['failed']}"
        elif found["suggested"]:
            told = f"suggests {found['suggested']:.2g}, the recipe has {base.learning_rate:.2g}"
        else:
            told = "shows none that surely lowers the loss"
        self.console.say(f"range test of the learning rate: {told}")

    def _begin(self, task: Task) -> None:
        if task.trial == len(self.trials):
            self._write("trial", trial=task.trial, chosen=self._next())
        self.places.begin(task, self.trials[task.trial].chosen, self.levels[-1])

    def _done(self, task: Task, found: dict[str, Any]) -> None:
        line = {"trial": task.trial, "seed": task.seed}
        if why := found.pop("failed", ""):
            self._write("failed", **line, why=why, seconds=found["seconds"])
            self.own.forget(task.trial, task.seed)
            seed = f", training {task.seed + 1}," if task.seed else ""
            self.console.say(f"trial {task.trial}{seed} failed and is left out: {why}")
            if self.record.failures >= FAILURES:
                raise RunError(
                    f"the last {FAILURES} trials failed, the last one as follows: {why}; {OTHERS}, "
                    "or another --space"
                )
            return
        self._write("rung", **line, epochs=task.epochs, **found)
        if task.epochs == self.levels[-1]:
            self.own.forget(task.trial, task.seed)
        self._say(task, found["loss"])

    def _next(self) -> dict[str, Any]:
        """What the next trial tries: the default recipe first, then that at the rate of the range test."""
        from rightfit.tuning.space import at_rate, defaults_of
        from rightfit.tuning.suggest import suggest

        usual = defaults_of(self.space, self.own.base)
        if not self.trials:
            return usual
        suggested = self.record.range_test.get("suggested")
        if len(self.trials) == 1 and suggested and (other := at_rate(self.space, usual, suggested)):
            return other
        return suggest(self.trials, self.space, self.levels, self.own.asked.seed)

    def _late(self, share: float) -> bool:
        """Whether a share of the time is used, or what is left is needed for one more training and the last one."""
        if self.seconds is None:
            return False
        whole = max(
            (s for t in self.trials if t.loss(0, self.levels[-1]) is not None for s in t.seconds.values()),
            default=0.0,
        )
        return self._used() >= min(share * self.seconds, self.seconds - 2 * whole)

    def _say(self, task: Task, loss: float) -> None:
        from rightfit.tuning import halving

        last = self.levels[-1]
        done = [x for t in self.trials if (x := t.loss(0, last)) is not None]
        best = f", best to the end {min(done):.4f}" if done else ""
        left = f", {duration(max(0.0, self.seconds - self._used()))} left" if self.seconds is not None else ""
        seed = f", training {task.seed + 1} of {halving.SEEDS}" if task.seed else ""
        self.console.say(
            f"trial {task.trial}{seed}, {task.epochs} of {last} epochs: loss {loss:.4f}{best}{left}"
        )

    def _used(self) -> float:
        """Seconds that the search has been at work, by the clock."""
        return self._before + time.monotonic() - self._began

    def _write(self, event: str, **values: Any) -> None:
        from rightfit.tuning import journal

        journal.write(self.journal, event, **values, used=round(self._used(), 1))
        self._read()
