"""Write the tables and plots of the documents from benchmarks/results, so that they cannot drift.

A page holds `<!-- results NAME -->` ... `<!-- /results -->` for each benchmark; what is between is written here:
for every machine with a file NAME-PROCESSOR.json a table and a plot in docs/images, and of NAME.jsonl, whose lines
are runs, what `tables` of that benchmark makes of them.

    python benchmarks/report.py             needs matplotlib: pip install 'rightfit[dev]'
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, markdown, read_lines, rows_of

PAGES = [
    ROOT / "docs" / name
    for name in ("benchmarks.md", "doctor.md", "how-to/tune.md", "how-to/would-more-images-help.md")
]
PLOTS = ROOT / "docs" / "images"
BLOCK = re.compile(r"(<!-- results (\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)

Result = dict[str, Any]


def main() -> int:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for _, name, _ in BLOCK.findall(text):
            for path in files(name):
                plot(json.loads(path.read_text()), PLOTS / f"{path.stem}.svg")
        page.write_text(with_tables(text), encoding="utf-8")
    return 0


def with_tables(text: str) -> str:
    """The page with every block as the results are now."""
    return BLOCK.sub(lambda block: block[1] + section(block[2]) + block[3], text)


def files(name: str) -> list[Path]:
    """The results of one benchmark, a file a machine."""
    found = [(path, json.loads(path.read_text())) for path in sorted(RESULTS.glob(f"{name}-*.json"))]
    return [path for path, result in found if result.get("benchmark") == name]


def section(name: str) -> str:
    if (lines := RESULTS / f"{name}.jsonl").exists():
        found: str = importlib.import_module(name).tables(read_lines(lines))
        return found
    parts = [of_machine(path) for path in files(name)]
    return "\n".join(parts) if parts else "Not measured yet.\n"


def of_machine(path: Path) -> str:
    result = json.loads(path.read_text())
    machine, versions = result["machine"], result["versions"]
    flags = ", ".join(machine["flags"])
    named = ", ".join(f"{package} {version}" for package, version in versions.items())
    lines = [
        f"On {machine['cores']} cores of {machine['processor']} ({flags}), {len(result['rounds'])} rounds: "
    ]
    lines[0] += f"[every repetition](../benchmarks/results/{path.name}). With {named}.\n"
    header, *rows = rows_of(result["summary"])
    lines += [markdown(header, rows), ""]
    if "fraction_of_matrix_rate" in result and "matrix_rate_gflops" in result:
        lines += [matrix_rates(result), ""]
    for left, reason in result["left_out"].items():
        lines += [f"Left out: {left} ({reason}).", ""]
    lines += [f"![{result['benchmark']}](images/{path.stem}.svg)", ""]
    return "\n".join(lines)


def matrix_rates(result: Result) -> str:
    rates = ", ".join(
        f"{rate:,.0f} GFLOP/s in {k}" for k, rate in result["matrix_rate_gflops"].items() if rate
    )
    shares = ", ".join(
        f"{name} {share:.0%} ({result['precision'][name]})"
        for name, share in result["fraction_of_matrix_rate"].items()
    )
    return f"A product of 3072 × 3072 matrices reached {rates}; of the rate in its precision: {shares}."


def plot(result: Result, path: Path) -> None:
    """Bars with the 95 % interval of each median, a panel a metric; lines where a cost grows."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "rightfit", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    panels = growth_panels(result) if "lines" in result else bar_panels(result)
    height = 1.0 + max(len(panel) for panel in panels.values()) * 0.3 if "lines" not in result else 3.0
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(3.6 * columns + 1.5, height * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=False):
        draw_growth(axis, title, panel) if "lines" in result else draw_bars(axis, title, panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def bar_panels(result: Result) -> dict[str, Any]:
    return {f"{t} ({metric['unit']})": metric["contenders"] for t, metric in result["summary"].items()}


def draw_bars(axis: Any, title: str, contenders: dict[str, Any]) -> None:
    names = list(contenders)[::-1]
    middles = [contenders[name]["median"] for name in names]
    errors = [
        [contenders[name]["median"] - contenders[name]["low"] for name in names],
        [contenders[name]["high"] - contenders[name]["median"] for name in names],
    ]
    greys = ["0.25" if name.startswith("rightfit") else "0.75" for name in names]
    axis.barh(names, middles, xerr=errors, color=greys, ecolor="black", capsize=3)
    axis.set_xlabel(title)
    axis.spines[["top", "right"]].set_visible(False)


def growth_panels(result: Result) -> dict[str, Any]:
    return result["lines"]


def draw_growth(axis: Any, title: str, line: dict[str, Any]) -> None:
    axis.loglog(line["sizes"], line["seconds"], "o-", color="0.25")
    axis.set_title(f"{title}, slope {line['slope']:.2f}", fontsize=9)
    axis.set_xlabel("pixels a side" if "size" in title else "images")
    axis.set_ylabel("seconds")
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
