"""Values in, as a page shows them out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from rightfit.reports.words import Words


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


PART = re.compile(r"(dark|medium|bright|small|large) \((\S+) to (\S+) (?:of 255|megapixels)\)")
METHOD = re.compile(
    r"95 %, bootstrap over groups, (\d+) resamples(?: \((\d+) of the curves\))?: standard error, .*"
)


def part_of_split(by: str, name: str, t: Words) -> str:
    """The name of a slice, as metrics.json has it; what rightfit called so, in the page's language."""
    found = PART.fullmatch(name) if by != "group" else None
    if not found:
        return name
    word, low, high = found.groups()
    return t(f"slice medium {by}" if word == "medium" else f"slice {word}", low=low, high=high)


def interval_method(how: str, t: Words) -> str:
    """How the intervals were made, as metrics.json has it; in the page's language where it is known."""
    if not (found := METHOD.fullmatch(how)):
        return how
    resamples, of_curves = found.groups()
    fewer = t("interval fewer", count=int(of_curves)) if of_curves else ""
    return t("interval how", resamples=int(resamples), fewer=fewer)


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
