"""How often 95 % intervals hold the truth: simulated data sets whose truth is known, three kinds of interval.

Each data set is drawn anew, its images in groups (patients) that share a part of their error, and its
accuracy, AUROC, kappa and others get an interval from the same 2,000 resamples by

    rightfit     the standard error of the resamples and Student's t, as Wilson's of a share (evaluation/intervals.py)
    percentile   the 2.5 and 97.5 percentiles of the resamples (Efron 1979)
    BCa          bias-corrected and accelerated, acceleration by the jackknife over groups (Efron 1987)

An interval as it should be holds the truth in 95 of 100 sets; over 1,000 sets chance alone moves that by 1.4.

    python benchmarks/coverage.py --speed   seconds for 11,328 images instead
"""

from __future__ import annotations

import resource
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import RESULTS, finish, parser

from rightfit.evaluation.answers import Answers, columns_of, noise_of_calibration, statistic_of
from rightfit.evaluation.calibration import Calibration
from rightfit.evaluation.intervals import RESAMPLES, bootstrap, interval, interval_of_distance, of_mean
from rightfit.evaluation.summary import curves_of, ranked_draws, sides_alone, summary

SCALES = {
    "accuracy": "share",
    "auroc": "share",
    "kappa": "signed",
    "f1 of the last class": "share",
    "sensitivity at 95 % specificity": "share",
    "specificity at 95 % sensitivity": "share",
    "ece": "distance",
}
AT_THRESHOLD = {  # of the last class
    "sensitivity at 95 % specificity": "sensitivity_at_specificity",
    "specificity at 95 % sensitivity": "specificity_at_sensitivity",
}
METHODS = ("rightfit", "percentile", "BCa")
TRUTH = 300_000  # groups whose numbers are the truth


@dataclass(frozen=True)
class Scenario:
    groups: int
    sizes: tuple[int, int] = (1, 1)  # images of a group, least and most
    shared: float = 0.0  # of the variance of the error, what the images of a group have in common
    distance: float = 1.5  # between classes, in standard deviations of the error
    rare: float = 0.5  # share of the second class; of four classes where it is 0
    heat: float = 1.0  # above 1 the probabilities are too sure


SCENARIOS = {
    "50 images": Scenario(50),
    "100 images, 95 % right": Scenario(100, distance=3.3),
    "300 images": Scenario(300),
    "300 images, 15 % positive": Scenario(300, rare=0.15),
    "300 images, too sure": Scenario(300, heat=2.0),
    "1,000 images": Scenario(1000),
    "200 images of 4 classes": Scenario(200, distance=2.5, rare=0),
    "60 patients, 1 to 7 images": Scenario(60, (1, 7), 0.6),
    "150 patients, 2 images, 20 % positive": Scenario(150, (2, 2), 0.7, rare=0.2),
    "80 patients, 1 to 4 images, 4 classes": Scenario(80, (1, 4), 0.6, 2.5, 0),
}


def main() -> int:
    made = parser(__doc__ or "", rounds=1)
    made.add_argument("--sets", type=int, default=1000, help="simulated data sets of each kind")
    made.add_argument("--speed", action="store_true", help="seconds of one evaluation instead")
    args = made.parse_args()
    if args.speed:
        return speed()
    args.output = args.output or (None if args.quick else RESULTS / "coverage.json")
    sets = 20 if args.quick else args.sets
    found: dict[str, Any] = {}
    with ProcessPoolExecutor() as pool:
        for name, scenario in SCENARIOS.items():
            truth = truths(scenario)
            held = np.mean(
                [*pool.map(holds, [(scenario, truth, seed) for seed in range(sets)], chunksize=10)], axis=0
            )
            found[name] = {
                metric: {method: round(100 * float(held[m, k]), 1) for k, method in enumerate(METHODS)}
                for m, metric in enumerate(SCALES)
            }
            print(f"{name:<40}", found[name], file=sys.stderr, flush=True)
    return finish("coverage", args, [], {}, _summary(found, sets), sets=sets, percent_held=found)


def speed() -> int:
    """Two classes, five classes, and eight labels of 11,328 images."""
    for mode, width in (("binary", 1), ("categorical", 5), ("multilabel", 8), ("categorical", 1000)):
        generator = np.random.default_rng(0)
        codes = generator.integers(0, max(2, width), 11_328)
        targets = np.eye(width)[codes] if mode == "categorical" else generator.random((11_328, width)) < 0.3
        logits = (generator.normal(0, 1.5, targets.shape) + 2 * targets).astype(np.float32)
        names = tuple(map(str, range(max(2, width))))
        started = time.perf_counter()
        summary(logits, targets.astype(np.float32), mode, names)
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{mode}, {width} outputs: {seconds:.2f} s, peak {peak:,.0f} MB")
    return 0


