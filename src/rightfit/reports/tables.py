"""What a command found in, the lines that a terminal shows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rightfit.console import counted
from rightfit.evaluation.lines import padded, points_of
from rightfit.records import would_help

VERDICTS = {"help": "would help", "harm": "would do harm", "unsure": "may help or not"}
HELPED_BY_MORE = ("overfit", "right fit")  # of diagnoses those that more images may change


def of_comparison(found: Mapping[str, Any]) -> list[str]:
    """As `rightfit.compare` gives it."""
    groups = "" if found["groups"] == found["images"] else f" of {counted(found['groups'], 'group')}"
    images = counted(found["images"], f"{found['split']} image")
    lines = [f"{images}{groups} that both have; B minus A with 95 % intervals"]
    share = points_of(found["label_mode"])
    for key, name in (("accuracy", share), ("loss", "loss")):
        both, apart = found[key], found[key]["difference"]
        lines.append(
            f"  {name:<{len(share)}}  A {both['a']:.4f}  B {both['b']:.4f}  difference {apart['value']:+.4f}"
            f"  {apart['low']:+.4f} to {apart['high']:+.4f}"
        )
    if test := found.get("mcnemar"):
        counts = f"only A right {test['only_a_right']:,}, only B right {test['only_b_right']:,}"
    else:
        test = found["sign_test"]
        counts = f"images with more right by A {test['more_right_by_a']:,}, by B {test['more_right_by_b']:,}"
    lines.append(f"  {counts}; p = {test['p']:.2g}")
    return [*lines, found["sentence"]]


def of_fit(found: Mapping[str, Any]) -> list[str]:
    """As `rightfit.diagnose` gives it."""
    images = found["images"]
    kept = f", kept epoch {found['kept']}" if found["kept"] else ""
    lines = [
        f"{found['run']}: {found['model']}, {images['train']:,} training and "
        f"{counted(images['val'], 'validation image')}, {counted(found['epochs'], 'epoch')}{kept}"
    ]
    if found["word"]:
        lines.append(f"{found['word']}: {found['sentence']}")
    elif found["sentence"]:
        lines.append(f"not trained to its end: {found['sentence']}; `rightfit resume {found['run']}` goes on")
    elif found["doctor"] == "off":
        lines.append("its fit was not measured: it was trained with --doctor off")
    else:
        lines.append("its fit was not measured: there are no validation images, or only the head was fitted")
    if stages := found["stages"]:
        sides = ("train", "val")
        moved = any(stage["strength"] is not None for stage in stages)
        lines += [
            "",
            "right answers by an epoch's last weights, in % with 95 % interval; * is kept",
        ]
        lines.append(
            f"  epoch  {'training':>12}  {'validation':>12}  learning rate{'  strength' if moved else ''}"
        )
        for stage in stages:
            halves = (
                "   –" if stage[f"{of}_half"] is None else f"{100 * stage[f'{of}_half']:4.1f}" for of in sides
            )
            cells = (f"{100 * stage[of]:5.1f} ±{half}" for of, half in zip(sides, halves, strict=True))
            line = "  ".join(f"{side:>12}" for side in cells)
            mark = " *" if stage["epoch"] == found["kept"] else "  "
            strength = "" if stage["strength"] is None else f"{stage['strength']:10.2f}"
            lines.append(f"{mark}{stage['epoch']:>5}  {line}  {stage['learning_rate']:>13.3g}{strength}")
    if actions := found["actions"]:
        lines += ["", "what was changed"]
        for action in actions:
            when = f"after epoch {action['epoch']}" if action["epoch"] else "before the first epoch"
            value = action["value"]
            shown = f"{value:.3g}" if isinstance(value, float) else value
            lines.append(f"  {when}: {action['setting']} {shown}: {action['evidence']}")
            if action["before"] is not None and action["after"] is not None:
                lines.append(
                    f"    validation {100 * action['before']:.1f} % then, {100 * action['after']:.1f} % in the end"
                )
    return [*lines, *_of_more_images(found)]


def _of_more_images(found: Mapping[str, Any]) -> list[str]:
    if found["learning_curve"]:
        return ["", f"more images: {_would_help(found['learning_curve'])}"]
    if found["word"] in HELPED_BY_MORE:
        return ["", f"`rightfit learning-curve {found['run']}` says what more images would bring"]
    return []


def _would_help(curve: Mapping[str, Any]) -> str:
    now, ahead = 100 * curve["points"][-1]["accuracy"], curve["forecasts"][0]
    accuracy, low, high = (100 * ahead[of] for of in ("accuracy", "low", "high"))
    told = f"{accuracy:.1f} % is to be expected, {low:.1f} to {high:.1f} with 95 %, where it is {now:.1f} now"
    return (
        f"{ahead['images']:,} training images {VERDICTS[would_help(curve)]}: a validation accuracy of {told}, on these "
        f"{curve['validation']:,} validation images"
    )


def of_learning_curve(found: Mapping[str, Any]) -> list[str]:
    """As `rightfit.learning_curve` gives it."""
    run = found["points"][-1]
    lines = [
        f"{found['run']}: accuracy in % on {found['validation']:,} validation images; other ones would move all "
        f"figures together, by up to {100 * found['half_width']:.1f} points",
        f"  {'training images':>15}",
    ]
    for point in found["points"]:
        this = "  this run" if point is run else ""
        lines.append(f"  {point['images']:>15,}  {100 * point['accuracy']:5.1f}{this}")
    for ahead in found["forecasts"]:
        span = f"{100 * ahead['low']:.1f} to {100 * ahead['high']:.1f}"
        lines.append(
            f"  {ahead['images']:>15,}  {100 * ahead['accuracy']:5.1f}  to be expected, 95 %: {span}"
        )
    return [
        *lines,
        f"{_would_help(found)}.",
        "Where labels are uncertain themselves, a line through the errors is too hopeful.",
    ]


def of_suspects(rows: Sequence[Mapping[Any, Any]], count: int) -> list[str]:
    """The first `rows` of `count` suspects, as `rightfit.suspects` has them."""
    labels, others = (padded([name, *(row[name] for row in rows)]) for name in ("label", "suggested"))
    lines = [f"  {labels[0]}  {'p':>6}  {others[0]}  {'p':>6}  split  path"]
    lines += [
        f"  {label}  {row['probability_label']:>6.4f}  {other}"
        f"  {row['probability_suggested']:>6.4f}  {row['split']:<5}  {row['path']}"
        for label, other, row in zip(labels[1:], others[1:], rows, strict=True)
    ]
    if count > len(rows):
        lines.append(f"  and {count - len(rows):,} more: --limit {count}, or --output FILE.csv")
    return [*lines, "These are suspicions: look at each, correct the labels that are wrong, and train again."]


def of_models(rows: Sequence[Mapping[str, Any]], outputs: int, image_size: int) -> list[str]:
    """As `rightfit.api.models` lists them, counted for so many outputs and pixels a side."""
    lines = [
        f"{'name':<24} {'parameters':>12} {'10^9 MACs':>9}  paper   (for {outputs} outputs, {image_size} px)"
    ]
    for row in rows:
        counted = row["parameters"] is not None
        cost = f"{row['parameters']:>12,} {row['multiply_adds'] / 1e9:>9.2f}" if counted else f"{'':>22}"
        also = f"; weights: {', '.join(row['weights'])}" if row["weights"] else ""
        lines.append(f"{row['name']:<24} {cost}  {row['paper']}{also}")
    return [*lines, "hub:PRESET               image backbones of KerasHub (pip install 'rightfit[hub]')"]


def of_machine(facts: Mapping[str, Any]) -> list[str]:
    """As `rightfit.machine.describe` gives them."""
    lines = [
        f"processor   {facts['processor']}, {facts['cores']} cores; bfloat16: {', '.join(facts['bfloat16']) or 'no'}",
        f"GPU         {facts['gpu'] or 'none'}",
    ]
    for name, row in facts["backends"].items():
        speed = f"{row['images_per_second']} images/s" if "images_per_second" in row else row.get("error", "")
        lines.append(f"{name:<11} {row['version'] or 'not installed: ' + row['install']:<12} {speed}")
    if facts["measured"]:
        lines.append(f"({facts['measured']})")
    chosen = (
        f"rightfit would train on {facts['chosen']} in {facts['precision']}: {facts['precision_because']}"
    )
    return [*lines, *facts["in_words"], chosen]


def of_model_file(facts: Mapping[str, Any]) -> list[str]:
    """As `rightfit.inspect` gives them. Names come from the file: what is not printable is escaped."""
    version = f" of Keras {facts['keras_version']}" if facts["keras_version"] else ""
    backend = f", trained on {facts['backend']}" if facts["backend"] else ""
    rows = [
        ("file", f"{facts['path']}, {facts['bytes']:,} bytes"),
        ("kind", f"{facts['kind']}{version}{backend}"),
    ]
    if facts["model"]:
        rows.append(("model", facts["model"]))
    if facts.get("classes"):
        rows.append(("classes", f"{len(facts['classes']):,}: {_listed(facts['classes'], 8)}"))
    if facts["layers"]:
        counted = [f"{count:,} {name}" for name, count in facts["layers"].items()]
        rows.append(("layers", f"{sum(facts['layers'].values()):,}: {_listed(counted, 12)}"))
    if facts["custom"]:
        rows.append(("custom", _listed(facts["custom"], 8)))
    if facts["tensors"]:
        slots = f", {facts['optimizer_tensors']:,} of them no weights" if facts["optimizer_tensors"] else ""
        rows.append(("tensors", f"{facts['tensors']:,}{slots}; {facts['tensor_bytes']:,} bytes"))
        rows.append(("parameters", f"{facts['parameters']:,}"))
    if facts["calls"]:
        rows.append(("runs", _listed(facts["calls"], 12)))
    if facts["note"]:
        rows.append(("note", facts["note"]))
    rows.append(("loads", "yes" if facts["loads"] else f"no: {facts['refused']}"))
    lines = [f"{name:<11} {_shown(text)}" for name, text in rows]
    tensors = facts["first_tensors"]
    if tensors:
        width = max(len(_shown(tensor["name"])) for tensor in tensors)
        lines.append("")
        lines += [
            f"  {_shown(tensor['name']):<{width}}  {tensor['dtype']:<9} {'×'.join(map(str, tensor['shape'])) or 'one'}"
            for tensor in tensors
        ]
        if facts["tensors"] > len(tensors):
            lines.append(f"  and {facts['tensors'] - len(tensors):,} more")
    return lines


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _shown(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def of_conversion(found: dict[str, Any]) -> list[str]:
    """What became of an old model file, a line for each thing to know."""
    trained = "compiled as it was" if found["compiled"] else "not compiled"
    state = ", with the optimizer's state" if found["optimizer_state"] else ""
    lines = [
        f"{found['output']}: {found['parameters']:,} parameters, from {found['source']}; {trained}{state}"
    ]
    lines += [found["channels"]] if found["channels"] else []
    lines += [f"note: {note}" for note in found["notes"]]
    if found["distance"] is None:
        return [*lines, found["compared"]]
    return [
        *lines,
        f"compared {found['compared']}: the largest distance is {found['distance']:.2g} of the largest output",
    ]
