"""Slices are thirds of brightness and size, and groups where they are few; the table of them fits a screen."""

import re
import shutil

import numpy as np
from rich.cells import cell_len

from rightfit.evaluation.lines import lines_of, padded
from rightfit.evaluation.slices import (
    FEWEST,
    Brightness,
    own_groups,
    pixels,
    pixels_beside,
    slices_of,
    thirds,
)
from rightfit.evaluation.summary import summary
from rightfit.fitting import sentence


def test_thirds_hold_every_image_once_and_equal_values_together():
    values = np.random.default_rng(0).integers(0, 9, 300).astype(float)
    names, codes = thirds(values, ("low", "mid", "high"), "{:.0f} to {:.0f}")
    assert len(names) == 3 and np.bincount(codes).min() > 60
    assert all(len(set(codes[values == value])) == 1 for value in values)
    assert (
        names[0].startswith("low (0 to ")
        and (np.diff([values[codes == c].mean() for c in range(3)]) > 0).all()
    )


def test_images_that_are_all_alike_are_no_slices():
    assert slices_of(np.full(9, 80.0), np.full(9, 4.0), [""] * 9) == {}
    assert slices_of(np.full(9, 80.0), None, [""] * 9) == {}


def test_few_groups_are_slices_and_many_are_not():
    names, codes = slices_of(np.full(40, 1.0), None, ["b", "a", "", "b"] * 10)["group"]
    assert names == ["a", "b"] and codes.tolist() == [1, 0, -1, 1] * 10
    assert "group" not in slices_of(np.full(420, 1.0), None, list(map(str, range(42))) * 10)


def test_a_group_of_few_images_is_no_part():
    named = ["a"] * FEWEST + ["b"] * (FEWEST - 1)
    names, codes = slices_of(np.full(len(named), 1.0), None, named)["group"]
    assert names == ["a"] and codes.tolist() == [0] * FEWEST + [-1] * (FEWEST - 1)
    assert "group" not in slices_of(np.full(8, 1.0), None, ["a", "b"] * 4)
    assert "group" not in slices_of(np.full(20, 1.0), None, ["a"] * 20), "it is the whole"


def test_copies_that_training_grouped_are_no_slice_and_patients_are(tmp_path, write_images):
    from rightfit.config import train_settings
    from rightfit.console import Console
    from rightfit.data import recorded
    from rightfit.data.dataset import prepare

    photos, cache = write_images(tmp_path / "photos", count=24), str(tmp_path / "cache")
    first, *others = sorted(photos.glob("red/*"))
    for other in others[:12]:
        shutil.copy(first, other)
    table = tmp_path / "table.csv"
    lines = [
        f"{file},{file.parent.name},{'p1' if i % 2 else ''}" for i, file in enumerate(photos.glob("blue/*"))
    ]
    lines += [f"{file},{file.parent.name}," for name in ("green", "red") for file in photos.glob(f"{name}/*")]
    table.write_text("\n".join(["path,label,group", *lines]) + "\n")
    for source, own in ((photos, {""}), (table, {"", "p1"})):
        asked = train_settings({"data": str(source), "image_size": 8, "cache_folder": cache})
        dataset, _ = prepare(str(source), asked, Console(quiet=True))
        dataset.table.write_csv(tmp_path / "data.csv")
        again = recorded.table_of(tmp_path / "data.csv", dataset.table.classes, dataset.table.label_mode)
        for found in (dataset.table, again):
            groups, names = (found.frame[name].tolist() for name in ("group", "name"))
            assert len(set(groups)) > len(own) and set(own_groups(groups, names)) == own


def test_image_sizes_come_from_the_files_headers(tmp_path, picture):
    for side in (10, 20, 30):
        (tmp_path / f"{side}.png").write_bytes(picture(side))
    paths = [str(tmp_path / f"{side}.png") for side in (20, 10, 30)]
    assert pixels(paths).tolist() == pixels_beside(paths)().tolist() == [400, 100, 900]
    assert pixels(["s3://bucket/a.png"]) is None and pixels([str(tmp_path / "gone.png")]) is None


