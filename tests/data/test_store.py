"""What has been decoded is not decoded again, what has changed is, and a store is whole or not there."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rightfit.data import decoding
from rightfit.data import store as stores
from rightfit.data.opened import Pages, Store, quarantine
from rightfit.data.resize import ImageSpec
from rightfit.data.store import open_or_build
from rightfit.data.uncached import from_arrays
from rightfit.errors import DataError, WriteError

SPEC = ImageSpec(8, 6)
SOURCE = Path(__file__).parents[2] / "src"


def write(folder, name, value):
    """One flat picture of that grey value."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 8), (value, value, value)).save(path, "PNG")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Five files; the third is no image."""
    for index in range(5):
        write(tmp_path / "in", f"{index}.png", 10 * index)
    (tmp_path / "in" / "2.png").write_text("no image")
    return tmp_path / "in"


def opened(folder, spec=SPEC, **options):
    names = sorted(path.name for path in folder.iterdir())
    paths = [str(folder / name) for name in names]
    return open_or_build(paths, spec, folder.parent / "cache", str(folder), **options)


@pytest.fixture
def decodings(monkeypatch):
    """The file names handed to `decode`, in the order of their names."""
    seen = []
    real = decoding.decode

    def counting(data, spec, path):
        seen.append(Path(path).name)
        return real(data, spec, path)

    monkeypatch.setattr(decoding, "decode", counting)
    return seen


def leftovers(folder):
    return [path for path in (folder.parent / "cache").rglob(".*") if path.name != stores.LOCK]


def saved(folder):
    return sorted(path.parent for path in (folder.parent / "cache").rglob("images.u8"))


def test_rows_are_the_files_in_order(folder):
    store = opened(folder)
    assert len(store) == 5
    assert store.images.shape == (5, 8, 6, 3)
    assert store.images[:, 0, 0, 0].tolist() == [0, 10, 0, 30, 40]
    assert store.ok.tolist() == [True, True, False, True, True]
    assert list(store.reasons) == [2]
    assert store.reasons[2].startswith("not an image")
    assert not store.images.flags.writeable
    assert leftovers(folder) == []


def test_gather_copies_the_rows_asked_for(folder):
    batch = opened(folder).gather(np.array([4, 0, 4]))
    assert batch[:, 0, 0, 0].tolist() == [40, 0, 40]
    batch[:] = 7
    assert opened(folder).images[4, 0, 0, 0] == 40


def test_the_second_opening_decodes_nothing(folder, decodings):
    first = opened(folder)
    assert sorted(decodings) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    second = opened(folder)
    assert len(decodings) == 5
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.ok, second.ok)
    assert (first.reasons, first.fingerprint) == (second.reasons, second.fingerprint)


def test_a_changed_file_is_noticed_and_only_it_is_decoded(folder, decodings):
    before = opened(folder)
    decodings.clear()
    status = os.stat(folder / "3.png")
    write(folder, "3.png", 31)
    assert (folder / "3.png").stat().st_size == status.st_size
    os.utime(folder / "3.png", ns=(status.st_atime_ns, status.st_mtime_ns))  # only ctime tells
    after = opened(folder)
    assert decodings == ["3.png"]
    assert after.images[:, 0, 0, 0].tolist() == [0, 10, 0, 31, 40]
    assert list(after.reasons) == [2]
    assert before.fingerprint != after.fingerprint


def test_added_and_removed_files_leave_the_others_alone(folder, decodings):
    opened(folder)
    decodings.clear()
    write(folder, "00.png", 50)
    (folder / "0.png").unlink()
    store = opened(folder)
    assert decodings == ["00.png"]
    assert store.images[:, 0, 0, 0].tolist() == [50, 10, 0, 30, 40]
    assert list(store.reasons) == [2]


def test_fewer_files_in_any_order_are_a_part_of_the_store_that_holds_them(folder, decodings):
    opened(folder)
    (whole,) = saved(folder)
    names = ["4.png", "2.png", "0.png"]
    decodings.clear()
    part = open_or_build([str(folder / name) for name in names], SPEC, folder.parent / "cache", str(folder))
    assert (decodings, saved(folder)) == ([], [whole])
    assert len(part) == 3
    assert part.gather(np.array([0, 2, 0, 1]))[:, 0, 0, 0].tolist() == [40, 0, 40, 0]
    assert part.ok.tolist() == [True, False, True]
    assert list(part.reasons) == [1]
    built = open_or_build([str(folder / name) for name in names], SPEC, folder.parent / "other", str(folder))
    assert len(decodings) == 3
    np.testing.assert_array_equal(part.gather(np.arange(3)), built.images)
    assert (part.reasons, part.fingerprint) == (built.reasons, built.fingerprint)


