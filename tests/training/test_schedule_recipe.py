"""The learning rate warms up, peaks and ends at nothing; the recipe fills what was left open and nothing else."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import rightfit
from rightfit.config import TrainSettings
from rightfit.data.augment import POLICIES
from rightfit.errors import UsageError
from rightfit.training.recipe import Facts, resolve, sample_weights
from rightfit.training.schedule import WarmupCosine, averaging_decay

peaks = st.floats(1e-6, 10)
lengths = st.integers(1, 400)

# The machine may be busy.
unhurried = hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(peaks, st.integers(0, 500), lengths)
def test_the_rate_is_above_zero_at_every_step_and_never_above_the_peak(peak, warmup, total):
    rates = [WarmupCosine(peak, warmup, total)(step) for step in range(total)]
    assert min(rates) > 0
    assert max(rates) <= peak * (1 + 1e-12)


@unhurried
@given(peaks, lengths, lengths)
def test_the_warm_up_is_linear_and_ends_at_the_peak(peak, warmup, rest):
    schedule = WarmupCosine(peak, warmup, warmup + rest)
    rates = [schedule(step) for step in range(warmup)]
    assert np.allclose(rates, peak * np.arange(1, warmup + 1) / warmup)
    assert np.isclose(rates[-1], peak, rtol=1e-12)
    assert schedule(warmup) == peak


@unhurried
@given(peaks, st.integers(0, 100), lengths)
def test_after_the_warm_up_it_only_falls_to_nothing_at_the_end_and_stays_there(peak, warmup, rest):
    schedule = WarmupCosine(peak, warmup, warmup + rest)
    rates = [schedule(warmup + step) for step in range(rest + 1)]
    assert (np.diff(rates) < 0).all()
    assert np.isclose(schedule(warmup + rest // 2), peak * (1 + np.cos(np.pi * (rest // 2) / rest)) / 2)
    assert abs(rates[-1]) < 1e-12 * peak
    assert schedule(warmup + rest + 50) == rates[-1]


@unhurried
@given(peaks, st.integers(2, 100), lengths)
def test_training_shorter_than_the_warm_up_only_rises(peak, warmup, total):
    schedule = WarmupCosine(peak, warmup, min(total, warmup - 1))
    rates = [schedule(step) for step in range(schedule.total)]
    assert (np.diff(rates) > 0).all()


def decays(decay, steps):
    return [averaging_decay(decay, step) for step in range(steps)]


@unhurried
@given(st.floats(0.01, 0.999999))
def test_the_average_forgets_fast_at_first_and_reaches_its_decay(decay):
    moved = [d for d in decays(decay, 800) if d is not None]
    assert moved == sorted(moved)
    assert all(0 < d < (n + 2) / (n + 10) for n, d in enumerate(moved))
    late = [averaging_decay(decay, 10**9 + step) for step in range(8)]
    assert np.isclose(np.prod([d for d in late if d is not None]), decay**8), "over eight steps it is itself"


@pytest.mark.parametrize("decay", [None, 0.0])
def test_without_a_decay_there_is_no_average(decay):
    assert decays(decay, 100) == [None] * 100


@pytest.mark.parametrize("decay", [0.99, 0.995])
def test_an_average_moved_every_eighth_step_is_nearly_that_of_every_step(decay):
    """Of weights that wander; measured in their own scatter over the average's memory."""
    weights = np.cumsum(np.random.default_rng(0).normal(0, 1, 5000))
    every = eighth = weights[0]
    distances = []
    for step, weight in enumerate(weights):
        factor = min(decay, (1 + step) / (10 + step))
        every = factor * every + (1 - factor) * weight
        factor = averaging_decay(decay, step)
        if factor is not None:
            eighth = factor * eighth + (1 - factor) * weight
        distances.append(every - eighth)
    assert np.std(distances[1000:]) < 0.3 / np.sqrt(1 - decay)


