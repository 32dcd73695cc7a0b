"""Which finalist is best: by trainings that had no part in making it one, and never within their noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rightfit.tuning.halving import finalists
from rightfit.tuning.journal import Trial

SURE = 0.95  # one-sided, that it is better than the default recipe
LUCK = "one training each cannot tell luck from better"
ONCE = "no other finalist was trained again, and once may be luck"


@dataclass(frozen=True)
class Choice:
    trial: int
    loss: float  # of the selection images, mean over the trainings that decided
    because: str


def choose(trials: Sequence[Trial], levels: Sequence[int]) -> Choice | None:
    """The finalist with the lowest mean loss over its further seeds, as the first one made it a finalist; the default
    recipe, which was one anyway and counts with all seeds, unless that is surely lower: beyond the one-sided 95 %
    interval of the difference of two means whose trainings scatter alike (Student's t). Without that recipe, and where
    no finalist has further seeds, the lowest first loss. None where nothing was trained to the end."""
    last = levels[-1]
    found = finalists(trials, levels)
    if not found:
        return None
    known = {n: {s: x for s in trials[n].losses if (x := trials[n].loss(s, last)) is not None} for n in found}
    further = {
        n: list(losses.values()) if n == 0 else [losses[s] for s in losses if s]
        for n, losses in known.items()
    }
    fair = {n: losses for n, losses in further.items() if losses}
    if not fair:
        best = min(known, key=lambda n: known[n][0])
        return Choice(best, known[best][0], f"the lowest loss of the first trainings; {LUCK}")
    means = {n: sum(losses) / len(losses) for n, losses in fair.items()}
    best = min(means, key=lambda n: means[n])
    told = "mean loss over seeds: " + ", ".join(
        f"{'the default recipe' if n == 0 else f'trial {n}'} {means[n]:.4f}" for n in means
    )
    if 0 not in means:
        return Choice(best, means[best], told)
    kept = "the default recipe is kept, as"
    better, noise = means[0] - means[best], _noise(fair, best)
    if len(found) > 1 and (len(fair) == 1 or noise is None):
        return Choice(0, means[0], f"{kept} {ONCE if len(fair) == 1 else LUCK}")
    if not best or noise is None:
        return Choice(0, means[0], f"{told}; {kept} nothing did better")
    if better <= noise:
        return Choice(0, means[0], f"{told}; {kept} {better:.4f} is within the noise of {noise:.4f}")
    because = f"{told}; {better:.4f} better than the default recipe, beyond the noise of {noise:.4f}"
    return Choice(best, means[best], because)


def _noise(losses: Mapping[int, Sequence[float]], best: int) -> float | None:
    """What the mean of trial `best` has to be below that of trial 0 by to be surely lower; None where no two trainings
    of a trial say how they scatter."""
    from scipy import stats

    means = {n: sum(each) / len(each) for n, each in losses.items()}
    freedom = sum(len(each) - 1 for each in losses.values())
    if not freedom:
        return None
    variance = sum((x - means[n]) ** 2 for n, each in losses.items() for x in each) / freedom
    error = math.sqrt(variance * (1 / len(losses[0]) + 1 / len(losses[best])))
    return float(stats.t.ppf(SURE, freedom)) * error
