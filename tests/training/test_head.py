"""The head's fit is the minimum of its convex problem; features are computed once and are those of the net."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rightfit.console import Console
from rightfit.data.augment import POLICIES
from rightfit.data.features import digest, kept_or_computed
from rightfit.evaluation.metrics import image_losses
from rightfit.nets.resnet import build
from rightfit.training import head
from rightfit.training.head import PENALTIES, Extractor, Samples, fit

QUIET = Console(quiet=True)
SIDE = 8  # px


def blobs(count, outputs, seed, width=12):
    """Overlapping clouds, so that no plane separates them: features (N, D), classes (N,)."""
    generator = np.random.default_rng([seed, count])
    centres = np.random.default_rng(0).normal(0, 1.0, (outputs, width))
    codes = np.arange(count) % outputs
    features = 3.0 * (centres[codes] + generator.normal(0, 1.5, (count, width))) + 7.0
    return features.astype(np.float32), codes


def samples(count=300, outputs=3, seed=1, weights=None):
    features, codes = blobs(count, outputs, seed)
    targets = np.eye(outputs, dtype=np.float32)[codes]
    return Samples([features], targets, np.ones(count, np.float32) if weights is None else weights), codes


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_the_fit_is_the_minimum_that_scikit_learn_finds(penalty, monkeypatch):
    """scikit-learn's C is 1 / (images x penalty) for the sum over images, on the same standardised features."""
    monkeypatch.setattr(head, "PENALTIES", (penalty,))
    train, codes = samples()
    held, _ = samples(seed=2)
    found, _ = fit(train, held, "categorical")
    features = train.features[0].astype(np.float64)
    standard = (features - features.mean(0)) / features.std(0)
    peer = LogisticRegression(C=1 / (len(codes) * penalty), tol=1e-8, max_iter=2000).fit(standard, codes)
    ours, theirs = found.logits(train.features[0]), peer.decision_function(standard)
    ours = ours - ours.mean(axis=1, keepdims=True)  # softmax does not see a constant
    theirs = theirs - theirs.mean(axis=1, keepdims=True)
    assert np.abs(ours - theirs).max() < 5e-3


@pytest.mark.parametrize("mode, outputs", [("categorical", 3), ("binary", 1), ("multilabel", 3)])
def test_the_gradient_is_the_slope_of_the_objective(mode, outputs):
    generator = np.random.default_rng(3)
    features = [generator.normal(2, 3, (40, 5)).astype(np.float32) for _ in range(2)]
    targets = (generator.random((40, outputs)) > 0.5).astype(np.float32)
    if mode == "categorical":
        targets = np.eye(outputs, dtype=np.float32)[generator.integers(0, outputs, 40)]
    weights = generator.uniform(0.2, 2, 40).astype(np.float32)
    problem = head._Problem(Samples(features, targets, weights), mode)
    point = generator.normal(0, 0.5, problem.shape).ravel()
    _, slope = problem._objective(point, 0.05)
    for index in range(len(point)):
        step = np.zeros_like(point)
        step[index] = 1e-2
        above, below = (problem._objective(point + sign * step, 0.05)[0] for sign in (1, -1))
        assert (above - below) / 2e-2 == pytest.approx(slope[index], abs=2e-4)


def test_the_penalty_with_the_lowest_validation_loss_is_chosen():
    train, _ = samples(count=60)
    held, _ = samples(count=3000, seed=5)
    found, tried = fit(train, held, "categorical")
    assert list(tried) == list(PENALTIES[: len(tried)])
    assert found.penalty == min(tried, key=tried.__getitem__)
    loss = image_losses(found.logits(held.features[0]), held.targets, "categorical").mean()
    assert loss == pytest.approx(min(tried.values()))
    assert tried[found.penalty] < min(tried[PENALTIES[0]], list(tried.values())[-1])


def test_without_validation_images_a_fifth_judges_and_all_are_fitted():
    train, _ = samples(count=200)
    found, tried = fit(train, None, "categorical")
    again = head._Problem(train, "categorical").solve(found.penalty)
    assert len(tried) > 1
    assert np.abs(found.logits(train.features[0]) - again.logits(train.features[0])).max() < 1e-2


def test_an_image_of_weight_two_counts_as_two_images():
    features, codes = blobs(90, 3, 1)
    targets = np.eye(3, dtype=np.float32)[codes]
    twice = np.where(np.arange(90) % 4 == 0, 2.0, 1.0).astype(np.float32)
    repeated = np.repeat(np.arange(90), twice.astype(int))
    copies = Samples([features[repeated]], targets[repeated], np.ones(len(repeated), np.float32))
    heads = [
        head._Problem(Samples([features], targets, twice), "categorical"),
        head._Problem(copies, "categorical"),
    ]
    # Standardisation counts an image once, and the penalty meets what is standardised: so almost without one.
    logits = [problem.solve(1e-9).logits(features) for problem in heads]
    logits = [block - block.mean(axis=1, keepdims=True) for block in logits]
    assert np.abs(logits[0] - logits[1]).max() < 1e-2 * np.abs(logits[0]).max()


def test_without_validation_images_a_random_fifth_of_whole_groups_judges_the_penalty():
    held = head._a_fifth(np.repeat(np.arange(50), 2))
    assert held.reshape(50, 2).sum() == 20 and (held[::2] == held[1::2]).all()
    # classes in turns, as arrays often come: every class is on both sides
    codes = np.arange(500) % 5
    held = head._a_fifth(np.arange(500))
    assert held.sum() == 100 and set(codes[held]) == set(codes[~held]) == set(range(5))


