"""What `predict` is given becomes files: each image below a folder once, and what cannot be read is named."""

import os
from pathlib import Path

import pytest

from rightfit.data.stream import files_of, images_of
from rightfit.errors import UsageError


@pytest.fixture
def photographs(tmp_path, picture):
    """photos/ with images in it and in a folder that it links to."""
    for name in ("photos/b.png", "photos/a/1.png", "photos/a/note.txt", "photos/.hidden/2.png", "more/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "photos/z").symlink_to(tmp_path / "more")
    return tmp_path / "photos"


def test_folders_are_walked_in_order_and_links_followed(photographs):
    expected = [str(photographs / name) for name in ("b.png", "a/1.png", "z/3.png")]
    assert list(files_of(photographs)) == expected
    assert list(files_of([f"{photographs}/", photographs / "a" / "note.txt"])) == [
        *expected,
        str(photographs / "a" / "note.txt"),
    ]


def test_a_loop_of_links_ends(photographs):
    before = list(files_of(photographs))
    (photographs / "a" / "up").symlink_to(photographs)
    (photographs.parent / "more" / "back").symlink_to(photographs / "z")
    assert list(files_of(photographs)) == before


def test_a_link_that_leads_nowhere_is_unreadable_and_said_so(photographs):
    (photographs / "a" / "gone.png").symlink_to("nowhere.png")
    (photographs / "a" / "itself.png").symlink_to("itself.png")
    (batch,) = images_of(files_of(photographs), 8, 8, "crop", batch_size=64)
    assert [Path(path).name for path in batch.paths] == ["b.png", "1.png", "3.png"]
    assert [(Path(path).name, reason) for path, reason in batch.unreadable] == [
        ("gone.png", "no such file or directory"),
        ("itself.png", "too many levels of symbolic links"),
    ]


def test_a_url_is_walked_like_a_folder(photographs):
    url = f"file://{photographs}"
    assert sorted(files_of(url)) == sorted(f"file://{path}" for path in files_of(photographs))
    assert list(files_of(f"{url}/b.png")) == [f"{url}/b.png"]


def test_a_folder_whose_name_is_no_utf8_is_named_file_by_file(photographs, picture):
    odd = photographs / os.fsdecode(b"caf\xe9") / "4.png"
    odd.parent.mkdir()
    odd.write_bytes(picture())
    (batch,) = images_of(files_of(photographs), 8, 8, "crop", batch_size=64)
    assert (len(batch.paths), batch.unreadable) == (3, [(str(odd), "the name is not valid UTF-8")])


def test_nothing_to_label_is_said(tmp_path):
    with pytest.raises(UsageError, match=f"no images in {tmp_path}"):
        list(files_of(tmp_path))
