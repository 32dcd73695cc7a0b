"""Random changes of training images: a uint8 batch and a generator in, a new batch of the same shape out.

Every function is pure: the same batch and the same generator state give the same result, and the
input is never written to. Images are (B, H, W, 3) uint8. What changes the targets too stands at the end.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Batch = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Draws(Protocol):
    """What the changes ask of NumPy's generator; the first axis of `size` is the images."""

    def uniform(self, low: float, high: float, size: Any) -> NDArray[np.float64]: ...

    def random(self, size: Any) -> NDArray[np.float64]: ...


class DrawsOfPart:
    """A generator's draws for a whole batch of `count` images, of which those of `part` come out: an image is changed
    alike whoever changes it."""

    def __init__(self, generator: np.random.Generator, count: int, part: slice) -> None:
        self.generator, self.count, self.part = generator, count, part

    def uniform(self, low: float, high: float, size: Any) -> NDArray[np.float64]:
        return self.generator.uniform(low, high, self._whole(size))[self.part]

    def random(self, size: Any) -> NDArray[np.float64]:
        return self.generator.random(self._whole(size))[self.part]

    def _whole(self, size: Any) -> Any:
        return (self.count, *size[1:]) if isinstance(size, tuple) else self.count


@dataclass(frozen=True)
class Policy:
    """How far each change may go; 0 turns one off."""

    shift: float = 0.0  # largest move, share of the side
    zoom: float = 1.0  # smallest share of the area a crop keeps
    rotate: float = 0.0  # largest turn, degrees
    flip: bool = False
    turn: bool = False  # by quarter turns
    colour: float = 0.0  # largest change of brightness, contrast and channel gain, share
    erase: float = 0.0  # largest erased share of the area
    mix: float = 0.0  # share of images that are mixed with another one


POLICIES = {
    "none": Policy(),
    "light": Policy(shift=0.1, flip=True),
    "medium": Policy(shift=0.05, zoom=0.6, flip=True, colour=0.15),
    "strong": Policy(shift=0.1, zoom=0.35, rotate=15, flip=True, colour=0.35, erase=0.2),
}


def policy_named(name: str, mirror: bool = True, upright: bool = True) -> Policy:
    """The policy called `name`, without its mirroring unless `mirror`; it also turns images, if it changes any, unless
    they are `upright`."""
    policy = POLICIES[name]
    return replace(policy, flip=policy.flip and mirror, turn=name != "none" and not upright)


def between(one: Policy, other: Policy, share: float) -> Policy:
    """The policy `share` (0 to 1) of the way from `one` to `other`; mirroring and turns are the first one's."""
    pairs = zip(astuple(one), astuple(other), strict=True)
    return replace(Policy(*(a + share * (b - a) for a, b in pairs)), flip=one.flip, turn=one.turn)


def augment(batch: Batch, generator: Draws, policy: Policy) -> Batch:
    """Crop in one interpolation, then flip and turn, then colour, then erase."""
    if policy.shift or policy.rotate or policy.zoom < 1:
        batch = crop(batch, generator, policy.shift, policy.zoom, policy.rotate)
    if policy.flip:
        batch = flip(batch, generator)
    if policy.turn:
        batch = turn(batch, generator)
    if policy.colour:
        batch = colour(batch, generator, policy.colour)
    if policy.erase:
        batch = erase(batch, generator, policy.erase)
    return batch


