"""Differences on the same images: McNemar's exact p, an interval that holds the truth, images enough to see it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binomtest

from rightfit.comparing import joined, judged, sentence
from rightfit.evaluation.paired import Difference, difference, mcnemar, score_interval, sign_test
from rightfit.reports.tables import of_comparison

unhurried = settings(max_examples=40, deadline=None)


@given(only_a=st.integers(0, 60), only_b=st.integers(0, 60), both=st.integers(0, 50))
@unhurried
def test_mcnemar_is_the_binomial_test_of_those_that_differ(only_a, only_b, both):
    a = np.repeat([True, False, True], [only_a, only_b, both])
    b = np.repeat([False, True, True], [only_a, only_b, both])
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert math.isclose(mcnemar(a, b)["p"], expected, rel_tol=1e-9)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
@unhurried
def test_the_sign_test_counts_images_with_more_labels_right_and_of_one_label_is_mcnemars(seed, count):
    a, b = np.random.default_rng(seed).integers(0, 4, (2, count)) / 3
    more, differ = int((b > a).sum()), int((b != a).sum())
    expected = binomtest(more, differ).pvalue if differ else 1.0
    assert math.isclose(sign_test(a, b)["p"], expected, rel_tol=1e-9)
    right = (a == 1, b == 1)
    assert sign_test(*(side.astype(float) for side in right))["p"] == mcnemar(*right)["p"]


def labels_right(*kinds):
    """(images, share of labels that A has right, share that B has) of each kind -> hits of both."""
    count, a, b = (np.array(column) for column in zip(*kinds, strict=True))
    return np.repeat(a, count), np.repeat(b, count)


def test_with_several_labels_the_test_is_of_what_the_interval_is_of():
    """B has more labels right, and fewer images without a mistake; A and B exchanged say the opposite."""
    a, b = labels_right((60, 0.5, 0.75), (20, 1.0, 0.75), (120, 1.0, 1.0))
    accuracy, name, test, told_apart = judged(a, b, None, "multilabel")
    assert (name, test["more_right_by_a"], test["more_right_by_b"]) == ("sign_test", 20, 60)
    assert accuracy.value > 0 and told_apart
    back = judged(b, a, None, "multilabel")
    assert back[0].value < 0 and back[3] and back[2]["p"] == test["p"]


def test_what_is_better_on_few_images_by_much_and_worse_on_most_is_not_called_better():
    a, b = labels_right((60, 0.0, 1.0), (140, 1.0, 0.8))
    accuracy, _, test, told_apart = judged(a, b, None, "multilabel")
    assert accuracy.low > 0 and test["p"] < 0.001 and test["more_right_by_a"] > test["more_right_by_b"]
    assert not told_apart


@given(seed=st.integers(0, 10_000), count=st.integers(1, 40))
@unhurried
def test_images_that_either_run_has_in_one_group_are_in_one_group(seed, count):
    one, other = np.random.default_rng(seed).integers(0, 12, (2, count))
    found = joined(one, other)
    for groups in (one, other):
        for number in np.unique(groups):
            assert len(np.unique(found[groups == number])) == 1
    for number in np.unique(found):  # and no more than that is joined: from one image all others are reached
        members = np.flatnonzero(found == number)
        reached = {members[0]}
        for _ in range(12):
            reached |= {m for m in members for r in reached if one[m] == one[r] or other[m] == other[r]}
        assert reached == set(members)
    assert joined(None, None) is None and np.array_equal(joined(None, one), one)


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
        found = difference(a, b, groups, shares=True)
        held.append(found.low <= truth <= found.high)
    assert 0.89 < np.mean(held) <= 1


def test_answers_that_all_agree_may_still_differ_on_as_many_images_as_tango_says():
    a = (np.arange(50) % 3 > 0).astype(float)
    same = difference(a, a, shares=True)
    allowed = 1.96**2 / (50 + 1.96**2)
    assert (same.value, same.images) == (0, None) and not same.seen
    assert np.allclose((same.low, same.high), (-allowed, allowed))
    of_patients = difference(a, a, np.arange(50) // 5, shares=True)
    assert np.isclose(of_patients.high, 1.96**2 / (10 + 1.96**2)), "ten draws, not fifty"


def by_likelihood(only_b, only_a, count):
    """Tango's interval with the likelihood maximised on a grid, given the difference that is supposed."""
    value = (only_b - only_a) / count
    both = count - only_a - only_b

    def score(supposed):
        q = np.linspace(max(0, -supposed), (1 - supposed) / 2, 20_002)[1:-1]
        likelihood = sum(
            n * np.log(p) for n, p in ((only_b, q + supposed), (only_a, q), (both, 1 - 2 * q - supposed)) if n
        )
        best = q[np.argmax(likelihood)]
        return count * (value - supposed) ** 2 - 1.96**2 * (2 * best + supposed * (1 - supposed))

    return brentq(score, -1 + 1e-9, value), brentq(score, value, 1 - 1e-9)


