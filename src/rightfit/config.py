"""What can be set, with defaults and units; a mapping or a YAML file in, frozen settings out.

The fields of `TrainSettings` are at once the flags of `rightfit train`, the arguments of
`rightfit.train` and the keys of `config.yaml`; each description is the flag's help and the comment
beside the key.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Number
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from rightfit.errors import UsageError
from rightfit.files import yaml_of
from rightfit.formats.bounds import BOUNDS


class Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )


class TrainSettings(Settings):
    """Everything that decides a training run. "auto" and null are filled in by the recipe."""

    data: str = Field(description="Folder of class folders, split folders, or a CSV, TSV or Parquet table")
    output: str | None = Field(None, description="Run folder to make [default: runs/<data>-<n>]")

    label: str | None = Field(None, description='Label column of a table [default: "label"]')
    label_mode: Literal["auto", "binary", "categorical", "multilabel"] = Field(
        "auto", description="auto, binary, categorical or multilabel (labels joined by |)"
    )
    positive: str | None = Field(
        None,
        description="Class whose presence is asked for, where there are two: sensitivity and the probability are of "
        "it [default: the second by name]",
    )
    ordinal: bool = Field(
        False, description="The classes are grades, ordered as their names sort: also report quadratic kappa"
    )
    group_by: str | None = Field(
        None,
        description="Column of a table, or regex whose first capture of the file name is the group (patient); each "
        "group is kept in one split",
    )
    split: str = Field("6:1:2", description="Shares of train:validation:test; 6:1 keeps none for a test")
    image_size: str = Field(
        "auto", description="Pixels: 150, or HEIGHTxWIDTH as in 150x200; auto follows the images"
    )
    resize: Literal["crop", "pad", "stretch"] = Field("crop", description="How an image meets its size")
    allow_bad: bool = Field(False, description="Go on though more than 5 % of the files cannot be decoded")
    drop_duplicates: bool = Field(
        False, description="Leave out all but one of equal files with the same label"
    )
    group_near_duplicates: bool = Field(
        True, description="Keep copies and near-duplicates of an image on one side of the split"
    )
    cache: Literal["disk", "memory", "none"] = Field(
        "disk",
        description="Where decoded images are kept: disk, for later runs too; memory, for this process; none, "
        "each epoch decodes them anew",
    )
    cache_folder: str | None = Field(
        None,
        description="Folder of decoded images, features and remembered splits [default: the user's cache folder]",
    )

    model: str = Field(
        "auto",
        description="A name from `rightfit models`, or hub:PRESET of KerasHub; auto follows size and count",
    )
    weights: str = Field(
        "auto",
        description="What to start from: imagenet; none; a file of any library `import-weights` reads; auto is "
        "imagenet where it exists, suits the images and can be had",
    )
    finetune: Literal["auto", "head", "full", "gradual"] = Field(
        "auto",
        description="What learns when there are weights to start from: head, full, gradual (from the top), or what "
        "validation shows to pay",
    )
    views: int = Field(
        0, ge=0, description="Changed views of each image that the head is fitted to, besides it"
    )
    augment: Literal["auto", "none", "light", "medium", "strong"] = Field(
        "auto", description="Random changes of training images: none, light, medium or strong"
    )
    mirror: bool = Field(
        True, description="Also mirror training images; not for digits, text, or left against right"
    )
    upright: bool = Field(
        True,
        description="Images have a way up; where they have none (tissue, blood cells, the ground from above), "
        "--no-upright also turns training images by quarter turns",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of features left out before the last layer")
    stochastic_depth: float = Field(
        0.0, ge=0, lt=1, description="Chance that a step skips the last block, falling to 0 at the first"
    )
    epochs: int | None = Field(None, ge=1, description="Passes over the training images")
    batch_size: int | None = Field(None, ge=1, description="Images a step")
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="Images a gradient is taken of at a time, to be summed to the batch's, where memory is short; "
        "found by itself where the shortage can be caught",
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd (Nesterov momentum 0.9) or adamw")
    learning_rate: float | None = Field(None, gt=0, description="Peak learning rate at this batch size")
    warmup_epochs: float | None = Field(None, ge=0, description="Epochs of linear warm-up before the cosine")
    weight_decay: float | None = Field(
        None, ge=0, description="Decoupled decay of kernels, times the learning rate"
    )
    label_smoothing: float = Field(
        0.1, ge=0, lt=1, description="Share of each target spread over all classes"
    )
    class_weights: Literal["auto", "balanced", "none"] = Field(
        "auto",
        description="auto weighs classes by the square root of how rare they are, where the largest is over 1.5 times "
        "the smallest; balanced makes them count alike",
    )
    ema: float | None = Field(
        None, ge=0, lt=1, description="Decay per step of the averaged weights; 0 is none"
    )
    doctor: Literal["auto", "act", "advise", "off"] = Field(
        "auto",
        description="advise measures training and validation images alike and says what the gap means; act also tries "
        "learning rates, changes augmentation and decay as the gap asks for, and doubts labels that are wrong at "
        "random; off does neither; auto acts on a training from scratch whose learning rate, augmentation, decay, "
        "smoothing and strength were left open, and advises otherwise",
    )
    strength: float = Field(
        0.3,
        ge=0,
        le=1,
        description="How strongly a net is kept from learning its images by heart: 0 not at all, 0.3 as the other "
        "settings say, 1 as far as it goes; where a doctor that acts begins",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="Epochs without a validation loss as good as the best (within a standard error) before the end",
    )
    time_limit: str | None = Field(None, description="Longest training time: 90s, 10m, 2h")
    checkpoint_every: str = Field(
        "5m", description="Longest time between checkpoints, besides those at each epoch's end"
    )
    seed: int = Field(0, ge=0, description="Decides split, order, augmentation and first weights")

    backend: Literal["auto", "tensorflow", "jax", "torch"] = Field(
        "auto", description="auto is KERAS_BACKEND, else the one measured to train fastest here"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto is bfloat16 where the hardware is faster in it"
    )
    tensorboard: bool = Field(False, description="Also write TensorBoard logs into the run")
    report: Literal["en", "zh", "none"] = Field(
        "en", description="Language of the run's report.html, drawn while it trains; none draws none"
    )

    @field_validator("image_size", "split", "time_limit", "checkpoint_every", mode="before")
    @classmethod
    def _text(cls, value: Any, field: ValidationInfo) -> Any:
        """150 is as good as "150"; (150, 200) as "150x200"; (6, 1, 2) as "6:1:2"."""
        if isinstance(value, (tuple, list)) and all(isinstance(v, (str, Number)) for v in value):
            return (":" if field.field_name == "split" else "x").join(str(v) for v in value)
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("cache", mode="before")
    @classmethod
    def _mode(cls, value: Any) -> Any:
        """It was the folder once; config.yaml of older runs says null where none was named."""
        if value is None:
            return "disk"
        if value not in ("disk", "memory", "none"):
            raise ValueError("should be disk, memory or none; the folder of decoded images is --cache-folder")
        return value

    @field_validator("weights", mode="before")
    @classmethod
    def _null(cls, value: Any) -> Any:
        """config.yaml of older runs says null where none was brought."""
        return "none" if value is None else value

    @property
    def height_width(self) -> tuple[int, int]:
        """(height, width) in pixels; UsageError while it is still "auto" or malformed."""
        return parse_image_size(self.image_size)


def parse_image_size(text: str) -> tuple[int, int]:
    """ "150" -> (150, 150), "150x200" -> (150, 200): height, width in pixels, 8 to 4096."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if not match:
        raise UsageError(f"image size {text!r} is neither 150 nor HEIGHTxWIDTH such as 150x200")
    height = int(match[1])
    width = int(match[2] or height)
    if not (8 <= height <= 4096 and 8 <= width <= 4096):
        raise UsageError(f"image size {text!r}: each side must be 8 to 4096 pixels")
    return height, width


