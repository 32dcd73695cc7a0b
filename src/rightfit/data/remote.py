"""A URL in, the fsspec file system that reads it out; a client that is missing or fails is one of our errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from rightfit.errors import DataError, RightfitError, UsageError

PART = 2**20  # bytes that are asked for at a time
STALLED = 60.0  # seconds without a byte
IN_A_ROW = 3  # such reads, after which it is not the file
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}


def is_url(path: str) -> bool:
    return "://" in path


def is_listable(url: str) -> bool:
    """Whether the folders of its file system can be listed; the web's cannot."""
    return not url.startswith(("http://", "https://"))


def filesystem(url: str) -> tuple[Any, str]:
    """(the fsspec file system, its own name for `url`). UsageError says what to install for it."""
    from fsspec.core import url_to_fs

    try:
        system, name = url_to_fs(url, **_patience(url))
    except ImportError as error:
        schemes = re.findall(r"([a-z0-9]+)://", url)
        extra = next((EXTRAS[scheme] for scheme in schemes if scheme in EXTRAS), None)
        advice = f"`pip install 'rightfit[{extra}]'` brings what reads it" if extra else error
        raise UsageError(f"{url}: {advice}") from error
    except ValueError as error:
        known = ", ".join(f"{scheme}://" for scheme in EXTRAS)
        raise UsageError(f"{url}: {error}; give a path, {known} or what else fsspec reads") from error
    except Exception as error:  # each client has its own types
        raise DataError(f"{url}: cannot be reached: {error}") from error
    return system, name


def _patience(url: str) -> dict[str, Any]:
    """What makes the web's client give up a connection that stalls: by itself it gives up after five minutes,
    though bytes come. s3:// and gs:// have limits of their own."""
    from fsspec.config import conf

    scheme = next((s for s in ("https", "http") if f"{s}://" in url), None)
    if scheme is None:
        return {}
    import aiohttp

    patience = aiohttp.ClientTimeout(total=None, sock_connect=STALLED, sock_read=STALLED)
    kept = conf.get(scheme, {}).get("client_kwargs", {})  # what the user set for it
    return {scheme: {"client_kwargs": {"timeout": patience, **kept}}}


_stalled: list[str] = []  # reads that stalled since one did not, of whichever thread


@contextmanager
def answering(path: str) -> Iterator[None]:
    """A body that reads `path`, where a read that stalls is a TimeoutError; the third in a row is a DataError,
    as a thousand files that each stall for a minute take a day."""
    try:
        yield
    except Exception as error:  # each client has its own type for it
        if not _timed_out(error):
            raise
        _stalled.append(path)
        if len(_stalled) >= IN_A_ROW:
            _stalled.clear()
            raise DataError(
                f"{path}: the network stalls: reads of {IN_A_ROW} files in a row ended without an answer; "
                "run it again when it answers, or copy the images to a disk of this machine first"
            ) from error
        raise TimeoutError(f"the network stalled ({str(error) or 'no answer'})") from error
    _stalled.clear()


def _timed_out(error: BaseException | None) -> bool:
    """Clients make "no such file" of it, with the cause behind."""
    return error is not None and (isinstance(error, TimeoutError) or _timed_out(error.__cause__))


def opened(url: str) -> IO[bytes]:
    """The file, open for reading. Raises UsageError, or what its client raises."""
    system, name = filesystem(url)
    stream: IO[bytes] = system.open(name, "rb")
    return stream


def contents(stream: IO[bytes], most: int) -> bytes:
    """All bytes of an open file; `most` at most where a server does not say how many there are."""
    if getattr(stream, "size", 0) is not None:  # local files have no such attribute
        return stream.read()
    parts: list[bytes] = []
    while most > 0 and (part := stream.read(min(most, PART))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Whatever a client raises in the body, as a DataError that names `url`."""
    try:
        yield
    except RightfitError:
        raise
    except FileNotFoundError as error:
        said = "the network stalled" if _timed_out(error) else "no such file or folder"
        raise DataError(f"{url}: {said}") from None
    except PermissionError as error:
        raise DataError(f"{url}: no permission to read it: {error}") from error
    except Exception as error:  # each client has its own types
        raise DataError(f"{url}: cannot be reached: {error}") from error