facts = st.builds(
    Facts,
    images=st.integers(1, 2_000_000),
    class_counts=st.just((3, 4)),
    label_mode=st.sampled_from(["binary", "categorical", "multilabel"]),
    side=st.integers(8, 512),
)
# What a person may set, of all that the recipe would choose.
asked = st.fixed_dictionaries(
    {"optimizer": st.sampled_from(["sgd", "adamw"])},
    optional={
        "model": st.sampled_from(["resnet20", "resnet50"]),
        "augment": st.sampled_from(["none", "light", "medium", "strong"]),
        "epochs": st.integers(1, 500),
        "batch_size": st.integers(1, 4096),
        "learning_rate": st.floats(1e-6, 10),
        "warmup_epochs": st.floats(0, 20),
        "weight_decay": st.floats(0, 1),
        "ema": st.floats(0, 0.9999),
        "patience": st.integers(1, 100),
        "label_smoothing": st.floats(0, 0.9),
        "seed": st.integers(0, 9),
    },
)
CHOSEN = (
    "model", "augment", "epochs", "batch_size", "learning_rate", "warmup_epochs", "weight_decay", "ema", "patience",
    "doctor",
)  # fmt: skip


@unhurried
@given(asked, facts)
def test_what_was_set_stays_and_what_training_needs_is_filled_in(values, facts):
    resolved, _ = resolve(TrainSettings(data="photos", **values), facts)
    found = resolved.model_dump()
    for name in CHOSEN:
        assert found[name] not in (None, "auto"), name
    for name, value in values.items():
        assert found[name] == (min(value, facts.images) if name == "batch_size" else value), name
    untouched = set(found) - set(CHOSEN) - set(values)
    assert {n: found[n] for n in untouched} == TrainSettings(data="photos").model_dump(include=untouched)
    assert 1 <= resolved.batch_size <= facts.images
    assert 0 < resolved.warmup_epochs < resolved.epochs or "warmup_epochs" in values
    assert resolved.augment in POLICIES
    assert TrainSettings(**found) == resolved


@unhurried
@given(asked, facts)
def test_every_choice_is_on_record_with_the_value_that_holds_and_a_reason(values, facts):
    resolved, decisions = resolve(TrainSettings(data="photos", **values), facts)
    chosen = {d.setting for d in decisions}
    assert len(chosen) == len(decisions)
    for decision in decisions:
        assert decision.value == getattr(resolved, decision.setting), decision.setting
        assert len(decision.because) > 10
    reduced = {"batch_size"} if values.get("batch_size", 0) > facts.images else set()
    assert chosen == set(CHOSEN) - set(values) | reduced


@unhurried
@given(asked, facts)
def test_settled_settings_are_left_as_they_are(values, facts):
    resolved, _ = resolve(TrainSettings(data="photos", **values), facts)
    assert resolve(resolved, facts) == (resolved, [])


@unhurried
@given(facts, st.sampled_from(["resnet18", "resnet20"]))
def test_the_rate_grows_with_the_batch_and_is_a_hundredth_for_adamw(facts, model):
    def rate(size, optimizer="sgd"):
        asked = TrainSettings(data="photos", model=model, optimizer=optimizer, batch_size=size, epochs=60)
        resolved, _ = resolve(asked, facts)
        return resolved.learning_rate, resolved.batch_size

    (low, few), (middle, some), (high, many) = rate(1), rate(32), rate(128)
    assert np.isclose(middle / low, some / few)
    steady = model == "resnet20" and some == 32
    assert np.isclose(high / middle, 1 if steady else many / some)
    assert all(np.isclose(rate(size, "adamw")[0], rate(size)[0] / 100) for size in (1, 32, 128))


def test_small_images_get_the_cifar_form_and_big_collections_the_deeper_net():
    settings = TrainSettings(data="photos")
    models = [
        resolve(settings, Facts(n, (n,), "categorical", side))[0].model for n, side in [(900, 32), (900, 224)]
    ]
    models.append(resolve(settings, Facts(90_000, (90_000,), "categorical", 224))[0].model)
    assert models == ["resnet20", "resnet18", "resnet50"]


