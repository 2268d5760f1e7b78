"""What a setting lost on the data sets recorded so far: five of them, one model of 135 million weights, one seed.

Dimensions: R ranks, L learning rates of a set's grid, S data sets.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.recipe import alpha_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

# How far (log10 of the learning rate) a straight line is carried beyond a recorded grid of three or more. Chosen: one half-decade,
# one step of the grids.
BEYOND = 0.5
SAME = 1e-5
# Published: the best learning rate falls with the hidden width as width^-0.78, fitted to Llama models from 1B to 70B (Thinking Machines,
# LoRA Without Regret, 2025).
WIDTH_EXPONENT = 0.78
# Between models so unlike, or over so many more or fewer steps, that rule may be wrong by this factor either way. Assumed.
UNSURE_FACTOR = 2.0
# Beyond a model twice as wide or half as wide that rule is doubted. Beyond this factor in the width, the steps, the epochs, the batch or
# the trained tokens of a row, nothing recorded tells what a setting costs. Chosen: one more octave. Measured once: in 24 steps on mbpp
# r=16, alpha 32 at 2e-4 lost 56 % of the gain, where the recorded runs (300 to 600 steps) say 0.3 to 10.3.
DOUBTED, OUTSIDE = 2.0, 4.0
RANKS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class RecordedSet:
    """One data set's grid."""

    name: str
    examples: int
    steps: int
    trained_tokens_a_row: float
    held_out: int
    paired_error_percent: float
    """Standard error of a paired difference from the best among its rivals, with ``held_out`` examples, in percent of the gain."""
    ranks: tuple[int, ...]
    axis_RL: Float[np.ndarray, "R L"]
    """log10 of the learning rate at ``alpha_for(rank)`` that takes the steps recorded."""
    lost_RL: Float[np.ndarray, "R L"]
    """Percent of the gain lost against the best of the grid."""

    def lost(self, rank: int, learning_rate: float) -> float | None:
        """Percent of the gain lost by ``rank`` at an equivalent learning rate; None where nothing near was recorded."""
        if not self.ranks[0] <= rank <= self.ranks[-1]:
            return None
        if rank in self.ranks:
            return self._along(self.ranks.index(rank), math.log10(learning_rate))
        below = max(i for i, r in enumerate(self.ranks) if r < rank)
        low = self._along(below, math.log10(learning_rate))
        high = self._along(below + 1, math.log10(learning_rate))
        if low is None or high is None:
            return None
        share = math.log(rank / self.ranks[below]) / math.log(self.ranks[below + 1] / self.ranks[below])
        return low + share * (high - low)

    def _along(self, index: int, x: float) -> float | None:
        """At one recorded rank: the line beyond the ends, inside a parabola where there are three points, a line where two."""
        x_L, y_L = self.axis_RL[index], self.lost_RL[index]
        outside = max(x_L[0] - x, x - x_L[-1])
        if outside > SAME and (outside > BEYOND or len(x_L) < 3):
            return None
        if len(x_L) < 3 or outside > SAME:
            left = int(np.clip(np.searchsorted(x_L, x) - 1, 0, len(x_L) - 2))
            (x0, x1), (y0, y1) = x_L[left : left + 2], y_L[left : left + 2]
            return max(0.0, float(y0 + (y1 - y0) * (x - x0) / (x1 - x0)))
        nearest = int(np.clip(np.argmin(np.abs(x_L - x)) - 1, 0, len(x_L) - 3))
        three = slice(nearest, nearest + 3)
        return max(0.0, float(np.polyval(np.polyfit(x_L[three], y_L[three], 2), x)))


@dataclass(frozen=True)
class Price:
    """What a setting lost on the recorded sets: their mean, the least and the most, over how many."""

    mean: float
    low: float
    high: float
    sets: int


@dataclass(frozen=True)
class Likeness:
    """How a model and a recipe compare with the recorded ones."""

    factor: float
    """Learning rates here are this many times the recorded ones."""
    unlike: tuple[str, ...]
    """Why the translation is unsure, in words; empty where the recorded model and recipe are close."""
    outside: tuple[str, ...] = ()
    """Why nothing recorded tells what a setting costs here, in words; empty where something may."""
    other_run: bool = False
    """Whether it is the run that is outside, and not the model alone: then no learning rate to start from is known either."""

    @property
    def shifts(self) -> tuple[float, ...]:
        """Factors by which the translated learning rate may be wrong."""
        return (1 / UNSURE_FACTOR, 1.0, UNSURE_FACTOR) if self.unlike or self.outside else (1.0,)


def likeness(
    hidden: int,
    steps: int,
    *,
    epochs: float | None = None,
    batch_size: int | None = None,
    trained_tokens_a_row: float | None = None,
) -> Likeness:
    """How far the recorded runs are from a model of this width, trained for ``steps`` optimiser steps; None: as recorded."""
    recorded = records()
    wide = hidden / recorded.hidden
    unlike, outside = [], []
    if _beyond(hidden, [recorded.hidden], OUTSIDE):
        outside.append(f"your model is {_times(wide)} as wide as the recorded one")
    elif _beyond(hidden, [recorded.hidden], DOUBTED):
        unlike.append(
            f"this model is {_times(wide)} as wide as the recorded one, so learning rates are translated by a published rule"
        )
    counted = [s.steps for s in recorded.sets]
    tokens = [s.trained_tokens_a_row for s in recorded.sets]
    runs: list[str] = []
    if _beyond(steps, counted, OUTSIDE):
        runs.append(f"your run has {steps:,} steps; the recorded runs had {min(counted)} to {max(counted)}")
    if trained_tokens_a_row is not None and _beyond(trained_tokens_a_row, tokens, OUTSIDE):
        runs.append(
            f"your rows have {trained_tokens_a_row:,.0f} trained tokens each; the recorded ones had {min(tokens):.0f} to {max(tokens):.0f}"
        )
    if epochs is not None and _beyond(epochs, [recorded.epochs], OUTSIDE):
        runs.append(f"your run has {epochs:g} epochs; the recorded runs had {recorded.epochs:g}")
    if batch_size is not None and _beyond(batch_size, [recorded.batch_size], OUTSIDE):
        runs.append(f"your batch has {batch_size} rows; the recorded ones had {recorded.batch_size}")
    factor = (recorded.hidden / hidden) ** WIDTH_EXPONENT
    return Likeness(factor, tuple(unlike), (*runs, *outside), bool(runs))


