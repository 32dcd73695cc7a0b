"""One of several processes that train a small net together, without Ray: python pair.py NUMBER COUNT PORT FOLDER.

Trains it once a case. Leaves in FOLDER the weights of each, the history, and the rows that were looked at.
"""

import json
import os
import sys
from pathlib import Path

from rightfit.data.loader import TrainLoader
from rightfit.training.workers import Workers

IMAGES, HELD, SIDE, CLASSES = 160, 71, 8, 3
CASES = {
    "plain": {},
    "poisoned": {},  # a loss is lost in the second epoch, by the images of one process
    "in parts": {"epochs": 2, "micro_batch": 8},
    "limited": {"epochs": 2000, "time_limit": "4s"},
}
POISON = [(1, 2)]  # epoch and step of a batch
ALONE = ("plain", "poisoned")  # what the others do is not one process's, to rounding


def main(number, count, port, folder):
    os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    import jax

    if count > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", count, number)
    workers = Workers(number, count)
    for case, asked in CASES.items():
        if count > 1 or case in ALONE:
            train(case, asked, workers, folder)


def train(case, changed, workers, folder):
    import numpy as np

    from rightfit.config import TrainSettings
    from rightfit.console import Console
    from rightfit.data.augment import policy_named
    from rightfit.training import loop, recipe
    from rightfit.training.checkpoints import Checkpoints
    from rightfit.training.judging import Validation
    from rightfit.training.safety import Safety

    images = Counted()
    targets = np.eye(CLASSES, dtype=np.float32)[images.codes]
    rows, held = np.arange(IMAGES), np.arange(IMAGES, IMAGES + HELD)
    asked = TrainSettings(
        data="", image_size=str(SIDE), batch_size=32, epochs=4, augment="medium", weights="none", doctor="act",
        learning_rate=0.025, seed=3, precision="float32",
    )  # fmt: skip
    asked = asked.model_copy(update=changed)
    settings, _ = recipe.resolve(asked, recipe.Facts(IMAGES, (53, 54, 53), "categorical", SIDE))
    kind = Poisoned if case == "poisoned" else TrainLoader
    loader = kind(
        images, rows, targets[rows], np.ones(IMAGES, np.float32), 32, 3, policy_named("medium", False)
    )
    place = folder / f"{case}-{workers.count}"
    place.mkdir(exist_ok=True)
    checkpoints = Checkpoints(place, Console(quiet=True), workers)
    validation = Validation(images, held, targets[held], None)
    reached = loop.train(
        small_net(), loader, validation, settings, "categorical",
        Console(quiet=True), lambda progress: None, "float32", lambda epochs: settings,
        safety=Safety(checkpoints, lambda decision: None, lambda positions: []), workers=workers,
    )  # fmt: skip
    np.savez(place / f"weights-{workers.number}.npz", *reached.weights)
    told = {"rows": images.seen, "history": reached.history, "rate_factor": reached.rate_factor}
    (place / f"told-{workers.number}.json").write_text(json.dumps(told))


def small_net():
    """Two convolutions, each with batch normalisation."""
    import keras
    from keras import layers

    from rightfit.nets.resnet import initialise

    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(inputs)
    for block in range(2):
        x = layers.Conv2D(16, 3, padding="same", use_bias=False, name=f"conv{block}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x), name="small")
    initialise(model, 3)
    return model


class Counted:
    """scikit-learn's digits 0, 1 and 2, and which rows were asked for."""

    def __init__(self):
        import numpy as np
        from sklearn.datasets import load_digits

        found = load_digits(n_class=CLASSES)
        self.images = (found.images * 15).astype(np.uint8)[..., None].repeat(3, axis=-1)
        self.codes = found.target
        self.seen = []

    def gather(self, rows):
        self.seen += rows.tolist()
        return self.images[rows]


class Poisoned(TrainLoader):
    """Once, in the second epoch, an image of the first process has a weight that is no number."""

    def batch(self, epoch, step):
        made = super().batch(epoch, step)
        if (epoch, step) in POISON:
            POISON.remove((epoch, step))
            if self.part is None or self.part.start == 0:
                made.weights[0] = float("nan")
        return made


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
