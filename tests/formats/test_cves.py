"""The published attacks on Keras' model files, one file each: refused by name, nothing run, nothing touched."""

import base64
import marshal
import re
from pathlib import Path

import pytest
from cve_files import CVES, code
from watching import watched

import rightfit
from rightfit.errors import ModelFileError

PAGE = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made = {}
    for number, (maker, _) in CVES.items():
        folder = tmp_path_factory.mktemp("cve")
        made[number] = maker(folder)
    return made


@pytest.mark.parametrize("number", CVES)
def test_inspect_says_what_the_file_would_do(files, number):
    try:
        facts = rightfit.inspect(files[number])
        said = facts["refused"]
        assert not facts["loads"]
    except ModelFileError as error:
        said = str(error)
    assert re.search(CVES[number][1], said)
    assert not (files[number].parent / "MARK").exists()


def test_nothing_loads_them_and_nothing_is_touched(files, tmp_path_factory):
    found = watched(files.values(), tmp_path_factory.getbasetemp(), "inspect", "build", "load", "read")
    assert found["seen"] == []
    for way in ("build", "load"):
        assert [path for path, ways in found["outcomes"].items() if ways[way] != "refused"] == []
    assert {ways["inspect"] for ways in found["outcomes"].values()} == {"refused"}
    # As weights alone a file may be honest: numbers are read, its configuration is not obeyed.
    assert {ways["read"] for ways in found["outcomes"].values()} <= {"refused", "passed"}
    assert [path for path in files.values() if (path.parent / "MARK").exists()] == []


def test_the_trap_in_these_files_works(tmp_path):
    assert not (tmp_path / "MARK").exists()
    eval(marshal.loads(base64.b64decode(code(tmp_path)))).close()
    assert (tmp_path / "MARK").exists()


def test_the_page_lists_each_with_the_file_that_stands_for_it():
    listed = dict(
        re.findall(r"^\| (CVE-\d+-\d+|GHSA-[\w-]+) .*`(\w+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)
    )
    made = {number: maker.__name__ for number, (maker, _) in CVES.items() if number != "HDF5 links"}
    assert listed == made
