"""The record of a run's test set: each opening with when, by which weights, settings and code."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from rightfit.errors import ModelFileError, RunError
from rightfit.formats.bounds import BOUNDS, RECORDS
from rightfit.formats.text import check_regular, from_json
from rightfit.saving.folder import record

NAME = "test-ledger.jsonl"


@dataclass(frozen=True)
class Before:
    """What the ledger held before an opening."""

    openings: int
    other_weights: int  # different ones, each of which opened it once or more

    def __str__(self) -> str:
        times = "once" if self.openings == 1 else f"{self.openings} times"
        said = f"the test set had been opened {times} before ({NAME})"
        if not self.other_weights:
            return said
        kinds = "other weights" if self.other_weights == 1 else f"{self.other_weights} other sets of weights"
        return f"{said}, with {kinds}: if those numbers decided anything, it is sealed no longer"


def open_test(run: Path, purpose: str, backend: str, precision: str) -> Before:
    """Write the line of one opening; call it before an image is read, as one that breaks off is one too."""
    path = run / NAME
    try:
        check_regular(path, RECORDS.json_bytes)
        lines = [
            from_json(line, str(path), RECORDS) for line in path.read_text(encoding="utf-8").splitlines()
        ]
        earlier = [line["weights"] for line in lines]
    except FileNotFoundError:
        earlier = []
    except (ValueError, KeyError, TypeError, ModelFileError) as error:
        raise RunError(f"{path}: is damaged ({error}); it is the record of who opened the test") from error
    weights = _sha256(run / "weights.safetensors")
    before = Before(len(earlier), len(set(earlier) - {weights}))
    record(
        path,
        opening=before.openings + 1,
        purpose=purpose,
        weights=weights,
        other_weights_before=before.other_weights,
        settings=_sha256(run / "config.yaml"),
        rightfit=metadata.version("rightfit"),
        code=_digest_of_code(),
        backend=backend,
        precision=precision,
    )
    return before


def _sha256(path: Path) -> str:
    check_regular(path, BOUNDS.file_bytes)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_code() -> str:
    """Over rightfit's own source: a version number does not change with every edit."""
    found = hashlib.sha256()
    source = Path(__file__).parents[1]
    for path in sorted(source.rglob("*.py")):
        found.update(f"{path.relative_to(source).as_posix()}\0".encode() + path.read_bytes())
    return found.hexdigest()