def crop(batch: Batch, generator: Draws, shift: float, zoom: float = 1.0, rotate: float = 0.0) -> Batch:
    """Keep `zoom`..1 of the area, moved by up to `shift` of the side more than the crop leaves room
    for, turned by up to `rotate` degrees, scaled back to the full size; borders are mirrored.

    With zoom 1 and rotate 0 it moves by whole pixels, so no grey level changes.
    """
    count, height, width, _ = batch.shape
    side = np.sqrt(generator.uniform(zoom, 1.0, count))
    aspect = np.exp(generator.uniform(-1, 1, count) * np.log(4 / 3) / 2) if zoom < 1 else np.ones(count)
    aspect = np.clip(aspect, side, 1 / side)  # neither side is longer than the image's
    scale = np.stack([side * aspect, side / aspect], axis=1)  # of x, of y
    centre = generator.uniform(-1, 1, (count, 2)) * ((1 - scale) / 2 + shift) * (width, height)
    angle = np.deg2rad(generator.uniform(-rotate, rotate, count))
    exact = zoom == 1 and rotate == 0
    if exact:
        centre = np.round(centre)
    cos, sin = np.cos(angle), np.sin(angle)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    out = np.empty_like(batch)
    for i in range(count):
        # Maps a pixel of the result to the place in the source it is taken from.
        turn = np.array([[cos[i], -sin[i]], [sin[i], cos[i]]]) * scale[i]
        matrix = np.column_stack([turn, middle + centre[i] - turn @ middle])
        flags = (cv2.INTER_NEAREST if exact else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
        cv2.warpAffine(
            batch[i], matrix, (width, height), dst=out[i], flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
    return out


def flip(batch: Batch, generator: Draws) -> Batch:
    """Mirror each image left to right with probability 1/2."""
    mirrored = generator.random(len(batch)) < 0.5
    out = batch.copy()
    out[mirrored] = batch[mirrored, :, ::-1]
    return out


def turn(batch: Batch, generator: Draws) -> Batch:
    """Turn each image by 0, 90, 180 or 270 degrees, whichever is drawn; by 0 or 180 where it is not square. With
    `flip` each of the eight positions of a square is as likely as the others."""
    positions = (0, 1, 2, 3) if batch.shape[1] == batch.shape[2] else (0, 2)  # quarters
    drawn = (generator.random(len(batch)) * len(positions)).astype(int)
    out = batch.copy()
    for place, quarters in enumerate(positions):
        if quarters:
            out[drawn == place] = np.rot90(batch[drawn == place], quarters, axes=(1, 2))
    return out


def colour(batch: Batch, generator: Draws, amount: float) -> Batch:
    """Change brightness, contrast and the gain of each channel by up to `amount` (channels by a third
    of it), one table of 256 grey levels an image and channel; contrast turns about the image's mean."""
    count = len(batch)
    contrast = 1 + generator.uniform(-amount, amount, (count, 1, 1))
    gain = 1 + generator.uniform(-amount, amount, (count, 1, 1))
    tint = 1 + generator.uniform(-amount, amount, (count, 1, 3)) / 3
    mean = batch.mean(axis=(1, 2, 3)).reshape(-1, 1, 1)
    levels = np.arange(256.0).reshape(1, 256, 1)
    tables = np.clip((mean + (levels - mean) * contrast) * gain * tint + 0.5, 0, 255).astype(np.uint8)
    out = np.empty_like(batch)
    for i in range(count):
        cv2.LUT(batch[i], tables[i : i + 1].reshape(1, 256, 3), dst=out[i])
    return out


def erase(batch: Batch, generator: Draws, amount: float) -> Batch:
    """Fill one rectangle of up to `amount` of the area with the image's mean, in half of the images
    (random erasing, Zhong et al. 2020)."""
    count, height, width, _ = batch.shape
    chosen = generator.random(count) < 0.5
    area = generator.uniform(min(amount, 0.02), amount, count)
    aspect = np.exp(generator.uniform(-1, 1, count) * np.log(3.0) / 2)
    heights = np.clip(np.sqrt(area * aspect) * height, 1, height).astype(int)
    widths = np.clip(np.sqrt(area / aspect) * width, 1, width).astype(int)
    tops = (generator.random(count) * (height - heights + 1)).astype(int)
    lefts = (generator.random(count) * (width - widths + 1)).astype(int)
    out = batch.copy()
    for i in np.flatnonzero(chosen):
        rectangle = slice(tops[i], tops[i] + heights[i]), slice(lefts[i], lefts[i] + widths[i])
        out[i][rectangle] = batch[i].mean(axis=(0, 1)).astype(np.uint8)
    return out


def mix(
    batch: Batch, targets: Floats, weights: Floats, generator: np.random.Generator, share: float
) -> tuple[Batch, Floats, Floats]:
    """Mix about `share` of the images with another one of the batch, and their targets (B, outputs) and
    weights (B,) alike: half of them by mixup (Zhang et al. 2018, Beta(0.4, 0.4)), half by CutMix (Yun et al.
    2019, Beta(1, 1), a rectangle of the other image).

    A cross entropy with the mixed target and weight is what both images' own would add up to."""
    count, height, width, _ = batch.shape
    other = generator.permutation(count)
    drawn = generator.random((3, count))
    chosen, cut = np.less(drawn[0], share), np.less(drawn[1], 0.5)
    kept = np.where(cut, drawn[2], generator.beta(0.4, 0.4, count))
    sides = np.rint(np.sqrt(1 - kept)[:, None] * (height, width)).astype(int)
    corners = (generator.random((count, 2)) * ((height, width) - sides + 1)).astype(int)
    kept = np.where(cut, 1 - sides.prod(axis=1) / (height * width), kept)
    kept = np.where(chosen, kept, 1.0)
    out = batch.copy()
    for i in np.flatnonzero(chosen):
        if cut[i]:
            rows, columns = (
                slice(start, start + side) for start, side in zip(corners[i], sides[i], strict=True)
            )
            out[i, rows, columns] = batch[other[i], rows, columns]
        else:
            cv2.addWeighted(batch[i], float(kept[i]), batch[other[i]], float(1 - kept[i]), 0, dst=out[i])
    part, rest = kept.astype(np.float32), (1 - kept).astype(np.float32)
    mine, others = part * weights, rest * weights[other]
    heavy = mine + others
    share_of_mine = np.divide(mine, heavy, out=part.copy(), where=heavy > 0)[:, None]
    return out, share_of_mine * targets + (1 - share_of_mine) * targets[other], heavy


def smooth(targets: Floats, amount: float, exclusive: bool) -> Floats:
    """Targets (B, outputs) with `amount` of each spread over all answers (Szegedy et al. 2016): over the
    classes where they are `exclusive`, else over yes and no of each output."""
    return targets * np.float32(1 - amount) + np.float32(amount / (targets.shape[1] if exclusive else 2))
