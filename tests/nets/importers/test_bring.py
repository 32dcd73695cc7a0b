"""The one call for every format: it knows whose file it is, which net it is of, and what does not fit."""

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rightfit.api import import_weights, train
from rightfit.errors import RightfitError, UsageError
from rightfit.nets.importers.bring import bring
from rightfit.nets.importers.core import WeightsError
from rightfit.nets.importers.torch_names import VARIABLES, torch_layer
from rightfit.nets.resnet import weight_shapes


@pytest.fixture(scope="module")
def torchs(tmp_path_factory):
    """A file with a resnet18 of seven classes in torchvision's names, and our weights that it holds."""
    ours, theirs = {}, {}
    for number, (name, shape) in enumerate(weight_shapes("resnet18", 7).items()):
        generator = np.random.default_rng([0, number])
        if name.endswith("kernel"):  # what goes through eighteen layers keeps its size
            value = generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype("float32")
        else:
            value = generator.uniform(0.5, 1, shape).astype("float32")
        layer, _, variable = name.rpartition("/")
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim)
        ours[name] = value
        theirs[f"{torch_layer(layer, False)}.{VARIABLES[variable]}"] = value.transpose(axes).copy()
    path = tmp_path_factory.mktemp("torch") / "resnet18.safetensors"
    save_file(theirs, path)
    return path, ours


def test_every_tensor_arrives_under_our_name(torchs):
    path, ours = torchs
    source, weights = bring(path, "resnet18")
    assert source == "torchvision or timm"
    assert weights.keys() == ours.keys()
    assert all(np.array_equal(weights[name], ours[name]) for name in ours)


def test_another_number_of_classes_leaves_only_the_last_layer_out(torchs):
    path, ours = torchs
    weights = bring(path, "resnet18", outputs=3)[1]
    assert ours.keys() - weights.keys() == {"logits/kernel", "logits/bias"}


def test_a_written_file_is_read_again_as_our_own(torchs, tmp_path):
    path, ours = torchs
    import_weights(path, "resnet18", tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == ours.keys()
    source, weights = bring(tmp_path / "w.safetensors", "resnet18")
    assert source == "rightfit"
    assert all(np.array_equal(weights[name], ours[name]) for name in ours)


def test_a_net_that_computes_something_else_is_refused_with_those_that_do(torchs):
    with pytest.raises(WeightsError, match=r"do not compute what resnet18_official does; take resnet18, "):
        bring(torchs[0], "resnet18_official")


def test_another_architecture_is_refused_with_the_first_three_that_do_not_fit(torchs):
    with pytest.raises(WeightsError, match=r"does not fit: .*stage1_block3|layer1\.2.*\(and \d+ more\)"):
        bring(torchs[0], "resnet34")


def test_a_file_of_no_known_net_and_an_unknown_net(torchs, tmp_path):
    save_file({"encoder.weight": np.zeros(3, "float32")}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"no ResNet of torchvision or timm, .* names: encoder\.weight"):
        bring(tmp_path / "other.safetensors", "resnet18")
    with pytest.raises(UsageError, match=r"unknown model 'resnet19'; did you mean .*resnet18"):
        bring(torchs[0], "resnet19")


def test_kernels_of_theano_are_not_taken_as_they_are(tmp_path):
    path = tmp_path / "old.h5"
    with h5py.File(path, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = b"theano", b"2.0.6"
        file.attrs["layer_names"] = [b"conv1"]
        group = file.create_group("conv1")
        group.attrs["weight_names"] = [b"conv1/kernel:0"]
        group["conv1/kernel:0"] = np.zeros((7, 7, 3, 64), "float32")
    with pytest.raises(WeightsError, match=r"trained on Theano.*rightfit convert"):
        bring(path, "resnet50v1")


@pytest.fixture
def started(tmp_path):
    """started(weights) -> a run that was trained from them, but for its head hardly at all."""
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)

    def run(weights):
        return train(
            (images, np.arange(30) % 3),
            model="resnet18",
            weights=weights,
            image_size=32,
            epochs=1,
            learning_rate=1e-9,
            warmup_epochs=0,
            ema=0,
            precision="float32",
            output=tmp_path / "run",
            quiet=True,
        )

    return run


def test_training_starts_from_the_weights_it_is_given(torchs, started, tmp_path):
    run = started(torchs[0])
    kept = load_file(tmp_path / "run" / "weights.safetensors")
    for name in ("stem_conv/kernel", "stage4_block2_conv2/kernel"):
        np.testing.assert_allclose(kept[name], torchs[1][name], rtol=1e-5)
    assert "starting from the weights of torchvision or timm" in (run.path / "log.txt").read_text()


def test_weights_that_overflow_are_refused_and_not_fitted_to(torchs, started, tmp_path):
    large = {name: value * np.float32(1e4) for name, value in load_file(torchs[0]).items()}
    save_file(large, tmp_path / "large.safetensors")
    with pytest.raises(RightfitError, match=r"features .* are not finite"):
        started(tmp_path / "large.safetensors")
