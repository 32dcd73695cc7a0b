"""What a net starts from: the `--weights` asked for in; a weights file, or none, and why, out.

ImageNet weights are the files that keras.applications publishes; Keras fetches and checks them. Which
file belongs to a net, and its checksum, is read from the call by which Keras' own constructor asks for it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import keras

from rightfit.errors import ModelFileError, UsageError
from rightfit.formats.model_file import opened
from rightfit.nets import hub, keras_models
from rightfit.nets.importers.core import Array, WeightsError
from rightfit.nets.layers import channels_last

SMALLEST = 64  # pixels a side, below which a photograph holds little of what ImageNet's weights look for
PATIENCE = 5.0  # seconds to the first byte
SILENCE = 30.0  # seconds without a byte, after which a download has failed
OURS = {"v1": "", "v2_keras": "V2"}  # resnet50v1 is ResNet50


@dataclass(frozen=True)
class Start:
    """`kind` is "none", "imagenet" or "file"; `path` the file, but for a KerasHub preset."""

    kind: str
    because: str
    path: Path | None = None


@dataclass(frozen=True)
class Published:
    """A file of weights that Keras offers."""

    file: str
    origin: str
    checksum: str | None  # SHA-256 or MD5, by its length


def counterpart(name: str) -> str | None:
    """The classifier of keras.applications that computes what our net `name` does; None without one."""
    if name.startswith(keras_models.PREFIX):
        return name.removeprefix(keras_models.PREFIX)
    match = re.fullmatch(r"resnet(50|101|152)(v1|v2_keras)", name)
    return f"ResNet{match[1]}{OURS[match[2]]}" if match else None


def check(weights: str, name: str) -> None:
    """UsageError when ImageNet weights are asked for and nobody published any for the net `name`."""
    if weights == "imagenet" and not counterpart(name) and not name.startswith(hub.PREFIX):
        raise UsageError(
            f"no ImageNet weights are published for {name}; keras: models have them, and resnet50v1, "
            "resnet101v1, resnet152v1 and their v2_keras; for other ResNets --weights FILE takes torchvision's "
            "and timm's files"
        )


def choose(weights: str, name: str, side: int) -> Start:
    """What `--weights` means for the net `name` on images whose shorter side is `side` pixels.

    `auto` takes ImageNet weights where they exist, suit images of that size, and are in Keras' cache or
    answer within PATIENCE; it never fails. `imagenet` raises WeightsError when they cannot be had.
    """
    if weights == "none":
        return Start("none", "as asked")
    if weights not in ("auto", "imagenet"):
        return Start("file", "as asked", Path(weights))
    if weights == "imagenet":
        check(weights, name)
        return _found(name)
    if not counterpart(name) and not name.startswith(hub.PREFIX):
        return Start("none", f"no ImageNet weights are published for {name}")
    if side < SMALLEST:
        return Start("none", f"images of {side} px are smaller than what ImageNet weights look for")
    try:
        return _found(name)
    except WeightsError as error:
        return Start("none", str(error))


def _found(name: str) -> Start:
    if name.startswith(hub.PREFIX):
        if absent := hub.weights_absent(name):
            raise WeightsError(absent)
        return Start("imagenet", "the preset's own weights are there")
    application = counterpart(name)
    assert application
    wanted = published(application)
    path = cached(wanted)
    if path:
        return Start("imagenet", f"{path.name} is in Keras' cache", path)
    return Start("imagenet", f"Keras fetched {wanted.file}", fetch(wanted, application))


def preset_weights(name: str, image_size: tuple[int, int]) -> dict[str, Array]:
    """The weights of `hub:PRESET` that come with it, by our `layer/variable`; without a head."""
    return hub.flat(name, 1, image_size, load_weights=True).carried()


@cache
@channels_last()
def published(application: str) -> Published:
    """The file without a top that the constructor asks Keras for."""
    make = keras_models.classifiers()[application]
    files: Any = sys.modules[keras.utils.get_file.__module__]
    asked: list[Published] = []

    class Asked(Exception):
        pass

    def get_file(fname: str, origin: str, file_hash: str | None = None, **others: Any) -> str:
        asked.append(Published(fname, origin, file_hash))
        raise Asked

    original = files.get_file
    files.get_file = get_file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the file is of 224 px: it is the one to have
            make(include_top=False, weights="imagenet")
    except Asked:
        return asked[0]
    finally:
        files.get_file = original
    raise WeightsError(f"{application}: this version of Keras names no file of ImageNet weights")


def cache_folder() -> Path:
    """Where Keras keeps such files."""
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    return home / "models"


def _folders(wanted: Published) -> list[Path]:
    """Where the file may lie: Keras' cache, and where Keras has it if that cannot be written. Others may write there,
    so only what has a checksum."""
    elsewhere = Path(tempfile.gettempdir(), ".keras", "models")
    return [cache_folder(), elsewhere] if wanted.checksum else [cache_folder()]


def cached(wanted: Published) -> Path | None:
    """The file in Keras' cache, if it is there and whole; where Keras knows no checksum, if it is a model's file."""
    return next((path for folder in _folders(wanted) if (path := _whole(folder / wanted.file, wanted))), None)


def _whole(path: Path, wanted: Published) -> Path | None:
    try:
        if not wanted.checksum:
            with opened(path):
                return path
        with path.open("rb") as file:
            kind = "sha256" if len(wanted.checksum) == 64 else "md5"
            return path if hashlib.file_digest(file, kind).hexdigest() == wanted.checksum else None
    except (OSError, ModelFileError):
        return None


def fetch(wanted: Published, application: str) -> Path:
    """Let Keras fetch the file, whole or not at all, into its cache; WeightsError says what to put where when it cannot
    be had."""
    folder = cache_folder()
    reason = _unreachable(wanted.origin)
    if not reason:
        try:
            into = _first_writable(_folders(wanted))
            with tempfile.TemporaryDirectory(prefix=".fetched-", dir=into) as part, _impatient():
                with redirect_stdout(sys.stderr):  # Keras' bar; stdout is for results
                    got = keras.utils.get_file(
                        wanted.file, wanted.origin, cache_subdir="", cache_dir=part, file_hash=wanted.checksum
                    )
                return Path(got).replace(into / wanted.file)
        except Exception as error:  # Keras raises Exception itself
            reason = str(error).replace(wanted.origin, wanted.file)
    damaged = " (the file there is damaged or another)" if os.path.exists(folder / wanted.file) else ""
    checksum = ""
    if wanted.checksum:
        checksum = f" ({'SHA-256' if len(wanted.checksum) == 64 else 'MD5'} {wanted.checksum})"
    raise WeightsError(
        f"ImageNet weights of {application} are not in Keras' cache{damaged} and could not be fetched ({reason}); "
        f"put {wanted.file}{checksum} into {folder}, or give --weights FILE or --weights none"
    )


def _first_writable(folders: list[Path]) -> Path:
    """OSError of the first where none is."""
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    tempfile.TemporaryFile(dir=folders[0]).close()
    return folders[0]


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections made here fail after SILENCE, where Keras would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unreachable(origin: str) -> str:
    """Why no first byte came from `origin` within PATIENCE; empty when one did.

    In a thread, as a resolver without a network takes longer than any timeout given to urllib.
    """
    said = [f"no answer within {PATIENCE:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(origin, timeout=PATIENCE) as answer:
                answer.read(1)
            said[0] = ""
        except urllib.error.HTTPError as error:
            said[0] = f"HTTP {error.code} {error.reason}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            said[0] = getattr(reason, "strerror", None) or type(reason).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 1)
    return said[0]
