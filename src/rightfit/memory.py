"""An exception in, whether memory ran short out: each framework says it in another type and in its own words."""

from __future__ import annotations

import errno
import re

from rightfit.errors import RightfitError

# torch: "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "not enough memory" (Windows);
# JAX: "RESOURCE_EXHAUSTED: Out of memory"; TensorFlow: "OOM when allocating tensor"; C++: "std::bad_alloc".
# oneDNN, which torch computes with, does not say what failed: "could not create a primitive". What it cannot do at
# all it says of a "primitive descriptor".
WORDS = re.compile(
    r"out of memory|OOM when allocating|can(?:'|no)t allocate memory|not enough memory|bad_alloc"
    r"|could not (?:create|execute) a (?:primitive|memory object)\b(?! desc)",
    re.IGNORECASE,
)


def is_short(error: BaseException) -> bool:
    """Did an allocation fail? Not so where the operating system ends the process instead."""
    if isinstance(error, (RightfitError, KeyboardInterrupt, SystemExit)):
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or bool(WORDS.search(str(error)))


def words(error: BaseException) -> str:
    """The one line of a framework's message that says what could not be allocated."""
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in str(error).splitlines()]
    return next((line for line in lines if WORDS.search(line)), "memory is short")[:200]
