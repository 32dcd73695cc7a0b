"""A run finds its images where they were moved to, the same ones in the same splits; and says so where it does not."""

import json
import re
import shutil
from pathlib import Path

import pytest

import rightfit
from rightfit import asking
from rightfit.data import recorded
from rightfit.errors import DataError, RunError, UsageError
from rightfit.relocating import _recognised

QUICK = {"image_size": 8, "model": "resnet8", "epochs": 1, "quiet": True, "report": "none"}


def test_images_that_were_moved_are_found_again(tmp_path, write_images, here, monkeypatch):
    photos, folder = write_images(tmp_path / "photos"), tmp_path / "run"
    rightfit.train(photos, output=folder, **QUICK)
    unmoved = rightfit.load(shutil.copytree(folder, tmp_path / "unmoved"))
    table = unmoved._data().table
    expected, listed = unmoved.evaluate(quiet=True), (folder / "data.csv").read_bytes()
    now = photos.rename(tmp_path / "elsewhere")

    lost = here("evaluate", folder)
    assert lost.returncode == 3 and "`rightfit relocate RUN FOLDER`" in lost.stderr
    wrong = here("relocate", folder, tmp_path)
    assert wrong.returncode == 3 and "60 of the run's 60 images are not there" in wrong.stderr
    assert not (folder / "moved.json").exists()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    found = here("relocate", folder, "../elsewhere")
    assert found.returncode == 0 and found.stdout == f"60 images of {folder} found in ../elsewhere\n"
    assert json.loads((folder / "moved.json").read_text()) == {"from": str(photos), "to": str(now)}
    assert (folder / "data.csv").read_bytes() == listed

    run = rightfit.load(folder)
    assert run.evaluate(quiet=True) == expected
    assert run._data().table.paths([0, 59]) == [str(now / name) for name in ("blue/00.png", "red/19.jpg")]
    assert (run._data().table.frame["split"] == table.frame["split"]).all()
    page = rightfit.report(run, tmp_path / "page.html", quiet=True).read_text()
    assert str(now / "blue") not in page and "blue/" in page

    rightfit.relocate(unmoved.path, f"file://{now}/")
    assert rightfit.load(unmoved.path)._data().table.path(0) == f"file://{now}/blue/00.png"
    rightfit.relocate(unmoved.path, now)
    assert rightfit.compare(folder, unmoved.path, quiet=True)["images"] == 7

    split = table.frame["split"]
    by_now = dict(zip(run._data().table.paths(range(60)), split, strict=True))
    another, config = {"output": str(tmp_path / "another")}, folder / "config.yaml"
    for source in (None, now, f"{now}/"):
        asked, _ = asking.settled(source, config, another)
        assert asked.data == str(now)
        assert asking.split_beside(config, asked) == by_now
    asked, _ = asking.settled(photos, config, another)
    assert asking.split_beside(config, asked) == dict(zip(table.paths(range(60)), split, strict=True))

    further = here("resume", folder, "--epochs", 2)
    assert further.returncode == 0, further.stderr
    first = (now / "red" / "00.png").read_bytes()
    (now / "red" / "00.png").write_bytes((now / "red" / "02.png").read_bytes())
    changed = here("resume", folder, "--epochs", 3)
    assert changed.returncode == 3 and f"1: {now / 'red' / '00.png'}" in changed.stderr

    done = here("evaluate", folder)
    assert done.returncode == 3 and f"{folder}: 1 of 60 images of the run is not as" in done.stderr
    assert f"trained: {now / 'red' / '00.png'}; put them back" in done.stderr

    now.rename(photos)
    (photos / "red" / "00.png").write_bytes(first)
    assert rightfit.relocate(folder, photos) == 60
    assert rightfit.load(folder)._data().table.path(0) == str(photos / "blue" / "00.png")
    (folder / "moved.json").write_text("{}")
    with pytest.raises(RunError, match=r"moved\.json: is damaged; `rightfit relocate`"):
        rightfit.load(folder)._data()
    (folder / "moved.json").unlink()
    (folder / "moved.json").mkdir()
    with pytest.raises(RunError, match=r"moved\.json is not a regular file; `rightfit relocate`"):
        rightfit.load(folder)._data()
    (folder / "moved.json").rmdir()
    assert rightfit.relocate(folder, photos) == 60


