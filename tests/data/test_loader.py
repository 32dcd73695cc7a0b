"""A batch is a function of (seed, epoch, step); every image is seen equally often; prefetching changes nothing."""

import itertools
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rightfit.data.augment import POLICIES
from rightfit.data.loader import TrainLoader, every_image_once, prefetch

# The machine may be busy.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Numbered:
    """Images whose grey level is their row."""

    def __init__(self):
        self.asked = []

    def gather(self, rows):
        self.asked.append(rows)
        return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 8, 8, 3)).copy()


def loader(count=23, batch_size=5, seed=0, policy="strong", images=None):
    rows = np.arange(count, dtype=np.int64)[::-1] + 7  # not the same as positions
    targets = np.arange(count, dtype=np.float32)[:, None]
    return TrainLoader(
        images or Numbered(), rows, targets, (targets[:, 0] + 1) / 10, batch_size, seed, POLICIES[policy]
    )


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def loaders_alive():
    return [t for t in threading.enumerate() if t.name.startswith("rightfit-loader")]


def test_a_batch_depends_on_its_coordinates_and_nothing_else():
    coordinates = list(itertools.product(range(3), range(5)))
    there = {place: loader().batch(*place) for place in coordinates}
    one = loader()
    back = {place: one.batch(*place) for place in reversed(coordinates)}
    assert all(same(there[place], back[place]) for place in coordinates)


def test_prefetched_or_not_the_batches_are_the_same():
    one = loader()
    for epoch in range(3):
        ahead = list(one.epoch(epoch))
        assert len(ahead) == one.steps == 5
        assert all(same(batch, one.batch(epoch, step)) for step, batch in enumerate(ahead))


def test_no_two_batches_and_no_two_seeds_are_augmented_alike():
    """Of one flat image only the augmentation differs."""

    class One:
        def gather(self, rows):
            return (
                np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8).repeat(len(rows), 0)
            )

    seen = [
        loader(10, 5, seed, images=One()).batch(epoch, step).images.tobytes()
        for seed, epoch, step in itertools.product(range(3), range(3), range(2))
    ]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("seeds", [(0, 1), (0, 2**40)])
def test_different_seeds_deal_in_different_orders(seeds):
    first, second = (np.concatenate([loader(seed=s).positions(0, i) for i in range(4)]) for s in seeds)
    assert not np.array_equal(first, second)


def test_different_passes_deal_in_different_orders():
    one = loader(count=20, batch_size=5)
    first, second = (np.concatenate([one.positions(epoch, i) for i in range(4)]) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert not np.array_equal(first, second)


@unhurried
@given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 5), st.integers(1, 40))
def test_over_any_number_of_steps_every_image_is_seen_equally_often_to_within_one(
    count, batch_size, seed, steps
):
    one = loader(count, batch_size, seed)
    dealt = [one.positions(*divmod(step, one.steps)) for step in range(steps)]
    assert {len(positions) for positions in dealt} == {batch_size}
    seen = np.bincount(np.concatenate(dealt), minlength=count)
    assert len(seen) == count
    assert seen.max() - seen.min() <= 1


def test_all_batches_have_the_same_size_and_images_keep_their_targets_and_weights():
    one = loader(policy="none")
    for batch in itertools.chain(one.epoch(0), one.epoch(1)):
        assert batch.images.shape == (5, 8, 8, 3)
        assert batch.targets.shape == (5, 1)
        assert batch.weights.shape == (5,)
        position = batch.targets[:, 0]
        assert np.array_equal(batch.images[:, 0, 0, 0], 7 + 22 - position)
        assert np.array_equal(batch.weights, (position + 1) / 10)


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_resumed_at_a_step_is_the_tail_of_the_whole_one(start):
    whole, tail = list(loader().epoch(2)), list(loader().epoch(2, start=start))
    assert len(tail) == 5 - start
    assert all(same(a, b) for a, b in zip(whole[start:], tail, strict=True))


@pytest.mark.parametrize("count, batch_size", [(10, 3), (9, 3), (2, 5), (1, 1), (0, 4)])
def test_every_image_once_in_order(count, batch_size):
    rows = np.random.default_rng(0).permutation(count) + 5
    batches = list(every_image_once(Numbered(), rows, batch_size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    seen = np.concatenate([batch[:, 0, 0, 0] for batch in batches]) if batches else np.empty(0)
    assert np.array_equal(seen, rows)


def test_prefetch_keeps_the_order_when_later_ones_are_done_first():
    def maker(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number

    makers = (lambda n=n: maker(n) for n in range(20))
    assert list(prefetch(makers, ahead=5, workers=4)) == list(range(20))


def test_prefetch_works_on_several_threads_at_once():
    both_here = threading.Barrier(2, timeout=10)
    assert len(list(prefetch([both_here.wait] * 2, workers=2))) == 2


def test_prefetch_raises_the_workers_error_in_its_turn_and_stops():
    def broken():
        raise OSError("row 3 is gone")

    makers = [lambda: 0, lambda: 1, lambda: 2, broken, *[lambda: 4] * 50]
    seen = []
    with pytest.raises(OSError, match="row 3 is gone"):
        for value in prefetch(makers):
            seen.append(value)
    assert seen == [0, 1, 2]
    assert loaders_alive() == []


def test_prefetch_raises_the_error_of_what_makes_the_makers():
    def makers():
        yield lambda: 0
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(prefetch(makers()))
    assert loaders_alive() == []


def test_an_abandoned_prefetch_stops_its_threads_and_starts_nothing_more():
    started = []
    batches = prefetch((lambda n=n: started.append(n) for n in range(1000)), ahead=4, workers=2)
    next(batches)
    assert loaders_alive() != []
    batches.close()
    assert loaders_alive() == []
    so_far = len(started)
    time.sleep(0.05)
    assert len(started) == so_far <= 5


def test_what_was_not_begun_when_a_prefetch_is_abandoned_never_is():
    begun, go_on = [], threading.Event()

    def maker(number):
        begun.append(number)
        if number:
            go_on.wait(10)

    batches = prefetch((lambda n=n: maker(n) for n in range(9)), ahead=4, workers=1)
    next(batches)
    while len(begun) < 2:
        time.sleep(0.001)
    threading.Timer(0.05, go_on.set).start()
    batches.close()
    assert begun == [0, 1]


@pytest.mark.parametrize("ahead, workers", [(1, 1), (4, 2), (3, 8)])
def test_prefetch_runs_ahead_of_the_consumer_but_no_further_than_it_was_told(ahead, workers):
    started = []
    batches = prefetch((lambda n=n: started.append(n) for n in range(40)), ahead, workers)
    furthest = 0
    for taken, _ in enumerate(batches, start=1):
        time.sleep(0.002)
        furthest = max(furthest, len(started) - taken)
        assert len(started) - taken <= ahead + workers
    assert furthest > 0
    assert len(started) == 40