@pytest.mark.parametrize("cells", [(1, 0, 26), (3, 1, 26), (12, 2, 50), (1, 2, 5)])
def test_the_ends_are_those_of_tangos_score(cells):
    only_b, only_a, count = cells
    value, differing = (only_b - only_a) / count, (only_b + only_a) / count
    reach = 1.96 * math.sqrt((differing - value**2) / count)
    ends = score_interval(differing, np.array([value]), reach, count)
    assert np.allclose(np.ravel(ends), by_likelihood(*cells), atol=2e-4)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), partly=st.booleans())
@unhurried
def test_a_difference_of_shares_and_its_ends_are_possible_and_never_one(seed, count, partly):
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 2, (2, count)) / 1.0
    if partly:  # several labels: an image is partly right
        a, b = generator.integers(0, 5, (2, count)) / 4
    found = difference(a, b, shares=True)
    assert -1 <= found.low <= found.value <= found.high <= 1 and found.high - found.low > 0.1


def test_few_images_are_said_to_be_few_and_promise_no_number_that_would_show_it():
    found = difference(np.array([1.0, 1, 0]), np.array([0.0, 0, 1]), shares=True)
    assert found.images is None
    said = sentence("runs/b", found, 1.0, False, 3)
    assert said.endswith("; 3 shared images can show no difference: 10 are the least that may")
    of_groups = sentence("runs/b", found, 1.0, False, 30, 1)
    assert "30 shared images of 1 group can show no difference" in of_groups


def test_exchanging_the_runs_turns_the_sign():
    a, b, groups = pairs(np.random.default_rng(1))
    there, back = (difference(*pair, groups, shares=True) for pair in ((a, b), (b, a)))
    assert np.allclose((there.value, there.low, there.high), (-back.value, -back.high, -back.low))


def test_as_many_images_as_are_said_show_the_difference_in_four_of_five_data_sets():
    generator = np.random.default_rng(2)
    a, b, _ = pairs(generator, 20_000, better=0.04)
    needed = difference(a, b).images
    seen = [difference(*pairs(generator, needed, better=0.04)[:2], shares=True).seen for _ in range(200)]
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
    of_labels = sentence("runs/b", better, 0.01, True, 500, share="labels right")
    assert "better by 1.2 points of labels right" in of_labels
    of_labels = sentence("runs/b", better, 0.01, True, 500, share="labels right", test="sign test")
    assert of_labels.endswith("; sign test p = 0.01)")


def test_the_table_names_what_is_compared_and_fits_a_screen():
    apart = {"value": -0.5, "low": -0.9999, "high": 0.25, "images": None}
    both = {"a": 0.75, "b": 0.25, "difference": apart}
    found = {"images": 1, "groups": 1, "split": "val", "accuracy": both, "loss": both, "sentence": "none"}
    found["mcnemar"] = {"only_a_right": 1, "only_b_right": 0, "p": 1.0}
    of_several = {"sign_test": {"more_right_by_a": 1000, "more_right_by_b": 1000, "p": 1.0}, "mcnemar": None}
    for label_mode, name in (("binary", "accuracy"), ("multilabel", "labels right")):
        lines = of_comparison(
            {**found, **(of_several if name != "accuracy" else {}), "label_mode": label_mode}
        )
        assert ("images with more right by A 1,000" in lines[3]) == (name != "accuracy")
        assert lines[0].startswith("1 val image that both have") and lines[1].startswith(
            f"  {name}  A 0.7500"
        )
        assert lines[1].index("A ") == lines[2].index("A ") and max(map(len, lines)) <= 80
