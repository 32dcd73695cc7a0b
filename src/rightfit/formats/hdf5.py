"""An HDF5 file in, its groups' attributes and its tensors out; libhdf5 sees it in another process only.

That process says which bytes are which tensor's (`hdf5_survey`); here only those bytes are read, by this code.
"""

from __future__ import annotations

import base64
import itertools
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds
from rightfit.formats.contents import Array, Tensor, check_tensor, dtype_of
from rightfit.formats.surveyor import SURVEYOR

MAGIC = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Hdf5:
    """Attributes of each group by its path ("" is the file), and every tensor by its path."""

    groups: Mapping[str, Mapping[str, Any]]
    tensors: Mapping[str, Tensor]


def survey(file: IO[bytes], source: Path | bytes, length: int, place: str, bounds: Bounds) -> Hdf5:
    """What is in an HDF5 file of `length` bytes, given open, and as a path or bytes for the process that looks.

    ModelFileError when it is damaged, holds links, numbers kept elsewhere or other things than numbers, or a tensor
    that declares more than is stored.
    """
    found = SURVEYOR.survey(source, place, bounds)
    total = declared_total = 0
    tensors = {}
    for name, facts in sorted(found["tensors"].items(), key=lambda item: _natural(item[0])):
        shape, dtype = tuple(facts["shape"]), dtype_of(facts["dtype"])
        declared = check_tensor(name, shape, dtype.name, place, bounds)
        if facts["layout"] == "chunked":
            side = (len(facts["chunks"]), *facts["chunk"])
            declared = max(declared, check_tensor(name, side, dtype.name, place, bounds))
        stored = _stored(name, facts, prod(shape) * dtype.itemsize, length, place)
        total += stored
        declared_total += declared
        if declared_total > bounds.total_bytes:
            raise ModelFileError(f"{place}: its tensors declare more than {bounds.total_bytes:,} bytes")
        if total > length:
            raise ModelFileError(f"{place}: its tensors overlap; the file is not to be trusted")
        read = partial(_read, file, facts, shape, dtype, f"{place}: {name}")
        tensors[name] = Tensor(shape, dtype.name, read)  # the name leaves out the order of bytes
    if declared_total > max(bounds.small_bytes, bounds.ratio * total):
        raise ModelFileError(
            f"{place}: its tensors declare {declared_total:,} bytes and store {total:,}; the file is not to be trusted"
        )
    return Hdf5(found["groups"], tensors)


def _natural(name: str) -> list[tuple[int, str]]:
    """vars/2 before vars/10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,9})", name)]


def _stored(name: str, facts: dict[str, Any], declared: int, length: int, place: str) -> int:
    """The bytes that a tensor takes in the file; ModelFileError unless all that it declares is there."""
    layout = facts["layout"]
    if layout == "compact":
        spans = [(0, len(base64.b64decode(facts["data"])))]
        complete = spans[0][1] == declared
    elif layout == "contiguous":
        spans = [(facts["offset"] or 0, facts["stored"])] if declared else []
        complete = not declared or (facts["offset"] is not None and facts["stored"] == declared)
    else:
        grid = [
            -(-extent // side) for extent, side in zip(facts["shape"], facts["chunk"], strict=True) if side
        ]
        spans = [(at, size) for _, _, at, size in facts["chunks"]]
        complete = len(grid) == len(facts["shape"]) and len(spans) == prod(grid)
    if not complete:
        raise ModelFileError(
            f"{place}: {name} declares the shape {tuple(facts['shape'])} ({declared:,} bytes) and stores "
            f"{sum(size for _, size in spans):,} bytes; the file is damaged, or not to be trusted"
        )
    if any(at < 0 or size < 0 or at + size > length for at, size in spans):
        raise ModelFileError(f"{place}: {name} lies beyond the file's end; download or copy it again")
    return sum(size for _, size in spans)


def _read(
    file: IO[bytes], facts: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], place: str
) -> Array:
    """As it is stored, then in this machine's order of bytes."""
    if facts["layout"] == "chunked":
        array = _chunked(file, facts, shape, dtype, place)
    elif facts["layout"] == "compact":
        array = np.frombuffer(base64.b64decode(facts["data"]), np.uint8).copy().view(dtype).reshape(shape)
    else:
        array = read_numbers(file, facts["offset"] or 0, shape, dtype, place)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_numbers(
    file: IO[bytes], offset: int, shape: tuple[int, ...], dtype: np.dtype[Any], place: str
) -> Array:
    """(shape) of `dtype`, C-ordered, from the bytes at `offset`; ModelFileError when they are not all there."""
    raw = np.empty(prod(shape) * dtype.itemsize, np.uint8)
    file.seek(offset)
    view, done = memoryview(raw.data), 0
    while done < len(raw):
        part = file.readinto(view[done:])  # type: ignore[attr-defined]  # every binary file has it, IO does not say so
        if not part:
            raise ModelFileError(f"{place}: the file ends before it does; download or copy it again")
        done += part
    return raw.view(dtype).reshape(shape)


def _chunked(
    file: IO[bytes], facts: dict[str, Any], shape: tuple[int, ...], dtype: np.dtype[Any], place: str
) -> Array:
    """Chunks put together; each is unpacked into exactly the bytes of a chunk."""
    chunk = tuple(facts["chunk"])
    array = np.empty(shape, dtype)
    seen = set()
    for where, skipped, at, size in facts["chunks"]:
        file.seek(at)
        packed = file.read(size)
        wanted = prod(chunk) * dtype.itemsize
        filters = [name for bit, name in enumerate(facts["filters"]) if not skipped >> bit & 1]
        raw = _unpacked(packed, filters, wanted, dtype.itemsize, place)
        block = np.frombuffer(raw, np.uint8).view(dtype).reshape(chunk)
        inside = tuple(slice(start, start + side) for start, side in zip(where, chunk, strict=True))
        part = array[inside]
        part[...] = block[tuple(map(slice, part.shape))]
        seen.add(tuple(where))
    if seen != set(itertools.product(*(range(0, end, side) for end, side in zip(shape, chunk, strict=True)))):
        raise ModelFileError(f"{place}: its chunks do not make its shape; the file is damaged")
    return array


def _unpacked(packed: bytes, filters: list[str], wanted: int, width: int, place: str) -> bytes:
    """The filters undone, last first, with no more unpacked than was declared."""
    for name in reversed(filters):
        if name == "sum":  # Fletcher's checksum, four bytes behind the data
            packed = packed[:-4]
        elif name == "gzip":
            try:
                packed = zlib.decompressobj().decompress(packed, wanted + 4)
            except zlib.error as error:
                raise ModelFileError(f"{place}: damaged ({error}); download or copy it again") from error
        elif len(packed) == wanted:
            packed = np.frombuffer(packed, np.uint8).reshape(width, -1).T.tobytes()
    if len(packed) != wanted:
        raise ModelFileError(
            f"{place}: a chunk of {len(packed):,} bytes where {wanted:,} belong; the file is damaged"
        )
    return packed
