"""An audit in, one HTML file out: every finding with thumbnails, readable offline, in grey and without images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rightfit.console import duration
from rightfit.data.audit.findings import Audit, Finding
from rightfit.data.table import SPLITS
from rightfit.files import write_text
from rightfit.reports.pages import rendered
from rightfit.reports.pictures import sets_of

SETS = 12  # of a finding that are shown
TOGETHER = 6  # images of a set that are shown


def write(audit: Audit, path: str | os.PathLike[str]) -> None:
    """Names are escaped; thumbnails are inside the page. Raises WriteError."""
    write_text(Path(path), page(audit))


def page(audit: Audit) -> str:
    shown = [name for name in SPLITS if any(counts[name] for counts in audit.classes.values())]
    return rendered(
        "audit.html",
        audit=audit,
        splits=shown,
        findings=[_section(audit, finding) for finding in audit],
        took=duration(audit.seconds),
    )


def _section(audit: Audit, finding: Finding) -> dict[str, Any]:
    shown = sets_of(audit.root, finding.files, SETS, TOGETHER)
    sets = [
        {
            "images": images,
            "reason": finding.reasons[number] if finding.reasons else "",
            "more": max(0, len(finding.files[number]) - TOGETHER),
        }
        for number, images in enumerate(shown)
    ]
    return {"finding": finding, "sets": sets, "more": max(0, len(finding.files) - SETS)}
