"""Findings about images that are there twice: copies, near-duplicates, contradicting labels, leaks between splits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rightfit.data.audit import duplicates
from rightfit.data.audit.findings import Finding, Severity
from rightfit.data.audit.subject import Ints, Subject
from rightfit.data.table import SPLITS

TOO_MANY = (
    f"training does not look for them in more than {duplicates.NEAR_LIMIT:,} images: remove all but one of each, "
    "or give those that belong together one group (--group-by)"
)
MOST = 0.5  # of a held-out split; where more has been seen in training, its figures say nothing


def about_copies(subject: Subject) -> list[Finding]:
    exact, near = subject.together(subject.copies.exact), subject.together(subject.copies.near)
    return [
        *conflicts(subject, near),
        *leak(subject, near),
        *exact_duplicates(subject, exact),
        *near_duplicates(subject, near),
        *torn_groups(subject),
    ]


def exact_duplicates(subject: Subject, exact: list[Ints]) -> list[Finding]:
    sets = [rows for rows in exact if not _differ(subject, rows)]
    if not sets:
        return []
    more = sum(len(rows) - 1 for rows in sets)
    text = f"{_copies(more)} of another, byte for byte, with the same label."
    advice = "they count twice; --drop-duplicates leaves out all but the first"
    return [_finding("warning", "exact-duplicates", text, advice, subject, sets, {"copies": more})]


def near_duplicates(subject: Subject, near: list[Ints]) -> list[Finding]:
    """Sets that hold more than copies of one file, on one side and of one label: the others are told elsewhere."""
    sets = [
        rows for rows in near if len(np.unique(subject.copies.exact[rows])) > 1 and not _differ(subject, rows)
    ]
    sets = [rows for rows in sets if not _crosses(subject, rows)]
    if not sets:
        return []
    count = sum(map(len, sets))
    text = f"{count:,} images are the same picture as another of their class, resized, re-encoded, turned or relit."
    advice = "training keeps them on one side of the split (--group-near-duplicates, the default)"
    if not duplicates.kept_together(_readable(subject)):
        advice = TOO_MANY
    if subject.given:
        advice = "they lie in one split each, so that nothing leaks; they count more than once"
    return [_finding("note", "near-duplicates", text, advice, subject, sets, {"sets": len(sets)})]


def conflicts(subject: Subject, near: list[Ints]) -> list[Finding]:
    sets = [rows for rows in near if _differ(subject, rows)]
    if not sets:
        return []
    exact = sum(
        _differ(subject, rows[subject.copies.exact[rows] == n])
        for rows in sets
        for n in np.unique(subject.copies.exact[rows])
    )
    number = "1 picture is" if len(sets) == 1 else f"{len(sets):,} pictures are"
    text = f"{number} there under different labels ({exact:,} as the very same file)."
    advice = "one label is wrong: correct it, or remove the picture"
    reasons = [
        " / ".join(dict.fromkeys(subject.table.frame["label"].iloc[rows].astype(str))) for rows in sets
    ]
    return [
        _finding("warning", "label-conflicts", text, advice, subject, sets, {"same_file": exact}, reasons)
    ]


def leak(subject: Subject, near: list[Ints]) -> list[Finding]:
    """Pictures on both sides of the split: of a given one, or one that was made without grouping them."""
    splits = subject.splits
    sets = [rows for rows in near if _crosses(subject, rows)]
    if not sets:
        return []
    leaked: dict[str, int] = {}
    sizes = subject.split_sizes()
    for name, seen_in in (("val", ("train",)), ("test", ("train", "val"))):
        leaked[name] = sum(
            int((splits[rows] == name).sum()) for rows in sets if np.isin(splits[rows], seen_in).any()
        )
    severity: Severity = "warning"
    if any(leaked[name] > MOST * sizes[name] for name in leaked if sizes[name]):
        severity = "error"
    parts = [f"{leaked[n]:,} of {sizes[n]:,} {n} images" for n in leaked if leaked[n]]
    text = f"{' and '.join(parts)} are also on the other side of the split, and seen before they are judged."
    advice = "--group-near-duplicates keeps them on one side"
    if not duplicates.kept_together(_readable(subject)):
        advice = TOO_MANY
    if subject.given:
        advice = (
            "move each picture to one side, or drop the column or folders of splits and let training split"
        )
    if any(len(np.unique(subject.copies.exact[rows])) < len(rows) for rows in sets):
        advice += "; --drop-duplicates keeps of equal files the one in test, then val"
    reasons = [", ".join(name for name in SPLITS if (splits[rows] == name).any()) for rows in sets]
    return [_finding(severity, "leak", text, advice, subject, sets, leaked, reasons)]


def torn_groups(subject: Subject) -> list[Finding]:
    groups, splits = subject.table.frame["group"].to_numpy(object), subject.splits
    seen: dict[str, set[str]] = {}
    for group, split in zip(groups, splits, strict=True):
        if group and split:
            seen.setdefault(group, set()).add(split)
    torn = sorted(group for group, sides in seen.items() if len(sides) > 1)
    if not torn:
        return []
    rows_of: dict[str, list[int]] = {group: [] for group in torn}
    for row, group in enumerate(groups):
        if group in rows_of:
            rows_of[group].append(row)
    number = "1 group lies" if len(torn) == 1 else f"{len(torn):,} groups lie"
    text = f"{number} in more than one of the {'given ' if subject.given else ''}splits."
    advice = "give each group one split, or leave the splits out: training keeps groups whole"
    sets = [np.array(rows, np.int64) for rows in rows_of.values()]
    return [_finding("warning", "torn-groups", text, advice, subject, sets, {"groups": torn}, torn)]


def _readable(subject: Subject) -> int:
    return int(subject.facts.ok.sum())


def _differ(subject: Subject, rows: Ints) -> bool:
    return bool((subject.label_sets[rows] != subject.label_sets[rows[0]]).any())


def _crosses(subject: Subject, rows: Ints) -> bool:
    return len({split for split in subject.splits[rows] if split}) > 1


def _copies(count: int) -> str:
    return "1 image is a copy" if count == 1 else f"{count:,} images are copies"


def _finding(
    severity: Severity,
    kind: str,
    text: str,
    advice: str,
    subject: Subject,
    sets: list[Ints],
    figures: dict[str, Any],
    reasons: Iterable[str] = (),
) -> Finding:
    files = tuple(subject.names(rows) for rows in sets)
    return Finding(severity, kind, text, advice, files, tuple(reasons), figures)
