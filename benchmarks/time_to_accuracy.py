"""Seconds of training until the test accuracy on Fashion-MNIST first reaches 93 and 94 %: three recipes, in one run.

- rightfit with its defaults (ResNet-20, its own number of epochs; a seventh of the training images is
  set aside for validation); what is tested after an epoch are the weights that it would hand over then;
- fastai with its: `vision_learner(resnet18, pretrained=False)` on 28 px, batches of 64, `fit_one_cycle`,
  whose length somebody has to choose: --fastai-epochs;
- Keras with the recipe of its own CIFAR example: the same ResNet-20 of stock layers, batches of 32, Adam at
  1e-3, divided by 10 at epochs 80 and 120, shifts of up to a tenth and flips.

The clock runs from the call with the images' folder on, so it counts decoding and compiling; it stands
still while the 10,000 test images are looked at after each epoch, which no recipe learns from. It ends
at --limit.

    python examples/fashion_mnist.py build/fashion
    python benchmarks/time_to_accuracy.py
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, ROOT, Contender, Metric, answered, finish, parser, race, summarise

SIDE = 28


def main() -> int:
    if answered(CONTENDERS):
        return 0
    made = parser(__doc__, rounds=1)
    made.add_argument(
        "--limit", type=float, default=3_600, metavar="SECONDS", help="of training, each contender"
    )
    made.add_argument("--fastai-epochs", type=int, default=20)
    args = made.parse_args()
    args.targets, args.epochs = [0.93, 0.94], None
    args.folder = str(fashion())
    if args.quick:
        args.targets, args.limit, args.fastai_epochs, args.epochs = [0.3, 0.5], 8, 2, 30
        args.folder = str(few(Path(args.folder), train=100, test=50))
    rounds, left_out = race(__file__, CONTENDERS, args)
    for name, found in rounds[0].items():
        if isinstance(found, dict):
            best = max((accuracy for _, accuracy in found["curve"]), default=float("nan"))
            print(f"{name}: {len(found['curve'])} epochs, {found['trained']:.0f} s, at best {best:.4f}")
    metrics = {title(target): Metric("s", more_is_better=False) for target in args.targets}
    return finish("time_to_accuracy", args, rounds, left_out, summarise(rounds, metrics))


def title(target: float) -> str:
    return f"to {target:.0%}"


def fashion() -> Path:
    folder = ROOT / "build" / "fashion"
    if not folder.exists():
        subprocess.run([sys.executable, str(ROOT / "examples" / "fashion_mnist.py"), str(folder)], check=True)
    return folder


def few(whole: Path, name: str = "fashion-few", **counts: int) -> Path:
    """The first `train` and `test` images of each class, as hard links."""
    folder = DATA / name
    for part, count in counts.items():
        for label in sorted((whole / part).iterdir()):
            (folder / part / label.name).mkdir(parents=True, exist_ok=True)
            for path in sorted(label.iterdir())[:count]:
                link = folder / part / label.name / path.name
                if not link.exists():
                    link.hardlink_to(path)
    return folder


class Clock:
    """Stands still while `test` runs; after each epoch it knows the accuracy, and whether to stop."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.targets, self.limit = args.targets, args.limit
        self.started, self.away = time.perf_counter(), 0.0
        self.curve: list[tuple[float, float]] = []  # seconds, test accuracy

    def seconds(self) -> float:
        return time.perf_counter() - self.started - self.away

    def after_epoch(self, test: Callable[[], float]) -> bool:
        """True when there is nothing more to find out."""
        now = self.seconds()
        self.curve.append((now, test()))
        self.away += self.seconds() - now
        return now > self.limit or self.curve[-1][1] >= max(self.targets)

    def results(self) -> dict[str, Any]:
        found: dict[str, Any] = {"curve": self.curve, "trained": self.seconds()}
        for target in self.targets:
            reached = [second for second, accuracy in self.curve if accuracy >= target]
            if reached:
                found[title(target)] = reached[0]
        return found


class Enough(Exception):
    """Ends a library's training from its callback."""


