"""Metrics agree with scikit-learn's on random answers, survive extreme logits, and count every image once."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from rightfit.evaluation.metrics import (
    decide,
    image_hits,
    image_losses,
    probabilities,
    quick,
)
from rightfit.evaluation.summary import summary

MODES = ["binary", "categorical", "multilabel"]
CLASSES = ("ant", "bee", "cat", "dog")


def answers(mode, seed, count=80, scale=2.0):
    """Random logits and targets (count, outputs), the names of the classes, and the true codes."""
    generator = np.random.default_rng([seed, MODES.index(mode)])
    if mode == "binary":
        codes = generator.integers(0, 2, count)
        codes[:2] = 0, 1
        targets, classes = codes[:, None], CLASSES[:2]
    elif mode == "categorical":
        codes = generator.choice(4, count, p=[0.5, 0.3, 0.15, 0.05])
        codes[:4] = range(4)
        targets, classes = np.eye(4)[codes], CLASSES
    else:
        codes = (generator.random((count, 4)) < [0.5, 0.1, 0.9, 0.3]).astype(int)
        codes[0], codes[1] = 0, 1
        targets, classes = codes, CLASSES
    logits = generator.normal(0, scale, targets.shape) + targets
    return logits.astype(np.float32), targets.astype(np.float32), classes, codes


def decided(logits, mode):
    return (logits > 0).astype(int)[:, 0] if mode == "binary" else logits.argmax(axis=1)


# The machine may be busy.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(unhurried, max_examples=20)  # a bootstrap each
each_mode = pytest.mark.parametrize("mode", MODES)
one_answer = pytest.mark.parametrize("mode", ["binary", "categorical"])
seeds = st.integers(0, 10_000)


@one_answer
@given(seed=seeds)
@few
def test_accuracy_loss_and_recalls_are_scikit_learns(mode, seed):
    logits, targets, classes, codes = answers(mode, seed)
    predicted = decided(logits, mode)
    found = summary(logits, targets, mode, classes)
    assert math.isclose(found["accuracy"]["value"], reference.accuracy_score(codes, predicted))
    assert math.isclose(
        found["balanced_accuracy"]["value"], reference.balanced_accuracy_score(codes, predicted)
    )
    assert math.isclose(found["loss"]["value"], reference.log_loss(codes, probabilities(logits, mode)))
    recalls = reference.recall_score(codes, predicted, average=None, labels=range(len(classes)))
    assert list(found["recall"]) == list(classes)
    assert np.allclose([r["value"] for r in found["recall"].values()], recalls, rtol=1e-12)


@given(seed=seeds)
@few
def test_multilabel_accuracy_loss_and_recalls_are_scikit_learns_label_by_label(seed):
    logits, targets, classes, codes = answers("multilabel", seed)
    said = (logits > 0).astype(int)
    shares = probabilities(logits, "multilabel")
    found = summary(logits, targets, "multilabel", classes)
    labels = range(len(classes))

    def mean(score):
        return np.mean([score(label) for label in labels])

    losses = mean(lambda k: reference.log_loss(codes[:, k], shares[:, k]))
    assert math.isclose(found["loss"]["value"], losses)
    assert math.isclose(
        found["accuracy"]["value"], mean(lambda k: reference.accuracy_score(codes[:, k], said[:, k]))
    )
    assert math.isclose(
        found["balanced_accuracy"]["value"],
        mean(lambda k: reference.balanced_accuracy_score(codes[:, k], said[:, k])),
    )
    for k, name in enumerate(classes):
        for present, word in enumerate(("absent", "present")):
            recall = reference.recall_score(codes[:, k], said[:, k], pos_label=present)
            assert math.isclose(found["recall"][f"{name}: {word}"]["value"], recall)


@each_mode
@given(seed=seeds, count=st.integers(4, 300))
@few
def test_the_epochs_line_and_the_summary_say_the_same(mode, seed, count):
    logits, targets, classes, _ = answers(mode, seed, count)
    line, found = quick(logits, targets, mode), summary(logits, targets, mode, classes)
    assert math.isclose(line.loss, found["loss"]["value"])
    assert math.isclose(line.accuracy, found["accuracy"]["value"])


@each_mode
@given(seed=seeds)
@few
def test_values_lie_within_their_intervals_and_intervals_within_what_is_possible(mode, seed):
    logits, targets, classes, _ = answers(mode, seed)
    found = summary(logits, targets, mode, classes)
    for estimate in (found["accuracy"], found["balanced_accuracy"], *found["recall"].values()):
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
    assert 0 < found["loss"]["low"] < found["loss"]["value"] < found["loss"]["high"]
    assert found["accuracy"]["low"] < found["accuracy"]["high"]


@each_mode
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e4, -1e4, 3e38])
def test_extreme_logits_stay_finite(mode, size):
    logits, targets, classes, _ = answers(mode, 0)
    extreme = np.clip(np.sign(logits) * np.float32(size), -3e38, 3e38).astype(np.float32)
    shares = probabilities(extreme, mode)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert np.isfinite(image_losses(extreme, targets, mode)).all()
    assert np.isfinite(quick(extreme, targets, mode).loss)
    json.dumps(summary(extreme, targets, mode, classes), allow_nan=False)


@each_mode
def test_a_sure_and_wrong_answer_costs_its_logit(mode):
    """The loss is not cut off, as a logarithm of clipped probabilities would be."""
    outputs = {"binary": 1, "categorical": 2, "multilabel": 1}[mode]
    logits, targets = np.zeros((1, outputs), np.float32), np.zeros((1, outputs), np.float32)
    logits[0, 0] = 1e4
    if mode == "categorical":
        targets[0, 1] = 1
    assert math.isclose(image_losses(logits, targets, mode)[0], 1e4)


@one_answer
@unhurried
@given(seed=seeds, scale=st.floats(0.01, 1e4))
def test_probabilities_of_an_image_sum_to_one(mode, seed, scale):
    logits, _, classes, _ = answers(mode, seed, scale=scale)
    shares = probabilities(logits, mode)
    assert shares.shape == (80, len(classes))
    assert np.allclose(shares.sum(axis=1), 1, rtol=0, atol=1e-12)


@unhurried
@given(seed=seeds)
def test_probabilities_of_labels_are_each_their_own(seed):
    logits, *_ = answers("multilabel", seed)
    odds = probabilities(logits, "multilabel")
    assert np.allclose(np.log(odds / (1 - odds)), logits, rtol=1e-5, atol=1e-5)


def test_adding_to_all_logits_of_an_image_changes_nothing_in_softmax():
    logits, targets, _, _ = answers("categorical", 0)
    moved = logits.astype(np.float64) + 50
    assert np.allclose(probabilities(logits, "categorical"), probabilities(moved, "categorical"), rtol=1e-9)
    losses = image_losses(logits, targets, "categorical"), image_losses(moved, targets, "categorical")
    assert np.allclose(*losses, rtol=1e-9)


@each_mode
@unhurried
@given(seed=seeds)
def test_what_is_decided_is_what_is_counted_as_a_hit(mode, seed):
    logits, targets, classes, _ = answers(mode, seed)
    logits[:5] = 0  # undecided
    said, true = (decide(p, mode, classes) for p in (probabilities(logits, mode), _certain(targets, mode)))
    hits = image_hits(logits, targets, mode)
    if mode == "multilabel":
        parts = [
            [(c in a.split("|")) == (c in b.split("|")) for c in classes]
            for a, b in zip(said, true, strict=True)
        ]
        assert np.array_equal(hits, np.mean(parts, axis=1))
    else:
        assert np.array_equal(hits, np.equal(said, true))


def _certain(targets, mode):
    return np.hstack([1 - targets, targets]) if mode == "binary" else targets


def test_several_labels_are_joined_and_none_is_the_empty_text():
    shares = np.array([[0.9, 0.1, 0.6], [0.2, 0.5, 0.1]])
    assert decide(shares, "multilabel", ("a", "b", "c")) == ["a|c", ""]


def test_a_class_without_images_has_no_recall_and_no_part_in_balanced_accuracy():
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    targets = np.eye(3, dtype=np.float32)[[0, 0, 1, 1]]
    found = summary(logits, targets, "categorical", ("a", "b", "c"))
    recalls = {name: estimate["value"] for name, estimate in found["recall"].items()}
    assert recalls == {"a": 1.0, "b": 0.5, "c": None}
    assert found["balanced_accuracy"]["value"] == 0.75
    json.dumps(found, allow_nan=False)


@each_mode
def test_images_and_groups_are_counted(mode):
    logits, targets, classes, _ = answers(mode, 0)
    assert summary(logits, targets, mode, classes)["groups"] == 80
    found = summary(logits, targets, mode, classes, np.arange(80) // 4)
    assert (found["images"], found["groups"]) == (80, 20)


@each_mode
def test_a_group_of_images_that_agree_counts_as_one(mode):
    """Every image four times over, in groups: the numbers and their intervals are those of one each."""
    logits, targets, classes, _ = answers(mode, 0)
    once = summary(logits, targets, mode, classes)
    fourfold = summary(
        np.repeat(logits, 4, axis=0),
        np.repeat(targets, 4, axis=0),
        mode,
        classes,
        np.repeat(np.arange(80), 4),
    )
    for name in ("accuracy", "loss", "balanced_accuracy"):
        assert np.allclose(list(once[name].values()), list(fourfold[name].values()), rtol=1e-12), name
    line = quick(
        np.repeat(logits, 4, axis=0), np.repeat(targets, 4, axis=0), mode, np.repeat(np.arange(80), 4)
    )
    single = quick(logits, targets, mode, np.arange(80))
    assert math.isclose(line.accuracy_half_width, single.accuracy_half_width)
