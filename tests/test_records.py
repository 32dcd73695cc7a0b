"""A run's records are regular files of bounded size and plain data, or are said not to be."""

import os

import pytest

from rightfit.data import recorded
from rightfit.errors import RunError
from rightfit.records import epochs_of, object_in, objects_of
from rightfit.run import Run
from rightfit.saving.folder import read_json


@pytest.fixture(params=["device", "pipe", "too large"])
def endless(request, tmp_path):
    """endless(name): a file of the run's folder that is not to be read."""

    def make(name):
        path = tmp_path / name
        if request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "pipe":
            os.mkfifo(path)
        else:
            with path.open("wb") as file:
                file.truncate(2**40)  # takes no room on the disk
        return path

    return make


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither")
@pytest.mark.parametrize(
    "name",
    [
        "metrics.json",
        "calibration.json",
        "decisions.jsonl",
        "history.csv",
        "data.csv",
        "moved.json",
        "config.yaml",
    ],
)
def test_a_record_that_has_no_end_is_not_read(endless, tmp_path, name):
    path = endless(name)
    (tmp_path / "architecture.json").write_text("{}")
    assert object_in(path) == {} and objects_of(path) == []
    readers = {
        "history.csv": lambda: epochs_of(path),
        "data.csv": lambda: recorded.paths_of(path),
        "moved.json": lambda: recorded.located(tmp_path, ["a.png"]),
        "config.yaml": lambda: Run(tmp_path, backend=None).settings,
    }
    with pytest.raises(RunError, match=name):
        readers.get(name, lambda: read_json(path))()


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 500 + "]" * 500, '{"a": 1, "a": 2}', "{", "\ud7ff"])
def test_a_record_that_is_no_plain_data_is_said(tmp_path, text):
    path = tmp_path / "moved.json"
    path.write_text(text, encoding="utf-8")
    assert object_in(path) == {} and objects_of(path) == []
    with pytest.raises(RunError, match="incomplete or damaged"):
        read_json(path)
    with pytest.raises(RunError, match="`rightfit relocate` writes it anew"):
        recorded.located(tmp_path, ["a.png"])


def test_a_history_that_is_no_table_is_said(tmp_path):
    (tmp_path / "history.csv").write_bytes(b"epoch\n\xff\n")
    with pytest.raises(RunError, match=r"history\.csv: cannot be read"):
        epochs_of(tmp_path / "history.csv")
