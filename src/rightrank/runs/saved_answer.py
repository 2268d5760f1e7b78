"""The JSON of a saved answer, checked before anything is made of it: it may come from anywhere."""

from __future__ import annotations

import json
import math
from typing import Any

MOST_CHARACTERS = 64 * 2**20
LARGEST = 2**53
"""Whole numbers beyond this are none that was counted; floats do not hold them."""
ABOVE_ZERO = frozenset(
    {"rank", "alpha", "learning_rate", "epochs", "batch_size", "max_length", "parameters", "layers", "train"}
)
COUNTS = frozenset(
    {"examples", "steps", "seed", "rows", "decide", "score", "truncated", "dropped", "duplicates"}
)
LARGEST_RANK = 2**20


def parsed_answer(text: str) -> Any:
    """The value of ``text``. ValueError where it is no JSON, or holds what no answer can: numbers that are infinite or none, text that
    cannot be written, ranks or learning rates below zero."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError("too long")
    value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be written again
    level = [value]
    while level:
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                for key, item in one.items():
                    _check(key, item)
                below += one.values()
            elif isinstance(one, list):
                below += one
        level = below
    return value


def _check(key: str, value: Any) -> None:
    number = value if isinstance(value, (int, float)) else None
    if number is None:
        return
    if (key in ABOVE_ZERO and number <= 0) or (key in COUNTS and number < 0):
        raise ValueError(f"{key} is {number}")
    if key == "rank" and number > LARGEST_RANK:
        raise ValueError(f"rank is {number}")


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is infinite")
    return number


def _whole(text: str) -> int:
    number = int(text)
    if abs(number) > LARGEST:
        raise ValueError("a number is too large")
    return number
