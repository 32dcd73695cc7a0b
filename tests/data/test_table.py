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


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Training", "Valid", "Testing"),
        ("train_set", "val_set", "test_set"),
        ("TrainSet", "dev", "Test Set"),
        ("training-set", "VALIDATION", "testing"),
    ],
)
def test_split_folders_have_many_names(tmp_path, train, val, test):
    touch(tmp_path, *(f"{top}/{name}/1.jpg" for top in (train, val, test) for name in "ab"))
    table = read(tmp_path)
    assert table.classes == ("a", "b")
    found = {name.split("/")[0]: split for name, split in table.frame[["name", "split"]].to_numpy()}
    assert found == {train: "train", val: "val", test: "test"}


@pytest.mark.parametrize(
    ("tops", "said"),
    [
        (("test", "val"), "test, val hold"),
        (("fold_1", "fold_2"), "fold_1, fold_2 hold"),
        (("train", "test", "other"), "hold"),
    ],
)
def test_folders_that_all_hold_the_same_folders_are_no_classes(tmp_path, tops, said):
    touch(tmp_path, *(f"{top}/{name}/1.jpg" for top in tops for name in ("cat", "dog")))
    with pytest.raises(
        DataError, match=f"{said}.*of the same names \\(cat, dog\\).*name the folders above them"
    ):
        read(tmp_path)


def test_two_splits_beside_another_folder_are_no_classes(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "Test/a/2.jpg", "Test/b/2.jpg", "figures/1.png")
    with pytest.raises(DataError, match=r"Test, train hold folders of the same names \(a, b\)"):
        read(tmp_path)


