"""Settings: a flag wins over the file, the file over the default; a mistake is named; what is written reads back."""

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rightfit.config import TrainSettings, parse_image_size, parse_seconds, to_yaml, train_settings
from rightfit.errors import UsageError
from rightfit.files import yaml_of

# The machine may be busy.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(folder, text):
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(values, config=None):
    """The message of the one UsageError that these settings must give."""
    with pytest.raises(UsageError) as caught:
        train_settings({"data": "photos", **values}, config)
    return str(caught.value)


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    file = written(tmp_path, "data: there\nepochs: 7\nbatch_size: 16\n")
    settings = train_settings({"epochs": 3, "model": None}, file)
    assert (settings.epochs, settings.batch_size, settings.data) == (3, 16, "there")
    untouched = {name for name in TrainSettings.model_fields if name not in {"data", "epochs", "batch_size"}}
    defaults = TrainSettings(data="there").model_dump(include=untouched)
    assert settings.model_dump(include=untouched) == defaults


def test_a_flag_that_was_not_given_leaves_the_files_value(tmp_path):
    file = written(tmp_path, "data: there\nseed: 5\n")
    assert train_settings({"seed": None, "data": None}, file).seed == 5
    assert train_settings({"seed": 0}, file).seed == 0, "0 is a value, not the absence of one"


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("epoch", "epochs"),
        ("learning-rate", "learning_rate"),
        ("batchsize", "batch_size"),
        ("optimiser", "optimizer"),
    ],
)
@pytest.mark.parametrize("door", ["flag", "file"])
def test_an_unknown_setting_is_named_with_the_near_ones(typed, meant, door, tmp_path):
    if door == "flag":
        message = refusal({typed: 3})
    else:
        message = refusal({}, written(tmp_path, f"{typed}: 3\n"))
    assert repr(typed) in message
    assert meant in message.partition("did you mean")[2]


def test_an_unknown_setting_near_nothing_points_to_the_list():
    assert "rightfit train --help" in refusal({"qqqqqqqq": 1})


@pytest.mark.parametrize(
    "name, value",
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", "many"),
        ("batch_size", -1),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("weight_decay", float("nan")),
        ("weight_decay", -1e-9),
        ("label_smoothing", 1),
        ("ema", 1.0),
        ("seed", -1),
        ("patience", 0),
        ("optimizer", "sgdd"),
        ("augment", "heavy"),
        ("precision", "float16"),
        ("backend", "theano"),
        ("tensorboard", "perhaps"),
        ("image_size", True),
        ("image_size", 150.5),
    ],
)
def test_a_bad_value_gives_one_error_with_the_settings_name_and_the_value(name, value):
    message = refusal({name: value})
    assert message.startswith(f"{name}: ")
    assert message.endswith(f", not {value!r}")


def test_two_bad_values_are_both_in_the_one_error():
    message = refusal({"epochs": 0, "ema": 2})
    assert "epochs: " in message
    assert "ema: " in message


@pytest.mark.parametrize(
    "size", ["small", "150x", "x150", "150x200x3", "7", "4097", "150x7", "-150", "", (1, 2, 3)]
)
def test_a_bad_image_size_is_refused_before_anything_is_read(size):
    assert refusal({"image_size": size}).startswith("image size ")


@pytest.mark.parametrize("time", ["0s", "soon", "-5m", "1h30m", "5 weeks"])
def test_a_bad_time_limit_is_refused_before_anything_is_read(time):
    assert refusal({"time_limit": time}).startswith(f"time {time!r} ")


def test_missing_data_are_named():
    with pytest.raises(UsageError, match=r"^data: Field required$"):
        train_settings({})


@pytest.mark.parametrize(
    "size, height_width",
    [
        (150, (150, 150)),
        ("150", (150, 150)),
        ("150x200", (150, 200)),
        ("150X200 ", (150, 200)),
        ((150, 200), (150, 200)),
        ([150, 200], (150, 200)),
        (8, (8, 8)),
        ("4096x8", (4096, 8)),
    ],
)
def test_an_image_size_is_height_and_width_however_it_is_given(size, height_width):
    assert train_settings({"data": "photos", "image_size": size}).height_width == height_width


def test_auto_is_no_size():
    with pytest.raises(UsageError, match="'auto'"):
        parse_image_size("auto")


# Every character that a file can hold and YAML has a use for; surrogates are what Python makes of
# file names that are not UTF-8.
odd_text = st.text(
    st.one_of(st.characters(), st.sampled_from("#:'\"\\|>-?{}[]&*!%@`, \t\n\r\x85\u2028\udce9é中"))
)
odd_words = st.sampled_from(
    [
        "null",
        "~",
        "yes",
        "off",
        "1e3",
        "0x1F",
        "012",
        "1_000",
        "6:1:2",
        "1:30",
        "2024-01-01",
        "=",
        "<<",
        "- a",
        " x ",
    ]
)


