"""Weights with PyTorch's names give our nets PyTorch's logits, or are refused and say why."""

from __future__ import annotations

import functools
import pickle
import sys
from collections import OrderedDict
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from rightfit.errors import BackendError
from rightfit.nets import resnet
from rightfit.nets.importers import files, torch_names
from rightfit.nets.importers.core import Tensors, WeightsError, checked
from rightfit.nets.importers.files import read
from rightfit.nets.variants import VARIANTS
from rightfit.saving.weights import named_weights

OUTPUTS = 7
SIZES = ((64, 64), (96, 80))  # 80 is odd after four halvings, so padding and ceilings count
CLOSE = 1e-4  # of the largest logit


@dataclass(frozen=True)
class Net:
    bottleneck: bool = True
    depths: tuple[int, ...] = (2, 2, 2, 2)
    groups: int = 1
    group_width: int = 64
    deep: bool = False  # three 3x3 in the stem, and an average pool before strided projections
    squeeze: bool = False


NETS = {
    "resnet18": Net(bottleneck=False),
    "resnet50": Net(depths=(3, 4, 6, 3)),
    "resnext50_32x4d": Net(depths=(3, 4, 6, 3), groups=32, group_width=4),
    "wide_resnet50_2": Net(depths=(3, 4, 6, 3), group_width=128),
    "seresnet18": Net(bottleneck=False, squeeze=True),
    "resnet18d": Net(bottleneck=False, deep=True),
    "resnet26d": Net(deep=True),
}


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, max(8, channels // 16), 1)
        self.fc2 = nn.Conv2d(max(8, channels // 16), channels, 1)

    def forward(self, x):
        gate = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu())
        return x * gate.sigmoid()


class Block(nn.Module):
    def __init__(self, net, before, width, stride):
        super().__init__()
        after = 4 * width if net.bottleneck else width
        inner = width * net.group_width // 64 * net.groups
        convolutions = (
            [(before, inner, 1, 1, 1), (inner, inner, 3, stride, net.groups), (inner, after, 1, 1, 1)]
            if net.bottleneck
            else [(before, width, 3, stride, 1), (width, after, 3, 1, 1)]
        )
        self.count = len(convolutions)
        for number, (channels, to, kernel, step, groups) in enumerate(convolutions, start=1):
            convolution = nn.Conv2d(channels, to, kernel, step, kernel // 2, groups=groups, bias=False)
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm2d(to))
        if net.squeeze:
            self.se = Squeeze(after)
        self.downsample = None
        if stride > 1 or before != after:
            pool = (
                nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
            )
            first = [pool] if net.deep else []
            projection = nn.Conv2d(before, after, 1, 1 if net.deep else stride, bias=False)
            self.downsample = nn.Sequential(*first, projection, nn.BatchNorm2d(after))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = y.relu() if number < self.count else y
        y = self.se(y) if hasattr(self, "se") else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """torchvision's names (timm's where torchvision has no such net): (B, 3, H, W) -> (B, outputs)."""

    def __init__(self, net, outputs=OUTPUTS):
        super().__init__()
        if net.deep:
            third = nn.Conv2d(32, 64, 3, 1, 1, bias=False)
            first = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
            second = [nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
            self.conv1 = nn.Sequential(*first, *second, third)
        else:
            self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for stage, depth in enumerate(net.depths):
            blocks = []
            for index in range(depth):
                blocks.append(Block(net, channels, 64 * 2**stage, 2 if stage and not index else 1))
                channels = 64 * 2**stage * (4 if net.bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, outputs)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def random_net(name, seed=0):
    """Every weight and statistic drawn, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # no weights drawn that the loop draws again
        net = ResNet(NETS[name]).eval()
    net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.3, generator=generator)
            module.num_batches_tracked.fill_(5)
    return net


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Our nets keep Keras' first weights: drawing ours takes longer than all the rest."""
    monkeypatch.setattr(resnet, "initialise", lambda model, seed: None)


@functools.cache
def shapes(name):
    with keras.StatelessScope():
        model = resnet.build(name, OUTPUTS, (64, 64))
    return {key: tuple(variable.shape) for key, variable in named_weights(model)}


def imported(name, tensors, head=True):
    return checked(shapes(name), Tensors(tensors, torch_names.IGNORED), torch_names.translate, "file", head)


def our_logits(name, weights, images):
    model = resnet.build(name, OUTPUTS, images.shape[1:3])
    for key, variable in named_weights(model):
        variable.assign(weights[key])
    return keras.ops.convert_to_numpy(model(images, training=False))


def torch_logits(net, images):
    """torchvision's preparation: 0..1, then mean and deviation a channel."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        return net((x - mean[:, None, None]) / deviation[:, None, None]).numpy()


@pytest.fixture(scope="module")
def resnet18():
    """A state dict as tensors, and as arrays."""
    state = random_net("resnet18").state_dict()
    return state, {name: tensor.numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("name", NETS)
def test_imported_weights_give_pytorchs_logits(name, tmp_path):
    net = random_net(name)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    kind, from_pickle = read(tmp_path / "net.pth")
    assert kind == "pytorch" and torch_names.matches(from_pickle)
    kind, from_safetensors = read(tmp_path / "net.safetensors")
    assert kind == "safetensors"
    weights, again = imported(name, from_pickle), imported(name, from_safetensors)
    assert weights.keys() == again.keys()
    assert all(np.array_equal(weights[key], again[key]) for key in weights)
    for size in SIZES:
        images = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype(np.float32)
        images[1, : size[0] // 2] = 0  # unlike the first in what a mean over places sees
        expected, found = torch_logits(net, images), our_logits(name, weights, images)
        largest = np.abs(expected).max()
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * largest  # the image matters, not only biases
        assert np.abs(found - expected).max() <= CLOSE * largest


@pytest.mark.parametrize("key", [None, *files.CONTAINERS])
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_checkpoints_of_training_scripts_are_unwrapped(resnet18, tmp_path, key, prefix):
    state = OrderedDict((prefix + name, tensor) for name, tensor in resnet18[0].items())
    torch.save({"epoch": 3, "optimizer": {"state": {}}, key: state} if key else state, tmp_path / "net.pt")
    found = read(tmp_path / "net.pt")[1]
    assert list(found) == list(resnet18[0])
    assert np.array_equal(found["fc.weight"], resnet18[1]["fc.weight"])


def test_averaged_weights_come_before_the_last_ones(resnet18, tmp_path):
    averaged = {"n_averaged": torch.tensor(9), "module.fc.bias": torch.ones(2)}
    torch.save({"model": {"fc.bias": torch.zeros(2)}, "model_ema": averaged}, tmp_path / "net.pth")
    found = read(tmp_path / "net.pth")[1]
    assert {name: array.tolist() for name, array in found.items()} == {"fc.bias": [1, 1]}


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_becomes_single(tmp_path, kind):
    state = {"a": torch.tensor([1.5, -0.25]).to(kind), "steps": torch.tensor(3)}
    torch.save(state, tmp_path / "net.bin")
    save_file(state, tmp_path / "net.safetensors")
    for path in tmp_path.iterdir():
        found = read(path)[1]
        assert found["a"].dtype == np.float32 and found["a"].tolist() == [1.5, -0.25]
        assert found["steps"].dtype == np.int64


def test_a_file_without_head_serves_a_new_one(resnet18):
    tensors = {name: array for name, array in resnet18[1].items() if not name.startswith("fc.")}
    found = imported("resnet18", tensors, head=False)
    assert set(shapes("resnet18")) - set(found) == {"logits/kernel", "logits/bias"}
    other = imported("resnet18", resnet18[1] | {"fc.weight": np.ones((3, 512))}, head=False)
    assert "logits/kernel" not in other and "stem_conv/kernel" in other
    with pytest.raises(WeightsError, match=r"fc\.weight is missing from the file; fc\.bias is missing"):
        imported("resnet18", tensors)


def test_missing_tensors_are_named(resnet18):
    tensors = {name: array for name, array in resnet18[1].items() if not name.startswith("layer2.1.")}
    with pytest.raises(WeightsError) as refused:
        imported("resnet18", tensors)
    assert str(refused.value) == (
        "file does not fit: layer2.1.conv1.weight is missing from the file; "
        "layer2.1.bn1.weight is missing from the file; layer2.1.bn1.bias is missing from the file (and 7 more)"
    )


def test_left_over_tensors_are_named(resnet18):
    with pytest.raises(WeightsError, match=r"^file does not fit: layer1\.0\.gate is left over in the file$"):
        imported("resnet18", resnet18[1] | {"layer1.0.gate": np.ones(1)})


@pytest.mark.parametrize(
    ("name", "shape"),
    [("layer4.1.conv2.weight", (512, 512, 1, 1)), ("fc.weight", (512, 7)), ("bn1.bias", (3,))],
)
def test_other_shapes_are_named(resnet18, name, shape):
    with pytest.raises(
        WeightsError, match=r"^file does not fit: \S+ has shape .* in the file, .* in the net$"
    ):
        imported("resnet18", resnet18[1] | {name: np.ones(shape)})


@pytest.mark.parametrize("name", ["layer4.1.conv2.weight", "fc.weight"])
@pytest.mark.parametrize("axes", [0, 1, 3])
def test_kernels_of_other_dimensions_are_named(resnet18, name, axes):
    with pytest.raises(WeightsError, match=r"has shape .* in the file"):
        imported("resnet18", resnet18[1] | {name: np.ones((1,) * axes)})


@pytest.mark.parametrize(
    "other", ["resnet34", "resnet50", "resnet18d", "seresnet18", "resnet18v2", "resnet20", "wrn16_8"]
)
def test_weights_of_another_net_are_refused(resnet18, other):
    with pytest.raises(WeightsError, match=r"file does not fit: .*; .*; .* \(and \d+ more\)"):
        imported(other, resnet18[1])


def test_a_projection_without_the_pool_does_not_pass_for_one_with():
    """timm's resnet26 with a deep stem alone ("c") and with the pool as well ("d") differ in one number."""
    tensors = {name: tensor.numpy() for name, tensor in random_net("resnet26d").state_dict().items()}
    assert imported("resnet26d", tensors)
    renamed = {
        name.replace("downsample.1", "downsample.0").replace("downsample.2", "downsample.1"): array
        for name, array in tensors.items()
    }
    with pytest.raises(WeightsError, match=r"downsample\.2\S+ is missing from the file"):
        imported("resnet26d", renamed)


def test_files_of_other_libraries_do_not_match(resnet18):
    assert torch_names.matches(resnet18[1])
    assert not torch_names.matches({"resnet.encoder.stages.0.layers.0.layer.0.convolution.weight"})
    assert not torch_names.matches(shapes("resnet18"))


def test_only_nets_of_pytorchs_geometry_are_offered():
    offered = {name for name in VARIANTS if torch_names.fits(name)}
    assert set(NETS) <= offered
    for name in (
        "resnet20",
        "wrn28_10",
        "resnet50v1",
        "resnet50v2",
        "resnet50_official",
        "resnet50_sonnet",
        "resnet18d_paddle",
    ):
        assert name not in offered
    assert not [name for name in offered if name.endswith(("_slim", "_keras", "_sonnet", "_official"))]


class Evil:
    """Unpickling it makes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_file_that_runs_code_is_refused_and_not_run(tmp_path, how):
    path, mark = tmp_path / "net.pth", tmp_path / "executed"
    content = {"state_dict": {"fc.bias": torch.ones(2)}, "extra": Evil(mark)}
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(WeightsError, match="it may run code"):
        read(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark))).close()
    assert mark.exists()  # the trap works


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"keep its weights: torch\.save\(model\.state_dict\(\), path\)"):
        read(tmp_path / "net.pth")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    torch.save({"a": torch.ones(1, dtype=torch.bfloat16).expand(10**12)}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"net\.pth: a claims more numbers than the file holds"):
        read(tmp_path / "net.pth")


def test_sparse_tensors_are_refused(tmp_path):
    torch.save({"a": torch.eye(3).to_sparse()}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="a is no plain tensor"):
        read(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no tensors by name"),
        ([torch.ones(1)], "holds no tensors by name"),
        ({"epoch": 1, "weights": torch.ones(1)}, "epoch are no tensors"),
    ],
)
def test_checkpoints_without_weights_are_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=said):
        read(tmp_path / "net.pth")


def test_a_checkpoint_that_holds_itself_is_refused(tmp_path):
    content = {}
    content["model"] = content
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="model are no tensors"):
        read(tmp_path / "net.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 7, 0.3, 0.98])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    path = tmp_path / f"net{suffix}"
    state = {"a": torch.ones(500), "b": torch.ones(500)}
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(WeightsError, match="download"):
        read(path)


def test_what_is_no_weights_file_is_refused_by_name(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth is not there; name a weights file: "):
        read(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="is a folder; name a weights file: "):
        read(tmp_path)
    for name, content, said in (
        ("page.pth", b"<!DOCTYPE html><title>Sign in", "web page"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("net.tflite", b"TFL3 and more", r"\.tflite is no format known here"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=said):
            read(tmp_path / name)


@pytest.mark.parametrize("version", ["2.6.0", "2.9.1+cpu"])
def test_a_torch_that_files_can_attack_reads_none(tmp_path, monkeypatch, version):
    torch.save({"a": torch.ones(1)}, tmp_path / "net.pth")
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(BackendError, match=r"CVE-2026-24747.*pip install 'rightfit\[torch\]'"):
        read(tmp_path / "net.pth")
    monkeypatch.setattr(torch, "__version__", "2.10.0a0+git1")
    assert read(tmp_path / "net.pth")[1]["a"].tolist() == [1]


def test_without_torch_the_install_line_is_said(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(1)}, tmp_path / "net.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"pip install 'rightfit\[torch\]'"):
        read(tmp_path / "net.pth")
