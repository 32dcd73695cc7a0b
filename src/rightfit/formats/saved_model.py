"""TensorFlow's SavedModel folder in, the names of the operations that it would run out; no TensorFlow is needed.

A SavedModel is a program: its graph may read and write files. So its operations are named here, for whoever decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds

# Field numbers of TensorFlow's messages: SavedModel.meta_graphs, MetaGraphDef.graph_def, GraphDef.node and .library,
# FunctionDefLibrary.function, FunctionDef.node_def, NodeDef.op.
META_GRAPHS, GRAPH, NODE, LIBRARY, FUNCTION, NODE_OF_FUNCTION, OPERATION = 2, 2, 1, 2, 1, 3, 2
PROTOBUF_BYTES = 2**31  # no message can be longer


def operations(folder: Path, place: str, bounds: Bounds) -> tuple[str, ...]:
    """The operations of every graph and function in saved_model.pb, sorted; ModelFileError when it is damaged."""
    path = folder / "saved_model.pb"
    if not path.is_file():
        raise ModelFileError(f"{place}: saved_model.pb is not there, or is no file (text form is not read)")
    if path.stat().st_size > min(PROTOBUF_BYTES, bounds.json_bytes * 8):
        raise ModelFileError(f"{place}: a graph of {path.stat().st_size:,} bytes")
    data = memoryview(path.read_bytes())
    found: set[str] = set()
    try:
        for count, node in enumerate(_nodes(data), 1):
            if count > bounds.nodes:
                raise ModelFileError(f"{place}: more than {bounds.nodes:,} operations")
            found.update(str(name, "utf-8") for name in _fields(node, OPERATION))
    except (ValueError, IndexError) as error:
        raise ModelFileError(f"{place}: saved_model.pb is damaged ({error})") from error
    return tuple(sorted(found))


def _nodes(data: memoryview) -> Iterator[memoryview]:
    """Of every graph and function."""
    for meta_graph in _fields(data, META_GRAPHS):
        for graph in _fields(meta_graph, GRAPH):
            yield from _fields(graph, NODE)
            for library in _fields(graph, LIBRARY):
                for function in _fields(library, FUNCTION):
                    yield from _fields(function, NODE_OF_FUNCTION)


def check_folder(folder: Path, place: str, bounds: Bounds) -> int:
    """The bytes of all files in it; ModelFileError for links, other things than files, or too many or too large."""
    total = count = 0
    waiting = [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            count += 1
            if count > bounds.members:
                raise ModelFileError(f"{place}: more than {bounds.members:,} files")
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ModelFileError(
                    f"{place}: {path.name} is a link, or no file; the folder is not to be trusted"
                )
            if path.is_dir():
                waiting.append(path)
            else:
                total += path.stat().st_size
    if total > bounds.file_bytes:
        raise ModelFileError(f"{place}: {total:,} bytes, more than {bounds.file_bytes:,}")
    return total


def _fields(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """The contents of the length-delimited fields of that number in a protobuf message; ValueError when damaged."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("a field beyond the end")
            if key >> 3 == wanted:
                yield data[at : at + length]
            at += length
        else:
            raise ValueError(f"a field of the kind {kind}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
