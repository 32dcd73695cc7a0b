"""A range test suggests a rate below where steps diverge, wherever that is, and none where nothing is learnt."""

from types import SimpleNamespace

import numpy as np
import pytest

from rightfit.training.range_test import SAFE, WINDOW, range_test, smoothed


class Step:
    """The loss is 2 and what is left of a noisy distance; rates over twice `best` throw it further away."""

    def __init__(self, best, slope=1.0, noise=0.05):
        self.away, self.sum, self.best, self.slope, self.noise = 1.0, 0.0, best, slope, noise
        self.drawn = np.random.default_rng(0)

    def begin(self):
        self.sum = 0.0

    def __call__(self, batch, rate, decay):
        assert decay is None
        self.sum += 4 * (2 + self.slope * self.away**2 + self.noise * self.drawn.normal())
        self.away *= 1 - rate / self.best
        self.away += 0.1 * self.drawn.normal()

    def totals(self):
        return np.array([self.sum, 0, 0])


LOADER = SimpleNamespace(steps=5, batch_size=4, batch=lambda epoch, step: (epoch, step))


def outcome(step, low=1e-5, high=10.0, steps=100, check=lambda: None):
    return range_test(step, LOADER, low, high, steps, check)


@pytest.mark.parametrize("best", [0.003, 0.05, 1.0])
def test_what_is_suggested_follows_where_steps_diverge(best):
    found = outcome(Step(best))
    assert 0.1 * best < found.suggested * SAFE < 6 * best, (
        "near twice `best`, and the few steps that it takes to leap"
    )
    assert len(found.rates) == len(found.losses) < 100 or best == 1.0, "it stops once the loss has leapt"


def test_where_no_rate_lowers_the_loss_none_is_suggested():
    assert outcome(Step(0.05, slope=0.0)).suggested is None
    assert outcome(Step(1e9)).suggested is None, "all are far too low"
    assert outcome(Step(1e-7)).suggested is None, "all are far too high"
    assert outcome(Step(0.05), steps=WINDOW).suggested is None, "too few steps to tell"


def test_a_loss_that_is_no_number_ends_it():
    step = Step(0.05)
    step.drawn = type("Lost", (), {"normal": lambda self: float("nan")})()
    found = outcome(step)
    assert found.rates == found.losses == [] and found.suggested is None


def test_it_can_be_broken_off_at_any_step():
    seen = []

    def check():
        seen.append(1)
        if len(seen) > 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outcome(Step(0.05), check=check)
    assert len(seen) == 8


def test_means_are_of_the_steps_around():
    values = np.arange(30.0)
    assert smoothed(values)[10:20] == pytest.approx(values[10:20])
    assert smoothed(values)[0] == pytest.approx(values[: WINDOW // 2 + 1].mean())
    assert smoothed(values[:3]).shape == (3,) and smoothed(values[:0]).shape == (0,)
