"""What parts of the training images taught and more are expected to teach, as a section of the run's page."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from rightfit.records import would_help
from rightfit.reports import plots
from rightfit.reports.shown import share
from rightfit.reports.story import Story
from rightfit.reports.words import Words


def learning_curve(story: Story, t: Words) -> dict[str, Any] | None:
    found = story.learning_curve
    if not found:
        return None
    points = [(point["images"], point["accuracy"]) for point in found["points"]]
    ahead = [(each["images"], each["accuracy"], each["low"], each["high"]) for each in found["forecasts"]]
    (images, now), (twice, accuracy, low, high) = points[-1], ahead[0]
    labels = (t("training images"), t("error axis"))
    names = (t("parts of them"), t("this run"), t("expected"))
    return {
        "figure": Markup(plots.error_by_images(points, ahead, labels, names)),
        "alt": t("learning curve alt"),
        "verdict": t(f"verdict {would_help(found)}"),
        "text": t(
            "learning curve text", images=images, now=share(now), twice=twice, accuracy=share(accuracy), low=share(low),
            high=share(high), validation=found["validation"], half=f"{100 * found['half_width']:.1f}",
        ),
        "rows": [
            *((f"{count:,}", share(value), "") for count, value in points[:-1]),
            (f"{images:,}", share(now), t("this run")),
            *((f"{count:,}", share(value), f"{share(low)} – {share(high)}") for count, value, low, high in ahead),
        ],
    }  # fmt: skip
