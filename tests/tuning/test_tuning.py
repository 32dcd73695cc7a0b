"""A search decides by what is on record alone, gives each trial its chance, and is not taken in by one lucky number."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.aside import Interrupted
from rightfit.beginning import Prepared
from rightfit.config import TrainSettings
from rightfit.console import Console
from rightfit.errors import DataError, RightfitError, RunError, UsageError, WriteError
from rightfit.places import Here
from rightfit.searching import Ends
from rightfit.study import TRAININGS, Study
from rightfit.training.interrupt import Stop
from rightfit.training.recipe import Facts
from rightfit.trials import Trials, refuse_other_weights
from rightfit.tuning import journal
from rightfit.tuning.choosing import choose
from rightfit.tuning.halving import ETA, SEEDS, Task, finalists, next_seed, next_task, promotable, rungs
from rightfit.tuning.journal import Trial
from rightfit.tuning.parts import halves
from rightfit.tuning.space import (
    Knob,
    default_space,
    defaults_of,
    edges,
    from_file,
    from_mapping,
    place_of,
    settings_of,
    usual,
)

RESOLVED = TrainSettings(
    data="",
    model="resnet20",
    batch_size=32,
    learning_rate=0.1,
    weight_decay=0.005,
    epochs=27,
    augment="light",
)
ASKED = TrainSettings(data="")
FACTS = Facts(1000, (500, 500), "categorical", 32)
USUAL = usual(ASKED, RESOLVED, FACTS)


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


@given(
    st.lists(st.floats(0, 9, allow_nan=False), min_size=1, max_size=30),
    st.sampled_from([(9,), (3, 9), (3, 9, 27)]),
    st.integers(2, 6),
    st.randoms(use_true_random=False),
)
def test_on_several_places_nothing_is_trained_twice_or_at_once_and_a_third_goes_on(
    losses, levels, places, chance
):
    trials, going, taken = [], [], []
    while True:
        while len(going) < places:
            task = next_task(trials, levels, len(losses), [t.trial for t in going])
            if task is None:
                break
            assert task.trial not in [t.trial for t in going]
            if task.trial == len(trials):
                trials.append(Trial(task.trial, {}))
            going.append(task)
        if not going:
            break
        task = going.pop(chance.randrange(len(going)))
        taken.append(task)
        assert trials[task.trial].epochs(0) < task.epochs
        trials[task.trial].losses.setdefault(0, {})[task.epochs] = losses[task.trial]
    assert len(trials) == len(losses) and len(set(taken)) == len(taken)
    assert trials[0].epochs(0) == levels[-1]
    for low, high in itertools.pairwise(levels):
        there = [t for t in trials[1:] if low in t.losses[0]]
        further = [t for t in there if high in t.losses[0]]
        best = sorted(t.losses[0][low] for t in there)[: len(there) // ETA]
        assert len(best) <= len(further) <= 2 * len(best), "a third, and as many whom later ones overtook"


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
    once = choose(finished([0.6], [0.3]), (9,))
    assert once.trial == 0 and "luck" in once.because
    assert "trained again" in choose(finished([0.6, 0.6], [0.3]), (9,)).because
    assert choose(finished([0.6, 0.6], [0.3], [0.4, 0.4]), (9,)).trial == 2, "one of them was trained again"
    alone = choose(finished([0.6]), (9,))
    assert alone.trial == 0 and "nothing did better" in alone.because


def test_without_the_default_recipe_the_best_of_those_trained_again_is_chosen():
    gone = Trial(0, {}, failed="a loss that is no number")
    assert choose([gone, *finished([0.5], [0.1], [0.4, 0.4])[1:]], (9,)).trial == 2, "and none that was lucky"
    assert choose([gone, *finished([0.5], [0.3], [0.4])[1:]], (9,)).trial == 1


def test_the_default_recipe_stays_unless_something_is_better_beyond_its_noise():
    found = choose(finished([0.42, 0.40, 0.44], [0.30, 0.39, 0.41]), (9,))
    assert found.trial == 0 and "within the noise" in found.because
    found = choose(finished([0.6, 0.61, 0.6], [0.4, 0.41, 0.4]), (9,))
    assert found.trial == 1 and "beyond the noise" in found.because
    assert choose([Trial(0, {}, {0: {3: 0.5}})], (3, 9)) is None


def test_where_all_trials_are_alike_the_default_recipe_rarely_goes():
    """Of 16 trials of one quality the two luckiest are finalists."""
    generator, gone = np.random.default_rng(0), 0
    for _ in range(1000):
        losses = generator.normal(0.5, 0.02, (16, SEEDS))
        best = sorted(range(1, 16), key=lambda n: losses[n, 0])[:2]
        known = [each if n in (0, *best) else each[:1] for n, each in enumerate(losses.tolist())]
        gone += choose(finished(*known), (9,)).trial != 0
    assert gone < 100, "5 % a finalist"


def test_a_further_seed_that_fails_costs_its_trial_nothing_else(tmp_path):
    path = tmp_path / "journal.jsonl"
    for number, losses in enumerate([(0.6, 0.6), (0.4, 0.4), (0.5,)]):
        journal.write(path, "trial", trial=number, chosen={})
        for seed, loss in enumerate(losses):
            journal.write(path, "rung", trial=number, seed=seed, epochs=9, loss=loss, steps=9, seconds=1.0)
    for seed in (1, 2):
        assert next_seed(journal.read(path).trials, (9,)) == Task(*((2, 1) if seed == 1 else (0, 2)), 9)
        journal.write(path, "failed", trial=2, seed=seed, why="memory is short", seconds=1.0)
    found = journal.read(path)
    assert found.failures == 0 and not found.trials[2].failed and finalists(found.trials, (9,)) == [0, 1, 2]
    assert next_seed(found.trials, (9,)) == Task(0, 2, 9)
    assert choose(found.trials, (9,)).trial == 1


# The space ------------------------------------------------------------------------------------------


def test_the_default_recipe_is_in_its_space_and_what_is_asked_for_is_not_tuned():
    space = default_space(RESOLVED, ASKED, 1000, pretrained=False)
    where = defaults_of(space, RESOLVED)
    assert settings_of(where, ASKED, RESOLVED, USUAL).learning_rate == RESOLVED.learning_rate
    for knob in space:
        value = where[knob.name]
        assert value in knob.choices if knob.choices else knob.low <= value <= knob.high
    brought = default_space(RESOLVED, ASKED, 1000, pretrained=True)
    assert defaults_of(brought, RESOLVED)["finetune"] == "auto"


@pytest.mark.parametrize(
    ("asked", "gone"),
    [
        ({"model": "resnet20"}, {"model"}),
        ({"strength": 0.3}, {"strength"}),  # as it is by default, but said
        ({"learning_rate": 0.1}, {"learning_rate", "batch_size", "optimizer"}),
    ],
)
def test_what_is_set_is_not_tuned(asked, gone):
    whole = default_space(RESOLVED, ASKED, 1000, False)
    left = default_space(RESOLVED, TrainSettings(data="", **asked), 1000, False)
    assert {knob.name for knob in whole} - {knob.name for knob in left} == gone


def test_image_size_is_tuned_where_it_is_open_and_images_have_it(tmp_path, write_images):
    from rightfit.data.dataset import sizes_to_try
    from rightfit.data.reading import read

    def sizes(side):
        return sizes_to_try(read(write_images(tmp_path / str(side), count=2, side=side)))

    assert sizes(20) == ("20",), "too small to be halved"
    assert sizes(64) == ("32", "64")
    assert sizes(320) == ("160", "224", "320")
    images = np.zeros((6, 96, 96), np.uint8), np.arange(6) % 2
    assert sizes_to_try(read(images)) == ("96",)
    space = default_space(RESOLVED, ASKED, 1000, False, ("160", "224"))
    assert [knob.choices for knob in space if knob.name == "image_size"] == [("160", "224")]
    assert "image_size" not in [knob.name for knob in default_space(RESOLVED, ASKED, 1000, False, ("96",))]


def test_learning_rates_follow_batch_and_optimizer_as_the_recipe_has_them():
    chosen = {"learning_rate": 0.05, "batch_size": 64, "optimizer": "adamw", "weight_decay": 0.01}
    found = settings_of(chosen, ASKED, RESOLVED, USUAL)
    assert found.learning_rate == pytest.approx(0.05 * 2 * USUAL["adamw"][0] / USUAL["sgd"][0])
    assert found.weight_decay == pytest.approx(0.01 * USUAL["adamw"][1] / USUAL["sgd"][1])
    assert USUAL["sgd"] == (RESOLVED.learning_rate, RESOLVED.weight_decay)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("learning_rat: [1, 2]", "cannot be tuned"),
        ("resize: [crop, pad]", "cannot be tuned"),
        ("epochs: [2, 4]", "cannot be tuned"),
        ("learning_rate: 0.1", "list of choices"),
        ("learning_rate: [a, b]", "learning_rate"),
        ("learning_rate: {low: 1, high: 0.1}", "no range"),
        (
            "learning_rate: {low: 0.1, high: 1, log: true}\ndropout: {low: 0, high: 5}",
            "dropout: .*less than 1",
        ),
        ("strength: {low: 0, high: 1, log: true}", "on a log scale"),
        ("batch_size: {low: 8, high: 32}", r"list its choices, such as \[8, 32\]"),
        ("{}", "nothing to tune"),
    ],
)
def test_a_space_that_is_wrong_is_said_to_be(tmp_path, text, part):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=part):
        from_file(path)
    with pytest.raises(UsageError, match="no such file; --space"):
        from_file(tmp_path / "none.yaml")


def test_a_space_from_a_file_holds_what_settings_hold(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(
        "learning_rate: {low: 0.01, high: 1, log: true}\nbatch_size: [16, 32]\nmirror: [true, false]\n"
    )
    assert from_file(path) == (
        Knob("learning_rate", low=0.01, high=1.0, log=True),
        Knob("batch_size", (16, 32)),
        Knob("mirror", (True, False)),
    )
    assert from_mapping({"dropout": [0, 0.3]}) == (Knob("dropout", (0.0, 0.3)),)


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


def test_a_search_that_goes_on_may_end_later(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.write(path, "begun", trials=4, time_limit=None, backend="jax")
    journal.write(path, "ends", trials=8, time_limit="2h")
    assert journal.read(path).begun | {"event": ""} == {
        "event": "", "trials": 8, "time_limit": "2h", "backend": "jax",
    }  # fmt: skip


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
    assert trial.seconds[0] == 1.0
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
    ranged = [line["steps"] for line in whole["journal"] if line["event"] == "range_test"]
    assert len(ranged) == 1 and whole["tuning"]["steps"] == ranged[0] + sum(
        max(line["steps"] for line in rungs if (line["trial"], line["seed"]) == one)
        for one in {(line["trial"], line["seed"]) for line in rungs}
    ), "promoted trials go on, they do not begin again"
    reported = [line["reported"]["accuracy"] for line in rungs if "reported" in line]
    assert whole["tuning"]["reported"]["accuracy"] in [
        pytest.approx(np.mean(each)) for each in itertools.combinations(reported, 2)
    ]


# On the page ----------------------------------------------------------------------------------------


def story_of(**changes):
    from rightfit.reports.story import Story

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
    from rightfit.reports.run_page import page

    short = page(story_of(), language)
    assert "90.0 ±5.0 %" in short and "1,234" in short and "<code>--space</code>" not in short
    found = story_of().search
    many = [*found["trials"], *({**found["trials"][1], "trial": number} for number in range(4, 8))]
    many.append({**many[0], "trial": 8, "failed": "a loss that is no number"})
    text = page(story_of(trials=many), language)
    assert "<code>--space</code>" in text and "a loss that is no number" in text
    assert "<code>--space</code>" not in page(story_of(trials=many, edges={}), language)
    ranged = {"rates": [0.001, 0.1, 9.0], "losses": [2.3, 1.7, 9.9], "suggested": 0.789}
    assert "0.789" not in text and "0.789" in page(story_of(range_test=ranged), language)
    assert "0.789" not in page(story_of(range_test=ranged | {"suggested": None}), language)


def test_what_lies_at_the_end_of_its_range_is_named_unless_it_can_go_no_further():
    space = (
        Knob("learning_rate", low=0.001, high=1.0, log=True), Knob("strength", low=0.0, high=1.0),
        Knob("weight_decay", low=0.0, high=0.1), SPACE[1],
    )  # fmt: skip
    chosen = {"learning_rate": 0.98, "strength": 1.0, "weight_decay": 0.0, "augment": "strong"}
    assert edges(space, chosen) == {"learning_rate": "high"}
    assert edges(space, {**chosen, "learning_rate": 0.02}) == {}


# Ends -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_to_free(monkeypatch):
    """It takes half a second a task."""
    monkeypatch.setattr("rightfit.trials.free", lambda: None)


class Untrained(Trials):
    """Its trainings are said to have happened."""

    def train(self, asked, name, until):
        self.taken.append(name)
        if name != "pace" and self.fails(name):
            raise self.error
        epochs = until or asked.epochs
        row = {"steps": 10, "train_seconds": 2.0, "first_step_seconds": 0.2, "validation_seconds": 0.0}
        return SimpleNamespace(epoch=epochs, history=[row]), None, 10

    def told(self, job, progress, whole):
        reported = {"accuracy": 0.9, "accuracy_half": 0.1, "loss": 0.5, "loss_half": 0.1}
        return {"loss": 0.5, **({"reported": reported} if whole else {})}


def untrained(
    folder, codes, fails=lambda name: False, error=None, trials=None, seconds=None, groups=None, **asked
):
    table = SimpleNamespace(
        rows=lambda split: np.arange(len(codes)), codes=lambda: np.array(codes), groups=lambda rows: groups
    )
    (folder / "search").mkdir()
    asked = TrainSettings(data="", **asked)
    Untrained.taken, Untrained.fails, Untrained.error = [], staticmethod(fails), error
    own = Untrained(
        folder, Prepared(SimpleNamespace(table=table), asked, "tensorflow", "float32", {}), RESOLVED, FACTS
    )
    quiet = Console(quiet=True)
    return Study(own, SPACE, trials, seconds, quiet, Here(own, quiet))


RANGED = {"rates": [0.01, 1.0], "losses": [2.3, 1.9], "suggested": 0.3, "steps": 2}


def rates_tried(folder, monkeypatch, ranged, trials=2, space=None, pretrained=False):
    """Learning rates of the first trials, and how many range tests there were."""
    asked = []
    monkeypatch.setattr(Untrained, "_range_test", lambda self: asked.append(1) or dict(ranged))
    folder.mkdir()
    search = untrained(folder, [0, 1] * 20, trials=trials)
    search.own.facts = dataclasses.replace(FACTS, images=32_000, pretrained=pretrained)
    search.space = space or search.space
    for _ in range(2):  # once more, as if it had been killed
        search.run()
    return [t.chosen.get("learning_rate") for t in search.trials], len(asked)


def test_the_second_trial_has_the_rate_that_a_range_test_suggests_which_is_asked_once(tmp_path, monkeypatch):
    rates, tests = rates_tried(tmp_path / "a", monkeypatch, RANGED)
    assert rates == [0.1, 0.3] and tests == 1
    rates, _ = rates_tried(tmp_path / "beyond", monkeypatch, RANGED | {"suggested": 50.0})
    assert rates == [0.1, 1.0], "the end of its range"
    others = {
        "same": RANGED | {"suggested": 0.11},
        "none": RANGED | {"suggested": None},
        "short": {"failed": "why"},
    }
    for name, ranged in others.items():
        rates, _ = rates_tried(tmp_path / name, monkeypatch, ranged)
        assert rates[0] == 0.1 and rates[1] not in (0.1, 0.11), "as others are suggested"
    rates, _ = rates_tried(
        tmp_path / "listed", monkeypatch, RANGED, space=(Knob("learning_rate", (0.1, 0.2, 0.9)),)
    )
    assert rates == [0.1, 0.2], "the nearest choice"


def test_an_epoch_of_the_default_recipe_that_fails_ends_a_search_that_would_be_fitted_to_its_time(
    tmp_path, monkeypatch
):
    def lost(self):
        raise RightfitError("a loss that is no number")

    monkeypatch.setattr(Untrained, "_pace", lost)
    search = untrained(tmp_path, [0, 1] * 20, seconds=160.0)
    with pytest.raises(RunError, match="the first epoch of the default recipe failed: a loss"):
        search.run()
    assert not search.record.epochs


def test_a_search_that_is_stopped_ends_with_the_code_of_ctrl_c_as_there_is_no_model(
    write_images, tmp_path, here, monkeypatch
):
    def stopped(study):
        raise Interrupted("stopped before the first trial")

    monkeypatch.setattr("rightfit.study.Study.run", stopped)
    photos, run = write_images(tmp_path / "photos", count=48, side=8), tmp_path / "run"
    asked = ("--image-size", 8, "--weights", "none", "--backend", "tensorflow", "--split", "2:1:1")
    done = here("tune", photos, *asked, "--trials", 2, "--output", run)
    assert (done.returncode, done.stdout) == (130, f"{run}\n")
    assert f"`rightfit resume {run}` goes on with the search" in done.stderr


def test_a_range_test_that_is_stopped_stops_the_search_and_is_no_failure(tmp_path, monkeypatch):
    def stopped(*job):
        raise Stop

    monkeypatch.setattr(Untrained, "_job", lambda self, asked, name: None)
    monkeypatch.setattr("rightfit.learning.range_tested", stopped)
    search = untrained(tmp_path, [0, 1] * 20, trials=2)
    search.own.facts = dataclasses.replace(FACTS, images=32_000)
    with pytest.raises(Interrupted, match="range test"):
        search.run()
    assert not search.record.range_test


def test_no_range_is_tested_where_it_has_no_use_or_costs_much_beside_a_training(tmp_path, monkeypatch):
    no_rate = (Knob("strength", low=0.0, high=1.0),)
    assert rates_tried(tmp_path / "a", monkeypatch, RANGED, space=no_rate)[1] == 0
    assert rates_tried(tmp_path / "b", monkeypatch, RANGED, pretrained=True)[1] == 0
    assert rates_tried(tmp_path / "one", monkeypatch, RANGED, trials=1)[1] == 0
    monkeypatch.setattr("rightfit.study.RANGE_WORTH", 1e9)
    assert rates_tried(tmp_path / "c", monkeypatch, RANGED)[1] == 0


def test_what_a_range_test_costs_is_counted(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal.write(path, "range_test", **RANGED | {"steps": 90}, seconds=1.0)
    journal.write(path, "trial", trial=0, chosen={})
    journal.write(path, "rung", trial=0, seed=0, epochs=9, loss=0.4, steps=100, seconds=2.0, used=3.5)
    found = journal.read(path)
    assert found.steps == 190 and found.best(9) == [(190, 0.4)] and found.used == 3.5


def test_trials_that_fail_are_left_out_and_many_in_a_row_end_a_search_that_only_the_clock_would(tmp_path):
    error = RightfitError("a loss that is no number")
    some = untrained(tmp_path, [0, 1] * 20, lambda name: name.startswith("001"), error, trials=5)
    some.run()
    assert [bool(t.failed) for t in some.trials] == [False, True, False, False, False]
    (tmp_path / "all").mkdir()
    every = untrained(tmp_path / "all", [0, 1] * 20, lambda name: True, error, seconds=3600)
    with pytest.raises(RunError, match="last 3 trials failed, the last one as follows: a loss"):
        every.run()


@pytest.mark.parametrize("error", [DataError("an image is gone"), WriteError("disk full")])
def test_what_no_settings_have_caused_stops_the_search_and_fails_no_trial(tmp_path, error):
    search = untrained(tmp_path, [0, 1] * 20, lambda name: True, error, trials=5)
    with pytest.raises(type(error)):
        search.run()
    assert not any(t.failed for t in journal.read(tmp_path / "search" / "journal.jsonl").trials)


def test_a_process_that_is_ended_in_the_same_trial_again_and_again_names_a_way_out(tmp_path, capfd):
    own, note = untrained(tmp_path, [0, 1] * 20).own, tmp_path / "search" / "at-work.json"

    def said(epochs, killed):
        child = os.fork()
        if not child:
            if killed:
                own.attempt = lambda *asked: os.kill(os.getpid(), signal.SIGKILL)
            Here(own, Console()).begin(Task(1, 0, epochs), {}, 9)
            os._exit(0)
        os.waitpid(child, 0)
        assert note.exists() == killed
        return capfd.readouterr().err

    assert [said(3, killed=True) for _ in range(3)] == ["", "", ""]
    told = said(3, killed=True)
    assert "trial 1, seed 0, up to epoch 3: the process was ended in it 3 times" in told
    assert f"`rightfit resume {tmp_path} --micro-batch N`" in told
    assert said(9, killed=True) == "", "another task"
    assert said(9, killed=False) == said(9, killed=True) == ""


def test_short_memory_fails_a_trial_and_a_bug_does_not(tmp_path):
    memory = untrained(
        tmp_path, [0, 1] * 20, lambda name: "001" in name, MemoryError("cannot allocate"), trials=3
    )
    memory.run()
    assert memory.trials[1].failed
    (tmp_path / "bug").mkdir()
    with pytest.raises(ZeroDivisionError):
        untrained(tmp_path / "bug", [0, 1] * 20, lambda name: True, ZeroDivisionError(), trials=3).run()


def test_epochs_fit_into_the_time_and_the_default_recipe_is_trained_whatever_the_clock_says(
    tmp_path, monkeypatch
):
    now = itertools.count(0, 3)
    monkeypatch.setattr("rightfit.study.time.monotonic", lambda: float(next(now)))
    search = untrained(tmp_path, [0, 1] * 20, seconds=160.0)
    search.run()
    assert search.record.epochs == 160 / TRAININGS / 2 < RESOLVED.epochs, "2 s an epoch"
    assert search.trials[0].epochs(0) == search.levels[-1] and len(search.trials) > 1
    (tmp_path / "late").mkdir()
    late = untrained(tmp_path / "late", [0, 1] * 20, seconds=1.0)
    late.run()
    assert [t.epochs(0) for t in late.trials] == [late.levels[-1]], "and then it is over"


def test_time_is_what_the_clock_said_while_the_search_was_at_work(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rightfit.study.time.monotonic", lambda: now[0])
    search = untrained(tmp_path, [0, 1] * 20, trials=2)
    now[0] = 5.0

    def stopped(going):
        now[0] = 9.0
        raise Interrupted("stopped")

    search._work_off = stopped
    with pytest.raises(Interrupted):
        search.run()
    now[0] = 1000.0
    again = Study(search.own, SPACE, 2, None, search.console, search.places)
    now[0] = 1003.0
    assert again._used() == 12.0


def test_a_search_that_is_given_a_time_limit_later_trains_no_shorter(tmp_path):
    search = untrained(tmp_path, [0, 1] * 20, trials=2)
    search.run()
    again = Study(search.own, SPACE, 3, 60.0, search.console, search.places)
    again.run()
    assert again.levels == search.levels and not again.record.epochs and len(again.trials) == 3


def test_a_search_that_failed_begins_to_count_anew(tmp_path):
    error = RightfitError("a loss that is no number")
    search = untrained(tmp_path, [0, 1] * 20, lambda name: name != "000-0", error, trials=9)
    for trials in (4, 7):  # of each round the default recipe, or none, and three that failed
        with pytest.raises(RunError, match="last 3 trials failed"):
            search.run()
        assert len(search.trials) == trials
        search = Study(search.own, SPACE, 9, None, search.console, search.places)


def test_a_trial_is_judged_at_the_best_temperature_and_reported_at_its_end_alone(tmp_path, monkeypatch):
    own = untrained(tmp_path, [0, 1] * 20).own

    def figures_of(job, progress, *parts, calibrated=False):
        return [{"loss": 0.5 if calibrated else 9.9, "rows": part.tolist()} for part in parts]

    monkeypatch.setattr("rightfit.trials.figures_of", figures_of)
    reported = {"loss": 0.5, "rows": own.reporting.tolist()}
    assert Trials.told(own, None, None, whole=True) == {"loss": 0.5, "reported": reported}
    assert Trials.told(own, None, None, whole=False) == {"loss": 0.5}


def test_what_is_told_of_both_halves_is_at_the_temperature_of_the_one_that_chooses(monkeypatch):
    from rightfit import aside
    from rightfit.evaluation.metrics import quick

    generator = np.random.default_rng(0)
    codes = np.arange(400) % 2
    logits = (9 * (generator.normal(size=400) + 1.5 * (2 * codes - 1)))[:, None].astype(
        np.float32
    )  # too sure
    targets = codes[:, None].astype(np.float32)
    table = SimpleNamespace(label_mode="binary")
    dataset = SimpleNamespace(
        table=table, images=None, image_rows=np.arange(400), targets=lambda rows: targets[rows],
        groups=lambda rows: None,
    )  # fmt: skip
    monkeypatch.setattr(
        "rightfit.evaluation.infer.all_logits", lambda judge, images, rows, batch: logits[rows]
    )
    monkeypatch.setattr(
        "rightfit.evaluation.infer.plain_graph", lambda model: SimpleNamespace(set_weights=id)
    )
    monkeypatch.setattr("rightfit.nets.layers.fused", lambda model: model)
    job, progress = SimpleNamespace(model=None, dataset=dataset), SimpleNamespace(weights=[])
    halves_of_it = np.arange(200), np.arange(200, 400)
    plain = aside.figures_of(job, progress, *halves_of_it)
    found = aside.figures_of(job, progress, *halves_of_it, calibrated=True)
    grid = [
        (quick(logits[:200] / t, targets[:200], "binary", None).loss, t) for t in np.geomspace(0.1, 30, 400)
    ]
    lowest, temperature = min(grid)
    assert found[0]["loss"] == pytest.approx(lowest, abs=1e-3) and lowest < plain[0]["loss"] - 0.03
    other = quick(logits[200:] / temperature, targets[200:], "binary", None).loss
    assert found[1]["loss"] == pytest.approx(other, abs=1e-2)
    assert [each["accuracy"] for each in found] == [each["accuracy"] for each in plain]


def test_a_search_goes_on_from_what_it_began_with():
    began = {"pretrained": True}
    refuse_other_weights(began, dataclasses.replace(FACTS, pretrained=True))
    with pytest.raises(DataError, match="borrowed weights, which cannot be had on"):
        refuse_other_weights(began, FACTS)
    with pytest.raises(DataError, match="began from scratch"):
        refuse_other_weights({"pretrained": False}, dataclasses.replace(FACTS, pretrained=True))


def test_another_image_size_keeps_what_was_found_out_about_the_images(tmp_path, write_images):
    from rightfit.data.dataset import at_size, prepare

    photos = write_images(tmp_path / "photos", count=10, side=16)
    (photos / "red" / "broken.png").write_bytes(b"no image")
    asked = TrainSettings(data=str(photos), image_size=16, cache_folder=str(tmp_path / "cache"))
    dataset, asked = prepare(str(photos), asked, Console(quiet=True))
    other = at_size(dataset, asked.model_copy(update={"image_size": "8"}))
    assert other.spec.height == 8 and other.audit is dataset.audit
    assert [path for path, _ in other.quarantined] == [path for path, _ in dataset.quarantined] != []


def test_too_few_images_or_groups_to_halve_are_said_to_be(tmp_path):
    with pytest.raises(DataError, match="19 validation images, halved into"):
        untrained(tmp_path, [0] * 19)
    (tmp_path / "grouped").mkdir()
    with pytest.raises(DataError, match="of whole groups"):
        untrained(tmp_path / "grouped", [0] * 40, groups=np.zeros(40, int))


def test_a_search_needs_an_end_and_a_trial():
    with pytest.raises(UsageError, match="without an end"):
        Ends(None, None).check()
    with pytest.raises(UsageError, match="at least 1"):
        Ends(0, None).check()
