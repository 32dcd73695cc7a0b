"""The command in a process that may take so many MB more than it has now: `limited.py MB ARGUMENTS...`."""

import importlib
import os
import resource
import sys

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # each thread takes some, of however many cores
importlib.import_module("keras")
importlib.import_module(os.environ["KERAS_BACKEND"])

from rightfit.cli import main  # noqa: E402

spare = int(sys.argv.pop(1)) * 2**20
with open("/proc/self/status") as file:
    taken = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + spare, taken + spare))
main()
