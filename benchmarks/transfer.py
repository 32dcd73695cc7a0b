"""Transfer learning with a frozen ResNet-50, end to end in seconds: rightfit beside stock Keras, in one run.

Both read the same class folders of ELPV (2,624 photographs of solar cells, split 6:1:2 beforehand) at
150 px, start from the same weights and train the last layer only: rightfit on features computed once,
stock Keras by `base.trainable = False` and 20 epochs of `fit`, its data set cached in memory. Each is a
process of its own, timed from its start to its end, with an empty cache. The weights are those of a
ResNet-50 that is trained here on 8,000 images of Fashion-MNIST first, as nothing is downloaded.

    python examples/elpv.py build/elpv && python examples/fashion_mnist.py build/fashion
    python benchmarks/transfer.py --data build/elpv --source build/fashion
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import Contender, Metric, answered, finish, parser, race, summarise

SOURCE_IMAGES, SOURCE_PX = 8_000, 64
METRICS = {
    "end to end": Metric("s", more_is_better=False),
    "validation accuracy": Metric("%"),
    "validation loss": Metric("nats", more_is_better=False),
}


def main() -> int:
    if answered(CONTENDERS):
        return 0
    args = parse()
    with tempfile.TemporaryDirectory(prefix="rightfit-transfer-") as work:
        args.work = Path(work)
        args.folders = split_folders(args.data, args.work / "data", args.images)
        args.weights = args.weights or pretrained(args)
        chosen = {name: of for name, of in CONTENDERS.items() if not (args.quick and name == VIEWED)}
        rounds, left_out = race(__file__, chosen, args)
    del args.work, args.folders, args.weights  # places of this machine
    source = f"resnet50 of {SOURCE_IMAGES:,} Fashion-MNIST images" if args.source else "given or random"
    return finish("transfer", args, rounds, left_out, summarise(rounds, METRICS), weights=source)


def parse() -> argparse.Namespace:
    made = parser(__doc__, rounds=1)
    made.add_argument("--data", type=Path, default=Path("build/elpv"), help="class folders of ELPV")
    made.add_argument("--source", type=Path, help="Fashion-MNIST's class folders, to make weights from")
    made.add_argument("--weights", type=Path, help="weights of a resnet50 instead of making some")
    made.add_argument("--image-size", type=int, default=150, metavar="PX")
    made.add_argument("--epochs", type=int, default=20, help="of stock Keras' fit")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--images", type=int, help="only so many of each class")
    args = made.parse_args()
    if args.quick:
        args.image_size, args.epochs, args.images = 64, 2, 40
    return args


def split_folders(data: Path, target: Path, images: int | None) -> Path:
    """data/CLASS/* -> target/{train,val,test}/CLASS/*, as `rightfit train` would split them; made if missing."""
    from rightfit.data import reading, split

    if not data.exists():
        subprocess.run([sys.executable, Path(__file__).parents[1] / "examples" / "elpv.py", data], check=True)
    divided = split.assign(reading.read(data), split.parse_ratio("6:1:2"), 0)
    frame = divided.frame
    if images:
        frame = frame.groupby("label", observed=True).head(images)
    for name, part in zip(frame["name"], frame["split"], strict=True):
        place = target / part / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name, place)
    return target


def pretrained(args: argparse.Namespace) -> Path:
    """Weights of a resnet50; random ones without --source."""
    import rightfit

    folder = args.work / "source"
    if args.source is None:
        rightfit.runtime.choose_backend("tensorflow")
        from rightfit.nets.resnet import build
        from rightfit.saving.bundle import save_weights

        save_weights(args.work / "random.safetensors", build("resnet50", 2, (32, 32)))
        return args.work / "random.safetensors"
    files = sorted(args.source.glob("train/*/*.png"))
    for path in [files[i] for i in np.random.default_rng(0).permutation(len(files))[:SOURCE_IMAGES]]:
        place = folder / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    run = rightfit.train(
        folder,
        model="resnet50",
        weights="none",
        image_size=SOURCE_PX,
        epochs=4,
        batch_size=64,
        augment="light",
        output=args.work / "pretrained",
        cache_folder=str(args.work / "cache-source"),
    )
    return run.path / "weights.safetensors"


def since_start() -> float:
    """Seconds since this process began, its imports among them."""
    import psutil

    return time.time() - psutil.Process().create_time()


def rightfit_head(args: argparse.Namespace, views: int = 0) -> dict[str, Any]:
    import rightfit

    with tempfile.TemporaryDirectory(dir=args.work) as fresh:
        run = rightfit.train(
            args.folders,
            model="resnet50",
            weights=args.weights,
            finetune="head",
            views=views,
            class_weights="none",  # stock Keras weighs no classes, and accuracy is compared
            report="none",  # nor does it draw a page
            image_size=args.image_size,
            batch_size=args.batch_size,
            output=Path(fresh) / "run",
            cache_folder=str(Path(fresh) / "cache"),
            quiet=True,
        )
        took = since_start()
        metrics = run.metrics["validation"]
        accuracy = metrics["accuracy"]
    return {
        "end to end": took,
        "validation accuracy": 100 * accuracy["value"],
        "interval": [100 * accuracy["low"], 100 * accuracy["high"]],
        "validation loss": metrics["loss"]["value"],
    }


def keras_fit(args: argparse.Namespace) -> dict[str, Any]:
    """What Keras' guide to transfer learning does; the data set is kept decoded in memory."""
    import keras
    import tensorflow as tf

    from rightfit.nets.resnet import build
    from rightfit.saving.bundle import load_weights

    size = (args.image_size, args.image_size)
    sets = {
        name: keras.utils.image_dataset_from_directory(
            Path(args.folders) / name,
            label_mode="binary",
            image_size=size,
            crop_to_aspect_ratio=True,
            batch_size=args.batch_size,
            shuffle=name == "train",
            seed=0,
            verbose=False,
        )
        for name in ("train", "val")
    }
    sets = {name: images.cache().prefetch(tf.data.AUTOTUNE) for name, images in sets.items()}
    net = build("resnet50", 2, size)
    tensors = _outputs_of(Path(args.weights))
    if tensors != 2:
        net = build("resnet50", tensors, size)
    load_weights(Path(args.weights), net)
    base = keras.Model(net.input, net.get_layer("pool").output)
    base.trainable = False
    inputs = keras.Input((*size, 3))
    model = keras.Model(inputs, keras.layers.Dense(1)(base(inputs, training=False)))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
    history = model.fit(sets["train"], validation_data=sets["val"], epochs=args.epochs, verbose=0).history
    return {
        "end to end": since_start(),
        "validation accuracy": 100 * max(history["val_binary_accuracy"]),  # its best epoch, in its favour
        "of the last epoch": 100 * history["val_binary_accuracy"][-1],
        "validation loss": min(history["val_loss"]),
    }


def _outputs_of(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return int(file.get_slice("logits/bias").get_shape()[0])


VIEWED = "rightfit, a changed view of each image"  # not in --quick
CONTENDERS = {
    "rightfit": Contender(rightfit_head),
    VIEWED: Contender(lambda args: rightfit_head(args, views=1)),
    "Keras": Contender(keras_fit),
}


if __name__ == "__main__":
    sys.exit(main())
