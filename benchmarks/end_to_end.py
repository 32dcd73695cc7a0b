"""From folders of image files to trained epochs, in seconds: rightfit beside fastai, Keras and timm, in one run.

All train a ResNet-50 without pretrained weights on the same 300 px PNG photographs (ELPV's solar
cells; textures where that package is missing) at 150 px, batches of 32, as each library's own guide does:

- rightfit: `rightfit.train` with its defaults, which augment (crop, flip, colour);
- fastai: `ImageDataLoaders.from_folder`, `vision_learner(resnet50)`, `fit_one_cycle`; no augmentation;
- Keras: `image_dataset_from_directory`, `keras.applications.ResNet50(weights=None)`, `fit`; no augmentation;
- timm: `create_model("resnet50")` in a plain PyTorch loop, channels last, in whichever of float32 and
  bfloat16 trains faster here, torchvision's `RandomResizedCrop` and flip, a DataLoader worker a core.

The first epoch is timed from the call with a folder to its last step (decoding, compiling, workers
included, imports not), the second alone; validation is outside both.

    python benchmarks/end_to_end.py
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from common import DATA, ROOT, Contender, Metric, answered, class_folder, finish, parser, race, summarise

METRICS = {
    "first epoch": Metric("s", more_is_better=False),
    "second epoch": Metric("s", more_is_better=False),
}


def main() -> int:
    if answered(CONTENDERS):
        return 0
    made = parser(__doc__, rounds=3)
    made.add_argument("--images", type=int, default=640)
    made.add_argument("--image-size", type=int, default=150, metavar="PX")
    made.add_argument("--batch-size", type=int, default=32)
    args = made.parse_args()
    if args.quick:
        args.images, args.batch_size, args.rounds = 64, 16, 1
    args.folder, source = photographs(args.images)
    print(f"end_to_end: {args.images} {source}, {args.image_size} px, batches of {args.batch_size}")
    chosen = {name: of for name, of in CONTENDERS.items() if not (args.quick and name == TIMM)}
    rounds, left_out = race(__file__, chosen, args)
    return finish("end_to_end", args, rounds, left_out, summarise(rounds, METRICS), source=source)


def photographs(count: int) -> tuple[str, str]:
    """A folder of two class folders with half of `count` PNG files each, and what they are."""
    folder = DATA / f"elpv-{count}"
    if not folder.exists():
        whole = ROOT / "build" / "elpv"
        done = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "elpv.py"), str(whole)], capture_output=True
        )
        if done.returncode:
            return str(class_folder("png", count, 300, "png")), "synthetic textures"
        for label in ("functional", "defective"):
            (folder / label).mkdir(parents=True)
            for path in sorted((whole / label).iterdir())[: count // 2]:
                (folder / label / path.name).hardlink_to(path)
    return str(folder), "photographs of ELPV"


def of_epochs(started: float, ends: list[float], begun: float) -> dict[str, float]:
    """`ends`: of the training of both epochs; `begun`: when the second began."""
    return {"first epoch": ends[0] - started, "second epoch": ends[1] - begun}


def with_rightfit(args: argparse.Namespace) -> dict[str, Any]:
    import rightfit

    rightfit.runtime.choose_backend("tensorflow")
    with tempfile.TemporaryDirectory() as work:
        history = Path(work) / "run" / "history.csv"  # written when the first epoch has been validated
        seen: list[float] = []

        def watch() -> None:
            while not history.exists():
                time.sleep(0.01)
            seen.append(time.time())

        threading.Thread(target=watch, daemon=True).start()
        started = time.time()
        run = rightfit.train(
            args.folder,
            model="resnet50",
            image_size=args.image_size,
            batch_size=args.batch_size,
            epochs=2,
            split="99:1",
            output=f"{work}/run",
            cache_folder=f"{work}/cache",
            quiet=True,
        )
        epochs = run.history
        return {
            "first epoch": seen[0] - started - float(epochs["validation_seconds"][0]),
            "second epoch": float(epochs["train_seconds"][1]),
            "precision": run.settings.precision,
        }


def with_fastai(args: argparse.Namespace) -> dict[str, Any]:
    from common import declare_torchvision

    declare_torchvision()
    from fastai.vision.all import Callback, ImageDataLoaders, Resize, resnet50, vision_learner

    marks: dict[str, list[float]] = {"begun": [], "ends": []}

    class Clock(Callback):
        def before_train(self) -> None:
            marks["begun"].append(time.time())

        def after_train(self) -> None:
            marks["ends"].append(time.time())

    started = time.time()
    loaders = ImageDataLoaders.from_folder(
        args.folder, valid_pct=0.01, seed=0, item_tfms=Resize(args.image_size), bs=args.batch_size
    )
    learner = vision_learner(loaders, resnet50, pretrained=False, cbs=Clock())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(2)
    return of_epochs(started, marks["ends"], marks["begun"][1]) | {"precision": "float32"}


def with_keras(args: argparse.Namespace) -> dict[str, Any]:
    import keras
    import tensorflow as tf

    marks: dict[str, list[float]] = {"begun": [], "ends": []}

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            marks["begun"].append(time.time())

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            marks["ends"].append(time.time())

    size = (args.image_size, args.image_size)
    started = time.time()
    images = keras.utils.image_dataset_from_directory(
        args.folder, label_mode="int", image_size=size, batch_size=args.batch_size, seed=0, verbose=False
    ).prefetch(tf.data.AUTOTUNE)
    inputs = keras.Input((*size, 3))
    scaled = keras.applications.resnet.preprocess_input(inputs)
    net = keras.applications.ResNet50(weights=None, classes=2, input_shape=(*size, 3))
    model = keras.Model(inputs, net(scaled))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, epochs=2, verbose=0, callbacks=[Clock()])
    return of_epochs(started, marks["ends"], marks["begun"][1]) | {"precision": "float32"}


def with_timm(args: argparse.Namespace) -> dict[str, Any]:
    from common import declare_torchvision

    declare_torchvision()
    import timm
    import torch
    from torchvision import datasets, transforms

    side, size = args.image_size, args.batch_size

    def ready() -> tuple[Any, Any]:
        net = timm.create_model("resnet50", num_classes=2).to(memory_format=torch.channels_last)
        return net, torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def step(net: Any, optimizer: Any, x: Any, y: Any, mixed: bool) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = torch.nn.functional.cross_entropy(net(x.to(memory_format=torch.channels_last)), y)
        loss.backward()
        optimizer.step()

    trial, pace = ready(), {}
    for mixed in (False, True, False, True):  # the last of each is what counts
        began = time.time()
        step(*trial, torch.rand(size, 3, side, side), torch.zeros(size, dtype=torch.long), mixed)
        pace[mixed] = time.time() - began
    mixed = pace[True] < pace[False]
    started = time.time()
    change = transforms.Compose(
        [transforms.RandomResizedCrop(side), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    images = datasets.ImageFolder(args.folder, change)
    workers = len(os.sched_getaffinity(0))
    loader = torch.utils.data.DataLoader(
        images, size, shuffle=True, num_workers=workers, persistent_workers=True, drop_last=False
    )
    net, optimizer = ready()
    begun, ends = [], []
    for _ in range(2):
        begun.append(time.time())
        for x, y in loader:
            step(net, optimizer, x, y, mixed)
        ends.append(time.time())
    return of_epochs(started, ends, begun[1]) | {"precision": "bfloat16" if mixed else "float32"}


TIMM = "timm on PyTorch"  # not in --quick
CONTENDERS = {
    "rightfit": Contender(with_rightfit),
    "fastai": Contender(with_fastai, ("fastai",), peer=True),
    "Keras": Contender(with_keras, ("tensorflow",)),
    TIMM: Contender(with_timm, ("timm",), peer=True),
}


if __name__ == "__main__":
    sys.exit(main())
