"""Our blocks in the order a net computes them, for libraries that count layers instead of naming them."""

from __future__ import annotations

import re
from collections.abc import Iterable

BLOCK = re.compile(r"stage(\d+)_block(\d+)_(.+)")


def block_part(layer: str) -> tuple[int, int, str] | None:
    """`stage1_block2_conv3` -> (1, 2, "conv3"); None for the stem, the final norm and the head."""
    match = BLOCK.fullmatch(layer)
    return (int(match[1]), int(match[2]), match[3]) if match else None


def blocks(ours: Iterable[str]) -> list[tuple[int, int]]:
    """(stage, block) of every block that our names speak of, from the image to the head."""
    parts = (block_part(name.rpartition("/")[0]) for name in ours)
    return sorted({part[:2] for part in parts if part})


def is_preact(ours: Iterable[str]) -> bool:
    """Whether these are a version 2 net's names (He et al. 2016b): it alone ends in a norm of its own."""
    return "final_norm/gamma" in ours


def scope_of(names: Iterable[str], anchor: str) -> str | None:
    """What stands before the first name that ends in the pattern `anchor`, slash included; None without one."""
    pattern = re.compile(rf"((?:.*/)?){anchor}")
    matches = (pattern.fullmatch(name) for name in names)
    return next((match[1] for match in matches if match), None)
