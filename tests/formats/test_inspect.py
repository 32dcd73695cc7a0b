"""`rightfit inspect`: what is in a file, in words and as JSON, without Keras unless an old model has to be judged."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from cve_files import lambda_layer, with_layer
from hostile_files import Evil
from typer.testing import CliRunner
from valid_files import CONFIG, keras_archive, legacy, saved_model, text

import rightfit
from rightfit.cli import app
from rightfit.errors import ModelFileError, UsageError

SOURCE = Path(__file__).parents[2] / "src"


def test_what_is_in_a_keras_archive(valid):
    facts = rightfit.inspect(valid["keras"])
    assert facts["kind"] == "keras" and facts["keras_version"] == "3.15.1"
    assert facts["model"] == "Sequential 'net'"
    assert facts["layers"] == {"InputLayer": 1, "Conv2D": 1}
    assert (facts["parameters"], facts["tensors"], facts["optimizer_tensors"]) == (8, 3, 1)
    assert facts["first_tensors"][0] == {
        "name": "layers/conv/vars/0",
        "shape": [1, 1, 3, 2],
        "dtype": "float32",
    }
    assert facts["loads"] and facts["refused"] is None and facts["custom"] == []


def test_the_table_says_the_same(valid):
    shown = CliRunner().invoke(app, ["inspect", str(valid["keras"])])
    assert shown.exit_code == 0
    lines = dict(line.split(None, 1) for line in shown.stdout.splitlines() if line[:1].strip())
    assert lines["kind"] == "keras of Keras 3.15.1"
    assert lines["layers"] == "2: 1 InputLayer, 1 Conv2D"
    assert lines["tensors"] == "3, 1 of them no weights; 40 bytes"
    assert lines["loads"] == "yes"
    assert "  layers/conv/vars/0  float32   1×1×3×2" in shown.stdout.splitlines()


def test_json_is_the_facts(valid):
    shown = CliRunner().invoke(app, ["inspect", str(valid["hdf5 model"]), "--json"])
    facts = json.loads(shown.stdout)
    assert facts == rightfit.inspect(valid["hdf5 model"])
    assert facts["backend"] == "theano" and facts["optimizer_tensors"] == 1


def test_what_would_be_refused_is_named(tmp_path):
    facts = rightfit.inspect(keras_archive(tmp_path / "lambda.keras", with_layer(lambda_layer(tmp_path))))
    assert not facts["loads"] and "'Lambda'" in facts["refused"] and "Lambda" in facts["custom"]
    layer = {"module": "my.code", "class_name": "Mine", "config": {"name": "m"}, "registered_name": "my>Mine"}
    facts = rightfit.inspect(keras_archive(tmp_path / "mine.keras", with_layer(layer)))
    assert facts["custom"] == ["my.code.Mine"] and "'Mine'" in facts["refused"]
    facts = rightfit.inspect(saved_model(tmp_path / "saved", "WriteFile"))
    assert facts["refused"] == "it runs WriteFile, which may do more than compute"


def test_a_pickle_is_listed_and_not_opened(valid, tmp_path):
    import torch

    assert rightfit.inspect(valid["pytorch"])["loads"]
    for zipped in (True, False):
        torch.save({"a": Evil(tmp_path)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
        facts = rightfit.inspect(tmp_path / "evil.pth")
        assert "posix.system" in facts["calls"] and "posix.system" in facts["refused"]
    assert not (tmp_path / "MARK").exists()


SYSTEM = {
    "from the memo": b"\x8c\x05posixq\x000\x8c\x06systemq\x010"
    + b"\x8c\x05torch0\x8c\x04Size0"
    + b"h\x00h\x01\x93",
    "in bytes of old": b"\x8c\x05torch0\x8c\x04Size0" + b"U\x05posixU\x06system\x93",
    "twice": b"\x8c\x05torch0\x8c\x04Size0" + b"\x8c\x05posix2\x94N\x940h\x00\x8c\x06system\x93",
}


@pytest.mark.parametrize("way", SYSTEM)
def test_a_name_is_told_however_the_pickle_brings_it(tmp_path, way):
    mark = tmp_path / "MARK"
    call = (
        SYSTEM[way] + b"X" + len(f"touch {mark}").to_bytes(4, "little") + f"touch {mark}".encode() + b"\x85R."
    )
    (tmp_path / "evil.pth").write_bytes(b"\x80\x04" + call)
    facts = rightfit.inspect(tmp_path / "evil.pth")
    assert facts["calls"] == ["posix.system"] and not facts["loads"]
    assert not mark.exists()
    pickle.loads((tmp_path / "evil.pth").read_bytes())
    assert mark.exists(), "this pickle does what its name says"


def test_what_cannot_be_told_of_a_pickle_is_strange(tmp_path):
    encoded = b"c_codecs\nencode\nX\x06\x00\x00\x00system\x85R"
    for said, content in {
        "unknown": b"\x80\x04\x8c\x05torch" + encoded + b"\x93.",
        "unknown (pickle 2 breaks off)": b"\x80\x02K\x01.I0x10\n0cposix\nsystem\n(X\x04\x00\x00\x00truetR.",
    }.items():
        (tmp_path / "evil.pth").write_bytes(content)
        facts = rightfit.inspect(tmp_path / "evil.pth")
        assert said in facts["calls"] and said in facts["refused"] and not facts["loads"]


def test_an_old_model_is_judged_by_what_it_would_become(tmp_path):
    dense = {"class_name": "Dense", "config": {"name": "d", "units": 2, "batch_input_shape": [None, 3]}}
    old = {"class_name": "Sequential", "config": {"name": "s", "layers": [dense]}}
    facts = rightfit.inspect(legacy(tmp_path / "old.h5", old))
    assert facts["layers"] == {"Dense": 1} and facts["loads"]
    dense["class_name"] = "Mine"
    facts = rightfit.inspect(legacy(tmp_path / "mine.h5", old))
    assert "Mine" in facts["refused"]


def test_a_run_folder(tmp_path):
    from safetensors.numpy import save_file

    run = tmp_path / "run"
    run.mkdir()
    content = {"format": 1, "model": "resnet20", "classes": ["cat", "dog"], "keras": CONFIG}
    text(run / "architecture.json", json.dumps(content))
    save_file({"conv/kernel": np_ones(1, 1, 3, 2), "conv/bias": np_ones(2)}, run / "weights.safetensors")
    facts = rightfit.inspect(run)
    assert (facts["kind"], facts["model"], facts["classes"]) == ("run", "resnet20", ["cat", "dog"])
    assert facts["parameters"] == 8 and facts["layers"]["Conv2D"] == 1 and facts["loads"]
    assert "2: cat, dog" in CliRunner().invoke(app, ["inspect", str(run)]).stdout


def np_ones(*shape):
    import numpy as np

    return np.ones(shape, np.float32)


def test_names_from_the_file_cannot_write_to_the_terminal(tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["config"]["name"] = "\x1b[31mred\r\n"
    shown = CliRunner().invoke(app, ["inspect", str(text(tmp_path / "a.json", json.dumps(config)))])
    assert "\x1b" not in shown.stdout and "\\x1b[31mred" in shown.stdout


def test_unknown_bytes_and_files_that_are_not_there(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    with pytest.raises(ModelFileError, match=r"\.bin is no format known here; there are \.keras"):
        rightfit.inspect(tmp_path / "a.bin")
    with pytest.raises(UsageError, match="is not there"):
        rightfit.inspect(tmp_path / "none")


def test_inspecting_is_quick_and_loads_no_keras(valid):
    code = (
        "import sys, rightfit\n"
        f"rightfit.inspect({str(valid['keras'])!r}); rightfit.inspect({str(valid['pytorch'])!r})\n"
        "print(sorted({'keras', 'tensorflow', 'torch', 'h5py'} & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stderr
