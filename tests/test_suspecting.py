"""Suspected labels and nearest images of a run, as a user meets them; the test set stays sealed."""

import csv
import json
import shutil

import pytest

import rightfit

# As in pyproject.toml, whose filters `-W error` overrides.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done


def relabelled(run, wrong):
    """The first `wrong` red training images of the run's record become blue ones."""
    path = run / "data.csv"
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if (row["label"], row["split"]) == ("red", "train")][:wrong]
    for row in chosen:
        row["label"] = "blue"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return {row["path"] for row in chosen}


@pytest.fixture
def run_on_own_photos(copy_of_run, photos, tmp_path):
    """The trained run, on photographs that a test may delete."""
    shutil.copytree(photos, tmp_path / "photos")
    for name in ("data.csv", "config.yaml"):
        text = (copy_of_run / name).read_text(encoding="utf-8")
        (copy_of_run / name).write_text(text.replace(str(photos), str(tmp_path / "photos")), encoding="utf-8")
    return copy_of_run


def test_wrong_labels_are_listed_with_what_to_do(copy_of_run, here, rows_of, tmp_path):
    wrong = relabelled(copy_of_run, 3)
    output = tmp_path / "suspects.csv"
    said = succeeded(here("suspects", copy_of_run, "--output", output, "--limit", 1))
    rows = rows_of(output)
    assert list(rows[0]) == [
        "path", "split", "label", "suggested", "probability_label", "probability_suggested", "score",
    ]  # fmt: skip
    assert len(wrong & {row["path"] for row in rows}) >= 2 and len(rows) <= 5
    assert rows[0]["path"] in wrong
    assert all(row["suggested"] == "red" and row["split"] == "train" for row in rows if row["path"] in wrong)
    lines = said.stdout.splitlines()
    assert lines[0] == f"{len(rows)} of 47 labels of training and validation images are suspected"
    assert lines[2].startswith("  blue ") and lines[2].endswith(rows[0]["path"])
    assert lines[3].startswith(f"  and {len(rows) - 1} more")
    assert "correct the labels" in lines[-1] and "train again" in lines[-1]
    found = json.loads(succeeded(here("suspects", copy_of_run, "--json")).stdout)
    assert found["images"] == 47 and found["not_judged"] == []
    assert [row["path"] for row in found["suspects"]] == [row["path"] for row in rows]


def test_the_test_images_are_neither_looked_for_nor_on_record(run_on_own_photos, here, rows_of):
    run = run_on_own_photos
    for row in rows_of(run / "data.csv"):
        if row["split"] == "test":
            (run.parent / "photos").joinpath(*row["path"].split("/")[-2:]).unlink()
    frame = rightfit.suspects(run, quiet=True)
    assert frame.attrs["images"] == 47
    succeeded(here("neighbours", run, run.parent / "photos" / "red"))
    assert not (run / "test-ledger.jsonl").exists()
    refused = here("evaluate", run)
    assert refused.returncode == 3, "these images are gone, and whoever needs them is told"


def test_an_image_that_training_saw_is_its_own_nearest_neighbour(trained, here, rows_of, tmp_path):
    recorded = {row["path"]: row for row in rows_of(trained.folder / "data.csv")}
    seen = [path for path, row in recorded.items() if row["split"] == "train"][:2]
    unseen = next(path for path, row in recorded.items() if row["split"] == "test")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    output = tmp_path / "near.csv"
    done = succeeded(here("neighbours", trained.folder, *seen, unseen, broken, "--k", 3, "--output", output))
    assert f"left out: {broken}" in done.stderr
    rows = rows_of(output)
    assert [(row["path"], row["rank"]) for row in rows] == [
        (path, str(rank)) for path in (*seen, unseen) for rank in (1, 2, 3)
    ]
    for path in seen:
        first = next(row for row in rows if row["path"] == path)
        assert first["neighbour"] == path and float(first["similarity"]) == pytest.approx(1, abs=1e-5)
    for row in rows:
        assert recorded[row["neighbour"]]["split"] == "train"
        assert recorded[row["neighbour"]]["label"] == row["label"]
    printed = rows_of(succeeded(here("neighbours", trained.folder, *seen, unseen, "--k", 3, "-q")).stdout)
    assert printed == rows


def test_arrays_that_are_gone_are_named_as_the_reason_and_present_ones_serve(digits, tmp_path, here):
    images, labels = digits
    run = rightfit.train(
        (images[:90], labels[:90]),
        image_size=8,
        model="resnet8",
        epochs=1,
        output=tmp_path / "run",
        quiet=True,
        report="none",
    )
    found = rightfit.suspects(run, quiet=True)
    assert found.attrs["images"] == len(run._data().table.rows("train")) + len(run._data().table.rows("val"))
    assert not (tmp_path / "run" / "test-ledger.jsonl").exists()
    for command in (("suspects", run.path), ("neighbours", run.path, tmp_path)):
        refused = here(*command)
        assert refused.returncode == 2 and "trained on data in memory, which are gone" in refused.stderr


def test_a_run_that_nothing_shows_to_be_better_than_a_guess_is_cautious(write_images, tmp_path, here):
    """Of noise that is labelled at random, and no images to show that it is."""
    noise = write_images(tmp_path / "noise", classes=("a", "b"), count=13)
    run = tmp_path / "run"
    succeeded(here("train", noise, "--image-size", 12, "--model", "resnet8", "--epochs", 3, "--split", "1:0:0",
                   "--output", run))  # fmt: skip
    said = succeeded(here("suspects", run, "--json"))
    assert "no validation images show that the run is better" in said.stderr
    found = json.loads(said.stdout)["suspects"]
    assert all(0.1 < row[f"probability_{of}"] < 0.9 for row in found for of in ("label", "suggested")), (
        "the last layer is surer than it is right"
    )


def test_wrong_use_is_told(trained, copy_of_run, here, tmp_path):
    nothing = here("neighbours", trained.folder, tmp_path / "no.png")
    assert nothing.returncode == 2 and "does not exist" in nothing.stderr
    (tmp_path / "broken.png").write_bytes(b"no image")
    unreadable = here("neighbours", trained.folder, tmp_path / "broken.png")
    assert unreadable.returncode == 3 and "nothing is compared" in unreadable.stderr
    assert here("suspects", tmp_path).returncode == 1
    lines = (copy_of_run / "data.csv").read_text(encoding="utf-8").splitlines()
    few = [line for line in lines[1:] if '"train"' in line]
    (copy_of_run / "data.csv").write_text("\n".join([lines[0], few[0], few[-1]]) + "\n", encoding="utf-8")
    refused = here("suspects", copy_of_run)
    assert refused.returncode == 3 and "too few of its 2 images" in refused.stderr
