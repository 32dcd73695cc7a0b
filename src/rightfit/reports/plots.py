"""Figures of a report as SVG: light, sharp in print, in words that a browser sets in its own font.

What is ink takes the colour of the page's text (`currentColor`), so that a figure can be read on dark pages
too. Series differ in line and marker, not in colour alone.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.diagrams import Bin, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
INK = "#010203"  # stands for the page's own colour
FIRST, SECOND, FAINT = "#2f6fad", "#c8702a", "#9a9a9a"
LINES = ("-", "--", "-.", ":")
NUMBERED = 12  # classes up to which the cells of a confusion matrix hold their numbers
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rightfit",  # the same figure is the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a $ in the name of a class is a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Line:
    """One series over epochs; `half` is half of the 95 % interval's width, cut where no value can be: below 0 and
    above `most`."""

    name: str
    epochs: Floats
    values: Floats
    half: Floats | None = None
    most: float | None = None


def learning_curves(
    panels: Mapping[str, Sequence[Line]], x_label: str, kept: int | None, marks: Mapping[str, Sequence[float]]
) -> str:
    """A panel for each measure, by its name; a line down at epoch `kept`; `marks`, epochs by marker, along the foot.
    A line looks alike in each panel that has it, and its name is said once, above them."""
    from matplotlib.ticker import MaxNLocator

    numbers = {
        name: n for n, name in enumerate(dict.fromkeys(line.name for of in panels.values() for line in of))
    }
    named: dict[str, Any] = {}
    with _drawing(len(panels) * 3.4, 2.8, len(panels)) as drawn:
        for axes, (measure, lines) in zip(drawn.axes, panels.items(), strict=True):
            for line in lines:
                number = numbers[line.name]
                colour = (FIRST, SECOND)[number % 2]
                marker = "o" if len(line.epochs) < 25 else ""
                (named[line.name],) = axes.plot(
                    line.epochs, line.values, LINES[number], color=colour, marker=marker, ms=3
                )
                if line.half is not None:
                    low, high = np.maximum(line.values - line.half, 0), line.values + line.half
                    if line.most is not None:
                        high = np.minimum(high, line.most)
                    axes.fill_between(line.epochs, low, high, color=colour, alpha=0.2, lw=0)
            if kept is not None:
                axes.axvline(kept, color=FAINT, lw=0.8, ls=":")
            for marker, epochs in marks.items():
                foot = [0.03] * len(epochs)
                axes.plot(epochs, foot, marker, color=INK, ms=5, transform=axes.get_xaxis_transform())
            axes.set_xlabel(x_label)
            axes.set_ylabel(measure)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.margins(x=0.03)
        drawn.figure.legend([named[n] for n in numbers], list(numbers), loc="outside upper left", ncols=3)
        return drawn.svg()


def confusion(matrix: NDArray[np.int64], classes: Sequence[str], truth: str, answer: str) -> str:
    """(K, K) images by true class and answer; shaded by the share of the true class."""
    count = len(classes)
    side = min(6.5, 1.9 + 0.42 * min(count, 16))
    with _drawing(side, side, 1) as drawn:
        (axes,) = drawn.axes
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        if count <= NUMBERED:
            axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1.25, edgecolors="white", linewidth=0.5)
            for row, column in np.ndindex(count, count):
                colour = "white" if shares[row, column] > 0.6 else "black"
                x, y = column + 0.5, row + 0.5
                number = f"{matrix[row, column]:,}"
                axes.text(x, y, number, ha="center", va="center", color=colour, fontsize=8)
        else:
            axes.imshow(
                shares, cmap="Blues", vmin=0, vmax=1, extent=(0, count, count, 0), interpolation="none"
            )
        axes.set_ylim(count, 0)
        axes.set_aspect("equal")
        step = max(1, -(-count // 40))
        shown = list(range(0, count, step))
        names = [_shortened(classes[number]) for number in shown]
        axes.set_xticks(np.array(shown) + 0.5, names, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.array(shown) + 0.5, names)
        axes.tick_params(length=0, labelsize=8 if count <= 20 else 6)
        axes.set_xlabel(answer)
        axes.set_ylabel(truth)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return drawn.svg()


def reliability(
    before: Sequence[Bin],
    after: Sequence[Bin],
    names: tuple[str, str],
    labels: tuple[str, str],
) -> str:
    """Bins at temperature 1 and at the fitted one; bars are 95 % intervals of each bin's share."""
    with _drawing(3.6, 3.8, 1) as drawn:
        (axes,) = drawn.axes
        axes.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
        for number, (bins, name) in enumerate(zip((before, after), names, strict=True)):
            x, y, half = (
                np.array([getattr(b, of) for b in bins]) for of in ("confidence", "accuracy", "half_width")
            )
            colour = (FIRST, SECOND)[1 - number]
            low, high = np.minimum(half, y), np.minimum(half, 1 - y)
            axes.errorbar(
                x, y, (low, high), color=colour, ls=LINES[1 - number], marker="so"[number], ms=3.5, lw=1.2,
                elinewidth=0.7, label=name,
            )  # fmt: skip
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_aspect("equal")
        drawn.figure.legend(loc="outside upper left")  # off the bars, which reach far where images are few
        return drawn.svg()


