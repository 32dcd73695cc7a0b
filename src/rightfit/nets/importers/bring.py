"""One call for every format: a weights file and the name of a net in, that net's weights by our names out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rightfit.nets.importers import (
    keras_applications,
    keras_hub,
    official,
    slim,
    sonnet,
    tensorlayer,
    torch_names,
)
from rightfit.nets.importers.core import Array, Tensors, WeightsError, checked
from rightfit.nets.importers.files import read
from rightfit.nets.resnet import weight_shapes
from rightfit.nets.variants import VARIANTS, variant_named

SCHEMES: dict[str, Any] = {
    "torchvision or timm": torch_names,
    "keras.applications": keras_applications,
    "KerasHub": keras_hub,
    "TF-Slim": slim,
    "TensorFlow's official models": official,
    "Sonnet": sonnet,
    "TensorLayer": tensorlayer,
}
OWN = "rightfit"


def bring(path: str | Path, name: str, outputs: int | None = None) -> tuple[str, dict[str, Array]]:
    """The library that `path` comes from, and float32 weights of the net `name` by `layer/variable`.

    With `outputs` a last layer of another width is left out; without, it must be there and keeps its
    own. Raises UsageError for an unknown net, WeightsError when the file is not of a known library, or
    of another net: it names the nets that would do, or the first three tensors that do not fit.
    """
    variant_named(name)
    _, tensors = read(path)
    source, scheme = _scheme(tensors, path)
    if scheme is not None and not scheme.fits(name):
        near = [row for row in VARIANTS if scheme.fits(row)]
        raise WeightsError(
            f"{path}: weights of {source} do not compute what {name} does; take {', '.join(near)}"
        )
    translate = _own if scheme is None else scheme.translate
    ignored = () if scheme is None else scheme.IGNORED
    if outputs is None:
        bias = translate(list(weight_shapes(name, 1)), Tensors(tensors, ignored)).get("logits/bias")
        outputs, head = (1, False) if bias is None else (len(bias), True)
    else:
        head = False
    shapes = weight_shapes(name, outputs)
    return source, checked(shapes, Tensors(tensors, ignored), translate, str(path), head)


def _scheme(tensors: dict[str, Array], path: str | Path) -> tuple[str, Any]:
    if "stem_conv/kernel" in tensors or "stem_conv1/kernel" in tensors:
        return OWN, None
    for source, scheme in SCHEMES.items():
        if scheme.matches(tensors):
            return source, scheme
    some = ", ".join(list(tensors)[:3])
    raise WeightsError(f"{path}: no ResNet of {', '.join(SCHEMES)} has tensors of these names: {some}, ...")


def _own(ours: list[str], tensors: Tensors) -> dict[str, Array]:
    taken = ((name, tensors.take(name, head=name.startswith("logits/"))) for name in ours)
    return {name: tensor for name, tensor in taken if tensor is not None}
