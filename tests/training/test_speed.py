"""What is said of a run's time follows from its history, and no advice is given where it does not apply."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.precision import PAYS
from rightfit.training.speed import INTO, Setting, Spent, idle, in_words, measured, spent_in

SECONDS = st.floats(0, 1e4, allow_subnormal=False)
SPENT = st.builds(Spent, st.floats(0.01, 1e4), *4 * [SECONDS])
SETTING = st.builds(
    Setting,
    st.booleans(),
    st.sampled_from(["float32", "bfloat16"]),
    st.none() | st.floats(0.1, 4),
    st.sampled_from(["disk", "memory", "none"]),
    st.integers(8, 512),
)


def words(spent, setting=None):
    return in_words(spent, 100, 32, setting or Setting(False, "float32", None, "disk", 224))


@given(SPENT, SETTING)
def test_the_share_told_first_is_the_largest_and_each_is_what_the_seconds_say(spent, setting):
    seconds = {name: getattr(spent, name) for name in INTO}
    told = re.findall(r"(\d+) % (?:of \w+[.\w]* went )?into ([a-z ]+?)(?: \(| ?,|:)", words(spent, setting))
    percent = {next(name for name, text in INTO.items() if text == into): int(n) for n, into in told}
    assert seconds[next(iter(percent))] == max(seconds.values())
    for name in INTO:
        share = 100 * seconds[name] / sum(seconds.values())
        assert percent.get(name, 0) == pytest.approx(share, abs=0.5000001), name


@given(SPENT, SETTING)
def test_advice_is_given_only_where_it_applies(spent, setting):
    said = words(spent, setting)
    largest = max(INTO, key=lambda name: getattr(spent, name))
    waits = spent.input / spent.total >= 0.1
    shared = largest == "steps" and not setting.gpu  # the processor both decodes and trains
    assert ("--cache disk" in said) == (setting.cache == "none" and (largest == "input" or waits or shared))
    assert said.count("--cache disk") <= 1
    assert ("--augment" in said) == (setting.cache != "none" and (largest == "input" or waits))
    gain = setting.bfloat16_gain
    asked = largest == "steps" and setting.precision == "float32" and not setting.gpu and gain is not None
    assert ("--precision bfloat16 would help" in said) == (asked and gain >= PAYS)
    assert ("does not pay" in said) == (asked and gain < PAYS)
    assert ("a GPU" in said) == (largest == "steps" and not setting.gpu)
    assert ("--image-size" in said) == (largest == "steps" and setting.side > 32)
    assert ("--model" in said) == (largest == "steps")


def test_it_reads_as_a_sentence():
    spent = Spent(94.0, 0.0, 1.0, 4.0, 1.0)
    assert words(spent, Setting(False, "float32", 0.61, "disk", 224)) == (
        "34 images/s; 94 % of 1m40s went into training steps (940 ms each), 4 % into validation, "
        "1 % into waiting for images, 1 % into saving: bound by the processor; bfloat16 was measured 0.61 times "
        "as fast as float32, which does not pay; a smaller --image-size or --model, or a GPU, would help"
    )
    assert words(Spent(30.0, 0.0, 60.0, 10.0, 0.0), Setting(False, "float32", 2, "none", 224)) == (
        "36 images/s; 60 % of 1m40s went into waiting for images, 30 % into training steps, 10 % into validation: "
        "bound by decoding; --cache disk or memory would help"
    )
    assert words(Spent(60.0, 0.0, 40.0, 0.0, 0.0), Setting(True, "bfloat16", None, "none", 224)) == (
        "32 images/s; 60 % of 1m40s went into training steps (600 ms each), 40 % into waiting for images: bound by "
        "the GPU; a smaller --image-size or --model would help; against the waiting, --cache disk or memory would help"
    )


def row(steps=10, train=10.0, waits=0.0, first=1.0, validation=0.0, saving=0.0):
    return {
        "steps": steps,
        "train_seconds": train,
        "input_seconds": waits,
        "first_step_seconds": first,
        "validation_seconds": validation,
        "saving_seconds": saving,
    }


@given(
    st.lists(
        st.tuples(st.integers(1, 500), *5 * [st.floats(0, 1)]).map(
            lambda t: row(t[0], 100 * t[1], 100 * t[1] * t[2], 100 * t[1] * t[3], t[4], t[5])
        ),
        min_size=1,
    )
)
def test_nothing_of_the_time_is_lost_or_counted_twice(history):
    whole = sum(r["train_seconds"] + r["validation_seconds"] + r["saving_seconds"] for r in history)
    spent = spent_in(history)
    assert spent.total == pytest.approx(whole, rel=1e-9, abs=1e-9)
    assert min(spent.steps, spent.compiling, spent.input) >= 0
    assert spent.input == pytest.approx(sum(r["input_seconds"] for r in history))


def test_a_first_step_that_takes_longer_compiles():
    assert spent_in([row(11, 30.0, first=20.0)]) == Spent(11.0, 19.0, 0.0, 0.0, 0.0)
    assert spent_in([row(11, 30.0, waits=19.0, first=20.0)]).compiling == 0, "it may all have been a wait"
    assert spent_in([row(1, 30.0, first=30.0)]).compiling == 0, "one step has nothing to compare with"


def test_metrics_hold_what_the_history_says():
    setting = Setting(False, "float32", None, "disk", 32)
    assert measured([{"steps": 0, "epoch": 0, "train_seconds": 1.0}], 32, setting) == {}
    found = measured([row(10, 10.0, 2.0, 0.0, 3.0, 1.0), row(10, 10.0, 2.0, 0.0, 3.0, 1.0)], 32, setting)
    assert found["seconds"] == 28.0
    assert found["images_per_second"] == 32.0
    assert found["ms_per_step"] == 800.0
    assert found["shares"] == {
        "steps": 0.571,
        "validation": 0.214,
        "input": 0.143,
        "saving": 0.071,
        "compiling": 0.0,
    }


@given(st.floats(0.001, 1), st.floats(0, 3), st.integers(8, 200), st.booleans())
def test_a_device_that_always_has_steps_to_do_is_not_said_to_wait(step, wait, count, queues):
    """A loop that hands over `count` steps, after a wait each, to a device that takes `step` seconds for one."""
    handed = free = 0.0
    for _ in range(count):
        handed = (handed if queues else max(handed, free)) + wait
        free = max(handed, free) + step
    found = idle(count * wait, free - handed, free / count)
    if not queues or wait >= step:
        assert found == count * wait
    elif wait <= step / 2:
        assert found == 0
