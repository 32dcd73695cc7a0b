"""What is said is broken between words for a terminal, and whole in a file; what nobody can hear ends nothing."""

import io
import os
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.console import Console, duration, fitted


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def forty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")


def test_lines_are_broken_under_their_text():
    prose = "validation accuracy 0.4286, 95 % interval 0.1117 to 0.8174"
    assert fitted(prose, Terminal()) == "validation accuracy 0.4286, 95 %\n  interval 0.1117 to 0.8174"
    listed = "warning  The brightness alone tells 'blue' from the rest."
    assert fitted(listed, Terminal()) == "warning  The brightness alone tells\n         'blue' from the rest."
    beneath = "         → if it is how they were taken, level it out"
    assert fitted(beneath, Terminal()) == "         → if it is how they were taken,\n           level it out"


@given(st.lists(st.text("abc -/", max_size=60), max_size=4))
def test_no_word_is_lost_or_broken(lines):
    text = "\n".join(lines)
    assert fitted(text, io.StringIO()) == text, "a file has it whole"
    shown = fitted(text, Terminal())
    assert shown.split() == text.split()
    assert all(len(line) <= 40 or " " not in line.strip() for line in shown.split("\n"))


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0s"), (9.96, "10.0s"), (42, "42s"), (425, "7m05s"), (7380, "2h03m")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's device that is always full")
def test_a_stderr_that_takes_no_more_ends_no_work_and_a_stdout_that_does_is_an_error(
    process, photos, tmp_path
):
    def run(**streams):
        command = process.command("check", photos, "--html", tmp_path / "page.html")
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
        return subprocess.run(command, env=process.environment(), text=True, timeout=120, **streams)

    with open("/dev/full", "w") as full:
        unheard, unread = run(stderr=full), run(stdout=full)
    assert unheard.returncode == 0 and "60 images" in unheard.stdout
    assert unread.returncode != 0 and "No space left" in unread.stderr


def test_what_is_said_to_nobody_is_lost(monkeypatch, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    console = Console()
    console.log_to(tmp_path / "log.txt")
    gone = os.fdopen(writing, "w")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", gone)
        console.say("one")
        console.say("two")
    with suppress(BrokenPipeError):  # what is still in it
        gone.close()
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"
