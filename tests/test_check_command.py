"""`rightfit check` as a person and a program meet it: words, JSON, exit codes; and what training does about copies."""

import json

import pytest

from rightfit.config import train_settings
from rightfit.console import Console
from rightfit.data import dataset
from rightfit.data.audit import duplicates


@pytest.fixture
def copied(write_images, tmp_path):
    """60 pictures of which one is there twice, in the same class."""
    folder = write_images(tmp_path / "photos")
    (folder / "blue" / "copy.png").write_bytes((folder / "blue" / "00.png").read_bytes())
    return folder


def test_findings_are_lines_with_what_to_do(here, copied):
    done = here("check", copied)
    assert done.returncode == 0
    assert "61 images of 3 classes: blue 21, green 20, red 20" in done.stdout
    assert "warning  1 image is a copy of another" in done.stdout
    assert "blue/00.png = blue/copy.png" in done.stdout
    assert "--drop-duplicates" in done.stdout


def test_what_reading_the_data_left_out_is_a_note(here, copied):
    (copied / "red" / "phone.heic").write_bytes(b"no matter")
    (copied / "yellow").mkdir()
    done = here("check", copied)
    assert "note     1 file is of a kind that is not read: .heic 1." in done.stdout
    assert "note     1 folder holds no image, so there are no such classes: yellow." in done.stdout


def test_json_is_all_there_is_on_stdout(here, copied, tmp_path):
    done = here("check", copied, "--json", "--html", tmp_path / "page.html")
    content = json.loads(done.stdout)
    assert content["images"] == 61 and content["pointless"] is False
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("data:image/jpeg") == 2


def test_what_makes_training_pointless_ends_with_code_3(here, copied):
    for number in range(10):
        (copied / "red" / f"empty-{number}.png").write_bytes(b"")
    done = here("check", copied)
    assert done.returncode == 3
    assert "error    10 of 71 files cannot be read" in done.stdout


def test_a_folder_with_nothing_in_it_ends_with_code_3_and_a_sentence(here, tmp_path):
    done = here("check", tmp_path)
    assert done.returncode == 3
    assert "no images in class folders" in done.stderr and not done.stdout


def test_names_cannot_write_to_the_terminal(here, copied):
    (copied / "red" / "line\nbreak \x1b[31m片.png").write_bytes(b"")
    done = here("check", copied)
    assert "line\\nbreak \\x1b[31m片.png" in done.stdout and "\x1b" not in done.stdout


def test_ctrl_c_ends_with_a_word_and_leaves_no_page(here, copied, tmp_path, monkeypatch):
    from rightfit.data.audit import facts

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(facts, "of_files", interrupted)
    done = here("check", copied, "--html", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (130, "")
    assert "interrupted" in done.stderr and not list(tmp_path.glob("*page*"))


# Inside train ---------------------------------------------------------------------------------------


def prepared(folder, tmp_path, **settings):
    asked = {"data": str(folder), "image_size": 12, "cache_folder": str(tmp_path / "cache")} | settings
    found, _ = dataset.prepare(str(folder), train_settings(asked), Console(quiet=True))
    return found


def splits_of(found):
    return found.table.frame.set_index("name")["split"].astype(str)


def test_copies_and_near_duplicates_stay_on_one_side(copied, tmp_path, mirrored):
    names = [f"blue/{number:02d}.png" for number in range(0, 20, 2)]
    for name in names:
        mirrored(copied / name)
    splits = splits_of(prepared(copied, tmp_path))
    assert len(splits) == 71 and set(splits) == {"train", "val", "test"}
    for name in names:
        assert splits[name] == splits[name.replace(".png", "-mirrored.png")]
    assert splits["blue/00.png"] == splits["blue/copy.png"]


@pytest.fixture
def mirrored():
    import cv2

    def write(path):
        cv2.imwrite(str(path.with_name(f"{path.stem}-mirrored.png")), cv2.imread(str(path))[:, ::-1])

    return write


def test_a_near_duplicate_that_is_added_later_joins_the_side_of_its_picture(copied, tmp_path, mirrored):
    before = splits_of(prepared(copied, tmp_path))
    names = [name for name in before.index if name.endswith(".png") and "copy" not in name]
    for name in names:
        mirrored(copied / name)
    after = splits_of(prepared(copied, tmp_path))
    assert (after[before.index] == before).all()
    assert all(after[name.replace(".png", "-mirrored.png")] == before[name] for name in names)


def test_dropped_duplicates_are_in_no_split_and_said(copied, tmp_path):
    found = prepared(copied, tmp_path, drop_duplicates=True)
    assert "blue/copy.png" not in set(found.table.frame["name"]) and len(found.table) == 60
    assert len(found.image_rows) == 60 == len({bytes(row) for row in found.contents()})
    (said,) = [finding for finding in found.audit if finding.kind == "dropped"]
    assert said.figures == {"copies": 1} and "1 file is a copy" in said.text
    assert said.files == (("blue/00.png", "blue/copy.png"),), "the one that is kept first"


def test_without_grouping_and_copies_the_split_is_that_of_the_names(write_images, tmp_path):
    folder = write_images(tmp_path / "photos")
    with_it = splits_of(prepared(folder, tmp_path))
    without = splits_of(prepared(folder, tmp_path / "other", group_near_duplicates=False))
    assert (with_it == without).all()


def test_copies_that_nobody_keeps_together_are_said_to_leak(copied, tmp_path):
    for number in range(20):
        (copied / "red" / f"copy-{number}.png").write_bytes((copied / "red" / "00.png").read_bytes())
    found = prepared(copied, tmp_path, group_near_duplicates=False)
    (leak,) = [finding for finding in found.audit if finding.kind == "leak"]
    assert len(leak.files) >= 1 and "--group-near-duplicates" in leak.advice


def test_training_warns_where_near_duplicates_are_too_many_to_look_for(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(duplicates, "NEAR_LIMIT", 60)
    asked = {"data": str(copied), "image_size": 12, "cache_folder": str(tmp_path / "cache")}
    found, _ = dataset.prepare(str(copied), train_settings(asked), Console())
    assert "warning: near-duplicates are not looked for" in capsys.readouterr().err
    assert found.audit.shortened.startswith("near-duplicates, constant images")


def test_a_run_keeps_its_audit(trained):
    kept = json.loads((trained.folder / "audit.json").read_text(encoding="utf-8"))
    assert kept["images"] == 60 and "odd files" in kept["shortened"]
    (finding,) = kept["findings"]
    assert finding["kind"] == "small-validation"
    assert f"warning: {finding['text']}" in trained.done.stderr
