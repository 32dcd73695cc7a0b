"""Files that no honest program writes, each with what `formats.opened` says of it: bombs, links, lies and tags."""

import json
import os
import stat
import struct
import warnings
import zipfile
import zlib

import h5py
import numpy as np
from valid_files import (
    BIAS,
    CONFIG,
    KERNEL,
    keras_archive,
    keras_weights,
    legacy,
    npz,
    safetensors,
    saved_model,
    text,
)

HOSTILE = {}  # name -> (maker of a folder's file, what is said of it)


def hostile(said):
    def kept(maker):
        HOSTILE[maker.__name__] = (maker, said)
        return maker

    return kept


# Archives -------------------------------------------------------------------------------------------


@hostile("bytes unpacked out of")
def zip_bomb(folder):
    return keras_archive(folder / "bomb.keras", " " * (80 * 2**20), compression=zipfile.ZIP_DEFLATED)


@hostile("config.json is damaged|config.json unpacks to other than the 1,000 bytes")
def zip_bomb_that_declares_little(folder):
    """By its checksum too it is what it declares: the rest is cut off once it is unpacked."""
    path = keras_archive(folder / "bomb.keras", " " * 2**28, compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for start in (0, data.find(b"PK\x01\x02") + 2):
        struct.pack_into("<I", data, start + 14, zlib.crc32(b" " * 1_000))
        struct.pack_into("<I", data, start + 22, 1_000)
    path.write_bytes(data)
    return path


@hostile("has no place in a .keras file")
def zip_in_a_zip(folder):
    inner = keras_archive(folder / "inner.keras").read_bytes()
    return keras_archive(folder / "outer.keras", more=[("assets.zip", inner)])


@hostile("damaged")
def zip_for_weights(folder):
    inner = keras_archive(folder / "inner.keras").read_bytes()
    return keras_archive(folder / "outer.keras", weights=inner)


@hostile("overlap")
def zip_of_overlapping_members(folder):
    path = folder / "overlap.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", " " * 100_000)
        first = archive.filelist[0]
        for number in range(50):
            again = zipfile.ZipInfo(f"assets/{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(again, name, getattr(first, name))
            archive.filelist.append(again)
    return path


@hostile("members")
def zip_with_a_huge_directory(folder):
    path = keras_archive(folder / "directory.keras")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.rfind(b"PK\x05\x06") + 12, 2**31)
    path.write_bytes(data)
    return path


@hostile(": more than 50,000 members")
def zip_with_a_hidden_directory(folder):
    """Its length stands in the record for archives beyond 4 GB, which seems to begin within that record's locator."""
    path = folder / "hidden.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "")
    data = path.read_bytes()
    at = data.find(b"PK\x01\x02")
    start, lines = data[:at], data[at : at + 47] * 300_000
    counts = struct.pack("<QQQQ", 300_000, 300_000, len(lines), len(start))
    record = b"PK\x06\x06" + struct.pack("<QHHII", 44, 45, 45, 0, 0) + counts
    locator = b"PK\x06\x07" + bytes(4) + b"PK\x06\x06" + bytes(4) + struct.pack("<I", 1)
    path.write_bytes(start + lines + record + locator + b"PK\x05\x06" + bytes(18))
    return path


@hostile("is refused; the file is not to be trusted")
def zip_that_climbs(folder):
    return keras_archive(folder / "climbs.keras", more=[("assets/../../x", "")])


@hostile("is refused; the file is not to be trusted")
def zip_that_is_absolute(folder):
    return keras_archive(folder / "absolute.keras", more=[("/tmp/x", "")])


@hostile("leads elsewhere")
def zip_with_a_drive(folder):
    return keras_archive(folder / "drive.keras", more=[("C:x", "")])


@hostile("leads elsewhere")
def zip_with_a_link(folder):
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    return keras_archive(folder / "link.keras", more=[(link, "/etc/passwd")])


