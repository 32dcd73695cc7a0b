"""Bytes of one image file in, one (H, W, 3) uint8 RGB picture of the asked size out, or a short reason why not.

The content decides the format, never the file's name. What cannot be decoded whole is refused, not
filled with grey. Transparency is dropped, as the loaders of torchvision, Keras and TensorFlow drop
it, so that pretrained nets see the pixels they were trained on.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from rightfit.data.grey import eight_bits
from rightfit.data.remote import answering, contents, is_url, opened
from rightfit.data.resize import ImageSpec, Pixels, fit, inside
from rightfit.errors import ImageError, RightfitError

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
MAX_PIXELS = (
    178_956_970  # Pillow's own limit for refusing: 512 MiB as RGB; seven times a 5,000 x 5,000 photograph
)
# A small file that unpacks to many pixels: beyond MANY_PIXELS, so many a byte at most. A photograph has a few.
MANY_PIXELS = 2**24
MOST_PIXELS_A_BYTE = 1_000
MAX_BYTES = 2**31  # more than MAX_PIXELS of 16-bit RGBA


def decode(data: bytes, spec: ImageSpec, path: str) -> Pixels:
    """One image file's bytes -> (spec.height, spec.width, 3) uint8 RGB, upright (EXIF applied), C-contiguous.

    The first frame of an animation or page of a TIFF. 16-bit grey is v * 255 / 65535; float and
    32-bit integer pixels are scaled from their own range to 0..255, NaN and infinities are 0.
    Shrinking averages areas, enlarging is bilinear. Raises ImageError.
    """
    kind = _kind(data[:16])
    try:
        if kind == "JPEG" and (pixels := _jpeg(data, spec, path)) is not None:
            return pixels
        if kind == "PNG" and (pixels := _plain_png(data, path)) is not None:
            return fit(pixels, spec)
        image = _header(io.BytesIO(data), path)
        _check_size(image.height, image.width, path, len(data))
        _check_whole(image, path)
        whole = _rgb(image)
        return _upright(whole, _orientation(image), spec)
    except ImageError:
        raise
    except Exception as error:  # hostile bytes raise anything, and one file must not end a run
        raise ImageError(path, _reason(kind, error)) from error


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels: format, Pillow's mode ("L", "RGB", "CMYK", "I;16", ...),
    bits a channel, and height and width in pixels as displayed."""

    format: str
    mode: str
    bits: int
    height: int
    width: int


def header(data: bytes, path: str) -> Header:
    """The header of one image file's bytes; EXIF is applied. Raises ImageError."""
    try:
        image = _header(io.BytesIO(data), path)
        height, width = (image.height, image.width)
        if _orientation(image) >= 5:
            height, width = width, height
        bits = 16 if data[:4] == b"\x89PNG" and data[24:25] == b"\x10" else BITS.get(image.mode, 8)
        return Header(str(_kind(data[:16])), image.mode, bits, height, width)
    except ImageError:
        raise
    except Exception as error:  # hostile bytes, as in decode
        raise ImageError(path, _reason(None, error)) from error


BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I;16L": 16, "I": 32, "F": 32}  # Pillow's mode -> bits; others 8


