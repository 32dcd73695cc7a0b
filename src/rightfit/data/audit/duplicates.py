"""Grey thumbnails in, pairs that show the same picture out: resized, re-encoded, mirrored, turned, brighter or darker.

Three steps, none quadratic in the number of images:

1. A descriptor of 64 numbers: the 32 x 32 picture without its mean and contrast, in the principal components of this
   very set, each scaled to one variance. What all images share (the bus bars of solar cells) counts for nothing,
   and unrelated images have a cosine near 0.
2. Candidates by locality-sensitive hashing (signs of random projections; Charikar 2002): images whose bits agree in
   one of 16 tables are compared, with at most 8 neighbours each. An image is looked up upright, mirrored, upside
   down and turned by 180 degrees.
3. Candidates are verified twice: the cosine against what the nearest unrelated images of the set reach, and pixel by
   pixel at 64 x 64: after a fit of brightness and contrast no patch of 8 x 8 may differ.

Measured (benchmarks/audit.py) on 2,624 photographs of solar cells, which look very much alike: cosines of changed
copies were 0.999 and more, of the nearest unrelated among 700 cells 0.993 and less; patches of copies differed by
0.05 of the standard deviation, of the 400 likest unrelated pairs by 0.15 and more. Of 180 near-duplicates, some of
them of a class that was overexposed first, 95 % were found, of 180 among digits of 8 x 8 pixels 97 %; of the untouched
cells and digits none was named. What is missed was brightened until white areas grew. Cut-outs are not looked for: 2 %
off each side takes the cosine of such cells down to 0.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from rightfit.data.audit.facts import Facts
from rightfit.data.resize import Pixels

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

COMPONENTS = 64
SAMPLE = 2_048  # images that the components are computed from
EASE = 0.1  # of the largest variance: what is smaller is as likely noise of an encoder, and is not blown up
TABLES = 16
NEIGHBOURS = 8  # that an image is compared with in a table
CHUNK = 16_384  # rows or pairs at a time: tens of MB
LOOSEST, TIGHTEST = 0.96, 0.997  # cosine that a pair needs, whatever the set
NEAR_LIMIT = 50_000  # images up to which training looks for near-duplicates: half a minute
FLAT = 2.0  # grey levels of standard deviation under which there is no picture to compare
PATCH = 0.3  # of the picture's standard deviation: the largest difference of a patch, as a root mean square
TURNS = ("", "mirrored", "upside down", "turned by 180°")


def kept_together(images: int) -> bool:
    """Whether training looks for near-duplicates in so many images, and keeps them on one side of its split."""
    return images <= NEAR_LIMIT


@dataclass(frozen=True, eq=False)
class Pairs:
    """rows: (P, 2), the lower first; likeness: (P,) cosine; turn: (P,) index into TURNS, of the second."""

    rows: Ints
    likeness: Floats
    turn: Ints

    def __len__(self) -> int:
        return len(self.rows)


NONE = Pairs(np.zeros((0, 2), np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


def near_pairs(thumbnails: Pixels, rows: Ints) -> Pairs:
    """(N, 64, 64) grey -> enough pairs among `rows` to join all that show one picture. Deterministic.

    Of three alike, two pairs say it: pairs that others have joined already are not looked at.
    """
    if len(rows) < 2:
        return NONE
    described = _descriptors(thumbnails, rows)
    found, likeness = _candidates(described, _needed(described))
    root = np.arange(len(rows))

    def root_of(row: int) -> int:
        while root[row] != row:
            root[row] = row = root[root[row]]
        return row

    kept = []
    for number in np.argsort(-likeness, kind="stable").tolist():
        first, second, turn = found[number].tolist()
        one, other = root_of(first), root_of(second)
        if one != other and _same_pixels(thumbnails[rows[first]], thumbnails[rows[second]], turn):
            root[other] = one
            kept.append(number)
    pairs = found[kept]
    return Pairs(rows[pairs[:, :2]], likeness[kept], pairs[:, 2]) if kept else NONE


@dataclass(frozen=True, eq=False)
class Copies:
    """(N,) numbers: images with one `exact` are the same file, with one `near` show the same picture."""

    exact: Ints
    near: Ints

    def select(self, rows: Ints) -> Copies:
        return Copies(self.exact[rows], self.near[rows])


def copies_in(facts: Facts, near: bool = True) -> Copies:
    """Of readable images; an unreadable one is alone. Without `near` only equal files are copies."""
    exact = contents_numbered(facts.contents)
    exact[~facts.ok] = len(exact) + np.flatnonzero(~facts.ok)
    if not near:
        return Copies(exact, exact)
    _, first, number = np.unique(exact, return_index=True, return_inverse=True)
    pictures = np.sort(first[facts.ok[first] & (facts.light[first, 1] > FLAT)])
    pairs = near_pairs(facts.thumbnails, pictures).rows
    equal = np.column_stack([np.arange(len(exact)), first[number]])
    return Copies(exact, components(len(exact), np.concatenate([equal, pairs])))


def contents_numbered(contents: npt.NDArray[np.uint8]) -> Ints:
    """(N, B) digests -> (N,) one number for each content."""
    whole = np.ascontiguousarray(contents).view(f"V{contents.shape[1]}")[:, 0]
    return (
        np.unique(whole, return_inverse=True)[1].astype(np.int64) if len(contents) else np.zeros(0, np.int64)
    )


def components(count: int, pairs: Ints) -> Ints:
    """(P, 2) pairs of 0..count-1 -> (count,) number of the connected component."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1].astype(np.int64)


