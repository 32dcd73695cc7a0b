"""A zip archive in, its members by name out, once none of them is more than it says or stands where it should not."""

from __future__ import annotations

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
        """The bytes of a member, whose checksum has been compared; ModelFileError when there are more than `limit`."""
        member = self.members[name]
        if member.file_size > limit:
            raise ModelFileError(f"{self.place}: {name} of {member.file_size:,} bytes, more than {limit:,}")
        try:
            with self.zip.open(member) as opened:
                return opened.read()
        except DAMAGED as error:
            raise ModelFileError(
                f"{self.place}: {name} is damaged ({error}); download or copy it again"
            ) from error

    def check_keras(self) -> None:
        """ModelFileError when a `.keras` file lacks what makes it one, or holds anything else."""
        strange = [name for name in self.members if not KERAS.fullmatch(name)]
        if strange:
            raise ModelFileError(
                f"{self.place}: {strange[0]!r} has no place in a .keras file; the file is not to be trusted"
            )


def _directory_bytes(file: IO[bytes], length: int) -> int:
    """How long the archive's directory says it is, as `zipfile` would make an object of each of its lines."""
    start = max(0, length - 2**16 - 22)
    file.seek(start)
    end = file.read()
    at = end.rfind(b"PK\x05\x06")
    if at < 0:
        return 0
    size = int.from_bytes(end[at + 12 : at + 16], "little")
    large = end.rfind(b"PK\x06\x06")  # the record of archives beyond 4 GB
    return max(size, int.from_bytes(end[large + 40 : large + 48], "little")) if large >= 0 else size