def size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """(height, width) in pixels as displayed, from the header alone.

    EXIF is applied as in `decode`, but EXIF that lies behind a PNG's pixels is not looked for. Raises
    ImageError; UsageError for a URL that nothing installed reads.
    """
    path = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
    try:
        with answering(path), io.BytesIO(source) if isinstance(source, bytes) else _open(path) as stream:
            image = _header(stream, path)
            turned = _orientation(image) >= 5
    except RightfitError:
        raise
    except Exception as error:  # hostile bytes, as in decode
        raise ImageError(path, _reason(None, error)) from error
    return (image.width, image.height) if turned else (image.height, image.width)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a local file or an fsspec URL.

    Raises ImageError, whose cause is the OSError, if there was one; UsageError for a URL that nothing
    installed reads.
    """
    path = os.fspath(path)
    try:
        with answering(path), _open(path) as stream:
            data = contents(stream, MAX_BYTES + 1)
        _check_bytes(len(data), path)
    except RightfitError:
        raise
    except Exception as error:  # remote file systems raise their clients' own types
        raise ImageError(path, _reason(None, error)) from error
    if not data:
        raise ImageError(path, "empty file")
    return data


def _open(path: str) -> IO[bytes]:
    if is_url(path):
        remote = opened(path)
        _check_bytes(getattr(remote, "size", None) or 0, path)
        return remote
    file = Path(path)
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise ImageError(path, "not a regular file")
    _check_bytes(status.st_size, path)
    return file.open("rb")


def _check_bytes(count: int, path: str) -> None:
    if count > MAX_BYTES:
        raise ImageError(path, f"{count:,} bytes, more than {MAX_BYTES:,}")


# Formats -----------------------------------------------------------------------------------------

MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<BMP>BM)|(?P<GIF>GIF8[79]a)"
    rb"|(?P<WEBP>RIFF....WEBP)|(?P<TIFF>II[*+]\0|MM\0[*+])",
    re.DOTALL,
)
# Opened by class, not by Image.open, which would warn of large images and try every format it knows.
READERS: dict[str, Callable[[IO[bytes]], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "TIFF": TiffImageFile,
}


def _kind(start: bytes) -> str | None:
    match = MAGIC.match(start)
    return match.lastgroup if match else None


def _header(stream: IO[bytes], path: str) -> ImageFile:
    """The image with its header read and its pixels not."""
    kind = _kind(stream.read(16))
    if kind is None:
        raise ImageError(path, f"not an image: the content is none of {', '.join(FORMATS)}")
    stream.seek(0)
    try:
        image = READERS[kind](stream)
    except Exception as error:  # hostile bytes, as in decode
        raise ImageError(path, _reason(kind, error)) from error
    _check_size(image.height, image.width, path)
    return image


def _check_size(height: int, width: int, path: str, stored: int | None = None) -> None:
    """ImageError for more pixels than are decoded, or than `stored` bytes of a file can hold of any picture."""
    if height * width > MAX_PIXELS:
        raise ImageError(path, f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
    if stored is not None and height * width > max(MANY_PIXELS, MOST_PIXELS_A_BYTE * stored):
        raise ImageError(path, f"{width} x {height} pixels in {stored:,} bytes, which no picture has")


def _check_whole(image: ImageFile, path: str) -> None:
    """Pillow leaves black what no strip of a TIFF covers; ImageError instead."""
    if isinstance(image, TiffImageFile):
        whole = (0, 0, image.width, image.height)
        boxes = [tile[1] or whole for tile in image.tile]
        if (
            sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)
            < image.width * image.height
        ):
            raise ImageError(path, "truncated TIFF")


def _reason(kind: str | None, error: Exception) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and not error.strerror:  # of the web: its text is the URL
        cause = error.__cause__
        text = (
            "no such file"
            if cause is None or isinstance(cause, FileNotFoundError)
            else str(cause) or type(cause).__name__
        )
    if kind is None or isinstance(error, MemoryError):
        return text[:100].lower()
    if isinstance(error, EOFError) or re.search(r"truncated|premature end of", text, re.IGNORECASE):
        return f"truncated {kind}"
    return f"unreadable {kind}: {text[:80]}" if re.search("[a-z]{3}", text) else f"unreadable {kind}"


# JPEG: libjpeg-turbo, scaled while decoding --------------------------------------------------------


def _jpeg(data: bytes, spec: ImageSpec, path: str) -> Pixels | None:
    """The finished picture, or None for what libjpeg-turbo's RGB decoder does not take (CMYK, odd headers)."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except ValueError:
        return None
    if space not in ("YCbCr", "RGB", "Gray"):
        return None
    _check_size(height, width, path, len(data))
    orientation = _orientation(_header(io.BytesIO(data), path))
    rows, columns = _decoded_at_least(height, width, _as_stored(spec, orientation))
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=rows, min_width=columns)
    except ValueError as error:
        if not _harmless(str(error)):
            raise ImageError(path, _jpeg_damage(data, height, str(error))) from error
        pixels = simplejpeg.decode_jpeg(data, min_height=rows, min_width=columns, strict=False)
    return _upright(pixels, orientation, spec)


