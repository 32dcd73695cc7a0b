"""What a search for settings found, as a section of the page of the run that it ended in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from rightfit.reports import plots
from rightfit.reports.shown import number, share, with_code
from rightfit.reports.story import Story
from rightfit.reports.words import Words

ENOUGH = (
    4  # trials to the end, besides the default recipe, before a page says that there is little more to find
)


def searched(story: Story, t: Words) -> dict[str, Any] | None:
    found = story.search
    if not found:
        return None
    trials, told = found["trials"], found["reported"]
    failed = [each for each in trials if each["failed"]]
    names = [knob["name"] for knob in found["space"]]
    steps, losses = (np.array(of, np.float64) for of in zip(*found["best"], strict=True))
    lines = [
        ([each["at"][name] for name in names], _kind(each, found)) for each in trials if not each["failed"]
    ]
    accuracy = f"{100 * told['accuracy']:.1f} ±{100 * told['accuracy_half']:.1f} %"
    return {
        "text": t(
            "searched text", trials=len(trials), steps=found["steps"], epochs=found["epochs"], images=found["images"],
            seeds=found["seeds"], accuracy=accuracy,
        ),
        "chosen": "" if found["chosen"] == 0 else t("searched chosen", trial=found["chosen"]),
        "because": found["because"],
        "failed": t("searched failed", count=len(failed), why=failed[-1]["failed"]) if failed else "",
        "best": {
            "figure": Markup(plots.best_so_far(steps, losses, (t("steps axis"), t("searched loss")))),
            "alt": t("best alt", loss=f"{losses[-1]:.4f}"),
        },
        "range": _range_test(found.get("range_test") or {}, t),
        "parallel": {
            "figure": Markup(
                plots.parallel([(name, *_ends(knob)) for name, knob in zip(names, found["space"], strict=True)], lines)
            ),
            "alt": t("parallel alt"),
            "text": t("parallel"),
        },
        "rows": [
            (name, _shown(found["default"][name]), _shown(found["settings"][name]),
             share(found["importances"].get(name)) if found["importances"] else "–")
            for name in names
        ],
        "importance": t("importance text") if found["importances"] else t("importance none"),
        "next": with_code(_next(found, t)),
    }  # fmt: skip


def _range_test(tested: Mapping[str, Any], t: Words) -> dict[str, Any] | None:
    if not tested.get("rates"):
        return None
    rates, losses = (np.array(tested[name], np.float64) for name in ("rates", "losses"))
    suggested = tested["suggested"]
    labels = (t("rate axis"), t("step loss"))
    return {
        "figure": Markup(plots.range_test(rates, losses, suggested, labels)),
        "alt": t("range alt"),
        "text": t("range test", rate=number(suggested)) if suggested else t("range none"),
    }


def _kind(trial: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    if trial["trial"] == found["chosen"]:
        return "chosen"
    return "whole" if trial["epochs"] == found["epochs"] else "early"


def _ends(knob: dict[str, Any]) -> tuple[str, str]:
    ends = (knob["choices"][0], knob["choices"][-1]) if knob["choices"] else (knob["low"], knob["high"])
    return _shown(ends[0]), _shown(ends[1])


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) else str(value)


def _next(found: Mapping[str, Any], t: Words) -> str:
    """What another search should look at."""
    others = [each for each in found["trials"][1:] if each["epochs"] == found["epochs"]]
    if len(others) < ENOUGH:
        return t("next short", trials=len(found["trials"]), others=len(others))
    if found["edges"]:
        ends = ", ".join(f"{name} ({t(f'end {end}')})" for name, end in found["edges"].items())
        return t("next edges", names=ends)
    return t("next default" if found["chosen"] == 0 else "next none")
