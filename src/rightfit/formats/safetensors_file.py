"""A safetensors file in, its tensors out: the header is read here, within bounds, and each byte belongs to one tensor.

The format is Hugging Face's: eight bytes of header length, a JSON header, then the numbers, little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import IO, Any

import numpy as np

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds
from rightfit.formats.contents import Tensor, check_tensor, dtype_of
from rightfit.formats.hdf5 import read_numbers
from rightfit.formats.text import from_json

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def looks_like_it(start: bytes, length: int) -> bool:
    """Whether the first nine bytes of a file of `length` are a header's length and its first bracket."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= length - 8


def tensors(file: IO[bytes], length: int, place: str, bounds: Bounds) -> dict[str, Tensor]:
    """Every tensor by name, in the order of their bytes.

    ModelFileError when the header is damaged or beyond the bounds, or the tensors do not fill the rest of the file
    exactly, one after the other.
    """
    file.seek(0)
    size = int.from_bytes(file.read(8), "little")
    if length < 8 or size > length - 8:
        raise ModelFileError(f"{place}: its header is said to be {size:,} bytes long, the file is {length:,}")
    if size > bounds.json_bytes:
        raise ModelFileError(f"{place}: a header of {size:,} bytes, more than {bounds.json_bytes:,}")
    header = from_json(file.read(size), f"{place}: header", bounds)
    if not isinstance(header, dict):
        raise ModelFileError(f"{place}: its header is no mapping; the file is damaged")
    _check_metadata(header.pop("__metadata__", {}), place)
    if len(header) > bounds.tensors:
        raise ModelFileError(f"{place}: {len(header):,} tensors, more than {bounds.tensors:,}")
    found: list[tuple[int, int, str, Tensor]] = []
    for name, facts in header.items():
        shape, dtype, begin, end = _facts(name, facts, place)
        declared = check_tensor(name, shape, dtype.name, place, bounds)
        if end - begin != declared:
            raise ModelFileError(
                f"{place}: {name} declares {declared:,} bytes and stores {end - begin:,}; the file is damaged"
            )
        read = partial(read_numbers, file, 8 + size + begin, shape, dtype, f"{place}: {name}")
        found.append((begin, end, name, Tensor(shape, dtype.name, read)))
    found.sort(key=lambda row: row[:2])
    at = 0
    for begin, end, name, _ in found:
        if begin != at:
            raise ModelFileError(
                f"{place}: {name} overlaps another tensor, or leaves a gap; the file is damaged"
            )
        at = end
    if at != length - 8 - size:
        raise ModelFileError(
            f"{place}: {length - 8 - size:,} bytes of numbers where its tensors take {at:,}; "
            "the file is not whole, download or copy it again"
        )
    if at > bounds.total_bytes:
        raise ModelFileError(f"{place}: its tensors take {at:,} bytes, more than {bounds.total_bytes:,}")
    return {name: tensor for _, _, name, tensor in found}


def _facts(name: str, facts: Any, place: str) -> tuple[tuple[int, ...], np.dtype[Any], int, int]:
    try:
        shape, (begin, end) = tuple(facts["shape"]), facts["data_offsets"]
        dtype = dtype_of(DTYPES[facts["dtype"]])
        if any(type(number) is not int or number < 0 for number in (*shape, begin, end)):
            raise ValueError("a size that is no count")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{place}: the header's entry of {name[:80]!r} is wrong ({error!r})") from error
    return shape, dtype, begin, end


def _check_metadata(metadata: Any, place: str) -> None:
    if not isinstance(metadata, Mapping) or not all(isinstance(value, str) for value in metadata.values()):
        raise ModelFileError(f"{place}: the header's metadata are no mapping of text to text")