def simulated(scenario: Scenario, groups: int, generator: np.random.Generator) -> Answers:
    """Images whose logits are those of Bayes' rule for their class: normal errors, means `distance` apart."""
    of_group = np.repeat(
        np.arange(groups), generator.integers(scenario.sizes[0], scenario.sizes[1] + 1, groups)
    )
    count, kinds = len(of_group), 2 if scenario.rare else 4
    odds = [1 - scenario.rare, scenario.rare] if scenario.rare else [0.25] * 4
    alike = generator.random(count) < scenario.shared
    codes = np.where(
        alike, generator.choice(kinds, groups, p=odds)[of_group], generator.choice(kinds, count, p=odds)
    )
    width, gap = (1, scenario.distance) if scenario.rare else (4, scenario.distance / np.sqrt(2))
    error = np.sqrt(scenario.shared) * generator.normal(size=(groups, width))[of_group]
    error += np.sqrt(1 - scenario.shared) * generator.normal(size=(count, width))
    if scenario.rare:
        logits = gap * (gap * (codes[:, None] - 0.5) + error) + np.log(odds[1] / odds[0])
        targets = codes[:, None]
    else:
        targets = np.eye(4)[codes]
        logits = gap * (gap * targets + error)
    mode, names = ("binary", ("a", "b")) if scenario.rare else ("categorical", ("a", "b", "c", "d"))
    logits *= scenario.heat
    grouped = of_group if scenario.sizes[1] > 1 else None
    return Answers(logits, logits, targets.astype(np.float32), mode, names, grouped)


def parts_of(answers: Answers) -> list[tuple[Any, Callable[..., Any]]]:
    columns = columns_of(answers, Calibration(), {})
    curves = [part for _, part in curves_of(answers)]
    return [(columns.matrix(), statistic_of(columns, answers, Calibration(), False)), *curves]


def numbers(found: list[dict[str, Any]]) -> np.ndarray:
    """(metrics, R) from the statistics of all parts."""
    of_classes = np.concatenate([part["auroc"] for part in found[1:]])
    one = found[0] | {"auroc": of_classes.mean(axis=0, keepdims=True)}
    one |= {name: found[-1][curve][-1:] for name, curve in AT_THRESHOLD.items()}
    return np.concatenate([one["f1"][-1:] if name.startswith("f1") else one[name] for name in SCALES])


def truths(scenario: Scenario) -> np.ndarray:
    answers = simulated(scenario, TRUTH, np.random.default_rng(1))
    (matrix, statistic), *_ = parts_of(answers)
    exact = [values for values, _ in curves_of(answers)]
    return numbers([statistic(np.asarray(matrix.sum(axis=1))), *exact])[:, 0]


def at(parts: list[Any], sums: Callable[[Any], np.ndarray]) -> np.ndarray:
    return numbers([statistic(sums(matrix)) for matrix, statistic in parts])


def holds(job: tuple[Scenario, np.ndarray, int]) -> np.ndarray:
    """(metrics, methods) of one data set: does the interval hold the truth?"""
    scenario, truth, seed = job
    return judged(truth, *sampled(scenario, seed))


def sampled(scenario: Scenario, seed: int) -> tuple[np.ndarray, ...]:
    """Of one data set: values (metrics,), resamples (metrics, R), values without each group (metrics, G), and
    the groups that each value rests on, with the noise of the last (metrics + 1,)."""
    answers = simulated(scenario, scenario.groups, np.random.default_rng([2, seed]))
    parts = parts_of(answers)
    values = at(parts, lambda matrix: np.asarray(matrix.sum(axis=1)))[:, 0]
    resampled = bootstrap(parts, RESAMPLES, seed)
    drawn = numbers(resampled)
    left_out = at(parts, lambda matrix: np.asarray(matrix.sum(axis=1)) - matrix.toarray())
    columns = columns_of(answers, Calibration(), {})
    ranked = of_mean(resampled[1]["auroc"], ranked_draws(answers, columns))
    last = columns.draws(parts[0][0])["true"][-1]
    of_metric = {"auroc": ranked, "f1 of the last class": last}
    alone = sides_alone(answers, columns)
    of_metric |= {name: alone[curve][-1] for name, curve in AT_THRESHOLD.items()}
    draws = [of_metric.get(name, scenario.groups) for name in SCALES]
    return values, drawn, left_out, np.array([*draws, noise_of_calibration(answers, answers.logits)])


def judged(
    truth: np.ndarray, values: np.ndarray, drawn: np.ndarray, left_out: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    warnings.simplefilter("ignore", RuntimeWarning)
    held = []
    for row, scale in enumerate(SCALES.values()):
        one = slice(row, row + 1)
        if scale == "distance":
            found = interval_of_distance(values[one], drawn[one], draws[0], draws[-1])
        else:
            found = interval(values[one], drawn[one], draws[row], scale)
        ours = [float(end[0]) for end in found]
        ends = (ours, np.nanpercentile(drawn[row], [2.5, 97.5]), bca(values[row], drawn[row], left_out[row]))
        held.append([low - 1e-9 <= truth[row] <= high + 1e-9 for low, high in ends])
    return np.array(held)


def bca(value: float, drawn: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr, ndtri

    drawn = drawn[~np.isnan(drawn)]
    away = left_out.mean() - left_out
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5) if away.any() else 0.0
    below = ((drawn < value).mean() + (drawn <= value).mean()) / 2
    bias = ndtri(np.clip(below, 1e-4, 1 - 1e-4))
    z = bias + ndtri([0.025, 0.975])
    return np.percentile(drawn, 100 * ndtr(bias + z / (1 - acceleration * z)))


def _summary(found: dict[str, Any], sets: int) -> dict[str, Any]:
    """For the table: a row a method, a column a metric, over all kinds of data sets."""
    table: dict[str, Any] = {}
    for metric in SCALES:
        rows = {}
        for method in METHODS:
            held = sorted(kind[metric][method] for kind in found.values())
            middle = held[len(held) // 2]
            rows[method] = {"median": middle, "low": held[0], "high": held[-1], "repetitions": len(held)}
        table[metric] = {
            "unit": f"% of {sets} sets (least to most over kinds)",
            "better": "95",
            "contenders": rows,
        }
    return table


if __name__ == "__main__":
    raise SystemExit(main())
