"""The house's laws: who may import whom, what the doors may load, and that what is public is documented."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

# Lowest first. A file imports only from floors below its own, or from its own folder.
# The design's floor 0 and floor 8 are steps here: errors and files lie under config and runtime, which do not know
# each other, and precision above them; cli may read the package's version.
FLOORS = (
    {"errors"},
    {"formats"},
    {"files", "records"},
    {"config", "runtime", "console", "memory"},
    {"precision", "cluster"},
    {"team"},
    {"data"},
    {"nets"},
    {"evaluation"},
    {"saving"},
    {"training"},
    {"fastest"},
    {"reports", "export", "serve", "tuning", "machine", "keras2", "provenance", "labelling"},
    {"run"},
    {"reporting"},
    {"learning"},
    {
        "asking",
        "fitting",
        "predicting",
        "comparing",
        "explaining",
        "suspecting",
        "diagnosing",
        "inspecting",
        "relocating",
        "exchange",
    },
    {"resuming"},
    {"working"},
    {"beginning"},
    {"aside"},
    {"trials", "more_images"},
    {"places"},
    {"study"},
    {"searching"},
    {"continuing"},
    {"api"},
    {"__init__"},
    {"flags"},
    {"cli"},
    {"__main__"},
)
HEIGHT = {unit: height for height, floor in enumerate(FLOORS) for unit in floor}
DRAWERS = {"utils", "helpers", "common"}
SLOW = {"keras", "tensorflow", "torch", "numpy", "jax", "pandas", "pyarrow", "scipy", "sklearn", "ray"}


def broken_floors(source: Path) -> list[str]:
    """Every import under source/rightfit that goes up or sideways, as `file:line: what`."""
    found = []
    for path in sorted((source / "rightfit").rglob("*.py")):
        place = path.relative_to(source)
        unit = unit_of(place)
        if unit not in HEIGHT:
            found.append(f"{place}:1: {unit} is on no floor")
            continue
        for line, target in sorted(set(imports(path, source))):
            if target not in HEIGHT:
                found.append(f"{place}:{line}: imports {target}, which is on no floor")
            elif target != unit and HEIGHT[target] >= HEIGHT[unit]:
                found.append(f"{place}:{line}: {unit} imports {target}")
    return found


def unit_of(place: Path) -> str:
    """rightfit/data/table.py -> data; rightfit/api.py -> api."""
    return place.parts[1].removesuffix(".py")


def imports(path: Path, source: Path) -> list[tuple[int, str]]:
    """(line, unit) of each import of rightfit in the file, wherever it stands, by name, relative or by string."""
    package = path.relative_to(source).parent.parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[tuple[str, ...]] = []
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = absolute("." * node.level + (node.module or ""), package)
            names = [(*module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and called(node) in {"import_module", "__import__"}:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names = [absolute(first.value, package)]
        found += [(node.lineno, unit_named(name, source)) for name in names if name[0] == "rightfit"]
    return found


def absolute(name: str, package: tuple[str, ...]) -> tuple[str, ...]:
    """`..data.table` seen from (rightfit, nets) -> (rightfit, data, table)."""
    level = len(name) - len(name.lstrip("."))
    above = package[: len(package) - level + 1] if level else ()
    return above + tuple(part for part in name.lstrip(".").split(".") if part)


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def unit_named(name: tuple[str, ...], source: Path) -> str:
    """(rightfit, data, ...) -> data; (rightfit, __version__) and (rightfit,) -> the package's own __init__."""
    if len(name) > 1:
        is_module = (source / "rightfit" / name[1]).is_dir() or (source / f"rightfit/{name[1]}.py").is_file()
        if is_module or name[1] in HEIGHT or len(name) > 2:
            return name[1]
    return "__init__"


def test_every_file_imports_only_from_floors_below_its_own():
    assert len(list((SOURCE / "rightfit").rglob("*.py"))) > 1
    found = broken_floors(SOURCE)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("place", "code", "broken"),
    [
        ("data/table.py", "from rightfit.errors import DataError\nfrom . import split", None),
        ("data/table.py", "import numpy\nfrom rightfit.data.split import plan", None),
        ("api.py", "def report():\n    from rightfit.reports import html", None),
        ("cli.py", "from rightfit import __version__, api", None),
        ("training/loop.py", "from ..saving import bundle", None),
        ("data/table.py", "import rightfit.nets.resnet", "data imports nets"),
        ("data/table.py", "from rightfit import api", "data imports api"),
        ("data/table.py", "from rightfit import __version__", "data imports __init__"),
        ("data/table.py", "from rightfit import *", "data imports __init__"),
        ("data/table.py", "def late():\n    from ..training.loop import fit", "data imports training"),
        ("data/table.py", "from .. import cli", "data imports cli"),
        ("data/deep/table.py", "from ...nets import resnet", "data imports nets"),
        ("reports/html.py", "from rightfit.serve import page", "reports imports serve"),
        (
            "export/onnx.py",
            "import importlib\nimportlib.import_module('rightfit.tuning')",
            "export imports tuning",
        ),
        ("saving/bundle.py", "__import__('rightfit.api')", "saving imports api"),
        ("config.py", "from rightfit.runtime import threads", "config imports runtime"),
        ("errors.py", "from rightfit.config import Settings", "errors imports config"),
        ("api.py", "from rightfit.cli import main", "api imports cli"),
        (
            "nets/resnet.py",
            "from rightfit.drawer.things import stuff",
            "imports drawer, which is on no floor",
        ),
        ("drawer.py", "", "drawer is on no floor"),
    ],
)
def test_the_floor_checker_sees_a_planted_import(tmp_path, place, code, broken):
    file = tmp_path / "rightfit" / place
    file.parent.mkdir(parents=True)
    file.write_text(code, encoding="utf-8")
    found = broken_floors(tmp_path)
    if broken is None:
        assert found == []
    else:
        (line,) = found
        assert line.startswith(f"{Path('rightfit', place)}:") and line.endswith(broken)


def test_the_house_has_no_drawers():
    names = {path for path in (SOURCE / "rightfit").rglob("*") if path.name.removesuffix(".py") in DRAWERS}
    assert names == set()


@pytest.mark.parametrize(
    ("door", "code"),
    [
        ("import rightfit", "import rightfit"),
        ("rightfit --help", "sys.argv = ['rightfit', '--help']; from rightfit.cli import main; main()"),
        ("a space, before the backend is chosen", "import rightfit.searching, rightfit.tuning.space"),
    ],
    ids=["import", "help", "space"],
)
def test_the_doors_open_without_a_slow_import(door, code):
    """A fresh interpreter runs the door, then says on its last line which modules it holds."""
    script = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print('\\n' + json.dumps(sorted({m.split('.')[0] for m in sys.modules}))))\n"
        f"{code}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *text, loaded = done.stdout.strip().splitlines()
    assert "rightfit" in json.loads(loaded)
    assert SLOW.intersection(json.loads(loaded)) == set(), f"`{door}` imports these"
    if door.endswith("--help"):
        assert "train" in "\n".join(text)


def test_no_public_name_is_that_of_a_module():
    """Whoever imported the module `rightfit.report` would have it where the function was."""
    import rightfit

    modules = {path.stem for path in (SOURCE / "rightfit").iterdir()}
    assert modules & set(rightfit.__all__) == set()


def test_every_public_name_says_what_it_is():
    import rightfit

    assert set(rightfit.__all__) >= {"train", "load"}
    things = {name: getattr(rightfit, name) for name in rightfit.__all__}
    assert [
        name for name, thing in things.items() if callable(thing) and not (thing.__doc__ or "").strip()
    ] == []
