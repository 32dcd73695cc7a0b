"""The class whose presence is asked for stays that through a run: on the screen, in files, in a run made like it."""

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
        (said,) = [
            line for line in here("evaluate", folder).stdout.splitlines() if "sensitivity is of" in line
        ]
        assert said.split()[-1] == "blue"
    assert (run / "data.csv").read_bytes() == (alike / "data.csv").read_bytes()