def test_brightness_is_of_the_images_as_they_are_read_whatever_the_order():
    class Images:
        def gather(self, rows):
            return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 2, 2, 3))

    seen = Brightness(Images())
    seen.gather(np.array([7, 3]))
    seen.gather(np.array([200]))
    assert seen.of(np.array([200, 3, 7])).tolist() == [200, 3, 7]


def columns_of(line, number):
    """Where on a screen the number stands."""
    return cell_len(line[: line.index(number)])


def test_names_are_padded_by_the_columns_they_take_and_long_ones_keep_both_ends():
    assert padded(["红色的花", "ab"]) == ["红色的花", "ab      "]
    assert padded(["ab"], 4) == ["ab  "]
    (long,) = padded(["precision of " + "红" * 60 + ": present"])
    assert long.startswith("precision of ") and long.endswith(": present") and cell_len(long) <= 46


def test_numbers_stand_below_each_other_whatever_the_names():
    """Chinese names take two columns a character; those of parts and labels are long."""
    generator = np.random.default_rng(0)
    targets = np.eye(3, dtype=np.float32)[generator.integers(0, 3, 90)]
    logits = (generator.normal(size=targets.shape) + 3 * targets).astype(np.float32)
    part = "dark (63.123456789 to 122.123456789 of 255)"
    found = summary(
        logits, targets, "categorical", ("红色的花", "blue", "x" * 60),
        slices={"brightness": ([part], np.where(np.arange(90) < 60, 0, -1))},
    )  # fmt: skip
    found["slices"]["brightness"][part] = {"value": 0.25, "low": 0.1, "high": 0.4, "differs": True}
    lines = lines_of(found)
    table = [line for line in lines if not line.endswith(":")]
    assert len({columns_of(line, re.search(r" (-?\d\.\d{4}|-)( |$)", line)[0]) for line in table}) == 1
    assert lines[-2:] == [
        "  accuracy of a part that differs from the whole:",
        next(line for line in lines if line.endswith("0.2500   0.1000 to 0.4000")),
    ]
    assert max(map(cell_len, lines)) <= 80 and any("…" in line for line in lines)


def test_what_is_not_known_is_one_dash():
    """Two classes, of which the images have one and the answers the other."""
    found = summary(np.full((9, 1), -1, np.float32), np.ones((9, 1), np.float32), "binary", ("no", "yes"))
    lines = [line.split() for line in lines_of(found)]
    assert ["recall", "of", "no", "-"] in lines
    assert ["MCC", "0.0000", "-"] in lines
    assert not any("nan" in word for line in lines for word in line)


def test_what_is_right_of_several_labels_is_called_by_its_name():
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 2, (50, 3)).astype(np.float32)
    logits = (targets * 2 - 1 + generator.normal(size=targets.shape)).astype(np.float32)
    found = summary(logits, targets, "multilabel", ("a", "b", "c"))
    lines = lines_of(found)
    assert lines[0].startswith("  share of labels right ")
    assert lines[1].startswith("  images with all labels right ")
    assert sentence("validation", found).startswith("validation share of labels right 0.")
    assert found["exact_match"]["value"] == ((logits > 0) == (targets > 0.5)).all(axis=1).mean()
    assert found["exact_match"]["value"] < found["exact_match"]["high"] < found["accuracy"]["value"]


def test_a_thousand_classes_fit_on_a_screen():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 1000, 1500)
    targets = np.eye(1000, dtype=np.float32)[codes]
    logits = (generator.normal(size=targets.shape) + 3 * targets).astype(np.float32)
    lines = lines_of(summary(logits, targets, "categorical", tuple(f"class {i}" for i in range(1000))))
    assert len(lines) < 40
    assert any("lowest recalls of 1,000 classes" in line for line in lines)
