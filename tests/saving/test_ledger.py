"""Each opening of the test set is on record, and openings with other weights are told from those with the same."""

import json

import pytest

from rightfit.errors import RightfitError, RunError
from rightfit.saving.ledger import open_test


@pytest.fixture
def run(tmp_path):
    (tmp_path / "config.yaml").write_text("epochs: 3\n")

    def opened(weights):
        (tmp_path / "weights.safetensors").write_bytes(weights)
        return open_test(tmp_path, "evaluate", "tensorflow", "float32")

    return tmp_path, opened


def test_openings_and_the_other_weights_among_them_are_counted(run):
    folder, opened = run
    found = [opened(weights) for weights in (b"a", b"a", b"b", b"a", b"c")]
    assert [(before.openings, before.other_weights) for before in found] == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 1),
        (4, 2),
    ]
    assert str(found[1]) == "the test set had been opened once before (test-ledger.jsonl)"
    assert "opened 2 times before (test-ledger.jsonl), with other weights: if those numbers decided" in str(
        found[2]
    )
    assert "opened 4 times before (test-ledger.jsonl), with 2 other sets of weights" in str(found[4])
    lines = [json.loads(line) for line in (folder / "test-ledger.jsonl").read_text().splitlines()]
    assert [line["opening"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line["other_weights_before"] for line in lines] == [0, 0, 1, 1, 2]
    assert len({line["weights"] for line in lines}) == 3
    assert all(line["time"] and line["settings"] and line["code"] and line["rightfit"] for line in lines)


def test_a_damaged_ledger_is_no_fresh_start(run):
    folder, opened = run
    opened(b"a")
    (folder / "test-ledger.jsonl").write_text('{"weights"')
    with pytest.raises(RunError, match="damaged"):
        opened(b"b")


@pytest.mark.parametrize("name", ["test-ledger.jsonl", "weights.safetensors"])
def test_a_record_that_has_no_end_is_not_read(run, name):
    folder, opened = run
    opened(b"a")
    (folder / name).unlink()
    with (folder / name).open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(RightfitError, match=rf"{name}.* more than"):
        open_test(folder, "evaluate", "tensorflow", "float32")
