"""Does the doctor help? Small nets on tasks with and without a planted fault, three seeds or five, five ways to train.

    off        the default recipe; the word is what `--doctor advise` says of it, whose weights are the same
    act        the same with `--doctor act`, whose race takes up to an eighth of the steps on top
    callbacks  SGD at the same rate with Keras' EarlyStopping(patience=10, restore_best_weights) and
               ReduceLROnPlateau(patience=5), by `fit`
    one-cycle  AdamW at 1e-3, decay 0.01, by a one-cycle policy (Smith and Topin 2017) of the rate, as fastai has it
               without its cycle of momentum, by `fit`
    grid       the best, by validation loss, of 16: four strengths times four learning rates; 16 times the cost

All see the same images, augmentation, batches, class weights and number of epochs; nobody decays batch normalisation
or biases; the first two and the grid keep averaged weights. No way has checkpoints to return to. Faults are in the
settings, so every way starts from them: a learning rate 30 times too low is so for the callbacks, too, while the grid's
rates are the recipe's times 1/4 to 16. The test images are looked at here alone, once a run, at the temperature that
validation gives.

    python benchmarks/doctor.py                   what is not in the results yet, a run a core; hours
    python benchmarks/doctor.py --task NAME ...   only these
    python benchmarks/doctor.py --table           the tables of docs/doctor.md from the results
    python benchmarks/doctor.py --quick           one task, few epochs; shows that it runs

It can be stopped and started again: each run is a line of benchmarks/results/doctor.jsonl, with a digest of the code
that made it, docstrings aside (`code`), and is made again where that has changed since. A change that bears on no
result can be shown not to: `--confirm 3` draws three old lines of each way (of the tasks of --task, where only these
are asked for) and makes them again; where all are equal to the last digit, those lines hold for the code as it is
(`holds_for`); that takes the same processor. The tables are of the lines that are there. Each run is on one thread, so
those beside it do not change its result.
"""

from __future__ import annotations

import ast
import functools
import gzip
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import QUICK, ROOT, installed, lines_asked, lines_parser, markdown, read_lines, worked_off

PACKAGES = ("keras", "tensorflow-cpu", "numpy")
FASHION = Path("/usr/share/datasets/fashion-mnist")
STRENGTHS = (0.0, 0.3, 0.65, 1.0)
RATES = (0.25, 1.0, 4.0, 16.0)  # times the recipe's
WAYS = ("off", "act", "callbacks", "one-cycle", "grid")
EQUAL_COST = ("off", "act", "callbacks", "one-cycle")
WORTH = 1  # point of accuracy
FIGURES = ("accuracy", "loss", "val_loss", "word")
# Words that are wrong where nothing is planted.
FALSE_ALARMS = {"label noise", "shifted", "leak suspected", "batch-norm mismatch"}
VALIDATION = 1 / 7
SMALL_CLASSES = 0.1  # of what a class has, where classes are imbalanced


@dataclass(frozen=True)
class Task:
    source: str  # digits, fashion or elpv
    images: int  # for training and validation
    side: int = 16
    settings: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1.0  # times the recipe's learning rate
    noise: float = 0.0  # share of wrong labels
    imbalanced: bool = False
    misfit: bool = False  # a fault, which a better fit would mend
    seeds: int = field(default=3, repr=False)  # for the ways at equal cost
    grid: str = ""  # another task whose grid is this one's: they differ in the rate, which a grid sets itself
    word: str = ""  # that the diagnosis of `off` should say, where the fault has one

    @property
    def planted(self) -> str:
        """The word for what is wrong with it on purpose, "" where there is none."""
        return self.word or ("label noise" if self.noise else "")


