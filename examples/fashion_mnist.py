"""Fashion-MNIST as class folders: 60,000 + 10,000 grey 28x28 PNG files of ten kinds of clothes.

    python examples/fashion_mnist.py fashion    ->  fashion/{train,test}/{t-shirt,trouser,...}/00000.png ...

Reads the four gzipped IDX files that Debian's package `dataset-fashion-mnist` installs, or those in the folder
given with --from (Xiao et al. 2017, MIT licence). The number in a file's name is the image's place in the set.
"""

import argparse
import gzip
import struct
import sys
from pathlib import Path

import cv2
import numpy as np

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# In the order of the data set's README.
CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle-boot",
)
SPLITS = {"train": "train", "test": "t10k"}


def write_split(images: np.ndarray, labels: np.ndarray, target: Path) -> None:
    """images (N, 28, 28) uint8 and labels (N,) -> target/CLASS/00000.png; each file holds its pixels exactly."""
    for name in CLASSES:
        (target / name).mkdir(parents=True, exist_ok=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = target / CLASSES[label] / f"{i:05}.png"
        if not cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            sys.exit(f"fashion_mnist.py: {path} could not be written; is the disk full?")
        if (i + 1) % 5000 == 0 or i + 1 == len(images):
            print(f"\r{target}: {i + 1:,} of {len(images):,}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of bytes -> uint8 array of the shape its header says."""
    content = gzip.decompress(path.read_bytes())
    zeros, kind, dimensions = struct.unpack_from(">HBB", content)
    if (zeros, kind) != (0, 8):
        sys.exit(f"fashion_mnist.py: {path} is no IDX file of bytes")
    shape = struct.unpack_from(f">{dimensions}I", content, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write Fashion-MNIST as class folders of PNG files.")
    parser.add_argument("target", type=Path, help="folder to make, such as fashion")
    parser.add_argument("--from", dest="source", type=Path, default=DEBIAN, help=f"default {DEBIAN}")
    arguments = parser.parse_args()
    files = {
        split: [arguments.source / f"{prefix}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1")]
        for split, prefix in SPLITS.items()
    }
    missing = [str(path) for pair in files.values() for path in pair if not path.is_file()]
    if missing:
        sys.exit(
            f"fashion_mnist.py: not found: {', '.join(missing)}\n"
            "On Debian or Ubuntu: apt install dataset-fashion-mnist; elsewhere name the folder with --from."
        )
    for split, (images, labels) in files.items():
        write_split(read_idx(images), read_idx(labels), arguments.target / split)


if __name__ == "__main__":
    main()