@hostile("twice")
def zip_with_a_member_twice(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return keras_archive(folder / "twice.keras", more=[("config.json", "{}")])


@hostile("packed in an unusual way")
def zip_packed_by_bzip2(folder):
    return keras_archive(folder / "bzip2.keras", compression=zipfile.ZIP_BZIP2)


@hostile("damaged")
def zip_with_a_wrong_checksum(folder):
    path = keras_archive(folder / "checksum.keras")
    data = path.read_bytes()
    path.write_bytes(data.replace(KERNEL.tobytes(), KERNEL[..., ::-1].tobytes()))
    return path


@hostile("of no|none of a known kind")
def zip_of_something_else(folder):
    path = folder / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    return path


# HDF5 -----------------------------------------------------------------------------------------------


def h5(folder, change, name="bad.weights.h5"):
    path = keras_weights(folder / name)
    with h5py.File(path, "a") as file:
        change(file)
    return path


@hostile("declares the shape")
def hdf5_that_stores_nothing(folder):
    return h5(folder, lambda file: file.create_dataset("layers/a/vars/0", (2**24,), "f4"))


@hostile("declares the shape")
def hdf5_that_lacks_its_chunks(folder):
    return h5(
        folder, lambda file: file.create_dataset("layers/a/vars/0", (2**20, 16), "f4", chunks=(2**10, 16))
    )


@hostile("a tensor$|more than .* a tensor")
def hdf5_of_petabytes(folder):
    return h5(
        folder, lambda file: file.create_dataset("layers/a/vars/0", (10**6,) * 3, "f4", chunks=(1, 1, 10**6))
    )


@hostile("and store")
def hdf5_of_zeros(folder):
    return h5(
        folder,
        lambda file: file.create_dataset(
            "layers/a/vars/0", data=np.zeros(20 * 2**20, "f4"), chunks=(2**20,), compression="gzip"
        ),
    )


@hostile("is a link elsewhere")
def hdf5_external_link(folder):
    keras_weights(folder / "secret.h5")
    return h5(
        folder, lambda file: file.__setitem__("layers/a", h5py.ExternalLink("secret.h5", "/layers/conv"))
    )


@hostile("is a link elsewhere")
def hdf5_soft_link(folder):
    return h5(folder, lambda file: file.__setitem__("layers/a", h5py.SoftLink("/layers/conv")))


@hostile("occurs twice")
def hdf5_circle(folder):
    return h5(folder, lambda file: file.__setitem__("layers/a", file["layers"]))


@hostile("keeps its numbers elsewhere")
def hdf5_external_dataset(folder):
    external = [("/etc/hostname", 0, 64)]
    return h5(folder, lambda file: file.create_dataset("layers/a/vars/0", (16,), "f4", external=external))


@hostile("keeps its numbers elsewhere")
def hdf5_virtual_dataset(folder):
    secret = keras_weights(folder / "secret.h5")
    layout = h5py.VirtualLayout((2,), "f4")
    layout[...] = h5py.VirtualSource(str(secret), "layers/conv/vars/1", (2,))
    return h5(folder, lambda file: file.create_virtual_dataset("layers/a/vars/0", layout))


@hostile("only gzip and shuffle")
def hdf5_other_filter(folder):
    return h5(
        folder, lambda file: file.create_dataset("layers/a/vars/0", data=np.ones(64), compression="lzf")
    )


@hostile("holds no numbers but")
def hdf5_references(folder):
    return h5(folder, lambda file: file.create_dataset("a", data=file["layers"].ref, dtype=h5py.ref_dtype))


@hostile("holds no numbers but")
def hdf5_records(folder):
    return h5(folder, lambda file: file.create_dataset("a", data=np.zeros(2, [("x", "f4"), ("y", "i8")])))


@hostile("holds no numbers but")
def hdf5_ragged(folder):
    return h5(folder, lambda file: file.create_dataset("a", (2,), h5py.vlen_dtype(np.float32)))


@hostile("holds no numbers but text")
def hdf5_text(folder):
    return h5(folder, lambda file: file.create_dataset("a", data="text"))


@hostile("neither a group nor a tensor")
def hdf5_named_type(folder):
    return h5(folder, lambda file: file.__setitem__("a", np.dtype("f8")))


@hostile("nested more than")
def hdf5_deep(folder):
    return h5(folder, lambda file: file.create_group("/".join("a" * 150)))


@hostile("is a link elsewhere|is refused")
def hdf5_climbing_name(folder):
    return h5(folder, lambda file: file.__setitem__("layers/../../x/vars/0", np.ones(2, np.float32)))


@hostile("is refused")
def hdf5_climbing_name_of_windows(folder):
    return h5(folder, lambda file: file.__setitem__("layers/..\\..\\x/vars/0", np.ones(2, np.float32)))


@hostile("not the content of")
def hdf5_behind_a_block(folder):
    path = folder / "block.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["a"] = np.ones(2)
    return path


@hostile("more than .* characters")
def hdf5_long_name(folder):
    return h5(folder, lambda file: file.create_group("a" * 5_000))


@hostile("no JSON")
def hdf5_with_a_broken_configuration(folder):
    return legacy(folder / "config.h5", "{")


@hostile("is named and not there")
def hdf5_without_a_layer(folder):
    path = legacy(folder / "layer.h5", CONFIG)
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = [b"conv", b"gone"]
    return path


@hostile("the layer conv is named twice")
def hdf5_with_a_layer_twice(folder):
    path = legacy(folder / "layer.h5", CONFIG)
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = [b"conv", b"conv"]
    return path


def numbered(folder, *counts):
    """Weights as Keras numbered them before its first version, of layers that declare so many."""
    path = folder / "numbered.h5"
    with h5py.File(path, "w") as file:
        file.attrs["nb_layers"] = len(counts)
        for number, count in enumerate(counts):
            file.create_group(f"layer_{number}").attrs["nb_params"] = count
        file["layer_0/param_0"] = BIAS
    return path


@hostile("declare 2,000,000 weights where 1 are stored")
def hdf5_of_countless_weights(folder):
    return numbered(folder, 2_000_000)


@hostile("declare 2 weights where 1 are stored")
def hdf5_of_more_weights_in_all(folder):
    return numbered(folder, 1, 1)


@hostile("nb_params is 'x', no count")
def hdf5_with_a_text_for_a_count(folder):
    return numbered(folder, "x")


@hostile("nb_params is '.1, 2.', no count")
def hdf5_with_a_list_for_a_count(folder):
    return numbered(folder, [1, 2])


@hostile("no list of names")
def hdf5_with_numbers_for_names(folder):
    path = legacy(folder / "layer.h5", CONFIG)
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = np.arange(3)
    return path


# safetensors ----------------------------------------------------------------------------------------


def tensors(folder, header, data=bytes(8), length=None):
    text_ = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(text_) if length is None else length) + text_ + data)
    return path