def test_a_store_that_serves_a_part_is_kept_before_newer_ones(folder, decodings):
    """The first alone holds 4.png; once it has been of use, the second goes when a third comes."""

    def of(*names):
        paths = [str(folder / name) for name in names]
        return open_or_build(paths, SPEC, folder.parent / "cache", str(folder))

    opened(folder)
    (first,) = saved(folder)
    write(folder, "5.png", 50)
    of("0.png", "5.png")
    time.sleep(0.01)
    of("4.png", "0.png")
    assert decodings.count("4.png") == 1
    write(folder, "6.png", 60)
    of("0.png", "6.png")
    assert first in saved(folder)
    assert len(saved(folder)) == 2


def test_a_changed_file_is_no_part_of_an_earlier_store(folder, decodings):
    opened(folder)
    write(folder, "3.png", 31)
    decodings.clear()
    paths = [str(folder / "3.png"), str(folder / "0.png")]
    store = open_or_build(paths, SPEC, folder.parent / "cache", str(folder))
    assert decodings == ["3.png"]
    assert store.gather(np.arange(2))[:, 0, 0, 0].tolist() == [31, 0]


def test_a_repaired_file_is_read(folder):
    assert not opened(folder).ok[2]
    write(folder, "2.png", 20)
    store = opened(folder)
    assert store.ok.all()
    assert store.reasons == {}
    assert store.images[2, 0, 0, 0] == 20


def test_a_file_that_could_not_be_reached_is_tried_again(folder, decodings, monkeypatch):
    real = decoding.read_bytes

    def failing(path):
        if path.endswith("4.png"):
            raise decoding.ImageError(path, "input/output error") from OSError(
                errno.EIO, "input/output error"
            )
        return real(path)

    with monkeypatch.context() as broken:
        broken.setattr(decoding, "read_bytes", failing)
        assert opened(folder).reasons[4] == "input/output error"
        assert opened(folder).reasons[4] == "input/output error"
    decodings.clear()
    store = opened(folder)
    assert decodings == ["4.png"]
    assert store.images[4, 0, 0, 0] == 40
    assert list(store.reasons) == [2]


def test_the_spec_and_the_decoder_are_part_of_the_key(folder, decodings, monkeypatch):
    prints = {opened(folder).fingerprint}
    for spec in (ImageSpec(6, 8), ImageSpec(8, 6, "pad")):
        decodings.clear()
        store = opened(folder, spec)
        assert store.images.shape == (5, spec.height, spec.width, 3)
        assert len(decodings) == 5
        prints.add(store.fingerprint)
    assert len(prints) == 3
    decodings.clear()
    monkeypatch.setattr(stores, "DECODER", stores.DECODER + 1)
    opened(folder)
    assert len(decodings) == 5


def test_the_fingerprint_follows_the_contents_not_the_names_or_times(folder, tmp_path):
    first = opened(folder).fingerprint
    copy = tmp_path / "other" / "in"
    copy.mkdir(parents=True)
    for path in folder.iterdir():
        (copy / f"x{path.name}").write_bytes(path.read_bytes())
    assert opened(copy).fingerprint == first
    contents = (copy / "x0.png").read_bytes()
    (copy / "x0.png").write_bytes((copy / "x1.png").read_bytes())
    (copy / "x1.png").write_bytes(contents)
    assert opened(copy).fingerprint != first


@pytest.mark.parametrize(
    ("file", "damage"),
    [(file, damage) for file in ("images.u8", "index.npz", "reasons.json") for damage in ("cut", "gone")]
    + [("images.u8", "longer")],
)
def test_a_damaged_store_is_rebuilt(folder, decodings, file, damage):
    opened(folder)
    (place,) = saved(folder)
    if damage == "gone":
        (place / file).unlink()
    else:
        os.truncate(place / file, (place / file).stat().st_size + (1 if damage == "longer" else -1))
    decodings.clear()
    store = opened(folder)
    assert len(decodings) == 5
    assert store.images[:, 0, 0, 0].tolist() == [0, 10, 0, 30, 40]
    assert saved(folder) == [place]
    assert leftovers(folder) == []
    opened(folder)
    assert len(decodings) == 5


