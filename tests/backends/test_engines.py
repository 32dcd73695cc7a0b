"""ONNX Runtime and OpenVINO behind the commands: checked against the run, without Keras, in float32."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import rightfit
from rightfit import runtime
from rightfit.errors import BackendError, RunError
from rightfit.saving import bundle

ENGINES = ("onnxruntime", "openvino")
pytest.importorskip("onnx")
for name in ENGINES:
    pytest.importorskip(name)

# In a process of its own: predict by the command, then say which frameworks it holds.
WITHOUT_KERAS = """
import atexit, json, sys
names = ("keras", "tensorflow", "jax", "torch")
atexit.register(lambda: print("\\n" + json.dumps([name for name in names if name in sys.modules])))
from rightfit.cli import main
main()
"""


def shares(rows):
    return np.array([[float(row[k]) for k in row if k.startswith("probability_")] for row in rows])


@pytest.mark.parametrize("engine", ENGINES)
def test_predict_gives_the_backends_probabilities_and_says_what_was_checked(
    engine, trained, photos, here, rows_of
):
    own = here("predict", trained.folder, photos)
    found = here("predict", trained.folder, photos, "--backend", engine)
    assert found.returncode == 0, found.stderr
    assert f"on {engine} {runtime.version_of(engine)}, within " in found.stderr
    own, rows = rows_of(own.stdout), rows_of(found.stdout)
    assert [(row["path"], row["label"]) for row in rows] == [(row["path"], row["label"]) for row in own]
    assert np.ptp(shares(own), axis=0).max() > 1e-3
    np.testing.assert_allclose(shares(rows), shares(own), rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_predict_with_an_engine_imports_no_keras(engine, trained, photos, process):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, "predict", trained.folder, photos, "--backend", engine],
        env=process.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    *rows, loaded = done.stdout.strip().splitlines()
    assert json.loads(loaded) == [] and len([row for row in rows if row]) == 61


def test_evaluate_counts_the_same_and_records_the_engine(copy_of_run, here):
    own = json.loads(here("evaluate", copy_of_run, "--json").stdout)
    done = here("evaluate", copy_of_run, "--json", "--backend", "openvino")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["confusion"] == own["confusion"]
    assert found["loss"]["value"] == pytest.approx(own["loss"]["value"], abs=1e-5)
    lines = (copy_of_run / "test-ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["backend"] for line in lines][-2:] == ["tensorflow", "openvino"]
    assert json.loads(lines[-1])["precision"] == "float32"


@pytest.mark.parametrize("engine", ENGINES)
def test_weights_that_are_not_the_runs_are_noticed(engine, copy_of_run):
    """One convolution's kernels are in another order."""
    from safetensors.numpy import load_file, save_file

    path = copy_of_run / "weights.safetensors"
    weights = load_file(path)
    weights["stage1_block1_conv1/kernel"] = np.ascontiguousarray(
        weights["stage1_block1_conv1/kernel"][..., ::-1]
    )
    save_file(weights, path)
    run = rightfit.load(copy_of_run, backend=engine)
    with pytest.raises(RunError, match=f"other logits on {engine} than when they were saved"):
        run.predict([], quiet=True)


def test_the_model_of_a_run_on_an_engine_is_still_keras(trained):
    run = rightfit.load(trained.folder, backend="onnxruntime")
    images = bundle.synthetic_images(12, 12)
    assert run.model.predict_on_batch(images).shape == (4, 3)


def test_openvino_computes_in_float32_also_where_the_processor_has_less():
    onnx = pytest.importorskip("onnx")
    from rightfit.export import engines

    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["logits"], to=kind.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("images", kind.UINT8, ["batch", 1, 1, 3])],
        [helper.make_tensor_value_info("logits", kind.FLOAT, ["batch", 1, 1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    engine = engines.start("openvino", model.SerializeToString())
    engine.predict_on_batch(np.zeros((2, 1, 1, 3), np.uint8))
    assert str(engine.compiled.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"


def test_what_is_not_there_is_said_with_what_brings_it(trained, here, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else there(name))
    done = here("predict", trained.folder, "x.png", "--backend", "openvino")
    assert done.returncode == 2
    assert "openvino is not installed; `pip install 'rightfit[openvino]'` brings it" in done.stderr


def test_an_engine_has_one_precision_and_an_unknown_backend_is_named(trained):
    with pytest.raises(BackendError, match="onnxruntime predicts in float32 here, not in bfloat16"):
        rightfit.load(trained.folder, precision="bfloat16", backend="onnxruntime")
    with pytest.raises(
        BackendError, match=r"unknown backend 'onyx'; .* to predict with onnxruntime, openvino"
    ):
        rightfit.load(trained.folder, backend="onyx")
    with pytest.raises(BackendError, match="Keras already runs on tensorflow"):
        rightfit.load(trained.folder, backend="torch")
