"""A small run on one backend, killed by SIGKILL again and again and gone on with: `kills.py BACKEND FOLDER KILLS SEED`.

Prints one line of JSON: what the undisturbed run gave, what the killed one gave, and each kill. Processes are
forked after the imports, which cost seconds, and before the backend wakes.
"""

import hashlib
import importlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

BACKEND, FOLDER, KILLS, SEED = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
os.environ["KERAS_BACKEND"] = BACKEND
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # threads that wait for each other cost most where others work too
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(FOLDER / "compiled")  # JAX compiles for the first process only
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import keras  # noqa: E402
import numpy as np  # noqa: E402

from rightfit.config import TrainSettings  # noqa: E402
from rightfit.console import Console  # noqa: E402
from rightfit.data.augment import POLICIES  # noqa: E402
from rightfit.data.loader import TrainLoader  # noqa: E402
from rightfit.training import loop, race, treatment  # noqa: E402
from rightfit.training.checkpoints import Checkpoints  # noqa: E402
from rightfit.training.doctor import Move  # noqa: E402
from rightfit.training.judging import Validation  # noqa: E402
from rightfit.training.phases import Phase  # noqa: E402
from rightfit.training.safety import Safety  # noqa: E402

importlib.import_module(BACKEND)

SIDE, CLASSES, EPOCHS, BATCH = 8, 3, 12, 16
HEAD = {"logits": 1.0}
PHASES = (Phase("head", 0.25, HEAD), Phase("all", 0.75, {"conv": 0.5, "norm": 0.5, **HEAD}))


class Toy:
    def __init__(self):
        generator = np.random.default_rng(0)
        self.codes = np.arange(240) % CLASSES
        colours = np.array([[180, 90, 90], [90, 180, 90], [90, 90, 180]])[self.codes]
        noise = generator.normal(0, 60, (240, SIDE, SIDE, 3))
        self.images = np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)

    def gather(self, rows):
        return self.images[rows]


def small_net():
    """With dropout, whose generators have a state too."""
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, 3), name="image")
    x = layers.Rescaling(1 / 64, -2.0, name="normalise")(inputs)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(momentum=0.9, name="norm")(x))
    x = layers.Dropout(0.3, name="dropout")(layers.GlobalAveragePooling2D(name="pool")(x))
    model = keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x), name="small")
    generator = np.random.default_rng(7)
    model.set_weights(
        [generator.normal(0, 0.1, w.shape) ** (2 if w.ndim == 1 else 1) for w in model.get_weights()]
    )
    return model


def flipped(look, now):
    return Move(replace(now, strength=round(1 - now.strength, 4)), "at each look")


def run(folder, every):
    """Begin, or go on with, the run in `folder`; its result goes to result.json."""
    folder.mkdir(exist_ok=True)
    race.FEWEST, race.SHARE = 12, 12 / (10 * EPOCHS)  # so that rates race in a run as short as this one
    treatment.at_random, treatment.MISSED = lambda *seen: True, -1.0  # so that labels are doubted
    treatment.decide = flipped  # so that strength changes whatever is seen
    toy, rows, held = Toy(), np.arange(150), np.arange(180, 240)
    targets = np.eye(CLASSES, dtype=np.float32)[toy.codes]
    checkpoints = Checkpoints(folder, Console(quiet=True))
    checkpoints.every = every
    saved = checkpoints.newest()
    values = {"data": "toy", "model": "resnet8", "augment": "light", "epochs": EPOCHS, "batch_size": BATCH}
    values |= {
        "learning_rate": 0.05 / 36,
        "warmup_epochs": 1.0,
        "weight_decay": 0.001,
        "ema": 0.9,
        "patience": 99,
        "doctor": "act",
    }
    settings = TrainSettings(**values, optimizer="adamw" if SEED % 2 else "sgd", seed=SEED)
    progress = loop.train(
        small_net(),
        TrainLoader(toy, rows, targets[rows], np.ones(150, np.float32), BATCH, SEED, POLICIES["light"]),
        Validation(toy, held, targets[held], None),
        settings,
        "categorical",
        Console(quiet=True),
        lambda progress: None,
        "float32",
        lambda epochs: settings,
        phases=PHASES,
        safety=Safety(checkpoints, lambda decision: None, lambda positions: []),
        saved=saved,
    )
    history = [{k: v for k, v in row.items() if "seconds" not in k} for row in progress.history]
    weights = hashlib.sha256(
        b"".join(np.ascontiguousarray(w).tobytes() for w in progress.weights)
    ).hexdigest()
    result = {
        "weights": weights,
        "best_epoch": progress.best_epoch,
        "ended": progress.ended,
        "rate_factor": progress.rate_factor,
        "doubted": progress.doctor["doubted"],
        "history": history,
    }
    (folder / "result.json").write_text(json.dumps(result))


def start(folder, every):
    child = os.fork()
    if child:
        return child
    try:
        run(folder, every)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def newest(folder):
    """The step of the newest checkpoint."""
    if not (folder / "checkpoints").is_dir():
        return -1
    steps = [int(name[5:13]) for name in os.listdir(folder / "checkpoints") if name.startswith("step-")]
    return max(steps, default=-1)


def main():
    began = time.monotonic()
    whole = start(FOLDER / "whole", 1e9)  # nobody looks on the way
    assert os.waitpid(whole, 0)[1] == 0
    took = time.monotonic() - began
    chance, kills, killed = random.Random(SEED), [], FOLDER / "killed"
    total = EPOCHS * 10
    while True:
        child, begun = start(killed, 0.01), time.monotonic()
        # at the next of evenly spread steps, and a moment later: while it learns, judges or writes
        wanted = total * (len(kills) + 1) // (KILLS + 1) if len(kills) < KILLS else 2 * total
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and newest(killed) < wanted:
            time.sleep(0.001)
        if ended[0]:
            assert os.waitstatus_to_exitcode(ended[1]) == 0
            break
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        files = sorted(path.name for path in (killed / "checkpoints").glob("*"))
        half = [name for name in os.listdir(killed / "checkpoints") if name.startswith(".")]
        kills.append({"after": round(time.monotonic() - begun, 3), "files": files, "half_written": half})
    results = [json.loads((folder / "result.json").read_text()) for folder in (FOLDER / "whole", killed)]
    print(json.dumps({"whole": results[0], "killed": results[1], "kills": kills, "seconds": took}))


main()
