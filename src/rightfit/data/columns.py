"""A CSV, TSV or Parquet file in; the frame of its columns, and the line that each of its rows stands in, out."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from rightfit.data.remote import is_url, opened, reaching
from rightfit.errors import DataError

SUFFIXES = (".csv", ".tsv", ".parquet")


def read_columns(path: str) -> tuple[pd.DataFrame, Callable[[int], str]]:
    """The columns of a Parquet file as they are, of others as text without blank lines; and where row i stands.

    Text is UTF-8, or UTF-16 with a byte order mark; fields are parted by comma (.csv) or tab (.tsv), or, where the
    header line holds none, by what of comma, semicolon and tab it does hold. Raises DataError.
    """
    if is_url(path):
        with reaching(path), opened(path) as file:
            frame = _parsed(path, io.BytesIO(file.read()))  # a server may not let it be read twice
    else:
        try:
            with Path(path).open("rb") as file:
                frame = _parsed(path, file)
        except FileNotFoundError:
            raise DataError(f"{path}: no such file or folder") from None
        except PermissionError:
            raise DataError(f"{path}: no permission to read this file") from None
    if path.lower().endswith(".parquet"):
        return frame, lambda row: f"{path}, row {row}"
    kept = np.flatnonzero((frame != "").any(axis=1).to_numpy())

    def place(row: int) -> str:
        before = frame.iloc[: kept[row]]
        breaks = sum(int(before[column].str.count("\n").sum()) for column in before)
        return f"{path}, line {2 + int(kept[row]) + breaks}"

    return frame if len(kept) == len(frame) else frame.iloc[kept], place


def _parsed(path: str, file: IO[bytes]) -> pd.DataFrame:
    """Blank lines are kept, so that a row knows its line."""
    try:
        if path.lower().endswith(".parquet"):
            return pd.read_parquet(file)
        encoding, separator = _written_as(path, file)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "error", pd.errors.ParserWarning
                )  # pandas drops what is beyond the header
                return _text(file, encoding, separator)
        except pd.errors.ParserWarning:
            _refuse_surplus(path, file, encoding, separator, blank=False)
        except pd.errors.ParserError as error:
            _refuse_surplus(path, file, encoding, separator, blank=True)
            if unclosed := re.search(r"EOF inside string starting at row (\d+)", str(error)):
                row = int(unclosed[1]) + 1
                raise DataError(f"{path}: the quote that opens in row {row} is never closed") from None
            raise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # separators at the end of each line
            file.seek(0)
            return _text(file, encoding, separator)
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8 (Excel: CSV UTF-8)") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from None


def _text(file: IO[bytes], encoding: str, separator: str) -> pd.DataFrame:
    pieces = pd.read_csv(
        file,
        sep=separator,
        dtype="str",
        keep_default_na=False,
        skip_blank_lines=False,
        index_col=False,
        encoding=encoding,
        chunksize=20_000,  # a million rows at once take three times the memory of their frame
    )
    with pieces:
        return pd.concat(pieces, ignore_index=True).fillna("")


def _written_as(path: str, file: IO[bytes]) -> tuple[str, str]:
    """Encoding and separator, from the first bytes; Excel writes semicolons or tabs where the comma is decimal."""
    start = file.read(2**16)
    file.seek(0)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    header = next(iter(start.decode(encoding, errors="ignore").splitlines()), "")
    usual = "\t" if path.lower().endswith(".tsv") else ","
    return encoding, next((mark for mark in (usual, ",", ";", "\t") if mark in header), usual)


def _refuse_surplus(path: str, file: IO[bytes], encoding: str, separator: str, blank: bool) -> None:
    """DataError for the first row of more fields than the header names; with `blank` even if these hold nothing."""
    file.seek(0)
    with suppress(csv.Error):
        text = io.TextIOWrapper(file, encoding, newline="")
        try:
            rows = csv.reader(text, delimiter=separator)
            named, line = len(next(rows, [])), 2
            for row in rows:
                if len(row) > named and (blank or any(row[named:])):
                    raise DataError(
                        f"{path}, line {line}: {len(row)} fields, and the header names {named}; "
                        f"a field that holds {separator!r} stands in double quotes"
                    )
                line = rows.line_num + 1
        finally:
            text.detach()
