"""A URL in, the fsspec file system that reads it out; a client that is missing or fails is one of our errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from rightfit.errors import DataError, RightfitError, UsageError

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
        system, name = url_to_fs(url)
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


def opened(url: str) -> IO[bytes]:
    """The file, open for reading. Raises UsageError, or what its client raises."""
    system, name = filesystem(url)
    stream: IO[bytes] = system.open(name, "rb")
    return stream


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Whatever a client raises in the body, as a DataError that names `url`."""
    try:
        yield
    except RightfitError:
        raise
    except FileNotFoundError:
        raise DataError(f"{url}: no such file or folder") from None
    except PermissionError as error:
        raise DataError(f"{url}: no permission to read it: {error}") from error
    except Exception as error:  # as above
        raise DataError(f"{url}: cannot be reached: {error}") from error
