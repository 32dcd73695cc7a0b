"""Every hostile file is refused by a typed error, at once, in little memory, and touches nothing beside itself."""

import json
import subprocess
import sys
import time
import tracemalloc

import pytest
from hostile_files import HOSTILE
from watching import SOURCE, WATCHED, watched

from rightfit.errors import ModelFileError
from rightfit.formats.model_file import opened

MOST_SECONDS = 20  # for one file on a busy machine; the slowest takes 2


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_for_what_it_is(hostile, name):
    path, said = hostile[name]
    started = time.monotonic()
    with pytest.raises(ModelFileError, match=said) as refused, opened(path):
        pass
    assert time.monotonic() - started < MOST_SECONDS
    assert str(path.name) in str(refused.value), "the message names the file"


def test_hostile_files_touch_nothing_and_stay_small(hostile, tmp_path_factory):
    paths = [path for path, _ in hostile.values()]
    found = watched(paths, tmp_path_factory.getbasetemp(), "opened", "inspect", "read")
    assert found["seen"] == []
    wrong = {path: ways for path, ways in found["outcomes"].items() if set(ways.values()) != {"refused"}}
    assert wrong == {}
    assert found["rss_mb"] - found["before_mb"] < 700, (
        "the largest is a text of 65 MB, kept as bytes, text and values"
    )
    marks = [path for path in paths if (path.parent / "MARK").exists()]
    assert marks == [], "something in these was run"


def test_the_watch_sees_what_it_watches_for(tmp_path):
    """A program that opens a foreign file, a socket and a process is seen to."""
    script = WATCHED.replace("ways[name](path)", "open('/etc/hostname'), __import__('socket').socket()", 1)
    done = subprocess.run(
        [sys.executable, "-c", script, str(SOURCE), str(tmp_path), "opened"],
        input=json.dumps([str(tmp_path / "none")]),
        capture_output=True,
        text=True,
        timeout=250,
    )
    seen = {event for event, _ in json.loads(done.stdout.splitlines()[-1])["seen"]}
    assert seen >= {"open", "socket.__new__"}, done.stderr[-2000:]


