"""An audit in, what the screen says of it out: a line a finding, what to do, and the first files."""

from __future__ import annotations

from collections.abc import Iterator

from rightfit.console import counted
from rightfit.data.audit.findings import Audit, Finding

SHOWN = 3  # sets of a finding, images of a set
CLASSES = 8
MARGIN = " " * 8


def as_text(audit: Audit) -> str:
    """Lines for a terminal; names in them cannot hold its codes, or break a line."""
    counts = [f"{name} {sum(splits.values()):,}" for name, splits in audit.classes.items()]
    more = f", and {len(counts) - CLASSES:,} more" if len(counts) > CLASSES else ""
    images, classes = counted(audit.images, "image"), counted(len(counts), "class", "classes")
    lines = [f"{images} of {classes}: {', '.join(counts[:CLASSES])}{more}"]
    for finding in audit:
        lines += _of(finding)
    if not audit.findings:
        lines.append("nothing found")
    return "\n".join(map(_printable, lines))


def _of(finding: Finding) -> Iterator[str]:
    yield f"{finding.severity:<8} {finding.text}"
    if finding.advice:
        yield f"{MARGIN} → {finding.advice}"
    for number, together in enumerate(finding.files[:SHOWN]):
        rest = ", ..." if len(together) > SHOWN else ""
        reason = f"  ({finding.reasons[number]})" if finding.reasons else ""
        yield f"{MARGIN}   {' = '.join(together[:SHOWN])}{rest}{reason}"
    if len(finding.files) > SHOWN:
        yield f"{MARGIN}   and {len(finding.files) - SHOWN:,} more; --json and --html name them"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
