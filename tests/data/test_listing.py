"""The files below a folder or a URL: each once, in one order, links followed, and none hidden."""

import os

import pytest

from rightfit.data.listing import below, decodable, folders_in, missing
from rightfit.errors import DataError

TREE = ("b.png", "a.JPG", "z/2.tif", "a/x/1.webp", "a/note.txt", ".git/3.png", "z/.4.png", "__MACOSX/5.png")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_folders_files_come_before_its_folders_in_sorted_order(tmp_path):
    assert list(below(str(touch(tmp_path, *TREE)))) == [
        ("image", "a.JPG"),
        ("image", "b.png"),
        ("other", "a/note.txt"),
        ("image", "a/x/1.webp"),
        ("image", "z/2.tif"),
    ]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_url_holds_the_same_files_as_a_folder(tmp_path, slash):
    folder = touch(tmp_path, *TREE)
    assert sorted(below(f"file://{folder}{slash}")) == sorted(below(str(folder) + slash))


def test_a_link_to_a_folder_is_followed_and_one_that_leads_back_is_broken(tmp_path):
    root = touch(tmp_path, "root/a/1.jpg", "root/b/2.jpg", "elsewhere/deep/3.jpg") / "root"
    (root / "a/more").symlink_to(tmp_path / "elsewhere")
    (root / "a/other").symlink_to(root / "b")
    (root / "a/up").symlink_to(root)
    (tmp_path / "elsewhere/deep/out").symlink_to(root / "a")
    (root / "b/itself.jpg").symlink_to(root / "b/itself.jpg")
    (root / "b/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert list(below(str(root))) == [
        ("image", "a/1.jpg"),
        ("image", "a/more/deep/3.jpg"),
        ("broken", "a/more/deep/out"),
        ("image", "a/other/2.jpg"),
        ("broken", "a/other/gone.jpg"),
        ("broken", "a/other/itself.jpg"),
        ("broken", "a/up"),
        ("image", "b/2.jpg"),
        ("broken", "b/gone.jpg"),
        ("broken", "b/itself.jpg"),
    ]


def test_names_that_are_no_utf8_are_listed_and_told_apart(tmp_path):
    odd = os.fsdecode(b"caf\xe9/1.jpg")
    touch(tmp_path, odd, "眼底/2.jpg")
    found = {name: decodable(name) for _, name in below(str(tmp_path))}
    assert found == {odd: False, "眼底/2.jpg": True}


@pytest.mark.parametrize("root", ["{}/nowhere", "file://{}/nowhere", "memory://{}/nowhere"])
def test_a_folder_that_is_not_there_is_named(tmp_path, root):
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere: no such file or folder"):
        list(below(root.format(tmp_path)))


def test_folders_are_listed_without_hidden_ones_and_files(tmp_path):
    folder = touch(tmp_path, *TREE)
    (folder / "empty").mkdir()
    assert folders_in(str(folder)) == ["a", "empty", "z"]
    assert folders_in(f"file://{folder}") == []


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(DataError, match=r"1\.jpg: not a folder"):
        list(below(str(touch(tmp_path, "1.jpg") / "1.jpg")))


def test_missing_files_are_found_in_every_kind_of_place(tmp_path):
    there = [str(touch(tmp_path, "a/1.jpg", "b/2.jpg") / name) for name in ("a/1.jpg", "b/2.jpg")]
    urls = [f"file://{path}" for path in there]
    gone = [str(tmp_path / "a/3.jpg"), str(tmp_path / "c/4.jpg"), f"file://{tmp_path}/b/5.jpg"]
    assert sorted(missing([*there, *urls, *gone])) == sorted(gone)
    assert missing([]) == []
