"""A line through errors: exact where errors are a power of the number of images, and as unsure as they scatter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.evaluation.power_law import forecasts

IMAGES = [250, 250, 500, 500, 1000]


@given(st.floats(0.01, 1), st.floats(0, 0.8))
def test_errors_that_are_a_power_of_the_images_are_carried_on_without_doubt(factor, exponent):
    errors = [factor * (count / IMAGES[0]) ** -exponent for count in IMAGES]
    for ahead in forecasts(IMAGES, errors, [1000, 2000, 4000], one=1e-12):
        law = 1 - factor * (ahead.images / IMAGES[0]) ** -exponent
        assert (ahead.low, ahead.accuracy, ahead.high) == pytest.approx((law, law, law), abs=1e-8)


def test_a_further_net_is_within_the_interval_as_often_as_it_says():
    generator = np.random.default_rng(1)
    within = []
    for _ in range(2000):
        truth = 0.3 * (np.array([*IMAGES, 2000]) / 250) ** -0.3
        errors = truth * np.exp(generator.normal(0, 0.05, 6))
        (ahead,) = forecasts(IMAGES, errors[:5], [2000], one=1e-4)
        within.append(ahead.low <= 1 - errors[5] <= ahead.high)
    assert 0.935 < np.mean(within) < 0.965


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_an_accuracy_is_between_0_and_1_and_never_certain(errors):
    for ahead in forecasts(IMAGES, errors, [2000, 4000], one=0.01):
        assert 0 <= ahead.low <= ahead.accuracy <= ahead.high <= 1
        assert ahead.low < ahead.high or ahead.low in (0, 1)
    (perfect,) = forecasts(IMAGES, [0.0] * 5, [2000], one=0.01)
    assert perfect.low < 0.99 and perfect.accuracy == perfect.high == 1
