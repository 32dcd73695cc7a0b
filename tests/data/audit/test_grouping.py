"""Laws of what training does about copies: which one stays, and that those alike stay on one side of the split."""

import numpy as np
import pandas as pd
import pytest

from rightfit.data.audit.grouping import first_of_each, grouped
from rightfit.data.reading import read
from rightfit.data.split import assign


@pytest.fixture
def table(tmp_path):
    """table(names, **columns): a table of files that are there; labels a b a b ... unless given."""

    def make(names, **columns):
        for name in names:
            (tmp_path / name).touch()
        labels = columns.pop("label", ["ab"[number % 2] for number in range(len(names))])
        return read(
            pd.DataFrame({"path": [str(tmp_path / name) for name in names], "label": labels} | columns)
        )

    return make


def names_of(table, rows):
    return [name.rpartition("/")[2] for name in table.frame["name"].iloc[rows]]


def test_of_equal_files_the_first_by_name_stays_whatever_the_order(table):
    found = table(["c", "a", "b", "d"], label=["x", "x", "y", "y"])
    assert names_of(found, first_of_each(found, np.array([7, 7, 7, 8]))[0]) == ["a", "b", "d"]


def test_copies_with_the_same_labels_in_another_order_are_copies_and_all_are_named(table):
    found = table(["a", "b", "c", "d"], label=["x|y", " y | x", "x", "y|x"])
    rows, sets = first_of_each(found, np.array([7, 7, 7, 7]))
    assert names_of(found, rows) == ["a", "c"]
    assert [[name.rpartition("/")[2] for name in names] for names in sets] == [["a", "b", "d"]]


def test_a_given_test_set_stays_whole(table):
    found = table(["a", "b", "c", "d"], label=["x", "x", "x", "y"], split=["train", "test", "val", "train"])
    assert names_of(found, first_of_each(found, np.array([7, 7, 7, 8]))[0]) == ["b", "d"]


def test_a_copy_that_is_added_is_the_one_to_go(table):
    found = table(["a", "b", "d"], label=["x", "x", "y"])
    known = {found.frame["name"].iloc[1]: "test"}
    assert names_of(found, first_of_each(found, np.array([7, 7, 8]), known)[0]) == ["b", "d"]


def test_pictures_alike_are_one_group_called_as_the_first(table):
    found = table(["c", "a", "b", "d"])
    groups = grouped(found, np.array([1, 0, 1, 2])).frame["group"].tolist()
    assert [group.rpartition("/")[2] for group in groups] == ["b", "", "b", ""]


def test_patients_with_one_picture_between_them_become_one(table):
    found = table(["a", "b", "c", "d", "e", "f"], group=["p1", "p1", "p2", "p2", "p3", ""])
    groups = grouped(found, np.array([0, 1, 1, 2, 3, 4])).frame["group"].tolist()
    assert groups == ["p1", "p1", "p1", "p1", "p3", ""]


def test_a_group_does_not_cross_given_splits(table):
    found = table(["a", "b", "c", "d"], split=["train", "test", "train", "test"])
    assert grouped(found, np.array([0, 0, 1, 2])) is found


def test_an_image_without_a_split_goes_where_its_picture_is_held_back(table):
    names = [f"{number:02d}" for number in range(40)]
    found = table(names, split=["train", "test", *[""] * 38])
    near = np.arange(40)
    near[[0, 5, 6]] = 0
    near[[1, 7]] = 1
    splits = assign(grouped(found, near)).frame["split"].astype(str).tolist()
    assert [splits[row] for row in (0, 5, 6, 1, 7)] == ["train", "train", "train", "test", "test"]


def test_without_copies_nothing_changes(table):
    found = table(["a", "b", "c", "d"])
    assert grouped(found, np.arange(4)) is found


def test_a_remembered_split_that_would_tear_pictures_alike_is_mended(table):
    names = [f"{number:03d}" for number in range(90)]
    found = table(names)
    known = dict(zip(found.frame["name"], assign(found).frame["split"].astype(str), strict=True))
    near = np.arange(90)
    near[60:66] = 60
    alike = grouped(found, near)
    after = assign(alike, known=known).frame["split"].astype(str).to_numpy()
    assert len(set(after[60:66])) == 1
    before = np.array([known[name] for name in found.frame["name"]])
    outside = np.r_[0:60, 66:90]
    assert (before[outside] == after[outside]).all()
