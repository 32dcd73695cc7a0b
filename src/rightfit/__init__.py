"""rightfit: a folder of labelled images in; a ResNet you can trust out.

import rightfit
rightfit.check("photos/")
run = rightfit.train("photos/", model="resnet50", image_size=150, epochs=100)
run.evaluate()
run.predict(["new/a.jpg"])
rightfit.explain(run, "new/", output="looked")
rightfit.tune("photos/", time_limit="2h")
rightfit.resume("runs/photos-1")
rightfit.load("runs/photos-1").model
"""

from rightfit.api import (
    check,
    compare,
    diagnose,
    explain,
    inspect,
    learning_curve,
    load,
    neighbours,
    predict_many,
    relocate,
    report,
    resume,
    suspects,
    train,
    tune,
)
from rightfit.errors import (
    ArchitectureError,
    BackendError,
    DataError,
    ImageError,
    ModelFileError,
    RightfitError,
    RunError,
    UsageError,
    WriteError,
)
from rightfit.exchange import (
    convert,
    from_json,
    from_yaml,
    load_model,
    load_weights,
    open_saved_model,
    save_weights,
    to_json,
    to_yaml,
)
from rightfit.run import Run

__all__ = [
    "ArchitectureError", "BackendError", "DataError", "ImageError", "ModelFileError", "RightfitError", "Run",
    "RunError", "UsageError", "WriteError", "check", "compare", "convert", "diagnose", "explain", "from_json",
    "from_yaml", "inspect", "learning_curve", "load", "load_model", "load_weights", "neighbours", "open_saved_model",
    "predict_many", "relocate", "report", "resume", "save_weights", "suspects", "to_json", "to_yaml", "train", "tune",
]  # fmt: skip
