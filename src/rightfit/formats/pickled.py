"""A pickle in, the names of what it would call out; nothing is unpickled."""

from __future__ import annotations

import pickletools
from typing import IO

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds

MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLES = 5  # of PyTorch's old files: magic number, version, system, content, keys
TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")


def calls(file: IO[bytes], place: str, bounds: Bounds, pickles: int = PICKLES) -> tuple[str, ...]:
    """Globals that the first `pickles` pickles of `file` name, sorted: "collections.OrderedDict", "os.system".

    ModelFileError when the first is no pickle, or they hold more operations than the bounds' nodes.
    """
    found: set[str] = set()
    seen = 0
    for index in range(pickles):
        recent: list[str] = []
        try:
            for operation, argument, _ in pickletools.genops(file):
                seen += 1
                if seen > bounds.nodes:
                    raise ModelFileError(f"{place}: a pickle of more than {bounds.nodes:,} operations")
                if operation.name in TEXT:
                    recent = [*recent[-7:], str(argument)]
                elif operation.name in ("GLOBAL", "INST"):
                    found.add(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    found.add(".".join(recent[-2:]))
                elif operation.name in ("EXT1", "EXT2", "EXT4"):
                    found.add(f"copyreg extension {argument}")
        except ModelFileError:
            raise
        except Exception as error:  # hostile bytes raise anything
            if index == 0:
                raise ModelFileError(
                    f"{place}: a damaged pickle ({str(error)[:200]}); download or copy it again"
                ) from error
            break  # the numbers that follow the pickles
    return tuple(sorted(found))
