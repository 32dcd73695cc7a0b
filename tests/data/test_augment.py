"""Each random change keeps shape and type, leaves its input alone, repeats by its generator, and does what it says."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rightfit.data.augment import (
    POLICIES,
    Policy,
    augment,
    between,
    colour,
    crop,
    erase,
    flip,
    mix,
    policy_named,
    smooth,
    turn,
)

CHANGES = {
    "shift": lambda batch, generator: crop(batch, generator, 0.2),
    "zoom": lambda batch, generator: crop(batch, generator, 0.1, 0.5),
    "rotate": lambda batch, generator: crop(batch, generator, 0.1, 0.5, 15),
    "flip": flip,
    "turn": turn,
    "colour": lambda batch, generator: colour(batch, generator, 0.35),
    "erase": lambda batch, generator: erase(batch, generator, 0.2),
    **{
        name: lambda batch, generator, policy=policy: augment(batch, generator, policy)
        for name, policy in POLICIES.items()
        if name != "none"
    },
}
change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())


def noise(count=16, height=12, width=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


def coordinates(count, height, width):
    """Images that say where each pixel came from: red is 2x, green 2y."""
    batch = np.zeros((count, height, width, 3), np.uint8)
    batch[..., 0] = 2 * np.arange(width)
    batch[..., 1] = 2 * np.arange(height)[:, None]
    return batch


@change
@pytest.mark.parametrize("shape", [(16, 12, 10), (16, 9, 9), (1, 9, 33), (0, 8, 8)])
def test_shape_and_type_are_kept(change, shape):
    out = change(noise(*shape), np.random.default_rng(1))
    assert out.shape == (*shape, 3)
    assert out.dtype == np.uint8


@change
def test_the_input_is_not_written_to_nor_handed_out(change):
    batch = noise()
    before = batch.copy()
    batch.flags.writeable = False
    out = change(batch, np.random.default_rng(1))
    assert np.array_equal(batch, before)
    assert not np.shares_memory(batch, out)


@change
def test_the_result_is_a_function_of_batch_and_generator(change):
    first, again, other = (change(noise(), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@change
def test_images_of_a_batch_are_changed_apart(change):
    batch = np.repeat(noise(1), 32, axis=0)
    assert len({image.tobytes() for image in change(batch, np.random.default_rng(1))}) > 1


def test_none_is_the_identity():
    batch = noise()
    assert np.array_equal(augment(batch, np.random.default_rng(1), POLICIES["none"]), batch)


@pytest.mark.parametrize("part", ["shift", "zoom", "rotate", "flip", "turn", "colour", "erase"])
def test_a_policy_uses_each_of_its_parts(part):
    policy = replace(Policy(), **{part: getattr(policy_named("strong", upright=False), part)})
    batch = noise()
    assert not np.array_equal(augment(batch, np.random.default_rng(1), policy), batch)


def test_flip_mirrors_half_of_the_images_and_leaves_the_others():
    batch = noise(2000, 3, 4)
    out = flip(batch, np.random.default_rng(3))
    mirrored = (out == batch[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (out == batch).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(mirrored.sum() - 1000) < 90  # 4 standard deviations of a fair coin


@pytest.mark.parametrize("height, width", [(12, 12), (9, 14), (33, 8)])
def test_a_crop_that_keeps_all_and_moves_nothing_is_the_identity(height, width):
    batch = noise(8, height, width)
    assert np.array_equal(crop(batch, np.random.default_rng(1), 0.0, 1.0, 0.0), batch)


@pytest.mark.parametrize("height, width", [(20, 20), (21, 16)])
def test_a_shift_moves_whole_pixels_and_mirrors_the_border(height, width):
    batch = noise(200, height, width)
    out = crop(batch, np.random.default_rng(1), 0.2)
    down, right = round(0.2 * height), round(0.2 * width)
    moves = []
    for image, moved in zip(batch, out, strict=True):
        mirrored = np.pad(image, ((down, down), (right, right), (0, 0)), mode="reflect")
        places = [
            (y - down, x - right)
            for y in range(2 * down + 1)
            for x in range(2 * right + 1)
            if np.array_equal(mirrored[y : y + height, x : x + width], moved)
        ]
        assert len(places) == 1, "not the image moved by whole pixels"
        moves += places
    for axis, furthest in ((0, down), (1, right)):
        seen = [move[axis] for move in moves]
        assert (min(seen), max(seen)) == (-furthest, furthest), "every distance up to the share is drawn"
        assert abs(np.mean(seen)) < 4 * np.std(seen) / np.sqrt(len(seen)), "both ways alike"


def kept_shares(zoom, shift=0.0, count=400, side=100):
    """Share of width and of height that each crop keeps, read off where its pixels came from."""
    out = crop(coordinates(count, side, side), np.random.default_rng(1), shift, zoom).astype(float) / 2
    middle = slice(side // 4, -side // 4)  # away from the mirrored border
    across = out[:, side // 2, middle, 0]
    along = out[:, middle, side // 2, 1]
    steps = across.shape[1] - 1
    return (across[:, -1] - across[:, 0]) / steps, (along[:, -1] - along[:, 0]) / steps


@pytest.mark.parametrize("zoom", [0.35, 0.6, 0.9])
def test_a_crop_keeps_from_zoom_to_all_of_the_area(zoom):
    width, height = kept_shares(zoom)
    area = width * height
    rounding = 0.03  # half a grey level at each end of 50 pixels, in both directions
    assert area.min() > zoom - rounding
    assert area.max() < 1 + rounding
    assert width.max() < 1 + rounding
    assert height.max() < 1 + rounding
    assert abs(area.mean() - (zoom + 1) / 2) < 4 * (1 - zoom) / np.sqrt(12 * len(area)) + 0.005, "uniform"


def test_a_crop_stretches_by_no_more_than_4_to_3():
    width, height = kept_shares(0.35)
    assert 1.25 < (width / height).max() < 4 / 3 + 0.05
    assert 1.25 < (height / width).max() < 4 / 3 + 0.05


def test_a_crop_without_shift_stays_inside_the_image():
    """A mirrored border would make the ramps turn back."""
    out = crop(coordinates(400, 60, 60), np.random.default_rng(1), 0.0, 0.5).astype(int)
    assert (np.diff(out[..., 0], axis=2) >= 0).all()
    assert (np.diff(out[..., 1], axis=1) >= 0).all()
    assert out[:, :, 0, 0].max() > 20, "no crop was ever taken from the right"


def test_a_turn_stays_within_its_degrees_and_turns_both_ways():
    side = 101
    out = crop(coordinates(400, side, side), np.random.default_rng(1), 0.0, 1.0, 15).astype(float)
    middle = side // 2
    across = out[:, middle, middle + 20] - out[:, middle, middle - 20]
    degrees = np.rad2deg(np.arctan2(across[:, 1], across[:, 0]))
    assert 13 < degrees.max() < 16
    assert -16 < degrees.min() < -13
    assert np.abs(out[:, middle, middle, :2] - 2 * middle).max() <= 1, "it turns about the middle"


@pytest.mark.parametrize("amount", [0.15, 0.35, 0.9])
def test_colour_keeps_the_order_of_grey_levels(amount):
    ramps = np.zeros((300, 2, 256, 3), np.uint8) + np.arange(256, dtype=np.uint8)[:, None]
    out = colour(ramps, np.random.default_rng(1), amount).astype(int)
    assert (np.diff(out, axis=2) >= 0).all()
    assert len({image.tobytes() for image in out}) == 300


def test_colour_by_nothing_is_the_identity():
    batch = noise(300, 7, 11)  # means that no binary fraction holds exactly
    assert np.array_equal(colour(batch, np.random.default_rng(1), 0.0), batch)


def test_colour_rounds_and_so_is_right_on_average():
    """Truncation would darken by half a grey level."""
    out = colour(np.full((4000, 1, 1, 3), 100, np.uint8), np.random.default_rng(1), 0.02)
    assert abs(out.mean() - 100) < 0.1  # over 4 standard errors


def test_colour_changes_a_flat_image_by_no_more_than_its_amount():
    """On a flat image contrast does nothing: gain and a third of it for the channel remain."""
    out = colour(np.full((2000, 4, 4, 3), 100, np.uint8), np.random.default_rng(1), 0.15).astype(float)
    low, high = 100 * 0.85 * 0.95, 100 * 1.15 * 1.05
    assert out.min() >= low - 0.5
    assert out.max() <= high + 0.5
    assert out.min() < low + 2
    assert out.max() > high - 2


@pytest.mark.parametrize("amount", [0.01, 0.05, 0.2, 0.5])
def test_erase_fills_at_most_its_share_of_half_of_the_images_with_their_mean(amount):
    batch = noise(1000, 40, 30)
    out = erase(batch, np.random.default_rng(1), amount)
    changed = (out != batch).any(axis=3)
    shares = changed.mean(axis=(1, 2))
    assert shares.max() <= amount
    assert shares.max() > 0.8 * amount
    assert abs((shares > 0).sum() - 500) < 64, "4 standard deviations of a fair coin"
    for image, filled, here in zip(batch, out, changed, strict=True):
        assert (np.abs(filled[here].astype(float) - image.mean(axis=(0, 1))) <= 1).all()
        rows, columns = here.any(axis=1), here.any(axis=0)
        # A pixel that had the mean already does not count as changed, so the outline is compared.
        assert np.diff(np.flatnonzero(rows)).max(initial=1) == 1
        assert np.diff(np.flatnonzero(columns)).max(initial=1) == 1


def test_the_strong_policy_changes_most():
    batch = noise(64, 16, 16)
    smooth = np.cumsum(np.cumsum(batch.astype(float) - 127, axis=1), axis=2)
    photographs = np.clip(127 + smooth, 0, 255).astype(np.uint8)
    light, medium, strong = (
        np.abs(
            augment(photographs, np.random.default_rng(1), POLICIES[name]).astype(float) - photographs
        ).mean()
        for name in ("light", "medium", "strong")
    )
    assert min(light, medium) > 0
    assert strong > max(light, medium)


def test_no_policy_mirrors_when_it_must_not():
    batch = np.zeros((64, 8, 8, 3), np.uint8)
    batch[:, :, :3] = 200  # the left is bright
    for name in POLICIES:
        policy = policy_named(name, mirror=False)
        assert replace(policy, flip=POLICIES[name].flip) == POLICIES[name]
        out = augment(batch, np.random.default_rng(0), replace(policy, erase=0.0))
        assert (out[:, :, :2].mean(axis=(1, 2, 3)) > out[:, :, -2:].mean(axis=(1, 2, 3))).all()


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(("width", "quarters"), [(6, (0, 1, 2, 3)), (8, (0, 2))])
def test_an_image_without_a_way_up_comes_in_each_position_alike(width, quarters, mirror):
    count, image = 4000, noise(1, 6, width)[0]
    sides = [image, image[:, ::-1]] if mirror else [image]
    positions = {np.rot90(side, turns).tobytes() for side in sides for turns in quarters}
    policy = replace(policy_named("light", mirror, upright=False), shift=0.0)
    out = augment(np.repeat(image[None], count, axis=0), np.random.default_rng(0), policy)
    times = Counter(one.tobytes() for one in out)
    assert times.keys() == positions
    expected = count / len(positions)
    deviation = np.sqrt(expected)  # of a count, at most
    assert max(abs(seen - expected) for seen in times.values()) < 4.5 * deviation


def test_upright_images_are_not_turned_and_no_policy_but_none_forgets_the_turns():
    for name in POLICIES:
        assert policy_named(name) == POLICIES[name] and not POLICIES[name].turn
        assert policy_named(name, upright=False).turn is (name != "none")


# What changes the targets too ----------------------------------------------------------------------


def mixed(share, count=64, seed=1):
    batch, targets = noise(count), np.eye(4, dtype=np.float32)[np.arange(count) % 4]
    weights = np.random.default_rng(2).uniform(0.5, 2, count).astype(np.float32)
    given = batch.copy(), targets.copy(), weights.copy()
    out = mix(batch, targets, weights, np.random.default_rng(seed), share)
    assert all(np.array_equal(a, b) for a, b in zip(given, (batch, targets, weights), strict=True))
    return batch, targets, weights, out


def test_a_share_of_nothing_mixes_nothing():
    batch, targets, weights, out = mixed(0.0)
    assert all(np.array_equal(a, b) for a, b in zip(out, (batch, targets, weights), strict=True))


def test_about_the_share_is_mixed_and_targets_still_sum_to_one():
    batch, _targets, weights, (images, soft, heavy) = mixed(0.7, count=2000)
    assert images.dtype == np.uint8 and soft.dtype == heavy.dtype == np.float32
    assert np.allclose(soft.sum(axis=1), 1, atol=1e-6) and (soft >= 0).all()
    assert 0.6 < (images != batch).any(axis=(1, 2, 3)).mean() < 0.75  # some keep nearly all of themselves
    assert weights.min() <= heavy.min() and heavy.max() <= weights.max()
    assert abs(heavy.mean() - weights.mean()) < 0.02


def test_each_of_two_images_keeps_its_own_weight():
    """Weight times target is the sum of both images' shares, each times the weight of its class."""
    count, of_class = 400, np.array([9.0, 0.5, 2.0, 1.0], np.float32)
    codes = np.arange(count) % 4
    targets = np.eye(4, dtype=np.float32)[codes]
    _, soft, heavy = mix(noise(count), targets, of_class[codes], np.random.default_rng(0), 1.0)
    assert np.allclose((heavy[:, None] * soft / of_class).sum(axis=1), 1, atol=1e-5)