def test_a_doctor_acts_by_itself_from_scratch_on_what_was_left_open_and_where_it_is_asked_to():
    facts = Facts(1000, (500, 500), "categorical", 32)

    def chosen(facts=facts, **given):
        settings, decisions = resolve(TrainSettings(data="photos", **given), facts)
        why = [d.because for d in decisions if d.setting == "doctor"]
        return settings.doctor, why[0] if why else ""

    assert chosen()[0] == "act" and chosen(model="resnet32", epochs=7, batch_size=8)[0] == "act"
    for name, value in {
        "learning_rate": 0.1,
        "augment": "none",
        "weight_decay": 0.0,
        "label_smoothing": 0.0,
    }.items():
        assert chosen(**{name: value})[0] == "advise" and name in chosen(**{name: value})[1]
        assert chosen(**{name: value}, doctor="act") == ("act", "")
    assert chosen(strength=0.5)[0] == "advise"
    assert chosen(Facts(1000, (500, 500), "categorical", 32, pretrained=True))[0] == "advise"
    assert chosen(Facts(1000, (500, 500), "multilabel", 32))[0] == "advise"
    assert chosen(doctor="off") == ("off", "")


def test_more_images_need_fewer_passes():
    base = Facts(100, (100,), "categorical", 32)
    epochs = [
        resolve(TrainSettings(data="photos"), dataclasses.replace(base, images=n))[0].epochs
        for n in (10, 1000, 10_000, 50_000, 10**7)
    ]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (150, 30)


def test_a_hundred_million_steps_have_an_average_too():
    """Its decay must not round to 1, which would be no average at all."""
    settings = TrainSettings(data="photos", batch_size=1, epochs=500)
    resolved, _ = resolve(settings, Facts(2_000_000, (2_000_000,), "categorical", 32))
    assert 0.99999 < resolved.ema < 1


def test_an_unknown_model_is_refused():
    with pytest.raises(UsageError, match="resnet20"):
        resolve(TrainSettings(data="photos", model="resnet21"), Facts(9, (9,), "categorical", 32))


def weighed(counts, mode="categorical", **settings):
    codes = np.repeat(np.arange(len(counts)), counts)
    weights, decision = sample_weights(TrainSettings(data="photos", **settings), codes, counts, mode)
    return weights, codes, decision


@unhurried
@given(
    st.lists(st.integers(0, 500), min_size=2, max_size=8).filter(any), st.sampled_from(["auto", "balanced"])
)
def test_class_weights_have_mean_one_and_make_classes_count_as_their_roots_or_alike(counts, asked):
    weights, codes, decision = weighed(counts, class_weights=asked)
    assert weights.dtype == np.float32
    assert np.isclose(weights.mean(), 1, rtol=1e-5)
    present = np.array([c for c in counts if c])
    totals = np.bincount(codes, weights=weights, minlength=len(counts))[np.array(counts) > 0]
    if asked == "balanced":
        assert np.allclose(totals, totals[0], rtol=1e-4)
    elif max(present) > 1.5 * min(present):
        assert np.allclose(totals / present**0.5, totals[0] / present[0] ** 0.5, rtol=1e-4)
    else:
        assert (weights == 1).all()
    assert (decision is not None) == bool((weights != 1).any())
    if decision:
        assert np.allclose(np.array(decision.value)[codes], weights, atol=1e-4)


@pytest.mark.parametrize(
    "counts, asked, uneven",
    [
        ((100, 150), "auto", False),
        ((100, 151), "auto", True),
        ((100, 101), "balanced", True),
        ((100, 100), "balanced", False),
    ],
)
def test_even_is_up_to_one_and_a_half_times_unless_classes_are_to_count_alike(counts, asked, uneven):
    weights, _, decision = weighed(counts, class_weights=asked)
    assert (len(set(weights.tolist())) > 1) == (decision is not None) == uneven


@pytest.mark.parametrize("mode, settings", [("categorical", {"class_weights": "none"}), ("multilabel", {})])
def test_no_weights_when_they_were_declined_or_images_have_many_labels(mode, settings):
    weights, _, decision = weighed((10, 1000), mode, **settings)
    assert (weights == 1).all()
    assert decision is None


def test_classes_that_count_alike_are_not_for_several_labels(tmp_path, write_images):
    photos = write_images(tmp_path / "photos", count=4)
    rows = [f"{path},{path.parent.name}|one" for path in sorted(photos.rglob("*.png"))]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(UsageError, match="these have several labels"):
        rightfit.train(tmp_path / "table.csv", class_weights="balanced", output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
