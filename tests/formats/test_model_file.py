"""Files of every kind are read as the libraries that wrote them would read them."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import yaml
from valid_files import BIAS, CONFIG, KERNEL, legacy, saved_model, text

from rightfit.formats.judged import strange_globals, strange_operations
from rightfit.formats.model_file import opened
from rightfit.formats.text import from_yaml

SOURCE = Path(__file__).parents[2] / "src"


def test_a_keras_archive(valid):
    with opened(valid["keras"]) as file:
        assert (file.kind, file.keras_version, file.architecture) == ("keras", "3.15.1", CONFIG)
        np.testing.assert_array_equal(file.tensors["layers/conv/vars/0"].read(), KERNEL)
        assert file.attributes["layers/conv"] == {"name": "conv"}


def test_an_h5_of_keras_2(valid):
    with opened(valid["hdf5 model"]) as file:
        assert (file.kind, file.keras_version, file.backend) == ("hdf5 model", "2.3.1", "theano")
        assert file.architecture == CONFIG and file.training == {"loss": "mse"}
        assert file.layers == (("conv", ("conv/kernel:0", "conv/bias:0")), ("flat", ()))
        assert file.optimizer == ("Adam/iterations:0",)
        np.testing.assert_array_equal(file.tensors["conv/conv/kernel:0"].read(), KERNEL)
        assert file.tensors["optimizer_weights/Adam/iterations:0"].read() == 3
    with opened(valid["hdf5 weights"]) as file:
        assert (file.kind, file.architecture) == ("hdf5 weights", None)
        np.testing.assert_array_equal(file.tensors["conv/conv/bias:0"].read(), BIAS)


def test_weights_of_keras_3(valid):
    with opened(valid["keras weights"]) as file:
        assert file.kind == "keras weights"
        assert set(file.tensors) == {"layers/conv/vars/0", "layers/conv/vars/1", "optimizer/vars/0"}


def test_weights_of_keras_before_its_first(tmp_path):
    with h5py.File(tmp_path / "vgg.h5", "w") as file:
        file.attrs["nb_layers"] = 2
        for number, params in enumerate((2, 0)):
            group = file.create_group(f"layer_{number}")
            group.attrs["nb_params"] = params
            for param in range(params):
                group[f"param_{param}"] = np.full(3, param, np.float32)
    with opened(tmp_path / "vgg.h5") as file:
        assert file.layers == (("layer_0", ("param_0", "param_1")), ("layer_1", ()))
        assert file.tensors["layer_0/param_1"].read().tolist() == [1, 1, 1]


def test_many_layers_whose_names_are_cut_up(tmp_path):
    """HDF5 keeps 64 KB an attribute, so Keras cuts longer lists into name0, name1."""
    path = legacy(tmp_path / "long.h5", CONFIG)
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        names = list(group.attrs.pop("layer_names"))
        group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:1], names[1:]
    with opened(path) as file:
        assert [layer for layer, _ in file.layers] == ["conv", "flat"]


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("f2", {}),
        (">f8", {}),
        ("<i8", {"chunks": (4, 3), "compression": "gzip", "shuffle": True}),
        (">f4", {"chunks": (7, 2), "compression": "gzip", "compression_opts": 9, "fletcher32": True}),
        ("f4", {"chunks": (1, 1), "shuffle": True}),
        ("?", {}),
        ("u1", {"chunks": (20, 20), "compression": "gzip", "maxshape": (None, None)}),
    ],
)
def test_every_way_to_store_numbers_reads_as_h5py_reads_it(tmp_path, dtype, options):
    values = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (10, 5)).astype(dtype)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=values, **options)
    with opened(tmp_path / "a.h5") as file:
        read = file.tensors["a"].read()
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(dtype).newbyteorder("=") and file.tensors["a"].dtype == read.dtype.name


def test_a_small_tensor_within_the_header_and_bfloat16(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        h5py.Dataset(h5py.h5d.create(file.id, b"small", h5py.h5t.NATIVE_INT16, space, plist))[...] = [1, 2, 3]
        halves = np.float32([1.5, -2]).astype(ml_dtypes.bfloat16)
        file["half"] = halves.view("V2")
        file["half"].attrs["dtype"] = "bfloat16"
        file["none"] = np.zeros((0, 4), np.float32)
    with opened(tmp_path / "a.h5") as file:
        assert file.tensors["small"].read().tolist() == [1, 2, 3]
        assert file.tensors["half"].dtype == "bfloat16"
        np.testing.assert_array_equal(file.tensors["half"].read(), halves)
        assert file.tensors["none"].read().shape == (0, 4)


def test_safetensors_and_npz(valid):
    with opened(valid["safetensors"]) as file:
        assert {name: tensor.dtype for name, tensor in file.tensors.items()} == {
            "conv/kernel": "float32", "half": "bfloat16", "none": "float64",
        }  # fmt: skip
        np.testing.assert_array_equal(file.tensors["conv/kernel"].read(), KERNEL)
        np.testing.assert_array_equal(file.tensors["half"].read().astype(np.float32), BIAS)
    with opened(valid["npz"]) as file:
        np.testing.assert_array_equal(file.tensors["turned"].read(), KERNEL[0, 0])
        assert file.tensors["one"].read() == 3


def test_architectures_as_text(valid):
    for kind in ("json", "yaml"):
        with opened(valid[kind]) as file:
            assert (file.kind, file.architecture) == ("architecture", CONFIG)


def test_yaml_reads_as_safe_load_does():
    content = """
