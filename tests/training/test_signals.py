"""What a finished training shows besides its gap: wrong labels, images of another kind, averages that do not suit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.training import inner, signals
from rightfit.training.diagnosis import APART, DOUBTED, FALLING, SEVERAL
from rightfit.training.judging import Judged, Validation

COUNT, CLASSES = 600, 10


class Pixels:
    def __init__(self, images):
        self.images = images

    def gather(self, rows):
        return self.images[rows]


def judged(logits, codes, mode="categorical", groups=None):
    targets = np.eye(logits.shape[1], dtype=np.float32)[codes] if mode == "categorical" else codes[:, None]
    rows = np.arange(len(logits))
    return Judged(logits.astype(np.float32), Validation(None, rows, targets.astype(np.float32), groups), mode)


def answers(wrong, hard=0.0, seed=0):
    """Logits and labels: `wrong` of the labels drawn anew at random; `hard` of the images between two classes."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, COUNT)
    logits = generator.normal(0, 1, (COUNT, CLASSES))
    logits[np.arange(COUNT), truth] += 6
    confused = generator.random(COUNT) < hard
    logits[np.arange(COUNT), (truth + 1) % CLASSES] += confused * generator.normal(6, 1, COUNT)
    labels = np.where(generator.random(COUNT) < wrong, generator.integers(0, CLASSES, COUNT), truth)
    return logits, labels


@pytest.mark.parametrize("wrong", [0.25, 0.5])
def test_wrong_labels_show_where_answers_are_sure_and_second_answers_do_not_help(wrong):
    share, second = signals.surer_half(judged(*answers(wrong)))
    assert share.low > DOUBTED and abs(share.value - 0.9 * wrong) < 0.08
    assert second.high < 0.5


@pytest.mark.parametrize("hard", [0.0, 0.5, 1.0])
def test_hard_images_are_no_wrong_labels(hard):
    share, second = signals.surer_half(judged(*answers(0.0, hard)))
    assert not (share.low > DOUBTED and second.high < 0.5)


def test_of_single_labels_and_one_image_nothing_is_said_of_the_surer_half():
    assert signals.surer_half(judged(np.zeros((5, 1)), np.zeros(5), "binary")) is None
    assert signals.surer_half(judged(np.zeros((1, 3)), np.zeros(1, int))) is None


def test_what_is_guessed_carries_nothing_over_and_what_is_known_does():
    logits, labels = answers(0.0)
    shares = np.full(CLASSES, 1 / CLASSES)
    assert signals.carried_over(judged(logits, labels), shares).low > 0.5
    noise = np.random.default_rng(3).permutation(labels)
    assert signals.carried_over(judged(logits, noise), shares).low <= 0
    common = np.eye(2)[np.zeros(100, int)] @ np.array([[2.2], [0.0]])  # 90 % whatever the image
    codes = (np.arange(100) < 90).astype(float)
    assert signals.carried_over(judged(common, codes, "binary"), np.array([0.1, 0.9])).low <= 0


def history(losses):
    return [{"epoch": n + 1, "steps": 5, "loss": loss, "trainable": "all"} for n, loss in enumerate(losses)]


def test_a_loss_that_falls_all_the_way_is_told_from_one_that_has_settled():
    epochs = np.arange(1, 41)
    falling, settled = 2.3 - 0.04 * epochs, 0.5 + 1.5 * np.exp(-epochs / 3)
    assert signals.still_falling(history(falling), 40).low > FALLING
    assert signals.still_falling(history(settled), 40).low < FALLING
    changed = [row | {"strength": 0.3 if row["epoch"] < 15 else 0.5} for row in history(falling)]
    assert signals.still_falling(changed, 40) is None
    assert signals.still_falling(history(falling[:12]), 40) is None
    assert signals.still_falling(history(falling[:12]), 12) is None


@given(st.floats(1e-8, 2), st.integers(0, 10**6))
def test_the_way_that_kernels_moved_is_measured_against_their_size(share, seed):
    generator = np.random.default_rng(seed)
    before = [generator.normal(size=(3, 4)), generator.normal(size=4), generator.normal(size=(2, 2))]
    after = [before[0] * (1 + share), before[1] * 9, before[2] * (1 + share)]
    assert signals.moved(before, after) == pytest.approx(share, rel=1e-6)
    assert signals.moved(before[1:2], after[1:2]) == 0
    frozen = [*before, np.ones((9, 9))], [*after, np.ones((9, 9))]
    assert signals.moved(*frozen) == pytest.approx(share, rel=1e-6)


