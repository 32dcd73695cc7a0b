"""What a report says, in English and in Chinese. What a run put on record (evidence, findings) stays as written, but
for what reports/shown.py knows."""

from __future__ import annotations

from importlib import resources
from typing import Any

import yaml

LANGUAGES = ("en", "zh")


class Words:
    """words("kept", epoch=3) -> that phrase in one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        file = resources.files("rightfit.reports").joinpath(f"words-{language}.yaml")
        self.phrases: dict[str, str] = yaml.safe_load(file.read_text(encoding="utf-8"))

    def __call__(self, phrase: str, /, **values: Any) -> str:
        """Backticks, which mark code in a phrase, are none in a value."""
        plain = {name: v.replace("`", "ˋ") if isinstance(v, str) else v for name, v in values.items()}
        return self.phrases[phrase].format(**plain)
