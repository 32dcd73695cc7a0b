"""Images in memory, and those of which none is kept, are those on disk; what does not fit is refused beforehand."""

import numpy as np
import pytest
from PIL import Image

from rightfit.config import train_settings
from rightfit.console import Console
from rightfit.data import decoding, memory, uncached
from rightfit.data.augment import POLICIES
from rightfit.data.dataset import prepare, reopen
from rightfit.data.loader import TrainLoader
from rightfit.data.resize import ImageSpec
from rightfit.data.uncached import Files, in_memory
from rightfit.errors import DataError, UsageError

MODES = ("disk", "memory", "none")
SPEC = ImageSpec(8, 6)


@pytest.fixture
def photos(tmp_path, write_images):
    """60 pictures, the first and the last of which are none."""
    folder = write_images(tmp_path / "photos")
    (folder / "blue" / "00.png").write_bytes(b"no image")
    whole = (folder / "red" / "19.jpg").read_bytes()
    (folder / "red" / "19.jpg").write_bytes(whole[: len(whole) // 2])
    return folder


def prepared(photos, mode):
    """The data set in this mode, and what was said; each mode has a cache folder of its own."""
    said = []
    console = Console(quiet=True)
    console.say = said.append
    values = {"data": str(photos), "image_size": 8, "cache": mode}
    asked = train_settings({**values, "cache_folder": str(photos.parent / f"cache-{mode}")})
    return prepare(str(photos), asked, console)[0], said


def loader_of(dataset):
    rows = dataset.table.rows("train")
    ones = np.ones(len(rows), np.float32)
    places, targets = dataset.image_rows[rows], dataset.targets(rows)
    return TrainLoader(dataset.images, places, targets, ones, 16, 3, POLICIES["strong"])


def test_the_three_modes_leave_out_the_same_files_and_give_the_same_batches(photos, monkeypatch):
    monkeypatch.setattr(decoding, "BATCH_BYTES", 7 * 8 * 8 * 3)  # nine batches
    disk, *others = (prepared(photos, mode)[0] for mode in MODES)
    assert [path.rpartition("/")[2] for path, _ in disk.quarantined] == ["00.png", "19.jpg"]
    batches = list(loader_of(disk).epoch(1))
    for other in others:
        assert other.quarantined == disk.quarantined
        assert other.images.fingerprint == disk.images.fingerprint
        np.testing.assert_array_equal(other.contents(), disk.contents())
        assert other.table.frame.equals(disk.table.frame)
        for mine, theirs in zip(loader_of(other).epoch(1), batches, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_only_the_mode_disk_writes_images(photos):
    for mode in MODES:
        prepared(photos, mode)
        folder = photos.parent / f"cache-{mode}"
        found = {path.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file()}
        assert found == {"splits"} | ({"stores"} if mode == "disk" else set()), mode


def test_what_a_mode_costs_is_said_once(photos):
    said = {mode: [line for line in prepared(photos, mode)[1] if "--cache" in line] for mode in MODES}
    assert said == {
        "disk": [],
        "memory": ["--cache memory: 0 MB of decoded images in memory"],
        "none": ["--cache none: images are checked once now, then decoded anew in each epoch"],
    }
    assert uncached.megabytes(uncached.bytes_of(["a"] * 50_000, ImageSpec(224, 224))) == "7,526 MB"


def test_opened_again_the_images_are_those_of_the_run(photos):
    first = prepared(photos, "disk")[0]
    for mode in MODES:
        again = reopen(first.table, str(photos), first.spec, mode, photos.parent / f"other-{mode}")
        np.testing.assert_array_equal(again.contents(), first.contents())
        rows = first.table.rows("test")
        mine, theirs = (d.images.gather(d.image_rows[rows]) for d in (again, first))
        np.testing.assert_array_equal(mine, theirs)
        assert (photos.parent / f"other-{mode}").exists() == (mode == "disk")


def test_nothing_is_read_twice_to_open_what_is_read_once(photos, monkeypatch):
    """`evaluate` reads the test images only."""
    first = prepared(photos, "none")[0]
    read = []
    real = uncached.read_bytes
    for module in (uncached, decoding):
        monkeypatch.setattr(module, "read_bytes", lambda path: read.append(path) or real(path))
    again = reopen(first.table, str(photos), first.spec, "none", photos.parent)
    rows = first.table.rows("test")
    again.images.gather(rows)
    assert sorted(read) == sorted(first.table.paths(rows))


def grey(folder, name, value):
    path = folder / name
    Image.new("RGB", (6, 8), (value, value, value)).save(path, "PNG")
    return str(path)


@pytest.fixture
def three(tmp_path):
    return [grey(tmp_path, f"{value}.png", value) for value in (10, 20, 30)]


def spoilt(path):
    path.write_bytes(b"no image")


CHANGES = {
    "gone": (lambda path: path.unlink(), "can no longer be read"),
    "another image": (lambda path: grey(path.parent, path.name, 99), "was changed since"),
    "no image any more": (spoilt, "was changed since"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_in_use_is_named(three, tmp_path, change):
    make, said = CHANGES[change]
    files = Files.checked(three, SPEC)
    assert files.gather(np.array([2, 0, 2]))[:, 0, 0, 0].tolist() == [30, 10, 30]
    make(tmp_path / "20.png")
    with pytest.raises(DataError, match=said) as caught:
        files.gather(np.array([0, 1]))
    assert str(caught.value).startswith(three[1])
    assert files.gather(np.array([0, 2]))[:, 0, 0, 0].tolist() == [10, 30], "the others are as they were"


def test_a_file_that_is_spoilt_before_it_is_opened_again_is_named_when_it_is_read(three, tmp_path):
    files = Files(three, SPEC)
    spoilt(tmp_path / "20.png")
    with pytest.raises(DataError, match="not an image"):
        files.gather(np.array([1]))


def test_images_that_do_not_fit_into_memory_are_refused_before_any_is_read(three, monkeypatch):
    needed = uncached.bytes_of(three, SPEC)
    monkeypatch.setattr(uncached, "available", lambda: int(needed / uncached.SHARE) + 1)
    assert in_memory(three, SPEC).images[:, 0, 0, 0].tolist() == [10, 20, 30]
    monkeypatch.setattr(uncached, "available", lambda: int(needed / uncached.SHARE) - 1)
    with pytest.raises(UsageError, match="--cache disk keeps them on disk, --cache none"):
        in_memory(["not there"] * 3, SPEC)
    monkeypatch.setattr(uncached, "available", lambda: None)
    assert len(in_memory(three, SPEC)) == 3


# The memory there is ---------------------------------------------------------------------------------

MIB = 2**20


@pytest.fixture
def system(tmp_path):
    """system(lines of self/cgroup, {folder: (limit, used, reclaimable)}) -> what is available, 1000 MiB without."""

    def system(cgroup, version, limits):
        proc, groups = tmp_path / "proc", tmp_path / "groups"
        (proc / "self").mkdir(parents=True)
        (proc / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {1000 * 1024} kB\n")
        (proc / "self" / "cgroup").write_text(cgroup)
        names, inactive = {
            2: (("memory.max", "memory.current"), "inactive_file"),
            1: (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
        }[version]
        for folder, (limit, used, reclaimable) in limits.items():
            place = groups / folder
            place.mkdir(parents=True, exist_ok=True)
            for name, value in zip(names, (limit, used), strict=True):
                (place / name).write_text(f"{value if value == 'max' else value * MIB}\n")
            (place / "memory.stat").write_text(f"anon 1\n{inactive} {reclaimable * MIB}\n")
        return memory.available(proc, groups) // MIB

    return system


@pytest.mark.parametrize(
    "cgroup, version, limits, left",
    [
        ("0::/\n", 2, {}, 1000),
        ("0::/\n", 2, {"": (600, 100, 0)}, 500),
        ("0::/\n", 2, {"": (600, 100, 50)}, 550),
        ("0::/\n", 2, {"": (100, 300, 0)}, 0),
        ("0::/a/b\n", 2, {"a/b": ("max", 100, 0), "a": (300, 100, 0)}, 200),
        ("0::/a/b\n", 2, {"a/b": (150, 100, 0), "a": (300, 100, 0)}, 50),
        ("0::/a/b\n", 2, {"a/b": (5000, 100, 0)}, 1000),
        ("3:cpu:/x\n2:hugetlb,memory:/a\n0::/\n", 1, {"memory/a": (400, 100, 0)}, 300),
        ("3:cpu:/x\n2:memory:/a\n", 1, {"memory/a": (400, 100, 0), "memory/x": (50, 0, 0)}, 300),
        ("2:memory:/of/the/host\n", 1, {"memory": (400, 100, 20)}, 320),
    ],
)
def test_a_group_around_the_process_limits_it(system, cgroup, version, limits, left):
    assert system(cgroup, version, limits) == left


def test_a_system_that_does_not_say_has_what_is_built_in(tmp_path):
    found = memory.available(tmp_path, tmp_path)
    assert found is None or found > 2**27