BUDGET = {"epochs": 40}
TASKS = {
    "digits, 200": Task("digits", 200, 8, BUDGET),
    "digits, 1,000": Task("digits", 1_000, 8, BUDGET),
    "fashion, 200": Task("fashion", 200, settings=BUDGET),
    "fashion, 1,000": Task("fashion", 1_000, settings=BUDGET),
    "fashion, 10,000": Task("fashion", 10_000, settings={"epochs": 12}),
    "solar cells": Task("elpv", 2_000, 32, {"epochs": 20}),
    "20 % wrong labels": Task("fashion", 1_000, settings=BUDGET, noise=0.2, misfit=True, word="label noise"),
    "45 % wrong labels": Task("fashion", 1_000, settings=BUDGET, noise=0.45, misfit=True, word="label noise", seeds=5),
    "45 % wrong, 4 times as long": Task("fashion", 1_000, settings={"epochs": 160}, noise=0.45, misfit=True, seeds=5),
    "net too large": Task("fashion", 200, settings={**BUDGET, "model": "resnet56"}, misfit=True, word="overfit"),
    "images too small": Task("fashion", 1_000, 8, BUDGET, misfit=True),
    "decay 100 times": Task("fashion", 1_000, settings={**BUDGET, "weight_decay": 0.5}, misfit=True),
    "augmentation too strong": Task("fashion", 1_000, settings={**BUDGET, "augment": "strong"}, misfit=True),
    "nothing held back": Task(
        "fashion", 1_000, misfit=True, word="overfit",
        settings={**BUDGET, "augment": "none", "weight_decay": 0.0, "label_smoothing": 0.0},
    ),
    "rate 10 times too high": Task(
        "fashion", 1_000, settings=BUDGET, rate=10, misfit=True, grid="fashion, 1,000"
    ),
    "rate 30 times too low": Task(
        "fashion", 1_000, settings=BUDGET, rate=1 / 30, misfit=True, word="still learning", grid="fashion, 1,000"
    ),
    "imbalanced": Task("fashion", 2_000, settings=BUDGET, imbalanced=True, misfit=True),
}  # fmt: skip


def main() -> int:
    made = lines_parser(__doc__, seeds=0)
    made.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), metavar="NAME")
    made.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    made.add_argument("--confirm", type=int, default=0, metavar="LINES", help="of each way, to be made again")
    args, output = lines_asked(made, "doctor")
    if args.table:
        print(tables(read_lines(output)))
        return 0
    if args.confirm:
        return confirmed(output, args.task, args.way, args.confirm, args.processes)
    names, ways, seeds = args.task, args.way, args.seeds
    if args.quick:
        names, ways, seeds = ["digits, 200"], ["off", "act", "callbacks", "one-cycle"], 1
    done = {key_of(row) for row in of_this_code(read_lines(output))}
    asked = [run for run in runs(names, ways, seeds) if key_of(run) not in done]
    ready = [run for run in asked if missing(TASKS[run["task"]].source) == ""]
    for source in sorted(
        {TASKS[run["task"]].source for run in asked} - {TASKS[run["task"]].source for run in ready}
    ):
        print(f"left out: {missing(source)}")
    print(f"doctor: {len(ready)} runs to take, {len(done)} are there")
    for row in worked_off(
        ready, functools.partial(measured, quick=args.quick), output, args.processes, args.minutes
    ):
        print(f"  {row['task']}, seed {row['seed']}, {row['way']}{row['point'] or ''}: {row['accuracy']:.2f} % in "
              f"{row['seconds']:.0f} s {row['word']}", flush=True)  # fmt: skip
    return 0


def runs(names: list[str], ways: list[str], seeds: int) -> Iterator[dict[str, Any]]:
    """Cheap and telling ones first; of so many seeds, with 0 those of each task."""
    points = [[strength, rate] for strength in STRENGTHS for rate in RATES]
    for way in ways:
        wanted = {
            name: seeds or (Task.seeds if way == "grid" else TASKS[name].seeds)
            for name in ((TASKS[name].grid or name) if way == "grid" else name for name in names)
        }
        for seed in range(max(wanted.values())):
            for name in [name for name, count in wanted.items() if seed < count]:
                for point in points if way == "grid" else [None]:
                    yield {"task": name, "seed": seed, "way": way, "point": point}


# Of src/rightfit; what does not bear on a way's result does not spoil its lines.
SOURCES = (
    "nets/resnet.py", "nets/variants.py", "nets/layers.py", "nets/counting.py", "nets/catalogue.py",
    "data/augment.py", "data/loader.py", "data/dealing.py", "evaluation/infer.py", "training/recipe.py",
)  # fmt: skip
TREATMENT = {"doctor.py", "treatment.py", "race.py", "doubt.py"}
WORDS = {"diagnosis.py", "signals.py", "kept.py", "inner.py", "probe.py"}
SEARCH = {"range_test.py"}  # of a search, not of a run
UNUSED = {"off": TREATMENT | SEARCH, "act": SEARCH, "grid": TREATMENT | WORDS | SEARCH}