def test_other_images_by_the_same_names_are_no_run_s_images(copy_of_run, photos, tmp_path, here):
    other = Path(shutil.copytree(photos, tmp_path / "other"))
    (other / "red").rename(tmp_path / "aside")
    (other / "blue").rename(other / "red")
    (tmp_path / "aside").rename(other / "blue")
    with pytest.raises(DataError, match=r"^other images by the same names .*, 1\d of 20 that were read: "):
        rightfit.relocate(copy_of_run, other)
    assert not (copy_of_run / "moved.json").exists()
    for mode in ("disk", "none"):
        recorded = (copy_of_run / "config.yaml").read_text()
        (copy_of_run / "config.yaml").write_text(re.sub("(?m)^cache: disk", f"cache: {mode}", recorded))
        (copy_of_run / "moved.json").write_text(json.dumps({"from": str(photos), "to": str(other)}))
        done = here("evaluate", copy_of_run)
        said = "not as when it was trained" if mode == "disk" else "was changed"
        assert done.returncode == 3 and said in done.stderr
        opened = (copy_of_run / "test-ledger.jsonl").exists()
        assert opened == (mode == "none"), "refused before, or while it was read"


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_where_its_images_are(
    copy_of_run, photos, tmp_path, here
):
    for name in ("checkpoints/finished.json", "architecture.json"):
        (copy_of_run / name).unlink()
    for path in (copy_of_run / "checkpoints").glob("*.safetensors"):
        path.unlink()
    splits = recorded.splits_of(copy_of_run / "data.csv")
    now = Path(shutil.copytree(photos, tmp_path / "now"))
    assert rightfit.relocate(copy_of_run, now) == 60
    done = here("resume", copy_of_run)
    assert done.returncode == 0, done.stderr
    assert not (copy_of_run / "moved.json").exists()
    again = recorded.splits_of(copy_of_run / "data.csv")
    assert again == {path.replace(str(photos), str(now)): split for path, split in splits.items()}
    assert rightfit.load(copy_of_run).settings.data == str(now)


def test_what_lies_beside_the_folder_is_not_moved_with_it():
    paths = ["/old/photos/a.png", "/old/photos2/a.png", "/old/photos", "/else/a.png"]
    moved = ["/new/a.png", "/old/photos2/a.png", "/new", "/else/a.png"]
    assert recorded.moved(paths, "/old/photos", "/new") == moved
    assert recorded.moved(["/a/b.png"], "", "/new") == ["/new/a/b.png"]
    assert recorded.moved(["/new/a/b.png"], "/new", "") == ["/a/b.png"]


def test_the_folder_may_be_the_one_of_the_images_or_one_above(tmp_path, write_images):
    now = write_images(tmp_path / "new" / "site" / "photos")
    names = sorted(str(path.relative_to(tmp_path / "new")) for path in now.rglob("*.*"))
    of_one = [name for name in names if "/red/" in name]
    for paths, folder, before in (
        (names, now, "/old/site/photos"),
        (names, now.parent, "/old/site"),
        (names, tmp_path / "new", "/old"),
        (of_one, now, "/old/site/photos"),
        (of_one, now / "red", "/old/site/photos/red"),
    ):
        assert _recognised([f"/old/{name}" for name in paths], str(folder)) == before
    assert _recognised([f"s3://bucket/{name}" for name in names], str(tmp_path / "new")) == "s3://bucket"
    assert _recognised([f"/{name}" for name in names], str(tmp_path / "new")) == ""


def test_what_cannot_be_relocated_is_said(tmp_path, copy_of_run, photos, digits):
    data_in_memory = rightfit.train(digits, output=tmp_path / "arrays", **QUICK).path
    with pytest.raises(UsageError, match="data in memory"):
        rightfit.relocate(data_in_memory, photos)
    with pytest.raises(UsageError, match="is no run folder"):
        rightfit.relocate(photos, photos)
    with pytest.raises(UsageError, match="no folder is named"):
        rightfit.relocate(copy_of_run, " ")
    with pytest.raises(UsageError, match="cannot be listed"):
        rightfit.relocate(copy_of_run, "https://example.org/photos")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        rightfit.relocate(copy_of_run, tmp_path / "nowhere")
    shutil.copytree(photos, tmp_path / "part")
    for name in ("00.png", "03.jpg"):
        (tmp_path / "part" / "green" / name).unlink()
    with pytest.raises(
        DataError, match=r"2 of the run's 60 images are not there: .*green/00.png, .*green/03.jpg;"
    ):
        rightfit.relocate(copy_of_run, tmp_path / "part")
    assert not (copy_of_run / "moved.json").exists()
    assert rightfit.relocate(copy_of_run, photos) == 60
    assert json.loads((copy_of_run / "moved.json").read_text()) == {"from": str(photos), "to": str(photos)}
