"""Labels and the probabilities that models which never saw them give in; labels that are probably wrong out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

FEWEST = 5  # groups of a class from which a model can know it


@dataclass(frozen=True)
class Suspect:
    """An image whose label is probably wrong.

    Probabilities are of the whole label; for several labels, taken as independent, of all of them together.
    """

    position: int  # of the image, in 0..N-1
    label: str
    suggested: str
    probability_label: float
    probability_suggested: float
    score: float  # self-confidence: probability of what was given; of several labels, the least likely suspected one


@dataclass(frozen=True)
class Suspects:
    """The most suspicious first; `unknown` are classes of too few images, whose labels are not judged."""

    found: list[Suspect]
    images: int  # whose label was judged
    unknown: tuple[str, ...]


def suspects(
    probabilities: NDArray[Any],
    codes: NDArray[Any],
    label_mode: str,
    classes: tuple[str, ...],
    groups: NDArray[np.int64] | None = None,
) -> Suspects:
    """Suspected label errors by confident learning (Northcutt, Jiang and Chuang 2021), through cleanlab.

    `probabilities` (N, K) of each class, from models that saw neither the image nor its group; `codes`
    (N,) class indices, or (N, K) of 0 and 1 for multilabel, where each class is judged against the rest.
    A label is suspected when it is counted off the diagonal of the confident joint, and is also among
    the least likely labels, of which as many are taken as that joint counts errors. A class with fewer than
    FEWEST images, or `groups` (N,) of them, is not judged. ValueError when the shapes do not fit.
    """
    expected = (len(codes), len(classes))
    if probabilities.shape != expected or codes.shape != expected[: 2 if label_mode == "multilabel" else 1]:
        raise ValueError(
            f"probabilities {probabilities.shape} and labels {codes.shape} do not fit {expected}"
        )
    shares, known = np.asarray(probabilities, np.float64), known_classes(codes, len(classes), groups)
    if label_mode == "multilabel":
        return _of_several(shares, codes.astype(bool), classes, known)
    return _of_one(shares, codes.astype(np.int64), classes, known)


def known_classes(codes: NDArray[Any], classes: int, groups: NDArray[np.int64] | None = None) -> Flags:
    """(K,) which of `classes` have enough images, or groups of them; for `codes` (N, K) with and without it."""
    units = np.arange(len(codes)) if groups is None else groups
    sides = [codes == code for code in range(classes)] if codes.ndim == 1 else [*(codes.T == 1)]
    others = [] if codes.ndim == 1 else [*(codes.T == 0)]
    enough = [len(np.unique(units[side])) >= FEWEST for side in [*sides, *others]]
    return np.asarray(np.array(enough, bool).reshape(-1, classes).all(axis=0))


def _of_one(shares: Floats, codes: NDArray[np.int64], classes: tuple[str, ...], known: Flags) -> Suspects:
    rows = np.flatnonzero(known[codes])
    given = shares[np.arange(len(codes)), codes]
    likeliest = shares.argmax(axis=1)
    hits = rows[_confident(codes[rows], shares[rows])]
    found = [
        Suspect(
            position=row,
            label=classes[codes[row]],
            suggested=classes[likeliest[row]],
            probability_label=float(given[row]),
            probability_suggested=float(shares[row, likeliest[row]]),
            score=float(given[row]),
        )
        for row in hits[np.argsort(given[hits], kind="stable")].tolist()
    ]
    return Suspects(found, len(rows), _absent(classes, known))


def _of_several(shares: Floats, given: Flags, classes: tuple[str, ...], known: Flags) -> Suspects:
    flags = np.zeros(given.shape, bool)
    for code in np.flatnonzero(known):
        both = np.column_stack([1 - shares[:, code], shares[:, code]])
        flags[:, code] = _confident(given[:, code].astype(np.int64), both)
    suggested = given ^ flags
    of_given, of_suggested = (np.where(labels, shares, 1 - shares) for labels in (given, suggested))
    score = np.where(flags, of_given, 1).min(axis=1, initial=1)
    hits = np.flatnonzero(flags.any(axis=1))
    found = [
        Suspect(
            position=row,
            label=_joined(given[row], classes),
            suggested=_joined(suggested[row], classes),
            probability_label=float(of_given[row].prod()),
            probability_suggested=float(of_suggested[row].prod()),
            score=float(score[row]),
        )
        for row in hits[np.argsort(score[hits], kind="stable")].tolist()
    ]
    return Suspects(found, len(given) if known.any() else 0, _absent(classes, known))


def _confident(codes: NDArray[np.int64], shares: Floats) -> Flags:
    """(n,) which of the labels `codes` (n,) are suspected, given `shares` (n, K)."""
    if len(np.unique(codes)) < 2:
        return np.zeros(len(codes), bool)
    from cleanlab.filter import find_label_issues

    joint, least = (
        np.asarray(find_label_issues(codes, shares, filter_by=way, n_jobs=1), bool)
        for way in ("confident_learning", "low_self_confidence")
    )
    return joint & least


def _joined(labels: Flags, classes: tuple[str, ...]) -> str:
    return "|".join(name for name, has in zip(classes, labels, strict=True) if has)


def _absent(classes: tuple[str, ...], known: Flags) -> tuple[str, ...]:
    return tuple(name for name, is_known in zip(classes, known, strict=True) if not is_known)