@functools.lru_cache
def code_of(way: str) -> str:
    """A digest of the source that makes the results of a way, docstrings aside."""
    root = ROOT / "src" / "rightfit"
    files = [path for pattern in SOURCES for path in sorted(root.glob(pattern))]
    if way in UNUSED:
        files += [p for p in sorted((root / "training").glob("*.py")) if p.name not in UNUSED[way]]
    found = hashlib.sha256()
    for path in files:
        found.update(without_docstrings(path.read_text(encoding="utf-8")).encode())
    return found.hexdigest()[:12]


def without_docstrings(source: str) -> str:
    """The other lines; no syntax tree is printed, as each version of Python does so in its own way."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    trees = [
        tree for tree in ast.walk(ast.parse(source)) if isinstance(tree, owners) and ast.get_docstring(tree)
    ]
    told = {n for tree in trees for n in range(tree.body[0].lineno, (tree.body[0].end_lineno or 0) + 1)}
    return "".join(line for n, line in enumerate(source.splitlines(keepends=True), 1) if n not in told)


def of_this_code(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of tasks and code as they are now."""
    return [row for row in of_these_tasks(rows) if holds(row)]


def holds(row: Mapping[str, Any]) -> bool:
    return code_of(row["way"]) in (row["code"], row.get("holds_for"))


def of_these_tasks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a run, the last, of tasks as they are now."""
    known = [row for row in rows if row["task"] in TASKS and row["of"] == repr(TASKS[row["task"]])]
    return list({key_of(row): row for row in known}.values())


def confirmed(output: Path, names: list[str], ways: list[str], lines: int, processes: int) -> int:
    """Make some old lines of each way again, drawn by the digest of the code; 1 where one comes out otherwise."""
    rows, failed = of_these_tasks(read_lines(output)), False
    for way in ways:
        current = code_of(way)
        old = [row for row in rows if row["way"] == way and row["task"] in names and not holds(row)]
        drawn = np.random.default_rng(int(current, 16)).permutation(len(old))[:lines]
        runs = [{name: old[n][name] for name in ("task", "seed", "way", "point")} for n in drawn]
        before = {key_of(old[n]): old[n] for n in drawn}
        again = QUICK / "doctor-again.jsonl"
        again.parent.mkdir(parents=True, exist_ok=True)
        alike = True
        for row in worked_off(runs, measured, again, processes):
            same = all(row[name] == before[key_of(row)][name] for name in FIGURES)
            alike &= same
            print(f"  {row['task']}, seed {row['seed']}, {way}{row['point'] or ''}: "
                  f"{'equal' if same else 'otherwise'}", flush=True)  # fmt: skip
        again.unlink(missing_ok=True)
        for row in old if alike else []:
            row["holds_for"] = current
        failed |= not alike
        part = output.with_name(output.name + ".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        part.replace(output)
        print(f"{way}: {len(old)} old lines, {len(runs)} made again, {'all equal' if alike else 'not equal'}")
    return int(failed)


def key_of(row: Mapping[str, Any]) -> str:
    return json.dumps([row["task"], row["seed"], row["way"], row["point"]])


# Data -----------------------------------------------------------------------------------------------

Arrays = tuple[np.ndarray, np.ndarray]  # images (N, side, side, 3) uint8, classes (N,)


def missing(source: str) -> str:
    if source == "fashion" and not FASHION.is_dir():
        return "Fashion-MNIST is not there (Debian's dataset-fashion-mnist)"
    if source == "elpv" and not _elpv_folder().is_dir():
        return "ELPV could not be written (examples/elpv.py)"
    return ""


@functools.lru_cache
def _elpv_folder() -> Path:
    folder = ROOT / "build" / "elpv"
    if not folder.exists():
        subprocess.run([sys.executable, str(ROOT / "examples" / "elpv.py"), str(folder)], check=False)
    return folder


@functools.lru_cache(maxsize=2)
def source_of(name: str, side: int) -> tuple[Arrays, Arrays]:
    """Images to learn from, and the test's, which no way looks at."""
    import cv2

    def scaled(images: Any) -> np.ndarray:
        small = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
        return np.stack(small)[..., None].repeat(3, axis=-1)

    if name == "fashion":

        def idx(file: str, header: int) -> np.ndarray:
            return np.frombuffer(gzip.open(FASHION / f"{file}-ubyte.gz").read(), np.uint8, offset=header)

        sides = []
        for part in ("train", "t10k"):
            images = idx(f"{part}-images-idx3", 16).reshape(-1, 28, 28)
            sides.append((scaled(images), idx(f"{part}-labels-idx1", 8).astype(np.int64)))
        return sides[0], sides[1]
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        images, codes = scaled((found.images * 15.9).astype(np.uint8)), found.target.astype(np.int64)
    else:
        files = sorted(_elpv_folder().glob("*/*.png"))
        images = scaled(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files)
        names = sorted({file.parent.name for file in files})
        codes = np.array([names.index(file.parent.name) for file in files])
    order = np.random.default_rng(5).permutation(len(images))
    images, codes, held = images[order], codes[order], -len(images) // 3 if name == "digits" else -600
    return (images[:held], codes[:held]), (images[held:], codes[held:])


