"""What the benchmarks share: ratios within a round, peers that fail, goals that fall short."""

import argparse
import json
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def script(tmp_path):
    """script(turns): a benchmark whose contenders return a number, or fail with an error of that name."""

    def write(turns):
        bodies = {
            name: f"raise {turn}('no such thing')" if isinstance(turn, str) else f"return {{'speed': {turn}}}"
            for name, turn in turns.items()
        }
        text = "import sys\nfrom common import Contender, answered\n"
        for index, body in enumerate(bodies.values()):
            text += f"def turn_{index}(args):\n    {body}\n"
        named = ", ".join(f"{name!r}: Contender(turn_{index})" for index, name in enumerate(bodies))
        path = tmp_path / "script.py"
        path.write_text(
            text
            + textwrap.dedent(f"""\
            CONTENDERS = {{{named}}}
            sys.path.insert(0, {str(ROOT / "benchmarks")!r})
            answered(CONTENDERS)
            """)
        )
        return path

    return write


def race(path, names, monkeypatch, rounds=2):
    import common

    monkeypatch.setenv("PYTHONPATH", str(ROOT / "benchmarks"))
    contenders = {name: common.Contender(lambda args: {}) for name in names}
    return common.race(str(path), contenders, argparse.Namespace(rounds=rounds))


def test_a_peer_that_fails_is_named_and_left_out(script, monkeypatch, capsys):
    turns = {"rightfit": 2.0, "peer": "OSError", "other": 1.0}
    rounds, left_out = race(script(turns), turns, monkeypatch)
    assert left_out == {"peer": "failed: OSError: no such thing"}
    assert [set(r) for r in rounds] == [{"load_before", "rightfit", "other"}] * 2
    assert "left out: peer" in capsys.readouterr().out


def test_a_failing_rightfit_ends_the_benchmark(script, monkeypatch):
    turns = {"peer": 1.0, "rightfit": "OSError"}
    with pytest.raises(SystemExit, match="no such thing"):
        race(script(turns), turns, monkeypatch)


@pytest.mark.parametrize("more_is_better, ratio", [(True, 2.0), (False, 0.5)])
def test_a_ratio_is_the_median_of_those_within_a_round(more_is_better, ratio):
    """The machine slows down tenfold, and both with it."""
    from common import Metric, summarise

    rounds = [
        {"load_before": 0.0, "rightfit": {"speed": 2 * pace}, "peer": {"speed": [pace]}}
        for pace in (10, 5, 1)
    ]
    peer = summarise(rounds, {"speed": Metric("images/s", more_is_better)})["speed"]["contenders"]["peer"]
    assert (peer["ratio"], peer["ratio_low"], peer["ratio_high"]) == (ratio,) * 3
    assert peer["median"] == 5


def test_a_goal_that_is_missed_is_printed_as_it_is(tmp_path, monkeypatch):
    import goals

    peers = {"PyTorch, float32": {"ratio": 1.4}, "PyTorch, bfloat16": {"ratio": 1.1}}
    result = {
        "settings": {"model": "resnet50"},
        "left_out": {},
        "machine": {"cores": 2},
        "summary": {"training": {"contenders": {"rightfit": {}, **peers}}},
        "precision": {"rightfit": "float32"},
        "rounds": [{"load_before": 5.0}],
    }
    (tmp_path / f"{goals.STEP}.json").write_text(json.dumps(result))
    monkeypatch.setattr(goals, "QUICK", tmp_path)
    first, *others = goals.rows(False, "")[1:]
    assert first[1:] == ["≥ 1.3 ×", "1.10 ×", "no", "resnet50, float32, busy machine, load 5.0"]
    assert {row[2] for row in others} == {"–"}
