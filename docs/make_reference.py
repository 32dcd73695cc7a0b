"""Write the table of settings in docs/reference.md from the settings themselves: `python docs/make_reference.py`."""

from pathlib import Path

from rightfit.config import TrainSettings

REFERENCE = Path(__file__).with_name("reference.md")
START, END = "<!-- settings -->", "<!-- /settings -->"


def settings_table() -> str:
    rows = ["| flag, argument, key | default | what it is |", "|---|---|---|"]
    for name, field in TrainSettings.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default}`".replace("`None`", "chosen")
        text = str(field.description).replace("|", "\\|").replace("<", "&lt;")
        rows.append(f"| `{name}` | {default} | {text} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    before, rest = text.split(START)
    return f"{before}{START}\n{settings_table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    REFERENCE.write_text(with_table(REFERENCE.read_text(encoding="utf-8")), encoding="utf-8")
