"""Whether imported weights give timm's and torchvision's logits: their nets, random weights, our importer.

Every net that we share with them is made without pretrained weights, its weights and batch-norm
statistics are drawn, its state dict is translated, and both nets see the same images. A row holds
the largest difference of a logit, relative to the largest logit, and both counts of trainable
parameters. The peers come by

    pip install --no-deps timm torchvision
    PYTHONPATH=src python benchmarks/import_check.py
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, declare_torchvision, installed

OUTPUT = RESULTS / "import_check.json"
OUTPUTS = 1000
SIZE = (64, 64)
QUICK = [("torchvision", "resnet18"), ("timm", "seresnet18")]
TOLERANCE = 1e-4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="two nets; writes nothing unless --output is given"
    )
    parser.add_argument("--output", type=Path, help=f"JSON; default {OUTPUT.relative_to(OUTPUT.parents[2])}")
    args = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    makers = peers()
    wanted = [key for key in QUICK if key in makers] if args.quick else list(makers)
    rows = []
    for library, name in wanted:
        rows.append({"library": library, "net": name} | compare(name, makers[library, name]))
        print(
            "{library:<12} {net:<20} {relative_difference:.1e}  {parameters:>11,} parameters".format(
                **rows[-1]
            )
        )
        gc.collect()
    if not rows:
        print(
            "left out: neither timm nor torchvision is here; `pip install --no-deps timm torchvision` brings them"
        )
        return 0 if args.quick else 1
    wrong = [
        f"{row['library']}'s {row['net']}"
        for row in rows
        if not row["relative_difference"] <= TOLERANCE or row["parameters"] != row["their_parameters"]
    ]
    result = {
        "image_size": SIZE,
        "backend": os.environ["KERAS_BACKEND"],
        "versions": installed(("keras", "torch", "numpy", "timm", "torchvision")),
        "largest_relative_difference": max(row["relative_difference"] for row in rows),
        "wrong": wrong,
        "nets": rows,
    }
    output = args.output or (None if args.quick else OUTPUT)
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=1) + "\n")
        print(f"written to {output}", file=sys.stderr)
    print(
        f"wrong: {', '.join(wrong)}"
        if wrong
        else f"all {len(rows)} agree within {TOLERANCE:g} of the largest logit"
    )
    return 1 if wrong else 0


def peers() -> dict[tuple[str, str], Any]:
    """(library, net) -> a function that makes it, for each of our nets that the installed libraries have."""
    from rightfit.nets.importers.torch_names import fits
    from rightfit.nets.variants import VARIANTS

    ours = [name for name in VARIANTS if fits(name)]
    found: dict[tuple[str, str], Any] = {}
    try:
        declare_torchvision()
        from torchvision import models

        known = set(models.list_models())
        found |= {("torchvision", name): getattr(models, name) for name in ours if name in known}
    except ImportError:
        print("left out: torchvision is not installed")
    try:
        import timm

        known = set(timm.list_models())
        found |= {("timm", name): lambda name=name: timm.create_model(name) for name in ours if name in known}
    except ImportError:
        print("left out: timm is not installed (it needs torchvision)")
    return found


def compare(name: str, make: Any) -> dict[str, Any]:
    """Their net beside ours with its weights: relative difference of logits, and parameter counts."""
    import keras
    import torch

    from rightfit.nets import resnet
    from rightfit.nets.importers import torch_names
    from rightfit.nets.importers.core import Tensors, checked
    from rightfit.saving.weights import named_weights

    start = time.perf_counter()
    theirs = drawn(make().eval())
    tensors = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    ours = resnet.build(name, OUTPUTS, SIZE)
    variables = dict(named_weights(ours))
    shapes = {key: tuple(variable.shape) for key, variable in variables.items()}
    weights = checked(shapes, Tensors(tensors, torch_names.IGNORED), torch_names.translate, name)
    for key, variable in variables.items():
        variable.assign(weights[key])
    images = np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype(np.float32)
    images[1, : SIZE[0] // 2] = 0
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = theirs((x - mean[:, None, None]) / deviation[:, None, None]).numpy()
    found = keras.ops.convert_to_numpy(ours(images, training=False))
    largest = float(np.abs(expected).max())
    return {
        "relative_difference": float(np.abs(found - expected).max()) / largest,
        "largest_logit": largest,
        "between_the_two_images": float(np.abs(expected[0] - expected[1]).max()) / largest,
        "parameters": sum(int(np.prod(variable.shape)) for variable in ours.trainable_variables),
        "their_parameters": sum(parameter.numel() for parameter in theirs.parameters()),
        "seconds": round(time.perf_counter() - start, 1),
    }


def drawn(net: Any) -> Any:
    """Every weight and statistic drawn; small last scales keep 50 and more residuals from piling up."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3, generator=generator)
    for block in net.modules():
        if hasattr(block, "conv2"):
            getattr(block, "bn3", block.bn2).weight.data.mul_(0.3)
    return net


if __name__ == "__main__":
    sys.exit(main())