def test_a_store_with_the_index_of_another_is_rebuilt(folder, decodings):
    opened(folder)
    (first,) = saved(folder)
    write(folder, "0.png", 1)
    opened(folder)
    (second,) = set(saved(folder)) - {first}
    (second / "index.npz").write_bytes((first / "index.npz").read_bytes())
    decodings.clear()
    assert opened(folder).images[0, 0, 0, 0] == 1
    assert "0.png" in decodings


def test_only_the_two_newest_stores_are_kept(folder):
    first = opened(folder)
    for index in range(5, 8):
        write(folder, f"{index}.png", 10 * index)
        newest = opened(folder)
    assert len(saved(folder)) == 2
    assert len(newest) == 8
    assert first.images[4, 0, 0, 0] == 40  # still open, though removed
    assert leftovers(folder) == []


def test_leftovers_of_killed_builds_go_after_a_day(folder):
    opened(folder)
    group = saved(folder)[0].parent
    for name, age in ((".building-old", 2 * 24 * 3600), (".building-new", 3600)):
        (group / name).mkdir()
        (group / name / "images.u8").touch()
        for path in (group / name / "images.u8", group / name):
            os.utime(path, (time.time() - age, time.time() - age))
    write(folder, "5.png", 50)
    opened(folder)
    assert [path.name for path in leftovers(folder)] == [".building-new"]


def test_names_may_hold_newlines_chinese_and_broken_bytes(tmp_path, decodings):
    names = ["a\nb.png", "眼底/左眼.png", os.fsdecode(b"\xff.png"), 'quote\'s "x".png']
    paths = [write(tmp_path / "in", name, 10 * index) for index, name in enumerate(names)]
    for _ in range(2):
        store = open_or_build(paths, SPEC, tmp_path / "cache", "s")
        assert store.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert len(decodings) == 4


def test_many_rows_come_in_order_from_few_threads_and_a_bounded_queue(tmp_path, monkeypatch):
    paths = [write(tmp_path / "in", f"{index}.png", index) for index in range(200)]
    lock, ahead, most, done = threading.Lock(), [0], [0], []
    real = decoding.decode

    def counting(*args):
        with lock:
            ahead[0] += 1
            most[0] = max(most[0], ahead[0] - (done[-1] if done else 0))
        return real(*args)

    monkeypatch.setattr(decoding, "decode", counting)
    monkeypatch.setattr(decoding, "BATCH_BYTES", 3 * 8 * 6 * 3)

    def progress(count, total):
        assert total == 200
        done.append(count)

    store = open_or_build(paths, SPEC, tmp_path / "cache", "s", workers=2, progress=progress)
    assert store.images[:, 0, 0, 0].tolist() == list(range(200))
    assert done == sorted(done)
    assert done[-1] == 200
    assert most[0] <= 3 * 5  # two batches per worker, and the one being written


def test_no_images_make_an_empty_store(tmp_path):
    for _ in range(2):
        store = open_or_build([], SPEC, tmp_path, "s")
        assert (len(store), store.images.shape) == (0, (0, 8, 6, 3))


def test_remote_files_are_followed_by_what_their_store_says(tmp_path, decodings):
    import fsspec

    memory = fsspec.filesystem("memory")
    urls = []
    for index in range(3):
        memory.pipe(f"/store/{index}.png", Path(write(tmp_path, f"{index}.png", 10 * index)).read_bytes())
        urls.append(f"memory://store/{index}.png")
    for _ in range(2):
        store = open_or_build(urls, SPEC, tmp_path / "cache", "s")
        assert store.images[:, 0, 0, 0].tolist() == [0, 10, 20]
    assert len(decodings) == 3
    memory.pipe("/store/1.png", Path(write(tmp_path, "1.png", 11)).read_bytes())
    assert open_or_build(urls, SPEC, tmp_path / "cache", "s").images[1, 0, 0, 0] == 11
    assert decodings[3:] == ["1.png"]


# Races, full disks, interrupts ------------------------------------------------------------------------

BUILD = """
import sys, time
from pathlib import Path
from rightfit.data import store
from rightfit.data.resize import ImageSpec
folder = Path(sys.argv[1])
names = sorted(path.name for path in folder.iterdir())
{before}
built = store.open_or_build(
    [str(folder / name) for name in names], ImageSpec(8, 6), folder.parent / "cache", str(folder)
)
print(built.fingerprint, built.images.astype(int).sum())
"""


