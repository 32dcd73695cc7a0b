"""Every row gets a split: exact totals, balanced strata, whole groups, and the same again whatever the order."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from rightfit.data.dealing import largest_remainder
from rightfit.data.reading import read
from rightfit.data.split import assign, parse_ratio
from rightfit.data.table import SPLITS, Table
from rightfit.errors import DataError, UsageError


def table_of(labels, groups=None, splits=None, strata=None, names=None):
    """A table that no file stands behind."""
    count = len(labels)
    frame = pd.DataFrame(
        {
            "name": pd.Series(
                [f"{i:06d}.jpg" for i in range(count)] if names is None else names, dtype="str"
            ),
            "label": pd.Categorical(labels),
            "split": pd.Categorical([""] * count if splits is None else splits, ["", *SPLITS]),
            "group": pd.Series([""] * count if groups is None else groups, dtype="str"),
            "stratum": pd.Categorical(labels if strata is None else strata),
        }
    )
    return Table(frame, tuple(sorted(set(labels))), "categorical", "/nowhere")


def split_of(table):
    return dict(zip(table.frame["name"], table.frame["split"], strict=True))


def totals(table):
    counts = Counter(table.frame["split"])
    assert set(counts) <= set(SPLITS)
    return tuple(counts[split] for split in SPLITS)


def cells(table, column="stratum"):
    return pd.crosstab(table.frame[column], table.frame["split"]).reindex(columns=list(SPLITS), fill_value=0)


def letters(count, shares=(0.7, 0.2, 0.08, 0.02), seed=0):
    return np.random.default_rng(seed).choice(list("abcd"[: len(shares)]), count, p=shares).tolist()


@pytest.mark.parametrize(
    ("count", "ratio", "expected"),
    [
        (50975, (6, 1, 2), (33983, 5664, 11328)),
        (10, (8, 1, 1), (8, 1, 1)),
        (10, (0.7, 0.1, 0.2), (7, 1, 2)),
        (7, (8, 2, 0), (6, 1, 0)),
        (1, (1, 1, 1), (1, 0, 0)),
        (0, (6, 1, 2), (0, 0, 0)),
    ],
)
def test_largest_remainder(count, ratio, expected):
    assert largest_remainder(count, ratio) == expected


@pytest.mark.parametrize(
    ("text", "ratio"), [("6:1:2", (6, 1, 2)), ("8:2", (8, 2, 0)), ("0.7:0.1:0.2", (0.7, 0.1, 0.2))]
)
def test_ratios_are_parsed(text, ratio):
    assert parse_ratio(text) == ratio


@pytest.mark.parametrize(
    "text", ["", "6", "6:1:2:1", "6:x:2", "0:1:2", "6:-1:2", "nan:1:2", "6:inf:2", "6::2"]
)
def test_a_wrong_ratio_is_refused(text):
    with pytest.raises(UsageError, match="split"):
        parse_ratio(text)


def test_assign_checks_its_ratio():
    with pytest.raises(UsageError, match="train above 0"):
        assign(table_of(list("ab") * 9), ratio=(0, 1, 2))


def test_totals_are_exact_and_each_stratum_is_near_its_ideal():
    table = assign(table_of(letters(50975)))
    assert totals(table) == (33983, 5664, 11328)
    found = cells(table)
    ideal = found.sum(axis=1).to_numpy()[:, None] * np.array([6, 1, 2]) / 9
    assert np.abs(found.to_numpy() - ideal).max() < 2
    assert table.notes == ()


def test_the_order_of_rows_does_not_matter():
    labels, groups = letters(600), [f"p{i // 3}" if i % 4 else "" for i in range(600)]
    for plain in (table_of(labels), table_of(labels, groups)):
        shuffled = plain.select(np.random.default_rng(1).permutation(600))
        assert split_of(assign(shuffled)) == split_of(assign(plain))


def test_another_seed_is_another_split_and_the_same_seed_the_same():
    table = table_of(letters(300))
    assert split_of(assign(table, seed=3)) == split_of(assign(table, seed=3))
    same = sum(
        a == b
        for a, b in zip(
            assign(table, seed=3).frame["split"], assign(table, seed=4).frame["split"], strict=True
        )
    )
    assert 100 < same < 220  # chance agreement is (36 + 1 + 4) / 81 of 300, about 152


def test_names_in_order_do_not_give_splits_in_order():
    train = np.flatnonzero((assign(table_of(["a", "b"] * 450)).frame["split"] == "train").to_numpy())
    assert abs(train.mean() - 450) < 50  # four standard errors are about 25


def test_two_labels_of_the_same_images_get_one_split(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{i}.jpg" for i in range(200)]
    for name in names:
        (tmp_path / name).touch()
    frame = pd.DataFrame(
        {
            "path": [str(tmp_path / name) for name in names],
            "DR": rng.choice([0, 1, 2], 200, p=[0.8, 0.15, 0.05]),
            "DM": rng.choice(["no", "yes"], 200, p=[0.7, 0.3]),
        }
    )
    by_dr, by_dm = (assign(read(frame, label=label)) for label in ("DR", "DM"))
    assert by_dr.classes != by_dm.classes
    assert split_of(by_dr) == split_of(by_dm)
    assert (cells(by_dr, "label") > 0).all(axis=None) and (cells(by_dm, "label") > 0).all(axis=None)


@pytest.mark.parametrize("grouped", [False, True])
def test_adding_images_moves_none(grouped):
    labels = letters(900, (0.6, 0.4)) + ["new"] * 9 + letters(91, (0.6, 0.4), seed=1)
    groups = [f"p{i // 2}" for i in range(1000)] if grouped else None
    whole = table_of(labels, groups)
    before = split_of(assign(whole.select(np.arange(899))))  # the group of row 898 is cut in two
    after = assign(whole, known={**before, "vanished.jpg": "train"})
    assert {name: split_of(after)[name] for name in before} == before
    assert np.abs(np.subtract(totals(after), largest_remainder(1000, (6, 1, 2)))).max() <= grouped
    assert (cells(after).loc["new"] > 0).all()
    if grouped:
        assert split_of(after)["000899.jpg"] == before["000898.jpg"]


def test_known_rows_stay_where_they_are_even_against_the_ratio():
    table = table_of(["a", "b"] * 20)
    known = {f"{i:06d}.jpg": "test" for i in range(20)}
    after = split_of(assign(table, known=known))
    assert all(after[name] == "test" for name in known)
    assert Counter(after.values()) == {"test": 20, "train": 17, "val": 3}


def test_groups_that_an_earlier_split_tears_are_dealt_anew_toward_the_ratio():
    """So corrected groups empty no split, and what they do not touch stays."""
    labels, alone = ["a", "b"] * 50, 40
    before = split_of(assign(table_of(labels)))
    groups = [""] * alone + [f"p{i % 10}" for i in range(100 - alone)]
    after = assign(table_of(labels, groups), known=before)
    assert set(after.frame["split"][alone:].groupby(groups[alone:]).nunique()) == {1}
    assert after.frame["split"].astype(str).tolist()[:alone] == list(before.values())[:alone]
    assert (
        np.abs(np.subtract(totals(after), largest_remainder(100, (6, 1, 2)))).max() <= 6
    )  # the size of a group
    assert not any("lie in more than one" in note for note in after.notes)


def test_a_group_of_a_new_given_test_image_leaves_its_remembered_side():
    splits = ["train"] * 20 + ["test"] * 10 + [""] * 10
    groups = ["p"] + [""] * 28 + ["q"] * 3 + [""] * 8
    before = split_of(assign(table_of(["a", "b"] * 20, splits=splits)))
    before |= {"000030.jpg": "train", "000031.jpg": "train"}
    after = assign(table_of(["a", "b"] * 20, groups, splits), known=before).frame["split"]
    assert after[29:32].tolist() == ["test"] * 3


def test_a_split_that_whole_groups_would_empty_is_refused():
    labels = ["a", "b"] * 20
    before = split_of(assign(table_of(labels)))
    with pytest.raises(DataError, match="no image of it is left for val: there are too few groups"):
        assign(table_of(labels, [f"p{i % 2}" for i in range(40)]), known=before)


def test_groups_stay_whole_and_totals_come_near():
    rng = np.random.default_rng(0)
    people = rng.integers(0, 250, 1500)
    labels = np.where(rng.random(1500) < 0.9, np.array(list("ab"))[people % 2], "c").tolist()
    table = assign(table_of(labels, [f"p{p}" if p else "" for p in people]))
    by_group = table.frame[table.frame["group"] != ""].groupby("group")["split"].nunique()
    assert (by_group == 1).all()
    assert np.abs(np.subtract(totals(table), largest_remainder(1500, (6, 1, 2)))).max() <= 3
    found = cells(table)
    ideal = found.sum(axis=1).to_numpy()[:, None] * np.array([6, 1, 2]) / 9
    assert np.abs(found.to_numpy() - ideal).max() < 10
    assert table.notes == ()


def test_one_huge_group_goes_to_train():
    table = assign(table_of(["a", "b"] * 50, ["big"] * 60 + [""] * 40))
    assert {
        split for split, group in zip(table.frame["split"], table.frame["group"], strict=True) if group
    } == {"train"}
    assert totals(table) == (67, 11, 22)


@pytest.mark.parametrize("rare", [3, 4, 5])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_class_with_enough_units_reaches_each_split(rare, grouped):
    units = ["a"] * 300 + [name for name in ("r1", "r2", "r3", "r4", "r5") for _ in range(rare)]
    each = 2 if grouped else 1
    labels = [label for label in units for _ in range(each)]
    groups = [f"p{i // 2}" for i in range(len(labels))] if grouped else None
    table = assign(table_of(labels, groups))
    assert (cells(table) >= each).all(axis=None)
    assert np.abs(np.subtract(totals(table), largest_remainder(len(labels), (6, 1, 2)))).max() < each
    assert table.notes == ()


def test_a_rare_value_spread_over_strata_still_reaches_each_split():
    labels = ["common"] * 400 + ["rare"] * 4
    strata = [f"common\x1fsite{i % 8}" for i in range(400)] + [f"rare\x1fsite{i}" for i in range(4)]
    for seed in range(5):
        table = assign(table_of(labels, strata=strata), seed=seed)
        assert (cells(table, "label").loc["rare"] > 0).all()
        assert totals(table) == largest_remainder(404, (6, 1, 2))


def test_coverage_wins_over_totals_and_says_so():
    table = assign(table_of(list("abcd") * 3))
    assert (cells(table) == 1).all(axis=None)
    assert "4 / 4 / 4 instead of 8 / 1 / 3" in table.notes[0]


def test_a_class_that_cannot_reach_a_split_is_named():
    table = assign(table_of(["a"] * 50 + ["b"] * 50 + ["two"] * 2))
    absent = [split for split in SPLITS if cells(table).loc["two", split] == 0]
    assert absent
    assert table.notes == tuple(f"{split} holds no image of 1 of the classes: two." for split in absent)
    assert totals(table) == largest_remainder(102, (6, 1, 2))


def test_a_split_of_ratio_zero_stays_empty():
    assert totals(assign(table_of(letters(100)), ratio=(8, 2, 0))) == (80, 20, 0)
    assert totals(assign(table_of(letters(100), [f"p{i // 2}" for i in range(100)]), ratio=(8, 0, 2))) == (
        80,
        0,
        20,
    )


def test_given_splits_stay():
    splits = ["train", "val", "test", "test"] * 10
    table = table_of(list("aabb") * 10, splits=splits)
    assert assign(table).frame["split"].tolist() == splits


def test_missing_validation_is_carved_from_train_alone():
    splits = ["train"] * 70 + ["test"] * 30
    table = assign(table_of(["a", "b"] * 50, splits=splits))
    assert table.frame["split"].tolist()[70:] == ["test"] * 30
    assert totals(table) == (60, 10, 30)
    assert cells(table)["val"].tolist() == [5, 5]
    assert "10 of the 70 train images" in table.notes[0]


def test_carving_keeps_what_an_earlier_run_carved():
    labels = ["a", "b"] * 50
    whole = table_of(labels, splits=["test"] * 30 + ["train"] * 70)
    before = split_of(assign(whole.select(np.arange(86))))
    after = split_of(assign(whole, known=before))
    assert {name: after[name] for name in before} == before
    assert Counter(after.values()) == {"train": 60, "val": 10, "test": 30}


def test_a_missing_test_set_is_not_made():
    table = assign(table_of(["a", "b"] * 10, splits=["train", "train", "val", "val"] * 5))
    assert totals(table) == (10, 10, 0)
    assert "no test set" in table.notes[0]


def test_blank_rows_never_widen_a_given_test_set():
    table = assign(table_of(["a", "b"] * 50, splits=["test"] * 30 + [""] * 70))
    assert totals(table) == (60, 10, 30)
    assert "70 images without a given split were dealt to train:val:test as 6:1:0" in table.notes[0]


def test_blank_rows_without_a_given_test_set_follow_the_ratio():
    table = assign(table_of(["a", "b"] * 50, splits=["train"] * 10 + [""] * 90))
    assert totals(table) == (70, 10, 20)


def test_blank_rows_follow_their_group():
    splits = ["train", "test", "val", ""] + [""] * 36
    groups = ["p", "q", "r", "q"] + [""] * 36
    assert assign(table_of(["a", "b"] * 20, groups, splits)).frame["split"][3] == "test"


def test_a_group_torn_by_the_given_splits_is_left_and_named():
    splits = ["train"] * 30 + ["test"] * 10
    groups = ["torn"] * 2 + [""] * 37 + ["torn"]
    for seed in range(9):
        table = assign(table_of(["a", "b"] * 20, groups, splits), seed=seed)
        assert table.frame["split"].tolist()[:2] == ["train", "train"]
        assert any("1 groups" in note and "torn" in note for note in table.notes)


def test_given_splits_need_train():
    with pytest.raises(DataError, match="no train"):
        assign(table_of(["a", "b"], splits=["val", "test"]))
