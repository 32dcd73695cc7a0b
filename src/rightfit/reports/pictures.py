"""Images in, data URIs of small JPEGs out: made anew from pixels, so that nothing of a file's EXIF is in them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
from numpy.typing import NDArray

from rightfit.data.audit.findings import path_of
from rightfit.data.image import decode, read_bytes
from rightfit.data.resize import ImageSpec
from rightfit.errors import RightfitError

SIDE = 112  # pixels of a thumbnail


def thumbnail(path: str) -> str:
    """The data URI of a file's thumbnail, or "" for what cannot be decoded."""
    try:
        return data_uri(decode(read_bytes(path), ImageSpec(SIDE, SIDE, "pad"), path))
    except RightfitError:
        return ""


def sets_of(
    root: str, files: Sequence[Sequence[str]], sets: int, together: int
) -> list[list[dict[str, str]]]:
    """The first images of the first sets of an audit's finding: each its name and its thumbnail, `source`."""
    return [
        [{"name": name, "source": thumbnail(path_of(root, name))} for name in names[:together]]
        for names in files[:sets]
    ]


def data_uri(pixels: NDArray[Any], longest: int | None = None) -> str:
    """(H, W, 3) uint8, shrunk so that no side is longer than `longest`."""
    height, width = pixels.shape[:2]
    if longest is not None and max(height, width) > longest:
        scale = longest / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}" if done else ""
