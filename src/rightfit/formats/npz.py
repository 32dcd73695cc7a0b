"""NumPy's archives in, their arrays out; what is pickled is refused."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np

from rightfit.errors import ModelFileError
from rightfit.formats.archive import Archive
from rightfit.formats.bounds import Bounds
from rightfit.formats.contents import Array, Tensor, check_tensor

HEADER_BYTES = 64 * 2**10  # NumPy's own limit on a header is lower yet


def tensors(archive: Archive, bounds: Bounds) -> dict[str, Tensor]:
    """Every array of an `.npz` by name.

    ModelFileError when a member is no array, holds pickled objects (as TensorLayer's `save_npz` writes), or its
    shape needs other than the bytes that it has.
    """
    found: dict[str, Tensor] = {}
    total = 0
    for member in archive.members:
        name = member.removesuffix(".npy")
        place = f"{archive.place}: {name}"
        shape, fortran, dtype, start = _header(archive, member, place)
        declared = check_tensor(name, shape, dtype.name, archive.place, bounds)
        if start + declared != archive.members[member].file_size:
            raise ModelFileError(
                f"{place} declares {declared:,} bytes and does not store them; the file is damaged"
            )
        total += declared
        if total > bounds.total_bytes or len(found) > bounds.tensors:
            raise ModelFileError(
                f"{archive.place}: more than {bounds.total_bytes:,} bytes or {bounds.tensors:,} arrays"
            )
        read = partial(_read, archive, member, start, shape, fortran, dtype)
        found[name] = Tensor(shape, dtype.name, read)
    return found


def _header(archive: Archive, member: str, place: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    try:
        with archive.zip.open(archive.members[member]) as opened:
            start = io.BytesIO(opened.read(HEADER_BYTES))
        version = np.lib.format.read_magic(start)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = reader(start)
    except Exception as error:  # hostile bytes raise anything
        raise ModelFileError(f"{place} is no array ({_reason(error)}); the file is damaged") from error
    if dtype.hasobject:
        raise ModelFileError(
            f"{place} is pickled, and unpickling can run code. Save the weights anew with TensorLayer's "
            f"save_weights(path, format='npz_dict'), or, where you trust the file, with "
            f"numpy.savez(path, *numpy.load(old, allow_pickle=True)[{member.removesuffix('.npy')!r}])"
        )
    if dtype.kind not in "fiub" or dtype.subdtype is not None:
        raise ModelFileError(f"{place} holds no numbers but {str(dtype)[:80]}")
    return tuple(map(int, shape)), fortran, dtype, start.tell()


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _read(
    archive: Archive, member: str, start: int, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any]
) -> Array:
    data = archive.read(member, archive.members[member].file_size)
    array = np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")
    return np.array(array, dtype.newbyteorder("="), order="C")
