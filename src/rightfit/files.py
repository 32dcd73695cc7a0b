"""Write files whole: beside their place, flushed to disk, then renamed into it; and the text of a YAML file."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from rightfit.errors import WriteError

FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
SAFETENSORS = ".tmp??????"  # what its writer calls a file, in the same folder, until that is whole


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder; at the end it becomes `path`, or vanishes on an error.

    A reader sees the old file or the whole new one, never a part. The new one has the permissions of the
    old, or those that the umask gives. Raises WriteError when the disk is full or the folder cannot
    be written; any other error of the body passes as it is.
    """
    target = Path(path)
    with _as_unwritten(target):
        descriptor, name = tempfile.mkstemp(
            prefix=f".{target.name}-", suffix="".join(target.suffixes[-2:]), dir=target.parent
        )
        os.close(descriptor)
    temporary = Path(name)
    try:
        with _as_unwritten(target, body_of=name):
            yield temporary
        with _as_unwritten(target):
            with temporary.open("r+b") as file:
                temporary.chmod(_permissions(target))
                os.fsync(file.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        with suppress(OSError):  # left where the folder has closed meanwhile
            temporary.unlink(missing_ok=True)


@contextmanager
def _as_unwritten(target: Path, body_of: str | None = None) -> Iterator[None]:
    """OSErrors as WriteError; of a body that writes the temporary file `body_of`, those of the writing."""
    try:
        yield
    except OSError as error:
        if body_of is not None and not _of_writing(error, {body_of, str(target)}):
            raise
        raise WriteError(f"{target}: cannot be written: {error.strerror or error}") from error


def _of_writing(error: OSError, names: set[str]) -> bool:
    """A body reads too: an error that names another file is not ours, but a full disk fails no reader."""
    if error.errno in (*FULL, errno.EROFS) or str(error.filename) in names:
        return True
    return error.errno == errno.EIO and error.filename is None


def _permissions(target: Path) -> int:
    try:
        return stat.S_IMODE(target.stat().st_mode) & 0o777
    except FileNotFoundError:
        return 0o666 & ~_umask()


def check_writable(path: str | os.PathLike[str]) -> None:
    """WriteError where `replacing` would raise it for this path, before there is anything to write."""
    target = Path(path)
    with _as_unwritten(target), tempfile.TemporaryFile(dir=target.parent):
        pass


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: str | Path, line: str) -> None:
    """Add a line to a small record by replacing the file with itself and the line."""
    target = Path(path)
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    write_text(target, before + line.rstrip("\n") + "\n")


def remembered(path: Path) -> dict[str, Any]:
    """What `remember` has written to `path` by key; nothing where that cannot be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(path: Path, key: str, value: Any) -> None:
    """Keep `value` under `key` beside what is there; a cache that is only readable serves as well."""
    with suppress(OSError, WriteError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({**remembered(path), key: value}, indent=1) + "\n")


def write_with(path: str | Path, writer: Callable[[Path], object]) -> None:
    """For libraries that insist on opening the path themselves."""
    with replacing(path) as temporary:
        writer(temporary)


def write_tensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """A safetensors file of arrays. WriteError when it cannot be written."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        write_with(path, lambda temporary: save_file(dict(tensors), temporary, metadata=dict(metadata)))
    except SafetensorError as error:  # its writer wraps the disk's OSError
        raise WriteError(f"{path}: cannot be written: {error}") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def reserve(descriptor: int, needed: int) -> None:
    """OSError now when the disk has no room for `needed` bytes, not in an hour."""
    if needed and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, needed)
        except OSError as error:
            if error.errno in FULL:  # some file systems cannot reserve; writing will tell
                raise


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder, as fsync flushes a file's bytes."""
    if os.name == "nt":  # Windows has no handle on folders to flush
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def yaml_of(content: Any, dumper: type = yaml.SafeDumper, **style: Any) -> str:
    """Letters of every alphabet stay readable; but where U+0085 is among them, which PyYAML writes as it is and
    reads back as a space, all of them are escaped."""
    text: str = yaml.dump(content, Dumper=dumper, allow_unicode=True, **style)
    return yaml.dump(content, Dumper=dumper, allow_unicode=False, **style) if "\x85" in text else text
