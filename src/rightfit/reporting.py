"""A run folder in, its page out: what was asked, what came of it, and where to look closer.

`write` draws the page of a run with all that the run holds by now; `Follower` draws it while training goes on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, RunError, UsageError
from rightfit.files import write_text
from rightfit.records import epochs_of, kept_epoch, learning_curve_of, objects_of, search_of
from rightfit.run import BATCH, Run

if TYPE_CHECKING:
    from rightfit.data.dataset import Dataset
    from rightfit.data.table import Table
    from rightfit.reports.story import Story
    from rightfit.training.state import Progress

NAME = "report.html"
FINDINGS, SETS, TOGETHER = 8, 6, 4  # of the audit that are shown with images, and how many
SHARE = 50  # times what the last page took pass before the next is drawn, and AGAIN seconds at least


def write(
    run: Run, output: Path | None = None, language: str | None = None, console: Console | None = None
) -> Path:
    """Write the page of `run` to `output`, by default its own report.html, in the run's language; returns where.

    What cannot be shown, such as pictures of images that are gone, is left out and said. Raises UsageError
    for another language, RunError for a damaged run, WriteError where the page cannot be written.
    """
    from rightfit.reports.run_page import page
    from rightfit.reports.words import LANGUAGES

    if language is None:
        language = run.settings.report if run.settings.report in LANGUAGES else "en"
    if language not in LANGUAGES:
        raise UsageError(f"language {language!r} is none of {', '.join(LANGUAGES)}")
    target = output or run.path / NAME
    write_text(target, page(_story(run, console or Console(quiet=True)), language))
    return target


def draw(run: Run, console: Console) -> Path | None:
    """As `write` in the language of the page that is there, and never an error: a run is whole without its page.
    None where the run wants none, or it failed."""
    try:
        return None if run.settings.report == "none" else write(run, None, _language_of(run.path), console)
    except Exception as error:  # of whatever kind: training and evaluation are done and must stand
        console.say(f"no report: {error}; `rightfit report {run.path}` tries again")
        return None


def _language_of(place: Path) -> str | None:
    with suppress(OSError), (place / NAME).open(encoding="utf-8") as file:
        return "zh" if 'lang="zh-CN"' in file.read(400) else "en"
    return None


class Follower:
    """Draws the page of a run that goes on, when an epoch is done and the last page is old enough."""

    def __init__(
        self,
        place: Path,
        settings: TrainSettings,
        counts: Mapping[str, int],
        classes: Sequence[str],
        label_mode: str,
        console: Console,
    ) -> None:
        self.place, self.settings, self.counts, self.console = place, settings, counts, console
        self.classes, self.label_mode = classes, label_mode
        self.due = 0.0

    def after_epoch(self, progress: Progress) -> None:
        """Never a reason to stop training, whatever goes wrong."""
        started = time.monotonic()
        if started < self.due:
            return
        from rightfit.reports.run_page import AGAIN, page

        try:
            story = self._story(progress)
            write_text(self.place / NAME, page(story, self.settings.report))
        except Exception as error:  # as above: hours of training do not end for a picture
            self.console.say(f"{NAME} is not drawn: {error}; training goes on")
        took = time.monotonic() - started
        self.due = started + took + max(AGAIN, SHARE * took)

    def _story(self, progress: Progress) -> Story:
        from rightfit.reports.story import Story

        found = _audit(self.place)
        return Story(
            name=str(self.place),
            settings=_plain(self.settings),
            classes=self.classes,
            label_mode=self.label_mode,
            counts=self.counts,
            history=[dict(row) for row in progress.history],
            planned=progress.epochs or self.settings.epochs or 0,
            going_on=True,
            findings=found[0],
            audited=found[1],
            decisions=objects_of(self.place / "decisions.jsonl"),
        )


def _story(run: Run, console: Console) -> Story:
    from rightfit.data import recorded
    from rightfit.reports.story import Story
    from rightfit.training import speed

    table = recorded.table_of(run.path / "data.csv", run.classes, run.label_mode)
    counts = {split: len(table.rows(split)) for split in ("train", "val", "test")}
    history = epochs_of(run.path / "history.csv")
    metrics = run.metrics
    decisions = objects_of(run.path / "decisions.jsonl")
    findings, audited = _audit(run.path, set(table.frame["name"]))
    rows = [row for row in history if row.get("steps")]
    story = Story(
        name=str(run.path),
        settings=_plain(run.settings),
        classes=run.classes,
        label_mode=run.label_mode,
        counts=counts,
        common=_common(table),
        history=history,
        kept=kept_epoch(metrics, decisions),
        stopped=metrics.get("unfinished", ""),
        metrics=metrics,
        findings=findings,
        audited=audited,
        decisions=decisions,
        openings=objects_of(run.path / "test-ledger.jsonl"),
        search=search_of(run.path),
        learning_curve=learning_curve_of(run.path),
        seconds=asdict(speed.spent_in(rows)) if rows else {},
        versions=metrics.get("machine", {}),
    )
    if not counts["val"] or "validation" not in metrics:
        return story
    try:
        dataset = run.seen_images()
    except (RightfitError, OSError) as error:
        console.say(f"{error}; the report shows no pictures")
        dataset = None
    return _with_answers(story, run, table, dataset, console)


def _with_answers(story: Story, run: Run, table: Table, dataset: Dataset | None, console: Console) -> Story:
    """The story with what needs the answers to the validation images: curves; with images, mistakes and suspects."""
    from rightfit.data.recorded import source_of
    from rightfit.evaluation.answers import Answers
    from rightfit.evaluation.infer import all_logits
    from rightfit.evaluation.metrics import image_hits
    from rightfit.reports import gallery

    rows = table.rows("val")
    logits = run.recorded_logits(len(rows))
    try:
        if logits is None and dataset is not None:
            logits = all_logits(
                run.model, dataset.images, dataset.image_rows[dataset.table.rows("val")], BATCH
            )
        if logits is None:
            return story
        raw, mode, targets = logits.astype("float64"), run.label_mode, table.targets(rows)
        answers = Answers(
            raw / run.calibration.temperature, raw, targets, mode, run.classes, table.groups(rows)
        )
        wrong = int((image_hits(raw, targets, mode) < 1).sum())
        story = replace(story, answers=answers, wrong=wrong)
        if dataset is None:
            return story
        root = source_of(run.path, run.settings.data) or run.settings.data
        mistakes = gallery.mistakes(answers, dataset, root, lambda: run.model, console)
        return replace(story, mistakes=mistakes, suspects=gallery.suspects(answers, dataset, root))
    except (DataError, OSError) as error:
        console.say(f"{error}; the report shows no pictures")
        return story


def _common(table: Table) -> tuple[str, float]:
    """The class that most of the validation images are of, and their share."""
    import numpy as np

    rows = table.rows("val")
    if table.label_mode == "multilabel" or not len(rows):
        return "", 0.0
    images = np.bincount(table.codes()[rows], minlength=len(table.classes))
    return table.classes[int(images.argmax())], float(images.max() / images.sum())


def _audit(place: Path, images: Collection[str] = ()) -> tuple[list[dict[str, Any]], int]:
    """The findings of a run's audit.json, and how many images were looked at. Thumbnails are made of the `images` of
    the run alone: whoever made the folder may have named any file of this machine. RunError where it is damaged."""
    from rightfit.data.audit.findings import SEVERITIES, path_of
    from rightfit.data.recorded import located
    from rightfit.reports.pictures import sets_of
    from rightfit.saving.folder import read_json

    if not (place / "audit.json").exists():
        return [], 0
    audit = read_json(place / "audit.json")
    found = []
    try:
        root = located(place, [audit["root"]])[0]
        for number, finding in enumerate(audit["findings"]):
            if finding["severity"] not in SEVERITIES or not isinstance(finding["text"], str):
                raise ValueError(f"finding {number} is none")
            files = finding["files"] if images and number < FINDINGS else []
            own = [[name for name in names if path_of(root, name) in images] for names in files]
            sets = sets_of(root, [names for names in own if names], SETS, TOGETHER)
            found.append({**finding, "sets": sets})
        return found, int(audit["images"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(
            f"{place / 'audit.json'}: cannot be read ({error!r}); the run is incomplete or damaged"
        ) from error


# Records --------------------------------------------------------------------------------------------


def _plain(settings: TrainSettings) -> dict[str, Any]:
    content = {name: value for name, value in settings.model_dump().items() if value is not None}
    return {**content, "height_width": settings.height_width}
