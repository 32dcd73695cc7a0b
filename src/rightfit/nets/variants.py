"""The table of ResNets: a row for each, with the paper or library whose net it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from rightfit.errors import UsageError

# Channel means and deviations of ImageNet photographs in 0..255 (torchvision's constants times 255).
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Variant:
    """One row: which block, how often in each stage, how wide, and where a family differs."""

    block: str  # "basic": two 3x3; "bottleneck": 1x1, 3x3, 1x1
    depths: tuple[int, ...]  # blocks in each stage
    paper: str
    stem: str = (
        "imagenet"  # "cifar": one 3x3; "imagenet": 7x7 stride 2 and a pool; "deep": three 3x3 and a pool
    )
    width: int = 64  # channels of the first stage's 3x3, doubled each stage
    stem_width: int = 64
    groups: int = 1  # of the 3x3
    group_width: int = 64  # width of one group where the stage is 64 wide
    preact: bool = False  # batch normalisation and ReLU before each convolution
    wide: bool = False  # a wide net: dropout between its convolutions
    squeeze: bool = False  # squeeze and excitation
    average_shortcut: bool = False  # average pool before a strided projection
    stride_in: str = "3x3"  # or "1x1": which convolution of a bottleneck strides
    stride_at: str = "first"  # or "last": which block of a stage strides
    padding: str = "symmetric"  # or "same": TensorFlow's, one-sided where stride is 2
    pool_padding: str = "zero"  # or "infinite", or "same"
    stem_bias: bool = False
    project_first: bool = False  # a projection in the very first block, even where shapes agree
    mean: tuple[float, float, float] = MEAN  # the pixels' red, green and blue lose this first,
    deviation: tuple[float, float, float] = DEVIATION  # then are divided by this


def variant_named(name: str) -> Variant:
    """The table's row; UsageError names the nearest rows when there is none."""
    if name in VARIANTS:
        return VARIANTS[name]
    near = get_close_matches(name, VARIANTS, n=3, cutoff=0.4) or list(VARIANTS)[:8]
    raise UsageError(f"unknown model {name!r}; did you mean {', '.join(near)}? `rightfit models` lists all")


RESNET = "He et al. 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385"
CIFAR = f"{RESNET}, section 4.2, option B"
SMALLEST = f"{CIFAR}, with fewer blocks; as in Tian et al. 2020, arXiv:1910.10699"
IMAGENET = f"{RESNET}, table 1; stride in the 3x3 as in torchvision (v1.5)"
PREACT = "He et al. 2016, Identity Mappings in Deep Residual Networks, arXiv:1603.05027"
WIDE = "Zagoruyko and Komodakis 2016, Wide Residual Networks, arXiv:1605.07146"
RESNEXT = "Xie et al. 2017, Aggregated Residual Transformations, arXiv:1611.05431"
SENET = "Hu et al. 2018, Squeeze-and-Excitation Networks, arXiv:1709.01507"
TRICKS = "He et al. 2019, Bag of Tricks for Image Classification, arXiv:1812.01187, ResNet-D"

DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    26: ("bottleneck", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


def _table() -> dict[str, Variant]:
    rows: dict[str, Variant] = {}
    small = Variant("basic", (), CIFAR, stem="cifar", width=16, stem_width=16)
    for depth in (8, 14):
        rows[f"resnet{depth}"] = replace(small, depths=((depth - 2) // 6,) * 3, paper=SMALLEST)
    for depth in (20, 32, 44, 56, 110, 1202):
        rows[f"resnet{depth}"] = replace(small, depths=((depth - 2) // 6,) * 3)
    preact = replace(small, block="bottleneck", preact=True, paper=f"{PREACT}, section 4 (CIFAR)")
    for depth in (20, 29, 47, 56, 110, 164, 1001):
        rows[f"resnet{depth}v2"] = replace(preact, depths=((depth - 2) // 9,) * 3)
    for depth, factor in ((16, 8), (28, 2), (28, 10), (40, 4)):
        wide = replace(preact, block="basic", wide=True, paper=f"{WIDE}, table 4", width=16 * factor)
        rows[f"wrn{depth}_{factor}"] = replace(wide, depths=((depth - 4) // 6,) * 3)

    v15 = {depth: Variant(block, depths, IMAGENET) for depth, (block, depths) in DEPTHS.items()}
    for depth in (18, 34, 50, 101, 152, 200):
        rows[f"resnet{depth}"] = v15[depth]
    v1 = f"{RESNET}, table 1; stride in the first 1x1 as in the paper and keras.applications"
    for depth in (50, 101, 152):
        rows[f"resnet{depth}v1"] = replace(
            v15[depth], stride_in="1x1", mean=(123.68, 116.779, 103.939), deviation=(1.0, 1.0, 1.0), paper=v1
        )
    for depth in (18, 34, 50, 101, 152, 200):
        rows[f"resnet{depth}v2"] = replace(
            v15[depth], preact=True, pool_padding="infinite", paper=f"{PREACT}, section 5"
        )
    for depth in (50, 101):
        wide = replace(v15[depth], group_width=128, paper=f"{WIDE}; as in torchvision")
        rows[f"wide_resnet{depth}_2"] = wide
    for depth, groups, width in ((50, 32, 4), (101, 32, 8), (101, 64, 4), (152, 32, 4)):
        row = replace(v15[depth], groups=groups, group_width=width, paper=RESNEXT)
        rows[f"resnext{depth}_{groups}x{width}d"] = row
    for depth in (18, 34, 50, 101, 152):
        rows[f"seresnet{depth}"] = replace(v15[depth], squeeze=True, paper=SENET)
    for depth in (50, 101):
        rows[f"seresnext{depth}_32x4d"] = replace(
            rows["resnext50_32x4d"], depths=DEPTHS[depth][1], squeeze=True
        )
    for depth in (18, 26, 34, 50, 101, 152):
        rows[f"resnet{depth}d"] = replace(v15[depth], stem="deep", average_shortcut=True, paper=TRICKS)

    # The same nets as other libraries trained them, geometry and pixels' scale, so that their weights fit exactly.
    half: dict[str, Any] = {"mean": (127.5,) * 3, "deviation": (127.5,) * 3}  # pixels to -1..1
    vgg: dict[str, Any] = {
        "mean": (123.68, 116.78, 103.94),
        "deviation": (1.0,) * 3,
    }  # less the mean, no more
    for depth in (50, 101, 152):
        rows[f"resnet{depth}v2_keras"] = replace(
            rows[f"resnet{depth}v2"], stride_at="last", pool_padding="zero", stem_bias=True, **half,
            paper=f"{PREACT}; as in keras.applications: stride in a stage's last block",
        )  # fmt: skip
        slim = "as in TF-Slim: stride in a stage's last block"
        rows[f"resnet{depth}v1_slim"] = replace(
            v15[depth], stride_at="last", pool_padding="same", **vgg, paper=f"{RESNET}; {slim}"
        )
        rows[f"resnet{depth}v2_slim"] = replace(
            rows[f"resnet{depth}v2"], stride_at="last", pool_padding="same", stem_bias=True, **half,
            paper=f"{PREACT}; {slim}",
        )  # fmt: skip
    for depth in (18, 34, 50, 101, 152, 200):
        official = (
            "as in TensorFlow's official models: one-sided pool padding, a projection in the first block"
        )
        for version, paper in (("", IMAGENET), ("v2", PREACT)):
            rows[f"resnet{depth}{version}_official"] = replace(
                rows[f"resnet{depth}{version}"], pool_padding="same", project_first=True, **vgg,
                paper=f"{paper}; {official}",
            )  # fmt: skip
    for depth in (50, 101):
        rows[f"resnet{depth}v2_timm"] = replace(
            rows[f"resnet{depth}v2"], **half, paper=f"{PREACT}; pixels to -1..1 as in timm and KerasHub"
        )
    paddle = f"{TRICKS}; as in PaddleClas and KerasHub"
    for depth in (18, 34):
        rows[f"resnet{depth}d_paddle"] = replace(
            rows[f"resnet{depth}d"], project_first=True, paper=f"{paddle}: a projection in the first block"
        )
    rows["resnet200d_paddle"] = replace(rows["resnet101d"], depths=(3, 12, 48, 3), paper=paddle)
    sonnet = "as in Sonnet 2: one-sided pool padding"
    for name in ("resnet50", "resnet101", "resnet152"):
        for version in ("", "v2"):
            row = rows[f"{name}{version}"]
            rows[f"{name}{version}_sonnet"] = replace(
                row, pool_padding="same", paper=f"{row.paper}; {sonnet}"
            )
    rows["resnet50v1_tensorlayer"] = replace(
        rows["resnet50v1"], padding="same", pool_padding="same",
        paper=f"{rows['resnet50v1'].paper}; as in TensorLayer 2: one-sided padding",
    )  # fmt: skip
    return rows


VARIANTS: dict[str, Variant] = _table()
