"""JSON and YAML text in, plain data out: dict, list, str, int, float, bool and None, within bounds, and nothing run."""

from __future__ import annotations

import json
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import BOUNDS, Bounds

LARGEST_INTEGER = 2**63  # what any shape, seed or count fits in
# Tags that Keras 1 and 2 wrote, or that say what is so anyway; each becomes the plain value it stands for.
PREFIX = "tag:yaml.org,2002:"
PLAIN_TAGS = {
    "python/tuple": "seq", "python/list": "seq", "python/dict": "map", "python/unicode": "str", "python/str": "str",
    "python/none": "null", "python/bool": "bool", "python/int": "int", "python/long": "int", "python/float": "float",
    "seq": "seq", "map": "map", "str": "str", "null": "null", "bool": "bool", "int": "int", "float": "float",
}  # fmt: skip
LONGEST_NUMBER = 64  # characters; a longer one would take a while, and is no number of any model


def from_json(text: str | bytes, place: str, bounds: Bounds = BOUNDS) -> Any:
    """What a JSON text says. NaN and infinities are read as Python writes them.

    ModelFileError when it is no JSON in UTF-8, holds a key twice or a number beyond 64 bits, or is beyond the
    bounds on bytes, nodes and depth.
    """
    text = _decoded(text, place, bounds.json_bytes)
    # Each value costs a comma, a colon or a bracket: counted before the parser makes objects of them.
    values = 1 + sum(text.count(sign) for sign in ",:[{")
    if values > 4 * bounds.nodes:
        raise ModelFileError(f"{place}: more than {bounds.nodes:,} values")
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _mapping(pairs, place))
    except RecursionError as error:
        raise ModelFileError(f"{place}: nested more than {bounds.depth} deep") from error
    except ValueError as error:
        raise ModelFileError(f"{place}: no JSON: {str(error)[:200]}") from error
    check(content, place, bounds)
    return content


def json_file(path: Path, bounds: Bounds = BOUNDS) -> Any:
    """As `from_json`, of a file. OSError when it cannot be read."""
    check_regular(path, bounds.json_bytes)
    return from_json(path.read_bytes(), str(path), bounds)


def check_regular(path: Path, limit: int) -> None:
    """ModelFileError for what is no regular file, as a pipe is waited for and a device may never end, or is larger."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError(f"{path} is not a regular file")
    if status.st_size > limit:
        raise ModelFileError(f"{path}: {status.st_size:,} bytes, more than {limit:,}")


def from_yaml(text: str | bytes, place: str, bounds: Bounds = BOUNDS) -> Any:
    """What a YAML text says, one document, as `yaml.safe_load` reads it but that dates stay text.

    Tags are refused but the few of Keras 1 and 2 that stand for plain values (!!python/tuple becomes a list). An
    alias is a copy, and what it repeats is counted each time. ModelFileError as of `from_json`.
    """
    text = _decoded(text, place, bounds.yaml_bytes)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = _Composer(yaml.parse(text, loader), place, bounds).document()
    except yaml.YAMLError as error:
        raise ModelFileError(f"{place}: no YAML: {' '.join(str(error).split())[:200]}") from error
    except RecursionError as error:
        raise ModelFileError(f"{place}: nested more than {bounds.depth} deep") from error
    check(content, place, bounds)
    return content


def check(content: Any, place: str, bounds: Bounds = BOUNDS) -> None:
    """ModelFileError when plain data are nested too deep, hold too much, or anything that is not plain."""
    waiting: list[tuple[Any, int]] = [(content, 0)]
    seen = 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        if depth > bounds.depth:
            raise ModelFileError(f"{place}: nested more than {bounds.depth} deep")
        if seen > bounds.nodes:
            raise ModelFileError(f"{place}: more than {bounds.nodes:,} values")
        if isinstance(node, dict):
            for key, value in node.items():
                _check_scalar(key, place)
                waiting.append((value, depth + 1))
        elif isinstance(node, list):
            waiting += [(value, depth + 1) for value in node]
        else:
            _check_scalar(node, place)


def _check_scalar(value: Any, place: str) -> None:
    if isinstance(value, int) and not -LARGEST_INTEGER <= value < 2 * LARGEST_INTEGER:
        raise ModelFileError(f"{place}: a number beyond 64 bits")
    if isinstance(value, str) and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise ModelFileError(f"{place}: text that is no Unicode (a lone surrogate)")
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise ModelFileError(f"{place}: holds a {type(value).__name__}, which is no plain data")


def _decoded(text: str | bytes, place: str, limit: int) -> str:
    if len(text) > limit:
        raise ModelFileError(f"{place}: a text of {len(text):,} bytes, more than {limit:,}")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{place}: no text in UTF-8 (byte {error.start})") from error


def _mapping(pairs: list[tuple[Any, Any]], place: str) -> dict[Any, Any]:
    """Two readers may disagree on which of two equal keys counts, so neither does."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ModelFileError(f"{place}: the key {str(twice)[:80]!r} is there twice")
    return found


