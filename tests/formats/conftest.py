"""The files that the tests of model files share, each made by code."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for hostile_files and the like, which stand beside the tests


@pytest.fixture(scope="session")
def valid(tmp_path_factory):
    """kind -> a small file of it."""
    from valid_files import make

    return make(tmp_path_factory.mktemp("valid"))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """name -> (path, what is said of it), of every hostile file; each has a folder of its own."""
    from hostile_files import HOSTILE

    files = {}
    for name, (maker, said) in HOSTILE.items():
        folder = tmp_path_factory.mktemp("hostile") / name
        folder.mkdir()
        files[name] = (maker(folder), said)
    return files
