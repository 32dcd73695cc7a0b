"""Fill in what the user left to us: settings and facts about the data in, complete settings and reasons out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rightfit.config import TrainSettings
from rightfit.nets import catalogue
from rightfit.nets.variants import VARIANTS

WARMUP = 20  # steps at least: of 20 steps in all, a warm-up of two lost the loss in two of three runs
ENOUGH = 60  # steps of a run for a high rate to settle
EVEN = 1.5  # times the smallest class: up to which no class is weighed
SHALLOW = 9  # blocks, as ResNet-20 has
MOVED = ("learning_rate", "augment", "weight_decay", "label_smoothing", "strength")  # by a doctor that acts
MEASURED = ("categorical", "binary")
SMALL = 64  # pixels, up to which images are not photographs in detail


@dataclass(frozen=True)
class Facts:
    """What the recipe looks at."""

    images: int  # training images
    class_counts: tuple[int, ...]  # training images of each class; positives of each label for multilabel
    label_mode: str
    side: int  # the longer side of the model's input, pixels
    pretrained: bool = False  # the model starts from weights that were brought


@dataclass(frozen=True)
class Decision:
    """One automatic choice, as it goes to decisions.jsonl."""

    setting: str
    value: Any
    because: str
    epoch: int | None = None  # epochs done by then, once training goes on


def resolve(settings: TrainSettings, facts: Facts) -> tuple[TrainSettings, list[Decision]]:
    """Replace every "auto" and None that training needs; what the user set is never touched,
    but that no batch is larger than the training images."""
    decisions: list[Decision] = []
    values = settings.model_dump()

    def choose(name: str, value: Any, because: str) -> None:
        if values[name] in (None, "auto"):
            values[name] = value
            decisions.append(Decision(name, value, because))

    choose("model", *default_model(facts))
    catalogue.check(values["model"])
    choose("augment", *default_augment(facts))
    choose("batch_size", *default_batch_size(facts))
    if values["batch_size"] > facts.images:
        values["batch_size"] = facts.images
        decisions.append(Decision("batch_size", facts.images, "no batch is larger than the training images"))
    choose("epochs", *default_epochs(facts.images, facts.pretrained))
    batch, epochs = values["batch_size"], values["epochs"]
    an_epoch = -(-facts.images // batch)
    steps = epochs * an_epoch
    if facts.pretrained and facts.side > SMALL:
        rate, decay = (0.01, 0.0005) if settings.optimizer == "sgd" else (0.0001, 0.05)
        choose("learning_rate", rate * batch / 128, "a tenth of a first training's: the weights were brought")
        choose("weight_decay", decay, "little, as the weights were brought")
    else:
        choose("learning_rate", *default_rate(settings.optimizer, values["model"], batch, steps))
        if settings.optimizer == "sgd":
            source = "SGD: 0.0005 of L2 through a momentum of 0.9 (Zagoruyko and Komodakis 2016)"
            choose("weight_decay", 0.005, source)
        else:
            choose("weight_decay", 0.05, "AdamW: 0.05 (Loshchilov and Hutter 2019)")
    warmup = min(max(min(5.0, epochs / 10), WARMUP / an_epoch), epochs / 2)
    choose(
        "warmup_epochs",
        warmup,
        f"a tenth of the epochs, five at most, and {WARMUP} steps where half of them allow it",
    )
    decay = min(0.999999, round(1 - 1 / max(10.0, 0.02 * steps), 6))
    choose("ema", decay, "averages over about the last 2 % of the steps")
    choose("doctor", *default_doctor(settings, facts))
    choose("patience", max(10, epochs // 4), "a quarter of the epochs, ten at least")
    return TrainSettings(**values), decisions


def shortened(asked: TrainSettings, facts: Facts, settings: TrainSettings, epochs: int) -> TrainSettings:
    """`settings` (the resolved `asked`) for fewer epochs: what the user left open follows, and a
    warm-up the user set keeps its share."""
    again, _ = resolve(asked.model_copy(update={"epochs": epochs}), facts)
    warmup = (settings.warmup_epochs or 0.0) * epochs / (settings.epochs or epochs)
    follows = {"epochs": epochs, "warmup_epochs": warmup, "ema": again.ema, "patience": again.patience}
    return settings.model_copy(update=follows)


def default_model(facts: Facts) -> tuple[str, str]:
    if facts.side <= SMALL:
        return "resnet20", f"images of {facts.side} px suit the CIFAR form"
    if facts.images < 20_000:
        return "resnet18", f"{facts.images:,} training images are few for a deeper net"
    return "resnet50", f"{facts.images:,} training images of {facts.side} px"


def default_augment(facts: Facts) -> tuple[str, str]:
    if facts.side <= SMALL:
        return "light", f"at {facts.side} px scaling blurs more than it teaches"
    return "medium", "photographs: crop, flip, mild colour"


def default_batch_size(facts: Facts) -> tuple[int, str]:
    size = 32 if facts.images < 5_000 else 64 if facts.images < 20_000 else 128
    return min(size, facts.images), f"{facts.images:,} training images"


def default_rate(optimizer: str, model: str, batch: int, steps: int) -> tuple[float, str]:
    """From scratch; AdamW's is a hundredth of SGD's. ResNet-20 and nets as shallow want more where batches are small:
    Fashion-MNIST of 200 to 10,000 images gains a point over SGD's 0.1 per 128 at batches of 32 and 64, and with AdamW,
    in one run each, 27 points of 200 and 4 of 1,000 images; ResNet-50 and -56, and runs of a few dozen `steps`, lose as
    much and more with SGD."""
    variant = VARIANTS.get(model)
    steady = variant and variant.stem == "cifar" and sum(variant.depths) <= SHALLOW and steps >= ENOUGH
    rate = 0.1 * min(1, batch / 32) * max(1, batch / 128) if steady else 0.1 * batch / 128  # of SGD
    told = "for batches of 32 to 128, else in proportion" if steady else "per 128 images"
    source = "He et al. 2016, section 4.2" if steady else "He et al. 2016, Goyal et al. 2017"
    if optimizer == "sgd":
        return rate, f"SGD: 0.1 {told} ({source})"
    return rate / 100, f"AdamW: 0.001 {told}, a hundredth of SGD's"


def default_doctor(settings: TrainSettings, facts: Facts) -> tuple[str, str]:
    """Acts only where that was measured, and on what was left open."""
    untouched = TrainSettings(data="")
    if facts.pretrained or facts.label_mode not in MEASURED:
        return (
            "advise",
            "acting was measured from scratch and on one label an image; --doctor act does it anyway",
        )
    if kept := [name for name in MOVED if getattr(settings, name) != getattr(untouched, name)]:
        return "advise", f"what acting would move was set: {', '.join(kept)}; --doctor act moves it anyway"
    return "act", "its fit is watched, and what was left open is moved where the numbers ask for it"


def default_epochs(images: int, pretrained: bool) -> tuple[int, str]:
    """For so many training images."""
    if pretrained:
        epochs = int(np.clip(round(5_000 * images**-0.7), 10, 50))
        return epochs, f"{images:,} training images and weights that were brought; 10 to 50"
    epochs = int(np.clip(round(20_000 * images**-0.7), 30, 150))
    return epochs, f"{images:,} training images; fewer images, more passes, 30 to 150"


def sample_weights(
    settings: TrainSettings, codes: NDArray[Any], counts: Sequence[int], label_mode: str
) -> tuple[NDArray[np.float32], Decision | None]:
    """A weight for each training image (N,), mean 1. "auto": inverse to the square root of its class's count, where the
    largest class is over 1.5 times the smallest. It costs little accuracy on images as they come and brings as much by
    class as "balanced", inverse to the count, so that classes count alike (docs/benchmarks.md; by the square root as
    Mahajan et al. 2018 draw images of rare hashtags). Ones else, and where images have several labels."""
    present = [c for c in counts if c]
    asked = settings.class_weights
    even = max(present) <= (EVEN if asked == "auto" else 1) * min(present)
    if asked == "none" or label_mode == "multilabel" or even:
        return np.ones(len(codes), np.float32), None
    power = 1.0 if asked == "balanced" else 0.5
    weights = np.array([c**-power if c else 0.0 for c in counts])
    weights *= len(codes) / (weights * counts).sum()
    because = (
        f"the largest class has {max(present):,} training images, the smallest {min(present):,}: inverse to "
        f"{'that number' if asked == 'balanced' else 'the square root of that number'}"
    )
    return weights[codes].astype(np.float32), Decision(
        "class_weights", [round(w, 4) for w in weights], because
    )