def drawn_from(source: str, images: int, side: int, seed: int) -> Arrays:
    """So many images of those to learn from."""
    (found, codes), _ = source_of(source, side)
    chosen = np.random.default_rng([seed, 77]).permutation(len(found))[:images]
    return found[chosen], codes[chosen]


def drawn(task: Task, seed: int) -> tuple[Arrays, Arrays]:
    """The task's images with the labels that it has them under, and the test's with their own."""
    (images, codes), test = source_of(task.source, task.side)
    generator = np.random.default_rng([seed, 77])
    count = int(codes.max()) + 1
    chosen = generator.permutation(len(images))[: task.images]
    if task.imbalanced:
        chosen = chosen[generator.random(len(chosen)) < np.where(codes[chosen] % 2, SMALL_CLASSES, 1.0)]
    labels = codes[chosen].copy()
    wrong = generator.random(len(labels)) < task.noise
    labels[wrong] = (labels[wrong] + generator.integers(1, count, int(wrong.sum()))) % count
    return (images[chosen], labels), test


class InMemory:
    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def gather(self, rows: np.ndarray) -> np.ndarray:
        return self.images[rows]


# A run ----------------------------------------------------------------------------------------------


def measured(run: dict[str, Any], quick: bool = False) -> dict[str, Any]:
    """One run of one way, with what its weights say of the test images; one that failed has no figures but why."""
    started = time.monotonic()
    line = {
        **run,
        "of": repr(TASKS[run["task"]]),
        "code": code_of(run["way"]),
        "versions": installed(PACKAGES),
    }
    try:
        found = taken(run, quick)
    except Exception as error:  # a rate may be too high for any number; the others go on
        nothing = dict.fromkeys(("accuracy", "loss", "val_loss"), math.nan)
        found = {**nothing, "word": "diverged", "error": f"{type(error).__name__}: {error}"[:200]}
    return {**line, **found, "seconds": round(time.monotonic() - started, 1)}


