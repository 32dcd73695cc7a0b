"""How many bytes this process may still take: what Linux has available, less where a cgroup limits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Of version 2 and 1: the limit, what is used of it, and where memory.stat says what the kernel would give back.
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes; of systems that do not say, all that is built in, or None."""
    found = [*_of_the_machine(proc), *_of_the_groups(proc, groups)]
    return max(0, min(found)) if found else None


def _of_the_machine(proc: Path) -> Iterator[int]:
    with suppress(OSError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
                return
    with suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_the_groups(proc: Path, groups: Path) -> Iterator[int]:
    """What is left in each group around this process, up to the root; a container may show itself as the root."""
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = groups / "memory" if controllers else groups
            place = root / name.strip("/")
            for folder in (place, *place.parents):
                yield from _left(folder)
                if folder == root:
                    break


def _left(folder: Path) -> Iterator[int]:
    for limit, used, reclaimable in FILES:
        with suppress(OSError, ValueError):  # not there, or "max", which is no limit
            room = int((folder / limit).read_text()) - int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield room + int(stat.get(reclaimable, 0))