a: &shared [1, 2.5, 1.0e-05, .inf, 0x1F, 0o17, 1_000, yes, No, null, ~, '12', "x", 1:30, 1e5]
b: *shared
c: {d: {e: [], f: {}}, 3: three, true: t}
g: |
  several
  lines
h: ! 12
i: !!str 12
"""
    assert from_yaml(content, "text") == yaml.safe_load(content)
    assert from_yaml("a: 2020-01-01", "text") == {"a": "2020-01-01"}, "dates stay text"
    shared = from_yaml("a: &x [1]\nb: *x", "text")
    assert shared["a"] is not shared["b"], "an alias is a copy"


def test_yaml_as_keras_2_wrote_it_is_read():
    old = """
backend: tensorflow
class_name: Sequential
config:
- class_name: Dense
  config:
    batch_input_shape: !!python/tuple [null, 150, 150, 3]
    name: !!python/unicode 'dense_1'
    units: !!python/long 3
keras_version: 2.1.5
"""
    config = from_yaml(old, "text")["config"][0]["config"]
    assert config == {"batch_input_shape": [None, 150, 150, 3], "name": "dense_1", "units": 3}


def test_what_a_pickle_or_a_saved_model_calls_is_named_and_judged(valid, tmp_path):
    for kind in ("pytorch", "old pytorch"):
        with opened(valid[kind]) as file:
            assert file.kind == "pytorch" and strange_globals(file.calls) == ()
            assert "torch._utils._rebuild_tensor_v2" in file.calls
    with opened(valid["saved model"]) as file:
        assert file.calls == ("Const", "MatMul") and strange_operations(file.calls) == ()
    with opened(saved_model(tmp_path / "saved", "ReadFile", "Relu")) as file:
        assert strange_operations(file.calls) == ("ReadFile",)


def test_a_saved_model_of_tensorflow_itself(tmp_path):
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self):
            self.kernel = tf.Variable(tf.ones((3, 3, 3, 4)))

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3))])
        def __call__(self, x):
            return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(x, self.kernel, 1, "SAME")), (1, 2))

    tf.saved_model.save(Net(), str(tmp_path / "saved"))
    with opened(tmp_path / "saved") as file:
        assert {"Conv2D", "Relu", "Mean"} <= set(file.calls)
        assert strange_operations(file.calls) == ()


def test_reading_imports_neither_keras_nor_h5py(valid):
    paths = json.dumps([str(path) for path in valid.values()])
    code = (
        "import json, sys\nfrom rightfit.formats.model_file import opened\n"
        f"for path in {paths}:\n    with opened(path) as file:\n        [t.read() for t in file.tensors.values()]\n"
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules} & {'keras', 'tensorflow', 'torch', 'h5py'})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_an_error_of_whoever_reads_passes_as_it_is(valid):
    with pytest.raises(OSError, match="mine"), opened(valid["json"]):
        raise OSError("mine")


def test_a_text_of_no_known_name_is_not_taken_for_yaml(tmp_path):
    from rightfit.errors import ModelFileError

    with pytest.raises(ModelFileError, match="no format known"), opened(text(tmp_path / "notes.txt", "a: 1")):
        pass
