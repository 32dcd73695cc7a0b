"""Metrics in, the lines of a table that fits a screen out, whether of two classes or a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHOWN = 20  # classes; of more, those with the lowest recall
WIDTH, MOST = 30, 46  # columns of a name, at least and at most
Row = tuple[str, str]  # what it is, and what it is worth


def lines_of(metrics: dict[str, Any]) -> list[str]:
    rows = _rows(metrics)
    apart = [
        (f"{by} {name}", shown(part))
        for by, parts in metrics.get("slices", {}).items()
        for name, part in parts.items()
        if part["differs"]
    ]
    names = padded([name for name, _ in [*rows, *apart]], WIDTH)
    lines = [f"  {name} {text}" for name, (_, text) in zip(names, [*rows, *apart], strict=True)]
    if apart:
        lines.insert(len(rows), f"  {name_of_accuracy(metrics)} of a part that differs from the whole:")
    return lines


def name_of_accuracy(metrics: dict[str, Any]) -> str:
    """For several labels it is that of single labels, which a screen does not call an accuracy."""
    return "share of labels right" if "exact_match" in metrics else "accuracy"


def points_of(label_mode: str) -> str:
    """What a difference has so many points of."""
    return "labels right" if label_mode == "multilabel" else "accuracy"


def without_points(metrics: dict[str, Any]) -> str:
    """Which of several labels, or of two classes the second, got no operating points; "" where none lacks them."""
    of_labels = list(metrics["curves"])
    if len(of_labels) > 1 and "exact_match" not in metrics:  # of several classes there are none
        return ""
    known = {name for labels in metrics.get("operating_points", {}).values() for name in labels}
    lacking = [name for name in of_labels if name not in known]
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    why = "all validation images are of it, or none is"
    return f"no operating points of {', '.join(lacking[:5])}{more}: {why}" if lacking else ""


def shown(estimate: dict[str, Any]) -> str:
    value, low, high = (
        "-" if estimate[end] is None else f"{estimate[end]:.4f}" for end in ("value", "low", "high")
    )
    return value if value == "-" else f"{value}   -" if low == high == "-" else f"{value}   {low} to {high}"


def _rows(metrics: dict[str, Any]) -> list[Row]:
    names = {"accuracy": name_of_accuracy(metrics), "exact_match": "images with all labels right"}
    names |= {"balanced_accuracy": "balanced accuracy", "loss": "log loss"}
    names |= {n: f"top-{n[4:-9]} accuracy" for n in metrics if n.startswith("top_")}
    rows = [(name, shown(metrics[key])) for key, name in names.items() if key in metrics]
    rows.append(("macro F1", shown(metrics["macro"]["f1"])))
    names = {"auroc": "AUROC", "quadratic_kappa": "quadratic kappa", "kappa": "kappa", "mcc": "MCC"}
    names["ece"] = "calibration error"
    rows += [(name, shown(metrics[key])) for key, name in names.items() if key in metrics]
    recalls, precisions = metrics["recall"], metrics["precision"]
    kinds = list(recalls)
    if len(kinds) > SHOWN:
        known = [kind for kind in kinds if recalls[kind]["value"] is not None]
        kinds = sorted(known, key=lambda kind: recalls[kind]["value"])[: SHOWN // 2]
        rows.append(("recall and precision", f"the {len(kinds)} lowest recalls of {len(recalls):,} classes"))
    for what, of in (("recall", recalls), ("precision", precisions)):
        rows += [(f"{what} of {kind}", shown(of[kind])) for kind in kinds]
    points = metrics.get("operating_points", {})
    if positive := [name for labels in points.values() for name in labels if len(labels) == 1][:1]:
        rows.append(("sensitivity is of", positive[0]))
    for point, labels in points.items():
        if len(labels) == 1:
            for side in ("sensitivity", "specificity"):
                rows += [(f"{side} at {point}", shown(at[side])) for at in labels.values()]
    return rows


# For any table --------------------------------------------------------------------------------------


def padded(names: Sequence[str], least: int = 0) -> list[str]:
    """Each as wide on a screen as the widest, `least` columns at least; the middle of one over MOST is left out.

    A Chinese character takes two columns."""
    from rich.cells import cell_len, chop_cells, set_cell_size

    def shortened(name: str) -> str:
        half = (MOST - 1) // 2
        if cell_len(name) <= MOST:
            return name
        return f"{chop_cells(name, half)[0]}…{chop_cells(name[::-1], half)[0][::-1]}"

    shown = [shortened(name) for name in names]
    width = max([least, *map(cell_len, shown)])
    return [set_cell_size(name, width) for name in shown]
