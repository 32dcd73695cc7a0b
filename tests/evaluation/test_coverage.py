"""Intervals of accuracy, AUROC, kappa and of what a threshold moves hold the truth: benchmarks/coverage.py in small."""

from pathlib import Path

import numpy as np
import pytest

SETS = 120
# Of 120 intervals that hold the truth with probability 0.95, 107 or more do in all but one simulation of 400.
LEAST = 107


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import coverage

    return coverage


@pytest.mark.parametrize("kind", ["100 images, 95 % right", "60 patients, 1 to 7 images"])
def test_intervals_hold_the_truth(coverage, kind, monkeypatch):
    monkeypatch.setattr(coverage, "TRUTH", 100_000)
    scenario = coverage.SCENARIOS[kind]
    truth = coverage.truths(scenario)
    held = np.sum([coverage.holds((scenario, truth, seed)) for seed in range(SETS)], axis=0)
    for metric, of_methods in zip(coverage.SCALES, held, strict=True):
        if metric in ("accuracy", "auroc", "kappa", *coverage.AT_THRESHOLD):
            assert of_methods[coverage.METHODS.index("rightfit")] >= LEAST, metric


def test_patients_taken_for_single_images_are_not_covered(coverage, monkeypatch):
    """The simulation can fail: images of one patient share their error, and intervals over images are too narrow."""
    from rightfit.evaluation.summary import summary

    monkeypatch.setattr(coverage, "TRUTH", 100_000)
    scenario = coverage.Scenario(40, (6, 10), shared=0.9)
    truth = coverage.truths(scenario)[0]
    held = []
    for seed in range(60):
        a = coverage.simulated(scenario, scenario.groups, np.random.default_rng([2, seed]))
        found = summary(a.raw, a.targets, a.label_mode, a.classes, None)["accuracy"]
        held.append(found["low"] <= truth <= found["high"])
    assert np.mean(held) < 0.8
