"""A model file of any kind in, plain facts and lazily read tensors out, before anything is built or believed.

    with opened("old.h5") as file:
        file.kind, file.keras_version, file.layers
        file.tensors["dense_1/dense_1/kernel:0"].read()

The content decides the kind, never the name. No Keras is imported, and nothing in a file is ever run.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from rightfit.errors import ModelFileError
from rightfit.formats import hdf5, keras_files, npz, pickled, safetensors_file, saved_model, text
from rightfit.formats.archive import MAGIC as ZIP
from rightfit.formats.archive import Archive
from rightfit.formats.bounds import BOUNDS, Bounds
from rightfit.formats.contents import ModelFile, Tensor

__all__ = ["BOUNDS", "Bounds", "ModelFile", "Tensor", "check_start", "opened"]

NO_MODEL = {
    b"version https://git-lfs": "a Git LFS pointer; `git lfs pull` fetches the file itself",
    b"<!doctype html": "a web page; the download link led elsewhere",
    b"<html": "a web page; the download link led elsewhere",
}
KNOWN = (
    ".keras, .h5 and .weights.h5 (Keras), .json and .yaml (an architecture), .safetensors, .npz, .pth (PyTorch), "
    "a TensorFlow SavedModel or checkpoint"
)
SUFFIXES = (".keras", ".h5", ".hdf5", ".json", ".safetensors", ".npz", ".pth", ".pt")
# Both kinds of TensorFlow's checkpoints keep their names in a sorted table, which ends in these bytes.
TABLE_END = bytes.fromhex("57fb808b247547db")


@contextmanager
def opened(path: str | os.PathLike[str], bounds: Bounds = BOUNDS) -> Iterator[ModelFile]:
    """The file's facts; its tensors can be read within the `with`.

    ModelFileError for anything wrong, whatever the bytes: a file that is not there, damaged, of no known kind, beyond
    the bounds, or that asks for what a model file has no need of (links, `..`, pickled objects, tags).
    """
    place = Path(path)
    with ExitStack() as held:
        try:
            if place.is_dir():
                found = _folder(place, bounds)
            else:
                found = _file(held.enter_context(_open(place, bounds)), place, bounds)
        except (MemoryError, RecursionError) as error:
            raise ModelFileError(
                f"{place}: takes more memory than there is; is it a model's file?"
            ) from error
        except OSError as error:
            raise ModelFileError(f"{place}: cannot be read: {error.strerror or error}") from error
        yield found


def check_start(path: Path) -> None:
    """ModelFileError when the file cannot be read, is empty, or its first bytes are those of no model."""
    try:
        with _open(path, BOUNDS) as file:
            _check_start(file.read(64), path)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_start(start: bytes, path: Path) -> None:
    for sign, meaning in NO_MODEL.items():
        if start.lower().startswith(sign):
            raise ModelFileError(f"{path} is {meaning}")


def _open(path: Path, bounds: Bounds) -> IO[bytes]:
    if not path.exists():
        raise ModelFileError(f"{path} is not there; name a model file: {KNOWN}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ModelFileError(f"{path} is not a regular file")
    if not status.st_size:
        raise ModelFileError(f"{path} is empty; download or copy it again")
    if status.st_size > bounds.file_bytes:
        raise ModelFileError(f"{path}: {status.st_size:,} bytes, more than {bounds.file_bytes:,}")
    return path.open("rb")


def _file(file: IO[bytes], path: Path, bounds: Bounds) -> ModelFile:
    length = os.fstat(file.fileno()).st_size
    start = file.read(64)
    _check_start(start, path)
    if start.startswith(hdf5.MAGIC):
        return keras_files.of_hdf5(file, path, length, bounds)
    if start.startswith(ZIP):
        return _archive(Archive(file, length, str(path), bounds), path, bounds)
    if safetensors_file.looks_like_it(start, length):
        tensors = safetensors_file.tensors(file, length, str(path), bounds)
        return ModelFile(path, "safetensors", tensors=tensors)
    if start.startswith(pickled.MAGIC):
        file.seek(0)
        return ModelFile(path, "pytorch", calls=pickled.calls(file, str(path), bounds))
    file.seek(max(0, length - len(TABLE_END)))
    if file.read() == TABLE_END:
        return ModelFile(path, "checkpoint")
    return _text(file, path, start, bounds)


def _archive(archive: Archive, path: Path, bounds: Bounds) -> ModelFile:
    names = list(archive.members)
    if keras_files.CONFIG in names or keras_files.WEIGHTS in names:
        return keras_files.of_archive(archive, path, bounds)
    if names and all(name.endswith(".npy") for name in names):
        return ModelFile(path, "npz", tensors=npz.tensors(archive, bounds))
    pickles = [name for name in names if name.endswith(".pkl")]
    if pickles:
        return ModelFile(path, "pytorch", calls=_calls(archive, pickles, bounds))
    raise ModelFileError(f"{path}: a zip archive, and none of a known kind; there are {KNOWN}")


def _calls(archive: Archive, pickles: list[str], bounds: Bounds) -> tuple[str, ...]:

    found: set[str] = set()
    for name in pickles:
        data = io.BytesIO(archive.read(name, bounds.json_bytes))
        found.update(pickled.calls(data, f"{archive.place}: {name}", bounds, pickles=1))
    return tuple(sorted(found))


def _text(file: IO[bytes], path: Path, start: bytes, bounds: Bounds) -> ModelFile:
    """JSON where it starts as an object; YAML only under a name that says so, as nearly any text is YAML."""
    is_json = start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    if not is_json and not is_yaml:
        if path.suffix.lower() in SUFFIXES:
            raise ModelFileError(
                f"{path}: not the content of a {path.suffix} file; download or copy it again"
            )
        raise ModelFileError(
            f"{path}: {path.suffix or 'no suffix'} is no format known here; there are {KNOWN}"
        )
    file.seek(0)
    data = file.read(bounds.yaml_bytes + 1 if is_yaml else bounds.json_bytes + 1)
    content = (text.from_yaml if is_yaml else text.from_json)(data, str(path), bounds)
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: no mapping at its top, so no architecture")
    version, backend = content.get("keras_version"), content.get("backend")
    return ModelFile(
        path,
        "architecture",
        keras_version=version if isinstance(version, str) else None,
        backend=backend if isinstance(backend, str) else None,
        architecture=content,
    )


def _folder(path: Path, bounds: Bounds) -> ModelFile:
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        saved_model.check_folder(path, str(path), bounds)
        return ModelFile(path, "saved model", calls=saved_model.operations(path, str(path), bounds))
    if (path / "checkpoint").is_file():
        return ModelFile(path, "checkpoint")
    raise ModelFileError(f"{path} is a folder, and neither a SavedModel nor a checkpoint")
