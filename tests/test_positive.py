"""The class whose presence is asked for stays that through a run: on the screen, in files, in a run made like it."""

import json

import pytest


@pytest.fixture
def two(tmp_path, write_images):
    return write_images(tmp_path / "photos", classes=("blue", "red"))


def test_the_positive_class_is_that_of_evaluate_predict_resume_and_a_run_like_it(
    here, two, tmp_path, rows_of
):
    run, alike = tmp_path / "run", tmp_path / "alike"
    small = ("--image-size", 8, "--epochs", 1)
    done = here("train", two, *small, "--positive", "blue", "--output", run)
    assert done.returncode == 0, done.stderr
    assert "asks for the other" not in done.stderr
    again = here("train", "--config", run / "config.yaml", "--output", alike)
    assert again.returncode == 0, again.stderr
    resumed = here("resume", run, "--epochs", 2)
    assert resumed.returncode == 0, resumed.stderr
    for folder in (run, alike):
        (row,) = rows_of(here("predict", folder, two / "blue" / "00.png").stdout)
        assert [*row][2:] == ["probability_red", "probability_blue"]
        assert json.loads(here("evaluate", folder, "--json").stdout)["positive_class"] == "blue"
    assert (run / "data.csv").read_bytes() == (alike / "data.csv").read_bytes()


def test_training_says_which_class_is_the_positive_one(here, two, tmp_path):
    done = here("train", two, "--image-size", 8, "--epochs", 1, "--output", tmp_path / "run")
    said = "sensitivity and the probability are of red, the second class by name; --positive blue asks for the other"
    assert said in done.stderr
