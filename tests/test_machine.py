"""What a machine is told about itself: its cache, and the number format it is faster in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rightfit import machine, precision, runtime
from rightfit.errors import BackendError
from rightfit.provenance import why_this_backend


def test_the_cache_is_the_argument_then_the_environment_then_the_users(monkeypatch):
    monkeypatch.setenv("RIGHTFIT_CACHE", "~/there")
    assert runtime.cache_folder("here") == Path("here")
    assert runtime.cache_folder(None) == Path.home() / "there"
    monkeypatch.delenv("RIGHTFIT_CACHE")
    platformdirs = pytest.importorskip("platformdirs")
    assert runtime.cache_folder(None) == platformdirs.user_cache_path("rightfit")


@pytest.fixture
def asked(tmp_path):
    """asked(content of the remembered file) -> what auto chooses; the content afterwards."""
    runtime.choose_backend()
    path = tmp_path / "cache" / precision.REMEMBERED

    def ask(content=None):
        if content is not None:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        return precision.choose_precision("auto", tmp_path / "cache")

    ask.path = path
    return ask


@pytest.fixture
def with_bfloat16(monkeypatch):
    """As on a processor that has the instructions; what they are worth is measured here all the same."""
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(precision, "has_nvidia_gpu", lambda: False)


@pytest.mark.parametrize("gain, chosen", [(2.0, "bfloat16"), (1.19, "float32"), (0.5, "float32")])
def test_auto_takes_bfloat16_only_where_it_was_measured_to_pay(asked, with_bfloat16, gain, chosen):
    found, because = asked(json.dumps({precision._key(): gain}))
    assert found == chosen
    assert f"{gain:.2f} times as fast" in because


@pytest.mark.parametrize("garbage", ["", "[]", "{", '{"x": 1}', "null"])
def test_what_is_not_remembered_is_measured_and_then_remembered(asked, with_bfloat16, garbage):
    first = asked(garbage)
    gain = json.loads(asked.path.read_text())[precision._key()]
    assert gain > 0 and first[0] == ("bfloat16" if gain >= precision.PAYS else "float32")
    assert asked() == first


@pytest.mark.parametrize("gain", ['"fast"', "-1", "0", "NaN"])
def test_a_remembered_gain_that_is_none_is_measured_again(asked, with_bfloat16, gain):
    asked(f"{{{json.dumps(precision._key())}: {gain}}}")
    assert json.loads(asked.path.read_text())[precision._key()] > 0


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, with_bfloat16):
    runtime.choose_backend()
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert precision.choose_precision("auto", tmp_path / "cache")[0] in precision.PRECISIONS


def test_what_is_asked_for_is_taken_and_nothing_measured(tmp_path):
    for kind in precision.PRECISIONS:
        assert precision.choose_precision(kind, tmp_path) == (kind, "as asked")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BackendError, match="unknown precision 'half'"):
        precision.choose_precision("half", tmp_path)


def test_a_processor_without_the_instructions_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(precision, "has_nvidia_gpu", lambda: False)
    runtime.choose_backend()
    assert precision.choose_precision("auto", tmp_path) == (
        "float32",
        "the processor has no bfloat16 instructions",
    )
    assert not list(tmp_path.iterdir())


def test_a_gpu_that_the_backend_does_not_use_decides_nothing(tmp_path, monkeypatch):
    """tensorflow-cpu and torch's build for processors, on a machine that has a GPU."""
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset())
    monkeypatch.setattr(precision, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(precision, "_gpu_has_bfloat16", lambda: True)
    runtime.choose_backend()
    if precision._backend_uses_gpu():
        pytest.skip("the running backend does use a GPU")
    assert precision.choose_precision("auto", tmp_path)[0] == "float32"


def measured(speed, step=None, matrix=None):
    return {"images_per_second": speed, "step_gflops": step, "matrix_gflops": matrix}


def test_a_machine_is_told_which_backend_is_fastest_and_what_bounds_it():
    backends = {
        "tensorflow": measured(30.0, 60.0, 200.0),
        "jax": {"error": "took over 300 s"},
        "torch": measured(60.0, 120.0, 200.0),
    }
    assert machine.in_words(backends, "torch", "float32") == [
        "torch trains fastest here: 2.0 times tensorflow",
        "a step of torch reaches 60 % of the rate of one matrix product in float32 (120 of 200 GFLOP/s): bound by "
        "arithmetic: a smaller model or smaller images are what makes it faster",
    ]
    assert "reaches 30 % of" in machine.in_words(backends, "tensorflow", "bfloat16")[1]
    assert machine.in_words(backends, "tensorflow", "bfloat16")[1].endswith("more than by arithmetic")
    assert machine.in_words({"jax": measured(5.0)}, "jax", "float32") == ["jax trains fastest here"]
    assert machine.in_words({"jax": {"error": "x"}}, "jax", "float32") == []


def test_a_gain_that_was_not_measured_is_not_known(asked, with_bfloat16):
    assert precision.measured_gain(asked.path.parent) is None
    asked(json.dumps({precision._key(): 0.5}))
    assert precision.measured_gain(asked.path.parent) == 0.5


def test_jax_keeps_its_programs_in_the_cache_unless_somebody_has_chosen_otherwise(process, tmp_path):
    where = "from rightfit.runtime import choose_backend; choose_backend(); import jax; " \
        "print(jax.config.jax_compilation_cache_dir)"  # fmt: skip

    def asked(**environment):
        given = {
            n: v for n, v in process.environment(KERAS_BACKEND="jax").items() if not n.startswith("JAX_")
        }
        done = subprocess.run(
            [sys.executable, "-c", where],
            env=given | environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout.strip()

    assert Path(asked(RIGHTFIT_CACHE=str(tmp_path))).parent == tmp_path / "jax"
    assert asked(RIGHTFIT_CACHE=str(tmp_path), JAX_COMPILATION_CACHE_DIR="/elsewhere") == "/elsewhere"
    (tmp_path / "file").write_text("no folder")
    assert asked(RIGHTFIT_CACHE=str(tmp_path / "file")) == "None"


def test_a_run_that_goes_on_with_another_backend_has_not_the_firsts_reason(tmp_path):
    now = runtime.choose_backend()
    decisions = tmp_path / "decisions.jsonl"
    decisions.write_text(json.dumps({"setting": "backend", "value": now, "evidence": "fastest"}) + "\n")
    assert why_this_backend(tmp_path) == {"because": "fastest"}
    decisions.write_text(json.dumps({"setting": "backend", "value": "another", "evidence": "fastest"}) + "\n")
    assert why_this_backend(tmp_path) == {}