def tensor(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@hostile("not the content of")
def safetensors_with_a_huge_header(folder):
    return tensors(folder, {"a": tensor()}, length=2**60)


@hostile("a header of")
def safetensors_with_an_oversize_header(folder):
    return tensors(folder, b'{"a":' + b" " * (65 * 2**20) + b"1}")


@hostile("overlaps another")
def safetensors_that_overlap(folder):
    return tensors(folder, {"a": tensor(), "b": tensor()})


@hostile("leaves a gap")
def safetensors_with_a_gap(folder):
    return tensors(folder, {"a": tensor(4, 8, (1,))})


@hostile("not whole")
def safetensors_beyond_the_end(folder):
    return tensors(folder, {"a": tensor(0, 4 * 2**20, (2**20,))})


@hostile("and stores 8")
def safetensors_that_lie(folder):
    return tensors(folder, {"a": tensor(shape=(2**20,))})


@hostile("more than .* a tensor")
def safetensors_of_petabytes(folder):
    return tensors(folder, {"a": tensor(shape=(2**40, 2**40))})


@hostile("entry of 'a' is wrong")
def safetensors_of_no_count(folder):
    return tensors(folder, {"a": tensor(shape=(-2,))})


@hostile("entry of 'a' is wrong")
def safetensors_of_objects(folder):
    return tensors(folder, {"a": tensor(dtype="PYOBJ")})


@hostile("is there twice")
def safetensors_named_twice(folder):
    one = json.dumps(tensor())
    return tensors(folder, f'{{"a":{one},"a":{one}}}'.encode())


@hostile("nested more than")
def safetensors_with_a_deep_header(folder):
    return tensors(folder, b'{"a":' + b"[" * 90_000 + b"]" * 90_000 + b"}")


@hostile("not whole")
def safetensors_with_a_tail(folder):
    path = safetensors(folder / "tail.safetensors")
    path.write_bytes(path.read_bytes() + b"#!/bin/sh")
    return path


# JSON and YAML --------------------------------------------------------------------------------------


@hostile("nested more than")
def json_deep(folder):
    return text(folder / "deep.json", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}")


@hostile("nested more than")
def json_rather_deep(folder):
    return text(folder / "deep.json", '{"a":' + "[" * 500 + "]" * 500 + "}")


@hostile("more than .* values")
def json_of_many_values(folder):
    return text(folder / "many.json", '{"a":[' + "0," * 4_100_000 + "0]}")


@hostile("is there twice")
def json_with_a_key_twice(folder):
    return text(folder / "twice.json", '{"class_name": "Sequential", "class_name": "Lambda"}')


@hostile("no JSON|beyond 64 bits")
def json_with_a_huge_number(folder):
    return text(folder / "huge.json", '{"a": ' + "9" * 100_000 + "}")


@hostile("beyond 64 bits")
def json_with_a_large_number(folder):
    return text(folder / "large.json", '{"a": 100000000000000000000}')


@hostile("lone surrogate")
def json_with_a_surrogate(folder):
    return text(folder / "surrogate.json", '{"a": "\\ud800"}')


@hostile("no text in UTF-8")
def json_in_no_utf_8(folder):
    path = folder / "latin.json"
    path.write_bytes(b'{"a": "\xe9"}')
    return path


@hostile("more than .* (bytes|64)|a text of")
def json_too_long(folder):
    return text(folder / "long.json", '{"a": "' + "a" * (64 * 2**20) + '"}')


@hostile("asks for the tag .*python/object/apply:os.system")
def yaml_apply(folder):
    return text(folder / "apply.yaml", f"!!python/object/apply:os.system ['touch {folder / 'MARK'}']\n")


@hostile("asks for the tag .*python/object/new")
def yaml_new(folder):
    return text(
        folder / "new.yaml",
        f"a: !!python/object/new:type [z, !!python/tuple [], {{extend: !!python/name:exec }}]\nmark: {folder}\n",
    )


@hostile("asks for the tag .*python/name")
def yaml_name(folder):
    return text(folder / "name.yaml", "class_name: !!python/name:os.system\n")


@hostile("asks for the tag .*python/module")
def yaml_module(folder):
    return text(folder / "module.yaml", "a: !!python/module:this\n")


@hostile("asks for the tag '!custom'")
def yaml_custom_tag(folder):
    return text(folder / "custom.yaml", "a: !custom {b: 1}\n")


@hostile("asks for the tag .*binary")
def yaml_binary(folder):
    return text(folder / "binary.yaml", "a: !!binary aGVsbG8=\n")


@hostile("more than .* values")
def yaml_alias_bomb(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return text(folder / "bomb.yaml", "\n".join(lines))


@hostile("stands for nothing, or holds itself")
def yaml_circle(folder):
    return text(folder / "circle.yaml", "a: &a [*a]\n")


@hostile("is there twice")
def yaml_with_a_key_twice(folder):
    return text(folder / "twice.yaml", "class_name: Sequential\nclass_name: Lambda\n")


@hostile("merges mappings")
def yaml_merge(folder):
    return text(folder / "merge.yaml", "a: &a {b: 1}\nc: {<<: *a}\n")


@hostile("a list or mapping as a key")
def yaml_list_as_key(folder):
    return text(folder / "key.yaml", "? [a, b]\n: 1\n")


@hostile("more than one YAML document")
def yaml_documents(folder):
    return text(folder / "documents.yaml", "a: 1\n---\nb: 2\n")


@hostile("nested more than")
def yaml_deep(folder):
    return text(folder / "deep.yaml", "a: " + "[" * 5_000 + "]" * 5_000)


@hostile("a text of .* bytes")
def yaml_too_long(folder):
    return text(folder / "long.yaml", "a: '" + "a" * (8 * 2**20) + "'")


@hostile("no YAML|nested more than|is no int|beyond 64 bits")
def yaml_of_sixties(folder):
    return text(folder / "sixties.yaml", "a: " + ":".join(["1" * 5] * 10) + "\nb: 0x" + "f" * 30 + "\n")


# NumPy, PyTorch, TensorFlow, others -----------------------------------------------------------------


@hostile("is pickled, and unpickling can run code")
def npz_pickled(folder):
    path = folder / "pickled.npz"
    np.savez(path, a=np.array([Evil(folder)], object))
    return path


class Evil:
    """Its pickle makes a file MARK when it is opened."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder / 'MARK'}",)


@hostile("declares .* and does not store them|more than .* a tensor")
def npz_that_lies(folder):
    path = npz(folder / "lies.npz")
    with zipfile.ZipFile(path, "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }"
        header = header + b" " * (117 - len(header)) + b"\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    return path


@hostile("is no array")
def npz_of_no_arrays(folder):
    path = folder / "none.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b"(" * 60_000)
    return path


@hostile("is a link, or no file")
def saved_model_with_a_link(folder):
    path = saved_model(folder / "saved")
    (path / "variables" / "variables.data-00000-of-00001").symlink_to("/etc/passwd")
    return path


@hostile("saved_model.pb is damaged")
def saved_model_cut_off(folder):
    path = saved_model(folder / "saved")
    (path / "saved_model.pb").write_bytes((path / "saved_model.pb").read_bytes()[:-3])
    return path


@hostile("a damaged pickle")
def pickle_cut_off(folder):
    path = folder / "cut.pth"
    path.write_bytes(b"\x80\x02cos\nsystem\nq\x00X\x10")
    return path


@hostile("is empty")
def empty(folder):
    return text(folder / "empty.keras", "")


@hostile("not the content of a .keras file")
def program(folder):
    path = folder / "program.keras"
    path.write_bytes(b"\x7fELF" + bytes(200))
    return path


@hostile("a web page")
def web_page(folder):
    return text(folder / "page.h5", "<!DOCTYPE html><title>Sign in</title>")


@hostile("not a regular file")
def pipe(folder):
    os.mkfifo(folder / "pipe.keras")
    return folder / "pipe.keras"
