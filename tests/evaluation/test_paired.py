"""Differences on the same images: McNemar's exact p, an interval that holds the truth, images enough to see it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rightfit.comparing import sentence
from rightfit.evaluation.paired import Difference, difference, mcnemar

unhurried = settings(max_examples=40, deadline=None)


@given(only_a=st.integers(0, 60), only_b=st.integers(0, 60), both=st.integers(0, 50))
@unhurried
def test_mcnemar_is_the_binomial_test_of_those_that_differ(only_a, only_b, both):
    a = np.repeat([True, False, True], [only_a, only_b, both])
    b = np.repeat([False, True, True], [only_a, only_b, both])
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert math.isclose(mcnemar(a, b)["p"], expected, rel_tol=1e-9)


def pairs(generator, count=300, better=0.05, patients=None):
    """Answers of two models to the same images, hard ones hard for both, of which B gets `better` more right."""
    index = np.arange(count) if patients is None else np.arange(count) % patients
    hard = generator.random(index.max() + 1)[index]
    a, b = (hard + generator.normal(0, 0.1, count) < 0.7 + more for more in (0, better))
    return a.astype(float), b.astype(float), index


@pytest.mark.parametrize("patients", [None, 100])
def test_the_interval_holds_the_true_difference_in_95_of_100(patients):
    generator = np.random.default_rng(0)
    a, b, _ = pairs(generator, 400_000, patients=None)
    truth = (b - a).mean()
    held = []
    for _ in range(200):
        a, b, groups = pairs(generator, patients=patients)
        found = difference(a, b, groups)
        held.append(found.low <= truth <= found.high)
    assert 0.89 < np.mean(held) <= 1


def test_the_same_answers_do_not_differ_and_no_number_of_images_would_show_it():
    a = (np.arange(50) % 3 > 0).astype(float)
    assert difference(a, a) == Difference(0, 0, 0, None)
    assert not difference(a, a).seen


def test_exchanging_the_runs_turns_the_sign():
    a, b, groups = pairs(np.random.default_rng(1))
    there, back = difference(a, b, groups), difference(b, a, groups)
    assert np.allclose((there.value, there.low, there.high), (-back.value, -back.high, -back.low))


def test_as_many_images_as_are_said_show_the_difference_in_four_of_five_data_sets():
    generator = np.random.default_rng(2)
    a, b, _ = pairs(generator, 20_000, better=0.04)
    needed = difference(a, b).images
    seen = [difference(*pairs(generator, needed, better=0.04)[:2]).seen for _ in range(200)]
    assert 0.70 < np.mean(seen) < 0.90


def test_the_sentence_says_better_only_where_it_can_be_told():
    better = Difference(0.012, 0.003, 0.021, 4000)
    assert sentence("runs/b", better, 0.01, True, 500) == (
        "runs/b is better by 1.2 points of accuracy (0.3 to 2.1; McNemar p = 0.01)"
    )
    worse = Difference(-0.012, -0.021, -0.003, 4000)
    assert "worse by 1.2 points of accuracy (0.3 to 2.1" in sentence("runs/b", worse, 0.01, True, 500)
    unclear = sentence("runs/b", Difference(0.004, -0.005, 0.013, 9000), 0.4, False, 500)
    assert unclear.startswith("cannot be told apart: runs/b +0.4 points of accuracy (-0.5 to +1.3")
    assert unclear.endswith("about 9,000 images would show a difference of this size")
