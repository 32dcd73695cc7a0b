"""Findings about single files: unreadable, named as another format, constant, unlike the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from rightfit.data.audit.findings import Finding, Severity
from rightfit.data.audit.subject import Subject
from rightfit.data.remote import is_url

BAD = 0.05  # share of unreadable files from which training refuses, as quarantine does
CONSTANT = 1.0  # grey levels of standard deviation: noise of a covered lens has more
FAR = 8.0  # robust standard deviations; a normal variable passes that once in 10^15
RARE = 0.05  # a kind of image this rare is said to be unlike the others
SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
}
CHANNELS = {
    "1": "grey", "L": "grey", "I": "grey", "F": "grey", "LA": "grey with alpha", "RGB": "colour", "P": "palette",
    "RGBA": "colour with alpha", "CMYK": "CMYK",
}  # fmt: skip


def about_files(subject: Subject) -> list[Finding]:
    return [
        *unreadable(subject),
        *misnamed(subject),
        *constant(subject),
        *odd_shapes(subject),
        *odd_kinds(subject),
        *odd_light(subject),
    ]


def unreadable(subject: Subject) -> list[Finding]:
    reasons = subject.facts.reasons
    if not reasons:
        return []
    rows = sorted(reasons)
    total = len(subject.facts)
    kinds = Counter("empty" if reasons[row].startswith("empty") else "broken" for row in rows)
    said = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
    many = len(rows) > BAD * total
    severity: Severity = "error" if many else "warning"
    advice = "training leaves them out; repair or remove them"
    if many:
        advice = (
            f"more than {BAD:.0%} have a common cause: repair them, or train on the others with --allow-bad"
        )
    if len(rows) == total:
        advice = "nothing is left to train on"
    return [
        Finding(
            severity,
            "unreadable",
            f"{len(rows):,} of {total:,} files cannot be read ({said}).",
            advice,
            _alone(subject, rows),
            tuple(reasons[row] for row in rows),
            {"share": len(rows) / total},
        )
    ]


def misnamed(subject: Subject) -> list[Finding]:
    """The name says another format than the content."""
    rows, reasons = [], []
    for row, head in enumerate(subject.facts.headers or ()):
        name = str(subject.table.frame["name"].iloc[row])
        if "?" in name and is_url(subject.table.path(row)):
            name = name.partition("?")[0]  # what follows is a signature, no name
        suffix = PurePosixPath(name).suffix.lower()
        if head is not None and subject.facts.ok[row] and suffix and suffix not in SUFFIXES[head.format]:
            rows.append(row)
            reasons.append(f"{head.format} named {suffix}")
    if not rows:
        return []
    return [
        Finding(
            "note",
            "misnamed",
            f"{_files(len(rows))} of another format than the name says.",
            "rightfit goes by the content; other programs may not",
            _alone(subject, rows),
            tuple(reasons),
        )
    ]


def constant(subject: Subject) -> list[Finding]:
    facts = subject.facts
    rows = np.flatnonzero(facts.ok & (facts.light[:, 1] < CONSTANT))
    if not len(rows):
        return []
    greys = tuple(f"grey level {facts.light[row, 0]:.0f}" for row in rows)
    text = f"{_images(len(rows))} of one grey level all over: nothing is to be seen."
    return [Finding("warning", "constant", text, "remove or retake them", _alone(subject, rows), greys)]


def odd_shapes(subject: Subject) -> list[Finding]:
    """A side under a third or over three times the median, or an aspect twice as far from square."""
    heads = enumerate(subject.facts.headers or ())
    known = [(row, head) for row, head in heads if head is not None and subject.facts.ok[row]]
    if len(known) < 3:
        return []
    rows = np.array([row for row, _ in known], np.int64)
    sides = np.array([(head.height, head.width) for _, head in known], float)
    short = sides.min(axis=1)
    aspect = sides[:, 1] / sides[:, 0]
    ratio, stretch = short / np.median(short), aspect / np.median(aspect)
    odd = (ratio < 1 / 3) | (ratio > 3) | (stretch > 2) | (stretch < 0.5)
    if not odd.any() or odd.mean() > RARE:
        return []
    middle = f"{np.median(sides[:, 1]):.0f} x {np.median(sides[:, 0]):.0f}"
    reasons = tuple(f"{int(w)} x {int(h)} pixels" for h, w in sides[odd])
    text = f"{_images(int(odd.sum()))} of a size or shape unlike the others (the median is {middle} pixels)."
    return [
        Finding("note", "odd-shapes", text, "see that they belong here", _alone(subject, rows[odd]), reasons)
    ]


def odd_kinds(subject: Subject) -> list[Finding]:
    """Rare bit depths and channels: 16 bits among 8, CMYK among RGB, grey among colour."""
    headers = subject.facts.headers
    if headers is None:
        return []
    of: dict[str, list[int]] = {}
    for row, head in enumerate(headers):
        if head is not None and subject.facts.ok[row]:
            # a colour file may hold a grey picture, and what counts is the picture
            channels = CHANNELS.get(head.mode, "grey" if head.mode.startswith("I") else head.mode)
            if channels in ("colour", "palette") and subject.facts.light[row, 4] < 2:
                channels = "grey"
            of.setdefault(f"{channels}, {head.bits} bits", []).append(row)
    total = sum(map(len, of.values()))
    rare = {kind: rows for kind, rows in of.items() if len(rows) <= RARE * total}
    rows = sorted(row for rows in rare.values() for row in rows)
    if not rows:
        return []
    kind_of = {row: kind for kind, rows in rare.items() for row in rows}
    usual = max(of, key=lambda kind: len(of[kind]))
    text = f"{_images(len(rows))} of other channels or bit depth than most ({usual})."
    return [
        Finding(
            "note",
            "odd-kinds",
            text,
            "all become 8-bit RGB; see that another source does not mean another class",
            _alone(subject, rows),
            tuple(kind_of[row] for row in rows),
            {kind: len(found) for kind, found in of.items()},
        )
    ]


def odd_light(subject: Subject) -> list[Finding]:
    """Brightness, contrast or colour more than FAR robust standard deviations from the median."""
    facts = subject.facts
    rows = np.flatnonzero(facts.ok)
    if len(rows) < 30:
        return []
    light = facts.light[rows]
    middle = np.median(light, axis=0)
    scale = np.maximum(
        1.4826 * np.median(np.abs(light - middle), axis=0), 2.0
    )  # two grey levels tell nothing
    away = (light - middle) / scale
    odd = np.abs(away).max(axis=1) > FAR
    if not odd.any() or odd.mean() > RARE:
        return []
    names = ("brightness", "contrast", "red", "blue", "colour")
    worst = np.abs(away).argmax(axis=1)
    reasons = tuple(
        f"{names[worst[i]]} {light[i, worst[i]]:.0f}, usually {middle[worst[i]]:.0f}"
        for i in np.flatnonzero(odd)
    )
    text = f"{_images(int(odd.sum()))} of far other brightness, contrast or colour than the rest."
    return [
        Finding("note", "odd-light", text, "see that they belong here", _alone(subject, rows[odd]), reasons)
    ]


def _alone(subject: Subject, rows: Sequence[int] | npt.NDArray[Any]) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in subject.names(np.asarray(rows, np.int64)))


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count:,} files are"


def _images(count: int) -> str:
    return "1 image is" if count == 1 else f"{count:,} images are"
