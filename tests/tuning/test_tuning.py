"""A search decides by what is on record alone, gives each trial its chance, and is not taken in by one lucky number."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.config import TrainSettings
from rightfit.errors import UsageError
from rightfit.tuning import journal
from rightfit.tuning.choosing import choose
from rightfit.tuning.halving import ETA, SEEDS, finalists, next_seed, next_task, promotable, rungs
from rightfit.tuning.journal import Trial
from rightfit.tuning.parts import halves
from rightfit.tuning.space import Knob, default_space, defaults_of, edges, from_file, place_of, settings_of

RESOLVED = TrainSettings(
    data="",
    model="resnet20",
    batch_size=32,
    learning_rate=0.025,
    weight_decay=0.005,
    epochs=27,
    augment="light",
)
ASKED = TrainSettings(data="")


@given(st.integers(1, 500))
def test_rungs_rise_threefold_and_end_with_all_epochs(epochs):
    levels = rungs(epochs)
    assert levels[-1] == epochs and levels == tuple(sorted(set(levels)))
    assert all(low * ETA <= high < (low + 1) * ETA for low, high in itertools.pairwise(levels))
    assert len(levels) == 1 or levels[0] >= 2


def searched(quality, levels, most, kill=lambda step: False):
    """A whole search over trials whose loss at a rung is `quality(trial, epochs)`; the tasks it took."""
    trials, taken = [], []
    for step in range(10_000):
        task = next_task(trials, levels, most)
        if task is None:
            return trials, taken
        if task.trial == len(trials):
            trials.append(Trial(task.trial, {}))
        if kill(step):
            continue
        taken.append(task)
        trials[task.trial].losses.setdefault(task.seed, {})[task.epochs] = quality(task.trial, task.epochs)
    raise AssertionError("it does not end")


@given(
    st.lists(st.floats(0, 9, allow_nan=False), min_size=1, max_size=40),
    st.sampled_from([(9,), (3, 9), (3, 9, 27)]),
)
def test_a_search_ends_trains_nothing_twice_and_takes_the_default_all_the_way(losses, levels):
    trials, taken = searched(lambda trial, epochs: losses[trial], levels, len(losses))
    assert len(trials) == len(losses) and len(set(taken)) == len(taken)
    assert trials[0].epochs(0) == levels[-1]
    for trial in trials:
        assert list(trial.losses[0]) == list(levels[: len(trial.losses[0])]), "rung by rung"
    for place in range(len(levels) - 1):
        there = [t for t in trials[1:] if levels[place] in t.losses[0]]
        further = [t for t in there if levels[place + 1] in t.losses[0]]
        best = sorted(t.losses[0][levels[place]] for t in there)[: len(there) // ETA]
        assert len(best) <= len(further) <= 2 * len(best), "a third, and as many whom later ones overtook"
        assert all(min(best) <= t.losses[0][levels[place]] for t in further)
        assert promotable(trials, levels, place, ended=True) is None


@given(
    st.lists(st.floats(0, 9, allow_nan=False), min_size=2, max_size=20),
    st.sets(st.integers(0, 40), max_size=10),
)
def test_a_search_that_is_killed_takes_the_same_steps(losses, kills):
    def quality(trial, epochs):
        return losses[trial] / epochs

    _, undisturbed = searched(quality, (3, 9), len(losses))
    _, killed = searched(quality, (3, 9), len(losses), kill=lambda step: step in kills)
    assert undisturbed == killed


def test_the_best_trial_is_found_among_many_and_most_never_go_far():
    trials, taken = searched(lambda trial, epochs: abs(trial - 17) / epochs, (3, 9, 27), 27)
    assert trials[17].epochs(0) == 27
    assert sum(task.epochs == 27 for task in taken) <= 6


def test_failed_trials_are_passed_over():
    trials = [
        Trial(0, {}, {0: {9: 0.5}}),
        Trial(1, {}, failed="memory is short"),
        Trial(2, {}, {0: {9: 0.1}}),
    ]
    assert next_task(trials, (9,), 3) is None
    assert finalists(trials, (9,)) == [0, 2]


def finished(*losses):
    """Trials with a loss for each seed."""
    return [
        Trial(n, {}, {seed: {9: loss} for seed, loss in enumerate(each)}) for n, each in enumerate(losses)
    ]


def test_finalists_are_trained_with_more_seeds_and_then_no_more():
    trials, asked = finished([0.5], [0.4], [0.3], [0.45]), []
    while task := next_seed(trials, (9,)):
        asked.append((task.trial, task.seed))
        trials[task.trial].losses[task.seed] = {9: 0.4}
    assert sorted(asked) == sorted((n, seed) for n in (0, 2, 1) for seed in range(1, SEEDS))


def test_one_lucky_number_does_not_win():
    lucky, steady = [0.30, 0.52, 0.50], [0.40, 0.41, 0.40]
    assert choose(finished([0.6, 0.6, 0.61], lucky, steady), (9,)).trial == 2


def test_the_default_recipe_stays_unless_something_is_better_beyond_its_noise():
    found = choose(finished([0.42, 0.40, 0.44], [0.41, 0.43, 0.41]), (9,))
    assert found.trial == 0 and "within a standard error" in found.because
    assert choose(finished([0.6, 0.61, 0.6], [0.4, 0.41, 0.4]), (9,)).trial == 1
    assert choose([Trial(0, {}, {0: {3: 0.5}})], (3, 9)) is None


# The space ------------------------------------------------------------------------------------------


def test_the_default_recipe_is_in_its_space_and_what_is_asked_for_is_not_tuned():
    space = default_space(RESOLVED, ASKED, 1000, pretrained=False)
    where = defaults_of(space, RESOLVED)
    assert settings_of(where, ASKED, 32).learning_rate == RESOLVED.learning_rate
    for knob in space:
        value = where[knob.name]
        assert value in knob.choices if knob.choices else knob.low <= value <= knob.high
    fixed = default_space(
        RESOLVED, ASKED.model_copy(update={"learning_rate": 0.1, "model": "resnet20"}), 1000, False
    )
    assert {knob.name for knob in space} - {knob.name for knob in fixed} == {"learning_rate", "model"}


def test_learning_rates_follow_batch_and_optimizer():
    chosen = {"learning_rate": 0.1, "batch_size": 64, "optimizer": "adamw", "weight_decay": 0.005}
    found = settings_of(chosen, ASKED, 32)
    assert found.learning_rate == pytest.approx(0.002) and found.weight_decay == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("learning_rat: [1, 2]", "no setting"),
        ("learning_rate: 0.1", "list of choices"),
        ("learning_rate: {low: 1, high: 0.1}", "no range"),
        ("learning_rate: {low: 0, high: 1, log: true}", "on a log scale"),
        ("{}", "nothing to tune"),
    ],
)
def test_a_space_that_is_wrong_is_said_to_be(tmp_path, text, part):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=part):
        from_file(path)


def test_a_space_from_a_file(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("learning_rate: {low: 0.01, high: 1, log: true}\naugment: [light, strong]\n")
    assert from_file(path) == (
        Knob("learning_rate", low=0.01, high=1.0, log=True),
        Knob("augment", ("light", "strong")),
    )


# Halves ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=2, max_size=80), st.booleans(), st.integers(0, 9))
def test_halves_are_apart_whole_in_groups_and_alike_in_classes(codes, grouped, seed):
    codes = np.array(codes)
    rows, groups = np.arange(len(codes)) + 100, np.arange(len(codes)) // 3 if grouped else None
    one, other = halves(rows, codes, groups, seed)
    assert sorted([*one, *other]) == rows.tolist()
    if grouped:
        assert not set(groups[one - 100]) & set(groups[other - 100])
    else:
        counts = [np.bincount(codes[part - 100], minlength=4) for part in (one, other)]
        assert abs(counts[0] - counts[1]).max() <= 1
        assert abs(len(one) - len(other)) <= 1
    assert all(
        np.array_equal(a, b) for a, b in zip((one, other), halves(rows, codes, groups, seed), strict=True)
    )


# The journal ----------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_a_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.write(path, "begun", asked={}, space=[])
    journal.write(path, "trial", trial=0, chosen={"learning_rate": 0.1})
    journal.write(path, "rung", trial=0, seed=0, epochs=3, loss=0.5, steps=30, seconds=1.0)
    whole = path.read_text()
    path.write_text(whole + json.dumps({"event": "failed", "trial": 0, "why": "x"})[:12])
    found = journal.read(path)
    (trial,) = found.trials
    assert found.begun["event"] == "begun" and trial.losses == {0: {3: 0.5}} and not trial.failed
    assert found.seconds == trial.seconds[0] == 1.0
    assert journal.read(tmp_path / "none.jsonl") == journal.Record()


# Suggestions ----------------------------------------------------------------------------------------

SPACE = (Knob("learning_rate", low=0.001, high=1.0, log=True), Knob("augment", ("light", "strong")))


def some_trials(count):
    generator = np.random.default_rng(0)
    trials = []
    for number in range(count):
        rate = float(10 ** generator.uniform(-3, 0))
        loss = abs(np.log10(rate) + 1)
        seen = {3: loss + 0.5} | ({9: loss} if number % 3 == 0 else {})
        trials.append(Trial(number, {"learning_rate": rate, "augment": "light"}, {0: seen}))
    return trials


def test_the_same_trials_give_the_same_suggestion_and_more_trials_another():
    pytest.importorskip("optuna")
    from rightfit.tuning.suggest import suggest

    first = suggest(some_trials(12), SPACE, (3, 9), seed=1)
    assert (
        first
        == suggest(some_trials(12), SPACE, (3, 9), seed=1)
        != suggest(some_trials(13), SPACE, (3, 9), seed=1)
    )
    assert set(first) == {"learning_rate", "augment"}


def test_suggestions_come_near_what_was_good():
    pytest.importorskip("optuna")
    from rightfit.tuning.suggest import importances, suggest

    found = [suggest(some_trials(60), SPACE, (3, 9), seed=s)["learning_rate"] for s in range(20)]
    away = np.abs(np.log10(found) + 1)
    assert np.median(away) < 0.5  # by chance 0.8
    shares = importances(some_trials(60), SPACE, (3, 9))
    assert shares["learning_rate"] > 0.8


# Whole searches -------------------------------------------------------------------------------------


def test_a_search_killed_again_and_again_is_the_one_that_nobody_disturbed(tmp_path, process):
    pytest.importorskip("optuna")
    script = Path(__file__).with_name("searches.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, "2"],
        env=process.environment(),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    whole = said["whole"]
    assert len(said["kills"]) == 2
    assert said["killed"] == whole
    rungs = [line for line in whole["journal"] if line["event"] == "rung"]
    assert len({line["trial"] for line in rungs}) == 4
    assert whole["tuning"]["steps"] == sum(
        max(line["steps"] for line in rungs if (line["trial"], line["seed"]) == one)
        for one in {(line["trial"], line["seed"]) for line in rungs}
    ), "promoted trials go on, they do not begin again"
    reported = [line["reported"]["accuracy"] for line in rungs if "reported" in line]
    assert whole["tuning"]["reported"]["accuracy"] in [
        pytest.approx(np.mean(each)) for each in itertools.combinations(reported, 2)
    ]


# On the page ----------------------------------------------------------------------------------------


def story_of(**changes):
    from rightfit.report.story import Story

    def trial(number, rate, epochs, loss):
        return {"trial": number, "chosen": {"learning_rate": rate}, "epochs": epochs, "loss": loss, "failed": "",
                "at": {"learning_rate": place_of(SPACE[0], rate)}}  # fmt: skip

    found = {
        "chosen": 1, "settings": {"learning_rate": 0.9}, "default": {"learning_rate": 0.1}, "epochs": 9, "steps": 1234,
        "because": "mean loss over seeds", "reported": {"accuracy": 0.9, "accuracy_half": 0.05}, "seeds": 3,
        "images": 77,
        "importances": {"learning_rate": 1.0}, "edges": {"learning_rate": "high"},
        "best": [[100, 0.7], [300, 0.5]],
        "space": [{"name": "learning_rate", "choices": [], "low": 0.001, "high": 1.0, "log": True}],
        "trials": [trial(0, 0.1, 9, 0.7), trial(1, 0.9, 9, 0.5), trial(2, 0.01, 3, 0.9), trial(3, 1.0, 0, None)],
    }  # fmt: skip
    settings = {"model": "resnet20", "data": "photos", "height_width": (8, 8)}
    counts = {"train": 9, "val": 3, "test": 3}
    return Story("run", settings, ("a", "b"), "categorical", counts, search=found | changes)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_tells_what_was_searched_chosen_and_where_to_look_next(language):
    from rightfit.report.run_page import page

    text = page(story_of(), language)
    assert "90.0 ±5.0 %" in text and "1,234" in text and "<code>--space</code>" in text
    inside = page(story_of(edges={}), language)
    assert "<code>--space</code>" not in inside


def test_what_lies_at_the_end_of_its_range_is_named_unless_it_can_go_no_further():
    space = (
        Knob("learning_rate", low=0.001, high=0.5, log=True),
        Knob("strength", low=0.0, high=1.0),
        SPACE[1],
    )
    chosen = {"learning_rate": 0.49, "strength": 1.0, "augment": "strong"}
    assert edges(space, chosen) == {"learning_rate": "high"}
    assert edges(space, {**chosen, "learning_rate": 0.02}) == {}
