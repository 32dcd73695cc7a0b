"""Wilson's interval, the cluster-robust one and Efron's bootstrap: by formula, by simulation, by a naive twin."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from rightfit.evaluation.intervals import bootstrap, group_sums, half_width, open_ends

SETS = 300
# Of 300 intervals that cover with probability 0.95, between 270 and 297 do (0.90 to 0.99) in all
# but one simulation of 2,000.
COVERAGE = (0.90, 0.99)

# The machine may be busy.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mean_of(sums):
    return sums[:, 1:] / sums[:, :1]


def columns_of(values):
    return np.column_stack([np.ones(len(values)), values])


@unhurried
@given(count=st.integers(1, 3000), share=st.floats(0, 1))
def test_of_right_and_wrong_answers_it_is_half_of_wilsons_interval(count, share):
    right = round(share * count)
    values = np.repeat([1.0, 0.0], [right, count - right])
    wilson = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert np.isclose(half_width(values), (wilson.high - wilson.low) / 2, rtol=1e-4)


def test_it_is_above_zero_when_every_answer_is_right():
    assert half_width(np.ones(10)) > 0.1


def test_of_nothing_it_is_not_a_number():
    assert np.isnan(half_width(np.empty(0)))
    assert np.isnan(half_width(np.empty(0), np.empty(0, np.int64)))


def test_of_a_single_group_it_is_not_a_number():
    assert np.isnan(half_width(np.array([0.0, 1.0, 1.0]), np.zeros(3, np.int64)))


@unhurried
@given(seed=st.integers(0, 1000), count=st.integers(2, 500))
def test_of_other_numbers_it_is_the_standard_error_of_the_mean(seed, count):
    values = np.random.default_rng(seed).gamma(2.0, 1.0, count)
    expected = 1.96 * values.std(ddof=1) / np.sqrt(count)
    assert np.isclose(half_width(values), expected)
    assert np.isclose(half_width(values, np.arange(count)), expected), "each image its own group"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_without_groups_it_covers_the_truth_in_95_of_100(share):
    generator = np.random.default_rng(1)
    sets = (generator.random((SETS, 200)) < share).astype(float)
    covered = np.mean([abs(values.mean() - share) <= half_width(values) for values in sets])
    assert COVERAGE[0] < covered < COVERAGE[1]


def patients(generator, correlation, groups=60):
    """0/1 answers of patients with 1 to 7 images: with `correlation` 1 all images of one agree; mean 0.7."""
    sizes = generator.integers(1, 8, groups)
    of_group = np.repeat(np.arange(groups), sizes)
    together = (generator.random(groups) < 0.7)[of_group]
    alone = generator.random(len(of_group)) < 0.7
    return np.where(generator.random(len(of_group)) < correlation, together, alone).astype(float), of_group


@pytest.mark.parametrize("correlation", [0.0, 0.5, 1.0])
def test_with_groups_it_covers_the_truth_in_95_of_100(correlation):
    generator = np.random.default_rng(2)
    covered = []
    for _ in range(SETS):
        values, groups = patients(generator, correlation)
        covered.append(abs(values.mean() - 0.7) <= half_width(values, groups))
    assert COVERAGE[0] < np.mean(covered) < COVERAGE[1]


def test_images_that_agree_within_groups_would_not_be_covered_without_them():
    """The simulation above can fail: left out of account, groups cost most of the coverage."""
    generator = np.random.default_rng(2)
    sets = [patients(generator, 1.0)[0] for _ in range(SETS)]
    assert np.mean([abs(values.mean() - 0.7) <= half_width(values) for values in sets]) < 0.80


def test_it_widens_as_the_images_of_a_group_agree_more():
    def mean_width(correlation):
        generator = np.random.default_rng(3)
        return np.mean([half_width(*patients(generator, correlation)) for _ in range(50)])

    apart, some, alike = map(mean_width, (0.0, 0.7, 1.0))
    assert apart < some < alike
    assert alike > 1.5 * apart


def test_the_order_of_images_and_the_names_of_groups_do_not_matter():
    values, groups = patients(np.random.default_rng(4), 0.8)
    order = np.random.default_rng(5).permutation(len(values))
    assert np.isclose(half_width(values, groups), half_width(values[order], 1000 - 7 * groups[order]))


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_every_image_within_its_group_change_no_interval(copies):
    values, groups = patients(np.random.default_rng(6), 0.5)
    more, of_more = np.repeat(values, copies), np.repeat(groups, copies)
    assert np.isclose(half_width(values, groups), half_width(more, of_more))
    once = bootstrap(columns_of(values), mean_of, groups)
    assert np.allclose(once, bootstrap(columns_of(more), mean_of, of_more))


def test_columns_are_summed_over_the_images_of_a_group():
    sums, sizes = group_sums(np.array([[1.0, 10], [2, 20], [4, 40]]), np.array([9, 3, 9]))
    assert np.array_equal(sums, [[2, 20], [5, 50]])
    assert np.array_equal(sizes, [1, 2])


def naive_bootstrap(values, groups, resamples, generator):
    """Draw groups with replacement, put their images together, take the mean; nothing clever."""
    members = [values[groups == g] for g in np.unique(groups)]
    draws = generator.integers(0, len(members), (resamples, len(members)))
    return [np.concatenate([members[i] for i in draw]).mean() for draw in draws]


@pytest.mark.parametrize("grouped", [True, False])
def test_the_bootstrap_is_that_of_drawing_groups_and_starting_over(grouped):
    values, groups = patients(np.random.default_rng(7), 0.8)
    if not grouped:
        groups = np.arange(len(values))
    values = values + np.random.default_rng(8).normal(0, 0.2, len(values))
    drawn = naive_bootstrap(values, groups, 4000, np.random.default_rng(9))
    low, high = bootstrap(columns_of(values), mean_of, groups if grouped else None, resamples=20_000)[:, 0]
    # An estimated 2.5 % quantile of n normal draws has the standard error 2.67 deviations / sqrt(n).
    error = 2.67 * np.std(drawn) * np.sqrt(1 / 4000 + 1 / 20_000)
    assert abs(low - np.quantile(drawn, 0.025)) < 4 * error
    assert abs(high - np.quantile(drawn, 0.975)) < 4 * error
    assert error < 0.05 * (high - low), "the limits above are tighter than the interval by far"


def test_the_bootstrap_agrees_with_the_normal_approximation_on_many_images():
    values = np.random.default_rng(10).gamma(4.0, 1.0, 4000)
    low, high = bootstrap(columns_of(values), mean_of)[:, 0]
    assert np.isclose((high - low) / 2, half_width(values), rtol=0.08)


def test_the_bootstrap_covers_the_truth_in_95_of_100():
    generator = np.random.default_rng(11)
    covered = []
    for _ in range(SETS):
        values, groups = patients(generator, 0.8)
        low, high = bootstrap(columns_of(values), mean_of, groups, resamples=500)[:, 0]
        covered.append(low <= 0.7 <= high)
    assert COVERAGE[0] < np.mean(covered) < COVERAGE[1]


def test_the_bootstrap_repeats_by_its_seed():
    values, groups = patients(np.random.default_rng(12), 0.5)
    first, again, other = (bootstrap(columns_of(values), mean_of, groups, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_drawing_in_parts_draws_all_of_them():
    """Over 4 million counts are drawn in more than one part."""
    shapes = []

    def statistic(sums):
        shapes.append(len(sums))
        return mean_of(sums)

    low, high = bootstrap(columns_of(np.arange(5000.0)), statistic, resamples=1700)[:, 0]
    assert len(shapes) > 1
    assert sum(shapes) == 1700
    assert low < 2499.5 < high


def test_resamples_without_a_number_are_left_out():
    """A class with one image is missing from a third of the resamples."""
    values = np.array([1.0, 0, 0, 0, 0, 0])

    def statistic(sums):
        return np.where(sums[:, 1:] > 0, 5.0, np.nan)

    assert np.array_equal(bootstrap(columns_of(values), statistic), [[5.0], [5.0]])


def test_a_share_that_no_resample_can_change_still_has_an_open_end():
    values, draws = np.array([1.0, 0.0, 0.5, 1.0]), np.array([5.0, 5.0, 5.0, 0.0])
    low, high = open_ends(values, values.copy(), values.copy(), draws)
    wilson = 1.96**2 / (5 + 1.96**2)
    assert np.allclose(low, [1 - wilson, 0.0, 0.5, 1.0])
    assert np.allclose(high, [1.0, wilson, 0.5, 1.0])
