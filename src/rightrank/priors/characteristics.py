"""What rows and recipe say of the rank and the learning rate: small lines fitted by ``bench.foretelling``, and how far they were off.

Their numbers lie in ``characteristics.json``. Every recorded data set was foretold from the others; those of the lockbox were never learnt
from. Where characteristics did not foretell better than the mean of the other sets, a line has none and is that mean.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rightrank.priors.grids import Likeness

WORDS = {
    "rows_seen": ("more rows × epochs", "fewer rows × epochs"),
    "epochs": ("more epochs", "fewer epochs"),
    "tokens_a_row": ("longer completions", "shorter completions"),
    "new_bytes": ("more that the prompts do not say", "less that the prompts do not say"),
    "new_bits_a_token": ("completions harder to foresee", "completions easier to foresee"),
    "distinct_share": ("fewer repeated completions", "more repeated completions"),
    "copied_share": ("more copied from the prompt", "less copied from the prompt"),
}
"""How a value above, below the recorded sets' mean is said."""
MOVES = 0.1
"""Doublings (of rank or learning rate) below which a characteristic is not mentioned. Chosen."""
SMALLEST, LARGEST = 0, 8
"""log2 of the recorded ranks."""


@dataclass(frozen=True)
class Guess:
    """A number foretold."""

    value: float
    low: float
    high: float
    """As far as the worst miss on data sets left out."""
    off_mean: float
    """By what factor it was off on data sets left out, on average."""
    off_worst: float
    up: tuple[str, ...]
    """What raises it here against the recorded sets' mean, in words."""
    down: tuple[str, ...]
    used: int
    """Characteristics that it goes by; none: the mean of the sets."""


@dataclass(frozen=True)
class Foretold:
    """What the recorded data sets let one expect of a rank and a learning rate."""

    rank: Guess
    """The smallest within a hundredth of the best's gain."""
    learning_rate: Guess
    """The best at the project's own alpha."""
    sets: int
    tried: int
    """Characteristics tried."""
    lost: float
    """Percent of the gain that rank and learning rate foretold lost on data sets left out."""
    lost_32: float
    """The same of r=32 at the learning rate foretold."""
    better: bool
    """Whether the rank foretold lost surely less (by two standard errors over the sets)."""


def foretold(features: Mapping[str, float], widest: int, like: Likeness) -> Foretold:
    """Of ``features`` (``rightrank.data.characteristics``); one beyond all recorded counts as the nearest recorded.

    ``widest``: the rank beyond which the model's modules hold no more. ``like``: how learning rates translate to it.
    """
    known = stored()
    less = known["less_lost_than_r_32"]
    return Foretold(
        rank=_guess(known["rank"], features, 2.0, lambda x: float(min(2 ** _within(round(x)), widest))),
        learning_rate=_translated(
            _guess(known["learning_rate"], features, 10.0, lambda x: 10**x * like.factor), like
        ),
        sets=len(known["sets"]),
        tried=known["tried"],
        lost=known["lost"]["foretold"]["lost"],
        lost_32=known["lost"]["r=32"]["lost"],
        better=less["mean"] > 2 * less["standard_error"],
    )


def _within(doublings: int) -> int:
    return min(max(doublings, SMALLEST), LARGEST)


def _translated(guess: Guess, like: Likeness) -> Guess:
    """With the doubt of the translation to another model in its range."""
    return replace(guess, low=guess.low * min(like.shifts), high=guess.high * max(like.shifts))


def _guess(
    line: Mapping[str, Any], features: Mapping[str, float], base: float, said: Callable[[float], float]
) -> Guess:
    """``line``'s logarithm to ``base``, and ``said`` of it and of its range."""
    moved = {}
    for name, one in line["features"].items():
        value = min(max(features[name], one["least"]), one["most"])
        moved[name] = (value - one["mean"]) / one["spread"] * one["slope"], value > one["mean"]
    level, off = line["level"] + sum(by for by, _ in moved.values()), line["off"]
    words = {name: WORDS[name][0 if above else 1] for name, (_, above) in moved.items()}
    least = MOVES * math.log(2, base)
    return Guess(
        value=said(level),
        low=said(level - off["worst"]),
        high=said(level + off["worst"]),
        off_mean=base ** off["mean"],
        off_worst=base ** off["worst"],
        up=tuple(words[name] for name, (by, _) in moved.items() if by > least),
        down=tuple(words[name] for name, (by, _) in moved.items() if by < -least),
        used=len(moved),
    )


@cache
def stored() -> dict[str, Any]:
    """What was fitted."""
    found: dict[str, Any] = json.loads(
        (files("rightrank.priors") / "characteristics.json").read_text(encoding="utf-8")
    )
    return found
