"""A TensorFlow SavedModel in, a layer to predict with out. It is a program: it runs only where it is trusted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from rightfit.errors import BackendError, ModelFileError, UsageError
from rightfit.formats.judged import strange_operations
from rightfit.formats.model_file import opened

WORKING = ("tensorflow", "jax")
METADATA = "keras_metadata.pb"
SHOWN = 5


def open_saved_model(
    path: str | os.PathLike[str], *, trusted: bool = False, endpoint: str = "serving_default"
) -> Any:
    """A Keras layer that predicts by the SavedModel's function `endpoint`; its outputs are as the function names them.

    A SavedModel's graph may read and write any file that this process may. UsageError unless `trusted`, which names the
    operations that reach outside; BackendError on PyTorch; ModelFileError when it is no SavedModel or has no such
    function.
    """
    place = Path(path)
    with opened(place) as file:
        if file.kind != "saved model":
            raise ModelFileError(f"{place} is of the kind {file.kind!r}, not a SavedModel")
        outside = strange_operations(file.calls)
    if not trusted:
        what = f" It asks for {', '.join(outside[:SHOWN])}." if outside else ""
        raise UsageError(
            f"{place} is a TensorFlow SavedModel, a program that runs with your rights.{what} Where you know whose it "
            "is, say trusted=True"
        )
    if keras.backend.backend() not in WORKING:
        raise BackendError(f"{place}: a SavedModel runs on the backends {' and '.join(WORKING)} alone")
    try:
        return keras.layers.TFSMLayer(str(place), call_endpoint=endpoint)
    except (ValueError, OSError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise ModelFileError(f"{place}: TensorFlow cannot open it for prediction: {reason[:200]}") from error


def hint(path: Path) -> str:
    """What can be done with a SavedModel, in one sentence."""
    if (path / METADATA).is_file():
        return (
            "Keras wrote it: where its maker still has TensorFlow 2.15 or tf-keras, "
            f"tf_keras.models.load_model({str(path)!r}).save('old.h5') makes a file that converts"
        )
    return "`rightfit.open_saved_model(path, trusted=True)` predicts with one that you trust"
