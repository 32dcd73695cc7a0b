"""A weights file of any format in, its name and tensors by name out; nothing in the file is ever executed.

The bytes are read by `rightfit.formats`, within its bounds; PyTorch's pickles by torch, as tensors alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rightfit.errors import BackendError
from rightfit.formats.model_file import check_start, opened
from rightfit.nets.importers.core import Array, WeightsError, as_weights, single
from rightfit.runtime import INSTALL

READABLE = ".pth, .pt or .bin (PyTorch), .safetensors, .h5 or .keras (Keras), .npz, or a TensorFlow checkpoint's .index"
KERAS = ("keras", "hdf5 model", "hdf5 weights", "keras weights")
# Where training scripts keep the weights within a checkpoint; averaged ones first, as evaluation uses them.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model_state", "model")
SAFE_TORCH = (2, 10)  # in older ones a file can corrupt memory though weights_only is set (CVE-2026-24747)
PREFIXES = ("module.", "model.", "_orig_mod.")  # left by DataParallel, by wrappers and by torch.compile


def read(path: str | Path, by_index: bool = False) -> tuple[str, dict[str, Array]]:
    """The format ("pytorch", "safetensors", "keras", "tensorflow", "npz") and the tensors of `path`.

    `by_index` is as in `files_keras.tensors_of`.

    WeightsError when there is no such file, it is damaged, of no known format, or asks to run code;
    BackendError when reading it takes a library that is not installed.
    """
    from rightfit.nets.importers import files_keras, files_tensorflow

    path = Path(path)
    check_there(path)
    if files_tensorflow.is_checkpoint(path):
        return "tensorflow", files_tensorflow.read(path)
    with as_weights(), opened(path) as file:
        if file.kind in KERAS:
            if file.backend == "theano":
                raise WeightsError(
                    f"{path} was trained on Theano, which convolves with kernels flipped: `rightfit convert {path} "
                    "--output new.keras` flips them (for weights alone with --architecture FILE); bring the new file"
                )
            return "keras", files_keras.tensors_of(file, by_index)
        if file.kind == "npz":
            return "npz", {name: tensor.read() for name, tensor in file.tensors.items()}
        if file.kind == "safetensors":
            return "safetensors", without_prefix(
                {name: single(tensor.read()) for name, tensor in file.tensors.items()}
            )
        if file.kind != "pytorch":
            raise WeightsError(
                f"{path} is of the kind {file.kind!r} and holds no weights; there are {READABLE}"
            )
    return "pytorch", without_prefix(read_pytorch(path))


def check_there(path: Path) -> None:
    """WeightsError when `path` is neither a file that holds something nor a checkpoint's prefix."""
    from rightfit.nets.importers import files_tensorflow

    if files_tensorflow.is_checkpoint(path):
        return
    if not path.is_file():
        inside = path / "weights.safetensors"
        if inside.is_file():
            raise WeightsError(f"{path} is a run's folder; its weights are {inside}")
        raise WeightsError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}; name a weights file: {READABLE}"
        )
    with as_weights():
        check_start(path)


def read_pytorch(path: Path) -> dict[str, Array]:
    """Tensors by name out of a state dict or a training checkpoint that holds one; halves become float32.

    BackendError without torch, or with one that such files can attack.
    """
    try:
        import torch
    except ImportError as error:
        raise BackendError(
            f"{path}: reading PyTorch's files takes torch; `{INSTALL['torch']}` brings it, or save them as .safetensors"
        ) from error

    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise BackendError(
            f"{path}: a file can attack torch {torch.__version__} through its reader (CVE-2026-24747); "
            f"`{INSTALL['torch']}` brings 2.10 or later, or save the weights as .safetensors"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # zipfile, pickle, struct and torch have a dozen kinds for a damaged or refused file
        raise WeightsError(
            f"{path}: PyTorch cannot read it as tensors alone ({_first_line(error)}). Is it whole, download it again; "
            "does it hold more than tensors, it may run code, so open it only where you trust it "
            "and keep its weights: torch.save(model.state_dict(), path)"
        ) from error
    return {name: _array(tensor, f"{path}: {name}") for name, tensor in _state_dict(content, path).items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _state_dict(content: Any, path: Path) -> Mapping[str, Any]:
    """The tensors' dictionary, wherever a training script put it; WeightsError when there is none."""
    import torch

    for _ in range(3):  # containers in containers; a hostile file may even hold itself
        if isinstance(content, dict):
            inside = (content[key] for key in CONTAINERS if isinstance(content.get(key), dict))
            content = next(inside, content)
    if not isinstance(content, dict) or not content:
        raise WeightsError(f"{path} holds no tensors by name; save model.state_dict()")
    content = {
        key: value for key, value in content.items() if key != "n_averaged"
    }  # torch.optim.swa_utils' counter
    others = [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise WeightsError(
            f"{path}: {', '.join(others[:3])}{' and more' if len(others) > 3 else ''} "
            f"are no tensors; save model.state_dict(), or put it under {CONTAINERS[2]!r}"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _array(tensor: Any, place: str) -> Array:
    import torch

    tensor = tensor.detach()
    try:
        # A small file can claim a huge tensor by repeating its bytes; no weight is stored so.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise WeightsError(
                f"{place} claims more numbers than the file holds; the file is not to be trusted"
            )
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            tensor = tensor.to(torch.float32)
        array: Array = tensor.numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised
        raise WeightsError(
            f"{place} is no plain tensor ({_first_line(error)}); save it dense, as float32"
        ) from error
    return array


def without_prefix(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Names without the prefixes that all of them share: `module.conv1.weight` -> `conv1.weight`."""
    names, found = dict(tensors), True
    while found:
        found = False
        for prefix in PREFIXES:
            if names and all(name.startswith(prefix) for name in names):
                names = {name.removeprefix(prefix): array for name, array in names.items()}
                found = True
    return names
