"""One optimisation step, whatever the backend: a batch and two scalars in, updated weights out.

What every backend's step does alike: parts of a batch, sums, and its whole state by name. Who owns the
variables differs, which is what training/backend_steps.py is for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from rightfit.data.loader import Batch
from rightfit.errors import RunError
from rightfit.training.losses import hits, losses
from rightfit.training.workers import ALONE, Workers


class Step:
    """What the loop sees: call it with a batch; `totals()` of the epoch so far; `weights()` to keep.

    `state()` is all that the next call depends on besides its arguments, by names that are the same in
    every process and on every backend; `restore()` puts it back, bit for bit.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        label_mode: str,
        averaging: bool,
        rates: Mapping[str, float] | None = None,
        workers: Workers = ALONE,
    ) -> None:
        self.workers = workers
        self.model = model
        self.optimizer = optimizer
        self.label_mode = label_mode
        self.averaging = averaging
        of = {id(v): (rates or {}).get(layer.name, 1.0) for layer in model.layers for v in layer.weights}
        self.rates = [of[id(v)] for v in model.trainable_variables]  # flat models only: all have a layer
        self.averaged_variables = [v for v in model.variables if "float" in str(v.dtype)]
        self.count = 0  # steps since the sums began
        self.micro = 0  # images a gradient is taken of at a time, where memory is short; 0 is the whole batch
        self.setup()

    def setup(self) -> None:
        raise NotImplementedError

    def __call__(self, batch: Batch, learning_rate: float, decay: float | None) -> None:
        """Take one step, then move the averaged weights by 1 - `decay`; None leaves them.

        With `micro` the gradient is the sum of those of parts of the batch, each by its share of the images:
        the whole batch's to rounding, but that batch normalisation normalises each part by its own statistics.
        """
        raise NotImplementedError

    def decay_by(self, weight_decay: float) -> None:
        """From now on; nothing where the optimizer was made without."""
        if isinstance(self.optimizer.weight_decay, keras.Variable):
            self.optimizer.weight_decay.assign(weight_decay)

    def totals(self) -> NDArray[np.float64]:
        """(3,): sum of losses, of hits, and number of images since `begin`. Waits for the device.

        Asking changes nothing: what is reported never depends on who looked on the way.
        """
        raise NotImplementedError

    def begin(self) -> None:
        """An epoch begins: sums from zero."""
        self.count = 0
        self._set_sums(np.zeros(3), np.zeros(3, np.float32))

    def weights(self, averaged: bool = True) -> list[NDArray[Any]]:
        """The weights in the order of `model.get_weights()`; the averaged ones when there are any."""
        raise NotImplementedError

    def state(self) -> dict[str, NDArray[Any]]:
        """Copies of everything that changes from step to step: all variables of the model, those of layers'
        random generators too, the optimizer's, the averaged weights, and the sums with their count."""
        model, slots, average = self._values()
        found = {f"model/{name}": value for name, value in zip(self._names(), model, strict=True)}
        found |= {f"optimizer/{index:04d}": value for index, value in enumerate(slots)}
        found |= {f"average/{index:04d}": value for index, value in enumerate(average)}
        return found | self._sums_state() | {"sums/count": np.array(self.count, np.int64)}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a `state()`, of this backend or another. Raises RunError when it does not fit."""
        current = self.state()
        own = {name for name in current if not name.startswith("sums/")}
        given = {name for name in state if name.startswith(("model/", "optimizer/", "average/"))}
        wrong = sorted(own ^ given) or [n for n in sorted(own) if current[n].shape != state[n].shape]
        if wrong or not {"sums/total", "sums/device", "sums/count"} <= set(state):
            what = (
                f"{wrong[0]} is missing, left over or of another shape" if wrong else "its sums are missing"
            )
            raise RunError(f"the state of training does not fit this model and its optimizer: {what}")
        self.count = int(state["sums/count"])
        self._set_sums(state["sums/total"], state["sums/device"])

        def values(kind: str) -> list[NDArray[Any]]:
            return [state[name].astype(v.dtype) for name, v in current.items() if name.startswith(f"{kind}/")]

        self._assign(values("model"), values("optimizer"), values("average"))

    def _names(self) -> list[str]:
        """Of `self.model.variables`; by place in their layer, as generators' own names count up in a process."""
        of = {
            id(v): f"{layer.name}/{index}/{v.name}"
            for layer in self.model.layers
            for index, v in enumerate(layer.variables)
        }
        return [of[id(v)] for v in self.model.variables]

    def _values(self) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
        """Copies of the model's, the optimizer's and the averaged variables."""
        raise NotImplementedError

    def _assign(self, model: list[Any], slots: list[Any], average: list[Any]) -> None:
        raise NotImplementedError

    def _sums_state(self) -> dict[str, NDArray[Any]]:
        """`total` in float64, and `device`, what a device that sums in float32 has not handed over yet."""
        return {"sums/total": self.totals(), "sums/device": np.zeros(3, np.float32)}

    def _set_sums(self, total: NDArray[np.float64], device: NDArray[np.float32]) -> None:
        raise NotImplementedError

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """Parts of at most `micro` images, of one size to within an image, each with its share of the batch."""
        count = len(batch.images)
        pieces = -(-count // self.micro) if self.micro else 1
        ends = [count * index // pieces for index in range(pieces + 1)]
        for start, end in pairwise(ends):
            part = slice(start, end)
            yield Batch(batch.images[part], batch.targets[part], batch.weights[part]), (end - start) / count

    def _scaled(self, gradients: list[Any]) -> list[Any]:
        pairs = zip(gradients, self.rates, strict=True)
        return [gradient if rate == 1.0 else gradient * rate for gradient, rate in pairs]

    def _objective(self, logits: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        """Mean weighted loss, and the three sums of `totals`."""
        each = losses(logits, targets, self.label_mode)
        right = ops.sum(hits(logits, targets, self.label_mode))
        sums = ops.stack([ops.sum(each), right, ops.cast(ops.shape(each)[0], "float32")])
        return ops.mean(each * weights), sums