def _beyond(value: float, recorded: Sequence[float], factor: float) -> bool:
    """Whether ``value`` is less than the least, or more than the most, of what was recorded by more than ``factor``."""
    return value * factor < min(recorded) or value > factor * max(recorded)


def price(rank: int, learning_rate: float, like: Likeness) -> Price | None:
    """What ``rank`` at an equivalent learning rate lost; the range covers the translation's doubt. None: nothing near was recorded."""
    by_shift = [
        [s.lost(rank, learning_rate / like.factor * shift) for s in records().sets] for shift in like.shifts
    ]
    middle = [lost for lost in by_shift[len(by_shift) // 2] if lost is not None]
    every = [lost for row in by_shift for lost in row if lost is not None]
    if not middle:
        return None
    return Price(sum(middle) / len(middle), min(every), max(every), len(middle))


def excess(
    rank: int, learning_rate: float, other: tuple[int, float], like: Likeness
) -> tuple[float, float, int] | None:
    """Least and most percent of the gain that a setting lost more than ``other`` on the same set, and on how many sets both are known."""
    found: list[float] = []
    sets = 0
    for recorded in records().sets:
        pairs = [
            (
                recorded.lost(rank, learning_rate / like.factor * shift),
                recorded.lost(other[0], other[1] / like.factor * shift),
            )
            for shift in like.shifts
        ]
        known = [mine - its for mine, its in pairs if mine is not None and its is not None]
        found += known
        sets += bool(known)
    return (min(found), max(found), sets) if found else None


@cache
def best_learning_rate(rank: int, like: Likeness) -> tuple[float, Price] | None:
    """The one equivalent learning rate that lost least on average over all recorded sets, of those recorded; None beyond their ranks."""
    first = records().sets[0]
    if not first.ranks[0] <= rank <= first.ranks[-1]:
        return None
    candidates = sorted({round(float(x), 6) for s in records().sets for x in s.axis_RL.flat})
    priced = [(10**x * like.factor, price(rank, 10**x * like.factor, like)) for x in candidates]
    every = [(rate, p) for rate, p in priced if p is not None and p.sets == len(records().sets)]
    return min(every, key=lambda pair: pair[1].mean) if every else None


def learning_rates_that_were_best(like: Likeness) -> tuple[float, float]:
    """Smallest and largest equivalent learning rate that was the best of its rank on any set, ranks 4 to 128."""
    best = [
        10 ** float(s.axis_RL[i, int(np.argmin(s.lost_RL[i]))]) * like.factor
        for s in records().sets
        for i, rank in enumerate(s.ranks)
        if rank in RANKS
    ]
    return min(best), max(best)


def resolvable(examples: int) -> tuple[float, float]:
    """Difference in percent of the gain that ``examples`` held-out examples tell apart at 95 %: on the easiest and hardest recorded set."""
    errors = [
        1.96 * s.paired_error_percent * math.sqrt(s.held_out / max(1, examples)) for s in records().sets
    ]
    return min(errors), max(errors)


def most_like(trained_tokens_a_row: float) -> RecordedSet:
    """The recorded set whose rows have most nearly as many trained tokens."""
    return min(
        records().sets, key=lambda s: abs(math.log(s.trained_tokens_a_row / max(1.0, trained_tokens_a_row)))
    )


@dataclass(frozen=True)
class Records:
    """All that is recorded."""

    model: str
    hidden: int
    epochs: float
    batch_size: int
    sets: tuple[RecordedSet, ...]

    @property
    def label(self) -> str:
        """How to name the source of an estimate."""
        return f"estimate, from {len(self.sets)} data sets on {self.model}"


@cache
def records() -> Records:
    """The recorded sets."""
    raw: dict[str, Any] = json.loads((Path(__file__).parent / "recorded.json").read_text(encoding="utf-8"))
    every = tuple(_set(one) for one in raw["sets"])
    return Records(raw["model"], raw["hidden"], raw["epochs"], raw["batch_size"], every)


def _set(raw: dict[str, Any]) -> RecordedSet:
    ranks = tuple(raw["ranks"])
    assert all(low < high for low, high in pairwise(raw["learning_rates"]))
    # Recorded at scale 8 / sqrt(rank); what counts is learning rate × scale (see recipe.equivalent_learning_rate).
    axis_RL = np.log10(
        [[rate * 8 / math.sqrt(r) * r / alpha_for(r) for rate in raw["learning_rates"]] for r in ranks]
    )
    return RecordedSet(
        raw["name"],
        raw["examples"],
        raw["steps"],
        raw["trained_tokens_a_row"],
        raw["held_out"],
        raw["paired_error_percent"],
        ranks,
        axis_RL,
        np.array(raw["lost_percent_RL"]),
    )


def _times(ratio: float) -> str:
    return f"{ratio:.2g} times"
