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
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, describe_machine, slug, versions

SOURCE_IMAGES, SOURCE_PX = 8_000, 64


def main() -> int:
    args = parse()
    if args.contender:
        print(json.dumps(CONTENDERS[args.contender](args)))
        return 0
    with tempfile.TemporaryDirectory(prefix="rightfit-transfer-") as work:
        args.work = Path(work)
        args.folders = split_folders(args.data, args.work / "data", args.images)
        args.weights = args.weights or pretrained(args)
        rounds = []
        for index in range(args.rounds):
            load = os.getloadavg()[0]
            rounds.append({"load_before": load} | {name: measure(name, args) for name in CONTENDERS})
            print(f"round {index + 1} of {args.rounds} done", file=sys.stderr)
    result = {
        "settings": {
            "image_size": args.image_size,
            "epochs": args.epochs,
            "batch_size": args.batch_size,
            "images": rounds[0]["rightfit"]["images"],
            "weights": f"resnet50 of {SOURCE_IMAGES:,} Fashion-MNIST images" if args.source else "given",
        },
        "machine": describe_machine(),
        "versions": versions(),
        "summary": summarise(rounds),
        "rounds": rounds,
    }
    print(table(result["summary"]))
    output = args.output or RESULTS / f"transfer-{slug(result['machine']['processor'])}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {output}", file=sys.stderr)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("build/elpv"), help="class folders of ELPV")
    parser.add_argument("--source", type=Path, help="Fashion-MNIST's class folders, to make weights from")
    parser.add_argument("--weights", type=Path, help="weights of a resnet50 instead of making some")
    parser.add_argument("--image-size", type=int, default=150, metavar="PX")
    parser.add_argument("--epochs", type=int, default=20, help="of stock Keras' fit")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--images", type=int, help="only so many of each class")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a minute; shows that it runs")
    parser.add_argument("--output", type=Path, help="JSON; default results/transfer-PROCESSOR.json")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folders", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.image_size, args.epochs, args.images = 64, 2, 40
        args.output = args.output or Path(os.devnull)
    return args


def split_folders(data: Path, target: Path, images: int | None) -> Path:
    """data/CLASS/* -> target/{train,val,test}/CLASS/*, as `rightfit train` would split them; made if missing."""
    from rightfit.data import split, table

    if not data.exists():
        subprocess.run([sys.executable, Path(__file__).parents[1] / "examples" / "elpv.py", data], check=True)
    divided = split.assign(table.read(data), split.parse_ratio("6:1:2"), 0)
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


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One contender in a fresh process, from its start to its end."""
    command = [sys.executable, __file__, "--contender", name, "--folders", str(args.folders)]
    command += ["--weights", str(args.weights), "--work", str(args.work)]
    for flag in ("image_size", "epochs", "batch_size"):
        command += [f"--{flag.replace('_', '-')}", str(getattr(args, flag))]
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{name} failed with exit code {done.returncode}:\n{done.stderr[-4000:]}")
    return {"seconds": seconds} | json.loads(done.stdout.splitlines()[-1])


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
            image_size=args.image_size,
            batch_size=args.batch_size,
            output=Path(fresh) / "run",
            cache_folder=str(Path(fresh) / "cache"),
            quiet=True,
        )
        counts = run.history.iloc[0]
        metrics = run.metrics["validation"]
        images = len((run.path / "data.csv").read_text().splitlines()) - 1
    return {
        "val_accuracy": metrics["accuracy"]["value"],
        "val_accuracy_interval": [metrics["accuracy"]["low"], metrics["accuracy"]["high"]],
        "val_loss": metrics["loss"]["value"],
        "feature_seconds": float(counts["input_seconds"]),
        "images": images,
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
            args.folders / name,
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
    tensors = _outputs_of(args.weights)
    if tensors != 2:
        net = build("resnet50", tensors, size)
    load_weights(args.weights, net)
    base = keras.Model(net.input, net.get_layer("pool").output)
    base.trainable = False
    inputs = keras.Input((*size, 3))
    model = keras.Model(inputs, keras.layers.Dense(1)(base(inputs, training=False)))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=[keras.metrics.BinaryAccuracy(threshold=0.0)])
    history = model.fit(sets["train"], validation_data=sets["val"], epochs=args.epochs, verbose=0).history
    return {
        "val_accuracy": max(history["val_binary_accuracy"]),  # its best epoch, in its favour
        "val_accuracy_of_last_epoch": history["val_binary_accuracy"][-1],
        "val_loss": min(history["val_loss"]),
    }


def _outputs_of(path: Path) -> int:
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return int(file.get_slice("logits/bias").get_shape()[0])


CONTENDERS: dict[str, Any] = {
    "rightfit": rightfit_head,
    "rightfit, a changed view of each image": lambda args: rightfit_head(args, views=1),
    "keras": keras_fit,
}


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    summary = {}
    for name in CONTENDERS:
        ratios = [r[name]["seconds"] / r["rightfit"]["seconds"] for r in rounds]
        summary[name] = {
            "seconds": statistics.median(r[name]["seconds"] for r in rounds),
            "times_rightfit": statistics.median(ratios),
            "val_accuracy": statistics.median(r[name]["val_accuracy"] for r in rounds),
            "val_loss": statistics.median(r[name]["val_loss"] for r in rounds),
        }
    return summary


def table(summary: dict[str, Any]) -> str:
    lines = [f"{'':<28}{'seconds':>9}{'x rightfit':>12}{'val accuracy':>14}{'val loss':>10}"]
    lines += [
        f"{name:<28}{row['seconds']:>9.1f}{row['times_rightfit']:>12.1f}{row['val_accuracy']:>14.4f}{row['val_loss']:>10.4f}"
        for name, row in summary.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
