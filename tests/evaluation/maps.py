"""`python maps.py FILE.npz`: heat maps of one net on the running backend, for test_explain.py to compare."""

import sys

from rightfit.runtime import choose_backend

choose_backend()

import keras  # noqa: E402
import numpy as np  # noqa: E402

from rightfit.evaluation.explain import occlusion_maps  # noqa: E402
from rightfit.evaluation.inner_map import GRADIENT_METHODS, InnerMap  # noqa: E402
from rightfit.nets.layers import fused  # noqa: E402

SIDE = 24
layers = keras.layers


def small_net():
    """A residual block with every layer that has a kernel of the backend's own; weights drawn by NumPy."""
    image = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(image)
    x = layers.Conv2D(8, 3, 2, padding="same", name="stem_conv")(x)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    y = layers.DepthwiseConv2D(1, use_bias=False, name="scale")(layers.BatchNormalization(name="norm")(y))
    x = layers.ReLU(name="relu")(layers.Add(name="add")([x, y]))
    x = layers.Dropout(0.5, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(image, layers.Dense(3, name="logits")(x), name="small")
    generator = np.random.default_rng(0)
    for layer in model.layers:
        for v in layer.weights:
            if "seed" not in v.name:
                low = 0.3 if "variance" in v.name or "gamma" in v.name else -0.6
                v.assign(generator.uniform(low, 0.8, v.shape))
    return fused(model)


def maps():
    """Name -> (4, 24, 24) maps of a net with the same weights on every backend."""
    model = small_net()
    images = np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    outputs, signs = np.array([0, 1, 2, 0]), np.float32([1, 1, -1, -1])
    found = {}
    for layer in ("relu", "stem_relu"):
        inner = InnerMap(model, layer)
        for method in GRADIENT_METHODS:
            found[f"{layer} {method}"] = inner.heat_maps(images, outputs, method, signs, batch_size=4)
    return found | {"occlusion": occlusion_maps(model, images, outputs, signs)}


if __name__ == "__main__":
    np.savez(sys.argv[1], **maps(), backend=keras.backend.backend())
