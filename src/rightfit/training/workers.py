"""The processes that train one model together: which of them this one is, and what they tell each other.

One process is the usual case: everything here then gives back what it was given. Of several, each makes its part of
every batch and holds the whole state; JAX compiles one step over all of them, which sums losses, gradients and the
statistics of batch normalisation over the whole batch, so the state stays the same in each. What depends on a clock
is decided by the first, and one alone writes files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXIS = "batch"


@dataclass(frozen=True)
class Workers:
    """This process is `number` (from 0) of `count`; several need the JAX backend, whose processes know each other."""

    number: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        return self.count == 1

    @property
    def writes(self) -> bool:
        """Does this one write checkpoints, history and decisions?"""
        return self.number == 0

    def part(self, images: int) -> slice:
        """Of so many images those of this process; parts differ by one image at most."""
        return slice(images * self.number // self.count, images * (self.number + 1) // self.count)

    def agreed(self, value: float) -> float:
        """What the first process says; to float32 where there are others. All have to ask."""
        if self.alone:
            return value
        from jax.experimental import multihost_utils

        return float(multihost_utils.broadcast_one_to_all(np.float32(value)))

    def together(self) -> None:
        """Wait until all have come here."""
        if not self.alone:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("rightfit")

    def gathered(self, mine: NDArray[np.float32], images: int) -> NDArray[np.float32]:
        """(n, outputs) of the `part` of each process -> (images, outputs) in each. All have to ask."""
        if self.alone:
            return mine
        from jax.experimental import multihost_utils

        each = [Workers(number, self.count).part(images) for number in range(self.count)]
        largest = max(part.stop - part.start for part in each)
        padded = np.zeros((largest, *mine.shape[1:]), mine.dtype)
        padded[: len(mine)] = mine
        every = np.asarray(multihost_utils.process_allgather(padded))
        return np.concatenate(
            [rows[: part.stop - part.start] for rows, part in zip(every, each, strict=True)]
        )

    # JAX's arrays -------------------------------------------------------------------------------------

    def everywhere(self, value: Any) -> Any:
        """A JAX array of its own, the whole of which each process holds; `value` is the same in all."""
        import jax
        import jax.numpy as jnp

        if self.alone:
            return jnp.copy(value)
        own = np.asarray(value)
        return jax.make_array_from_process_local_data(self.whole(), own, own.shape)

    def dealt(self, mine: NDArray[Any]) -> Any:
        """The parts of all processes as one array, whose first axis is as long as all of theirs."""
        if self.alone:
            return mine
        import jax
        from jax.sharding import NamedSharding, PartitionSpec

        by_batch = NamedSharding(self.whole().mesh, PartitionSpec(AXIS))
        return jax.make_array_from_process_local_data(by_batch, mine)

    def whole(self) -> Any:
        """JAX's word for an array that each process holds the whole of."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        return NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())


ALONE = Workers()
