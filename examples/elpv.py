"""Solar cells as a class folder: 2,624 electroluminescence photographs, functional or defective.

    python examples/elpv.py build/elpv      ->  build/elpv/{functional,defective}/cell0001.png ...

Comes from the package `elpv-dataset` (Deitsch et al. 2019, CC BY-NC-SA 4.0; `pip install 'rightfit[demo]'`).
Its labels are the probability of a defect, 0, 1/3, 2/3 or 1; above 1/2 is called defective here. Run it again
and it only adds what is missing.
"""

import argparse
import shutil
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path


def make_class_folder(source: Path, target: Path) -> Counter[str]:
    """`source` holds labels.csv and images/; returns how many images each class folder of `target` has."""
    counts: Counter[str] = Counter()
    for name, defect_probability in read_labels(source / "labels.csv"):
        label = "defective" if defect_probability > 0.5 else "functional"
        put(source / name, target / label / Path(name).name)
        counts[label] += 1
    return counts


def read_labels(path: Path) -> list[tuple[str, float]]:
    """Lines of `images/cell0001.png  1.0  mono` -> (image, probability of a defect)."""
    rows = (line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return [(image, float(probability)) for image, probability, _cell_type in rows]


def put(source: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy renamed into place; whole files stay."""
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".part")
    beside.unlink(missing_ok=True)
    try:
        beside.hardlink_to(source)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, beside)
    beside.replace(target)


def find_images() -> Path:
    """The data folder inside the installed package; the package's own code is not run."""
    spec = find_spec("elpv_dataset")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("elpv.py: the package elpv-dataset is not installed; pip install elpv-dataset")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a class folder of ELPV's solar cells.")
    parser.add_argument("target", type=Path, help="folder to make, such as build/elpv")
    target = parser.parse_args().target
    counts = make_class_folder(find_images(), target)
    print(f"{target}: " + ", ".join(f"{n:,} {label}" for label, n in sorted(counts.items())))


if __name__ == "__main__":
    main()