# Images of another kind -----------------------------------------------------------------------------


def side(images, codes, groups=None):
    rows = np.arange(len(images))
    return Validation(Pixels(images), rows, np.eye(3, dtype=np.float32)[codes], groups)


def photographs(count, seed, classes=None):
    generator = np.random.default_rng(seed)
    codes = generator.integers(0, 3, count) if classes is None else np.resize(classes, count)
    base = 60 + 40 * codes[:, None, None, None] + generator.normal(0, 10, (count, 1, 1, 1))
    noise = generator.normal(0, 25, (count, 12, 12, 3))
    return np.clip(base + noise, 0, 255).astype(np.uint8), codes


def surely(shift):
    return abs(shift.value - 0.5) - SEVERAL * shift.half > APART


@pytest.mark.parametrize("seed", range(5))
def test_images_of_one_kind_are_not_told_apart_even_if_classes_are_mixed_otherwise(seed):
    train, val = photographs(300, seed), photographs(120, 99 + seed, classes=[0, 0, 0, 2])
    assert not any(surely(shift) for shift in signals.shifts(side(*train), side(*val)).values())


def change(name, images):
    grey = images.astype(np.float32)
    changed = {
        "brightness": lambda: grey * 0.7 + 5,
        "contrast": lambda: 0.4 * grey + 0.6 * grey.mean(axis=(1, 2, 3), keepdims=True),
        "sharpness": lambda: (grey + np.roll(grey, 1, axis=1) + np.roll(grey, 1, axis=2)) / 3,
        "colour": lambda: np.repeat(grey.mean(axis=3, keepdims=True), 3, axis=3),
    }  # fmt: skip
    return np.clip(changed[name](), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", ["brightness", "contrast", "sharpness", "colour"])
def test_what_differs_is_named(name):
    (train, codes), (val, others) = photographs(300, 1), photographs(120, 2)
    found = signals.shifts(side(train, codes), side(change(name, val), others))
    assert surely(found[name]) and found[name].value < 0.5
    back = signals.shifts(side(change(name, train), codes), side(val, others))
    assert surely(back[name]) and back[name].value > 0.5


def test_classes_that_are_on_one_side_only_are_left_out():
    (train, _), (val, _) = photographs(40, 1), photographs(40, 2)
    zeros, ones = np.zeros(40, int), np.ones(40, int)
    assert signals.shifts(side(train, zeros), side(val, ones)) == {}


# The net itself -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def net():
    from rightfit.nets import resnet

    return resnet.build("resnet20", 3, (12, 12), seed=1)


def test_averages_that_do_not_suit_change_predictions_and_not_what_a_batch_says_of_itself(net):
    images, codes = photographs(64, 5)
    given_, calls = side(images, codes), []
    kept = net.get_weights()
    of = [w.path.rsplit("/", 1)[-1] for w in net.weights]

    def by_batch(weights):
        return inner.hits_by_batch(
            net, weights, "float32", given_, 16, "categorical", 0, lambda: calls.append(1)
        )

    places, hits = by_batch(kept)
    assert sorted(places) == list(range(64)) and len(calls) == 4
    wrong = [w + 50 if "moving" in name else w for name, w in zip(of, kept, strict=True)]
    again, same = by_batch(wrong)
    assert np.array_equal(places, again) and np.array_equal(hits, same)
    assert all(np.array_equal(a, b) for a, b in zip(kept, net.get_weights(), strict=True))


def test_channels_that_never_fire_are_counted(net):
    images, codes = photographs(32, 5)
    kept = net.get_weights()
    alive = inner.dead_share(net, kept, side(images, codes), lambda: None)
    of = [w.path for w in net.weights]
    gone = [np.full_like(w, -1e3) if path.endswith("beta") else w for path, w in zip(of, kept, strict=True)]
    assert alive < 0.05
    assert inner.dead_share(net, gone, side(images, codes), lambda: None) > 0.9
