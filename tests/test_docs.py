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


def test_pages_show_the_results_of_benchmarks_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import report

    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        shown = [report.section(name) for _, name, _ in report.BLOCK.findall(text)]
        assert any("| --- |" in part for part in shown), f"{page.name} shows no results"
        assert report.with_tables(text) == text, "run `python benchmarks/report.py`"


def test_links_between_documents_lead_somewhere():
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []
