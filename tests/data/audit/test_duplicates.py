"""Laws of near-duplicates: changed copies are found in every turn, unrelated pictures not, many copies cost little."""

import cv2
import numpy as np
import pytest

from rightfit.data.audit.duplicates import TURNS, components, near_pairs, turned


def scenes(count, seed=0):
    """(count, 64, 64) grey: smooth noise, each another."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 220, (count, 7, 7)).astype(np.float32)
    return np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_CUBIC) for image in coarse])


def as_bytes(images):
    return np.clip(images, 0, 255).astype(np.uint8)


def pairs_of(images):
    found = near_pairs(images, np.arange(len(images)))
    return {tuple(pair) for pair in found.rows.tolist()}


def test_unrelated_pictures_are_no_pairs():
    assert pairs_of(as_bytes(scenes(500))) == set()


def test_two_pictures_that_share_a_background_are_no_pair():
    """As photographs by one camera of one scene: what all share tells nothing."""
    background = 3 * scenes(1, seed=9)
    things = scenes(300)
    assert pairs_of(as_bytes((background + things) / 4)) == set()


@pytest.mark.parametrize("turn", range(len(TURNS)), ids=[turn or "upright" for turn in TURNS])
def test_a_turned_darker_noisier_copy_is_found(turn):
    images = scenes(200)
    copy = 0.9 * turned(images[17], turn) + np.random.default_rng(1).normal(0, 3, (64, 64))
    found = near_pairs(as_bytes(np.concatenate([images, copy[None]])), np.arange(201))
    assert found.rows.tolist() == [[17, 200]]
    assert found.turn.tolist() == [turn]


def test_a_picture_in_which_one_thing_changed_is_another():
    images = scenes(200)
    other = images[17].copy()
    other[20:26, 20:26] += 60
    assert pairs_of(as_bytes(np.concatenate([images, other[None]]))) == set()


def test_many_copies_are_joined_by_one_pair_each():
    """2,000 of one picture have 2 million pairs; one fewer than there are pictures joins them."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, (2_000, 64, 64)).astype(np.float32)
    images = as_bytes(np.concatenate([scenes(300), scenes(1, seed=5) + noise]))
    found = near_pairs(images, np.arange(len(images)))
    assert len(found) == 1_999
    assert len(np.unique(components(len(images), found.rows))) == 301


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_few_pictures_are_no_special_case(count):
    images = as_bytes(scenes(max(count, 1))[:count])
    assert pairs_of(images) == set()
    if count:
        assert pairs_of(np.concatenate([images, images[:1]])) == {(0, count)}