def test_folders_below_a_class_are_part_of_it(tmp_path):
    touch(tmp_path, "a/p1/1.jpg", "a/p2/2.jpg", "b/p1/3.jpg", "b/p2/4.jpg", "b/p3/5.jpg")
    assert read(tmp_path).classes == ("a", "b")


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
    strays = [f"stray_{i}.jpg" for i in range(7)]
    touch(tmp_path, "a/1.jpg", "b/2.jpg", *strays)
    (tmp_path / "a/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    notes = "\n".join(read(tmp_path).notes)
    assert (
        "7 images lie in no class folder" in notes and "stray_4.jpg, ..." in notes and "stray_5" not in notes
    )
    assert "a/gone.jpg" in notes


def test_files_that_may_be_images_of_another_kind_are_counted(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.JFIF", "a/1.HEIC", "b/2.heic", "b/scan", "b/3.dcm")
    touch(tmp_path, "a/1.txt", "a/1.xml", "b/.hidden.heic", "cover.heic")  # companions, hidden, in no folder
    table = read(tmp_path)
    assert table.frame["name"].tolist() == ["a/1.jpg", "b/2.JFIF"]
    assert table.notes == ("4 files are of kinds that are not read: .heic 2, .dcm 1, without suffix 1.",)


def test_a_folder_of_other_kinds_alone_says_which(tmp_path):
    touch(tmp_path, "a/1.heic", "b/2.heic")
    with pytest.raises(DataError, match=r"no images in class folders; 2 files .* not read: \.heic 2\."):
        read(tmp_path)


@pytest.mark.parametrize("above", ["", "train/"])
def test_folders_without_images_are_named(tmp_path, above):
    touch(tmp_path, f"{above}a/1.jpg", f"{above}b/deep/2.jpg", f"{above}c/3.txt")
    for name in (f"{above}d", f"{above}b/empty", f"{above}.git"):
        (tmp_path / name).mkdir()
    (tmp_path / above / "self").symlink_to("self")
    so = "" if above else ", so there are no such classes"
    assert f"2 folders hold no image{so}: {above}c, {above}d." in read(tmp_path).notes


def test_links_are_followed_and_loops_end(tmp_path):
    touch(tmp_path, "root/a/1.jpg", "root/b/2.jpg", "elsewhere/3.jpg")
    (tmp_path / "root/a/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/a/other").symlink_to(tmp_path / "root/b")
    (tmp_path / "root/b/self.jpg").symlink_to(tmp_path / "root/b/self.jpg")
    (tmp_path / "root/c").symlink_to(tmp_path / "root")
    table = read(tmp_path / "root")
    assert table.frame["name"].tolist() == ["a/1.jpg", "a/more/3.jpg", "a/other/2.jpg", "b/2.jpg"]
    assert len(table.notes) == 1 and "a/up, b/self.jpg, c" in table.notes[0]


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
    for name in ("a/1.jpg", "b/2.jpg", "b/scan.dcm", ".hidden/3.jpg"):
        memory.pipe(f"/photos/{name}", b"")
    table = read("memory://photos")
    assert table.paths([0, 1]) == ["memory://photos/a/1.jpg", "memory://photos/b/2.jpg"]
    assert table.notes == ("1 file is of a kind that is not read: .dcm 1.",)
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
            'path,label,split\n"1\n.jpg",a,train\n\n2.jpg,b,all\n',
            DataError,
            "line 5: unknown split 'all'; use train, training, val",
        ),
        ("path,label\n1.jpg,a\n2.jpg,a\n", DataError, "one class only"),
        ("path,label\n1.jpg,a\n2.jpg,b,c\n", DataError, "line 3: 3 fields, and the header names 2"),
        ("path,label\n1.jpg,a,c\n2.jpg,b\n", DataError, "line 2: 3 fields, and the header names 2"),
        ('path,label\n"1\n.jpg",a\n2.jpg,b,c\n', DataError, "line 4: 3 fields"),
        ('path,label\n"1.jpg",a\n"2.jpg,b\n', DataError, "the quote that opens in row 3 is never closed"),
        ("", DataError, "the file is empty"),
        (
            "path,label\nred\\\\1.jpg,a\nred\\\\2.jpg,b\n",
            DataError,
            r"2 of 2 files do not exist: .*Windows writes paths: write / for \\",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_the_place(tmp_path, text, error, message):
    touch(tmp_path, "1.jpg", "2.jpg", "1\n.jpg")
    with pytest.raises(error, match=message):
        read(as_csv(tmp_path / "labels.csv", text))


def test_all_that_is_wrong_with_rows_is_said_at_once(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    text = "path,label\n1.jpg,a\nno.jpg,b\n2.jpg,\n3.jpg, \n3.jpg,b\ngone.jpg,b\n"
    with pytest.raises(DataError) as caught:
        read(as_csv(tmp_path / "labels.csv", text))
    said = str(caught.value)
    assert f"1 paths are repeated: {tmp_path}/3.jpg" in said
    assert f"2 of 6 files do not exist: {tmp_path}/no.jpg, {tmp_path}/gone.jpg; the first in" in said
    assert f"first in {tmp_path}/labels.csv, line 3" in said
    assert f"2 labels are empty: {tmp_path}/labels.csv, line 4, {tmp_path}/labels.csv, line 5" in said


@pytest.mark.parametrize(
    ("suffix", "separator", "encoding"),
    [
        ("csv", ";", "utf-8"),
        ("csv", "\t", "utf-8-sig"),
        ("csv", "\t", "utf-16"),
        ("csv", ",", "utf-16"),
        ("tsv", ",", "utf-8"),
    ],
)
def test_a_table_as_excel_writes_it(tmp_path, suffix, separator, encoding):
    touch(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    rows = [
        (" Path", "LABEL ", "Split"),
        ("1.jpg", "患病 ", "Test"),
        ("2.jpg", "正常", ""),
        ("3.jpg", "患病", "train"),
    ]
    path = tmp_path / f"labels.{suffix}"
    path.write_bytes("\r\n".join(map(separator.join, rows)).encode(encoding))
    table = read(path)
    assert table.classes == ("患病", "正常")
    assert table.frame["label"].tolist() == ["患病", "正常", "患病"]
    assert table.frame["split"].tolist() == ["test", "", "train"]


def test_a_column_of_the_very_name_wins(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    table = read(as_csv(tmp_path / "t.csv", "PATH,path,Label,label\nx,1.jpg,p,a\nx,2.jpg,q,b\n"))
    assert table.classes == ("a", "b")


def test_separators_at_the_end_of_each_line_are_no_field(tmp_path):
    touch(tmp_path, "1.jpg", "2.jpg")
    assert read(as_csv(tmp_path / "t.csv", "path,label\n1.jpg,a,\n2.jpg,b,\n")).classes == ("a", "b")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t.xlsx", "save it as CSV UTF-8"),
        ("t.XLS", "save it as CSV UTF-8"),
        ("t.zip", "unpack it"),
        ("t.tar.gz", "unpack it"),
    ],
)
def test_what_is_no_table_yet_says_how_it_becomes_one(tmp_path, name, said):
    touch(tmp_path, name)
    with pytest.raises(DataError, match=f"{name}: .*{said}"):
        read(tmp_path / name)


def test_a_run_folder_says_where_its_table_is(tmp_path):
    touch(tmp_path, "data.csv", "decisions.jsonl")
    with pytest.raises(DataError, match=f"is a run folder; .*{tmp_path}/data.csv"):
        read(tmp_path)


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


@pytest.mark.parametrize("joint", [False, True])
def test_classes_that_are_whole_numbers_are_in_the_order_of_numbers(joint):
    labels = [str(i % 12) for i in range(24)]
    if joint:
        labels = [f"{label}|{(int(label) + 1) % 12}" for label in labels]
    table = read((np.zeros((24, 2, 2), np.uint8), np.array(labels)))
    assert table.classes == tuple(map(str, range(12)))
    if not joint:
        assert table.codes().tolist() == [*range(12), *range(12)]


def test_the_positive_class_is_the_second():
    arrays = (np.zeros((3, 2, 2), np.uint8), np.array(["ill", "well", "ill"]))
    assert read(arrays).classes == read(arrays, positive="well").classes == ("ill", "well")
    asked = read(arrays, positive="ill")
    assert asked.classes == ("well", "ill") and asked.label_mode == "binary"
    assert asked.targets(np.arange(3)).tolist() == [[1], [0], [1]]
    with pytest.raises(UsageError, match="positive 'sick' is no class; the classes are ill, well"):
        read(arrays, positive="sick")


@pytest.mark.parametrize("labels", [["a", "b", "c"], ["a|b", "a", "b"]])
def test_positive_wants_two_classes(labels):
    with pytest.raises(UsageError, match="positive 'a' needs two classes"):
        read((np.zeros((3, 2, 2), np.uint8), np.array(labels)), positive="a")


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
    assert table.notes == (r"1 of 4 file names do not match group_by '^p(\d)_'; each is alone.",)


def test_a_pattern_that_matches_no_name_is_refused(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    with pytest.raises(UsageError, match=r"matches none of 2 file names, such as 1\.jpg"):
        read(tmp_path, group_by=r"^p(\d)_")


def of_patients(tmp_path, column="Patient_ID", more=""):
    touch(tmp_path, *(f"p{i}.jpg" for i in range(8)))
    rows = (f"p{i}.jpg,{'ab'[i % 2]},{'wxyz'[i // 2]}{',g' if more else ''}" for i in range(8))
    return as_csv(tmp_path / "labels.csv", "\n".join([f"path,label,{column}{more}", *rows]))


@pytest.mark.parametrize("name", ["Patient_ID", "patient_id"])
def test_groups_come_from_the_column_that_is_named(tmp_path, name):
    table = read(of_patients(tmp_path), group_by=name)
    assert table.frame["group"].tolist() == list("wwxxyyzz") and table.notes == ()
    assert read(of_patients(tmp_path), group_by=r"p(\d)").frame["group"].tolist() == list("01234567")


def test_a_column_that_is_grouped_by_is_not_balanced(tmp_path):
    """Each group would be a stratum of its own, and labels would not be balanced any more."""
    touch(tmp_path, *(names := [f"{i}.jpg" for i in range(40)]))
    frame = pd.DataFrame(
        {"path": [str(tmp_path / n) for n in names], "label": ["a", "b"] * 20, "eye": ["l"] * 40}
    )
    frame["patient"] = [f"p{i // 20}" for i in range(40)]
    assert set(read(frame, group_by="patient").frame["stratum"]) == {"l\x1fa", "l\x1fb"}


@pytest.mark.parametrize("column", ["patient", "Subject ID", "case_id", "animals", "病人编号", "Group"])
def test_a_column_of_patients_that_is_not_used_is_said(tmp_path, column):
    (note,) = read(of_patients(tmp_path, column)).notes
    assert f"Column {column} has 4 values in 8 rows and was not used" in note
    assert "--group-by" in note and column in note.partition("--group-by")[2]


@pytest.mark.parametrize("values", ["abcdefgh", "aaaabbbb"])
def test_a_column_of_patients_that_repeats_none_or_parts_in_two_is_not_spoken_of(tmp_path, values):
    touch(tmp_path, *(f"p{i}.jpg" for i in range(8)))
    rows = (f"p{i}.jpg,{'ab'[i % 2]},{value}" for i, value in enumerate(values))
    assert read(as_csv(tmp_path / "t.csv", "\n".join(["path,label,case", *rows]))).notes == ()


@pytest.mark.parametrize("column", ["note", "label_2", "staircase"])
def test_other_columns_are_not_spoken_of(tmp_path, column):
    assert read(of_patients(tmp_path, column)).notes == ()


def test_a_column_group_is_enough(tmp_path):
    assert read(of_patients(tmp_path, "patient", ",group")).notes == ()


def test_a_name_that_is_no_column_is_refused(tmp_path):
    with pytest.raises(UsageError, match="group_by 'patiant' is no column, and captures nothing"):
        read(of_patients(tmp_path), group_by="patiant")


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
