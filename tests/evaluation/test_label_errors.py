"""Planted label errors are found, right labels are left alone, and what too few images show is not judged."""

import numpy as np
import pytest

from rightfit.evaluation.label_errors import known_classes, suspects
from rightfit.training.crossfit import FOLDS, folds, held_out_probabilities

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = ("a", "b", "c")


def clouds(count, apart=4.0, seed=0, classes=3):
    """(count, 4) features of clouds `apart` deviations apart, and their true classes (count,)."""
    generator = np.random.default_rng([seed, 5])
    truth = np.arange(count) % classes
    return (apart * np.eye(classes, 4)[truth] + generator.normal(0, 1, (count, 4))).astype(np.float32), truth


def with_errors(truth, share, classes=3, seed=0):
    """The labels with a random `share` of them another class."""
    generator = np.random.default_rng([seed, 6])
    wrong = generator.permutation(len(truth))[: round(share * len(truth))]
    labels = truth.copy()
    labels[wrong] = (truth[wrong] + generator.integers(1, classes, len(wrong))) % classes
    return labels, set(wrong.tolist())


def targets_of(labels, label_mode, classes=3):
    if label_mode == "binary":
        return labels.astype(np.float32)[:, None]
    return (
        labels.astype(np.float32) if label_mode == "multilabel" else np.eye(classes, dtype=np.float32)[labels]
    )


def judged(features, labels, label_mode="categorical", classes=CLASSES, groups=None):
    shares = held_out_probabilities(
        features, targets_of(labels, label_mode, len(classes)), labels, label_mode, groups
    )
    return suspects(shares, labels, label_mode, classes, groups)


@pytest.mark.parametrize("label_mode, classes", [("categorical", 3), ("binary", 2)])
def test_planted_errors_are_found_with_the_right_class(label_mode, classes):
    features, truth = clouds(600, classes=classes)
    labels, wrong = with_errors(truth, 0.05, classes)
    found = judged(features, labels, label_mode, CLASSES[:classes]).found
    hits = [suspect for suspect in found if suspect.position in wrong]
    assert len(hits) >= 0.7 * len(wrong), "the confident joint counts too few rather than too many"
    assert len(hits) >= 0.9 * len(found)
    assert np.mean([s.suggested == CLASSES[truth[s.position]] for s in hits]) >= 0.95
    assert all(s.label == CLASSES[labels[s.position]] != s.suggested for s in found)
    assert all(0 <= s.probability_label < s.probability_suggested <= 1 for s in found)


def test_the_most_suspicious_come_first():
    features, truth = clouds(600, apart=2.5)
    labels, wrong = with_errors(truth, 0.05)
    found = judged(features, labels).found
    scores = [suspect.score for suspect in found]
    assert scores == sorted(scores)
    first = [suspect.position in wrong for suspect in found[: len(wrong) // 2]]
    assert np.mean(first) > 0.9


def test_right_labels_give_few_false_alarms():
    """Clouds that overlap for 5 % of the images, all labelled as they were drawn."""
    features, truth = clouds(900, apart=2.5)
    assert len(judged(features, truth).found) <= 0.03 * 900


def test_of_several_labels_the_wrong_ones_are_turned():
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 2, (600, 3))
    features = (4 * truth + generator.normal(0, 1, (600, 3))).astype(np.float32)
    labels = truth.copy()
    wrong = generator.permutation(600)[:30]
    labels[wrong, wrong % 3] ^= 1
    found = judged(features, labels, "multilabel").found
    hits = [suspect for suspect in found if suspect.position in set(wrong.tolist())]
    assert len(hits) >= 20 and len(hits) >= 0.8 * len(found)
    names = [("|".join(c for c, has in zip(CLASSES, truth[s.position], strict=True) if has)) for s in hits]
    assert np.mean([s.suggested == name for s, name in zip(hits, names, strict=True)]) >= 0.9


def test_a_class_of_too_few_images_is_not_judged():
    features, truth = clouds(300)
    labels = truth.copy()
    labels[truth == 2] = 1
    labels[:4] = 2  # four images under the name of another class
    found = judged(features, labels)
    assert found.unknown == ("c",) and found.images == 296
    assert all(suspect.position >= 4 for suspect in found.found)
    # five photographs of one patient are one fact
    groups = np.arange(300)
    labels[:6], groups[:6] = 2, 0
    assert known_classes(labels, 3).tolist() == [True, True, True]
    assert known_classes(labels, 3, groups).tolist() == [True, True, False]


def test_where_one_class_is_left_nothing_is_suspected():
    shares = np.tile([0.1, 0.8, 0.1], (20, 1))
    assert suspects(shares, np.zeros(20, int), "categorical", CLASSES).found == []
    labels = np.zeros((20, 3), int)
    found = suspects(shares, labels, "multilabel", CLASSES)
    assert (found.found, found.images, found.unknown) == ([], 0, CLASSES)


def test_shapes_that_do_not_fit_are_refused():
    for shape, label_mode in (((20, 2), "categorical"), ((20, 3), "multilabel"), ((19, 3), "categorical")):
        with pytest.raises(ValueError):
            suspects(np.ones(shape), np.zeros(20, int), label_mode, CLASSES)


# Folds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_groups_never_straddle_folds_and_classes_reach_all(several):
    generator = np.random.default_rng(4)
    groups = generator.integers(0, 120, 500)
    codes = generator.integers(0, 2, (500, 3)) if several else generator.integers(0, 4, 500)
    fold = folds(codes, groups)
    assert all(len(np.unique(fold[groups == group])) == 1 for group in np.unique(groups))
    sizes = np.bincount(fold, minlength=FOLDS)
    assert sizes.min() > 60
    alone = folds(codes)
    strata = np.unique(codes, axis=0, return_inverse=True)[1].ravel()
    counts = np.array([np.bincount(alone[strata == s], minlength=FOLDS) for s in np.unique(strata)])
    assert (np.ptp(counts, axis=1) <= 1).all()
    assert np.array_equal(alone, folds(codes))


def test_an_image_is_judged_by_heads_that_saw_neither_it_nor_its_group():
    """Groups that share a random feature and a random label: who has seen a group knows its label, others nothing."""
    generator = np.random.default_rng(5)
    groups = np.repeat(np.arange(60), 5)
    features = generator.normal(0, 1, (60, 60)).astype(np.float32)[groups]
    labels = generator.integers(0, 2, 60)[groups]
    targets = labels.astype(np.float32)[:, None]
    blind = held_out_probabilities(features, targets, labels, "binary", groups)
    torn = held_out_probabilities(features, targets, labels, "binary")
    right = [(shares.argmax(axis=1) == labels).mean() for shares in (blind, torn)]
    assert right[0] < 0.7 and right[1] > 0.95


def test_one_group_alone_is_refused():
    features, truth = clouds(30)
    with pytest.raises(ValueError, match="one group"):
        held_out_probabilities(features, targets_of(truth, ""), truth, "categorical", np.zeros(30, int))
