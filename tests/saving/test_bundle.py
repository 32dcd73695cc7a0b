"""What was saved gives the same logits wherever it is opened; what is damaged or hostile is refused unrun."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import yaml
from keras import layers
from safetensors.numpy import load_file, save_file

from rightfit.errors import RightfitError, RunError
from rightfit.evaluation.infer import plain_graph
from rightfit.nets.layers import fused
from rightfit.nets.resnet import build
from rightfit.saving import architecture, bundle
from rightfit.saving.checked import checked

SIDE = 12
FILES = ("architecture.json", "architecture.yaml", "golden.npz", "model.keras", "weights.safetensors")
READ = ("architecture.json", "weights.safetensors", "golden.npz")  # by load
DESCRIPTION = bundle.Description("resnet20", ("chat", "犬", "l'été"), "categorical", (SIDE, SIDE), "crop")


def images(count, seed, side=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def used(model):
    """As after training: no weight is still zero or one, so that each has its say in the logits."""
    generator = np.random.default_rng(1)
    for variable in model.variables:
        # Positive, as variances must be; kernels keep what they have.
        if not variable.path.endswith("kernel"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def net():
    return used(build("resnet20", 3, (SIDE, SIDE), seed=3))


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    bundle.save(folder, fused(net), DESCRIPTION, images(2, seed=0))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to damage."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path


def rewrite(folder, change):
    """Load architecture.json, let `change` at its Keras part, write it back."""
    path = folder / "architecture.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["keras"] = change(content["keras"]) or content["keras"]
    path.write_text(json.dumps(content), encoding="utf-8")


def test_what_was_saved_loads_as_the_same_net(net, saved):
    model, description = bundle.load(saved)
    assert description == DESCRIPTION
    batch = images(5, seed=7)
    expected = plain_graph(net).predict_on_batch(batch)
    found = model.predict_on_batch(batch)
    assert np.abs(expected).max() > 0.01
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    for a, b in zip(model.get_weights(), net.get_weights(), strict=True):
        assert np.array_equal(a, b)


def test_saved_again_it_is_the_same_bytes(saved, tmp_path):
    model, description = bundle.load(saved)
    bundle.save(tmp_path, model, description, images(2, seed=0))
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)
    for name in ("architecture.json", "architecture.yaml", "weights.safetensors"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes(), name


def test_both_architectures_hold_the_same_and_the_description(saved):
    as_json = json.loads((saved / "architecture.json").read_text(encoding="utf-8"))
    as_yaml = yaml.safe_load((saved / "architecture.yaml").read_text(encoding="utf-8"))
    assert as_json == as_yaml
    assert as_json["classes"] == list(DESCRIPTION.classes)
    assert as_json["image"] == {"height": SIDE, "width": SIDE, "resize": "crop", "values": "0..255, RGB"}
    assert "犬" in (saved / "architecture.yaml").read_text(encoding="utf-8"), "readable, not escaped"


PLAIN_KERAS = """
import sys
sys.modules["rightfit"] = None  # any import of it fails
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1], safe_mode=True)
with np.load(sys.argv[2], allow_pickle=False) as golden:
    inputs, expected = golden["inputs"], golden["logits"]
distance = np.abs(model.predict_on_batch(inputs) - expected).max() / np.abs(expected).max()
print("DISTANCE", distance, len(inputs), {type(layer).__module__.split(".")[0] for layer in model.layers})
"""


def test_model_keras_opens_in_plain_keras_without_rightfit(saved):
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_KERAS, str(saved / "model.keras"), str(saved / "golden.npz")],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    _, distance, count, modules = done.stdout.partition("DISTANCE")[2].join(["D ", ""]).split(maxsplit=3)
    assert float(distance) < 1e-4
    assert int(count) == 2
    assert modules.strip() == "{'keras'}"


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        bundle.load(folder)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(name, share, folder):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunError, match=name.replace(".", r"\.")):
        bundle.load(folder)


@pytest.mark.parametrize("name", READ)
def test_a_file_of_another_kind_is_named(name, folder):
    for content in (b"\x89PNG\r\n\x1a\n" * 20, b"[1, 2]", b"\xff\xfe"):
        (folder / name).write_bytes(content)
        with pytest.raises(RunError, match=name.replace(".", r"\.")):
            bundle.load(folder)


def offset_of(path, tensor):
    """Where the tensor's bytes begin in a safetensors file."""
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    return 8 + header + json.loads(content[8 : 8 + header])[tensor]["data_offsets"][0]


