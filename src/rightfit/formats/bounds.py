"""How much of everything a model file may hold before it is refused; the defaults let any image classifier in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """The largest values that are accepted, each checked before anything of that size is allocated."""

    file_bytes: int = 16 * 2**30  # a file, or all files of a folder
    unpacked_bytes: int = 16 * 2**30  # all members of an archive together
    members: int = 50_000  # of an archive, or files of a folder
    # Unpacked or declared bytes over stored bytes, for what exceeds `small_bytes`: a slot of zeros does compress well.
    ratio: int = 100
    small_bytes: int = 64 * 2**20
    tensors: int = 20_000
    objects: int = 100_000  # groups, tensors and attributes of an HDF5 file
    chunks: int = 200_000  # of all chunked tensors of an HDF5 file together
    tensor_bytes: int = 4 * 2**30
    total_bytes: int = 8 * 2**30  # all tensors together
    dimensions: int = 32
    json_bytes: int = 64 * 2**20  # a JSON text, a safetensors header, all attributes of an HDF5 file
    yaml_bytes: int = 8 * 2**20
    depth: int = 100  # nested lists and mappings, or HDF5 groups
    nodes: int = 1_000_000  # values of a JSON or YAML text, what aliases repeat counted each time
    name_length: int = 1_024  # characters of a tensor's or member's name
    seconds: float = 30.0  # to survey an HDF5 file
    survey_bytes: int = 2 * 2**30  # address space of the process that does


BOUNDS = Bounds()
RECORDS = Bounds(json_bytes=2**29, nodes=10_000_000)  # of a run, which grow with its images
