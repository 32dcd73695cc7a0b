"""A file is the old one or the whole new one, whatever happens between; and who may read it follows the umask."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rightfit.errors import RightfitError
from rightfit.files import append_line, replacing, write_text, write_with

SOURCE = Path(__file__).parents[1] / "src"

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and limits")


def in_a_process(program, *arguments):
    """Run `program` where limits and users can be changed without harm; its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_new_text_replaces_the_old(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    write_text(tmp_path / "a.txt", "neu, né, 新\n")
    assert (tmp_path / "a.txt").read_bytes() == "neu, né, 新\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_writer_that_fails_midway_leaves_the_old_file_and_nothing_else(error, tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")

    def writer(path):
        path.write_bytes(b"half of the n")
        raise error("midway")

    with pytest.raises(error, match="midway"):
        write_with(target, writer)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_error_of_reading_something_else_is_not_one_of_writing(tmp_path):
    (tmp_path / "source").mkdir()
    for reads, error in (("source", IsADirectoryError), ("gone", FileNotFoundError)):
        with pytest.raises(error, match=reads):
            write_with(tmp_path / "a.txt", lambda path, reads=reads: (tmp_path / reads).read_bytes())
    with pytest.raises(OSError, match="Input/output"), replacing(tmp_path / "a.txt"):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/photos/1.jpg")
    assert os.listdir(tmp_path) == ["source"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_an_error_of_the_disk_is_one_of_writing(number, tmp_path):
    said = f"a.txt: cannot be written: {os.strerror(number)}"
    with pytest.raises(RightfitError, match=said), replacing(tmp_path / "a.txt"):
        raise OSError(number, os.strerror(number))


def test_a_body_that_cannot_open_the_file_it_was_given_is_an_error_of_writing(tmp_path):
    def writer(path):
        path.unlink()
        path.mkdir()
        try:
            path.write_text("text")
        finally:
            path.rmdir()

    with pytest.raises(RightfitError, match=r"a\.txt: cannot be written: Is a directory"):
        write_with(tmp_path / "a.txt", writer)


def test_while_it_is_written_readers_see_the_old_file_and_the_temporary_one_is_hidden(tmp_path):
    target = tmp_path / "a.keras"
    target.write_text("old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path, "a rename is atomic within one folder only"
        assert temporary.suffix == ".keras", "libraries choose the format by it"
        assert temporary.name.startswith(".")
    assert target.read_text() == "new"


def test_a_reader_beside_many_writers_never_sees_a_part(tmp_path):
    target = tmp_path / "a.txt"
    contents = {letter * 200_000 for letter in "abcd"}
    write_text(target, "a" * 200_000)
    writers = [
        threading.Thread(target=lambda text=text: [write_text(target, text) for _ in range(5)])
        for text in contents
    ]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(target.read_text())
    assert seen <= contents
    assert os.listdir(tmp_path) == ["a.txt"]


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000])
def test_permissions_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "text")
        assert os.umask(mask) == mask, "writing changed the umask"
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o666 & ~mask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_a_file_that_is_replaced_keeps_its_permissions(mode, tmp_path):
    record = tmp_path / "ledger.jsonl"
    record.write_text("first\n")
    record.chmod(mode)
    append_line(record, "second")
    assert record.read_text() == "first\nsecond\n"
    assert stat.S_IMODE(record.stat().st_mode) == mode


FULL = """
import resource, sys
from pathlib import Path
from rightfit.errors import RightfitError
from rightfit.files import append_line, write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (write_text, append_line):
    try:
        write(Path(sys.argv[1]), "x" * 5000)
    except RightfitError as error:
        print(error)
"""


@posix
def test_a_full_disk_is_one_typed_error_and_leaves_the_old_file(tmp_path):
    target = tmp_path / "history.csv"
    target.write_text("old\n")
    assert in_a_process(FULL, target).splitlines() == [f"{target}: cannot be written: File too large"] * 2
    assert target.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["history.csv"]


# Root may write anywhere, so it becomes somebody else first.
READ_ONLY = """
import os, sys, tempfile
from pathlib import Path
from rightfit.errors import RightfitError
from rightfit.files import write_text
folder = Path(tempfile.mkdtemp())
(folder / "a.txt").write_text("old")
folder.chmod(0o555)
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    write_text(folder / "a.txt", "new")
except RightfitError as error:
    print(str(error).replace(str(folder), "FOLDER"))
os.seteuid(os.getuid())
print((folder / "a.txt").read_text(), os.listdir(folder))
folder.chmod(0o755)
(folder / "a.txt").unlink()
folder.rmdir()
"""


@posix
def test_a_read_only_folder_is_one_typed_error_and_leaves_the_old_file():
    refused = f"{Path('FOLDER', 'a.txt')}: cannot be written: Permission denied"
    assert in_a_process(READ_ONLY).splitlines() == [refused, "old ['a.txt']"]


@posix
def test_a_folder_that_closes_while_a_file_is_written_is_one_typed_error(without_rights):
    folder, as_nobody = without_rights
    folder.chmod(0o777)
    with as_nobody():
        (folder / "place").mkdir()
        with (
            pytest.raises(RightfitError, match="cannot be written: Permission denied"),
            replacing(folder / "place" / "a") as temporary,
        ):
            temporary.write_text("b")
            (folder / "place").chmod(0o555)
    assert not (folder / "place" / "a").exists()


@pytest.mark.parametrize("place", ["gone", "a.txt"])
def test_a_folder_that_is_none_is_one_typed_error(place, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RightfitError, match=r"b\.txt: cannot be written: "):
        write_text(tmp_path / place / "b.txt", "new")


def test_lines_are_added_in_order_one_each(tmp_path):
    record = tmp_path / "ledger.jsonl"
    for line in ("erste", "zweite\n", "三"):
        append_line(record, line)
    assert record.read_text(encoding="utf-8") == "erste\nzweite\n三\n"
