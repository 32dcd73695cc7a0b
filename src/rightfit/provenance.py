"""What a run is a function of, and what its checkpoints say of that: settings, data, machine; enough to go on from."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rightfit.config import TrainSettings
from rightfit.errors import RightfitError, RunError
from rightfit.files import write_text
from rightfit.records import objects_of
from rightfit.runtime import THREADS, choose_backend, cpu_count, cpu_name, installed_backends

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray

    from rightfit.data.dataset import Dataset
    from rightfit.training.recipe import Facts
    from rightfit.training.state import Saved

IMAGES = "images.safetensors"  # a digest of each image, to name those that have changed


@dataclass(frozen=True)
class Job:
    """What a run is a function of."""

    place: Path
    dataset: Dataset
    model: keras.Model  # with the weights to start from
    asked: TrainSettings  # before the recipe
    settings: TrainSettings  # after it
    facts: Facts


def describe(job: Job) -> dict[str, Any]:
    """In JSON's kinds: enough to go on without the weights it started from, or what was asked."""
    from rightfit.nets.layers import stock
    from rightfit.saving.architecture import to_config

    return {
        "asked": job.asked.model_dump(),
        "settings": job.settings.model_dump(),
        "facts": asdict(job.facts),
        "classes": list(job.dataset.table.classes),
        "architecture": to_config(stock(job.model)),
        "machine": machine(),
        "data": {"data.csv": digest_of_file(job.place / "data.csv"), "images": digest_of_images(job.dataset)},
    }


def machine() -> dict[str, str]:
    """What decides bits besides the run itself."""
    backend = choose_backend()
    named = [name for name in THREADS if backend == "tensorflow" or not name.startswith("TF_")]
    threads = {name: os.environ[name] for name in named if name in os.environ}
    return {
        "backend": backend,
        backend: installed_backends()[backend],
        **{package: metadata.version(package) for package in ("rightfit", "keras", "numpy")},
        "processor": cpu_name(),
        "processors": " ".join([str(cpu_count()), *(f"{n}={v}" for n, v in threads.items())]),
    }


def why_this_backend(place: Path) -> dict[str, str]:
    """Why the backend is the one it is, where nobody asked for it; nothing where a run goes on with another."""
    decisions, now = objects_of(place / "decisions.jsonl"), choose_backend()
    reasons = [
        each["evidence"] for each in decisions if each["setting"] == "backend" and each["value"] == now
    ]
    return {"because": reasons[0]} if reasons else {}


def digest_of_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read ({error.strerror}); the run is incomplete or damaged"
        ) from error


def digest_of_images(dataset: Dataset) -> str:
    """Over the contents of the run's images in the order of data.csv, and how they are fitted to their size."""
    contents = dataset.contents()
    return hashlib.blake2b(repr(dataset.spec).encode() + contents.tobytes(), digest_size=16).hexdigest()


def write_image_digests(job: Job) -> None:
    from rightfit.training import checkpoints

    with suppress(RightfitError):  # without it changed images are noticed, but not named
        file = job.place / checkpoints.FOLDER / IMAGES
        checkpoints.write(file, {"contents": job.dataset.contents()}, {})


def image_digests_of(place: Path) -> NDArray[np.uint8] | None:
    """(N, 16) a digest of each image in the order of data.csv; None where they are not known any more."""
    from rightfit.training import checkpoints

    try:
        kept, _, _ = checkpoints.read(place / checkpoints.FOLDER / IMAGES)
    except RunError:
        return None
    return kept.get("contents")


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def put_back(place: Path, saved: Saved) -> None:
    """history.csv and decisions.jsonl as they were when the checkpoint was saved, whatever a kill left."""
    from rightfit.saving import folder

    if saved.progress.history:
        folder.write_table(place / "history.csv", saved.progress.history)
    write_text(place / "decisions.jsonl", "".join(f"{line}\n" for line in saved.about["decisions"]))
