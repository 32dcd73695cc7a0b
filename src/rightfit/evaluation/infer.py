"""Images in, logits out: in inference mode, every image once, one compiled shape."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rightfit.data.loader import Images, every_image_once
from rightfit.memory import is_short

if TYPE_CHECKING:
    import keras


class Predicts(Protocol):
    """A Keras model, or an engine that stands for one."""

    input_shape: Any
    output_shape: Any

    def predict_on_batch(self, images: NDArray[np.uint8]) -> Any: ...


def all_logits(
    model: Predicts,
    images: Images,
    rows: NDArray[np.int64],
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """(len(rows), outputs) float32 logits in the order of `rows`; `on_batch` hears how many are done."""
    parts = []
    done = 0
    for batch in every_image_once(images, rows, batch_size):
        parts.append(logits_of(model, batch, batch_size))
        done += len(batch)
        if on_batch:
            on_batch(done)
    return np.concatenate(parts) if parts else np.empty((0, model.output_shape[-1]), np.float32)


def logits_of(model: Predicts, batch: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """(B, H, W, 3) uint8 -> (B, outputs), in halves where memory is too short for the whole batch."""
    try:
        return _logits_at_once(model, batch, batch_size)
    except Exception as error:  # each backend has a type of its own for memory
        if batch_size == 1 or not is_short(error):
            raise
    gc.collect()  # the error and the frames that hold its arrays are cycles; their memory is needed now
    half = -(-batch_size // 2)
    return np.concatenate([logits_of(model, batch[s : s + half], half) for s in range(0, len(batch), half)])


def _logits_at_once(model: Predicts, batch: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """A short batch is filled up, so one shape is compiled only."""
    count = len(batch)
    if count < batch_size:
        batch = np.concatenate([batch, np.zeros((batch_size - count, *batch.shape[1:]), np.uint8)])
    return np.asarray(model.predict_on_batch(batch)[:count], np.float32)


def plain_graph(model: keras.Model) -> keras.Model:
    """The same model; on TensorFlow's CPU the plain graph beats XLA at convolutions. JAX always compiles."""
    import keras

    if keras.backend.backend() == "tensorflow":
        model.jit_compile = False
    return model
