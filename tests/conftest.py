"""What the tests share: a cache of their own, small real images, and the command, here or in its own process."""

import csv
import importlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # before any test imports Keras
# For nets as small as these, compiling takes longer than what is compiled; this halves it, and moved no number of
# test_layers_agree.py by more than 6e-7.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Threads that wait for work by spinning take it from the worker beside, and nets this small have none for two.
if "PYTEST_XDIST_WORKER" in os.environ:
    for threads in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(threads, "1")

ROOT = Path(__file__).parents[1]
COLOURS = {"blue": (40, 60, 200), "green": (60, 200, 40), "red": (200, 40, 60)}
NOBODY = 65534


LONG = {"scale", "faults", "tuning", "training", "backends"}  # folders


def pytest_collection_modifyitems(items):
    """Long files first, so that none is left at the end for one worker alone."""
    items.sort(key=lambda item: LONG.isdisjoint(item.path.parts))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Decoded images and remembered splits of this session, never those of the person who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("RIGHTFIT_CACHE", str(folder))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))  # each program once a session
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield folder


@pytest.fixture(scope="session")
def write_images():
    return write_image_folders


def write_image_folders(folder, classes=tuple(COLOURS), count=20, side=12, seed=0):
    """folder/<class>/00.png 01.jpg ...: noisy pictures in the colour of their class; returns `folder`."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = noisy(COLOURS.get(name, (120, 120, 120)), side, generator)
            (folder / name / f"{number:02d}.{'jpg' if number % 2 else 'png'}").write_bytes(
                encoded(pixels, ".jpg" if number % 2 else ".png")
            )
    return folder


def noisy(colour, side, generator):
    return np.clip(colour + generator.normal(0, 30, (side, side, 3)), 0, 255).astype(np.uint8)


def encoded(pixels, suffix):
    """(H, W, 3) RGB uint8 -> the bytes of a file."""
    return cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()


@pytest.fixture(scope="session")
def picture():
    """picture(side, suffix) -> the bytes of one valid image file."""
    return lambda side=12, suffix=".png": encoded(
        noisy(COLOURS["red"], side, np.random.default_rng(1)), suffix
    )


@pytest.fixture(scope="session")
def digits():
    """scikit-learn's handwritten digits 0, 1 and 2: (N, 8, 8) uint8 and (N,) labels."""
    from sklearn.datasets import load_digits

    found = load_digits(n_class=3)
    return (found.images * (255 / 16)).astype(np.uint8), found.target


@pytest.fixture(scope="session")
def write_digits(digits):
    """write_digits(folder, count): `count` images of each of the digits 0, 1 and 2, as PNG of 8 px."""

    def write(folder, count):
        images, labels = digits
        for label in range(3):
            (folder / str(label)).mkdir()
            for number, image in enumerate(images[labels == label][:count]):
                assert cv2.imwrite(str(folder / str(label) / f"{number:02d}.png"), image)
        return folder

    return write


@pytest.fixture(scope="session")
def process():
    """process(*arguments, **environment): the installed command in its own process."""

    def run(*arguments, **environment):
        return subprocess.run(
            command(*arguments), env=surroundings(**environment), capture_output=True, text=True, timeout=240
        )

    run.command, run.environment = command, surroundings
    return run


def command(*arguments):
    script = shutil.which("rightfit", path=str(Path(sys.executable).parent))
    return [*([script] if script else [sys.executable, "-m", "rightfit"]), *plainly(arguments)]


def plainly(arguments):
    """Trainings draw no page unless a test asks for one: it takes longer than they do."""
    given = [*map(str, arguments)]
    return [*given, "--report", "none"] if given[:1] == ["train"] and "--report" not in given else given


def surroundings(**environment):
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path} | environment


@pytest.fixture
def here(capsys, monkeypatch):
    """here(*arguments): the same command in this process, where Keras is imported once for all tests."""

    def run(*arguments):
        from rightfit.cli import main

        monkeypatch.setattr(sys, "argv", ["rightfit", *plainly(arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return SimpleNamespace(returncode=end.value.code or 0, stdout=said.out, stderr=said.err)

    return run


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """60 pictures, 20 of each colour: 40 to train on, 7 to validate, 13 for the test."""
    return write_image_folders(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="session")
def trained(photos, tmp_path_factory, process):
    """`rightfit train photos --image-size 12 --epochs 2 --output RUN`, once; tests copy `folder` to change it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = process("train", photos, "--image-size", 12, "--epochs", 2, "--output", folder)
    return SimpleNamespace(done=done, folder=folder)


@pytest.fixture
def copy_of_run(trained, tmp_path):
    return Path(shutil.copytree(trained.folder, tmp_path / "copy"))


@pytest.fixture(scope="session")
def rows_of():
    """CSV text, or a path of one -> list of dicts."""

    def rows(source):
        text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        return list(csv.DictReader(io.StringIO(text, newline="")))

    return rows


@pytest.fixture
def without_rights():
    """A folder, and a context in which this process may not do there what its permissions forbid, root or not."""
    from rightfit.runtime import choose_backend

    choose_backend()  # all is imported before: Python's own folder may be closed to others
    for module in ("rightfit.api", "rightfit.data.dataset", "rightfit.saving.folder"):
        importlib.import_module(module)
    folder = Path(tempfile.mkdtemp(prefix="rightfit-test-"))  # pytest's own are closed to other users
    folder.chmod(0o755)

    @contextmanager
    def as_nobody():
        before = os.geteuid()
        if before == 0:
            os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(before)

    yield folder, as_nobody
    subprocess.run(["chmod", "-R", "u+rwx", folder], check=True)
    shutil.rmtree(folder)