def taken(run: dict[str, Any], quick: bool) -> dict[str, Any]:
    task, way, point = TASKS[run["task"]], run["way"], run["point"]
    asked = {
        "mirror": task.source != "digits",
        "doctor": "act" if way == "act" else "advise",
        **task.settings,
    }
    if quick:
        asked["epochs"] = 3
    setup = set_up(drawn(task, run["seed"]), task.side, run["seed"], asked, point[1] if point else task.rate)
    train = {"callbacks": with_callbacks, "one-cycle": with_one_cycle}.get(way, with_the_loop)
    judge, word, epochs = train(setup, point)
    val, told = setup.judged(judge)
    return {
        "accuracy": round(100 * told.result.accuracy, 3),
        "loss": round(float(told.losses(val.temperature).mean()), 5),
        "val_loss": round(float(val.losses(val.temperature).mean()), 5),
        "test": len(setup.test.rows),
        "word": word,
        "epochs": epochs,
    }  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What a net learns from and by, and is judged on."""

    asked: Any  # TrainSettings
    settings: Any  # as resolved
    facts: Any
    loader: Any
    validation: Any
    test: Any
    labels: np.ndarray  # (N,) classes of the test images
    count: int  # classes
    side: int  # px
    rate: float  # times the recipe's

    def judged(self, judge: Any) -> tuple[Any, Any]:
        """What a net says of the validation and of the test images."""
        from rightfit.training.judging import judged_on

        return tuple(
            judged_on(judge, images, self.settings, "categorical", 0)
            for images in (self.validation, self.test)
        )


def set_up(
    arrays: tuple[Arrays, Arrays], side: int, seed: int, changes: Mapping[str, Any], rate: float = 1.0
) -> Setup:
    """On TensorFlow, without a GPU: a share of the images validates; `rate` is times the recipe's."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    from rightfit import runtime

    runtime.choose_backend("tensorflow")
    from rightfit.config import TrainSettings
    from rightfit.data.augment import policy_named
    from rightfit.data.loader import TrainLoader
    from rightfit.training import recipe
    from rightfit.training.judging import Validation

    (images, labels), (test_images, test_labels) = arrays
    count = int(test_labels.max()) + 1
    held = np.arange(len(images)) < round(VALIDATION * len(images))
    rows, val_rows = np.flatnonzero(~held), np.flatnonzero(held)
    targets = np.eye(count, dtype=np.float32)
    counts = tuple(np.bincount(labels[rows], minlength=count).tolist())
    facts = recipe.Facts(len(rows), counts, "categorical", side)
    asked = TrainSettings(
        data="", image_size=str(side), seed=seed, weights="none", precision="float32", **changes
    )
    settings, _ = recipe.resolve(asked, facts)
    settings = settings.model_copy(update={"learning_rate": settings.learning_rate * rate})
    weights, _ = recipe.sample_weights(settings, labels[rows], counts, "categorical")
    policy = policy_named(settings.augment, settings.mirror, settings.upright)
    loader = TrainLoader(
        InMemory(images), rows, targets[labels[rows]], weights, settings.batch_size, seed, policy
    )
    validation = Validation(InMemory(images), val_rows, targets[labels[val_rows]], None)
    test = Validation(InMemory(test_images), np.arange(len(test_images)), targets[test_labels], None)
    return Setup(asked, settings, facts, loader, validation, test, test_labels, count, side, rate)


def with_the_loop(setup: Setup, point: Any = None) -> tuple[Any, str, int]:
    """rightfit's own; at a point of the grid with a strength that stays."""
    from dataclasses import replace

    from rightfit.console import Console
    from rightfit.evaluation.infer import plain_graph
    from rightfit.nets import catalogue
    from rightfit.nets.layers import fused
    from rightfit.training import loop, recipe
    from rightfit.training.diagnosis import diagnose, evidence
    from rightfit.training.strength import restraint

    settings, facts, loader = setup.settings, setup.facts, setup.loader
    if point:
        held = restraint(point[0], loader.policy, settings, setup.side)
        loader = replace(loader, policy=held.policy)
        changed = {"label_smoothing": held.smoothing, "weight_decay": held.weight_decay, "doctor": "off"}
        settings = settings.model_copy(update=changed)
    model = catalogue.build(settings.model, setup.count, settings.height_width, settings.seed)
    reached = loop.train(
        model, loader, setup.validation, settings, "categorical", Console(quiet=True), lambda progress: None,
        "float32", functools.partial(recipe.shortened, setup.asked, facts, settings),
    )  # fmt: skip
    if reached.stopped:  # a signal reaches the loop first; half a run is no line
        raise KeyboardInterrupt(reached.stopped)
    judge = plain_graph(fused(model))
    judge.set_weights(reached.weights)
    if not reached.kept:
        return judge, "", reached.epoch
    lost = reached.ended if reached.lost else ""
    common = max(facts.class_counts) / sum(facts.class_counts)
    word = diagnose(evidence(reached.kept, len(setup.validation.rows), common, lost, setup.count)).word
    return judge, word, reached.epoch


