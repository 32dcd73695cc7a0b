"""Images in memory to logits, in images/s: rightfit's predict path beside stock Keras and plain PyTorch, in one run.

A ResNet-50, batches of 64 random uint8 images, in each precision: rightfit's fused model through the
function that `rightfit predict` calls; the same net of stock layers by Keras' `predict_on_batch`; PyTorch
in eval mode, channels last, without gradients, its images float32 already.

    python benchmarks/inference.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import Contender, Metric, answered, finish, parser, race, summarise

OUTPUTS = 10
KINDS = ("float32", "bfloat16")


def main() -> int:
    if answered(CONTENDERS):
        return 0
    made = parser(__doc__, rounds=3)
    made.add_argument("--model", choices=("resnet18", "resnet50"), default="resnet50")
    args = made.parse_args()
    args.sides, args.batch_size, args.batches = [150, 224], 64, 5
    if args.quick:
        args.sides, args.batch_size, args.batches, args.rounds = [150], 16, 3, 1
    metrics = {title(args, side, kind): Metric("images/s") for side in args.sides for kind in KINDS}
    print(f"inference: batches of {args.batch_size}")
    rounds, left_out = race(__file__, CONTENDERS, args)
    return finish("inference", args, rounds, left_out, summarise(rounds, metrics))


def title(args: argparse.Namespace, side: int, kind: str) -> str:
    return f"{args.model} {side} px, {kind}"


def measured(prepare: Callable[[argparse.Namespace, int, str, np.ndarray], Callable[[], Any]]) -> Contender:
    """prepare(args, side, kind, images uint8) gives a function that makes one batch's logits."""

    def run(args: argparse.Namespace) -> dict[str, Any]:
        found = {}
        for side in args.sides:
            shape = (args.batch_size, side, side, 3)
            images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            for kind in KINDS:
                predict = prepare(args, side, kind, images)
                predict()
                speeds = []
                for _ in range(args.batches):
                    started = time.perf_counter()
                    predict()
                    speeds.append(args.batch_size / (time.perf_counter() - started))
                found[title(args, side, kind)] = speeds
        return found

    return Contender(run)


def with_rightfit(args: argparse.Namespace, side: int, kind: str, images: np.ndarray) -> Callable[[], Any]:
    from rightfit import runtime

    runtime.choose_backend()
    from rightfit.evaluation.infer import logits_of, plain_graph
    from rightfit.nets import layers, resnet

    model = plain_graph(layers.fused(resnet.build(args.model, OUTPUTS, (side, side)), kind))
    return lambda: logits_of(model, images, args.batch_size)


def with_keras(args: argparse.Namespace, side: int, kind: str, images: np.ndarray) -> Callable[[], Any]:
    import keras

    from rightfit.nets import resnet

    keras.config.set_dtype_policy("mixed_bfloat16" if kind == "bfloat16" else kind)
    model = resnet.build(args.model, OUTPUTS, (side, side))
    return lambda: model.predict_on_batch(images)


def with_pytorch(args: argparse.Namespace, side: int, kind: str, images: np.ndarray) -> Callable[[], Any]:
    import torch
    from train_step import pytorch_resnet

    net = pytorch_resnet(args.model).to(memory_format=torch.channels_last).eval()
    x = torch.from_numpy(images.astype("float32") / 127.5 - 1).permute(0, 3, 1, 2)

    def predict() -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bfloat16"):
            return net(x).float().numpy()

    return predict


CONTENDERS = {
    "rightfit": measured(with_rightfit),
    "Keras on TensorFlow": measured(with_keras),
    "PyTorch": measured(with_pytorch),
}


if __name__ == "__main__":
    sys.exit(main())
