"""From a source to its splits and images: what is remembered between runs, and what is not."""

import cv2
import numpy as np
import pandas as pd
import pytest

from rightfit.config import train_settings
from rightfit.console import Console
from rightfit.data.dataset import prepare
from rightfit.errors import DataError, UsageError


@pytest.fixture
def photographs(tmp_path):
    """60 photographs of 20 patients in a table without groups; returns its path and the frame."""
    rows = []
    for number in range(60):
        name = f"{number}.png"
        cv2.imwrite(str(tmp_path / name), np.full((8, 8, 3), number, np.uint8))
        rows.append({"path": name, "label": "ab"[number % 2], "patient": f"p{number % 20}"})
    return tmp_path / "table.csv", pd.DataFrame(rows)


@pytest.mark.parametrize(("positive", "said"), [(None, True), ("a", False)])
def test_which_class_is_the_positive_one_is_said_unless_asked(photographs, tmp_path, capsys, positive, said):
    table, frame = photographs
    frame.to_csv(table, index=False)
    asked = {
        "data": str(table),
        "image_size": 8,
        "cache_folder": str(tmp_path / "cache"),
        "positive": positive,
    }
    dataset, _ = prepare(str(table), train_settings(asked), Console())
    sentence = "probability are of b, the second class by name; --positive a asks for the other"
    assert (sentence in capsys.readouterr().err) == said
    assert dataset.table.classes == (("a", "b") if said else ("b", "a"))


def splits_of(table, tmp_path, **settings):
    asked = train_settings(
        {"data": str(table), "image_size": 8, "cache_folder": str(tmp_path / "cache"), **settings}
    )
    dataset, _ = prepare(str(table), asked, Console(quiet=True))
    return dataset.table.frame.set_index("name")["split"].astype(str)


def test_a_split_remembered_without_groups_never_tears_groups(photographs, tmp_path):
    table, frame = photographs
    frame[["path", "label"]].to_csv(table, index=False)
    splits_of(table, tmp_path)
    frame.rename(columns={"patient": "group"}).to_csv(table, index=False)
    splits = splits_of(table, tmp_path)
    sides = pd.DataFrame({"split": splits, "patient": frame.set_index("path")["patient"]})
    assert sides.groupby("patient")["split"].nunique().max() == 1
    assert set(splits) == {"train", "val", "test"}


def sides(dataset_splits, frame):
    """Patient -> how many splits it lies in."""
    return (
        pd.DataFrame({"split": dataset_splits, "patient": frame.set_index("path")["patient"]})
        .groupby("patient")["split"]
        .nunique()
    )


@pytest.mark.parametrize("way", ["remembered", "of a run"])
@pytest.mark.parametrize("near", [True, False])
def test_patients_that_were_corrected_are_whole_in_the_next_split(photographs, tmp_path, way, near):
    table, frame = photographs
    wrong = frame.assign(group=[f"p{number // 3}" for number in range(60)])
    wrong.to_csv(table, index=False)
    before = splits_of(table, tmp_path, group_near_duplicates=near)
    frame.assign(group=frame["patient"]).to_csv(table, index=False)
    assert sides(before, frame).max() > 1
    known = {str(tmp_path / name): split for name, split in before.items()} if way == "of a run" else None
    asked = {"data": str(table), "image_size": 8, "cache_folder": str(tmp_path / "cache")}
    settings = train_settings({**asked, "group_near_duplicates": near})
    dataset, _ = prepare(str(table), settings, Console(quiet=True), known)
    after = dataset.table.frame.set_index("name")["split"].astype(str)
    assert sides(after, frame).max() == 1 and set(after) == {"train", "val", "test"}
    assert "torn-groups" not in [finding.kind for finding in dataset.audit]


@pytest.mark.parametrize("drop", [True, False])
def test_the_split_of_a_run_is_kept_to_the_image_when_nothing_has_changed(photographs, tmp_path, drop):
    """Copies, near-duplicates and patients among them: what was dealt out once needs no mending."""
    table, frame = photographs
    frame.assign(group=frame["patient"]).to_csv(table, index=False)
    before = splits_of(table, tmp_path, drop_duplicates=drop)
    asked = {
        "data": str(table),
        "image_size": 8,
        "cache_folder": str(tmp_path / "cache"),
        "drop_duplicates": drop,
    }
    known = {str(tmp_path / name): split for name, split in before.items()}
    dataset, _ = prepare(str(table), train_settings(asked), Console(quiet=True), known)
    assert (dataset.table.frame.set_index("name")["split"].astype(str) == before).all()


def test_one_class_that_can_be_read_is_refused_as_check_does(photographs, tmp_path):
    table, frame = photographs
    for name in frame.loc[frame["label"] == "b", "path"]:
        (tmp_path / name).write_bytes(b"no image")
    frame.to_csv(table, index=False)
    with pytest.raises(DataError, match=r"only images of one class can be read \('a'\): nothing to learn"):
        splits_of(table, tmp_path, allow_bad=True)


def test_a_split_is_remembered_when_images_are_added(photographs, tmp_path):
    table, frame = photographs
    frame[["path", "label"]][:40].to_csv(table, index=False)
    before = splits_of(table, tmp_path)
    frame[["path", "label"]].to_csv(table, index=False)
    after = splits_of(table, tmp_path)
    assert (after[before.index] == before).all()
    assert after.value_counts().to_dict() == {"train": 40, "test": 13, "val": 7}


def test_two_tables_of_one_folder_share_its_decoded_images(photographs, tmp_path):
    table, frame = photographs
    frame[["path", "label"]].to_csv(table, index=False)
    splits_of(table, tmp_path)
    (store,) = (tmp_path / "cache").rglob("images.u8")
    frame[["path", "label"]][:40].to_csv(table.with_name("other.csv"), index=False)
    splits_of(table.with_name("other.csv"), tmp_path)
    assert list((tmp_path / "cache").rglob("images.u8")) == [store]


def test_a_bad_split_is_refused_before_anything_is_decoded(photographs, tmp_path):
    table, frame = photographs
    frame[["path", "label"]].to_csv(table, index=False)
    with pytest.raises(UsageError, match="6:1:x"):
        splits_of(table, tmp_path, split="6:1:x")
    assert not (tmp_path / "cache").exists()


def test_a_ratio_may_be_numbers():
    assert train_settings({"data": "x", "split": (6, 1, 2)}).split == "6:1:2"
