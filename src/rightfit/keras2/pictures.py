"""Files in, the pixels that Keras' load_img gives out, decoded once into the store.

Here an image is what old scripts were trained on: Pillow's decoding, its resampling straight to the target
size (nearest by default), EXIF orientation not applied. `rightfit.train` reads images otherwise.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rightfit.console import Console
from rightfit.data.image import header, read_bytes
from rightfit.data.opened import Store
from rightfit.data.store import open_or_build
from rightfit.errors import DataError, ImageError, RunError, WriteError
from rightfit.runtime import cache_folder

CHANNELS = {"rgb": 3, "rgba": 4, "grayscale": 1}
RESAMPLING = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "GIF", "WEBP")
NETPBM = (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6")


@dataclass(frozen=True)
class KerasSpec:
    """What load_img is asked for; height and width in pixels."""

    height: int
    width: int
    color_mode: str = "rgb"
    interpolation: str = "nearest"
    keep_aspect_ratio: bool = False

    def __post_init__(self) -> None:
        if self.color_mode not in CHANNELS:
            raise ValueError(f"Invalid color mode: {self.color_mode}; expected one of {', '.join(CHANNELS)}")
        if self.interpolation not in RESAMPLING:
            raise ValueError(
                f"Invalid interpolation method {self.interpolation}; expected one of {', '.join(RESAMPLING)}"
            )
        if self.height < 1 or self.width < 1:
            raise ValueError(f"target_size is (height, width) in pixels, not {(self.height, self.width)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, CHANNELS[self.color_mode]


def load(data: bytes, spec: KerasSpec, path: str) -> NDArray[Any]:
    """One file's bytes -> spec.shape as Pillow has it: uint8, or int32 of a 16-bit grey picture. ImageError."""
    if not data.startswith(NETPBM):
        header(data, path)  # refuses what claims more pixels than a picture of its size can have
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        mode = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}[spec.color_mode]
        if image.mode != mode and not (mode == "L" and image.mode in ("I;16", "I")):
            image = image.convert(mode)
        size = (spec.width, spec.height)
        if image.size != size:
            resampling = Image.Resampling[spec.interpolation.upper()]
            box = _box(image.size, size) if spec.keep_aspect_ratio else None
            image = image.resize(size, resampling, box=box)
        pixels = np.asarray(image)
    except Exception as error:  # hostile bytes raise anything, and one file is not the others' fault
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ImageError(path, reason[:100]) from error
    return pixels.reshape(spec.shape)


def _box(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest centred part, left, top, right, bottom, of the target's aspect; all (width, height)."""
    width, height = size
    tall = min(height, width * target[1] // target[0])
    wide = min(width, height * target[0] // target[1])
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def _stored(data: bytes, spec: KerasSpec, path: str) -> NDArray[np.uint8]:
    pixels = load(data, spec, path)
    if pixels.dtype != np.uint8:
        raise ImageError(path, "more than 8 bits a channel")
    return pixels


class Pictures:
    """The images of `paths` by number; decoded in threads when the first is asked for, kept in the cache folder."""

    def __init__(self, paths: Sequence[str], spec: KerasSpec, source: str) -> None:
        self.paths, self.spec, self.source = [os.path.abspath(path) for path in paths], spec, source
        self._opening, self._is_open = threading.Lock(), False
        self._store: Store | None = None

    def opened(self) -> Store | None:
        """None where the cache cannot hold it, with a warning: then each image is decoded whenever it is used."""
        with self._opening:  # two threads of Keras may ask for the first batches at once
            if not self._is_open:
                self._store, self._is_open = self._decoded(), True
        return self._store

    def _decoded(self) -> Store | None:
        with Console().bar("decoding", len(self.paths)) as bar:
            try:
                return open_or_build(
                    self.paths,
                    self.spec,
                    cache_folder(),
                    self.source,
                    progress=lambda done, _: bar.update(done),
                    decoder=_stored,
                )
            except (RunError, WriteError) as error:
                warnings.warn(f"{error}; images are decoded in each epoch instead", stacklevel=2)
                return None

    def gather(self, rows: NDArray[np.int64], pool: ThreadPoolExecutor) -> Any:
        """(B, *spec.shape) or a list of them, uint8 or int32. DataError names a file that is no image."""
        store = self.opened()
        if store is None:
            return list(pool.map(self._read, rows.tolist()))
        pixels = store.gather(rows)
        if store.ok[rows].all():
            return pixels
        return [
            pixels[place] if store.ok[row] else self._read(row) for place, row in enumerate(rows.tolist())
        ]

    def _read(self, row: int) -> NDArray[Any]:
        path = self.paths[row]
        try:
            return load(read_bytes(path), self.spec, path)
        except ImageError as error:
            raise DataError(
                f"{path} cannot be read as an image: {error.reason}; take it out of the folder, or "
                f"`rightfit check {Path(self.source)}` lists all such files"
            ) from error
