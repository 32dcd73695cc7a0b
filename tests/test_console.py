"""What is said is broken between words for a terminal, and whole in a file."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rightfit.console import duration, fitted


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