def test_an_image_is_mixed_as_much_as_its_target():
    """Each class is one grey level, so a mixed image's mean grey must be that of its target."""
    count, levels = 400, np.array([0, 80, 160, 240])
    codes = np.arange(count) % 4
    batch = np.broadcast_to(levels[codes].astype(np.uint8)[:, None, None, None], (count, 12, 10, 3)).copy()
    targets = np.eye(4, dtype=np.float32)[codes]
    images, soft, _ = mix(batch, targets, np.ones(count, np.float32), np.random.default_rng(0), 1.0)
    assert np.abs(images.mean(axis=(1, 2, 3)) - soft @ levels).max() < 1
    parts = [len(np.unique(image)) for image in images]
    assert parts.count(2) > 50 and parts.count(1) > 150  # cut, and blended or left


@pytest.mark.parametrize(
    ("exclusive", "expected"), [(True, [0.925, 0.025, 0.025, 0.025]), (False, [0.95, 0.05, 0.05, 0.05])]
)
def test_smoothing_spreads_over_classes_or_over_yes_and_no(exclusive, expected):
    assert np.allclose(smooth(np.eye(4, dtype=np.float32)[:1], 0.1, exclusive), expected)


def test_a_policy_between_two_is_each_at_its_end_and_mirrors_and_turns_as_the_first():
    one, other = POLICIES["light"], POLICIES["strong"]
    assert between(one, other, 0) == one
    assert between(one, replace(other, flip=False), 1) == replace(other, flip=one.flip)
    assert between(replace(one, flip=False), other, 0.5).flip is False
    assert between(one, other, 0.5).rotate == 7.5
    assert between(one, replace(other, turn=True), 0.5).turn is False
    assert between(replace(one, turn=True), other, 0.5).turn is True
