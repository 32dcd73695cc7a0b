"""What may be tuned, and within which bounds: from the recipe's own settings, or from a YAML file.

docs/how-to/tune.md has the table in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rightfit.config import TrainSettings, read_yaml
from rightfit.errors import UsageError

EDGE = 0.1  # of a range: a value so near to its end says that the range may be too narrow
SIZES = (("resnet20", "resnet32", "resnet56"), ("resnet18", "resnet34", "resnet50"))


@dataclass(frozen=True)
class Knob:
    """A setting and what it may be: one of `choices`, or a number from `low` to `high`."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False


Space = tuple[Knob, ...]


def default_space(settings: TrainSettings, asked: TrainSettings, images: int, pretrained: bool) -> Space:
    """For the resolved `settings` of the default recipe on `images` training images; what was `asked` for is not tuned.

    `learning_rate` is tuned as it is at the recipe's batch size and for SGD; a trial with another batch size scales it
    in proportion (Goyal et al. 2017), one with AdamW by what their usual values differ.
    """
    rate, decay, batch = settings.learning_rate, settings.weight_decay, settings.batch_size
    assert rate and decay is not None and batch
    knobs = [
        Knob("learning_rate", low=rate / 30, high=rate * 10, log=True),
        Knob("weight_decay", low=max(decay, 1e-5) / 30, high=max(decay, 1e-5) * 30, log=True),
        Knob("strength", low=0.0, high=1.0),
        Knob("batch_size", tuple(b for b in (batch // 2, batch, 2 * batch) if 4 <= b <= images) or (batch,)),
        Knob("augment", ("none", "light", "medium", "strong")),
        Knob("optimizer", ("sgd", "adamw")),
    ]
    if pretrained:
        knobs.append(Knob("finetune", ("head", "gradual", "full")))
    elif family := next((sizes for sizes in SIZES if settings.model in sizes), ()):
        knobs.append(Knob("model", family))
    fields = TrainSettings.model_fields
    return tuple(knob for knob in knobs if getattr(asked, knob.name) == fields[knob.name].default)


def from_file(path: str | Path) -> Space:
    """A YAML mapping of settings to what they may be: a list of choices, or {low, high} with `log: true`.

    Raises UsageError that names what is wrong and what is expected.
    """
    knobs = []
    for name, given in read_yaml(path).items():
        if name not in TrainSettings.model_fields:
            raise UsageError(f"{path}: {name!r} is no setting; `rightfit train --help` lists them")
        knobs.append(_knob(path, str(name), given))
    if not knobs:
        raise UsageError(
            f"{path} names nothing to tune; expected lines such as `learning_rate: {{low: 0.01, high: 1}}`"
        )
    return tuple(knobs)


def _knob(path: str | Path, name: str, given: Any) -> Knob:
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        return Knob(name, tuple(given))
    try:
        low, high = (float(given[end]) for end in ("low", "high"))
        log = str(given.get("log", "false")).lower() == "true"
    except (TypeError, KeyError, ValueError, AttributeError):
        raise UsageError(
            f"{path}: {name} should be a list of choices, or {{low: 0.01, high: 1, log: true}}"
        ) from None
    if not low < high or (log and low <= 0):
        raise UsageError(
            f"{path}: {name} from {low:g} to {high:g}{' on a log scale' if log else ''} is no range"
        )
    return Knob(name, low=low, high=high, log=log)


def defaults_of(space: Space, settings: TrainSettings) -> dict[str, Any]:
    """Where the default recipe stands in `space`; what lies outside its bounds is moved to the nearest end."""
    found: dict[str, Any] = {}
    for knob in space:
        value = getattr(settings, knob.name)
        if knob.choices:
            found[knob.name] = value if value in knob.choices else knob.choices[0]
        else:
            found[knob.name] = min(knob.high, max(knob.low, float(value)))
    return found


def settings_of(chosen: Mapping[str, Any], base: TrainSettings, recipe_batch: int) -> TrainSettings:
    """The settings to train a trial with: `base` as asked, with what was `chosen`."""
    changes = dict(chosen)
    if "learning_rate" in changes and "batch_size" in changes:
        changes["learning_rate"] *= changes["batch_size"] / recipe_batch
    if changes.get("optimizer") == "adamw" and base.optimizer == "sgd":
        # The scales of the two differ as their usual values do: 0.1 and 0.005 against 0.001 and 0.05.
        for name, factor in (("learning_rate", 0.01), ("weight_decay", 10.0)):
            if name in changes:
                changes[name] *= factor
    return base.model_copy(update=changes)


def place_of(knob: Knob, value: Any) -> float:
    """Where in its range a value is, from 0 to 1; choices are evenly spread."""
    if knob.choices:
        return knob.choices.index(value) / max(1, len(knob.choices) - 1)
    low, high, at = (
        (math.log(x) for x in (knob.low, knob.high, value)) if knob.log else (knob.low, knob.high, value)
    )
    return (at - low) / (high - low)


def edges(space: Space, chosen: Mapping[str, Any]) -> dict[str, str]:
    """The ranges in which what was chosen lies at an end: "low" or "high", by name. An end that a setting cannot pass
    (a share of 0 or 1) is none."""
    found = {}
    for knob in space:
        at = place_of(knob, chosen[knob.name])
        if not knob.choices and not EDGE < at < 1 - EDGE:
            end = "low" if at < 0.5 else "high"
            if (knob.low if end == "low" else knob.high) not in (0.0, 1.0):
                found[knob.name] = end
    return found