class _Composer:
    """YAML's events into plain data, counting as it goes, so that no bomb is unpacked before it is noticed."""

    def __init__(self, events: Iterator[yaml.Event], place: str, bounds: Bounds) -> None:
        self.events = events
        self.place = place
        self.bounds = bounds
        self.anchors: dict[str, Any] = {}
        self.seen = 0
        self.resolver: Any = yaml.resolver.Resolver()
        self.constructor: Any = yaml.constructor.SafeConstructor()

    def document(self) -> Any:
        next(self.events)  # the stream's start
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        content = self._node(next(self.events), 0)
        next(self.events)  # the document's end
        if not isinstance(next(self.events), yaml.StreamEndEvent):
            raise ModelFileError(f"{self.place}: more than one YAML document")
        return content

    def _node(self, event: Any, depth: int) -> Any:
        if depth > self.bounds.depth:
            raise ModelFileError(f"{self.place}: nested more than {self.bounds.depth} deep")
        self._count()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise ModelFileError(
                    f"{self.place}: the alias *{event.anchor} stands for nothing, or holds itself"
                )
            return self._copy(self.anchors[event.anchor], depth)
        content: Any
        if isinstance(event, yaml.ScalarEvent):
            content = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._kind(event, "seq")
            content = list(self._items(yaml.SequenceEndEvent, depth))
        else:
            self._kind(event, "map")
            content = self._pairs(depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = content
        return content

    def _items(self, end: type[yaml.Event], depth: int) -> Iterator[Any]:
        while not isinstance(event := next(self.events), end):
            yield self._node(event, depth + 1)

    def _pairs(self, depth: int) -> dict[Any, Any]:
        items = list(self._items(yaml.MappingEndEvent, depth))
        keys = items[::2]
        if any(isinstance(key, (list, dict)) for key in keys):
            raise ModelFileError(f"{self.place}: a list or mapping as a key")
        if "<<" in keys:
            raise ModelFileError(f"{self.place}: merges mappings with <<; write them out")
        return _mapping(list(zip(keys, items[1::2], strict=True)), self.place)

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        value = event.value
        if event.tag in (None, "!"):  # quoted text stays text, the rest is what it looks like
            kind = self.resolver.resolve(yaml.ScalarNode, value, event.implicit).removeprefix(PREFIX)
        else:
            kind = self._kind(event, "str")
        if kind == "null":
            return None
        if kind not in ("bool", "int", "float") or len(value) > LONGEST_NUMBER:
            return value
        node = yaml.ScalarNode(PREFIX + kind, value)
        try:
            return getattr(self.constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, OverflowError, IndexError) as error:
            raise ModelFileError(f"{self.place}: {value[:80]!r} is no {kind}") from error

    def _kind(self, event: Any, default: str) -> str:
        """What an explicit tag stands for; ModelFileError for all but the plain ones."""
        if event.tag in (None, "!"):
            return default
        kind = PLAIN_TAGS.get(event.tag.removeprefix(PREFIX)) if event.tag.startswith(PREFIX) else None
        structure = kind if kind in ("seq", "map") else "str"
        if kind is None or structure != default:
            raise ModelFileError(f"{self.place}: asks for the tag {event.tag[:200]!r}, which is never run")
        return kind

    def _copy(self, content: Any, depth: int) -> Any:
        """A fresh copy of what an alias repeats, each value counted and each level as deep as it stands."""
        if depth > self.bounds.depth:
            raise ModelFileError(f"{self.place}: nested more than {self.bounds.depth} deep")
        self._count()
        if isinstance(content, list):
            return [self._copy(value, depth + 1) for value in content]
        if isinstance(content, dict):
            return {key: self._copy(value, depth + 1) for key, value in content.items()}
        return content

    def _count(self) -> None:
        self.seen += 1
        if self.seen > self.bounds.nodes:
            raise ModelFileError(f"{self.place}: more than {self.bounds.nodes:,} values")
