"""A zip archive in, its members by name out, once none of them is more than it says or stands where it should not."""

from __future__ import annotations

import copy
import re
import stat
import zipfile
import zlib
from collections import Counter
from typing import IO

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds
from rightfit.formats.contents import check_name

MAGIC = b"PK\x03\x04"
KERAS = re.compile(r"config\.json|metadata\.json|model\.weights\.h5|assets(/.*)?")
# What zipfile raises for hostile bytes: an unknown method is a NotImplementedError, a password a RuntimeError.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)
ENTRY = 256  # bytes of a member's line in an archive's directory, with a long name
END = b"PK\x05\x06"  # of the record that ends an archive
LARGE_END = b"PK\x06\x06"  # of one beyond 4 GB
PACKING = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class Archive:
    """The members of an open zip file. ModelFileError, from the constructor on, when it is not to be trusted:
    members twice, links, absolute names or `..`, encrypted or oddly packed ones, overlapping, or too large."""

    def __init__(self, file: IO[bytes], length: int, place: str, bounds: Bounds) -> None:
        self.place = place
        if _directory_bytes(file, length) > bounds.members * ENTRY:
            raise ModelFileError(f"{place}: more than {bounds.members:,} members")
        try:
            self.zip = zipfile.ZipFile(file)
        except DAMAGED as error:
            raise ModelFileError(f"{place}: damaged ({error}); download or copy it again") from error
        members = self.zip.infolist()
        if len(members) > bounds.members:
            raise ModelFileError(f"{place}: {len(members):,} members, more than {bounds.members:,}")
        for member in members:
            self._check(member, bounds)
        twice = [name for name, times in Counter(member.filename for member in members).items() if times > 1]
        if twice:
            raise ModelFileError(f"{place}: {twice[0]!r} is in it twice; the file is not to be trusted")
        packed = sum(member.compress_size for member in members)
        unpacked = sum(member.file_size for member in members)
        if packed > length:
            raise ModelFileError(f"{place}: its members overlap; the file is not to be trusted")
        if unpacked > min(bounds.unpacked_bytes, max(bounds.small_bytes, bounds.ratio * packed)):
            raise ModelFileError(
                f"{place}: {unpacked:,} bytes unpacked out of {packed:,}; the file is not to be trusted"
            )
        self.members = {member.filename: member for member in members if not member.is_dir()}

    def _check(self, member: zipfile.ZipInfo, bounds: Bounds) -> None:
        name = member.filename
        check_name(name.rstrip("/") or "/", self.place, bounds)
        if stat.S_ISLNK(member.external_attr >> 16) or re.match(r"[A-Za-z]:", name):
            raise ModelFileError(f"{self.place}: {name!r} leads elsewhere; the file is not to be trusted")
        if member.flag_bits & 1 or member.compress_type not in PACKING:
            raise ModelFileError(f"{self.place}: {name!r} is encrypted, or packed in an unusual way")

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a member, whose checksum has been compared; ModelFileError when there are more than `limit`, or
        other than it declares."""
        declared = self.members[name].file_size
        if declared > limit:
            raise ModelFileError(f"{self.place}: {name} of {declared:,} bytes, more than {limit:,}")
        # `zipfile` unpacks all there is and cuts it to what is declared: so a byte more is declared and asked for.
        member = copy.copy(self.members[name])
        member.file_size = declared + 1
        try:
            with self.zip.open(member) as opened:
                data = opened.read(member.file_size)
        except DAMAGED as error:
            raise ModelFileError(
                f"{self.place}: {name} is damaged ({error}); download or copy it again"
            ) from error
        if len(data) != declared:
            raise ModelFileError(
                f"{self.place}: {name} unpacks to other than the {declared:,} bytes that it declares; "
                "the file is not to be trusted"
            )
        return data

    def check_keras(self) -> None:
        """ModelFileError when a `.keras` file lacks what makes it one, or holds anything else."""
        strange = [name for name in self.members if not KERAS.fullmatch(name)]
        if strange:
            raise ModelFileError(
                f"{self.place}: {strange[0]!r} has no place in a .keras file; the file is not to be trusted"
            )


def _directory_bytes(file: IO[bytes], length: int) -> int:
    """How long the archive's directory is said to be, where `zipfile` looks, which makes an object of each line."""
    start = max(0, length - 2**16 - 22)
    file.seek(start)
    end = file.read()
    # The record that ends the file, else the last before a comment.
    whole = end[-22:-18] == END and end[-2:] == b"\0\0"
    at = len(end) - 22 if whole else end.rfind(END)
    if at < 0:
        return 0
    size = int.from_bytes(end[at + 12 : at + 16], "little")
    # Of an archive beyond 4 GB a locator stands before that, and a larger record before the locator or, for newer
    # Pythons, where it says.
    locator = start + at - 20
    found = _read(file, locator, 20)
    if not found.startswith(b"PK\x06\x07"):
        return size
    beside, named = (
        _read(file, place, 56) for place in (locator - 56, int.from_bytes(found[8:16], "little"))
    )
    sizes = [
        int.from_bytes(record[40:48], "little") for record in (beside, named) if record.startswith(LARGE_END)
    ]
    return max(sizes if beside.startswith(LARGE_END) else [size, *sizes])


def _read(file: IO[bytes], place: int, count: int) -> bytes:
    if not 0 <= place < 2**63:
        return b""
    file.seek(place)
    return file.read(count)
