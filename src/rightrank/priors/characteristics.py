"""What the recorded data sets' characteristics say of the rank: a small line fitted by ``bench.foretelling``, and how far it was off.

Its numbers lie in ``characteristics.json``. Every recorded data set was foretold from the others; those of the lockbox were never learnt
from. Where no characteristic foretold better than the mean of the sets, the line has none and is that mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

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
"""Doublings below which a characteristic is not mentioned. Chosen."""
SMALLEST, LARGEST = 0, 8
"""log2 of the recorded ranks."""


@dataclass(frozen=True)
class Foretold:
    """The smallest rank within a hundredth of the best's gain, as the recorded data sets let one expect."""

    rank: int
    low: int
    high: int
    off_mean: float
    """Doublings that it was off on data sets left out, on average."""
    off_worst: float
    """The most; the interval's half."""
    sets: int
    up: tuple[str, ...]
    """What raises it here, in words."""
    down: tuple[str, ...]
    used: int
    """Characteristics that it goes by."""
    tried: int
    """Characteristics tried."""
    lost: float
    """Percent of the gain that the rank foretold lost on data sets left out, at the mean learning rate of the others."""
    lost_32: float
    """The same of r=32."""
    better: bool
    """Whether it lost surely less (by two standard errors over the sets)."""


def foretold(features: Mapping[str, float], widest: int) -> Foretold:
    """Of ``features`` (``rightrank.data.characteristics``); one beyond all recorded counts as the nearest recorded.

    ``widest``: the rank beyond which the model's modules hold no more.
    """
    known = stored()
    moved = {}
    for name, one in known["rank"]["features"].items():
        value = min(max(features[name], one["least"]), one["most"])
        moved[name] = (value - one["mean"]) / one["spread"] * one["slope"], value > one["mean"]
    doublings = known["rank"]["level"] + sum(by for by, _ in moved.values())
    off = known["rank"]["off"]
    rank, low, high = (
        min(2 ** min(max(round(x), SMALLEST), LARGEST), widest)
        for x in (doublings, doublings - off["worst"], doublings + off["worst"])
    )
    said = {name: WORDS[name][0 if above else 1] for name, (_, above) in moved.items()}
    return Foretold(
        rank=rank,
        low=low,
        high=high,
        off_mean=off["mean"],
        off_worst=off["worst"],
        sets=len(known["sets"]),
        up=tuple(said[name] for name, (by, _) in moved.items() if by > MOVES),
        down=tuple(said[name] for name, (by, _) in moved.items() if by < -MOVES),
        used=len(moved),
        tried=known["tried"],
        lost=known["lost"]["foretold"]["mean"],
        lost_32=known["lost"]["r=32"]["mean"],
        better=known["lost"]["less"]["mean"] > 2 * known["lost"]["less"]["standard_error"],
    )


@cache
def stored() -> dict[str, Any]:
    """What was fitted."""
    found: dict[str, Any] = json.loads(
        (files("rightrank.priors") / "characteristics.json").read_text(encoding="utf-8")
    )
    return found