@unhurried
@given(
    st.builds(
        TrainSettings,
        data=odd_text | odd_words,
        output=st.none() | odd_text | odd_words,
        label=st.none() | odd_text | odd_words,
        group_by=st.none() | odd_text,
        split=odd_text | odd_words,
        model=odd_text | odd_words,
        image_size=st.sampled_from(["auto", "150", "150x200"]),
        time_limit=st.none() | st.sampled_from(["90", "90s", "1.5h"]),
        epochs=st.none() | st.integers(1, 10**9),
        learning_rate=st.none() | st.floats(1e-300, 1e300),
        label_smoothing=st.floats(0, 0.999),
        ema=st.none() | st.floats(0, 0.999999),
        seed=st.integers(0, 2**63),
        tensorboard=st.booleans(),
        augment=st.sampled_from(["auto", "none", "strong"]),
    )
)
def test_what_is_written_to_config_yaml_reads_back_the_same(tmp_path_factory, settings):
    file = written(tmp_path_factory.mktemp("run"), to_yaml(settings))
    assert train_settings({}, file) == settings


@pytest.mark.parametrize("odd", ["\x85", "眼\x85底", "\u2028", "\ufeff", "a: b\x85#"])
def test_line_ends_of_other_alphabets_come_back_from_yaml(odd):
    assert yaml.safe_load(yaml_of({"classes": [odd, "眼"]})) == {"classes": [odd, "眼"]}
    assert "眼" in yaml_of({"classes": ["眼"]})


def test_config_yaml_has_a_line_for_every_setting_with_its_description():
    lines = to_yaml(TrainSettings(data="photos of " + "many words " * 50)).splitlines()
    assert len(lines) == 1 + len(TrainSettings.model_fields)
    for line, (name, field) in zip(lines[1:], TrainSettings.model_fields.items(), strict=True):
        assert line.startswith(f"{name}: ")
        assert line.endswith(f"  # {field.description}")


@pytest.mark.parametrize(
    "name, typed, value",
    [
        ("split", "6:1:2", "6:1:2"),  # a number of base 60 in YAML 1.1
        ("label", "007", "007"),  # octal
        ("learning_rate", "1e-3", 0.001),  # text in YAML 1.1
        ("epochs", "30", 30),
        ("image_size", "150", "150"),
        ("time_limit", "90", "90"),
        ("class_weights", "none", "none"),
        ("tensorboard", "yes", True),
        ("ema", "null", None),
    ],
)
def test_a_value_typed_by_hand_without_quotes_means_what_it_says(name, typed, value, tmp_path):
    file = written(tmp_path, f"data: photos\n{name}: {typed}\n")
    assert getattr(train_settings({}, file), name) == value


@pytest.mark.parametrize(
    "text, why",
    [("", "no settings"), ("- a\n- b\n", "no settings"), ("a: [", "not YAML"), ("a: \x00", "not YAML")],
)
def test_a_file_that_holds_no_settings_is_named(text, why, tmp_path):
    file = written(tmp_path, text)
    assert why in refusal({}, file)
    assert str(file) in refusal({}, file)


def test_a_tag_in_the_file_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    file = written(tmp_path, f"data: !!python/object/apply:os.mkdir ['{mark}']\n")
    assert "not YAML" in refusal({}, file)
    assert not mark.exists()


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 6))


@pytest.mark.parametrize("name", ["data", "split", "image_size", "epochs"])
def test_what_aliases_repeat_is_not_written_out(name, tmp_path):
    file = written(tmp_path, f"a0: &a0 [{'x, ' * 10}]\n{BOMB}{name}: *a5\n")
    message = refusal({"data": None}, file)
    assert "unknown setting 'a5'" in message
    file.write_text(f"{name}: &a5 [{', '.join(['[[[[[x]]]]]'] * 1000)}]\n", encoding="utf-8")
    message = refusal({"data": "photos" if name != "data" else None}, file)
    assert message.startswith(f"{name}: ") and len(message) < 400


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a {x: 1}\nb: {<<: *a}\n", "merges mappings"),
        ("a: " + "[" * 5_000 + "]" * 5_000, "nested too deep"),
        (f"a: {'x' * 2**23}\n", "more than 8,388,608 bytes"),
    ],
    ids=["merge", "deep", "long"],
)
def test_a_file_of_no_end_is_refused(text, why, tmp_path):
    assert why in refusal({}, written(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "no.yaml") in refusal({}, tmp_path / "no.yaml")


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TrainSettings(data="photos").epochs = 3


@pytest.mark.parametrize(
    "text, seconds",
    [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7200), ("1.5h", 5400), ("1d", 86400), (" 2 M ", 120)],
)
def test_seconds(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0.0h", "-1s", "1e3", "inf", "s", "1h30m", "1,5h"])
def test_what_is_no_length_of_time(text):
    with pytest.raises(UsageError, match="is not a length"):
        parse_seconds(text)


def test_the_cache_is_a_mode_and_its_folder_has_a_setting_of_its_own():
    assert train_settings({"data": "x"}).cache == "disk"
    with pytest.raises(
        UsageError, match=r"cache: should be disk, memory or none; .* --cache-folder, not '/some/path'"
    ):
        train_settings({"data": "x", "cache": "/some/path"})


def test_an_older_runs_config_without_a_cache_folder_is_read(tmp_path):
    (tmp_path / "config.yaml").write_text("data: x\ncache: null  # Folder\n", encoding="utf-8")
    assert train_settings({}, tmp_path / "config.yaml").cache == "disk"