# Descriptors ----------------------------------------------------------------------------------------


def _parts(thumbnails: Pixels, rows: Ints) -> Iterator[Pixels]:
    for start in range(0, len(rows), CHUNK // 4):
        yield thumbnails[rows[start : start + CHUNK // 4]]


def turned(images: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """(..., H, W), as TURNS says."""
    return images[..., :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _descriptors(thumbnails: Pixels, rows: Ints) -> Floats:
    """(4, R, D): each image turned in each way, of unit length."""
    sample = _plain(thumbnails[rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64))]])
    flat = np.concatenate([_flat(turned(sample, turn)) for turn in range(len(TURNS))])
    mean = flat.mean(axis=0)
    flat -= mean
    variances, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    # of few images half the dimensions they span: in more, every image is as far from every other
    count = max(1, min(COMPONENTS, len(sample) // 2))
    variances, vectors = variances[::-1][:count], vectors[:, ::-1][:, :count]
    project = (vectors / np.sqrt(variances + EASE * variances[0])).astype(np.float32)
    # a turned picture on the axes is the picture on the turned axes
    axes = project.T.reshape(count, *sample.shape[1:])
    turned_axes = [_flat(turned(axes, turn)).T for turn in range(len(TURNS))]
    described = np.empty((len(TURNS), len(rows), count), np.float32)
    at = 0
    for part in _parts(thumbnails, rows):
        pictures = _flat(_plain(part))
        for turn, across in enumerate(turned_axes):
            here = pictures @ across - mean @ project
            length = np.linalg.norm(here, axis=1, keepdims=True)
            described[turn, at : at + len(part)] = here / np.maximum(length, 1e-6)
        at += len(part)
    return described


def _plain(images: Pixels) -> Floats:
    """(B, 64, 64) -> (B, 32, 32), each with mean 0 and length 1."""
    count, side = len(images), images.shape[1] // 2
    halved = images.reshape(count, side, 2, side, 2).mean(axis=(2, 4), dtype=np.float32)
    halved -= halved.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt(np.einsum("bhw,bhw->b", halved, halved))
    return halved / np.maximum(length, 1e-6)[:, None, None]


def _flat(images: Floats) -> Floats:
    return np.ascontiguousarray(images).reshape(len(images), -1)


def _needed(described: Floats) -> float:
    """The cosine that unrelated images of this set do not reach.

    The nearest neighbours of a sample have, on the arctanh scale, a median and an upper quartile; four times as far
    as that from the median (2.7 standard deviations of a normal distribution), within LOOSEST and TIGHTEST. Up to a
    fifth of the images may have duplicates; of more, it is TIGHTEST.
    """
    upright = described[0]
    asked = np.unique(np.linspace(0, len(upright) - 1, 512).astype(np.int64))
    best = np.full(len(asked), -1.0, np.float32)
    for turn in range(len(TURNS)):
        for start in range(0, len(upright), CHUNK):
            cosines = upright[asked] @ described[turn, start : start + CHUNK].T
            itself = (asked >= start) & (asked < start + cosines.shape[1])
            cosines[np.flatnonzero(itself), asked[itself] - start] = -1
            best = np.maximum(best, cosines.max(axis=1))
    middle, high = np.percentile(np.arctanh(np.clip(best, -0.9999, 0.9999)), [50, 75])
    return float(np.clip(np.tanh(middle + 4 * (high - middle)), LOOSEST, TIGHTEST))


# Candidates -----------------------------------------------------------------------------------------


def _candidates(described: Floats, needed: float) -> tuple[Ints, Floats]:
    """(P, 3) of first < second and the turn of the second, (P,) their cosines of `needed` or more; a pair is there
    once, in its best turn, and an image in its best NEIGHBOURS pairs."""
    _, count, dimensions = described.shape
    bits = max(4, min(24, int(np.ceil(np.log2(count)))))
    generator = np.random.default_rng([0, bits])
    keys, turns, likeness = [], [], []
    for _ in range(TABLES):
        planes = generator.normal(size=(dimensions, bits + 1)).astype(np.float32)
        code, ordered = _bucket(described[0] @ planes)
        order = np.argsort(ordered, kind="stable")
        for turn in range(len(TURNS)):
            other, place = (code, ordered) if turn == 0 else _bucket(described[turn] @ planes)
            beside = np.searchsorted(ordered, place, sorter=order)
            for step in range(-NEIGHBOURS // 2, NEIGHBOURS // 2 + 1):
                near = order[np.clip(beside + step, 0, count - 1)]
                pairs = np.flatnonzero((code[near] == other) & (near != np.arange(count)))
                for second in np.split(pairs, range(CHUNK, len(pairs), CHUNK)):
                    first = near[second]
                    cosines = np.einsum("nd,nd->n", described[0][first], described[turn, second])
                    close = cosines >= needed
                    # every turn is its own inverse, so a pair may be named from either side
                    low, high = np.minimum(first, second)[close], np.maximum(first, second)[close]
                    keys.append(low * count + high)
                    likeness.append(cosines[close])
                    turns.append(np.full(int(close.sum()), turn, np.int64))
    key, cosine, turned_by = (np.concatenate(parts) for parts in (keys, likeness, turns))
    best = np.lexsort((turned_by, -cosine, key))
    best = best[np.r_[True, np.diff(key[best]) != 0]] if len(best) else best
    best = best[np.argsort(-cosine[best], kind="stable")]
    pairs = np.column_stack([key[best] // count, key[best] % count, turned_by[best]])
    near_enough = np.minimum(_rank(pairs[:, 0]), _rank(pairs[:, 1])) < NEIGHBOURS
    return pairs[near_enough], cosine[best][near_enough]


def _bucket(sides: Floats) -> tuple[Ints, npt.NDArray[np.float64]]:
    """(N, bits + 1) projections -> (N,) code of the signs; the code and, after the point, the last projection, by
    which like lies near like within a bucket."""
    code = (sides[:, :-1] > 0) @ (1 << np.arange(sides.shape[1] - 1))
    last = sides[:, -1].astype(np.float64)
    return code, code + 0.5 + 0.49 * last / (1 + np.abs(last))


def _rank(values: Ints) -> Ints:
    """(P,) how many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    starts = np.r_[0, np.flatnonzero(np.diff(values[order])) + 1] if len(values) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(values)])
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values)) - np.repeat(starts, lengths)
    return rank


def _same_pixels(first: Pixels, second: Pixels, turn: int) -> bool:
    """After a fit of brightness and contrast, does no patch differ?"""
    a, b = first.astype(np.float32), np.ascontiguousarray(turned(second.astype(np.float32), turn))
    a, b = a - a.mean(), b - b.mean()
    left = a - b * ((a * b).sum() / max(float((b * b).sum()), 1e-6))
    patches = cv2.blur(left * left, (8, 8), borderType=cv2.BORDER_REFLECT)
    return bool(np.sqrt(patches.max()) <= PATCH * a.std())
