"""One of several processes that train a small net together, without Ray: python pair.py NUMBER COUNT PORT FOLDER.

Leaves in FOLDER the weights, the history and the rows that each process looked at.
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}

import jax
import numpy as np

from rightfit.training.workers import Workers

NUMBER, COUNT, PORT, FOLDER = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
SETTINGS = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
if COUNT > 1:
    jax.distributed.initialize(f"127.0.0.1:{PORT}", COUNT, NUMBER)

from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.data.augment import policy_named
from rightfit.data.loader import TrainLoader
from rightfit.nets.resnet import build
from rightfit.training import loop, recipe
from rightfit.training.checkpoints import Checkpoints
from rightfit.training.judging import Validation
from rightfit.training.safety import Safety


class Counted:
    """scikit-learn's digits 0, 1 and 2, and which rows were asked for."""

    def __init__(self):
        from sklearn.datasets import load_digits

        found = load_digits(n_class=3)
        self.images = (found.images * 15).astype(np.uint8)[..., None].repeat(3, axis=-1)
        self.codes = found.target
        self.seen = []

    def gather(self, rows):
        self.seen += rows.tolist()
        return self.images[rows]


images = Counted()
targets = np.eye(3, dtype=np.float32)[images.codes]
rows, held = np.arange(160), np.arange(160, 231)
settings = TrainSettings(
    data="", image_size="8", batch_size=32, epochs=4, augment="medium", weights="none", doctor="act", seed=3,
    precision="float32", **SETTINGS,
)  # fmt: skip
settings, _ = recipe.resolve(settings, recipe.Facts(160, (53, 54, 53), "categorical", 8))
loader = TrainLoader(
    images, rows, targets[rows], np.ones(160, np.float32), 32, 3, policy_named("medium", False)
)
workers = Workers(NUMBER, COUNT)
place = FOLDER / f"of-{COUNT}"
place.mkdir(exist_ok=True)
checkpoints = Checkpoints(place, Console(quiet=True), workers)
reached = loop.train(
    build("resnet20", 3, (8, 8), 3), loader, Validation(images, held, targets[held], None), settings, "categorical",
    Console(quiet=NUMBER > 0), lambda progress: None, "float32", lambda epochs: settings,
    safety=Safety(checkpoints, lambda decision: None, lambda positions: []), workers=workers,
)  # fmt: skip
np.savez(FOLDER / f"weights-{COUNT}-{NUMBER}.npz", *reached.weights)
(FOLDER / f"seen-{COUNT}-{NUMBER}.json").write_text(
    json.dumps({"rows": images.seen, "history": reached.history})
)
