"""Values in, as a page shows them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from rightfit.report.words import Words


def listed(names: Sequence[str], t: Words, most: int = 5) -> str:
    comma, last = ("、", "、") if t.language == "zh" else (", ", " and ")
    if len(names) > most:
        shown = comma.join(names[: most - 1])
        return t("and others", names=shown, count=len(names) - most + 1, total=len(names))
    return last.join(filter(None, (comma.join(names[:-1]), *names[-1:])))


def share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def estimate(found: Mapping[str, float | None] | None) -> tuple[str, str]:
    """Value and interval, as they are shown."""
    if not found or found["value"] is None:
        return "–", ""
    if found["low"] is None or found["high"] is None:
        return f"{found['value']:.4f}", ""
    return f"{found['value']:.4f}", f"{found['low']:.4f} – {found['high']:.4f}"


def number(value: Any) -> str:
    if missing(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) and not value.is_integer() else f"{int(value):,}"


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def with_code(text: str) -> Markup:
    """`so` -> <code>so</code>; all else escaped."""
    parts = str(escape(text)).split("`")
    return Markup("".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts)))
