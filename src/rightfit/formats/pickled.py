"""A pickle in, the names of what it would call out; nothing is unpickled."""

from __future__ import annotations

import os
import pickletools
from typing import IO, Any

from rightfit.errors import ModelFileError
from rightfit.formats.bounds import Bounds

MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLES = 5  # of PyTorch's old files: magic number, version, system, content, keys
TEXT = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")
UNKNOWN = "unknown"  # what cannot be told without unpickling


def calls(file: IO[bytes], place: str, bounds: Bounds, pickles: int = PICKLES) -> tuple[str, ...]:
    """Globals that the first `pickles` pickles of `file` name, sorted: "collections.OrderedDict", "os.system"; with
    "unknown" among them for a name that is not written there as text, and for a later pickle that breaks off.

    ModelFileError when the first is no pickle, or they hold more operations than the bounds' nodes.
    """
    found: set[str] = set()
    seen = 0
    for index in range(pickles):
        machine = _Machine()
        try:
            for operation, argument, _ in pickletools.genops(file):
                seen += 1
                if seen > bounds.nodes:
                    raise ModelFileError(f"{place}: a pickle of more than {bounds.nodes:,} operations")
                if operation.name in ("GLOBAL", "INST"):
                    found.add(str(argument).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    found.add(machine.name())
                elif operation.name in ("EXT1", "EXT2", "EXT4"):
                    found.add(f"copyreg extension {argument}")
                machine.follow(operation, argument)
        except ModelFileError:
            raise
        except Exception as error:  # hostile bytes raise anything
            if index == 0:
                raise ModelFileError(
                    f"{place}: a damaged pickle ({str(error)[:200]}); download or copy it again"
                ) from error
            found.add(f"{UNKNOWN} (pickle {index + 1} breaks off)")
            break
        if not file.read(1):
            break
        file.seek(-1, os.SEEK_CUR)
    return tuple(sorted(found))


class _Machine:
    """The stack and the memo of the machine that a pickle is a program of, which hold its texts, and None or a mark for
    all else."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def name(self) -> str:
        """What STACK_GLOBAL takes: the module and the name on top."""
        top = self.stack[-2:]
        return ".".join(top) if len(top) == 2 and all(isinstance(part, str) for part in top) else UNKNOWN

    def follow(self, operation: pickletools.OpcodeInfo, argument: Any) -> None:
        """IndexError or KeyError where the stack or the memo does not hold what it takes."""
        name, taken, left = operation.name, operation.stack_before, operation.stack_after
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
            return
        if name == "DUP":
            self.stack.append(self.stack[-1])
            return
        if pickletools.markobject in taken:
            while self.stack.pop() is not pickletools.markobject:
                pass
            taken = taken[: taken.index(pickletools.markobject)]
        for _ in taken:
            self.stack.pop()
        if name in TEXT:
            self.stack.append(argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        else:
            self.stack += [part if part is pickletools.markobject else None for part in left]
