"""Images labelled on a Ray cluster of three nodes: each once, as `predict` labels them, whatever is lost on the way."""

import csv
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import rightfit
from rightfit import cluster as cluster_module
from rightfit import predicting
from rightfit.errors import RightfitError, RunError, UsageError
from rightfit.team import team_of

IMAGES = 4  # a part; a step has as many, so that parts and steps are cut alike and floats are the same
BACKEND = {"backend": "onnxruntime", "batch_size": IMAGES, "quiet": True}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose net knows nothing and says something else of each image."""
    from rightfit.nets.resnet import build
    from rightfit.saving import bundle
    from rightfit.saving.folder import write_json

    folder = tmp_path_factory.mktemp("runs") / "run"
    folder.mkdir()
    model = build("resnet8", 3, (12, 12), 3)
    described = bundle.Description("resnet8", ("blue", "green", "red"), "categorical", (12, 12), "stretch")
    bundle.save(folder, model, described, bundle.synthetic_images(12, 12))
    write_json(folder / "calibration.json", {"temperature": 0.2, "points": {}})
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_images):
    """30 files, of which two hold no image: a whole part of four, but for one, and one of the last, of two."""
    folder = write_images(tmp_path_factory.mktemp("data") / "new", count=10, seed=3)
    for name in ("blue/05.jpg", "red/09.jpg"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def expected(run, images):
    return rightfit.load(run, backend="onnxruntime").predict(images, batch_size=IMAGES, quiet=True)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(predicting, "IMAGES_A_PART", IMAGES)


@pytest.fixture(scope="module")
def finished(begun, run, images, tmp_path_factory):
    """A folder that is made once; tests copy it to change it."""
    folder = tmp_path_factory.mktemp("made") / "out.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predicting, "IMAGES_A_PART", IMAGES)
        assert rightfit.predict_many(run, images, folder, ray=begun.address, **BACKEND) == 28
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "out.parquet")


def assert_whole(folder, expected):
    """The folder is `expected`, row for row and bit for bit, and names what it leaves out."""
    pd.testing.assert_frame_equal(pd.read_parquet(folder), expected, check_exact=True)
    with (folder / "_unreadable.csv").open(encoding="utf-8", newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == expected.attrs["unreadable"]
    assert (folder / "_SUCCESS").exists()
    assert [
        path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"
    ] == []


def times(folder):
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.glob("part-*")}


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def test_the_parts_are_what_predict_gives_row_for_row(finished, expected):
    assert np.ptp(expected.filter(like="probability").to_numpy(), axis=0).min() > 1e-3
    assert_whole(finished, expected)
    sizes = [len(pd.read_parquet(path)) for path in sorted(finished.glob("part-*.parquet"))]
    assert sizes == [4, 3, 4, 4, 4, 4, 4, 1]


def test_what_is_finished_is_not_made_again(copy, run, images, expected):
    before = times(copy)
    assert len(before) == 8
    assert rightfit.predict_many(run, images, copy, ray=closed_port(), **BACKEND) == 28
    assert times(copy) == before
    assert_whole(copy, expected)


def test_a_part_that_is_gone_is_made_again_alone(copy, cluster, run, images, expected, here):
    before = times(copy)
    (copy / "part-00002.parquet").unlink()
    damaged = copy / "part-00007.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    flags = ("--ray", cluster.address, "--backend", "onnxruntime", "--batch-size", IMAGES, "--output", copy)
    done = here("predict", run, images, *flags)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [
        "6 of 8 parts are there already",
        "on a Ray cluster of 3 nodes: 3 CPUs",
        "2 parts of up to 4 images, 2 workers with 1 CPU each",
        f"left out: {expected.attrs['unreadable'][1][0]}: {expected.attrs['unreadable'][1][1]}",
        f"2 files were left out, named in {copy / '_unreadable.csv'}; 28 images are labelled",
        f"28 images → {copy}",
    ]
    assert_whole(copy, expected)
    after = times(copy)
    assert {name for name in before if after[name] != before[name]} == {
        "part-00002.parquet",
        "part-00007.parquet",
    }


def test_an_image_that_was_replaced_under_its_name_is_labelled_anew(cluster, run, images, tmp_path, picture):
    own, folder = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "out.parquet"
    settings = {"ray": cluster.address, **BACKEND}
    rightfit.predict_many(run, own, folder, **settings)
    before = times(folder)
    (tmp_path / "new.png").write_bytes((own / "blue/00.png").read_bytes())
    os.utime(tmp_path / "new.png", (1, 1))  # as a copy that keeps the times of an older file
    (tmp_path / "new.png").replace(own / "red/00.png")
    rightfit.predict_many(run, own, folder, **settings)
    assert_whole(
        folder, rightfit.load(run, backend="onnxruntime").predict(own, batch_size=IMAGES, quiet=True)
    )
    assert len({name for name, then in before.items() if times(folder)[name] != then}) == 1


def test_keras_on_relative_paths_gives_what_it_gives_here(cluster, run, images, tmp_path, monkeypatch):
    paths, folder = ["red/00.png", "red/01.jpg", "red/09.jpg"], tmp_path / "out.parquet"
    monkeypatch.chdir(images)
    expected = rightfit.load(run).predict(paths, batch_size=IMAGES, quiet=True)
    settings = {"ray": cluster.address, "batch_size": IMAGES, "quiet": True}
    assert rightfit.predict_many(run, paths, folder, **settings) == 2
    assert_whole(folder, expected)
    shutil.copytree(images, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="of other images"):
        rightfit.predict_many(run, paths, folder, **settings)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("other images", lambda ask: ask.update(paths=ask["paths"] / "red")),
        (
            "another run",
            lambda ask: (ask["run"] / "calibration.json").write_text('{"temperature": 0.3, "points": {}}'),
        ),
        ("another precision", lambda ask: ask.update(precision="bfloat16")),
        ("parts of another size", lambda ask: predicting.__dict__.update(IMAGES_A_PART=5)),
    ],
)
def test_another_request_into_the_same_folder_is_refused(what, change, copy, run, images, tmp_path):
    before = times(copy)
    asked = {"run": Path(shutil.copytree(run, tmp_path / "run")), "paths": images, **BACKEND}
    change(asked)
    with pytest.raises(UsageError, match=f"holds predictions of {what}; choose another --output"):
        rightfit.predict_many(output=copy, ray=closed_port(), **asked)
    assert times(copy) == before


def test_a_folder_of_something_else_is_refused(run, images, tmp_path, copy):
    (tmp_path / "mine.parquet").mkdir()
    (tmp_path / "mine.parquet/table.parquet").write_bytes(b"")
    (tmp_path / "file.parquet").write_bytes(b"")
    (copy / "part-00008.parquet").write_bytes(b"")
    for name in ("mine.parquet", "file.parquet", "out.parquet"):
        with pytest.raises(UsageError, match="choose another --output"):
            rightfit.predict_many(run, images, tmp_path / name, ray=closed_port(), **BACKEND)


def test_an_error_of_a_worker_is_raised_here(cluster, run, images, tmp_path):
    broken = Path(shutil.copytree(run, tmp_path / "run"))
    with np.load(broken / "golden.npz") as kept:
        np.savez(broken / "golden.npz", inputs=kept["inputs"], logits=kept["logits"] + 1)
    with pytest.raises(RunError, match=r"on [\d.]+: .*the weights give other logits"):
        rightfit.predict_many(
            broken, images / "red/00.png", tmp_path / "out.parquet", ray=cluster.address, **BACKEND
        )


def test_images_that_a_node_does_not_have_are_not_called_unreadable(run, images, tmp_path):
    import pyarrow as pa

    worker = predicting.Worker(predicting.Order(run, tmp_path, "", "float32", "onnxruntime", None, IMAGES, 1))
    lost, there = b"/nowhere/a.png", str(images / "red/00.png").encode()
    for names, said in (([lost], "/nowhere/a.png is not there, nor any other image"), ([lost, there], "")):
        row = worker(pa.table({"file": ["part-00000.parquet"], "names": [b"\0".join(names)]}))
        assert said in row["error"][0] and bool(row["error"][0]) == bool(said)


@pytest.mark.parametrize(
    ("nodes", "room"),
    [
        ([{"CPU": 16.0}], (4, 4, 0)),
        ([{"CPU": 2.0}], (1, 2, 0)),
        ([{}, {"CPU": 0.0}, {"CPU": 8.0}, {"CPU": 3.0}], (3, 3, 0)),  # heads of clusters often give none
        ([{}], (1, 1, 0)),
        ([{"CPU": 64.0}, {"CPU": 16.0, "GPU": 2.0}, {"CPU": 12.0, "GPU": 1.0}], (3, 8, 1)),
        ([{"CPU": 4.0, "GPU": 8.0}], (8, 0, 1)),
    ],
)
def test_workers_fill_the_cluster(nodes, room, monkeypatch):
    known = [{"Alive": True, "Resources": node} for node in nodes]
    lost = {"Alive": False, "Resources": {"CPU": 1.0}}
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: [lost, *known]))
    assert cluster_module.room(4) == room


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("closed", "no cluster answers .Connection refused.; `ray start --head` begins one"),
        ("nowhere.invalid:6379", "no cluster answers"),
        ("head", "give auto, local, HOST:PORT"),
        ("ray://head:10001", "run the command on a node of the cluster with --ray auto"),
        ("http://head:8265", "the address of the cluster's dashboard"),
    ],
)
@pytest.mark.parametrize("as_variable", [False, True])
def test_an_address_that_leads_nowhere_is_said_at_once(
    address, said, as_variable, run, images, tmp_path, monkeypatch
):
    address = closed_port() if address == "closed" else address
    if as_variable:
        monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(UsageError, match=said):
        asked = "auto" if as_variable else address
        rightfit.predict_many(run, images, tmp_path / "out.parquet", ray=asked, **BACKEND)
    assert time.monotonic() - began < 20
    if "://" in address:
        assert not (tmp_path / "out.parquet").exists()
        with pytest.raises(UsageError, match=said):
            team_of(2, asked, None)


@pytest.mark.parametrize("broken", [False, True])
def test_without_ray_it_is_said_what_to_install(broken, run, images, tmp_path, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    if broken:
        monkeypatch.delitem(sys.modules, "ray")
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "ray.py").write_text("raise ImportError('a library of its own is gone')")
    done = here("predict", run, images, "--ray", "auto", "--output", tmp_path / "out.parquet")
    assert done.returncode == 2
    why = " (a library of its own is gone)" if broken else ""
    assert done.stderr == f"rightfit: --ray needs Ray{why}: pip install 'rightfit[ray]'\n"
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--ray", "local"), "--output NAME.parquet says which"),
        (
            ("--ray", "local", "--output", "out.csv"),
            "out.csv: with --ray a folder of Parquet files is written",
        ),
        (("--ray", "local", "--output", "s3://b/o.parquet"), "not to a URL"),
        (("--output", "out.parquet"), "out.parquet: this writes CSV; name it .csv"),
    ],
)
def test_an_output_of_the_other_kind_is_refused(flags, said, run, images, here):
    done = here("predict", run, images, *flags)
    assert done.returncode == 2 and said in done.stderr


def test_a_part_that_ends_its_worker_each_time_ends_the_work(cluster, run, images, tmp_path, monkeypatch):
    class Dying(predicting.Worker):
        def _make(self, part):
            from rightfit.saving import parts

            if parts.begun(self.order.output, part) <= self.order.tries:
                os._exit(1)
            super()._make(part)

    monkeypatch.setattr(predicting, "Worker", Dying)
    monkeypatch.setattr(predicting, "TRIES", 2)
    with pytest.raises(RightfitError, match="was begun 2 times, and each time its worker or node was lost"):
        rightfit.predict_many(
            run, images / "red/00.png", tmp_path / "out.parquet", ray=cluster.address, **BACKEND
        )


def test_a_node_that_is_lost_loses_and_doubles_no_image(
    cluster, run, images, expected, tmp_path, monkeypatch
):
    began = tmp_path / "began"
    began.mkdir()

    class Slow(predicting.Worker):
        def _make(self, part):
            from rightfit.runtime import cpu_count

            os.write(tempfile.mkstemp(prefix=part.file, dir=began)[0], str(cpu_count()).encode())
            time.sleep(0.5)
            super()._make(part)

    monkeypatch.setattr(predicting, "Worker", Slow)
    folder = tmp_path / "out.parquet"
    lost = next(iter(cluster.worker_nodes))

    def remove():
        while len(list(folder.glob("part-*"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(lost, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        assert rightfit.predict_many(run, images, folder, ray=cluster.address, **BACKEND) == 28
    finally:
        remover.join()
    times_begun = Counter(path.name.partition(".parquet")[0] for path in began.iterdir())
    assert len(times_begun) == 8 and max(times_begun.values()) > 1, "no part was lost, so nothing was tested"
    assert {path.read_text() for path in began.iterdir()} == {"1"}, "a worker takes the processors of others"
    assert_whole(folder, expected)
