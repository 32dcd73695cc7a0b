"""fit_generator, evaluate_generator and predict_generator, and the names that Keras 2 gave to metrics."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from rightfit.keras2.iterators import Iterator

OLD_NAMES = {
    "accuracy": "acc",
    "val_accuracy": "val_acc",
    "learning_rate": "lr",
}  # in logs and histories beside the new
KERAS_1 = {
    "samples_per_epoch": "steps_per_epoch",
    "nb_epoch": "epochs",
    "nb_val_samples": "validation_steps",
    "val_samples": "steps",
    "max_q_size": "max_queue_size",
    "nb_worker": "workers",
    "pickle_safe": "use_multiprocessing",
}
IMAGES = ("samples_per_epoch", "nb_val_samples", "val_samples")  # counted in images, the new ones in batches


class OldNames(keras.callbacks.Callback):
    """Puts acc, val_acc and lr into the logs, for callbacks that watch them and for the history."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            old_names = _old_names(self.model)
            logs.update({old: logs[new] for new, old in old_names.items() if new in logs and old not in logs})


def _old_names(model: keras.Model) -> dict[str, str]:
    """OLD_NAMES, and those of the accuracy of each of several outputs."""
    outputs = getattr(model, "output_names", None) or []
    if len(outputs) < 2:
        return OLD_NAMES
    of_outputs = [f"{part}{output}" for part in ("", "val_") for output in outputs]
    return OLD_NAMES | {f"{name}_accuracy": f"{name}_acc" for name in of_outputs}


def fit_generator(
    self: keras.Model,
    generator: Any,
    steps_per_epoch: int | None = None,
    epochs: int = 1,
    verbose: int = 1,
    callbacks: Any = None,
    validation_data: Any = None,
    validation_steps: int | None = None,
    class_weight: Any = None,
    max_queue_size: int = 10,
    workers: int = 1,
    use_multiprocessing: bool = False,
    shuffle: bool = True,
    initial_epoch: int = 0,
    **keras_1: Any,
) -> keras.callbacks.History:
    """Keras 2's method. `generator` and `validation_data` yield batches: PyDatasets or any iterators.

    A PyDataset is begun anew when `steps_per_epoch` is more batches than it has, as Keras 2 did.
    """
    old = _translated(keras_1, generator, validation_data)
    steps_per_epoch, epochs = old.get("steps_per_epoch", steps_per_epoch), old.get("epochs", epochs)
    validation_steps = old.get("validation_steps", validation_steps)
    workers = old.get("workers", workers)
    if class_weight is not None and not _may_have_class_weights(generator):
        if steps_per_epoch is None and isinstance(generator, Iterator):
            steps_per_epoch = len(generator)
        generator, class_weight = _weighted(generator, class_weight), None
    first = generator.served if isinstance(generator, Iterator) else 0
    batches, steps = _fed(generator, steps_per_epoch, workers, first)
    if hasattr(validation_data, "__next__") or isinstance(validation_data, keras.utils.PyDataset):
        validation_data, validation_steps = _fed(validation_data, validation_steps, workers)
    done = self.fit(
        batches,
        steps_per_epoch=steps,
        epochs=epochs,
        verbose=verbose,
        callbacks=[OldNames(), *_listed(callbacks, self)],
        validation_data=validation_data,
        validation_steps=validation_steps,
        class_weight=class_weight,
        shuffle=shuffle and batches is generator,
        initial_epoch=initial_epoch,
    )
    if isinstance(batches, _Endless) and isinstance(generator, Iterator):
        generator.served += len(done.epoch) * (steps or 0)
    return done


def evaluate_generator(
    self: keras.Model,
    generator: Any,
    steps: int | None = None,
    callbacks: Any = None,
    max_queue_size: int = 10,
    workers: int = 1,
    use_multiprocessing: bool = False,
    verbose: int = 0,
    **keras_1: Any,
) -> Any:
    """Keras 2's method: loss and metrics in the order of `metrics_names`, or the loss alone."""
    steps = _translated(keras_1, generator).get("steps", steps)
    batches, steps = _fed(generator, steps, workers)
    return self.evaluate(batches, steps=steps, callbacks=callbacks, verbose=verbose)


