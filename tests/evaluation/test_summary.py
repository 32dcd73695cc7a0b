"""Every metric is scikit-learn's, on the sample and on any resample; undefined is null; slices and points count."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from rightfit.evaluation import counts, ranking
from rightfit.evaluation.answers import Answers, columns_of, statistic_of
from rightfit.evaluation.calibration import Calibration
from rightfit.evaluation.intervals import draw_counts
from rightfit.evaluation.metrics import probabilities
from rightfit.evaluation.summary import curves_of, summary

CLASSES = ("ant", "bee", "cat", "dog")
few = settings(derandomize=True, max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 10_000)


def answers(mode, seed, count=80, ties=False, groups=None):
    generator = np.random.default_rng([seed, len(mode)])
    if mode == "categorical":
        codes = generator.choice(4, count, p=[0.5, 0.3, 0.15, 0.05])
        codes[:4] = range(4)
        targets = np.eye(4)[codes]
    else:
        width = 1 if mode == "binary" else 4
        targets = (generator.random((count, width)) < 0.3).astype(float)
        targets[0], targets[1] = 0, 1
    logits = generator.normal(0, 1.5, targets.shape) + 1.5 * targets
    logits = np.round(logits) if ties else logits
    names = CLASSES[:2] if mode == "binary" else CLASSES
    return Answers(logits, logits, targets.astype(np.float32), mode, names, groups)


def summary_of(given, **more):
    return summary(given.raw, given.targets, given.label_mode, given.classes, given.groups, **more)


def scikit_learns(given, weights=None):
    """Every metric of ours that scikit-learn has, by our name."""
    kept = np.ones(len(given.raw), bool) if weights is None else weights > 0
    w = None if weights is None else weights[kept]
    shares = probabilities(given.raw, given.label_mode)[kept]
    truth = given.targets[kept] > 0.5
    if given.label_mode == "multilabel":
        said = given.raw[kept] > 0

        def each(score, answers):
            return np.mean([score(truth[:, k], answers[:, k]) for k in range(4)])

        def averaged(score, average):
            return score(truth, said, average=average, sample_weight=w, zero_division=0)

        found = {
            "brier": each(lambda t, p: reference.brier_score_loss(t, p, sample_weight=w), shares),
            "kappa": each(lambda t, s: reference.cohen_kappa_score(t, s, sample_weight=w), said),
            "mcc": each(lambda t, s: reference.matthews_corrcoef(t, s, sample_weight=w), said),
        }
        ranked = [(truth[:, k], shares[:, k]) for k in range(4)]
    else:
        codes, said = (a[kept] for a in given.codes())

        def averaged(score, average):
            return score(codes, said, average=average, sample_weight=w, zero_division=0)

        kinds = range(len(given.classes))
        seen = np.unique(codes)
        of_second = shares[:, 1] if len(kinds) == 2 else shares
        same = {"sample_weight": w, "labels": kinds}
        found = {
            "accuracy": reference.accuracy_score(codes, said, sample_weight=w),
            "balanced accuracy": reference.recall_score(
                codes, said, average="macro", labels=seen, sample_weight=w
            ),
            "loss": reference.log_loss(codes, shares, **same),
            "brier": reference.brier_score_loss(codes, of_second, **same),
            "kappa": reference.cohen_kappa_score(codes, said, sample_weight=w),
            "quadratic kappa": reference.cohen_kappa_score(codes, said, weights="quadratic", **same),
            "mcc": reference.matthews_corrcoef(codes, said, sample_weight=w),
        }
        if len(kinds) > 2:
            found["top"] = reference.top_k_accuracy_score(codes, shares, k=2, sample_weight=w, labels=kinds)
        ranked = (
            [(truth[:, 0], shares[:, 1])] if len(kinds) == 2 else [(truth[:, k], shares[:, k]) for k in kinds]
        )
    scores = {
        "precision": reference.precision_score,
        "recall": reference.recall_score,
        "f1": reference.f1_score,
    }
    for name, score in scores.items():
        found |= {f"{average} {name}": averaged(score, average) for average in ("macro", "weighted")}
    two = [(t, s) for t, s in ranked if 0 < t.sum() < len(t)]
    found["auroc"] = np.mean([reference.roc_auc_score(t, s, sample_weight=w) for t, s in two])
    found["auprc"] = np.mean([reference.average_precision_score(t, s, sample_weight=w) for t, s in two])
    return found


def ours(given, sums_of):
    ordinal = given.label_mode != "multilabel"
    columns = columns_of(given, Calibration(), {})
    found = statistic_of(columns, given, Calibration(), ordinal)(sums_of(columns.matrix()))
    ((_, (matrix, statistic)),) = curves_of(given)
    found |= {name: counts.mean(values) for name, values in statistic(sums_of(matrix)).items()}
    return found


modes = pytest.mark.parametrize("mode", ["binary", "categorical", "multilabel"])


@modes
@given(seed=seeds, ties=st.booleans())
@few
def test_every_metric_is_scikit_learns(mode, seed, ties):
    given = answers(mode, seed, ties=ties)
    found = ours(given, lambda matrix: np.asarray(matrix.sum(axis=1)))
    for name, expected in scikit_learns(given).items():
        if name == "top" and ties:  # scikit-learn prefers the last of equal scores, argmax the first
            continue
        assert math.isclose(found[name][0, 0], expected, abs_tol=1e-9), name


@modes
@given(seed=seeds)
@few
def test_a_resample_has_the_metrics_that_scikit_learn_gives_its_images(mode, seed):
    """Groups drawn with replacement: scikit-learn with each image as often as its group is drawn."""
    given = answers(mode, seed, groups=np.arange(80) // 3)
    drawn = draw_counts(27, 2, [seed])
    found = ours(given, lambda matrix: matrix @ drawn)
    for column in range(2):
        for name, expected in scikit_learns(given, drawn[given.groups, column]).items():
            assert math.isclose(found[name][0, column], expected, abs_tol=1e-9), name


@given(seed=seeds, ties=st.booleans())
@few
def test_sensitivity_at_specificity_is_the_best_of_all_thresholds(seed, ties):
    given = answers("binary", seed, count=200, ties=ties)
    curve = summary_of(given)["curves"]["bee"]
    alarms, hits, _ = reference.roc_curve(given.targets[:, 0], given.raw[:, 0], drop_intermediate=False)
    assert math.isclose(curve["sensitivity_at_specificity"]["value"], hits[1 - alarms >= 0.95 - 1e-12].max())
    assert math.isclose(
        curve["specificity_at_sensitivity"]["value"], (1 - alarms)[hits >= 0.95 - 1e-12].max()
    )


def test_a_sensitivity_of_1_that_hangs_on_one_negative_has_a_low_end_far_below():
    """Half of the positives are just below the fifth negative of 100, and 95 % specificity allows for five."""
    negatives = np.concatenate([np.full(95, -5.0), np.arange(1.0, 6.0)])
    logits = np.concatenate([negatives, np.repeat([0.5, 6.0], 200)])[:, None].astype(np.float32)
    targets = np.repeat([0, 1], [100, 400])[:, None].astype(np.float32)
    curve = summary(logits, targets, "binary", ("no", "yes"))["curves"]["yes"]
    assert curve["sensitivity_at_specificity"]["value"] == curve["sensitivity_at_specificity"]["high"] == 1
    assert 0.4 < curve["sensitivity_at_specificity"]["low"] < 0.55
    mirrored = summary(-logits, 1 - targets, "binary", ("no", "yes"))["curves"]["yes"]
    assert mirrored["specificity_at_sensitivity"] == pytest.approx(curve["sensitivity_at_specificity"])


@given(seed=seeds, rare=st.floats(0.005, 0.5))
@few
def test_joined_thresholds_move_the_curves_by_less_than_a_fifth_of_an_error(seed, rare):
    generator = np.random.default_rng(seed)
    positive = generator.random(4000) < rare
    positive[:2] = True, False
    numbers = ranking.thresholds(generator.normal(0, 1, 4000) + positive)
    exact, joined = (
        ranking.of_curve(*ranking.tables(n, positive)) for n in (numbers, ranking.joined(numbers, positive))
    )
    error = 1 / np.sqrt(positive.sum())
    for name in exact:
        assert abs(exact[name] - joined[name]) < 0.2 * error, name


@given(seed=seeds)
@few
def test_the_calibration_error_is_the_mean_distance_of_confidence_from_accuracy_in_fifteen_bins(seed):
    given = answers("categorical", seed, count=300)
    shares = probabilities(given.raw, "categorical")
    true, said = given.codes()
    confidence, right = shares.max(axis=1), true == said
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert math.isclose(summary_of(given)["ece"]["value"], expected, rel_tol=1e-9)


def every_estimate(content, path=()):
    if isinstance(content, dict):
        if {"value", "low", "high"} <= set(content):
            yield path, content
        else:
            for name, inside in content.items():
                yield from every_estimate(inside, (*path, name))


@modes
@given(seed=seeds, count=st.integers(4, 120), grouped=st.booleans())
@few
def test_each_value_lies_within_its_interval_and_json_has_no_nan(mode, seed, count, grouped):
    given = answers(mode, seed, count, groups=np.arange(count) // 2 if grouped else None)
    found = summary_of(given, ordinal=mode != "multilabel")
    json.dumps(found, allow_nan=False)
    for path, e in every_estimate(found):
        if e["value"] is not None and e["low"] is not None:
            assert e["low"] <= e["value"] <= (math.inf if e["high"] is None else e["high"]), path


def test_a_class_without_images_is_null_and_has_no_part_in_means():
    logits = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 1, 0]]
    targets = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 0, 1]]
    found = summary(logits, targets, "categorical", ("a", "b", "c"))
    nothing = {"value": None, "low": None, "high": None}
    assert found["recall"]["c"] == nothing and found["curves"]["c"]["auroc"] == nothing
    assert found["precision"]["c"]["value"] == 0.0  # answered once, wrongly
    assert math.isclose(found["balanced_accuracy"]["value"], (2 / 3 + 1 / 3) / 2)
    assert found["auroc"]["value"] is not None


def test_of_one_class_alone_balanced_accuracy_is_its_accuracy_and_no_surer():
    logits = np.where(np.arange(12) < 10, 1.0, -1.0)[:, None].astype(np.float32)
    for right in (logits, np.abs(logits)):
        found = summary(right, np.ones((12, 1), np.float32), "binary", ("a", "b"))
        for end in ("value", "low", "high"):
            assert math.isclose(found["balanced_accuracy"][end], found["accuracy"][end], abs_tol=1e-9), end
        assert found["kappa"]["low"] is None and found["mcc"]["low"] is None


def test_of_a_net_that_gives_one_answer_no_agreement_has_an_interval_of_no_width():
    targets = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    found = summary(0 * targets + [2, 1, 0], targets, "categorical", ("a", "b", "c"), ordinal=True)
    for name in ("kappa", "quadratic_kappa", "mcc"):
        assert found[name] == {"value": 0.0, "low": None, "high": None}, name
    for name in ("balanced_accuracy", "auroc"):
        assert found[name]["low"] + 0.05 < found[name]["value"] < found[name]["high"] - 0.05, name


def test_no_part_differs_because_all_of_it_is_alike():
    """Of each image half of the labels are right, but for one of the others."""
    targets = np.tile([0.0, 1.0], (40, 1)).astype(np.float32)
    logits = np.ones_like(targets)
    logits[12, 0] = -1
    codes = np.where(np.arange(40) < 12, 0, -1)
    for by in ("group", "brightness"):
        found = summary(logits, targets, "multilabel", ("a", "b"), slices={by: (["p"], codes)})["slices"][by][
            "p"
        ]
        assert found["value"] == 0.5 and not found["differs"] and found["high"] - found["low"] > 0.3


def test_of_a_single_image_what_is_known_is_said_and_no_more():
    found = summary(np.ones((1, 1), np.float32), np.ones((1, 1), np.float32), "binary", ("a", "b"))
    json.dumps(found, allow_nan=False)
    assert found["accuracy"]["value"] == 1.0 and found["accuracy"]["low"] < 0.3
    assert found["recall"]["a"]["value"] is None and found["auroc"]["value"] is None


@modes
def test_many_classes_in_slabs_are_the_classes_one_by_one(mode, monkeypatch):
    given = answers(mode, 3)
    whole = summary_of(given)
    monkeypatch.setattr("rightfit.evaluation.summary.SCORES_AT_ONCE", 100)
    assert summary_of(given) == whole


@modes
def test_the_confusion_matrix_holds_every_image_once(mode):
    given = answers(mode, 0)
    confusion = summary_of(given)["confusion"]
    tables = confusion.values() if mode == "multilabel" else [confusion]
    for table in tables:
        assert sum(n for row in table.values() for n in row.values()) == 80
    if mode == "categorical":
        matrix = reference.confusion_matrix(*given.codes())
        assert [[confusion[t].get(a, 0) for a in CLASSES] for t in CLASSES] == matrix.tolist()


def test_a_slice_is_the_accuracy_of_its_images_and_flagged_when_its_interval_excludes_the_whole():
    targets = np.zeros((400, 1), np.float32)
    targets[::2] = 1
    logits = np.where(targets > 0, 3.0, -3.0).astype(np.float32)
    dark = np.arange(400) < 80
    logits[:60] *= -1  # 60 of the 80 dark ones are wrong, all others right
    codes = np.where(dark, 0, np.where(np.arange(400) < 240, 1, -1))
    found = summary(logits, targets, "binary", ("a", "b"), slices={"brightness": (["dark", "bright"], codes)})
    slices = found["slices"]["brightness"]
    assert (slices["dark"]["value"], slices["bright"]["value"]) == (0.25, 1.0)
    assert slices["dark"]["differs"] and slices["bright"]["differs"]
    same = summary(logits, targets, "binary", ("a", "b"), slices={"half": (["x", "y"], np.arange(400) % 2)})
    assert not any(part["differs"] for part in same["slices"]["half"].values())


def test_a_clinic_is_judged_by_its_own_images():
    generator = np.random.default_rng(0)
    clinic = np.repeat([0, 1, 2], 100)
    targets = generator.integers(0, 2, (300, 1)).astype(np.float32)
    wrong = generator.random(300) < np.array([0.05, 0.1, 0.6])[clinic]
    logits = np.where((targets[:, 0] > 0) ^ wrong, 2.0, -2.0)[:, None].astype(np.float32)
    slices = {"group": (["a", "b", "c"], clinic)}
    found = summary(logits, targets, "binary", ("no", "yes"), clinic, slices=slices)["slices"]["group"]
    assert math.isclose(found["c"]["value"], 1 - wrong[clinic == 2].mean())
    assert found["c"]["differs"] and found["c"]["high"] - found["c"]["low"] < 0.25


def test_operating_points_are_counted_at_the_thresholds_they_were_given():
    given = answers("binary", 1, count=300)
    shares, truth = probabilities(given.raw, "binary")[:, 1], given.targets[:, 0] > 0.5
    found = summary_of(given, calibration=Calibration(1.0, {"youden": [0.3]}))["operating_points"]["youden"][
        "bee"
    ]
    assert found["threshold"] == 0.3
    assert math.isclose(found["sensitivity"]["value"], (shares[truth] > 0.3).mean())
    assert math.isclose(found["specificity"]["value"], (shares[~truth] <= 0.3).mean())
