"""Batches as a function of (seed, epoch, step): rows of the store in, augmented images and targets out."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rightfit.data.augment import Draws, DrawsOfPart, Policy, augment, mix, smooth

T = TypeVar("T")

# Words that keep the streams of random numbers apart: default_rng([seed, WORD, ...]).
ORDER, AUGMENT = 1, 2


class Images(Protocol):
    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]: ...


class Targets(Protocol):
    """(N, outputs) float32, or what is read like that."""

    def __getitem__(self, rows: NDArray[np.int64] | slice, /) -> NDArray[np.float32]: ...


class Batch(NamedTuple):
    images: NDArray[np.uint8]  # (B, H, W, 3)
    targets: NDArray[np.float32]  # (B, outputs)
    weights: NDArray[np.float32]  # (B,)


@dataclass(frozen=True)
class TrainLoader:
    """Training batches, all of one size.

    The images are dealt from one permutation after the other without a gap: a batch that the end
    of a pass leaves short is filled from the next pass, so over any number of steps every image is
    seen equally often to within one. An epoch is `steps` = ceil(images / batch size) batches.
    """

    images: Images
    rows: NDArray[np.int64]  # the training rows of the store
    targets: Targets  # (len(rows), outputs)
    weights: NDArray[np.float32]  # (len(rows),)
    batch_size: int
    seed: int
    policy: Policy
    # (len(rows),) of images that belong together, such as a patient's
    groups: NDArray[np.int64] | None = None
    smoothing: float = 0.0  # share of each target spread over all answers
    exclusive: bool = True  # one answer is right, so that targets sum to 1
    part: slice | None = None  # of each batch, the images that this process makes; None is all of them

    @property
    def steps(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def positions(self, epoch: int, step: int) -> NDArray[np.int64]:
        """(batch_size,) positions in `rows` of one batch; epoch and step count from 0."""
        count = len(self.rows)
        start = (epoch * self.steps + step) * self.batch_size
        places = np.arange(start, start + self.batch_size)
        chosen = np.empty(self.batch_size, dtype=np.int64)
        for dealt in np.unique(places // count):
            here = places // count == dealt
            chosen[here] = _permutation(self.seed, int(dealt), count)[places[here] % count]
        return chosen

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch, or `part` of it: the same images, changed alike, as in the whole one."""
        positions = self.positions(epoch, step)
        generator = np.random.default_rng([self.seed, AUGMENT, epoch, step])
        part = self.part
        if part is None:
            return self._made(positions, generator, generator)
        if self.policy.mix:  # an image may be mixed with any other of the batch
            images, targets, weights = self._made(positions, generator, generator)
            return Batch(images[part], targets[part], weights[part])
        return self._made(positions[part], DrawsOfPart(generator, len(positions), part), generator)

    def _made(self, positions: NDArray[np.int64], draws: Draws, generator: np.random.Generator) -> Batch:
        images = augment(self.images.gather(self.rows[positions]), draws, self.policy)
        targets, weights = self.targets[positions], self.weights[positions]
        if self.policy.mix:
            images, targets, weights = mix(images, targets, weights, generator, self.policy.mix)
        if self.smoothing:
            targets = smooth(targets, self.smoothing, self.exclusive)
        return Batch(images, targets, weights)

    def epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """The batches of one epoch from step `start`, made ahead of their use."""
        return prefetch(functools.partial(self.batch, epoch, step) for step in range(start, self.steps))


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, dealt: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, ORDER, dealt]).permutation(count)


def every_image_once(
    images: Images, rows: NDArray[np.int64], batch_size: int
) -> Generator[NDArray[np.uint8], None, None]:
    """(B, H, W, 3) batches of `rows` in order, each row once; only the last may be smaller."""
    starts = range(0, len(rows), batch_size)
    return prefetch(functools.partial(images.gather, rows[s : s + batch_size]) for s in starts)


def prefetch(makers: Iterable[Callable[[], T]], ahead: int = 4, workers: int = 2) -> Generator[T, None, None]:
    """Call `makers` on threads, up to `ahead` of the consumer, and yield the results in order."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rightfit-loader")
    pending: deque[Future[T]] = deque()
    try:
        for maker in makers:
            pending.append(pool.submit(maker))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        pool.shutdown(wait=True)