def start(folder, before=""):
    code = BUILD.format(before=before)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_of_two_processes_one_decodes_and_the_other_waits_for_it(folder):
    """Also where the first is killed: its lock is no obstacle."""
    slow = """
from rightfit.data import decoding
decode = decoding.decode
def slowly(data, spec, path):
    print(path, flush=True)
    time.sleep({seconds})
    return decode(data, spec, path)
decoding.decode = slowly
"""
    killed = start(folder, slow.format(seconds=60))
    killed.stdout.readline()
    both = [start(folder, slow.format(seconds=0.3)) for _ in range(2)]
    time.sleep(1)
    killed.kill()
    killed.communicate()
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    decoded = sorted(len(said.splitlines()) - 1 for said, _ in answers)
    assert decoded == [0, 5]
    assert answers[0][0].splitlines()[-1] == answers[1][0].splitlines()[-1]


def test_who_waits_says_so_and_not_for_one_that_does_nothing(folder, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    opened(folder)
    group = saved(folder)[0].parent
    write(folder, "5.png", 50)
    said = []
    monkeypatch.setattr(stores, "PATIENCE", 0.5)
    with (group / stores.LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert len(opened(folder, say=said.append)) == 6
    assert said == ["another process decodes these images; waiting for it"]


def test_what_was_just_built_stays_though_the_clock_was_set_back(folder, decodings):
    for index in range(5, 7):
        opened(folder)
        write(folder, f"{index}.png", 10 * index)
    for place in saved(folder):  # as if all that was years ahead
        os.utime(place, (time.time() + 10**8, time.time() + 10**8))
    opened(folder)
    decodings.clear()
    opened(folder)
    assert decodings == [] and len(saved(folder)) == 2


def test_two_processes_may_build_the_same_store_at_once_where_there_are_no_locks(folder):
    wait_for_the_other = """
def no_locks(*given):
    raise OSError
store._take = no_locks
publish = store._publish
def late(temporary, *rest):
    while len(list(temporary.parent.glob(".building-*"))) < 2 and not list(temporary.parent.glob("[!.]*")):
        time.sleep(0.01)
    publish(temporary, *rest)
store._publish = late
"""
    both = [start(folder, wait_for_the_other) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert len(saved(folder)) == 1
    assert leftovers(folder) == []


def test_a_full_disk_says_how_much_is_needed_and_where(folder):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))"
    process = start(folder, limit)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    last = error.strip().splitlines()[-1]
    assert last.startswith(f"rightfit.errors.WriteError: {folder.parent / 'cache'}: ")
    assert "need 720 bytes" in last
    assert "RIGHTFIT_CACHE" in last
    assert "--image-size" in last
    assert leftovers(folder) == []
    assert saved(folder) == []


def test_too_little_free_space_is_noticed_before_decoding(folder, decodings, monkeypatch):
    monkeypatch.setattr(
        stores.shutil, "disk_usage", lambda path: stores.shutil._ntuple_diskusage(1000, 281, 719)
    )
    with pytest.raises(
        WriteError, match=r"need 720 bytes: 719 bytes are free; set --cache-folder or RIGHTFIT_CACHE"
    ):
        opened(folder)
    assert decodings == []


def test_a_disk_that_fills_up_while_writing_is_a_run_error(folder, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stores, "_flush", full)
    with pytest.raises(WriteError, match="need 720 bytes: No space left on device"):
        opened(folder)
    assert leftovers(folder) == []


def test_a_cache_that_cannot_be_written_is_a_run_error(folder):
    (folder.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(WriteError, match=r"cannot write the decoded images: .*RIGHTFIT_CACHE"):
        opened(folder)


def test_an_interrupt_ends_promptly_and_leaves_nothing(tmp_path, monkeypatch):
    paths = [write(tmp_path / "in", f"{index}.png", 0) for index in range(100)]
    decoded = []

    def slow(data, spec, path):
        decoded.append(path)
        time.sleep(0.02)
        return np.zeros((spec.height, spec.width, 3), np.uint8)

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "decode", slow)
    monkeypatch.setattr(decoding, "BATCH_BYTES", 10 * 8 * 6 * 3)
    with pytest.raises(KeyboardInterrupt):
        open_or_build(paths, SPEC, tmp_path / "cache", "s", workers=2, progress=interrupt)
    assert len(decoded) < 30
    assert leftovers(tmp_path / "in") == []
    assert saved(tmp_path / "in") == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


# In memory, policy, place ------------------------------------------------------------------------------


def test_arrays_of_every_shape_become_the_same_store():
    grey = np.random.default_rng(0).integers(0, 256, (4, 8, 6), np.uint8)
    for images in (grey, grey[..., None], np.repeat(grey[..., None], 3, 3)):
        store = from_arrays(images, SPEC)
        np.testing.assert_array_equal(store.images, np.repeat(grey[..., None], 3, 3))
        assert store.ok.all()
    assert from_arrays(grey, SPEC).fingerprint == from_arrays(grey.copy(), SPEC).fingerprint
    assert from_arrays(grey, SPEC).fingerprint != from_arrays(grey[::-1], SPEC).fingerprint


def test_arrays_of_another_size_are_resized():
    images = np.full((2, 16, 30, 3), 200, np.uint8)
    assert (from_arrays(images, SPEC).images == 200).all()
    assert from_arrays(images, ImageSpec(8, 6, "pad")).images[:, 0].max() == 0


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 6), np.float32),
        np.zeros((2, 8, 6, 4), np.uint8),
        np.zeros((2, 8), np.uint8),
        np.zeros((2, 0, 6), np.uint8),
    ],
)
def test_other_arrays_are_refused(images):
    with pytest.raises(DataError, match=r"uint8|no pixels"):
        from_arrays(images, SPEC)