def parse_seconds(text: str) -> float:
    """ "90s", "10m", "1.5h", "90" -> seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if not match or float(match[1]) == 0:
        raise UsageError(f"time {text!r} is not a length such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def train_settings(values: Mapping[str, Any], config: str | Path | None = None) -> TrainSettings:
    """Settings from `values` over the YAML file `config` over the defaults; None in `values` is "not given".

    Raises UsageError that names an unknown key with the near ones, or what is wrong with a value.
    """
    merged = {**(read_yaml(config) if config else {}), **{k: v for k, v in values.items() if v is not None}}
    if unknown := [key for key in merged if key not in TrainSettings.model_fields]:
        raise UsageError("; ".join(map(_unknown, unknown)))
    try:
        settings = TrainSettings(**merged)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc']))}: {_sentence(e)}" for e in error.errors())
        raise UsageError("; ".join(problems)) from None
    if settings.image_size != "auto":
        settings.height_width  # noqa: B018  (raises while the person is still looking)
    for time in (settings.time_limit, settings.checkpoint_every):
        if time:
            parse_seconds(time)
    return settings


def _unknown(key: Any) -> str:
    near = get_close_matches(str(key), TrainSettings.model_fields, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else "`rightfit train --help` lists the settings"
    return f"unknown setting {_SHORT.repr(key)}; {hint}"


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return message if error["type"] == "missing" else f"{message}, not {_SHORT.repr(error['input'])}"


_SHORT = reprlib.Repr()  # what a few aliases of YAML repeat may be billions of values
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping as a dict; UsageError if it is missing, too long, not YAML, no mapping, or sets a key twice."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(BOUNDS.yaml_bytes + 1)
        if len(text) > BOUNDS.yaml_bytes:
            raise UsageError(f"{path}: more than {BOUNDS.yaml_bytes:,} bytes; --config takes a YAML file")
        loaded = yaml.load(text.decode(), _Loader)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; --config takes a YAML file") from None
    except RecursionError:
        raise UsageError(f"{path} is not YAML of settings: nested too deep") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"{path} holds no settings; expected lines such as `epochs: 30`")
    return loaded


class _Loader(yaml.SafeLoader):
    """safe_load that leaves numbers as text, for the settings to read: in YAML 1.1 `split: 6:1:2` is
    the number 21662 (base 60) and `label: 007` is 7."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (PyYAML's own name and shape)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Of a key that is there twice, YAML would silently take the last."""
        first: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first:
                raise ValueError(f"{key.value} is set twice, in lines {first[key.value]} and {line}")
            first[key.value] = line
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        """Merges of merges would copy without end."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            raise ValueError("merges mappings with <<; write them out")


def to_yaml(settings: TrainSettings) -> str:
    """`config.yaml`: one line a setting, its description as the comment."""
    lines = [
        "# The settings of this run, as resolved; `rightfit train --config THIS_FILE --output NEW` repeats it."
    ]
    for name, field in TrainSettings.model_fields.items():
        value = yaml_of({name: getattr(settings, name)}, width=10_000).rstrip("\n")
        lines.append(f"{value}  # {field.description}")
    return "\n".join(lines) + "\n"