def test_a_feature_that_never_changes_is_left_alone():
    train, _ = samples()
    train.features[0][:, 4] = 3.0
    found, _ = fit(train, train, "categorical")
    assert np.all(found.kernel[4] == 0)
    assert np.isfinite(found.kernel).all()


class Pictures:
    def __init__(self, count=70):
        self.images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
        self.asked = 0

    def gather(self, rows):
        self.asked += len(rows)
        return self.images[rows]


@pytest.fixture(scope="module")
def net():
    return build("resnet8", 3, (SIDE, SIDE))


def test_features_and_the_head_give_the_logits_of_the_net(net, tmp_path):
    pictures, rows = Pictures(), np.arange(70)[::-1].copy()
    features = Extractor(net, "float32", pictures, "these", tmp_path).features(rows, None, 0, 0, QUIET)
    layer = net.get_layer("logits")
    found = features @ np.array(layer.kernel) + np.array(layer.bias)
    expected = net.predict_on_batch(pictures.images[rows])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_features_are_computed_once_for_the_same_net_images_and_view(net, tmp_path):
    pictures, rows = Pictures(), np.arange(70)
    first = Extractor(net, "float32", pictures, "these", tmp_path)
    kept = [first.features(rows, None, 0, 0, QUIET), first.features(rows, POLICIES["light"], 0, 1, QUIET)]
    assert pictures.asked == 140
    second = Extractor(net, "float32", pictures, "these", tmp_path)
    again = [second.features(rows, None, 0, 0, QUIET), second.features(rows, POLICIES["light"], 0, 1, QUIET)]
    assert pictures.asked == 140
    assert all(np.array_equal(a, b) for a, b in zip(kept, again, strict=True))


def test_features_are_computed_anew_when_anything_differs(net, tmp_path):
    pictures, rows, light = Pictures(), np.arange(70), POLICIES["light"]
    extractor = Extractor(net, "float32", pictures, "these", tmp_path)
    seen = [
        extractor.features(rows, light, 0, 1, QUIET),
        extractor.features(rows, light, 1, 1, QUIET),
        extractor.features(rows, light, 0, 2, QUIET),
        extractor.features(rows, POLICIES["strong"], 0, 1, QUIET),
        extractor.features(rows, None, 0, 0, QUIET),
    ]
    assert pictures.asked == 350
    assert all(not np.array_equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    Extractor(net, "float32", pictures, "others", tmp_path).features(rows, None, 0, 0, QUIET)
    assert pictures.asked == 420
    other = keras.models.clone_model(net)
    other.set_weights([weight * 1.01 for weight in net.get_weights()])
    Extractor(other, "float32", pictures, "these", tmp_path).features(rows, None, 0, 0, QUIET)
    assert pictures.asked == 490
    scaled = keras.models.clone_model(net, clone_function=darker)  # the same weights, other pixels
    scaled.set_weights(net.get_weights())
    Extractor(scaled, "float32", pictures, "these", tmp_path).features(rows, None, 0, 0, QUIET)
    assert pictures.asked == 560


def darker(layer):
    config = layer.get_config()
    if layer.name == "normalise":
        config["scale"] = [0.5 * scale for scale in config["scale"]]
    return type(layer).from_config(config)


def numbers(shape=(10, 4)):
    return np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)


def test_a_damaged_file_of_features_is_computed_anew(tmp_path):
    key = digest("something")
    for content in (b"", b"garbage", None):
        if content is not None:
            (tmp_path / "features").mkdir(exist_ok=True)
            (tmp_path / "features" / f"{key}.npy").write_bytes(content)
        assert np.array_equal(kept_or_computed(tmp_path, key, (10, 4), lambda: iter([numbers()])), numbers())
    kept = kept_or_computed(tmp_path, key, (10, 4), lambda: pytest.fail("it is there"))
    assert np.array_equal(kept, numbers())


def test_a_computation_that_breaks_off_leaves_nothing(tmp_path):
    def broken():
        yield numbers((4, 4))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_or_computed(tmp_path, digest("x"), (10, 4), broken)
    assert list((tmp_path / "features").iterdir()) == []


def test_where_the_cache_cannot_be_written_features_stay_in_memory(tmp_path):
    (tmp_path / "features").write_text("a file where the folder should be")
    kept = kept_or_computed(tmp_path, digest("x"), (10, 4), lambda: iter([numbers()]))
    assert np.array_equal(kept, numbers())


def test_the_least_recently_used_features_make_room(tmp_path, monkeypatch):
    from rightfit.data import features

    monkeypatch.setattr(features, "LIMIT", 1000)
    for name in "abc":
        monkeypatch.setattr(features, "USED", set())  # each in a process of its own
        kept_or_computed(tmp_path, digest(name), (50, 4), lambda: iter([numbers((50, 4))]))
    assert [path.stem for path in (tmp_path / "features").iterdir()] == [digest("c")]


def test_what_a_run_uses_itself_never_makes_room(tmp_path, monkeypatch):
    from rightfit.data import features

    monkeypatch.setattr(features, "LIMIT", 1000)
    for name in "abc":
        kept_or_computed(tmp_path, digest(name), (50, 4), lambda: iter([numbers((50, 4))]))
    assert {path.stem for path in (tmp_path / "features").iterdir()} == {digest(name) for name in "abc"}