@pytest.mark.parametrize(
    "tensor",
    ["stem_conv/kernel", "stage1_block1_norm1/gamma", "stage2_block2_norm2/moving_variance", "logits/bias"],
)
def test_a_changed_byte_of_a_weight_is_seen_in_the_golden_logits(tensor, folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[offset_of(path, tensor) + 3] ^= 0x42  # sign and exponent of its first number
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"other logits than when they were saved"):
        bundle.load(folder)


def test_a_changed_byte_of_the_golden_logits_is_seen(folder):
    path = folder / "golden.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"golden\.npz"):
        bundle.load(folder)


@pytest.mark.parametrize(
    "golden",
    [
        {"inputs": images(2, 0)},
        {"inputs": images(0, 0), "logits": np.zeros((0, 3), np.float32)},
        {"inputs": images(2, 0, side=16), "logits": np.zeros((2, 3), np.float32)},
        {"inputs": np.zeros((2, SIDE, SIDE, 3), "U3"), "logits": np.zeros((2, 3), np.float32)},
        {"inputs": images(2, 0), "logits": np.array([["a"] * 3] * 2)},
        {"inputs": images(2, 0), "logits": np.zeros((2, 4), np.float32)},
        {"inputs": images(2, 0), "logits": np.full((2, 3), np.nan, np.float32)},
    ],
    ids=["no logits", "empty", "another size", "text", "text logits", "another shape", "not a number"],
)
def test_golden_logits_that_are_none_are_refused(golden, folder):
    np.savez(folder / "golden.npz", **golden)
    with pytest.raises(RunError):
        bundle.load(folder)


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("form", ["array of objects", "pickle in the archive", "pickle in its place"])
def test_golden_logits_are_never_unpickled(form, folder, tmp_path):
    mark, path = tmp_path / "ran", folder / "golden.npz"
    if form == "array of objects":
        np.savez(path, inputs=images(2, 0), logits=np.array([Payload(mark)], dtype=object))
    elif form == "pickle in the archive":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("inputs.npy", "logits.npy"):
                archive.writestr(name, pickle.dumps(Payload(mark)))
    else:
        path.write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(RunError, match=r"golden\.npz"):
        bundle.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name, outputs, side", [("resnet32", 3, SIDE), ("resnet20", 4, SIDE), ("resnet20", 3, 16)]
)
def test_an_architecture_of_another_net_is_refused(name, outputs, side, folder):
    other = architecture.to_config(build(name, outputs, (side, side)))
    rewrite(folder, lambda config: other)
    with pytest.raises(RunError):
        bundle.load(folder)


@pytest.mark.parametrize("key", ["format", "model", "classes", "label_mode", "image", "keras"])
def test_an_architecture_without_a_part_is_refused(key, folder):
    path = folder / "architecture.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[key]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunError):
        bundle.load(folder)


def test_a_newer_format_is_refused_with_a_hint(folder):
    path = folder / "architecture.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "format": 2}), encoding="utf-8"
    )
    with pytest.raises(RunError, match="newer rightfit"):
        bundle.load(folder)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda t: t.pop("logits/bias"), "logits/bias is missing"),
        (lambda t: t.update({"logits/other": np.zeros(3, np.float32)}), "logits/other is left over"),
        (
            lambda t: t.update({"logits/bias": np.zeros(4, np.float32)}),
            r"logits/bias has shape \(4,\), not \(3,\)",
        ),
        (
            lambda t: t.update({"logits/bias": np.zeros((), np.float32)}),
            r"logits/bias has shape \(\), not \(3,\)",
        ),
    ],
    ids=["missing", "left over", "wrong shape", "one number"],
)
def test_weights_that_do_not_fit_are_named_and_none_is_taken(change, complaint, folder, net):
    path = folder / "weights.safetensors"
    tensors = load_file(path)
    tensors = {name: tensor + 1 for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, path)
    with pytest.raises(RunError, match=complaint):
        bundle.load(folder)
    before = net.get_weights()
    with pytest.raises(RunError, match=complaint):
        bundle.load_weights(path, net)
    assert all(np.array_equal(a, b) for a, b in zip(before, net.get_weights(), strict=True))


