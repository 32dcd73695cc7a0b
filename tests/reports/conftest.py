"""A page read as a parser reads it, and a real browser that looks at it."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PICTURES = "[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
COLOURS = "['color', 'backgroundColor'].map(k => getComputedStyle(document.body)[k])"


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        """The attributes of each such tag, in order."""
        return [attributes for found, attributes in self.tags if found == tag]


@pytest.fixture(scope="session")
def read():
    """read(page) -> its tags with their attributes, and its text."""
    return Reader


@pytest.fixture
def browsed():
    """browsed(path) -> pictures that a page shows, in light and dark; red for an error, a request, a scroll bar."""
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip("no Chromium here")
    from playwright.sync_api import sync_playwright

    def look(path):
        said, asked, shown = [], [], set()
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for scheme in ("light", "dark"):
                tab = browser.new_page(color_scheme=scheme, viewport={"width": 900, "height": 900})
                tab.on("console", lambda message: said.append(message.text))
                tab.on("pageerror", lambda error: said.append(str(error)))
                tab.on("request", lambda request: asked.append(request.url))
                tab.goto(path.as_uri())
                shown.add(tab.evaluate(PICTURES))
                assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                    "nothing sticks out"
                )
                ink, ground = (sum(map(int, re.findall(r"\d+", c)[:3])) for c in tab.evaluate(COLOURS))
                assert (ink < ground) == (scheme == "light")
            browser.close()
        assert said == [] and {url for url in asked if not url.startswith("data:")} == {path.as_uri()}
        (count,) = shown
        assert count is not False, "a picture is missing"
        return count

    return look
