"""The doctor moves within its range, never without evidence, turns back what harmed, and finds the rate that learns."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.config import TrainSettings
from rightfit.data.augment import POLICIES, Policy
from rightfit.training import race, treatment
from rightfit.training.diagnosis import DOUBTED, MISSED, Measured
from rightfit.training.doctor import (
    REST,
    SETTLED,
    SETTLED_LONG,
    SHARE,
    SLOW,
    Condition,
    Look,
    Move,
    _wrong_at_the_end,
    decide,
    first_stride,
)
from rightfit.training.judging import Judged, Validation
from rightfit.training.state import Progress
from rightfit.training.strength import START, Restraint, restraint

shares = st.floats(0, 1)
halves = st.floats(0.001, 0.5)
accuracies = st.builds(Measured, shares, halves)
changes = st.none() | st.builds(Measured, st.floats(-2, 2), halves)
earlier = st.none() | st.tuples(st.integers(1, 9), accuracies)
looks = st.builds(
    Look, st.integers(10, 60), st.just(60), accuracies, accuracies, changes, changes, changes, earlier,
    st.none() | accuracies, st.booleans(),
)  # fmt: skip


def look(train, val, half=0.01, epoch=20, earlier=None, train_moved=None, val_moved=None):
    return Look(epoch, 60, Measured(train, half), Measured(val, half), None, train_moved, val_moved, earlier)


def flat(train, val, half=0.01):
    """Of an epoch since whose half nothing was learnt."""
    return look(train, val, half, earlier=(10, Measured(train, half)))


def start(**changed):
    return dataclasses.replace(Condition(START, 0.2), **changed)


LEARNT = look(0.99, 0.80)
UNLEARNT = flat(0.70, 0.69)
HARMED = {"train_moved": Measured(0.2, 0.1), "val_moved": Measured(0.3, 0.1)}


@given(st.lists(looks, max_size=40), st.floats(0, 1))
def test_strength_never_leaves_its_range(seen, first):
    condition = Condition(first, first_stride(len(seen)))
    for one in seen:
        condition = decide(one, condition).condition
        assert 0 <= condition.strength <= condition.ceiling <= 1
        assert condition.stride > 0 and condition.rest >= 0


@given(looks)
def test_nothing_is_raised_without_a_sure_gap_nor_lowered_while_images_are_learnt(one):
    gap = one.train_accuracy - one.val_accuracy
    move = decide(one, start())
    if gap.low <= 0:
        assert move.condition.strength <= START
    noisy = one.sure_wrong is not None and one.sure_wrong.low > DOUBTED
    left_alone = noisy or one.epoch < SLOW * one.epochs or (one.earlier is None and not one.brief)
    falling = one.train_since_last is None or one.train_since_last.high < 0
    if one.train_accuracy.high >= 0.9 or (left_alone and (falling or not one.brief)):
        assert move.condition.strength >= START
    assert bool(move.because) == (move.condition.strength != START)


def test_learnt_by_heart_raises_and_not_learnt_lowers():
    assert decide(LEARNT, start()).condition.strength == pytest.approx(START + 0.2)
    assert "99.0" in decide(LEARNT, start()).because
    assert decide(UNLEARNT, start()).condition.strength == pytest.approx(START - 0.2)
    assert "since epoch 10, 20 % or more would still be wrong at the end" in decide(UNLEARNT, start()).because


def test_who_will_have_learnt_by_the_end_is_held_back_as_before():
    """Of 60 epochs, wrong answers fell by a tenth or by half between the tenth and the twentieth."""
    for then, moved in ((0.67, True), (0.40, False)):
        learning = dataclasses.replace(UNLEARNT, earlier=(10, Measured(then, 0.01)))
        assert (decide(learning, start()).condition.strength < START) == moved, then
    for unknown in (None, (10, Measured(0.7, math.nan))):
        assert decide(dataclasses.replace(UNLEARNT, earlier=unknown), start()).condition == start()
    soon = dataclasses.replace(UNLEARNT, epoch=math.ceil(60 * SLOW) - 1)
    assert decide(soon, start()).condition == start()


def test_an_interval_that_leaves_open_whether_it_will_be_learnt_moves_nothing():
    for half, moved in ((0.01, True), (0.03, False)):
        assert (decide(flat(0.80, 0.79, half), start()).condition != start()) == moved


@given(st.integers(2, 59), st.floats(0.02, 0.98), st.floats(0.02, 0.98), st.floats(0.001, 0.1))
def test_no_more_will_be_wrong_than_now_and_more_where_it_fell_less(epoch, wrong, wrong_then, half):
    def left(wrong_then, half=half, epochs=60):
        of_now, of_then = Measured(1 - wrong, half), Measured(1 - wrong_then, half)
        return _wrong_at_the_end(epoch, of_now, epochs, max(1, epoch // 2), of_then)

    assert left(wrong_then) < wrong
    assert left(wrong_then) < left(wrong_then, half / 2), "a narrower interval leaves less open"
    if wrong_then > wrong + 0.02:
        assert left(wrong_then, 0.0) < left(wrong_then - 0.01, 0.0), "it fell less"
        assert left(wrong_then, 0.0, 200) < left(wrong_then, 0.0), "there is longer to learn"


def test_only_the_rate_that_is_still_to_fall_is_hoped_for():
    """Nothing was learnt since the middle of the epochs so far; a third would go while the whole rate falls."""
    never = Measured(0.8, 0.0)
    left = [_wrong_at_the_end(epoch, never, 100, epoch // 2, never) / 0.2 for epoch in (2, 50, 98)]
    assert left == pytest.approx([2 / 3, (2 / 3) ** 0.5, 1], rel=0.001)


def looked_at(epochs):
    """A history with a look every third epoch; accuracy is a hundredth of the epoch."""
    row = {"probe_accuracy_half_width": 0.03}
    return [
        {"epoch": n} | (row | {"probe_accuracy": n / 100} if n % 3 == 0 else {}) for n in range(1, epochs + 1)
    ]


def test_the_pace_is_that_of_the_later_half_and_neither_of_another_strength_nor_another_schedule():
    cases = [(30, 0, 0, 15), (27, 0, 0, 12), (6, 0, 0, 3), (30, 18, 0, 18), (30, 27, 0, 27), (30, 6, 20, 21)]
    for epoch, changed, first, earlier in [*cases, (30, 0, 21, 24)]:
        progress = Progress(history=looked_at(epoch - 1), doctor={"changed": changed})
        assert treatment._earlier(progress, epoch, first) == (earlier, Measured(earlier / 100, 0.03))
    for epoch, changed, first in ((3, 0, 0), (30, 30, 0), (30, 0, 27)):
        progress = Progress(history=looked_at(epoch - 1), doctor={"changed": changed})
        assert treatment._earlier(progress, epoch, first) is None


@pytest.mark.parametrize("resumed", [False, True])
def test_what_was_seen_is_treated(resumed):
    """Of 60 epochs 20 are over, and a third of all images are wrong, not surely, as after the ninth."""
    targets = np.eye(2, dtype=np.float32)[np.zeros(399, int)]
    logits = np.where(np.arange(399)[:, None] % 3 == 0, [[-0.1, 0.1]], [[1.0, -1.0]]).astype(np.float32)
    seen = Judged(logits, Validation(None, np.arange(399), targets, None), "categorical")
    for then, moved in ((2 / 3, True), (0.2, False)):
        history = looked_at(19)
        history[8]["probe_accuracy"] = then
        progress = Progress(epochs=60, history=history)
        treatment.begin(progress, START, 20)
        if resumed:
            progress = Progress.from_json(progress.to_json())
        found = treatment.treat(progress, 20, 0, False, seen, seen)
        assert (found is not None) == moved and (progress.doctor["strength"] < START) == moved
        if found:
            assert "66.7 ±" in found.because and "since epoch 9" in found.because


def test_a_brief_run_is_held_back_less_where_it_learns_no_more_or_a_third_is_over():
    brief = look(0.70, 0.69, epoch=10)
    assert decide(brief, start()).condition == start()
    for moved in (
        dataclasses.replace(brief, brief=True, train_since_last=Measured(0.0, 0.01)),
        dataclasses.replace(brief, brief=True, epoch=round(60 * SLOW)),
    ):
        assert decide(moved, start()).condition.strength == pytest.approx(START - 0.2)
        assert decide(dataclasses.replace(moved, brief=False), start()).condition == start()
    falling = dataclasses.replace(brief, brief=True, train_since_last=Measured(-0.2, 0.1))
    assert decide(falling, start()).condition == start()
    assert "18 of 60 epochs are over" in decide(moved, start()).because


def test_labels_that_contradict_sure_answers_are_not_to_be_learnt():
    for slow in (UNLEARNT, look(0.70, 0.69)):
        for sure_wrong, moved in ((Measured(0.3, 0.05), False), (Measured(0.12, 0.05), True)):
            doubted = dataclasses.replace(slow, sure_wrong=sure_wrong, brief=slow.earlier is None)
            assert (decide(doubted, start()).condition != start()) == moved


def test_where_labels_are_doubted_their_fit_moves_nothing():
    for one in (LEARNT, UNLEARNT):
        assert decide(one, start()).because
        assert decide(one, start(doubted=5)) == Move(start(doubted=5), "")


def test_wide_intervals_move_nothing():
    assert decide(look(0.99, 0.80, half=0.2), start()).condition == start()
    assert decide(flat(0.70, 0.69, half=0.3), start()).condition == start()


def test_the_share_is_a_half():
    for train, moved in ((0.80, -0.2), (0.85, 0.0), (0.88, 0.2)):
        found = decide(flat(train, 0.7, half=0.015), start())
        assert found.condition.strength == pytest.approx(START + moved)


@given(st.floats(0.5, 1), st.floats(0.4, 0.95), st.floats(0.005, 0.1))
def test_training_s_share_of_wrong_answers_is_held_at_one_share_of_validation_s(train, val, half):
    """Whatever moves strength moves it towards the share, and only from where its interval leaves no doubt."""
    one = flat(train, val, half=half)
    moved = decide(one, start()).condition.strength - START
    beyond, doubt = (1 - train) - SHARE * (1 - val), half * (1 + SHARE**2) ** 0.5
    if abs(beyond) <= doubt:
        assert moved == 0
    elif beyond > 0:
        not_learnt = _wrong_at_the_end(20, one.train_accuracy, 60, *one.earlier) > MISSED
        assert moved <= 0 and (moved < 0) == (train + half < 0.9 and not_learnt)
    else:
        assert moved >= 0 and (moved > 0) == (train - val > half * 2**0.5)  # a gap that is sure


@pytest.mark.parametrize("brief", [False, True])
def test_at_the_end_nothing_moves(brief):
    last = math.floor(60 * (1 - (SETTLED if brief else SETTLED_LONG)))
    for moving in (LEARNT, UNLEARNT):
        for epoch, moved in ((last, True), (last + 1, False)):
            late = dataclasses.replace(moving, epoch=epoch, brief=brief)
            assert (decide(late, start()).condition != start()) == moved


def test_a_raise_that_harmed_both_losses_is_undone_and_not_made_again():
    raised = decide(LEARNT, start()).condition
    undone = decide(look(0.95, 0.80, **HARMED), raised)
    assert undone.condition.strength == pytest.approx(START)
    assert "undone" in undone.because
    condition = undone.condition
    for _ in range(REST + 3):
        condition = decide(LEARNT, condition).condition
    assert condition.strength == pytest.approx(START)


@given(st.integers(1, 200), st.integers(1, 3))
def test_after_an_undone_raise_nothing_is_raised_above_where_it_was(looks_of_run, raises):
    condition = Condition(START, first_stride(looks_of_run))
    for _ in range(raises):
        condition = decide(LEARNT, condition).condition
    condition = decide(look(0.95, 0.80, **HARMED), condition).condition
    for one in [*(REST + 1) * [UNLEARNT], *20 * [LEARNT]]:
        move = decide(one, condition)
        assert bool(move.because) == (move.condition.strength != condition.strength)
        condition = move.condition
        assert condition.strength <= condition.ceiling


def test_memorising_is_no_harm():
    """Validation loss rises, that of training images falls: what asks for more, not for less."""
    raised = decide(LEARNT, start()).condition
    memorised = look(0.99, 0.80, train_moved=Measured(-0.2, 0.1), val_moved=Measured(0.3, 0.1))
    assert decide(memorised, raised).condition.strength > raised.strength


def test_turning_back_halves_the_stride_and_rests():
    up = decide(LEARNT, start()).condition
    down = decide(UNLEARNT, up).condition
    assert down.strength == pytest.approx(up.strength - 0.1)
    resting = down
    for _ in range(REST):
        assert decide(LEARNT, resting).because == ""
        resting = decide(LEARNT, resting).condition
    assert decide(LEARNT, resting).because


# The path -------------------------------------------------------------------------------------------

SETTINGS = TrainSettings(data="", label_smoothing=0.1, weight_decay=0.005)


@pytest.mark.parametrize("side", [28, 224])
@pytest.mark.parametrize("name", ["light", "medium", "strong"])
def test_the_path_goes_through_the_settings_and_only_upwards(name, side):
    policy = POLICIES[name]
    steps = [restraint(strength, policy, SETTINGS, side) for strength in np.linspace(0, 1, 11)]
    assert restraint(START, policy, SETTINGS, side) == Restraint(policy, 0.1, 0.005)
    assert steps[0] == Restraint(Policy(flip=policy.flip), 0, 0)
    for below, above in itertools.pairwise(steps):
        assert below.smoothing <= above.smoothing and below.weight_decay < above.weight_decay
        assert below.policy.zoom >= above.policy.zoom
        for change in ("shift", "rotate", "colour", "erase", "mix"):
            assert getattr(below.policy, change) <= getattr(above.policy, change) + 1e-12, change
        assert above.policy.flip == policy.flip


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(("flip", "turn"), [(False, False), (False, True), (True, True)])
def test_no_strength_mirrors_or_turns_what_must_not_be_nor_ceases_to(strength, flip, turn):
    policy = dataclasses.replace(POLICIES["light"], flip=flip, turn=turn)
    found = restraint(strength, policy, SETTINGS, 28).policy
    assert (found.flip, found.turn) == (flip, turn)


# The race -------------------------------------------------------------------------------------------


class Bowl:
    """A step whose loss is a quadratic of one number: rates over 2 diverge, small ones crawl."""

    def __init__(self, best=1.0):
        self.place, self.sum, self.best, self.restored = 3.0, 0.0, best, 0

    def state(self):
        return self.place

    def restore(self, state):
        self.place, self.restored = state, self.restored + 1

    def begin(self):
        self.sum = 0.0

    def __call__(self, batch, rate, decay):
        assert decay is None
        self.sum += 4 * (0.5 + self.place**2)
        self.place -= rate / self.best * self.place

    def totals(self):
        return np.array([self.sum, 0, 0])


class Four:
    steps, batch_size = 5, 4

    def batch(self, epoch, step):
        return (epoch, step)


@pytest.mark.parametrize(("rate", "rung"), [(0.5, 0), (0.5 / 30, 2), (0.5 / 6, 1), (9.0, 0)])
def test_the_race_finds_the_rung_above_that_learns_fastest_and_never_goes_below(rate, rung):
    step, seen = Bowl(), []
    outcome = race.race(step, Four(), rate, 30, lambda: seen.append(1))
    assert outcome.factor == pytest.approx(race.RUNG**rung)
    assert step.place == 3.0
    assert outcome.steps == len(seen) and f"{rate:.3g}" in outcome.because


def test_a_race_that_is_broken_off_leaves_the_step_as_it_was():
    step = Bowl()

    def check():
        if step.sum > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        race.race(step, Four(), 0.001, 30, check)
    assert step.place == 3.0


def test_a_race_that_was_broken_off_is_held_again():
    def check():
        raise KeyboardInterrupt

    progress, settings = Progress(epochs=200), TrainSettings(data="", learning_rate=0.5 / 30)
    with pytest.raises(KeyboardInterrupt):
        treatment.try_rates(progress, Bowl(), Four(), settings, check)
    assert not progress.raced and progress.rate_factor == 1
    decision = treatment.try_rates(progress, Bowl(), Four(), settings, lambda: None)
    assert progress.raced and progress.rate_factor == pytest.approx(race.RUNG**2)
    assert decision.value == pytest.approx(0.5 / 30 * race.RUNG**2)


def test_a_race_costs_a_small_share_of_the_steps_or_is_not_held():
    assert race.length(300) == 0
    for total in (500, 1000, 10_000, 10**6):
        assert 0 < (1 + race.MOST_RUNGS) * race.length(total) <= 0.12 * total
    assert race.length(10**6) == race.MOST