def _fitted(setup: Setup, optimizer: Any, callbacks: list[Any]) -> tuple[Any, str, int]:
    """The same net by Keras' own `fit`, on the loader's batches."""
    import keras

    from rightfit.evaluation.infer import plain_graph
    from rightfit.nets import catalogue
    from rightfit.nets.layers import fused

    settings, loader, validation = setup.settings, setup.loader, setup.validation
    model = fused(catalogue.build(settings.model, setup.count, settings.height_width, settings.seed))
    optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    smoothing = settings.label_smoothing

    def batches() -> Iterator[Any]:
        for epoch in range(settings.epochs):
            for batch in loader.epoch(epoch):
                soft = batch.targets * (1 - smoothing) + smoothing / setup.count
                yield batch.images, soft, batch.weights

    held = validation.images.gather(validation.rows), validation.targets
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=False)
    history = model.fit(
        batches(), steps_per_epoch=loader.steps, epochs=settings.epochs, verbose=0, validation_data=held,
        validation_batch_size=64, callbacks=callbacks,
    )  # fmt: skip
    judge = plain_graph(fused(model))
    judge.set_weights(model.get_weights())
    return judge, "", len(history.epoch)


def with_callbacks(setup: Setup, point: None) -> tuple[Any, str, int]:
    import keras

    rate, decay = setup.settings.learning_rate, setup.settings.weight_decay
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    usual = [
        keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=5),
    ]
    return _fitted(setup, optimizer, usual)


def with_one_cycle(setup: Setup, point: None) -> tuple[Any, str, int]:
    import keras

    peak, steps = 1e-3 * setup.rate, setup.loader.steps * setup.settings.epochs
    decay = 0.01 * setup.settings.weight_decay / 0.005  # fastai's, times the fault's
    optimizer = keras.optimizers.AdamW(peak, weight_decay=decay)

    class Cycle(keras.callbacks.Callback):
        step = 0

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            def cosine(start: float, end: float, share: float) -> float:
                return end + (start - end) * (1 + float(np.cos(np.pi * share))) / 2

            share = self.step / steps
            rising = share < 0.25
            rate = (
                cosine(peak / 25, peak, share / 0.25)
                if rising
                else cosine(peak, peak / 1e5, (share - 0.25) / 0.75)
            )
            optimizer.learning_rate.assign(rate)
            self.step += 1

    return _fitted(setup, optimizer, [Cycle()])


# Tables ---------------------------------------------------------------------------------------------


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: accuracy and loss of each way by task with what acting brings, the grid's distance, the words."""
    rows = of_these_tasks(rows)
    ways = best_of_grid(rows)
    parts = [
        compared(ways, "accuracy", "%", 1),
        compared(ways, "loss", "nats", 3),
        distances(ways),
        words(rows),
    ]
    if failed := [row for row in ways if "error" in row]:
        parts.append(f"{len(failed)} runs ended with an error and count as NaN.")
    return "\n\n".join(filter(None, parts)) + "\n"


def compared(rows: list[dict[str, Any]], measure: str, unit: str, digits: int) -> str:
    """The ways at equal cost, and what is between acting and each of the others."""
    others = [way for way in EQUAL_COST if way != "act"]
    header = [f"test {measure}, {unit}", "seeds", *EQUAL_COST, *(f"act − {way}" for way in others)]
    lines = []
    for name in TASKS:
        of = alike({way: values(rows, name, way, measure) for way in EQUAL_COST})
        if of["off"]:
            means = [mean(of[way], digits) for way in EQUAL_COST]
            lines.append(
                [name, len(of["off"]), *means, *(apart(of["act"], of[way], digits) for way in others)]
            )
    return markdown(header, lines)


