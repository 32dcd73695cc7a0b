"""A process of its own that reads files while everything it opens, calls and imports is watched."""

import json
import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"

WATCHED = """
import json, os, pathlib, resource, sys
sys.path.insert(0, sys.argv[1])
homes = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, *sys.argv[1:3])]
homes += [os.path.dirname(os.path.realpath(p)) for p in sys.path if "packages" in p]
allowed, seen, armed = ("/dev/null", "/dev/urandom", "/proc/"), [], []

def hook(event, args):
    if not armed:
        return
    if event == "open" and isinstance(args[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(args[0]))
        writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        inside = any(path == home or path.startswith(home + os.sep) for home in homes)
        if not path.startswith(allowed) and (writes or not inside):
            seen.append([event, path])
    elif event == "subprocess.Popen":
        if not str(args[1][-1]).endswith("hdf5_survey.py"):
            seen.append([event, str(args[1])])
    elif event.startswith(("socket.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.", "ctypes.dlopen",
                           "urllib.", "shutil.", "os.remove", "os.rename", "os.mkdir", "os.symlink", "tempfile.")):
        if event != "socket.gethostname":
            seen.append([event, str(args)[:200]])
    elif event == "import" and "planted" in str(args[0]):
        seen.append([event, args[0]])

sys.addaudithook(hook)
import rightfit
from rightfit.errors import RightfitError
from rightfit.formats.model_file import opened
from rightfit.nets.importers import files, files_keras, files_tensorflow
import torch
def bare(path):
    with opened(path):
        pass
def build(path):
    from rightfit.saving.architecture import from_config
    with opened(path) as file:
        content = file.architecture
    from_config(content)
def load(path):
    from rightfit.saving.loading import load_model
    load_model(pathlib.Path(path))
ways = {"opened": bare, "inspect": rightfit.inspect, "read": files.read, "build": build, "load": load}
if "build" in sys.argv[3:]:
    import keras
    import rightfit.saving.legacy.reading
    import rightfit.saving.loading
outcomes = {}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in json.load(sys.stdin):
    armed.append(True)
    for name in sys.argv[3:]:
        try:
            found = ways[name](path)
            outcome = "passed"
            if name == "inspect" and not found["loads"]:
                outcome = "refused"
        except RightfitError:
            outcome = "refused"
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        outcomes.setdefault(path, {})[name] = outcome
    armed.clear()
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"outcomes": outcomes, "seen": seen, "rss_mb": rss / 1024, "before_mb": before / 1024}))
"""


def watched(paths, folder, *ways):
    """What came of each path by each of `ways`, and what the process touched beside `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(SOURCE), str(folder), *ways],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