def lambda_config():
    """A Lambda as Keras writes it, its Python code in base64."""
    config = keras.saving.serialize_keras_object(layers.Lambda(lambda x: os.mkdir("ran")))
    return json.loads(json.dumps(config))


def nested(depth):
    node = "the end"
    for _ in range(depth):
        node = [node]
    return node


def an_object(name, module="keras.layers", registered_name=None, **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": registered_name}


HOSTILE = {
    "Lambda": lambda_config(),
    "__lambda__": {"class_name": "__lambda__", "config": {"value": "4wAAAAA="}},
    "module os": an_object("function", "os", config="mkdir"),
    "module os under a known name": an_object("Dense", "os", units=3),
    "module of rightfit": an_object("Dense", "rightfit.nets.layers", units=3),
    "inner module of Keras": an_object("Dense", "keras.src.utils.file_utils", units=3),
    "registered_name": an_object("Dense", registered_name="evil>Dense", units=3),
    "registered_name without a class": {"registered_name": "evil>Dense"},
    "builtins eval": {
        "module": "builtins",
        "class_name": "function",
        "config": "eval",
        "registered_name": "eval",
    },
    "builtins eval as a class": an_object("eval", "builtins"),
    "TFSMLayer": an_object("TFSMLayer", filepath="/tmp/evil"),
    "a layer that is not on the list": an_object("TextVectorization", vocabulary="/etc/passwd"),
    "an optimizer": an_object("Adam", "keras.optimizers"),
    "a class name that is no text": {"class_name": ["Dense"]},
    "a class name that is nothing": {"class_name": None},
    "a module that is no text": {"class_name": "Dense", "module": ["os"]},
    "nested more than 40 deep": nested(41),
}
PLACES = {
    "a layer": lambda config, node: config["config"]["layers"].append(node),
    "an initialiser": lambda config, node: config["config"]["layers"][2]["config"].update(
        kernel_initializer=node
    ),
    "an activation": lambda config, node: config["config"]["layers"][-1]["config"].update(activation=node),
    "an argument of a call": lambda config, node: config["config"]["layers"][2]["inbound_nodes"][0].update(
        args=[node]
    ),
    "what to build": lambda config, node: config.update(build_config={"input_shape": node}),
}


@pytest.fixture(scope="module")
def plain(net):
    return architecture.to_config(net)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_architecture_is_refused_before_keras_sees_it(what, place, plain, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    reached = []
    monkeypatch.setattr(
        keras.saving, "deserialize_keras_object", lambda *given, **named: reached.append(given)
    )
    config = copy.deepcopy(plain)
    PLACES[place](config, copy.deepcopy(HOSTILE[what]))
    with pytest.raises(RunError, match="the architecture "):
        architecture.from_config(config)
    assert reached == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("what", HOSTILE)
def test_how_to_compile_is_no_part_of_an_architecture_and_never_reaches_keras(what, plain):
    config = copy.deepcopy(plain)
    config["compile_config"] = {"optimizer": copy.deepcopy(HOSTILE[what])}
    assert checked(config) == plain


def test_a_hostile_file_is_refused_by_load(folder, monkeypatch, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    rewrite(folder, lambda config: PLACES["a layer"](config, lambda_config()))
    with pytest.raises(RunError, match="'Lambda', which is not among the layers rightfit loads"):
        bundle.load(folder)
    assert os.listdir(elsewhere) == []


def test_the_lambda_above_would_run_where_nobody_checks(tmp_path, monkeypatch):
    """So its refusal means something."""
    monkeypatch.chdir(tmp_path)
    layer = keras.saving.deserialize_keras_object(lambda_config(), safe_mode=False)
    layer.function(None)
    assert os.listdir(tmp_path) == ["ran"]


def test_40_deep_is_deep_enough_for_any_net_and_the_limit():
    checked(nested(40))
    with pytest.raises(RunError, match="more than 40 deep"):
        checked(nested(41))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1, "keras": ' + "[" * 100_000], ids=["list", "inside"]
)
def test_a_file_nested_beyond_reading_is_damaged(text, folder):
    (folder / "architecture.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=r"architecture\.json"):
        bundle.load(folder)


@pytest.mark.parametrize("config", [None, "Dense", 3, [], {}, an_object("Dense", units=3), [1, {"a": 2}]])
def test_what_is_no_model_is_refused(config):
    with pytest.raises(RunError, match="the architecture "):
        architecture.from_config(config)


def test_what_is_no_plain_data_is_refused():
    with pytest.raises(RunError, match="holds a set, which is no plain data"):
        checked({"a": [{"b": {1, 2}}]})


def test_a_model_that_is_not_of_stock_layers_is_not_saved(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Lambda(lambda x: x)(inputs))
    with pytest.raises(RunError, match="Lambda"):
        architecture.to_config(model)


def leaves(node, path=()):
    """The path of everything in a configuration."""
    yield path
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield from leaves(value, (*path, key))


@pytest.mark.filterwarnings("ignore:.*:UserWarning:keras")
def test_whatever_is_changed_it_is_a_model_or_refused():
    """Junk in any one place of a small net's configuration, chosen at random."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(2, 3, name="conv")(layers.Rescaling(0.1, name="normalise")(inputs))
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="pool")(x))
    config = architecture.to_config(keras.Model(inputs, x))
    before = copy.deepcopy(config)
    generator = np.random.default_rng(0)
    places = [path for path in leaves(config) if path]
    junk = [None, -1, 0, 2.5, "os.system", "eval", "", [], {}, [[]], True, {"a": 1}]
    refused = 0
    for _ in range(120):
        changed = copy.deepcopy(config)
        *way, last = places[generator.integers(len(places))]
        node = changed
        for key in way:
            node = node[key]
        node[last] = junk[generator.integers(len(junk))]
        try:
            model = architecture.from_config(changed)
        except RunError:
            refused += 1
        else:
            assert isinstance(model, keras.Model)
    assert 20 < refused < 120
    assert isinstance(architecture.from_config(config), keras.Model)
    assert json.dumps(config) == json.dumps(before), "building changes nothing in what it was given"


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize("limit, file", [(1000, "architecture.json"), (200_000, "weights.safetensors")])
def test_a_full_disk_is_a_typed_error_and_leaves_the_old_files(limit, file, net, folder):
    import resource

    before = {name: (folder / name).read_bytes() for name in FILES}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(RightfitError, match=f"{file}: cannot be written"):
            bundle.save(folder, net, DESCRIPTION, images(2, seed=0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(folder)) == sorted(FILES), "no temporary file stays"
    assert (folder / file).read_bytes() == before[file]


def test_weights_are_named_by_layer_and_variable(saved, net):
    tensors = load_file(saved / "weights.safetensors")
    assert len(tensors) == len(net.weights)
    assert {"stem_conv/kernel", "stem_norm/moving_mean", "logits/kernel", "logits/bias"} <= set(tensors)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float32)}


def test_golden_holds_the_inputs_as_given_and_their_logits(saved, net):
    with np.load(io.BytesIO((saved / "golden.npz").read_bytes()), allow_pickle=False) as golden:
        assert np.array_equal(golden["inputs"], images(2, seed=0))
        assert np.allclose(golden["logits"], plain_graph(net).predict_on_batch(images(2, seed=0)), rtol=1e-4)
