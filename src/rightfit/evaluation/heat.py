"""Maps and gradients in, heat maps out: weighed, upsampled, normalised, compared and laid over their images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def grad_cam(maps: Floats, gradients: Floats) -> Floats:
    """(B, h, w, C) twice -> (B, h, w): channels weighed by their mean gradient, what is negative cut off.

    Selvaraju et al. 2017, equations 1 and 2.
    """
    weights = gradients.mean(axis=(1, 2), keepdims=True)
    return np.maximum((maps * weights).sum(axis=3), 0)


def grad_cam_plus_plus(maps: Floats, gradients: Floats) -> Floats:
    """(B, h, w, C) twice -> (B, h, w): channels weighed by their positive gradients, each place by its alpha.

    Chattopadhay et al. 2018, equations 10 and 19, of the score exp(logit), whose factor drops out of a map
    that is normalised: alpha = g^2 / (2 g^2 + g^3 sum(A)) = 1 / (2 + g sum(A)), which a small g does not
    divide by 0. The paper's maps follow a ReLU; where a map does not, its negative values are left out of
    the sum, which else could bring the denominator to 0.
    """
    positive = np.maximum(gradients, 0)
    total = np.maximum(maps, 0).sum(axis=(1, 2), keepdims=True)
    weights = (positive / (2 + positive * total)).sum(axis=(1, 2), keepdims=True)
    return np.maximum((maps * weights).sum(axis=3), 0)


def upsampled(maps: Floats, height: int, width: int) -> Floats:
    """(B, h, w) -> (B, height, width), bilinear between the centres of the map's places."""
    import cv2

    grown = [cv2.resize(m, (width, height), interpolation=cv2.INTER_LINEAR) for m in maps]
    return np.stack(grown) if grown else np.empty((0, height, width), np.float32)


def normalised(maps: Floats) -> Floats:
    """(B, H, W) -> what is positive, over the map's maximum: 0..1; a map without any stays 0."""
    positive = np.maximum(maps, 0).astype(np.float64)
    largest = positive.max(axis=(1, 2), keepdims=True)
    return np.divide(positive, largest, out=np.zeros_like(positive), where=largest > 0).astype(np.float32)


def agreement(first: Floats, second: Floats) -> NDArray[np.float64]:
    """(B, H, W) twice -> (B,) Spearman's rank correlation of each pair of maps over their pixels, -1..1.

    0 where a map is the same everywhere and so ranks nothing.
    """
    from scipy.stats import rankdata

    if not len(first):
        return np.empty(0)
    a, b = (rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0)


def overlay(image: NDArray[np.uint8], heat: Floats) -> NDArray[np.uint8]:
    """(H, W, 3) and heat (H, W) in 0..1 -> (H, W, 3) uint8: the image in dark grey, the more covered by the
    colour of its heat (viridis, whose lightness rises evenly) the hotter; so heat is lightest in grey print too."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] * 0.6
    levels = np.round(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    colour = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    opacity = np.clip(heat, 0, 1)[..., None] * 0.75
    return np.round(grey * (1 - opacity) + colour * opacity).astype(np.uint8)
