"""An HDF5 file in, a survey out: which numbers stand where in it. Runs as a process of its own, by its path.

libhdf5 can be crashed, and kept busy for ever, by a damaged file, so it never sees one in the caller's process.
This one has caps on memory, opens no file but the one it is asked for, writes none, and may be killed at any moment.
Requests come as JSON lines on standard input, each with the number of bytes that follow it, if any; answers leave
as JSON lines on standard output: {"groups": ..., "tensors": ...} or {"error": ...}.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from contextlib import suppress
from io import BytesIO
from typing import Any

sys.path += os.environ.get("RIGHTFIT_HDF5_PATHS", "").split(os.pathsep)  # where surveyor.py found both

import h5py
import numpy as np

LAYOUTS = {h5py.h5d.CONTIGUOUS: "contiguous", h5py.h5d.CHUNKED: "chunked", h5py.h5d.COMPACT: "compact"}
FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "sum",
}
NUMBERS = "fiub"
READY = b"ready\n"


class RefusedError(Exception):
    """The file holds what no model file needs."""


def main() -> None:
    """Answer requests until standard input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _warm_up()
    answers.write(READY)
    answers.flush()
    for line in requests:
        request = json.loads(line)
        data = requests.read(request["bytes"])
        try:
            answer = _answered(request, data)
        except RefusedError as error:
            answer = {"error": str(error)}
        except (MemoryError, RecursionError) as error:
            answer = {
                "error": f"takes more memory than {request['bounds']['survey_bytes']:,} bytes",
                "kind": str(error),
            }
        except Exception as error:  # h5py has a dozen kinds for a damaged file
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            answer = {"error": f"damaged: {reason[:200]}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _warm_up() -> None:
    """Import now what libraries import when first used: later no file is opened but the one asked for."""
    import encodings.ascii
    import encodings.utf_8  # noqa: F401  (imported to be there, not to be used)

    file = BytesIO()
    with h5py.File(file, "w") as root:
        root.attrs["bytes"], root.attrs["texts"] = np.array([b"a"]), ["a", "b"]
        root.create_dataset("a", data=np.ones(8, np.float16), chunks=(3,), compression="gzip")
    with h5py.File(file, "r") as again:
        _Survey(
            again,
            dict.fromkeys(("depth", "name_length", "objects", "json_bytes", "tensors", "chunks"), 99),
        )


def _answered(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    bounds = request["bounds"]
    file = BytesIO(data) if request["path"] is None else open(request["path"], "rb")  # noqa: SIM115  (the next line's `with` closes it)
    with file, _capped(bounds["survey_bytes"] + len(data)), h5py.File(file, "r") as root:
        if root.userblock_size:
            raise RefusedError("starts with a block of foreign bytes")
        return _Survey(root, bounds).to_dict()


class _capped:
    """No more memory than so, no bytes written, and no further file or socket opened, while this lasts."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.before: list[tuple[int, tuple[int, int]]] = []

    def __enter__(self) -> None:
        with suppress(ImportError):  # Windows has no such limits
            import resource

            highest = os.open(os.devnull, os.O_RDONLY)
            os.close(highest)
            for what, most in (
                (resource.RLIMIT_AS, self.memory),
                (resource.RLIMIT_FSIZE, 0),
                (resource.RLIMIT_NOFILE, highest),
                (resource.RLIMIT_CORE, 0),
            ):
                soft, hard = resource.getrlimit(what)
                self.before.append((what, (soft, hard)))
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                with suppress(OSError, ValueError):  # macOS has no cap on address space
                    resource.setrlimit(what, (most, hard))

    def __exit__(self, *_: object) -> None:
        if self.before:
            import resource

            for what, limits in self.before:
                with suppress(OSError, ValueError):
                    resource.setrlimit(what, limits)


class _Survey:
    """Walks every group of a file; each object is met once, and each is counted before it is looked into."""

    def __init__(self, root: Any, bounds: dict[str, int]) -> None:
        self.bounds = bounds
        self.groups: dict[str, dict[str, Any]] = {}
        self.tensors: dict[str, dict[str, Any]] = {}
        self.objects = self.chunks = self.text = 0
        seen = {h5py.h5o.get_info(root.id).addr}
        waiting = [("", root, 0)]
        while waiting:
            place, group, depth = waiting.pop()
            if depth > bounds["depth"]:
                raise RefusedError(f"groups are nested more than {bounds['depth']} deep")
            self.groups[place] = self._attributes(group, place)
            for name in group:
                self._count(len(name))
                inside = f"{place}/{name}" if place else name
                if len(inside) > bounds["name_length"]:
                    raise RefusedError(f"a name of more than {bounds['name_length']:,} characters")
                if not isinstance(group.get(name, getlink=True), h5py.HardLink) or name in (".", ".."):
                    raise RefusedError(f"{inside} is a link elsewhere")
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise RefusedError(f"{inside} occurs twice")
                seen.add(address)
                if isinstance(item, h5py.Group):
                    waiting.append((inside, item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    self._add(inside, item)
                else:
                    raise RefusedError(f"{inside} is neither a group nor a tensor")

    def to_dict(self) -> dict[str, Any]:
        return {"groups": self.groups, "tensors": self.tensors}

    def _count(self, text: int = 0) -> None:
        self.objects += 1
        self.text += text
        if self.objects > self.bounds["objects"]:
            raise RefusedError(f"more than {self.bounds['objects']:,} groups, tensors and attributes")
        if self.text > self.bounds["json_bytes"]:
            raise RefusedError(f"more than {self.bounds['json_bytes']:,} bytes of names and attributes")

    def _attributes(self, item: Any, place: str) -> dict[str, Any]:
        """Text, numbers and lists of either; others are left out, unread."""
        found: dict[str, Any] = {}
        for name in item.attrs:
            self._count(len(name))
            attribute = item.attrs.get_id(name)
            size = attribute.get_space().get_simple_extent_npoints()
            text = h5py.check_string_dtype(attribute.dtype)
            if text is None and attribute.dtype.kind not in NUMBERS:
                continue
            if size > self.bounds["objects"] or size * attribute.dtype.itemsize > self.bounds["json_bytes"]:
                raise RefusedError(f"the attribute {name!r} of {place or 'the file'} holds {size:,} values")
            value = item.attrs[name]
            values = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
            found[name] = values = _as_text(values)
            self._count(
                len(str(values))
                if isinstance(values, list)
                else len(values)
                if isinstance(values, str)
                else 8
            )
        return found

    def _add(self, name: str, dataset: Any) -> None:
        bounds = self.bounds
        if len(self.tensors) >= bounds["tensors"]:
            raise RefusedError(f"more than {bounds['tensors']:,} tensors")
        created = dataset.id.get_create_plist()
        if created.get_external_count() or dataset.is_virtual:
            raise RefusedError(f"{name} keeps its numbers elsewhere")
        attributes = self._attributes(dataset, name)
        dtype = dataset.dtype
        if h5py.check_string_dtype(dtype) is not None:
            raise RefusedError(f"{name} holds no numbers but text")
        kind = dtype.str
        if dtype.kind == "V" and dtype.itemsize == 2 and attributes.get("dtype") == "bfloat16":
            kind = "bfloat16"  # Keras stores it as two opaque bytes and says so
        elif dtype.kind not in NUMBERS or dtype.subdtype is not None:
            raise RefusedError(f"{name} holds no numbers but {str(dtype)[:80]}")
        if dataset.shape is None:
            raise RefusedError(f"{name} has no shape")
        if dataset.id.get_type().get_size() != dtype.itemsize:
            raise RefusedError(f"{name} holds numbers of an unusual width")
        layout = LAYOUTS.get(created.get_layout())
        found: dict[str, Any] = {"shape": list(map(int, dataset.shape)), "dtype": kind, "layout": layout}
        if layout == "contiguous":
            found |= {"offset": dataset.id.get_offset(), "stored": dataset.id.get_storage_size()}
        elif layout == "chunked":
            found |= self._chunked(name, dataset, created)
        elif layout == "compact":
            if dataset.size * dtype.itemsize > 2**16:
                raise RefusedError(f"{name} is stored as small and declares a large shape")
            found["data"] = base64.b64encode(dataset[()].tobytes()).decode()
        else:
            raise RefusedError(f"{name} is stored in an unknown way")
        self.tensors[name] = found

    def _chunked(self, name: str, dataset: Any, created: Any) -> dict[str, Any]:
        filters = [created.get_filter(index)[0] for index in range(created.get_nfilters())]
        unknown = [code for code in filters if code not in FILTERS]
        if unknown:
            raise RefusedError(f"{name} is packed by the filter {unknown[0]}; only gzip and shuffle are read")
        count = dataset.id.get_num_chunks()
        self.chunks += count
        if self.chunks > self.bounds["chunks"]:
            raise RefusedError(f"more than {self.bounds['chunks']:,} chunks")
        chunks: list[Any] = []
        dataset.id.chunk_iter(
            lambda info: chunks.append(
                [list(info.chunk_offset), info.filter_mask, info.byte_offset, info.size]
            )
        )
        return {
            "chunk": list(map(int, dataset.chunks)),
            "filters": [FILTERS[code] for code in filters],
            "chunks": [[[int(at) for at in where], *map(int, rest)] for where, *rest in chunks],
        }


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, list):
        return [_as_text(part) for part in value]
    if isinstance(value, h5py.Empty):
        return None
    return value


if __name__ == "__main__":
    main()
