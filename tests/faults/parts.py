"""Three steps of a net in which no batch normalises: whole and in parts, on the backend of KERAS_BACKEND.

Prints one line of JSON: for each optimizer and size of a part, how far the two states are apart.
"""

import json

import keras
import numpy as np

from rightfit.config import TrainSettings
from rightfit.data.loader import Batch
from rightfit.nets.layers import fused
from rightfit.training.backend_steps import make_step
from rightfit.training.optimizers import make_optimizer

IMAGES = 10


def net():
    layers = keras.layers
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(inputs)
    x = layers.Conv2D(8, 3, name="conv")(x)
    frozen = layers.BatchNormalization(name="norm", trainable=False)  # in inference mode
    x = layers.GlobalAveragePooling2D(name="pool")(layers.ReLU(name="relu")(frozen(x)))
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    generator = np.random.default_rng(0)
    for layer in ("conv", "logits"):
        kernel = model.get_layer(layer).kernel
        kernel.assign(generator.normal(0, 0.3, kernel.shape))
    return model


GENERATOR = np.random.default_rng(1)
BATCH = Batch(
    GENERATOR.integers(0, 256, (IMAGES, 8, 8, 3), np.uint8),
    np.eye(3, dtype=np.float32)[np.arange(IMAGES) % 3],
    GENERATOR.uniform(0.2, 3, IMAGES).astype(np.float32),  # parts that weigh differently
)


def stepped(optimizer, micro, steps=3):
    model = fused(net())
    settings = TrainSettings(data="toy", optimizer=optimizer, learning_rate=0.1, weight_decay=0.01)
    step = make_step(model, make_optimizer(settings, model), "categorical", True)
    step.micro = micro
    for _ in range(steps):
        step(BATCH, 0.1, 0.5)
    state = {n: v.astype(np.float64) for n, v in step.state().items() if n.startswith(("model", "average"))}
    return state, step.totals(), len(list(step._parts(BATCH)))


def main():
    runs = []
    for optimizer in ("sgd", "adamw"):
        whole, totals, _ = stepped(optimizer, 0)
        start, _, _ = stepped(optimizer, 0, steps=0)
        for micro in (9, 5, 4, 3, 1):
            state, sums, parts = stepped(optimizer, micro)
            runs.append(
                {
                    "parts": parts,
                    "apart": max(float(np.abs(state[n] - whole[n]).max()) for n in whole),
                    "largest": max(float(np.abs(v).max()) for v in whole.values()),
                    "moved": max(float(np.abs(start[n] - whole[n]).max()) for n in whole),
                    "images": sums[2],
                    "whole_images": totals[2],
                    "hits": sums[1],
                    "whole_hits": totals[1],
                }
            )
    print(json.dumps({"backend": keras.backend.backend(), "runs": runs}))


main()
