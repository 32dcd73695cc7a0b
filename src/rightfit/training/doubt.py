"""Labels that are wrong at random: which training images are in doubt, and what is learnt of them in their place.

A net learns what images have in common before it learns single ones by heart. For as long as it has not, images with
wrong labels are those with a high loss: losses are taken for a mixture of two kinds, and an image that is of the higher
one with probability w is learnt by 1 - w parts of its label and w of what the net itself says of it (bootstrapped
targets: Reed et al. 2015; by a mixture of losses: Arazo et al. 2019, whose kinds are beta distributed; of two normal
distributions, Li, Socher and Hoi 2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rightfit.evaluation.metrics import probabilities
from rightfit.training.judging import Judged

ENOUGH = 20_000  # losses that the mixture is fitted to
FAR = 0.99  # quantile of the losses, beyond which how far does not matter


def in_doubt(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the probability of each image to be of the kind with the higher loss."""
    from sklearn.mixture import GaussianMixture

    near = np.minimum(losses, np.quantile(losses, FAR))[:, None]
    ends = np.quantile(near, (0.2, 0.8))[:, None]
    mixture = GaussianMixture(2, means_init=ends, reg_covar=1e-4, random_state=0)
    mixture.fit(near[:: max(1, len(near) // ENOUGH)])
    means = mixture.means_[:, 0]
    found: NDArray[np.float64] = mixture.predict_proba(near)[:, int(np.argmax(means))]
    # The wider of two normal distributions is the likelier one at both ends.
    return np.where(near[:, 0] < means.min(), 0.0, np.where(near[:, 0] > means.max(), 1.0, found))


def bootstrapped(judged: Judged, temperature: float) -> tuple[NDArray[np.float32], float]:
    """(N, outputs) targets to learn from, by answers as sure as `temperature` makes them, and the share in doubt."""
    doubts = in_doubt(judged.losses(temperature))
    answers, share = probabilities(judged.logits, "categorical", temperature), doubts[:, None]
    targets = (1 - share) * judged.images.targets + share * answers
    return targets.astype(np.float32), float(doubts.mean())