def with_rightfit(args: argparse.Namespace) -> dict[str, Any]:
    """What `rightfit.train` does, with a look at the weights kept so far after each epoch."""
    from rightfit import learning, precision, runtime

    runtime.choose_backend("tensorflow")
    from rightfit.config import TrainSettings
    from rightfit.console import Console
    from rightfit.data.dataset import prepare
    from rightfit.evaluation.infer import all_logits, plain_graph
    from rightfit.nets import layers, resnet
    from rightfit.provenance import Job
    from rightfit.training import loop, recipe

    console = Console(quiet=True)
    with tempfile.TemporaryDirectory() as cache:
        clock = Clock(args)
        kind, _ = precision.choose_precision("auto", runtime.cache_folder())
        asked = TrainSettings(data=args.folder, epochs=args.epochs, cache_folder=cache)
        dataset, asked = prepare(args.folder, asked, console)
        table = dataset.table
        rows, sealed = table.rows("train"), table.rows("test")
        facts = recipe.Facts(len(rows), dataset.class_counts(rows), table.label_mode, max(asked.height_width))
        settings, _ = recipe.resolve(asked, facts)
        model = resnet.build(settings.model, table.outputs, settings.height_width, settings.seed)
        loader, validation = learning.images_of(Job(Path(cache), dataset, model, asked, settings, facts))
        judge = plain_graph(layers.fused(model))

        def test(kept: list[Any]) -> float:
            judge.set_weights(kept)
            logits = all_logits(judge, dataset.images, dataset.image_rows[sealed], 64)
            return float(np.mean(logits.argmax(axis=1) == table.codes()[sealed]))

        def after_epoch(progress: loop.Progress) -> None:
            if clock.after_epoch(functools.partial(test, progress.weights)):
                raise Enough

        try:
            again = functools.partial(recipe.shortened, asked, facts, settings)
            loop.train(
                model, loader, validation, settings, table.label_mode, console, after_epoch, kind, again
            )
        except Enough:
            pass
        return clock.results() | {"precision": kind, "epochs": settings.epochs, "model": settings.model}


def with_fastai(args: argparse.Namespace) -> dict[str, Any]:
    from common import declare_torchvision

    declare_torchvision()
    import torch
    from fastai.vision.all import Callback, CancelFitException, ImageDataLoaders, resnet18, vision_learner

    folder = Path(args.folder)
    files = sorted((folder / "test").glob("*/*.png"))

    class Look(Callback):
        def after_train(self) -> None:
            def test() -> float:
                self.learn.model.eval()
                with torch.no_grad():
                    batches = self.learn.dls.test_dl(files, bs=256)
                    found = torch.cat([self.learn.model(x).argmax(1) for (x,) in batches])
                names = [self.learn.dls.vocab[int(code)] for code in found]
                return float(np.mean([n == path.parent.name for n, path in zip(names, files, strict=True)]))

            if clock.after_epoch(test):
                raise CancelFitException

    clock = Clock(args)
    loaders = ImageDataLoaders.from_folder(folder / "train", valid_pct=1 / 7, seed=0)
    learner = vision_learner(loaders, resnet18, pretrained=False, cbs=Look())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(args.fastai_epochs)
    return clock.results() | {"precision": "float32", "epochs": args.fastai_epochs, "model": "resnet18"}


def with_keras(args: argparse.Namespace) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    from rightfit.nets import resnet

    def images(part: str, **more: Any) -> Any:
        return keras.utils.image_dataset_from_directory(
            f"{args.folder}/{part}", image_size=(SIDE, SIDE), batch_size=32, verbose=False, **more
        )

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            def test() -> float:
                hits = [model.predict_on_batch(x).argmax(1) == y.numpy() for x, y in sealed]
                return float(np.concatenate(hits).mean())

            if clock.after_epoch(test):
                model.stop_training = True

    clock = Clock(args)
    change = keras.Sequential(
        [keras.layers.RandomTranslation(0.1, 0.1), keras.layers.RandomFlip("horizontal")]
    )
    training = images("train", seed=0).map(lambda x, y: (change(x, training=True), y), tf.data.AUTOTUNE)
    model = resnet.build("resnet20", 10, (SIDE, SIDE))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    sealed = images("test", shuffle=False)
    rate = keras.callbacks.LearningRateScheduler(
        lambda epoch, _: 1e-3 * 0.1 ** ((epoch >= 80) + (epoch >= 120))
    )
    model.fit(training.prefetch(tf.data.AUTOTUNE), epochs=200, verbose=0, callbacks=[rate, Look()])
    return clock.results() | {"precision": "float32", "epochs": 200, "model": "resnet20"}


CONTENDERS = {
    "rightfit": Contender(with_rightfit),
    "fastai": Contender(with_fastai, ("fastai",), peer=True),
    "Keras": Contender(with_keras, ("tensorflow",)),
}


if __name__ == "__main__":
    sys.exit(main())
