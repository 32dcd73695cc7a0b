"""Metrics in, the lines of a table that fits a screen out, whether of two classes or a thousand."""

from __future__ import annotations

from typing import Any

SHOWN = 20  # classes; of more, those with the lowest recall


def lines_of(metrics: dict[str, Any]) -> list[str]:
    names = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "loss": "log loss"}
    names |= {n: f"top-{n[4:-9]} accuracy" for n in metrics if n.startswith("top_")}
    lines = [line(shown, metrics[name]) for name, shown in names.items()]
    lines.append(line("macro F1", metrics["macro"]["f1"]))
    names = {"auroc": "AUROC", "quadratic_kappa": "quadratic kappa", "kappa": "kappa", "mcc": "MCC"}
    names["ece"] = "calibration error"
    lines += [line(shown, metrics[name]) for name, shown in names.items() if name in metrics]
    recalls, precisions = metrics["recall"], metrics["precision"]
    kinds = list(recalls)
    if len(kinds) > SHOWN:
        known = [kind for kind in kinds if recalls[kind]["value"] is not None]
        kinds = sorted(known, key=lambda kind: recalls[kind]["value"])[: SHOWN // 2]
        lines.append(
            f"{'recall and precision':<30} the {len(kinds)} lowest recalls of {len(recalls):,} classes"
        )
    for what, of in (("recall", recalls), ("precision", precisions)):
        lines += [line(f"{what} of {kind}", of[kind]) for kind in kinds]
    points = metrics.get("operating_points", {})
    if positive := [name for labels in points.values() for name in labels if len(labels) == 1][:1]:
        lines.append(f"  {'sensitivity is of':<30} {positive[0]}")
    for point, labels in points.items():
        if len(labels) == 1:
            for side in ("sensitivity", "specificity"):
                lines += [line(f"{side} at {point}", at[side]) for at in labels.values()]
    for by, parts in metrics.get("slices", {}).items():
        for name, part in parts.items():
            if part["differs"]:
                lines.append(f"{line(f'accuracy, {by} {name}', part)}   not that of the whole")
    return lines


def line(name: str, estimate: dict[str, Any]) -> str:
    value, low, high = (
        "-" if estimate[end] is None else f"{estimate[end]:.4f}" for end in ("value", "low", "high")
    )
    return f"  {name:<30} {value}   {low} to {high}"
