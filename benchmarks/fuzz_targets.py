"""What benchmarks/fuzz.py feeds: honest files to begin with, what reads them, and the errors that are right.

Each target reads bytes as rightfit would read a file of them. A RightfitError is an answer; any other error, a file
or socket opened outside the file's folder, and a process that dies are findings.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rightfit.errors import RightfitError
from rightfit.formats.bounds import Bounds
from rightfit.formats.model_file import opened

# Tighter than the defaults, so that a million files that declare much take an hour and not a week.
BOUNDS = Bounds(tensor_bytes=2**24, total_bytes=2**26, unpacked_bytes=2**26, small_bytes=2**22, seconds=0.5)
INTERESTING = [
    0,
    1,
    7,
    8,
    16,
    32,
    64,
    100,
    127,
    128,
    255,
    256,
    1000,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**32 - 1,
    2**63,
    2**64 - 1,
]

warnings.simplefilter("ignore")  # NumPy and Pillow warn of what is refused a moment later


Reader = Callable[[bytes], None]


def model_file(suffix: str) -> Callable[[Path], Reader]:
    """What reads bytes as a model file of that suffix in a folder, every tensor too."""
    return lambda folder: _reader(folder / f"net{suffix}")


def _reader(path: Path, wrap: Callable[[bytes], bytes] = bytes) -> Reader:

    def read(data: bytes) -> None:
        path.write_bytes(wrap(data))
        with opened(path, BOUNDS) as file:
            for tensor in file.tensors.values():
                tensor.read()

    return read


def image(data: bytes) -> None:
    from rightfit.data.image import decode, header
    from rightfit.data.resize import ImageSpec

    data = with_checksums(data)
    header(data, "image")
    decode(data, ImageSpec(32, 32, "stretch"), "image")


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what is in them, so that changes get past the first look."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    whole, at = bytearray(data), 8
    while at + 12 <= len(whole):
        length = int.from_bytes(whole[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(whole):
            break
        whole[end : end + 4] = zlib.crc32(whole[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(whole)


def architecture(data: bytes) -> None:
    from rightfit.formats.text import from_json
    from rightfit.saving.checked import checked

    checked(from_json(data, "text", BOUNDS))


# Seeds ----------------------------------------------------------------------------------------------


def keras_config() -> dict[str, Any]:
    def layer(kind: str, **config: Any) -> dict[str, Any]:
        return {"module": "keras.layers", "class_name": kind, "config": config, "registered_name": None}

    layers = [
        layer("InputLayer", batch_shape=[None, 8, 8, 3], name="input"),
        layer("Conv2D", filters=4, kernel_size=[3, 3], padding="same", activation="relu", name="conv"),
        layer("GlobalAveragePooling2D", name="pool"),
        layer("Dense", units=2, activation="softmax", name="dense"),
    ]
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "net", "layers": layers},
        "registered_name": None,
    }


def hdf5(legacy: bool, chunked: bool = False) -> bytes:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        options: dict[str, Any] = (
            {"chunks": (2, 2), "compression": "gzip", "shuffle": True} if chunked else {}
        )
        kernel = np.arange(12, dtype=np.float32).reshape(3, 4)
        if legacy:
            root.attrs["model_config"] = json.dumps(keras_config())
            group = root.create_group("model_weights")
            group.attrs["layer_names"], group.attrs["backend"] = [b"conv"], b"theano"
            conv = group.create_group("conv")
            conv.attrs["weight_names"] = [b"conv/kernel:0"]
            conv.create_dataset("conv/kernel:0", data=kernel, **options)
        else:
            variables = root.create_group("layers/conv/vars")
            root["layers/conv"].attrs["name"] = "conv"
            variables.create_dataset("0", data=kernel, **options)
    return file.getvalue()


def keras_archive(packing: int, **changed: bytes) -> bytes:
    members = {"config": json.dumps(keras_config()).encode(), "weights": hdf5(False)} | changed
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        archive.writestr("config.json", members["config"])
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("model.weights.h5", members["weights"])
    return file.getvalue()


def npz_of(array: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", array)
    return file.getvalue()


# A zip's checksums refuse nearly all that is changed. So an input may also be one member, in an archive made anew.
WRAPPED: dict[bytes, Callable[[bytes], bytes]] = {
    b"C": lambda data: keras_archive(zipfile.ZIP_STORED, config=data),
    b"W": lambda data: keras_archive(zipfile.ZIP_STORED, weights=data),
    b"N": npz_of,
}


def wrapped(data: bytes) -> bytes:
    return WRAPPED[data[:1]](data[1:]) if data[:1] in WRAPPED else data


def safetensors() -> list[bytes]:
    from safetensors.numpy import save

    return [save({"a/kernel": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)}), save({})]


def npz(save: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    save(file, kernel=np.ones((2, 3), np.float32), b=np.arange(3))
    return file.getvalue()


def images() -> list[bytes]:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
    found = []
    for kind, mode in [
        ("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"),
        ("WEBP", "RGB"), ("TIFF", "RGB"), ("TIFF", "F"), ("BMP", "RGB"), ("GIF", "P"),
    ]:  # fmt: skip
        grey = pixels[..., 0]
        picture = {
            "I;16": lambda grey=grey: Image.fromarray(grey.astype(np.uint16) * 257),
            "F": lambda grey=grey: Image.fromarray(grey.astype(np.float32)),
        }.get(mode, lambda mode=mode: Image.fromarray(pixels).convert(mode))()
        file = io.BytesIO()
        picture.save(file, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" and mode == "RGB" else {}))
        found.append(file.getvalue())
    return found


def texts() -> list[bytes]:
    old = {"class_name": "Dense", "config": {"name": "dense_1", "units": 3, "W_regularizer": None}}
    return [
        json.dumps(keras_config()).encode(),
        json.dumps({"keras_version": "1.2.2", "config": [old]}).encode(),
    ]


def yamls() -> list[bytes]:
    old = "class_name: Sequential\nconfig:\n- &a {units: 3, shape: !!python/tuple [null, 150]}\n- *a\nbackend: theano\n"
    return [
        yaml.safe_dump(keras_config()).encode(),
        old.encode(),
        b"a: |\n  x\n? b\n: [0x1f, 1:30, 1.0e-05, .nan, ~]\n",
    ]


def hdf5s() -> list[bytes]:
    return [hdf5(False), hdf5(True), hdf5(True, True)]


def archives() -> list[bytes]:
    parts = [b"C" + json.dumps(keras_config()).encode(), b"W" + hdf5(False)]
    return [keras_archive(zipfile.ZIP_STORED), keras_archive(zipfile.ZIP_DEFLATED), *parts]


def npzs() -> list[bytes]:
    array = io.BytesIO()
    np.save(array, np.ones((2, 3), np.float32))
    return [npz(np.savez), npz(np.savez_compressed), b"N" + array.getvalue()]


Target = tuple[float, Callable[[], list[bytes]], Callable[[Path], Reader]]
# name -> share of the inputs, what makes seeds, what makes a reader for a folder
TARGETS: dict[str, Target] = {
    "safetensors": (0.2, safetensors, model_file(".safetensors")),
    "json": (0.2, texts, model_file(".json")),
    "yaml": (0.13, yamls, model_file(".yaml")),
    "npz": (0.1, npzs, lambda folder: _reader(folder / "net.npz", wrapped)),
    "image": (0.13, images, lambda folder: image),
    "architecture": (0.1, lambda: texts()[:1], lambda folder: architecture),
    "keras": (0.08, archives, lambda folder: _reader(folder / "net.keras", wrapped)),
    "hdf5": (0.06, hdf5s, model_file(".h5")),
}


# Mutation, where atheris is not installed and in the suite ------------------------------------------


def mutated(seeds: list[bytes], generator: np.random.Generator) -> bytes:
    """One of the seeds with up to eight changes: bits, bytes, numbers, cuts, copies, words of another seed."""
    data = bytearray(seeds[generator.integers(len(seeds))])
    for _ in range(1 + generator.integers(8)):
        _change(data, seeds, generator)
    return bytes(data)


def _change(data: bytearray, seeds: list[bytes], generator: np.random.Generator) -> None:
    if not data:
        data.extend(b"\0")
    at = int(generator.integers(len(data)))
    length = int(min(len(data) - at, 1 + generator.geometric(0.1)))
    kind = generator.integers(7)
    if kind == 0:
        data[at] ^= 1 << int(generator.integers(8))
    elif kind == 1:
        data[at] = int(generator.integers(256))
    elif kind == 2:
        width = int(generator.choice([1, 2, 4, 8]))
        value = INTERESTING[generator.integers(len(INTERESTING))] % 256**width
        data[at : at + width] = value.to_bytes(width, "little" if generator.integers(2) else "big")
    elif kind == 3:
        del data[at : at + length]
    elif kind == 4:
        data[at:at] = data[at : at + length] * int(1 + generator.integers(4))
    elif kind == 5:
        other = seeds[generator.integers(len(seeds))]
        start = int(generator.integers(max(1, len(other))))
        data[at : at + length] = other[start : start + length]
    else:
        words = (
            b"[",
            b"]",
            b"{",
            b"}",
            b":",
            b",",
            b'"',
            b"&a ",
            b"*a ",
            b"!!",
            b"9" * 20,
            b"-1",
            b"NaN",
            b"..",
            b"/",
            b"\n",
        )
        data[at:at] = words[generator.integers(len(words))]


def tried(read: Callable[[bytes], None], data: bytes) -> str:
    """ "accepted", "refused", or the finding in words."""
    try:
        read(data)
    except RightfitError:
        return "refused"
    except Exception as error:
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno}" if place else "?"
        return f"{type(error).__name__}: {str(error)[:200]} (in {where})"
    return "accepted"


# The watch ------------------------------------------------------------------------------------------


class Watch:
    """Sees through Python's audit hook what is opened, called and connected outside a file's own folder."""

    def __init__(self, folder: Path) -> None:
        self.seen: list[str] = []
        self.on = False
        homes = [sys.prefix, sys.base_prefix, str(Path(__file__).parents[1] / "src"), str(folder)]
        homes += [place for place in sys.path if "packages" in place]
        self.homes = tuple(os.path.realpath(home) + os.sep for home in homes)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or len(self.seen) > 100:
            return
        if event == "open" and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(args[0]))
            if not path.startswith((*self.homes, "/dev/null", "/proc/")):
                self.seen.append(f"open {path} from {_callers()}")
        elif event == "subprocess.Popen" and not str(args[1][-1]).endswith("hdf5_survey.py"):
            self.seen.append(f"{event} {args[1]} from {_callers()}")
        elif event.startswith(
            ("socket.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.", "urllib.")
        ):
            self.seen.append(f"{event} {str(args)[:200]} from {_callers()}")


def _callers() -> str:
    """The innermost places in Python that led to what the watch saw."""
    frame, found = sys._getframe(2), []
    while frame is not None and len(found) < 40:
        found.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)
