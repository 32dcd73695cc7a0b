"""`rightfit explain`: a picture an image, a table that names both, and nothing of anybody else's touched."""

import os
import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rightfit
from rightfit.errors import UsageError
from rightfit.explaining import picture_names

SIDE = 16


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run of one epoch on the three colours, whose last map has 4x4 places."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    settings = {"image_size": SIDE, "model": "resnet8", "epochs": 1, "batch_size": 20}
    settings |= {"precision": "float32", "report": "none"}
    return rightfit.train(photos, output=folder, quiet=True, **settings)


def succeeded(done):
    assert done.returncode == 0, done.stderr
    return done


def test_each_image_has_a_picture_beside_its_heat_map_and_a_row(run, photos, tmp_path, here, rows_of):
    looked = tmp_path / "looked"
    given = [photos / "red" / "00.png", photos / "blue" / "03.jpg"]
    done = succeeded(here("explain", run.path, *given, "--output", looked))
    assert done.stdout == f"{looked}\n"
    assert "grad-cam of the 4x4 map of stage3_block1_relu2" in done.stderr
    rows = rows_of(looked / "explanations.csv")
    assert [(row["path"], row["picture"]) for row in rows] == [
        (str(given[0]), "00.png"),
        (str(given[1]), "03.png"),
    ]
    assert {file.name for file in looked.iterdir()} == {"explanations.csv", "00.png", "03.png"}
    predicted = run.predict(given, quiet=True)
    assert [row["label"] for row in rows] == predicted["label"].tolist()
    assert [row["explained"] for row in rows] == predicted["label"].tolist()
    shares = predicted.filter(like="probability_").max(axis=1)
    np.testing.assert_allclose([float(row["probability"]) for row in rows], shares, atol=1e-6)
    assert {row["method"] for row in rows} == {"grad-cam"}
    picture = cv2.imread(str(looked / "00.png"))
    height, width, _ = picture.shape
    assert height >= 224 and width == 2 * height + 4
    image = cv2.imread(str(given[0]))
    seen = cv2.resize(picture[:, :height], (12, 12), interpolation=cv2.INTER_AREA)
    assert np.abs(seen.astype(int) - image).mean() < 20  # resized from 12 to 16 px and back


def test_another_class_is_explained_when_it_is_named(run, photos, tmp_path, here, rows_of):
    explained = {}
    images = sorted((photos / "red").iterdir())[:4]
    for name in ("blue", "red"):
        done = here("explain", run.path, *images, "--output", tmp_path / name, "--class", name)
        rows = rows_of(succeeded(done) and tmp_path / name / "explanations.csv")
        assert {row["explained"] for row in rows} == {name} and len(rows) == 4
        explained[name] = [(tmp_path / name / row["picture"]).read_bytes() for row in rows]
    assert explained["red"] != explained["blue"]


def test_the_check_adds_the_agreement_with_occlusion(run, photos, tmp_path, here):
    images = sorted((photos / "red").iterdir())[:3]
    table = rightfit.explain(
        run, images, output=tmp_path / "looked", method="grad-cam++", check=True, quiet=True
    )
    assert table["agreement"].between(-1, 1).all() and len(table) == 3
    assert "agreement" not in rightfit.explain(run, images, output=tmp_path / "plain", quiet=True)
    done = here("explain", run.path, photos / "red" / "00.png", "--output", tmp_path / "one", "--check")
    assert "rank correlation with occlusion: median " in done.stderr
    done = here("explain", run.path, *images, "--output", tmp_path / "o", "--method", "occlusion", "-q")
    assert (succeeded(done).stdout, done.stderr) == (f"{tmp_path / 'o'}\n", "")
    for more in (("--check",), ("--layer", "stage1_block1_relu2")):
        done = here("explain", run.path, photos, "-o", tmp_path / "x", "--method", "occlusion", *more)
        assert done.returncode == 2 and f"{more[0]} is for methods that take a gradient" in done.stderr


def test_equal_names_in_two_folders_any_script_and_files_that_are_no_images(
    run, photos, tmp_path, here, rows_of, picture
):
    source = tmp_path / "source"
    for folder in ("眼底 one", "two"):
        (source / folder).mkdir(parents=True)
        (source / folder / "Zoë 1.png").write_bytes(picture())
    (source / "two" / "alone.png").write_bytes(picture())
    (source / "two" / "broken.png").write_bytes(b"nothing")
    looked = tmp_path / "looked"
    done = succeeded(here("explain", run.path, source, source / "two" / "alone.png", "--output", looked))
    names = {row["path"]: row["picture"] for row in rows_of(looked / "explanations.csv")}
    assert names == {
        str(source / "two" / "Zoë 1.png"): "two-Zoë 1.png",
        str(source / "眼底 one" / "Zoë 1.png"): "眼底 one-Zoë 1.png",
        str(source / "two" / "alone.png"): "alone.png",
    }
    assert {file.name for file in looked.iterdir()} == {*names.values(), "explanations.csv"}
    assert f"left out: {source / 'two' / 'broken.png'}" in done.stderr
    assert done.stderr.endswith("1 file was left out, named above; 3 images are explained\n")
    nothing = here("explain", run.path, source / "two" / "broken.png", "--output", tmp_path / "nothing")
    assert nothing.returncode == 3 and "so nothing is explained" in nothing.stderr


