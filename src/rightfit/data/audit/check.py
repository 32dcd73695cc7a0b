"""A source of labelled images in, what is wrong with it out: one pass over the files, before a long training."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rightfit.console import Console, duration
from rightfit.data import reading, split, table, uncached
from rightfit.data.audit import facts, grouping
from rightfit.data.audit.about_classes import about_classes, imbalance, missing_classes, small_validation
from rightfit.data.audit.about_copies import about_copies
from rightfit.data.audit.about_files import about_files, constant
from rightfit.data.audit.duplicates import NEAR_LIMIT, Copies, copies_in, kept_together
from rightfit.data.audit.findings import Audit, Finding, ordered
from rightfit.data.audit.subject import Ints, Subject
from rightfit.data.opened import Opened
from rightfit.data.resize import ImageSpec

LEFT_OUT = "odd files, shortcuts: rightfit check looks at those as well"
SAID_ALREADY = ("missing-class", "torn-groups")  # by the split's own notes


def check(
    source: Any,
    label: str | None,
    label_mode: str,
    group_by: str | None,
    ratio: str,
    seed: int,
    console: Console,
) -> Audit:
    """All findings, from the files themselves. Raises DataError where there is nothing to look at."""
    started = time.monotonic()
    shares = split.parse_ratio(ratio)
    found = reading.read(source, label, label_mode, group_by)
    if found.images is not None:
        spec = ImageSpec(facts.SIDE, facts.SIDE, "stretch")
        seen = facts.of_store(uncached.from_arrays(found.images, spec), np.arange(len(found)))
    else:
        with console.bar("Looking at images", len(found)) as bar:
            seen = facts.of_files(found.paths(np.arange(len(found))), bar.update)
    given = bool((found.frame["split"] != "").any())
    copies = copies_in(seen)
    readable = np.flatnonzero(seen.ok)
    places = np.full(len(found), "", object)
    if len(readable):
        alike = copies.near if kept_together(len(readable)) else copies.exact
        whole = grouping.grouped(found.select(readable), alike[readable])
        places[readable] = split.assign(whole, shares, seed).frame["split"].to_numpy(object)
    subject = Subject(found.with_splits(places.astype(str)), seen, given, copies)
    read = [Finding("note", "source", text) for text in found.notes]
    findings = [*about_files(subject), *about_copies(subject), *about_classes(subject, seed), *read]
    return _audit(subject, findings, started)


# What training looks at -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Look:
    """What decoded images tell before they are split: row i is row i of the table of readable images."""

    seen: facts.Facts
    copies: Copies
    shortened: str
    seconds: float
    dropped: tuple[tuple[str, ...], ...] = ()  # names of equal files, of which the first is kept

    def without(self, dropped: tuple[tuple[str, ...], ...], rows: Ints) -> Look:
        """The rows that are left when copies are dropped."""
        return replace(self, seen=self.seen.select(rows), copies=self.copies.select(rows), dropped=dropped)


def look(images: Opened, rows: Ints, near: bool, console: Console) -> Look:
    """Equal files, and with `near` equal pictures of up to NEAR_LIMIT."""
    started = time.monotonic()
    if near and not kept_together(len(rows)):
        near = False
        console.say(
            f"warning: near-duplicates are not looked for in more than {NEAR_LIMIT:,} images, and may lie on both "
            "sides of the split; `rightfit check` names them"
        )
    shortened = LEFT_OUT if near else f"near-duplicates, constant images, {LEFT_OUT}"
    if near:
        with console.bar("Looking for duplicates", len(rows)) as bar:
            seen = facts.of_store(images, rows, bar.update)
    else:
        seen = facts.of_contents(images.contents[rows])
    copies = copies_in(seen, near)
    return Look(seen.without_thumbnails(), copies, shortened, time.monotonic() - started)


def judge(looked: Look, divided: table.Table, given: bool, console: Console) -> Audit:
    """What training finds in its data after the split; one line each on the screen."""
    started = time.monotonic() - looked.seconds
    subject = Subject(divided, looked.seen, given, looked.copies)
    findings = [
        *dropped(looked),
        *constant(subject),
        *about_copies(subject),
        *imbalance(subject),
        *missing_classes(subject),
        *small_validation(subject),
    ]
    audit = replace(_audit(subject, findings, started), shortened=looked.shortened)
    for finding in audit:
        if finding.kind not in SAID_ALREADY:
            console.say(f"{finding.severity}: {finding.text}")
    console.say(f"looked at the data in {duration(audit.seconds)}; the run's audit.json names the files")
    return audit


def dropped(looked: Look) -> list[Finding]:
    if not looked.dropped:
        return []
    copies = sum(len(names) - 1 for names in looked.dropped)
    files = "file is a copy" if copies == 1 else "files are copies"
    text = f"{copies:,} {files} of another with the same label, and left out."
    return [
        Finding(
            "note",
            "dropped",
            text,
            "the first of each set is kept",
            looked.dropped,
            figures={"copies": copies},
        )
    ]


def _audit(subject: Subject, findings: list[Finding], started: float) -> Audit:
    in_split = {part: subject.members[subject.splits == part].sum(axis=0) for part in table.SPLITS}
    counted = {
        name: {part: int(counts[k]) for part, counts in in_split.items()}
        for k, name in enumerate(subject.table.classes)
    }
    seconds = round(time.monotonic() - started, 2)
    return Audit(len(subject.facts), counted, ordered(findings), subject.table.root, "", seconds)
