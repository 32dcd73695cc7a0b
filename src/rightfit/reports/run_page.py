"""A run's story in, one HTML file out: offline, to be mailed, printed, read in grey or by a screen reader."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import metadata

from rightfit.reports import sections
from rightfit.reports.learning_curve import learning_curve
from rightfit.reports.pages import rendered
from rightfit.reports.searched import searched
from rightfit.reports.shown import listed, share, with_code
from rightfit.reports.story import Story
from rightfit.reports.words import Words

AGAIN = 15  # seconds after which a page of a run that goes on loads itself anew


def page(story: Story, language: str = "en") -> str:
    words = Words(language)
    return rendered(
        "run.html",
        story=story,
        t=words,
        text=lambda phrase, **values: with_code(words(phrase, **values)),
        code=with_code,
        lead=[with_code(line) for line in _lead(story, words)],
        refresh=AGAIN if story.going_on else None,
        learning=sections.learning(story, words),
        numbers=sections.numbers(story, words),
        by_class=sections.by_class(story),
        slices=sections.slices(story, words),
        confusion=sections.confusion(story, words),
        reliability=sections.reliability(story, words),
        curves=sections.curves(story, words),
        points=sections.points(story),
        mistakes=[(p, sections.what(p, words)) for p in story.mistakes],
        suspects=sections.suspects(story, words),
        search=searched(story, words),
        learning_curve=learning_curve(story, words),
        time=sections.time_spent(story, words),
        made=words("made by", version=metadata.version("rightfit"), time=_stamp()),
    )


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M")


# In words -------------------------------------------------------------------------------------------


def _lead(story: Story, t: Words) -> list[str]:
    """What was asked, what came out, and what the test said: a sentence each."""
    several = story.label_mode == "multilabel"
    settings, found = story.settings, story.metrics.get("validation")
    height, width = settings["height_width"]
    counts = {name: story.counts.get(name, 0) for name in ("train", "val", "test")}
    asked = t(
        "asked multilabel" if several else "asked",
        model=settings["model"],
        classes=listed(story.classes, t),
        data=settings["data"],
        width=width,
        height=height,
        **counts,
    )
    lines = [asked]
    if story.going_on:
        now = _stamp()[-5:]
        done = len(sections.epochs_of(story))
        lines.append(t("going on", time=now, done=done, planned=story.planned, seconds=AGAIN, run=story.name))
        return lines
    if story.stopped:
        lines.append(t("stopped", why=story.stopped))
    if found:
        accuracy = {name: share(value) for name, value in found["accuracy"].items()}
        common, baseline = story.common
        phrase = "came out multilabel" if several else "came out"
        lines.append(t(phrase, images=found["images"], common=common, baseline=share(baseline), **accuracy))
    elif not story.stopped:
        lines.append(t("no validation"))
    lines.append(_of_test(story, counts["test"], t))
    return lines


def _of_test(story: Story, images: int, t: Words) -> str:
    found, count = story.metrics.get("test"), len(story.openings)
    times = t("once") if count <= 1 else t("times", count=count)
    if not images:
        return t("no test")
    if not found and count:
        return t("test opened", images=images, times=times)
    if not found:
        return t("test sealed", images=images, run=story.name)
    said = t(
        "test multilabel" if story.label_mode == "multilabel" else "test",
        images=found["images"],
        times=times,
        **{name: share(value) for name, value in found["accuracy"].items()},
    )
    others = story.openings[-1].get("other_weights_before", 0) if story.openings else 0
    return f"{said} {t('test of others', count=others)}" if others else said
