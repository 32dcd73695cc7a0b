"""A temperature mends confidence and changes no answer; thresholds are the best of all on validation."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from rightfit.evaluation.calibration import (
    POINTS,
    Calibration,
    at_fitted_temperature,
    calibrate,
    fitted_temperature,
    from_dict,
    operating_points,
)
from rightfit.evaluation.metrics import decide, image_losses, probabilities
from rightfit.evaluation.summary import summary

unhurried = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10_000)
MODES = {"binary": 1, "categorical": 5, "multilabel": 3}


def drawn(mode, seed, count=4000, heat=1.0):
    """Logits times `heat` and targets drawn from the probabilities of the logits: calibrated at T = heat."""
    generator = np.random.default_rng([seed, len(mode)])
    logits = generator.normal(0, 1.5, (count, MODES[mode]))
    if mode == "categorical":
        shares = probabilities(logits, mode).cumsum(axis=1)
        codes = (generator.random((count, 1)) > shares).sum(axis=1).clip(0, 4)
        targets = np.eye(5)[codes]
    else:
        targets = generator.random(logits.shape) < 1 / (1 + np.exp(-logits))
    return (heat * logits).astype(np.float32), targets.astype(np.float32)


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_that_are_too_sure_become_those_that_come_true(mode):
    logits, targets = drawn(mode, 0, heat=3.0)
    mended = at_fitted_temperature(probabilities(logits, mode), targets, mode)
    np.testing.assert_allclose(mended, probabilities(logits, mode, 3.0), atol=0.02)
    certain = np.round(probabilities(logits, mode))
    assert np.isfinite(at_fitted_temperature(certain, targets, mode)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("heat", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(mode, heat):
    logits, targets = drawn(mode, 0, heat=heat)
    assert math.isclose(fitted_temperature(logits, targets, mode), heat, rel_tol=0.12)


@pytest.mark.parametrize("mode", MODES)
@given(seed=seeds, heat=st.floats(0.2, 5))
@unhurried
def test_the_loss_never_rises_on_the_images_it_was_fitted_to(mode, seed, heat):
    logits, targets = drawn(mode, seed, 60, heat)
    temperature = fitted_temperature(logits, targets, mode)
    before, after = (image_losses(x, targets, mode).sum() for x in (logits, logits / temperature))
    assert after <= before + 1e-6


@pytest.mark.parametrize("mode", MODES)
@given(seed=seeds, temperature=st.floats(0.05, 20))
@unhurried
def test_no_answer_changes(mode, seed, temperature):
    logits, _ = drawn(mode, seed, 100)
    names = tuple("abcde"[: max(2, MODES[mode])])
    cool, raw = (decide(probabilities(logits, mode, t), mode, names) for t in (temperature, 1.0))
    assert cool == raw


def test_a_few_images_that_are_all_right_are_no_certainty():
    logits = np.tile(np.float32([[2.0, -2.0]]), (7, 1))
    targets = np.tile(np.float32([[1.0, 0.0]]), (7, 1))
    assert 0.5 < fitted_temperature(logits, targets, "categorical") < 1


@given(seed=seeds, rare=st.floats(0.05, 0.5), ties=st.booleans())
@unhurried
def test_operating_points_are_the_best_of_all_thresholds(seed, rare, ties):
    generator = np.random.default_rng(seed)
    positive = generator.random(150) < rare
    positive[:2] = True, False
    scores = 1 / (1 + np.exp(-generator.normal(0, 1, 150) - positive))
    scores = np.round(scores, 1) if ties else scores
    alarms, hits, _ = roc_curve(positive, scores, drop_intermediate=False)
    points = operating_points(scores, positive)
    at = {
        name: ((scores[positive] > t).mean(), (scores[~positive] <= t).mean()) for name, t in points.items()
    }
    assert math.isclose(sum(at["youden"]), (hits + 1 - alarms).max())
    assert math.isclose(at["specificity-95"][0], hits[1 - alarms >= 0.95 - 1e-12].max())
    assert at["specificity-95"][1] >= 0.95 - 1e-12
    assert math.isclose(at["sensitivity-95"][1], (1 - alarms)[hits >= 0.95 - 1e-12].max())
    assert at["sensitivity-95"][0] >= 0.95 - 1e-12


def test_a_label_without_both_sides_has_no_operating_point():
    assert operating_points(np.array([0.2, 0.9]), np.array([True, True])) == {}
    assert calibrate(np.array([[0.2], [0.9]], np.float32), np.ones((2, 1), np.float32), "binary").points == {}
    logits, targets = drawn("multilabel", 1, 100)
    targets[:, 1] = 0
    names = tuple("abcdefgh"[: targets.shape[1]])
    found = calibrate(logits, targets, "multilabel")
    kept = from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)), targets.shape[1])
    assert kept.lacking(names) == found.lacking(names) == ["b"] and set(kept.points) == set(POINTS)
    counted = summary(logits, targets, "multilabel", names, calibration=kept)["operating_points"]
    assert all(list(labels) == [name for name in names if name != "b"] for labels in counted.values())


@pytest.mark.parametrize("mode", MODES)
def test_what_is_saved_is_read_back_and_other_labels_are_refused(mode):
    found = calibrate(*drawn(mode, 1, 100), mode)
    labels = MODES[mode]
    assert from_dict(found.to_dict(), labels) == found
    assert bool(found.points) == (mode != "categorical")
    if found.points:
        with pytest.raises(ValueError, match="do not fit"):
            from_dict(found.to_dict(), labels + 1)
    for wrong in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="temperature"):
            from_dict(Calibration(wrong).to_dict(), labels)


def test_thresholds_decide_in_place_of_the_half():
    shares = np.array([[0.7, 0.3], [0.9, 0.1]])
    assert decide(shares, "binary", ("a", "b"), np.array([0.2])) == ["b", "a"]
    assert decide(shares, "multilabel", ("a", "b"), np.array([0.8, 0.2])) == ["b", "a"]
