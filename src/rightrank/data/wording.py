"""How text that comes from data or file systems may stand in a message: shortened, and without a character
that acts."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SHOWN = 60
"""Characters of a foreign name that a message shows."""
HARMLESS = frozenset(" _-./:@+,()[]'`=*")


def cleaned(text: str, limit: int = SHOWN) -> str:
    """``text`` in at most ``limit`` characters; whatever a terminal or browser might act upon is a question
    mark."""
    short = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isalnum() or c in HARMLESS or c == "…" else "?" for c in short)


def quoted(name: object, *, bare: bool = False) -> str:
    """A column's or file's name for a message, in quotes unless ``bare``."""
    text = cleaned(str(name))
    return text if bare else repr(text)


def listed(names: Iterable[object], limit: int = 8) -> str:
    """Quoted names, comma-separated; beyond ``limit`` only how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return ", ".join(quoted(name) for name in every[:limit]) + more


def counted(count: int, noun: str) -> str:
    """``1 row``, ``1,200 rows``; ``noun`` is the singular of a word that takes an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def similar_names(name: str, names: Sequence[str]) -> tuple[str, ...]:
    """Up to three of ``names`` that ``name`` may have been meant for, quoted, the nearest first."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return tuple(quoted(found) for found in near)
