"""How strongly a run is kept from learning its images by heart: one number from 0 to 1 in, all that it moves out.

At `START` a run is what its settings say. Below, all of it fades away together; above, it grows towards the
strongest that photographs, or small images, still bear. docs/doctor.md draws the path.
"""

from __future__ import annotations

from dataclasses import dataclass

from rightfit.config import TrainSettings
from rightfit.data.augment import Policy, between
from rightfit.training.recipe import SMALL

START = 0.3  # as TrainSettings has it by default
STRONGEST = Policy(shift=0.1, zoom=0.35, rotate=15, colour=0.35, erase=0.25, mix=0.8)
# Small images have few pixels to lose.
STRONGEST_SMALL = Policy(shift=0.15, zoom=0.8, rotate=10, colour=0.2, erase=0.25, mix=0.8)
MOST_SMOOTHING = 0.15
MOST_DECAY = 2.0  # times the settings'


@dataclass(frozen=True)
class Restraint:
    """What holds at one strength."""

    policy: Policy
    smoothing: float  # share of each target spread over all answers
    weight_decay: float


def restraint(strength: float, policy: Policy, settings: TrainSettings, side: int) -> Restraint:
    """What `strength` (0 to 1) makes of a run's own `policy` and resolved `settings`; `side` in pixels, the longer."""
    decay = settings.weight_decay or 0.0
    if strength <= START:
        share = strength / START
        weakest = Policy(flip=policy.flip, turn=policy.turn)
        return Restraint(between(weakest, policy, share), share * settings.label_smoothing, share * decay)
    share = (strength - START) / (1 - START)
    most = _stronger(policy, STRONGEST_SMALL if side <= SMALL else STRONGEST)
    smoothing = max(settings.label_smoothing, MOST_SMOOTHING)
    return Restraint(
        between(policy, most, share),
        settings.label_smoothing + share * (smoothing - settings.label_smoothing),
        decay * (1 + share * (MOST_DECAY - 1)),
    )


def _stronger(one: Policy, other: Policy) -> Policy:
    """Of each change the larger; mirroring and turns are the first one's: they can change what an image means."""
    return Policy(
        shift=max(one.shift, other.shift),
        zoom=min(one.zoom, other.zoom),
        rotate=max(one.rotate, other.rotate),
        flip=one.flip,
        turn=one.turn,
        colour=max(one.colour, other.colour),
        erase=max(one.erase, other.erase),
        mix=max(one.mix, other.mix),
    )