@pytest.mark.skipif(sys.platform != "linux", reason="caps on address space are Linux's")
def test_the_process_that_looks_into_hdf5_can_do_nothing_else():
    code = """
import socket, sys
sys.path.insert(0, sys.argv[1])
import hdf5_survey
hdf5_survey._warm_up()
refused = []
def tried(name, action):
    try:
        action()
    except (OSError, MemoryError) as error:
        refused.append(name)
import tempfile
file = tempfile.TemporaryFile(buffering=0)
with hdf5_survey._capped(2**30):
    tried("open", lambda: open("/etc/passwd"))
    tried("socket", socket.socket)
    tried("memory", lambda: bytearray(2**30))
    tried("write", lambda: file.write(b"x"))
open("/etc/passwd").close(); bytearray(2**30)
print(refused)
"""
    signals = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    script = SOURCE / "rightfit" / "formats"
    done = subprocess.run(
        [sys.executable, "-c", signals + code, script], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "['open', 'socket', 'memory', 'write']", done.stderr


def test_a_crash_and_a_hang_of_libhdf5_are_errors_here(valid, tmp_path, monkeypatch):
    from rightfit.formats import surveyor
    from rightfit.formats.bounds import Bounds

    for name, body, said in (
        ("crash", "import os; os.abort()", "libhdf5 crashed"),
        ("hang", "import time; time.sleep(60)", "more than 1 seconds"),
    ):
        script = tmp_path / f"{name}.py"
        script.write_text(
            f"import sys\nprint('ready', flush=True)\nfor line in sys.stdin.buffer:\n    {body}\n"
        )
        with monkeypatch.context() as patch:
            patch.setattr(surveyor, "SCRIPT", script)
            surveyor.SURVEYOR.close()
            with pytest.raises(ModelFileError, match=said), opened(valid["hdf5 model"], Bounds(seconds=1)):
                pass
    with opened(valid["hdf5 model"]) as file:  # and the next one is well
        assert file.kind == "hdf5 model"


def test_an_interrupted_question_is_not_answered_to_the_next(valid, monkeypatch):
    from rightfit.formats.surveyor import SURVEYOR

    with opened(valid["hdf5 model"]):
        pass

    class Interrupted:
        def readline(self):
            raise KeyboardInterrupt

        def close(self):
            pass

    answers, SURVEYOR.process.stdout = SURVEYOR.process.stdout, Interrupted()
    with pytest.raises(KeyboardInterrupt), opened(valid["hdf5 model"]):
        pass
    answers.close()
    with opened(valid["keras weights"]) as file:
        assert "layers/conv/vars/0" in file.tensors


@pytest.mark.parametrize(
    ("kind", "tight", "said"),
    [
        ("keras weights", {"tensors": 2}, "more than 2 tensors"),
        ("keras weights", {"objects": 5}, "more than 5 groups"),
        ("keras weights", {"tensor_bytes": 16}, "more than 16 a tensor"),
        ("keras weights", {"total_bytes": 30}, "declare more than 30 bytes"),
        ("keras weights", {"name_length": 10}, "more than 10 characters"),
        ("hdf5 model", {"json_bytes": 600}, "more than 600 bytes"),
        ("hdf5 model", {"file_bytes": 1000}, "more than 1,000"),
        ("keras", {"members": 0}, "more than 0 members"),
        ("keras", {"unpacked_bytes": 1000}, "bytes unpacked"),
        ("safetensors", {"tensors": 1}, "3 tensors, more than 1"),
        ("safetensors", {"json_bytes": 20}, "more than 20"),
        ("npz", {"total_bytes": 25}, "more than 25 bytes"),
        ("json", {"nodes": 8}, "more than 8 values"),
        ("json", {"depth": 2}, "nested more than 2"),
        ("yaml", {"nodes": 8}, "more than 8 values"),
        ("yaml", {"yaml_bytes": 100}, "more than 100"),
        ("pytorch", {"nodes": 5}, "more than 5 operations"),
        ("saved model", {"members": 1}, "more than 1 files"),
        ("saved model", {"nodes": 1}, "more than 1 operations"),
    ],
)
def test_each_bound_binds(valid, kind, tight, said):
    from rightfit.formats.bounds import Bounds

    with opened(valid[kind]):
        pass
    with pytest.raises(ModelFileError, match=said), opened(valid[kind], Bounds(**tight)):
        pass


def test_operations_are_counted_before_they_are_kept(tmp_path):
    from valid_files import saved_model

    from rightfit.formats.bounds import Bounds

    path = saved_model(tmp_path / "saved", *["Relu"] * 200_000)
    size = (path / "saved_model.pb").stat().st_size
    tracemalloc.start()
    with pytest.raises(ModelFileError, match="more than 10 operations"), opened(path, Bounds(nodes=10)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * size


CUT = [0, 1, 7, 9, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, -1]


@pytest.mark.parametrize(
    "kind", ["keras", "keras weights", "hdf5 model", "hdf5 weights", "safetensors", "npz", "json"]
)
def test_a_file_that_was_cut_off_is_refused(valid, kind, tmp_path):
    whole = valid[kind].read_bytes()
    path = tmp_path / valid[kind].name
    for cut in CUT:
        path.write_bytes(whole[: int(cut * len(whole)) if isinstance(cut, float) else cut])
        with pytest.raises(ModelFileError, match=path.name), opened(path):
            pass


@pytest.mark.parametrize(
    "kind",
    ["keras", "keras weights", "hdf5 model", "safetensors", "npz", "json", "yaml", "pytorch", "old pytorch"],
)
def test_a_flipped_bit_is_read_or_refused(valid, kind, tmp_path):
    """60 bits of each: what comes is facts and numbers, or a ModelFileError."""
    import numpy as np

    whole = valid[kind].read_bytes()
    path = tmp_path / valid[kind].name
    generator = np.random.default_rng(0)
    refused = 0
    for bit in generator.choice(8 * len(whole), 60, replace=False).tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            with opened(path) as file:
                for tensor in file.tensors.values():
                    assert tensor.read().shape == tensor.shape
        except ModelFileError:
            refused += 1
    if kind == "keras":
        assert refused > 30, "a checksum covers every byte of its members"
