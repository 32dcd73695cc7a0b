"""An audit in, one HTML file out: every finding with thumbnails, readable offline, in grey and without images."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import cv2

from rightfit.console import duration
from rightfit.data.audit.findings import Audit, Finding
from rightfit.data.image import decode, read_bytes
from rightfit.data.resize import ImageSpec
from rightfit.data.table import SPLITS
from rightfit.errors import RightfitError
from rightfit.files import write_text

SETS = 12  # of a finding that are shown
TOGETHER = 6  # images of a set that are shown
SIDE = 112  # pixels of a thumbnail


def write(audit: Audit, path: str | os.PathLike[str]) -> None:
    """Names are escaped; thumbnails are new JPEGs inside the page, so that nothing of a file's EXIF is in it.

    Raises WriteError.
    """
    write_text(Path(path), page(audit))


def page(audit: Audit) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rightfit.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    shown = [name for name in SPLITS if any(counts[name] for counts in audit.classes.values())]
    return environment.get_template("audit.html").render(
        audit=audit,
        splits=shown,
        findings=[_section(audit, finding) for finding in audit],
        took=duration(audit.seconds),
    )


def _section(audit: Audit, finding: Finding) -> dict[str, Any]:
    sets = [
        {
            "images": [{"name": name, "source": thumbnail(audit.path(name))} for name in together[:TOGETHER]],
            "reason": finding.reasons[number] if finding.reasons else "",
            "more": max(0, len(together) - TOGETHER),
        }
        for number, together in enumerate(finding.files[:SETS])
    ]
    return {"finding": finding, "sets": sets, "more": max(0, len(finding.files) - SETS)}


def thumbnail(path: str) -> str:
    """The data URI of a JPEG, or "" for what cannot be decoded."""
    try:
        pixels = decode(read_bytes(path), ImageSpec(SIDE, SIDE, "pad"), path)
    except RightfitError:
        return ""
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}" if done else ""
