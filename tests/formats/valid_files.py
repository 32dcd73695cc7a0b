"""One small file of every kind that rightfit reads, written by the libraries that write such files."""

import json
import zipfile

import h5py
import ml_dtypes
import numpy as np
import torch
import yaml
from safetensors.numpy import save_file

CONV = {
    "module": "keras.layers",
    "class_name": "Conv2D",
    "config": {"name": "conv", "filters": 2, "kernel_size": [1, 1]},
    "registered_name": None,
}
CONFIG = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "name": "net",
        "layers": [
            {
                "module": "keras.layers",
                "class_name": "InputLayer",
                "config": {"batch_shape": [None, 4, 4, 3], "name": "input"},
                "registered_name": None,
            },
            CONV,
        ],
    },
    "registered_name": None,
}
KERNEL = np.arange(6, dtype=np.float32).reshape(1, 1, 3, 2)
BIAS = np.float32([0.5, -0.5])


def make(folder):
    """kind -> path."""
    return {
        "keras": keras_archive(folder / "net.keras"),
        "keras weights": keras_weights(folder / "net.weights.h5"),
        "hdf5 model": legacy(folder / "net.h5", CONFIG),
        "hdf5 weights": legacy(folder / "weights.h5"),
        "safetensors": safetensors(folder / "net.safetensors"),
        "npz": npz(folder / "net.npz"),
        "json": text(folder / "net.json", json.dumps(CONFIG)),
        "yaml": text(folder / "net.yaml", yaml.safe_dump(CONFIG)),
        "pytorch": pytorch(folder / "net.pth"),
        "old pytorch": pytorch(folder / "old.pth", False),
        "saved model": saved_model(folder / "saved"),
    }


def keras_weights(path, kernel=KERNEL):
    with h5py.File(path, "w") as file:
        variables = file.create_group("layers/conv/vars")
        variables["0"], variables["1"] = kernel, BIAS
        file["layers/conv"].attrs["name"] = "conv"
        file["optimizer/vars/0"] = np.int64(7)
    return path


def keras_archive(path, config=CONFIG, weights=None, more=(), **options):
    """A `.keras` file of that configuration (data or text) and the bytes of an HDF5 file, with `more` members."""
    if weights is None:
        weights = keras_weights(path.with_suffix(".made.h5")).read_bytes()
        path.with_suffix(".made.h5").unlink()
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("model.weights.h5", weights)
        for member, content in more:
            archive.writestr(member, content)
    return path


def legacy(path, config=None, kernel=KERNEL, version="2.3.1", backend="theano"):
    """An `.h5` as Keras 2 wrote it: a whole model with its optimizer where `config` is given, else weights alone."""
    with h5py.File(path, "w") as file:
        group = file
        if config is not None:
            file.attrs["model_config"] = (config if isinstance(config, str) else json.dumps(config)).encode()
            file.attrs["training_config"] = json.dumps({"loss": "mse"}).encode()
            group = file.create_group("model_weights")
            slots = file.create_group("optimizer_weights")
            slots.attrs["weight_names"] = [b"Adam/iterations:0"]
            slots["Adam/iterations:0"] = np.int64(3)
        group.attrs["layer_names"] = [b"conv", b"flat"]
        group.attrs["keras_version"], group.attrs["backend"] = version.encode(), backend.encode()
        conv, flat = group.create_group("conv"), group.create_group("flat")
        conv.attrs["weight_names"] = [b"conv/kernel:0", b"conv/bias:0"]
        flat.attrs["weight_names"] = np.zeros(0)
        conv["conv/kernel:0"], conv["conv/bias:0"] = kernel, BIAS
    return path


def safetensors(path):
    save_file(
        {"conv/kernel": KERNEL, "half": BIAS.astype(ml_dtypes.bfloat16), "none": np.zeros((0, 3))}, path
    )
    return path


def npz(path):
    np.savez_compressed(path, kernel=KERNEL, turned=np.asfortranarray(KERNEL[0, 0]), one=np.int16(3))
    return path


def text(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def pytorch(path, zipped=True):
    torch.save({"conv.weight": torch.ones(2, 3)}, path, _use_new_zipfile_serialization=zipped)
    return path


def saved_model(folder, *operations):
    """The least of a SavedModel: a graph of nodes and a function, as TensorFlow's messages encode them."""
    nodes = b"".join(
        message(1, message(1, b"n") + message(2, name.encode())) for name in ("Const", *operations)
    )
    function = message(2, message(1, message(3, message(2, b"MatMul"))))
    (folder / "variables").mkdir(parents=True)
    (folder / "variables" / "variables.index").write_bytes(bytes(8))
    (folder / "saved_model.pb").write_bytes(b"\x08\x01" + message(2, message(2, nodes + function)))
    return folder


def message(number, content):
    """One length-delimited field of a protobuf message."""
    length, size = b"", len(content)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content