def curves(found: Sequence[Curve], labels: tuple[str, str, str, str]) -> str:
    """Two panels, ROC and precision-recall, with the line of a guess."""
    with _drawing(6.8, 3.3, 2) as drawn:
        first, second = drawn.axes
        first.plot([0, 1], [0, 1], color=FAINT, lw=0.8)
        for number, curve in enumerate(found):
            look: dict[str, Any] = {"ls": LINES[number % 4], "color": (FIRST, SECOND)[number % 2], "lw": 1.3}
            look |= {"marker": ("", "o")[number // 4 % 2], "ms": 3, "markevery": 20}
            first.plot(
                curve.false_positive_rate, curve.true_positive_rate, label=_in_legend(curve.name), **look
            )
            second.step(curve.true_positive_rate, curve.precision, where="pre", **look)
        if len(found) == 1:
            second.axhline(found[0].share, color=FAINT, lw=0.8)
        for axes, x, y in ((first, labels[0], labels[1]), (second, labels[2], labels[3])):
            axes.set_xlabel(x)
            axes.set_ylabel(y)
            axes.set_xlim(-0.01, 1.01)
            axes.set_ylim(-0.01, 1.02)
            axes.set_aspect("equal")
        if len(found) > 1:
            first.legend(loc="lower right", fontsize=7)
        return drawn.svg()


def best_so_far(steps: Floats, losses: Floats, labels: tuple[str, str]) -> str:
    """The lowest loss by the training steps that it took, as a staircase."""
    with _drawing(5.2, 2.4, 1) as drawn:
        (axes,) = drawn.axes
        axes.step(steps, losses, where="post", color=FIRST, marker="o", ms=3)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        return drawn.svg()


def range_test(rates: Floats, losses: Floats, suggested: float | None, labels: tuple[str, str]) -> str:
    """Loss by learning rate on a log scale, from its lowest to what it began with; a line down at what is suggested."""
    with _drawing(5.2, 2.4, 1) as drawn:
        (axes,) = drawn.axes
        axes.semilogx(rates, losses, color=FIRST)
        axes.xaxis.set_major_formatter("{x:g}")
        room = 0.1 * (losses[0] - losses.min()) or 1.0
        axes.set_ylim(losses.min() - room, losses[0] + 3 * room)  # where it leaps, how far does not matter
        if suggested is not None:
            axes.axvline(suggested, color=FAINT, lw=0.8, ls=":")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        return drawn.svg()


def error_by_images(
    points: Sequence[tuple[int, float]],
    ahead: Sequence[tuple[int, float, float, float]],
    labels: tuple[str, str],
    names: tuple[str, str, str],
) -> str:
    """Errors by training images on logarithmic axes: of `points` (images, accuracy), the last of which is the run, and
    of those `ahead`, which also have the ends of the accuracy's 95 % interval, with the line that they lie on."""
    from matplotlib.ticker import LogFormatter, NullFormatter

    with _drawing(4.4, 2.8, 1) as drawn:
        (axes,) = drawn.axes
        images, right = np.array(points).T
        x, middle, low, high = np.array(ahead).T
        least = 1e-4  # a logarithm has no 0
        wrong, at, near, far = (100 * np.maximum(1 - of, least) for of in (right, middle, high, low))
        slope = np.log(at[-1] / at[0]) / np.log(x[-1] / x[0])
        ends = np.array([images.min(), x[-1]])
        axes.plot(ends, at[0] * (ends / x[0]) ** slope, color=FAINT, lw=0.8)
        axes.plot(images[:-1], wrong[:-1], "o", color=FIRST, ms=5, mfc="none", label=names[0])
        axes.plot(images[-1:], wrong[-1:], "s", color=FIRST, ms=5, label=names[1])
        bars = [at - near, far - at]
        axes.errorbar(x, at, bars, fmt="D", color=SECOND, ms=4, capsize=3, lw=1, label=names[2])
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = [*images.astype(int).tolist()[::2], *x.astype(int).tolist()]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.7)))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.legend(fontsize=8)
        return drawn.svg()