def with_bad(bad, total):
    ok = np.arange(total) >= bad
    reasons = {row: f"reason {row}" for row in range(bad)}
    return (
        Store(np.zeros((total, 1, 1, 3), np.uint8), ok, reasons, "", np.zeros((total, 16), np.uint8)),
        [f"n{i}" for i in range(total)],
        ["cat"] * total,
    )


def test_one_bad_image_in_twenty_is_left_out_and_more_stop():
    assert quarantine(*with_bad(5, 100), allow_bad=False).tolist() == list(range(5, 100))
    with pytest.raises(
        DataError, match=r"6 of 100 images cannot be read \(more than 5%\).*--allow-bad"
    ) as caught:
        quarantine(*with_bad(6, 100), allow_bad=False)
    assert "n5 (cat): reason 5" in str(caught.value)
    assert quarantine(*with_bad(6, 100), allow_bad=True).tolist() == list(range(6, 100))


def test_ten_bad_files_are_listed_and_the_rest_counted():
    with pytest.raises(DataError) as caught:
        quarantine(*with_bad(13, 100), allow_bad=False)
    assert "n9 (" in str(caught.value)
    assert "n10 (" not in str(caught.value)
    assert str(caught.value).endswith("and 3 more")


@pytest.mark.parametrize("total", [0, 3])
def test_no_readable_image_at_all_stops_in_any_case(total):
    with pytest.raises(DataError):
        quarantine(*with_bad(total, total), allow_bad=True)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's count of resident pages")
def test_reading_all_of_a_large_store_holds_little_of_it_in_memory(tmp_path):
    side, count = 256, 400  # 79 MB
    path = tmp_path / "images.u8"
    np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8).tofile(path)
    pages = Pages(path, (count, side, side, 3))
    contents = np.zeros((count, 16), np.uint8)
    store = Store(pages.array, np.ones(count, bool), {}, "", contents, pages=pages)
    before, total = resident_mb(), 0
    for start in range(0, count, 8):
        total += int(store.gather(np.arange(start, start + 8)).sum(dtype=np.int64))
    assert total == int(np.fromfile(path, np.uint8).sum(dtype=np.int64))
    assert resident_mb() - before < 10


def test_a_store_that_is_cut_short_while_it_is_read_is_a_data_error_and_no_crash(tmp_path):
    path = tmp_path / "images.u8"
    np.arange(4 * 8 * 8 * 3, dtype=np.uint8).tofile(path)
    pages = Pages(path, (4, 8, 8, 3))
    whole = pages.take(np.array([3, 0]))
    for rows in ([3, 0], [1, 2, 3, 0, 0, 1], []):
        assert np.array_equal(pages.take(np.array(rows, int)), pages.array[rows])
    with path.open("r+b") as file:
        file.truncate(3 * 8 * 8 * 3 + 10)
    assert pages.take(np.array([0])).tobytes() == whole[1].tobytes()
    with pytest.raises(DataError, match=r"images\.u8: was cut short"):
        pages.take(np.array([3]))


def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
