"""Documents that could drift from the code do not."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_reference_lists_the_settings_as_they_are():
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    text = maker.REFERENCE.read_text(encoding="utf-8")
    assert maker.with_table(text) == text, "run `python docs/make_reference.py`"


def test_the_benchmarks_page_shows_the_results_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import report

    text = report.PAGE.read_text(encoding="utf-8")
    shown = {path for _, name, _ in report.BLOCK.findall(text) for path in report.files(name)}
    assert shown, "the page shows no results file"
    assert report.with_tables(text) == text, "run `python benchmarks/report.py`"


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
