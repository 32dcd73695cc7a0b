"""What may be tuned, and within which bounds: from the recipe's own settings, or from a YAML file.

docs/how-to/tune.md has the table in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.config import TrainSettings, read_yaml, train_settings
from rightfit.errors import UsageError

if TYPE_CHECKING:
    from rightfit.training.recipe import Facts

EDGE = 0.1  # of a range: a value so near to its end says that the range may be too narrow
SAME_RATE = 1.3  # times another, or less
TUNABLE = (
    "learning_rate", "weight_decay", "strength", "batch_size", "augment", "mirror", "upright", "optimizer", "model",
    "finetune", "dropout", "stochastic_depth", "label_smoothing", "warmup_epochs", "ema", "class_weights", "image_size",
)  # fmt: skip
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


def default_space(
    settings: TrainSettings,
    asked: TrainSettings,
    images: int,
    pretrained: bool,
    sizes: Sequence[str] = (),
) -> Space:
    """For the resolved `settings` of the default recipe on `images` training images; what was `asked` for is not tuned,
    image size only among several `sizes`.

    `learning_rate` and `weight_decay` are tuned as they are for the recipe's optimizer, the rate at its batch size; a
    trial with another batch size scales the rate in proportion (Goyal et al. 2017), one with the other optimizer scales
    both by what their usual values differ.
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
        knobs.append(Knob("finetune", ("auto", "head", "gradual", "full")))
    elif family := next((sizes for sizes in SIZES if settings.model in sizes), ()):
        knobs.append(Knob("model", family))
    left = set(asked.model_fields_set)
    if "learning_rate" in left:  # it is meant at its batch size and for its optimizer
        left |= {"batch_size", "optimizer"}
    found = tuple(knob for knob in knobs if knob.name not in left)
    return (*found, Knob("image_size", tuple(sizes))) if len(sizes) > 1 else found


def from_file(path: str | Path) -> Space:
    """`from_mapping` of a YAML file."""
    if not Path(path).is_file():
        raise UsageError(f"{path}: there is no such file; --space takes a YAML file")
    return from_mapping(read_yaml(path), str(path))


def from_mapping(given: Mapping[str, Any], source: str = "space") -> Space:
    """Settings, each with what it may be: a list of choices, or {low, high} with `log: true`.

    Raises UsageError that names what is wrong in `source` and what is expected.
    """
    unknown = next((name for name in given if name not in TUNABLE), None)
    if unknown is not None:
        raise UsageError(f"{source}: {unknown!r} cannot be tuned; what can is {', '.join(TUNABLE)}")
    if not given:
        raise UsageError(
            f"{source} names nothing to tune; expected such as learning_rate: {{low: 0.01, high: 1}}"
        )
    return tuple(_knob(source, name, ends) for name, ends in given.items())


def _knob(source: str, name: str, given: Any) -> Knob:
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        return Knob(name, tuple(_value(source, name, choice) for choice in given))
    try:
        low, high, log = given["low"], given["high"], str(given.get("log", "false")).lower() == "true"
    except (TypeError, KeyError, AttributeError):
        raise UsageError(
            f"{source}: {name} should be a list of choices, or {{low: 0.01, high: 1, log: true}}"
        ) from None
    low, high = _value(source, name, low), _value(source, name, high)
    if not (isinstance(low, float) and isinstance(high, float)):
        raise UsageError(f"{source}: {name} takes no range; list its choices, such as [{low}, {high}]")
    if not low < high or (log and low <= 0):
        raise UsageError(
            f"{source}: {name} from {low:g} to {high:g}{' on a log scale' if log else ''} is no range"
        )
    return Knob(name, low=low, high=high, log=log)


def _value(source: str, name: str, given: Any) -> Any:
    """As the setting takes it."""
    try:
        return getattr(train_settings({"data": "", name: given}), name)
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def defaults_of(space: Space, settings: TrainSettings) -> dict[str, Any]:
    """Where the default recipe stands in `space`; what lies outside moves to the nearest end, or the first choice."""
    found: dict[str, Any] = {}
    for knob in space:
        value = getattr(settings, knob.name)
        if knob.choices:
            found[knob.name] = value if value in knob.choices else knob.choices[0]
        else:
            found[knob.name] = min(knob.high, max(knob.low, float(value)))
    return found


def at_rate(space: Space, chosen: Mapping[str, Any], rate: float) -> dict[str, Any] | None:
    """What was `chosen` with the rate in `space` that is nearest to `rate`; None where that is much the same."""
    knob = next(knob for knob in space if knob.name == "learning_rate")
    choices = knob.choices or (min(knob.high, max(knob.low, rate)),)
    near = min(choices, key=lambda each: abs(math.log(each / rate)))
    same = abs(math.log(near / chosen["learning_rate"])) < math.log(SAME_RATE)
    return None if same else {**chosen, "learning_rate": near}


Usual = dict[str, tuple[float, float]]  # learning rate and decay by optimizer


def usual(asked: TrainSettings, base: TrainSettings, facts: Facts) -> Usual:
    """What the recipe gives each optimizer at the batch size of the resolved `base`."""
    from rightfit.training.recipe import resolve

    found = {}
    for name in ("sgd", "adamw"):
        changes = {
            "optimizer": name,
            "batch_size": base.batch_size,
            "learning_rate": None,
            "weight_decay": None,
        }
        settings, _ = resolve(asked.model_copy(update=changes), facts)
        assert settings.learning_rate and settings.weight_decay
        found[name] = (settings.learning_rate, settings.weight_decay)
    return found


def settings_of(
    chosen: Mapping[str, Any], asked: TrainSettings, base: TrainSettings, usual: Usual
) -> TrainSettings:
    """The settings to train a trial with: as `asked`, with what was `chosen`, which is meant at the batch size and for
    the optimizer of the resolved `base`."""
    changes = dict(chosen)
    if "learning_rate" in changes and "batch_size" in changes:
        changes["learning_rate"] *= changes["batch_size"] / base.batch_size
    for name, here, there in zip(
        ("learning_rate", "weight_decay"),
        usual[base.optimizer],
        usual[changes.get("optimizer", base.optimizer)],
        strict=True,
    ):
        if name in changes:
            changes[name] *= there / here
    return asked.model_copy(update=changes)


def place_of(knob: Knob, value: Any) -> float:
    """Where in its range a value is, from 0 to 1; choices are evenly spread."""
    if knob.choices:
        return knob.choices.index(value) / max(1, len(knob.choices) - 1)
    low, high, at = (
        (math.log(x) for x in (knob.low, knob.high, value)) if knob.log else (knob.low, knob.high, value)
    )
    return (at - low) / (high - low)


def edges(space: Space, chosen: Mapping[str, Any]) -> dict[str, str]:
    """The ranges in which what was chosen lies at an end: "low" or "high", by name. An end that the setting itself
    cannot pass is none."""
    found = {}
    for knob in space:
        if knob.choices or EDGE < (at := place_of(knob, chosen[knob.name])) < 1 - EDGE:
            continue
        end, beyond = ("low", knob.low * 0.9 or -1e-6) if at < 0.5 else ("high", knob.high * 1.1 or 1e-6)
        with suppress(UsageError):
            train_settings({"data": "", knob.name: beyond})
            found[knob.name] = end
    return found
