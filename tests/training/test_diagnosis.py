"""A diagnosis says no more than the intervals allow, and a probe is a fair and cheap sample."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.data.augment import POLICIES
from rightfit.data.loader import TrainLoader
from rightfit.reports.words import LANGUAGES, Words
from rightfit.training import probe
from rightfit.training.diagnosis import MATTERS, WORDS, Evidence, Measured, diagnose


def evidence(
    train=(0.95, 0.01), val=(0.94, 0.01), loss=(0.2, 0.22), images=1000, common=0.5, ended="", **more
):
    losses = [Measured(value, 0.01) for value in loss]
    more = {name: Measured(*found) if isinstance(found, tuple) else found for name, found in more.items()}
    return Evidence(losses[0], Measured(*train), losses[1], Measured(*val), images, common, ended, **more)


NOISY = {"sure_wrong": (0.3, 0.1), "second_right": (0.15, 0.1), "classes": 10, "learnt": (0.8, 0.02)}
DARK = {"brightness": Measured(0.2, 0.05), "colour": Measured(0.52, 0.05)}


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (evidence(), "right fit"),
        (evidence(val=(0.85, 0.02), loss=(0.1, 0.5)), "overfit"),
        (evidence(train=(0.75, 0.01), val=(0.74, 0.02)), "underfit"),
        (evidence(train=(0.79, 0.036), val=(0.784, 0.047)), "underfit"),
        (evidence(train=(0.51, 0.02), val=(0.5, 0.02)), "stalled"),
        (evidence(train=(0.9, 0.01), val=(0.95, 0.01), loss=(0.3, 0.1)), "leak suspected"),
        (evidence(val=(0.9, 0.08)), "can't tell"),
        (evidence(ended="loss became nan in epoch 3"), "diverged"),
        (evidence(val=(0.6, 0.03), **NOISY), "label noise"),
        (evidence(val=(0.6, 0.03), **{**NOISY, "second_right": (0.6, 0.1)}), "overfit"),
        (evidence(val=(0.6, 0.03), doubts=0.4), "label noise"),
        (evidence(val=(0.6, 0.03), **{**NOISY, "second_right": (0.25, 0.05), "classes": 100}), "overfit"),
        (evidence((0.5, 0.02), (0.5, 0.02), **{**NOISY, "sure_wrong": (0.9, 0.05)}), "stalled"),
        (evidence((0.65, 0.02), (0.6, 0.06), **{**NOISY, "learnt": (0.59, 0.02)}), "underfit"),
        (evidence(val=(0.6, 0.03), **{**NOISY, "sure_wrong": (0.12, 0.05)}), "overfit"),
        (evidence(val=(0.6, 0.03), **{**NOISY, "classes": 3}), "overfit"),
        (evidence((0.5, 0.03), (0.5, 0.03), learnt=(0.98, 0.01), carried=(0.0, 0.02)), "label noise"),
        (evidence((0.9, 0.03), (0.5, 0.2), learnt=(0.98, 0.01), carried=(0.1, 0.3)), "overfit"),
        (evidence((0.5, 0.03), (0.5, 0.03), learnt=(0.52, 0.01), carried=(0.0, 0.02)), "stalled"),
        (evidence((0.7, 0.03), (0.5, 0.03), learnt=(0.98, 0.01), carried=(0.1, 0.02)), "overfit"),
        (evidence((0.7, 0.03), (0.69, 0.03), modes=(0.2, 0.05)), "batch-norm mismatch"),
        (evidence((0.7, 0.03), (0.69, 0.03), modes=(0.03, 0.05)), "underfit"),
        (evidence(val=(0.85, 0.02), loss=(0.1, 0.5), shifts=DARK), "shifted"),
        (evidence(shifts=DARK), "right fit"),
        (evidence(train=(0.75, 0.01), val=(0.74, 0.02), falling=(0.2, 0.05)), "still learning"),
        (evidence(train=(0.75, 0.01), val=(0.74, 0.02), falling=(0.12, 0.05)), "underfit"),
        (evidence(train=(0.75, 0.01), val=(0.74, 0.02), falling=(0.08, 0.01), update=1e-4), "still learning"),
        (evidence(train=(0.75, 0.01), val=(0.74, 0.02), falling=(0.08, 0.01), update=3e-3), "underfit"),
        (evidence(val=(0.6, 0.03), **{**NOISY, "second_right": (0.35, 0.16)}), "label noise"),
        (evidence(val=(0.6, 0.03), **{**NOISY, "second_right": (0.4, 0.16)}), "overfit"),
    ],
)
def test_each_word_has_its_evidence(found, word):
    said = diagnose(found)
    assert said.word == word
    assert said.word in WORDS
    assert "points" in said.sentence or word in ("stalled", "diverged", "label noise")


def test_what_kept_a_net_from_learning_is_said():
    def sentence(**more):
        return diagnose(evidence(train=(0.5, 0.02), val=(0.5, 0.02), **more)).sentence

    assert "higher --learning-rate" in sentence(update=1e-7)
    assert "lower --learning-rate" in sentence(update=0.5)
    assert "80 % of the channels" in sentence(dead=0.8)
    assert "(" not in sentence(update=1e-3, dead=0.01)
    assert (
        "darker than a training image of their class in 80.0 ±5.0 %"
        in diagnose(evidence(val=(0.85, 0.02), loss=(0.1, 0.5), shifts=DARK)).sentence
    )


def test_validation_images_are_asked_for_where_they_would_narrow_the_gap():
    """Of 1,000 validation images 0.08 of accuracy either way: (0.08 / 0.0490)² times as many leave 0.05 in all."""
    assert "about 2,667 validation images would" in diagnose(evidence(val=(0.9, 0.08))).sentence
    few = diagnose(evidence(train=(0.95, 0.05), val=(0.94, 0.001)))
    assert few.word == "can't tell" and "only more training and validation images" in few.sentence


def test_every_word_has_its_sentence_on_the_page():
    for language in LANGUAGES:
        page = Words(language)
        assert all(page(f"fit {word}") for word in WORDS)


shares = st.floats(0.05, 1.0)
halves = st.floats(0.001, 0.3)


@given(shares, halves, shares, halves, st.floats(0.01, 3), st.floats(0.01, 3))
def test_no_gap_is_named_that_its_interval_does_not_hold(train, half, val, other, train_loss, val_loss):
    found = evidence((train, half), (val, other), (train_loss, val_loss), common=0.0)
    word, width = diagnose(found).word, float(np.hypot(half, other))
    if word == "overfit":
        assert train - val - width > MATTERS
    if word == "leak suspected":
        assert val - train > width and val_loss < train_loss
    if word == "right fit":
        assert width <= 0.05
    if word == "underfit":
        assert train + half < 0.9


def loader(codes, batch=8):
    targets = np.eye(int(codes.max()) + 1, dtype=np.float32)[codes]
    rows = np.arange(len(codes)) + 1000
    return TrainLoader(None, rows, targets, np.ones(len(codes), np.float32), batch, 0, POLICIES["none"])


@pytest.mark.parametrize("counts", [(3000, 300, 30), (50, 50), (5,), (20_000, 20_000)])
def test_a_probe_has_each_class_by_its_share_and_costs_a_twentieth_of_the_time(counts):
    codes = np.repeat(np.arange(len(counts)), counts)
    chosen = probe.choose(loader(codes), seed=0)
    rows, total = chosen.images.rows, sum(counts)
    assert len(np.unique(rows)) == len(rows) and set(rows) <= set(range(1000, 1000 + total))
    found = chosen.images.targets.sum(axis=0)
    assert np.abs(found - np.array(counts) * len(rows) / total).max() <= 1
    assert len(rows) / (3 * total * chosen.every) <= 0.05
    assert np.array_equal(rows, probe.choose(loader(codes), seed=0).images.rows)
    if total > len(rows):
        assert not np.array_equal(rows, probe.choose(loader(codes), seed=1).images.rows)


def test_a_probe_is_due_at_the_end_whatever_its_rhythm():
    found = probe.Probe(None, 7)
    assert [epoch for epoch in range(1, 18) if found.due(epoch, 17)] == [7, 14, 17]
