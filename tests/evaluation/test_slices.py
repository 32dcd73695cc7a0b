"""Slices are thirds of brightness and size, and groups where they are few; the table of them fits a screen."""

import numpy as np

from rightfit.evaluation.lines import lines_of
from rightfit.evaluation.slices import Brightness, pixels, pixels_beside, slices_of, thirds
from rightfit.evaluation.summary import summary


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
    names, codes = slices_of(np.full(4, 1.0), None, ["b", "a", "", "b"])["group"]
    assert names == ["a", "b"] and codes.tolist() == [1, 0, -1, 1]
    assert "group" not in slices_of(np.full(40, 1.0), None, list(map(str, range(40))))


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


def test_a_thousand_classes_fit_on_a_screen():
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 1000, 1500)
    targets = np.eye(1000, dtype=np.float32)[codes]
    logits = (generator.normal(size=targets.shape) + 3 * targets).astype(np.float32)
    lines = lines_of(summary(logits, targets, "categorical", tuple(f"class {i}" for i in range(1000))))
    assert len(lines) < 40
    assert any("lowest recalls of 1,000 classes" in line for line in lines)