def distances(rows: list[dict[str, Any]]) -> str:
    """How much of the way from off to the best of 16 acting comes, over the seeds whose grid is whole."""
    header = ["mis-fit task", "seeds", "off", "act", "best of 16", "best − off", "act − best", "recovered"]
    lines, gains = [], []
    for name in [name for name, task in TASKS.items() if task.misfit]:
        found = {way: values(rows, name, way, "accuracy") for way in ("off", "act", "grid")}
        seeds = found["off"].keys() & found["act"].keys() & found["grid"].keys()
        if not seeds:
            continue
        off, act, grid = ({seed: of[seed] for seed in sorted(seeds)} for of in found.values())
        near, far = difference(act, off)[0], difference(grid, off)
        gains.append((near, far[0]))
        share = f"{100 * near / far[0]:.0f} %" if far[0] - far[1] > 0 else "–"
        lines.append([name, len(seeds), *(mean(of, 1) for of in (off, act, grid))])
        lines[-1] += [apart(grid, off, 1), apart(act, grid, 1), share]
    if not lines:
        return ""
    acting, best = ({number: pair[of] for number, pair in enumerate(gains)} for of in (0, 1))
    off, worth = dict.fromkeys(acting, 0.0), [pair for pair in gains if pair[1] >= WORTH]
    ending = (
        "A share is told where the best is better beyond the interval over seeds. By the mean of "
        f"{len(gains)} tasks, with intervals over tasks, acting gains {apart(acting, off, 1)} points and the best of "
        f"16 {apart(best, off, 1)}: acting less the best {apart(acting, best, 1)}."
    )
    if worth:
        near, far = np.sum(worth, axis=0)
        ending += (
            f" In the {len(worth)} where the best gains {WORTH} point or more it gains {far:.1f} in all, acting "
            f"{near:.1f} ({100 * near / far:.0f} %)."
        )
    return f"{markdown(header, lines)}\n\n{ending}"


def words(rows: list[dict[str, Any]]) -> str:
    lines = []
    right = asked = alarms = others = 0
    for name, task in TASKS.items():
        said = [row["word"] for row in rows if row["task"] == name and row["way"] == "off"]
        if said:
            counted = ", ".join(f"{word} {said.count(word)}" for word in sorted(set(said)))
            lines.append([name, task.planted or "no false alarm", counted])
        if task.planted:
            right, asked = right + said.count(task.planted), asked + len(said)
        else:
            alarms, others = alarms + sum(word in FALSE_ALARMS for word in said), others + len(said)
    ending = (
        f"The planted word in {right} of {asked} runs; where none is planted, a false alarm (any of "
        f"{', '.join(sorted(FALSE_ALARMS))}) in {alarms} of {others}, and any other word passes."
    )
    return f"{markdown(['words of off', 'should be', 'was'], lines)}\n\n{ending}"


def mean(of: dict[int, float], digits: int) -> str:
    return f"{np.mean(list(of.values())):.{digits}f}" if of else "–"


def apart(one: dict[int, float], other: dict[int, float], digits: int) -> str:
    if not one.keys() & other.keys():
        return "–"
    found, half = difference(one, other)
    return f"{found:+.{digits}f}" + (f" ±{half:.{digits}f}" if half < math.inf else "")


def difference(one: dict[int, float], other: dict[int, float]) -> tuple[float, float]:
    """Mean over the seeds that both have, with half its 95 % interval by Student's t, which takes two of them."""
    from scipy.stats import t

    found = np.array([one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())])
    if len(found) < 2:
        return float(found.mean()), math.inf
    return float(found.mean()), float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))


def alike(found: dict[str, dict[int, float]]) -> dict[str, dict[int, float]]:
    """Every way by the seeds of `off`; one that lacks some of them is left out."""
    seeds = sorted(found["off"])
    whole = {way: all(seed in of for seed in seeds) for way, of in found.items()}
    return {way: {seed: of[seed] for seed in seeds} if whole[way] else {} for way, of in found.items()}


def best_of_grid(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, with those of a whole grid replaced by the one whose validation loss is lowest."""
    grids: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        if row["way"] == "grid":
            grids.setdefault((row["task"], row["seed"]), []).append(row)
    whole = [found for found in grids.values() if len(found) == len(STRENGTHS) * len(RATES)]
    best = [min(found, key=lambda row: (math.isnan(row["val_loss"]), row["val_loss"])) for found in whole]
    shared = [
        {**row, "task": name} for name, task in TASKS.items() for row in best if row["task"] == task.grid
    ]
    return [row for row in rows if row["way"] != "grid"] + best + shared


def values(rows: list[dict[str, Any]], task: str, way: str, measure: str) -> dict[int, float]:
    """By seed."""
    return {row["seed"]: row[measure] for row in rows if row["task"] == task and row["way"] == way}


if __name__ == "__main__":
    sys.exit(main())