def predict_generator(
    self: keras.Model,
    generator: Any,
    steps: int | None = None,
    callbacks: Any = None,
    max_queue_size: int = 10,
    workers: int = 1,
    use_multiprocessing: bool = False,
    verbose: int = 0,
    **keras_1: Any,
) -> NDArray[Any]:
    """Keras 2's method: what the model says of each image, in the order in which `generator` yields them."""
    steps = _translated(keras_1, generator).get("steps", steps)
    batches, steps = _fed(generator, steps, workers)
    return self.predict(batches, steps=steps, callbacks=callbacks, verbose=verbose)


def metrics_names(self: keras.Model) -> list[str]:
    """As `evaluate` lists its numbers: loss, acc, ... (Keras 3 says loss, compile_metrics)."""
    names = []
    for metric in self.metrics:
        within = getattr(metric, "metrics", None)
        names += [metric.name] if within is None else [each.name for each in within]
    try:
        results = self.get_metrics_result()
    except ValueError:  # nothing was trained or measured yet
        results = dict.fromkeys(names)
    # As Keras 3 makes the list: what its metrics are called first, then by name what several outputs call theirs.
    listed = [name for name in names if name in results]
    listed += sorted(name for name in results if name not in names)
    old_names = _old_names(self)
    return [old_names.get(name, name) for name in listed]


def _listed(callbacks: Any, model: keras.Model) -> list[Any]:
    accuracies = [name for name in _old_names(model).values() if name.endswith("acc")]
    found = callbacks if isinstance(callbacks, (list, tuple)) else [] if callbacks is None else [callbacks]
    for callback in found:
        # Keras 3 looks for a metric of that name to know which way is better; Keras 2 read it in the name.
        if getattr(callback, "monitor", None) in accuracies and getattr(callback, "mode", None) == "auto":
            callback.mode = "max"
    return list(found)


def _translated(keras_1: dict[str, Any], generator: Any, validation: Any = None) -> dict[str, Any]:
    """Keras 1's arguments by Keras 2's names; counts of images become counts of batches."""
    found = {}
    for name, value in keras_1.items():
        if name not in KERAS_1:
            raise TypeError(f"unexpected argument {name!r}")
        if name in IMAGES and value is not None:
            size = getattr(validation if name == "nb_val_samples" else generator, "batch_size", None)
            if size is None:
                raise ValueError(
                    f"{name} counts images and the generator's batch size is unknown; give {KERAS_1[name]}"
                )
            value = -(-value // size)
        found[KERAS_1[name]] = value
    return found


def _fed(source: Any, steps: int | None, workers: int, first: int = 0) -> tuple[Any, int | None]:
    """What Keras 3 is to be given for `source`, from its batch `first` on, and for how many steps."""
    if not isinstance(source, keras.utils.PyDataset):
        return (batch for batch in source), steps  # Keras 3 takes no iterators but Python's own generators
    source.workers = max(source.workers, workers)
    if steps is None or steps == len(source):
        return source, None
    return _Endless(source, first), steps


class _Endless(keras.utils.PyDataset):
    """Pass after pass over another, for as many steps as are asked for."""

    num_batches = None

    def __init__(self, source: keras.utils.PyDataset, first: int) -> None:
        # Of ours batch i is a function of i; another's passes begin in their order, with one worker.
        super().__init__(workers=source.workers if isinstance(source, Iterator) else 1)
        self.source, self.first, self.seen = source, first, 0

    def __getitem__(self, index: int) -> Any:
        passes, place = divmod(self.first + index, len(self.source))
        if isinstance(self.source, Iterator):
            return self.source.batch(passes, place)
        while self.seen < passes:
            self.source.on_epoch_end()
            self.seen += 1
        return self.source[place]


def _may_have_class_weights(source: Any) -> bool:
    """Whether Keras 3 takes `class_weight` beside it: not beside generators, nor where images have weights."""
    return isinstance(source, keras.utils.PyDataset) and getattr(source, "sample_weight", None) is None


def _weighted(source: Any, class_weight: dict[int, float]) -> Any:
    """Batches (x, y), or (x, y, weights), with the weight of each image's class; y (B, classes) of 0 and 1, or class
    numbers (B,)."""
    for x, y, *weights in source:
        number = y.argmax(axis=-1) if y.ndim > 1 and y.shape[-1] > 1 else y.reshape(-1)
        of_class = np.array([class_weight.get(int(each), 1.0) for each in number], np.float32)
        yield x, y, of_class * weights[0] if weights else of_class
