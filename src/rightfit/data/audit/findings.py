"""What an audit says: findings with a severity, the files and the flag that deals with them, and their JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rightfit.data.remote import is_url

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """One thing that was found, in words for a person and in files and figures for a program.

    error: training would be pointless; warning: results would mislead, or images are lost; note: good to know.
    """

    severity: Severity
    kind: str  # a name that stays: "unreadable", "exact-duplicates", ...
    text: str  # one sentence
    advice: str = ""  # what to do, with the flag if there is one
    files: tuple[tuple[str, ...], ...] = ()  # images that belong together; a file alone is a tuple of one
    reasons: tuple[str, ...] = ()  # of each entry in files, or none
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return len({name for together in self.files for name in together})


@dataclass(frozen=True)
class Audit:
    """All findings, the gravest first; `shortened` says what was not looked at."""

    images: int
    classes: dict[str, dict[str, int]]  # class -> split ("" before there is one) -> readable images
    findings: tuple[Finding, ...]
    root: str = ""  # names are relative to it
    shortened: str = ""
    seconds: float = 0.0

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def path(self, name: str) -> str:
        return path_of(self.root, name)

    @property
    def pointless(self) -> bool:
        """Is there a reason not to train at all?"""
        return any(finding.severity == "error" for finding in self)

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self)

    def to_dict(self) -> dict[str, Any]:
        """In JSON's kinds."""
        return {**asdict(self), "pointless": self.pointless}


def path_of(root: str, name: str) -> str:
    """Names are relative to `root`, where there is one."""
    absolute = is_url(name) or os.path.isabs(name)
    return name if absolute or not root else f"{root.rstrip('/')}/{name}"


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """By severity; within one, as found."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))