def _decoded_at_least(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    return inside(height, width, spec) if spec.resize == "pad" else (spec.height, spec.width)


def _harmless(warning: str) -> bool:
    """Some phones leave a few bytes after the last row; some encoders write wrong but unused scan parameters."""
    extra = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    return bool(extra and int(extra[1]) <= 8) or "Invalid SOS parameters" in warning


def _jpeg_damage(data: bytes, height: int, warning: str) -> str:
    if not warning.lower().startswith("premature end"):
        return f"damaged JPEG: {warning[:80]}"
    grey = simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=False)[..., 0]
    decoded = np.flatnonzero((grey != 128).any(axis=1))  # libjpeg fills what is missing with 128
    rows = int(decoded[-1]) + 1 if len(decoded) else 0
    return f"truncated JPEG, decoded {rows} of {height} rows" if rows < height else "truncated JPEG"


# PNG: OpenCV for the plain ones, a quarter of Pillow's time at 28 px --------------------------------

PLAIN_CHUNKS = {
    b"IHDR",
    b"PLTE",
    b"tRNS",
    b"IDAT",
    b"IEND",
    b"gAMA",
    b"cHRM",
    b"sRGB",
    b"pHYs",
    b"bKGD",
    b"tIME",
    b"tEXt",
}


def _plain_png(data: bytes, path: str) -> Pixels | None:
    """(H, W, 3) of a whole PNG of at most 8 bits that carries no EXIF and no profile, else None."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, depth = struct.unpack_from(">IIB", data, 16)
    _check_size(height, width, path, len(data))
    chunks = _png_chunks(data)
    if depth > 8 or not chunks <= PLAIN_CHUNKS or b"IEND" not in chunks or b"Raw profile" in data:
        return None
    decoded = cv2.imdecode(
        np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
    return None if decoded is None else np.asarray(decoded, np.uint8)


def _png_chunks(data: bytes) -> set[bytes]:
    """The names of the chunks that lie wholly within `data`."""
    found, at = set(), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        found.add(data[at + 4 : at + 8])
        at += 12 + length
    return found


# Everything else: Pillow ----------------------------------------------------------------------------


def _rgb(image: ImageFile) -> Pixels:
    """(H, W, 3) of any mode Pillow reads."""
    image.load()
    if image.mode.startswith(("I", "F")):
        return np.repeat(eight_bits(image)[..., None], 3, axis=2)
    image.info.pop("transparency", None)  # convert() would warn
    return np.asarray(image.convert("RGB"))


# Upright --------------------------------------------------------------------------------------------


def _orientation(image: ImageFile) -> int:
    """EXIF orientation 1..8; 1 for a TIFF, which Pillow turns by itself."""
    if isinstance(image, TiffImageFile):
        return 1
    try:
        # PngImageFile.getexif would decode the picture to look for EXIF behind it; a loaded one has it.
        found = Image.Image.getexif(image).get(0x0112, 1)
    except Exception:  # damaged metadata do not spoil the pixels
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _as_stored(spec: ImageSpec, orientation: int) -> ImageSpec:
    return ImageSpec(spec.width, spec.height, spec.resize) if orientation >= 5 else spec


def _upright(pixels: Pixels, orientation: int, spec: ImageSpec) -> Pixels:
    """Resized as stored, then turned: turning the small picture costs less."""
    stored = _as_stored(spec, orientation)
    return np.ascontiguousarray(TURN[orientation](fit(pixels, stored)))


TURN: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}
