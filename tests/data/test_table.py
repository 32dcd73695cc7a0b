"""Every source becomes the same table, and what cannot be trusted is refused by name."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rightfit.data.reading import read
from rightfit.data.table import Table
from rightfit.errors import DataError, UsageError

SOURCE = Path(__file__).parents[2] / "src"


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def as_csv(path, text):
    path.write_text(text, encoding="utf-8", newline="")
    return path


def rows_of(table: Table):
    frame = table.frame
    columns = (frame[name].tolist() for name in ("label", "split", "group"))
    return sorted(zip(table.paths(range(len(table))), *columns, strict=True))


def test_class_folders_become_names_and_labels(tmp_path):
    touch(tmp_path, "b/2.PNG", "a/1.jpg", "a/deep/er/3.tiff", "Z/4.webp", ".git/a/5.jpg", "__MACOSX/a/6.jpg")
    table = read(tmp_path)
    assert table.classes == ("Z", "a", "b")
    assert table.frame["name"].tolist() == ["Z/4.webp", "a/1.jpg", "a/deep/er/3.tiff", "b/2.PNG"]
    assert table.frame["label"].tolist() == ["Z", "a", "a", "b"]
    assert table.codes().tolist() == [0, 1, 1, 2] and table.codes().dtype == np.int32
    assert set(table.frame["split"]) == {""}
    assert table.path(3) == str(tmp_path / "b/2.PNG")
    assert (table.label_mode, table.outputs, table.notes) == ("categorical", 3, ())


def test_split_folders_are_recognised_in_any_case(tmp_path):
    touch(tmp_path, "Train/a/1.jpg", "Train/b/2.jpg", "Validation/a/3.jpg", "test/c/x/4.jpg")
    table = read(tmp_path)
    assert table.classes == ("a", "b", "c")
    by_name = dict(zip(table.frame["name"], table.frame["split"], strict=True))
    assert by_name == {
        "Train/a/1.jpg": "train",
        "Train/b/2.jpg": "train",
        "Validation/a/3.jpg": "val",
        "test/c/x/4.jpg": "test",
    }
    assert table.rows("val").tolist() == [2]


def test_folders_are_classes_unless_all_are_splits_with_train(tmp_path):
    touch(tmp_path / "one", "test/1.jpg", "val/2.jpg")
    touch(tmp_path / "two", "train/1.jpg", "extra/2.jpg")
    assert read(tmp_path / "one").classes == ("test", "val")
    mixed = read(tmp_path / "two")
    assert mixed.classes == ("extra", "train")
    assert "train" in mixed.notes[0]


def test_what_is_left_out_is_noted(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "stray.jpg", *(f"a/{i}.txt" for i in range(7)))
    (tmp_path / "a/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    notes = "\n".join(read(tmp_path).notes)
    assert "7 files are not images" in notes and "a/0.txt" in notes and "..." in notes
    assert "1 images lie in no class folder" in notes and "stray.jpg" in notes
    assert "a/gone.jpg" in notes


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "root/a/1.jpg", "root/b/2.jpg", "elsewhere/3.jpg")
    (tmp_path / "root/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/a/other").symlink_to(tmp_path / "root/b")
    (tmp_path / "root/b/self.jpg").symlink_to(tmp_path / "root/b/self.jpg")
    table = read(tmp_path / "root")
    assert table.frame["name"].tolist() == ["a/1.jpg", "a/more/3.jpg", "a/other/2.jpg", "b/2.jpg"]
    assert "a/up" in table.notes[0] and "b/self.jpg" in table.notes[0]


def test_a_folder_that_may_not_be_read_is_named():
    """Root may read everything, so a process without that right does the reading."""
    code = (
        "import os, sys\n"
        "from rightfit.data.reading import read\n"
        "from rightfit.errors import DataError\n"
        "os.chdir(sys.argv[1])\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "try: read('.')\n"
        "except DataError as error: print(error)\n"
    )
    with tempfile.TemporaryDirectory() as name:  # not tmp_path, whose parents are for their owner only
        folder = Path(name).resolve()
        folder.chmod(0o755)
        touch(folder, "a/1.jpg", "locked/2.jpg")
        (folder / "locked").chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)],
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
            capture_output=True,
            text=True,
            check=True,
        )
        (folder / "locked").chmod(0o755)
    assert done.stdout.strip() == f"{folder}/locked: no permission to read this folder"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no images in class folders.*ROOT/class"),
        (("1.jpg", "a/b.txt"), "no images in class folders.*ROOT/class"),
        (("a/1.jpg", "a/2.jpg"), "one class only.*'a'.*nothing to learn"),
    ],
)
def test_a_folder_without_two_classes_is_refused(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(DataError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("name", ["missing", "missing.csv"])
def test_a_missing_source_is_named(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: no such file or folder"):
        read(tmp_path / name)


def test_odd_names_survive_the_round_trip(tmp_path):
    names = [
        "a/two\nlines.jpg",
        "a/cr\rcrlf\r\n.jpg",
        'a/"quoted", comma.jpg',
        "b/眼底 照片.jpg",
        "b/ space .jpg",
    ]
    touch(tmp_path / "in", *names)
    table = read(tmp_path / "in", group_by=r"^(..)").with_splits(
        np.array(["train", "val", "test", "", "train"])
    )
    table.write_csv(tmp_path / "out.csv")
    again = read(tmp_path / "out.csv")
    assert rows_of(again) == rows_of(table)
    assert sorted(again.frame["name"]) == sorted(str(tmp_path / "in" / name) for name in names)
    assert again.classes == table.classes
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.csv"]


def test_an_undecodable_name_is_left_out_and_shown(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    (tmp_path / os.fsdecode(b"a/caf\xe9.jpg")).touch()
    table = read(tmp_path)
    assert len(table) == 2
    assert r"'a/caf\udce9.jpg'" in table.notes[0]


def test_a_url_is_read_like_a_folder(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("a/1.jpg", "b/2.jpg", "b/note.txt", ".hidden/3.jpg"):
        memory.pipe(f"/photos/{name}", b"")
    table = read("memory://photos")
    assert table.paths([0, 1]) == ["memory://photos/a/1.jpg", "memory://photos/b/2.jpg"]
    assert "b/note.txt" in table.notes[0]
    table.write_csv(tmp_path / "urls.csv")
    assert rows_of(read(tmp_path / "urls.csv")) == rows_of(table)
    memory.rm("/photos/b/2.jpg")
    with pytest.raises(DataError, match=r"1 of 2 files do not exist: memory://photos/b/2\.jpg"):
        read(tmp_path / "urls.csv")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_a_file_with_columns(tmp_path, suffix):
    touch(tmp_path, "x/1.jpg", "x/2.jpg", "3.jpg")
    frame = pd.DataFrame(
        {
            "path": ["x/1.jpg", "x/../x/2.jpg", str(tmp_path / "3.jpg")],
            "grade": [1.0, 0.0, 1.0],
            "split": ["train", "valid", ""],
            "group": ["p1", "", "p1"],
        }
    )
    path = tmp_path / f"labels.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="\t" if suffix == "tsv" else ",", index=False)
    table = read(path, label="grade")
    assert table.classes == ("0", "1")
    assert table.frame["name"].tolist() == ["x/1.jpg", "x/2.jpg", str(tmp_path / "3.jpg")]
    assert table.frame["split"].tolist() == ["train", "val", ""]
    assert table.frame["group"].tolist() == ["p1", "", "p1"]
    assert table.paths([2, 1]) == [str(tmp_path / "3.jpg"), str(tmp_path / "x/2.jpg")]


def test_a_frame_is_relative_to_the_working_folder(tmp_path, monkeypatch):
    touch(tmp_path, "1.jpg", "2.jpg")
    monkeypatch.chdir(tmp_path)
    table = read(pd.DataFrame({"path": [Path("1.jpg"), "2.jpg"], "label": [True, False]}, index=[7, 7]))
    assert table.paths([0]) == [str(tmp_path / "1.jpg")]
    assert table.classes == ("False", "True")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("path,grade\n1.jpg,a\n", UsageError, "no label column 'label'.*path, grade"),
        ("file,label\n1.jpg,a\n", DataError, "no column path.*file, label"),
        ("path,label\n", DataError, "no rows"),
        ("path,label\n1.jpg,a\n\n2.jpg,\n", DataError, "1 labels are empty: .*line 4"),
        ("path,label\n,a\n", DataError, "line 2: the path is empty"),
        (
            "path,label\n1.jpg,a\n./1.jpg,b\nx/../1.jpg,b\n2.jpg,b\n",
            DataError,
            "1 paths are repeated: .*/1.jpg",
        ),
        (
            "path,label\n1.jpg,a\n2.jpg,b\nx/no.jpg,b\nno.jpg,a\n",
            DataError,
            "2 of 4 files do not exist: .*no.jpg",
        ),
        (
            'path,label,split\n"1\n.jpg",a,train\n\n2.jpg,b,dev\n',
            DataError,
            "line 5: unknown split 'dev'; use train, val",
        ),
        ("path,label\n1.jpg,a\n2.jpg,a\n", DataError, "one class only"),
    ],
)
def test_a_wrong_table_is_refused_with_the_place(tmp_path, text, error, message):
    touch(tmp_path, "1.jpg", "2.jpg", "1\n.jpg")
    with pytest.raises(error, match=message):
        read(as_csv(tmp_path / "labels.csv", text))


def test_at_most_five_names_are_listed(tmp_path):
    text = "path,label\n" + "".join(f"{i}.jpg,a\n" for i in range(9))
    with pytest.raises(DataError) as caught:
        read(as_csv(tmp_path / "labels.csv", text))
    assert "9 of 9" in str(caught.value) and str(caught.value).count(".jpg") == 5


def test_not_utf8_is_said(tmp_path):
    (tmp_path / "labels.csv").write_bytes("path,label\ncafé.jpg,a\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as UTF-8"):
        read(tmp_path / "labels.csv")


def test_numbers_become_neat_and_text_stays(tmp_path):
    touch(tmp_path, *"1234")
    numbers = read(as_csv(tmp_path / "n.csv", "path,label\n1,1.0\n2,2.5\n3,10\n4,1\n"))
    assert numbers.classes == ("1", "10", "2.5")
    text = read(as_csv(tmp_path / "t.csv", "path,label\n1,1.0\n2,v2.0\n3,NA\n4,001\n"))
    assert text.classes == ("001", "1.0", "NA", "v2.0")


@pytest.mark.parametrize(
    ("labels", "asked", "mode", "outputs"),
    [
        (["a", "b", "a"], "auto", "binary", 1),
        (["a", "b", "c"], "auto", "categorical", 3),
        (["a", "b", "a"], "categorical", "categorical", 2),
        (["a|b", "b", ""], "auto", "multilabel", 2),
        (["a", "b", ""], "multilabel", "multilabel", 2),
    ],
)
def test_label_modes(tmp_path, labels, asked, mode, outputs):
    touch(tmp_path, *"123")
    text = "path,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels, 1))
    table = read(as_csv(tmp_path / "labels.csv", text), label_mode=asked)
    assert (table.label_mode, table.outputs) == (mode, outputs)


def test_multilabel_codes_are_multi_hot():
    images = np.zeros((4, 2, 2), np.uint8)
    table = read((images, np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]])))
    assert table.label_mode == "multilabel"
    assert table.codes().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert table.codes().dtype == np.uint8


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 1, 0], [[0], [1], [0]]),
        ([2, 0, 1, 2], [[0, 0, 1], [1, 0, 0], [0, 0, 1]]),
        ([[1, 0, 1], [0, 1, 1], [0, 1, 0], [1, 0, 0]], [[1, 0, 0], [0, 1, 1], [1, 0, 1]]),
    ],
    ids=["binary", "categorical", "multilabel"],
)
def test_targets_are_float32_however_they_are_held(labels, expected):
    table, rows = read((np.zeros((4, 2, 2), np.uint8), np.array(labels))), np.array([3, 1, 0])
    held, expected = table.held_targets(rows), np.array(expected, np.float32)
    assert np.array_equal(table.targets(rows), expected) and expected.shape[1] == table.outputs
    for part in (slice(None), slice(1, 3), np.array([2, 0, 2])):
        assert np.array_equal(held[part], expected[part]) and held[part].dtype == np.float32


def test_targets_of_many_classes_are_held_as_a_number_an_image():
    held = Table(
        pd.DataFrame({"label": pd.Categorical.from_codes(np.arange(1000) % 500, [*map(str, range(500))])}),
        tuple(map(str, range(500))),
        "categorical",
        "",
    ).held_targets(np.arange(1000))
    assert held.codes.nbytes == 4 * 1000
    assert np.array_equal(held[:].argmax(axis=1), np.arange(1000) % 500) and held[:].sum() == 1000


def test_binary_wants_two_classes():
    with pytest.raises(UsageError, match="two classes, these are 3"):
        read((np.zeros((3, 2, 2), np.uint8), [0, 1, 2]), label_mode="binary")
    with pytest.raises(UsageError, match="unknown label mode 'softmax'"):
        read((np.zeros((3, 2, 2), np.uint8), [0, 1, 2]), label_mode="softmax")


def test_arrays_keep_images_and_rows_together():
    images = np.arange(3 * 2 * 2, dtype=np.uint8).reshape(3, 2, 2)
    table = read((images, np.array([[2], [0], [1]])))
    assert table.frame["name"].tolist() == ["array:0000000", "array:0000001", "array:0000002"]
    assert table.images is not None and table.images.shape == (3, 2, 2, 1)
    picked = table.select([2, 0])
    assert picked.images is not None and np.array_equal(picked.images[..., 0], images[[2, 0]])
    assert picked.paths([0]) == ["array:0000002"]
    assert picked.codes().tolist() == [1, 2] and picked.classes == table.classes


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), [0, 1], "float32.*255"),
        (np.zeros((2, 4, 4, 4), np.uint8), [0, 1], r"\(2, 4, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), [0, 1, 0], r"\(3,\) for 2 images"),
        (np.zeros((2, 4, 4, 3), np.uint8), [[0, 2], [1, 0]], "0 and 1 only"),
    ],
)
def test_wrong_arrays_say_what_to_do(images, labels, message):
    with pytest.raises(UsageError, match=message):
        read((images, labels))


def test_groups_come_from_the_file_name(tmp_path):
    touch(tmp_path, "p9_a/p1_left.jpg", "p9_a/p1_right.jpg", "b/p2_left.jpg", "b/other.jpg")
    table = read(tmp_path, group_by=r"^p(\d)_")
    by_name = dict(zip(table.frame["name"], table.frame["group"], strict=True))
    assert by_name == {
        "p9_a/p1_left.jpg": "1",
        "p9_a/p1_right.jpg": "1",
        "b/p2_left.jpg": "2",
        "b/other.jpg": "",
    }
    assert "1 of 4 file names do not match" in table.notes[0]


@pytest.mark.parametrize("pattern", ["^p", "("])
def test_a_pattern_without_a_group_is_refused(tmp_path, pattern):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UsageError, match="group_by"):
        read(tmp_path, group_by=pattern)


def test_group_by_wins_over_the_column(tmp_path):
    touch(tmp_path, "x1.jpg", "y2.jpg")
    path = as_csv(tmp_path / "labels.csv", "path,label,group\nx1.jpg,a,same\ny2.jpg,b,same\n")
    assert read(path).frame["group"].tolist() == ["same", "same"]
    table = read(path, group_by="^(.)")
    assert table.frame["group"].tolist() == ["x", "y"]
    assert "column group was not used" in table.notes[0]


def test_a_label_for_a_source_without_columns_is_refused(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UsageError, match="names a column"):
        read(tmp_path, label="grade")


def test_the_stratum_is_the_joint_of_label_like_columns(tmp_path):
    names = [f"{i}.jpg" for i in range(40)]
    touch(tmp_path, *names)
    frame = pd.DataFrame(
        {
            "path": [str(tmp_path / name) for name in names],
            "B": [i % 2 for i in range(40)],
            "A": [i // 20 for i in range(40)],
            "rare": [i // 5 for i in range(40)],
            "split": "",
            "group": "g",
        }
    )
    by_a, by_b, by_rare = (read(frame, label=label).frame["stratum"].tolist() for label in ("A", "B", "rare"))
    assert by_a == by_b == [f"{i // 20}\x1f{i % 2}" for i in range(40)]
    assert by_rare == [f"{i // 20}\x1f{i % 2}\x1f{i // 5}" for i in range(40)]


def test_a_table_is_the_same_read_in_one_piece_or_in_many(tmp_path):
    """25,000 rows are more than one piece; blank lines and names that are not neat lie in each."""
    touch(tmp_path, *(names := [f"{i}.jpg" for i in range(25_000)]))
    rows = [f"{'./' if i % 9_999 == 0 else ''}{i}.jpg,c{i % 3},p{i // 2}" for i in range(25_000)]
    lines = [f"{row}\n" if i % 9_000 == 0 else row for i, row in enumerate(rows)]
    table = read(as_csv(tmp_path / "labels.csv", "\n".join(["path,label,group", *lines, ""])))
    assert table.frame["name"].tolist() == names
    assert table.frame["label"].tolist() == [f"c{i % 3}" for i in range(25_000)]
    assert table.frame["group"].tolist() == [f"p{i // 2}" for i in range(25_000)]
    twice = "\n".join(["path,label", *(f"{i % 24_999}.jpg,c{i % 3}" for i in range(25_000))])
    with pytest.raises(DataError, match=r"1 paths are repeated: .*/0\.jpg; keep"):
        read(as_csv(tmp_path / "labels.csv", twice))


MANY = """
import re, sys
from rightfit.data import listing, reading
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024  # MB
listing._names_in = lambda folder: (f"patient_{i:07d}.jpg" for i in range(400_000))  # not made: it would take long
before = peak()
assert len(reading.read(sys.argv[1])) == 400_000
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process's memory came to")
def test_a_long_table_is_not_held_as_python_strings(tmp_path):
    rows = (
        f"photos/class_{i % 7}/patient_{i:07d}.jpg,class_{i % 7},patient {i // 2}" for i in range(400_000)
    )
    path = as_csv(tmp_path / "labels.csv", "\n".join(["path,label,patient", *rows, ""]))
    done = subprocess.run(
        [sys.executable, "-c", MANY, str(path)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 150  # MB, a third of what they would take


def test_an_unknown_split_is_not_written_into_a_table():
    table = read((np.zeros((2, 2, 2), np.uint8), [0, 1]))
    with pytest.raises(UsageError, match="'dev'"):
        table.with_splits(np.array(["train", "dev"]))
