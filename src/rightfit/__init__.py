"""rightfit: a folder of labelled images in; a ResNet you can trust out.

import rightfit
rightfit.check("photos/")
run = rightfit.train("photos/", model="resnet50", image_size=150, epochs=100)
run.evaluate()
run.predict(["new/a.jpg"])
rightfit.explain(run, "new/", output="looked")
rightfit.resume("runs/photos-1")
rightfit.load("runs/photos-1").model
"""

from rightfit.api import check, compare, explain, inspect, load, neighbours, report, resume, suspects, train
from rightfit.errors import (
    BackendError,
    DataError,
    ImageError,
    ModelFileError,
    RightfitError,
    RunError,
    UsageError,
    WriteError,
)
from rightfit.run import Run

__all__ = [
    "BackendError", "DataError", "ImageError", "ModelFileError", "RightfitError", "Run", "RunError", "UsageError",
    "WriteError", "check", "compare", "explain", "inspect", "load", "neighbours", "report", "resume", "suspects",
    "train",
]  # fmt: skip