def test_its_own_files_are_replaced_and_nobody_elses(run, photos, tmp_path, here):
    looked = tmp_path / "looked"
    succeeded(here("explain", run.path, photos / "red", "--output", looked))
    succeeded(here("explain", run.path, photos / "red" / "05.jpg", "--output", looked))
    assert {file.name for file in looked.iterdir()} == {"05.png", "explanations.csv"}
    (looked / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in looked.iterdir()}
    done = here("explain", run.path, photos / "red", "--output", looked)
    assert done.returncode == 2
    assert "holds notes.txt, which explanations.csv does not name" in done.stderr
    assert {file.name: file.read_bytes() for file in looked.iterdir()} == before
    other = tmp_path / "other"
    shutil.copytree(photos / "red", other)
    done = here("explain", run.path, photos / "red", "--output", other)
    assert done.returncode == 2 and "exists and is not empty" in done.stderr
    (other / "explanations.csv").write_text("a,b\n1,2\n")
    done = here("explain", run.path, photos / "red", "--output", other)
    assert done.returncode == 2 and "is no table of explanations" in done.stderr
    assert len(list(other.iterdir())) == 21


def test_what_was_broken_off_is_known_as_its_own(run, photos, tmp_path, here, monkeypatch):
    from rightfit import explaining

    write, written = explaining._write_picture, []

    def breaks_off(path, *rest):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(explaining, "_write_picture", breaks_off)
    assert here("explain", run.path, photos / "red", "--output", tmp_path / "looked").returncode != 0
    assert written[0].exists()
    monkeypatch.undo()
    succeeded(here("explain", run.path, photos / "red" / "05.jpg", "--output", tmp_path / "looked"))
    assert {path.name for path in (tmp_path / "looked").iterdir()} == {"05.png", "explanations.csv"}


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_an_explanation_that_fails_leaves_the_earlier_one(run, photos, tmp_path, here, method):
    looked, broken = tmp_path / "looked", shutil.copytree(run.path, tmp_path / "broken")
    succeeded(here("explain", run.path, photos / "red" / "05.jpg", "--output", looked))
    before = {file.name: file.read_bytes() for file in looked.iterdir()}
    (broken / "weights.safetensors").write_bytes(b"none")
    (tmp_path / "no.png").write_bytes(b"no image")
    for of, images in ((broken, photos / "red"), (run.path, tmp_path / "no.png")):
        assert here("explain", of, images, "-o", looked, "--method", method).returncode in (1, 3)
        assert {file.name: file.read_bytes() for file in looked.iterdir()} == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_name_that_is_no_utf8_is_left_out_and_the_others_explained(
    run, tmp_path, process, picture, rows_of
):
    for name in (b"no-utf8-\xff.png", b"good.png"):
        (tmp_path / os.fsdecode(name)).write_bytes(picture())
    done = succeeded(process("explain", run.path, tmp_path, "--output", tmp_path / "looked"))
    assert [row["picture"] for row in rows_of(tmp_path / "looked" / "explanations.csv")] == ["good.png"]
    assert "the name is not valid UTF-8" in done.stderr


def test_pictures_among_the_images_are_not_explained_in_turn(run, photos, tmp_path, here):
    source = tmp_path / "source"
    shutil.copytree(photos / "red", source)
    for _ in range(2):
        succeeded(here("explain", run.path, source, "--output", source / "looked"))
        assert len(list((source / "looked").iterdir())) == 21


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--method", "cam"), "unknown method 'cam'; there are grad-cam, grad-cam++, occlusion"),
        (("--class", "pink"), "the run has no class 'pink'; it has blue, green, red"),
        (("--layer", "nowhere"), "no layer is called 'nowhere'; take "),
        (("--layer", "stage1_block1_conv1"), "not all that the logits come from goes through"),
    ],
)
def test_what_is_not_there_is_refused_before_a_file_is_written(run, photos, tmp_path, here, flags, said):
    done = here("explain", run.path, photos, "--output", tmp_path / "looked", *flags)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "looked").exists()


def test_a_path_that_is_not_there_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="nowhere does not exist"):
        rightfit.explain(run.path, [tmp_path / "nowhere"], output=tmp_path / "looked")


@given(
    st.lists(
        st.lists(st.text(min_size=1, max_size=130).filter(lambda s: "/" not in s), min_size=1, max_size=3),
        max_size=8,
    )
)
def test_pictures_have_names_of_their_own_that_every_file_system_takes(parts):
    files = ["/".join(p) + ".png" for p in parts]
    names = picture_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    for name in names:
        assert 0 < len(name.encode()) < 230 and name.endswith(".png")
        assert not set('<>:"/\\|?*\n\0') & set(name) and not name.startswith(".")
