"""Laws of the audit: what is planted is found, what is untouched is not named, and an error means not to train."""

import json
import resource
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from rightfit.console import Console
from rightfit.data.audit import duplicates
from rightfit.data.audit.about_classes import images_for
from rightfit.data.audit.check import check
from rightfit.errors import DataError, WriteError

ROOT = Path(__file__).parents[3]


def checked(source, **settings):
    asked = {"label": None, "label_mode": "auto", "group_by": None, "ratio": "6:1:2", "seed": 0} | settings
    return check(source if isinstance(source, tuple) else str(source), console=Console(quiet=True), **asked)


def found(audit, kind):
    return [finding for finding in audit if finding.kind == kind]


def the(audit, kind):
    (finding,) = found(audit, kind)
    return finding


def scene(seed, side=48, brightness=1.0):
    """(side, side, 3): smooth noise, another for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 200, (6, 6, 3)).astype(np.float32)
    fine = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 8, (side, side, 3))
    return np.clip(fine * brightness, 0, 255).astype(np.uint8)


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1])[1].tobytes())
    return path


@pytest.fixture
def scenes(tmp_path):
    """40 different pictures in classes a and b, below tmp_path / "photos"."""
    for number in range(40):
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png", scene(number))
    return tmp_path / "photos"


@pytest.fixture
def divided(tmp_path):
    """40 different pictures in train, val and test."""
    for number in range(40):
        side = ("train", "train", "val", "test")[number // 2 % 4]
        write(tmp_path / "divided" / side / "ab"[number % 2] / f"{number:02d}.png", scene(number))
    return tmp_path / "divided"


def test_nothing_is_said_of_good_images_but_that_they_are_few(scenes):
    audit = checked(scenes)
    assert [finding.kind for finding in audit] == ["small-validation"]
    assert not audit.pointless
    assert audit.classes == {"a": {"train": 14, "val": 2, "test": 4}, "b": {"train": 13, "val": 2, "test": 5}}


def test_planted_faults_are_found_and_the_others_left_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import audit as benchmark

    source = benchmark.digits(tmp_path / "digits", 600)
    planted = benchmark.plant(source, tmp_path / "planted", seed=0, counts=(12, 20, 5, 10))
    shares = benchmark.shares(checked(tmp_path / "planted"), planted)
    assert {kind: shares[kind] for kind in ("exact", "conflicts", "broken")} == {
        "exact": 1,
        "conflicts": 1,
        "broken": 1,
    }
    assert shares["near"] >= 0.9
    assert shares["false_alarms"] <= 0.01


def test_an_unreadable_file_is_named_with_its_reason(scenes):
    whole = (scenes / "a" / "00.png").read_bytes()
    (scenes / "a" / "empty.png").write_bytes(b"")
    (scenes / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    finding = the(checked(scenes), "unreadable")
    assert finding.files == (("a/empty.png",), ("b/cut.png",))
    assert finding.reasons == ("empty file", "truncated PNG")
    assert finding.severity == "warning"


def test_so_many_unreadable_files_that_training_refuses_are_an_error(scenes):
    for number in range(3):
        (scenes / "a" / f"empty-{number}.png").write_bytes(b"")
    assert the(checked(scenes), "unreadable").severity == "error"


def test_with_nothing_readable_there_is_one_error_and_no_crash(tmp_path):
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "empty.png").write_bytes(b"")
    audit = checked(tmp_path / "photos")
    assert [(finding.severity, finding.kind) for finding in audit] == [("error", "unreadable")]


def test_one_readable_class_is_an_error(tmp_path, scenes):
    for path in (scenes / "b").iterdir():
        path.write_bytes(b"")
    assert the(checked(scenes), "single-class").severity == "error"


def test_a_file_named_as_another_format_is_named(scenes):
    (scenes / "a" / "00.png").rename(scenes / "a" / "photo.JPG")
    finding = the(checked(scenes), "misnamed")
    assert (finding.files, finding.reasons) == ((("a/photo.JPG",),), ("PNG named .jpg",))


def test_a_constant_image_is_named_and_is_nobodys_near_duplicate(scenes):
    for number in range(2):
        write(scenes / "a" / f"grey-{number}.png", np.full((48, 48, 3), 90 + number, np.uint8))
    audit = checked(scenes)
    assert the(audit, "constant").files == (("a/grey-0.png",), ("a/grey-1.png",))
    assert not found(audit, "near-duplicates")


def test_images_unlike_the_rest_are_named(scenes):
    write(scenes / "a" / "long.png", scene(100, 48)[:10])
    write(scenes / "a" / "large.png", scene(101, 300))
    cv2.imwrite(str(scenes / "a" / "deep.png"), scene(102)[..., 0].astype(np.uint16) * 257)
    audit = checked(scenes)
    assert the(audit, "odd-shapes").files == (("a/large.png",), ("a/long.png",))
    assert the(audit, "odd-kinds").reasons == ("grey, 16 bits",)


def test_one_picture_under_two_labels_is_a_conflict_and_no_plain_duplicate(scenes):
    write(scenes / "b" / "copy.png", scene(0))
    write(scenes / "b" / "again.jpg", scene(2))
    audit = checked(scenes)
    finding = the(audit, "label-conflicts")
    assert finding.files == (("a/00.png", "b/copy.png"), ("a/02.png", "b/again.jpg"))
    assert finding.figures == {"same_file": 1}
    assert not found(audit, "exact-duplicates") and not found(audit, "near-duplicates")


def test_label_sets_are_compared_not_their_spelling(tmp_path):
    for number in range(12):
        write(tmp_path / f"{number}.png", scene(number))
    for name, like in (("same.png", 0), ("other.png", 1)):
        write(tmp_path / name, scene(like))
    rows = [f"{number}.png,x|y" for number in range(12)] + ["same.png,y|x", "other.png,x"]
    (tmp_path / "table.csv").write_text("\n".join(["path,label", *rows]))
    audit = checked(tmp_path / "table.csv")
    assert the(audit, "label-conflicts").files == (("1.png", "other.png"),)
    assert the(audit, "exact-duplicates").files == (("0.png", "same.png"),)


def test_a_picture_on_both_sides_of_given_splits_is_a_leak(divided):
    write(divided / "test" / "a" / "copy.png", scene(0))
    write(divided / "val" / "a" / "mirrored.jpg", scene(2)[:, ::-1])
    finding = the(checked(divided), "leak")
    assert finding.figures == {"val": 1, "test": 1}
    assert finding.severity == "warning"
    assert set(finding.files) == {
        ("test/a/copy.png", "train/a/00.png"),
        ("train/a/02.png", "val/a/mirrored.jpg"),
    }


def test_a_test_set_that_was_mostly_seen_is_an_error(divided):
    for path in (divided / "test").glob("*/*.png"):
        side = divided / "train" / path.parent.name / f"seen-{path.name}"
        side.write_bytes(path.read_bytes())
    assert the(checked(divided), "leak").severity == "error"


def test_splits_that_training_would_make_have_no_leak(scenes):
    for number in range(20):
        write(scenes / "a" / f"copy-{number}.png", scene(2 * number))
    audit = checked(scenes)
    assert not found(audit, "leak")
    assert the(audit, "exact-duplicates").figures == {"copies": 20}


def test_beyond_the_images_that_training_compares_nothing_is_said_to_be_kept_together(scenes, monkeypatch):
    for number in range(0, 40, 2):
        pixels = cv2.imread(str(scenes / "a" / f"{number:02d}.png"))[:, ::-1, ::-1]
        write(scenes / "a" / f"{number:02d}-mirrored.png", pixels)
    assert not found(checked(scenes), "leak")
    monkeypatch.setattr(duplicates, "NEAR_LIMIT", 59)
    audit = checked(scenes)
    for finding in (the(audit, "leak"), the(audit, "near-duplicates")):
        assert "training does not look for them" in finding.advice


def test_a_full_folder_for_temporary_files_is_named_with_what_to_do(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(WriteError, match=rf"{tmp_path}: cannot hold .* MB of thumbnails .*set TMPDIR"):
            checked(scenes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_group_in_two_given_splits_is_named(tmp_path):
    rows = []
    for number in range(12):
        write(tmp_path / f"{number}.png", scene(number))
        rows.append(f"{number}.png,{'ab'[number % 2]},{('train', 'val', 'test')[number % 3]},p{number // 2}")
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split,group", *rows]))
    finding = the(checked(tmp_path / "table.csv"), "torn-groups")
    assert finding.figures["groups"] == [f"p{n}" for n in range(6)]


def test_a_class_that_a_given_split_lacks_is_named(divided):
    for path in (divided / "val" / "b").iterdir():
        path.unlink()
    finding = the(checked(divided), "missing-class")
    assert finding.figures == {"split": "val", "classes": ["b"]}


def test_an_uneven_set_is_said_to_be_so(scenes):
    for path in sorted((scenes / "b").iterdir())[4:]:
        path.unlink()
    assert the(checked(scenes), "imbalance").figures == {"ratio": 5.0}


def test_brightness_that_tells_the_class_is_a_shortcut_with_an_interval(tmp_path):
    for number in range(80):
        brightness = 1.0 if number % 2 else 1.8
        write(
            tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png", scene(number, brightness=brightness)
        )
    finding = next(f for f in checked(tmp_path / "photos") if f.kind == "shortcut")
    score = finding.figures["balanced_accuracy"]
    assert finding.severity == "warning" and finding.figures["family"] == "brightness"
    assert 0.75 <= score["low"] <= score["value"] <= score["high"] <= 1


def test_size_that_tells_the_class_is_a_shortcut(tmp_path):
    for number in range(80):
        side = 48 if number % 2 else 60
        write(tmp_path / "photos" / "ab"[number % 2] / f"{number:02d}.png", scene(number, side))
    assert "image size" in {f.figures["family"] for f in checked(tmp_path / "photos") if f.kind == "shortcut"}


def test_how_many_images_a_difference_takes():
    """1.96^2 * 0.9 * 0.1 / 0.02^2 = 864.4; half the difference takes four times as many."""
    assert images_for(0.02) == 865
    assert images_for(0.01) == 3458


def test_validation_images_of_few_patients_count_as_few(tmp_path):
    rows = []
    for number in range(60):
        write(tmp_path / f"{number}.png", scene(number))
        rows.append(f"{number}.png,{'ab'[number % 2]},{'train' if number < 40 else 'val'},p{number // 10}")
    (tmp_path / "table.csv").write_text("\n".join(["path,label,split,group", *rows]))
    figures = the(checked(tmp_path / "table.csv"), "small-validation").figures
    assert (figures["images"], figures["independent"]) == (20, 2)


def test_arrays_are_checked_too():
    images = np.stack([scene(number % 30, 32) for number in range(40)])
    audit = checked((images, np.arange(40) % 2))
    assert the(audit, "exact-duplicates").figures == {"copies": 10}


def test_the_order_of_a_table_changes_no_finding(tmp_path):
    rows = [f"{number}.png,{'ab'[number % 2]}" for number in range(30)]
    for number in range(30):
        write(tmp_path / f"{number}.png", scene(number % 25))
    audits = []
    for order in (rows, rows[::-1]):
        (tmp_path / "table.csv").write_text("\n".join(["path,label", *order]))
        audit = checked(tmp_path / "table.csv")
        audits.append({f.kind: {frozenset(together) for together in f.files} for f in audit})
    assert audits[0] == audits[1]
    assert "label-conflicts" in audits[0]


@pytest.mark.parametrize("classes", [0, 1])
def test_a_source_with_nothing_to_learn_is_unusable_data(tmp_path, classes):
    (tmp_path / "photos").mkdir()
    for number in range(classes):
        write(tmp_path / "photos" / "a" / f"{number}.png", scene(number))
    with pytest.raises(DataError):
        checked(tmp_path / "photos")


def test_json_says_all_that_was_found(scenes):
    write(scenes / "a" / "copy.png", scene(0))
    audit = checked(scenes)
    content = json.loads(json.dumps(audit.to_dict()))
    assert content["pointless"] is False
    assert {f["severity"] for f in content["findings"]} <= {"error", "warning", "note"}
    assert ["a/00.png", "a/copy.png"] in [s for f in content["findings"] for s in f["files"]]