def parallel(settings: Sequence[tuple[str, str, str]], trials: Sequence[tuple[Sequence[float], str]]) -> str:
    """An axis for each setting (name, lowest, highest), a line for each trial: where in the ranges it was, and whether
    it is the "chosen" one, one that went the "whole" way, or one that ended "early"."""
    looks: dict[str, dict[str, Any]] = {
        "early": {"color": FAINT, "lw": 0.6, "ls": "-"},
        "whole": {"color": FIRST, "lw": 1.0, "ls": "--"},
        "chosen": {"color": SECOND, "lw": 2.2, "ls": "-", "marker": "o", "ms": 4},
    }
    with _drawing(max(3.0, 1.15 * len(settings)), 2.8, 1) as drawn:
        (axes,) = drawn.axes
        places = np.arange(len(settings))
        for kind, look in looks.items():
            for at, of in trials:
                if of == kind:
                    axes.plot(places, at, **look)
        for place, (_, low, high) in enumerate(settings):
            axes.axvline(place, color=INK, lw=0.6)
            axes.text(place, -0.04, low, ha="center", va="top", fontsize=7)
            axes.text(place, 1.04, high, ha="center", va="bottom", fontsize=7)
        axes.set_xticks(places, [name for name, _, _ in settings], fontsize=8)
        axes.tick_params(axis="x", length=0, pad=14)
        axes.set_yticks([])
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlim(-0.3, len(settings) - 0.7)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return drawn.svg()


def time_spent(parts: Mapping[str, float], seconds: str) -> str:
    """One bar of what the time went into; seconds by name."""
    with _drawing(6.8, 0.5 + 0.28 * len(parts), 1) as drawn:
        (axes,) = drawn.axes
        names = list(parts)
        axes.barh(names[::-1], [parts[name] for name in names[::-1]], color=FIRST, height=0.6)
        axes.set_xlabel(seconds)
        axes.tick_params(axis="y", length=0)
        return drawn.svg()


def _in_legend(name: str) -> str:
    """A legend leaves out what begins with an underscore; a space of no width before it does not."""
    return _shortened(f"\u200b{name}" if name.startswith("_") else name)


def _shortened(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


class _Drawn:
    def __init__(self, figure: Figure, axes: list[Axes]) -> None:
        self.figure, self.axes = figure, axes

    def svg(self) -> str:
        """The <svg> element alone, without fixed colours for ink, sized by the page."""
        text = io.StringIO()
        with warnings.catch_warnings():
            # Names in other scripts: a browser has the letters that the font used for measuring lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            # Once before: room is made for the ticks as they are before the layout, whose numbers may be shorter.
            self.figure.draw_without_rendering()
            self.figure.savefig(
                text, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
            )
        body = text.getvalue()
        body = body[body.index("<svg") :].replace(INK, "currentColor")
        body = re.sub(r' id="[a-z0-9]+_\d+"', "", body)  # the same in each figure of a page
        body = re.sub(r"<metadata>.*?</metadata>", "", body, count=1, flags=re.DOTALL)
        width = re.search(r'width="([\d.]+)pt"', body)
        assert width is not None
        pixels = float(width[1]) * 96 / 72
        return re.sub(
            r'(<svg[^>]*?) (?:height|width)="[\d.]+pt"([^>]*?) (?:height|width)="[\d.]+pt"',
            rf'\1\2 aria-hidden="true" focusable="false" style="width:100%;max-width:{pixels:.0f}px;height:auto"',
            body,
            count=1,
        )


class _drawing:
    """A figure of so many inches with panels side by side, in the style of this page alone."""

    def __init__(self, width: float, height: float, panels: int) -> None:
        self.width, self.height, self.panels = width, height, panels

    def __enter__(self) -> _Drawn:
        import matplotlib
        from matplotlib.figure import Figure

        self.context = matplotlib.rc_context(STYLE)
        self.context.__enter__()
        figure = Figure(figsize=(self.width, self.height), layout="constrained")
        return _Drawn(figure, list(np.atleast_1d(figure.subplots(1, self.panels))))

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
