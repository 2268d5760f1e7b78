"""Rules that name a rank and a learning rate without a run, on recorded surfaces: how far off, and how much of the gain they lose.

What learns from other data sets learns from ``bench.foretelling.left_out``.

Dimensions: N cases.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.characteristics import RANKS, gradient_rank, nearest_rank
from bench.foretelling import (
    WITHOUT_WEIGHTS,
    Case,
    axis,
    by_set,
    chosen_features,
    doublings,
    fit,
    left_out,
)
from bench.rivals import PARAMETERS_PER_RANK, rank_by_rows
from rightrank.probe.settings import GUIDE_LEARNING_RATE
from rightrank.recipe import equivalent_learning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.foretelling import Target

PLAIN, THIRTY_TWO = "r=32, mean rate of the others", "r=32, rate foretold"


def rule(*, by_rank: bool, by_rate: bool) -> str:
    """What a rule is called that foretells by characteristics, or else by the mean of the others."""
    return f"rank {'foretold' if by_rank else 'mean'}, rate {'foretold' if by_rate else 'mean'}"


Named = tuple[int, float]
"""A rank and the log10 of a learning rate."""


def guides_axis(rank: int) -> float:
    """log10 of what the guides' rate is at the project's own alpha."""
    return math.log10(equivalent_learning_rate(rank, 2.0 * rank, GUIDE_LEARNING_RATE))


def choosers(every: Sequence[Case], case: Case, kept: dict[str, Any] | None) -> dict[str, Named]:
    """What every rule names for ``case``; ``kept``: of its data set, for the gradient's rank."""
    known = left_out(every, case)
    rate = fit(known, (), axis).level
    by_rows = rank_by_rows(case.surface.whole)
    tokens = case.trained_tokens * case.surface.epochs / PARAMETERS_PER_RANK
    found: dict[str, Named] = {PLAIN: (32, rate)}
    for by_rank in (False, True):
        for by_rate in (False, True):
            lines = [
                fit(known, chosen_features(known, WITHOUT_WEIGHTS, of) if chosen else (), of).of(
                    case.features
                )
                for chosen, of in ((by_rank, doublings), (by_rate, axis))
            ]
            found[rule(by_rank=by_rank, by_rate=by_rate)] = (nearest_rank(lines[0]), lines[1])
            found[THIRTY_TWO] = (32, lines[1])
    found |= {
        "rows decide the rank, mean rate": (by_rows, rate),
        "rows decide the rank, guides' rate": (by_rows, guides_axis(by_rows)),
        "a parameter for every token, mean rate": (next((r for r in RANKS if r >= tokens), RANKS[-1]), rate),
    }
    if kept and "spectra" in kept:
        found["gradient beyond the edge, mean rate"] = (gradient_rank(kept), rate)
        found["gradient replicated, mean rate"] = (gradient_rank(kept, "replicated"), rate)
    return found


@dataclass(frozen=True)
class Told:
    """How one rule did on one case."""

    case: Case
    who: str
    rank: int
    axis: float

    @property
    def rank_miss(self) -> float:
        """Doublings above the middle of the smallest equivalent ranks; negative: below."""
        return float(np.log2(self.rank)) - self.case.doublings

    @property
    def rate_miss(self) -> float:
        """Decades above the best learning rate."""
        return self.axis - self.case.axis

    @property
    def outside(self) -> float:
        """Doublings beyond the nearest rank that the smallest equivalent one may be."""
        low, high = np.log2(min(self.case.ranks)), np.log2(max(self.case.ranks))
        return float(max(0.0, low - np.log2(self.rank), np.log2(self.rank) - high))

    @cached_property
    def lost(self) -> float:
        """Percent of the gain that the named setting gives away."""
        return self.case.truth.regret_percent(self.rank, self.axis)


def told(every: Sequence[Case], measured: Mapping[str, Any]) -> list[Told]:
    """Every rule on every case."""
    return [
        Told(case, who, *named)
        for case in every
        for who, named in choosers(every, case, measured["sets"].get(case.name)).items()
    ]


def summary(some: Sequence[Told]) -> dict[str, float]:
    """Of one rule: means over data sets, with the worst case and the standard error over data sets of what is lost."""
    known = [one.case for one in some]
    lost_S = by_set(known, np.array([one.lost for one in some]))
    return {
        "sets": len(lost_S),
        "cases": len(some),
        "doublings_off": _mean_off(some, "rank_miss"),
        "doublings_off_worst": max(abs(one.rank_miss) for one in some),
        "doublings_outside": float(by_set(known, np.array([one.outside for one in some])).mean()),
        "decades_off": _mean_off(some, "rate_miss"),
        "lost": float(lost_S.mean()),
        "lost_error": float(lost_S.std(ddof=1) / len(lost_S) ** 0.5) if len(lost_S) > 1 else float("nan"),
        "lost_worst": max(one.lost for one in some),
    }


def less_lost(ours: Sequence[Told], theirs: Sequence[Told]) -> dict[str, float]:
    """What ``ours`` loses less than ``theirs`` on the same cases: mean and standard error over data sets, percent of the gain."""
    less_S = by_set([one.case for one in ours], np.array([b.lost - a.lost for a, b in zip(ours, theirs, strict=True)]))  # fmt: skip
    return {"mean": float(less_S.mean()), "standard_error": float(less_S.std(ddof=1) / len(less_S) ** 0.5)}


def prior(every: Sequence[Case], scored: Sequence[Told]) -> dict[str, Any]:
    """What ``rightrank.priors.characteristics`` ships: rank and learning rate over all sets outside the lockbox, each by characteristics
    where that missed less than the mean of the others did on sets left out, and how such rules did there."""
    known = [case for case in every if not case.lockbox]
    by_rule: dict[str, list[Told]] = {}
    for one in scored:
        if not one.case.lockbox:
            by_rule.setdefault(one.who, []).append(one)
    plain, full = (by_rule[rule(by_rank=told, by_rate=told)] for told in (False, True))
    kept = {"by_rank": _mean_off(full, "rank_miss") < _mean_off(plain, "rank_miss"),
            "by_rate": _mean_off(full, "rate_miss") < _mean_off(plain, "rate_miss")}  # fmt: skip
    ours = by_rule[rule(**kept)]
    theirs = by_rule[THIRTY_TWO if kept["by_rate"] else PLAIN]
    lost = {"foretold": summary(ours), "r=32": summary(theirs)}
    return {
        "about": "From rows and recipe: log2 of the smallest rank within 1 % of the gain of the best, log10 of the best learning rate.",
        "command": "python -m bench.characteristics fit --write",
        "sets": sorted({case.name for case in known}),
        "cases": len(known),
        "tried": len(WITHOUT_WEIGHTS),
        "rank": _stored(known, doublings, [one.rank_miss for one in ours], chosen=kept["by_rank"]),
        "learning_rate": _stored(known, axis, [one.rate_miss for one in ours], chosen=kept["by_rate"]),
        "lost": {who: {k: round(lost[who][k], 2) for k in ("lost", "lost_error", "lost_worst")} for who in lost},
        "less_lost_than_r_32": {k: round(v, 3) for k, v in less_lost(ours, theirs).items()},
    }  # fmt: skip


def _mean_off(some: Sequence[Told], what: str) -> float:
    return float(by_set([one.case for one in some], np.array([abs(getattr(one, what)) for one in some])).mean())  # fmt: skip


def _stored(
    known: Sequence[Case], target: Target, misses_N: Sequence[float], *, chosen: bool
) -> dict[str, Any]:
    """The line over all of ``known``, and how far such lines were off on sets left out."""
    line = fit(known, chosen_features(known, WITHOUT_WEIGHTS, target) if chosen else (), target)
    keys = ("mean", "spread", "slope", "least", "most")
    columns = zip(line.names, line.mean_F, line.spread_F, line.slope_F, line.least_F, line.most_F, strict=True)  # fmt: skip
    features = {
        name: {k: round(float(v), 4) for k, v in zip(keys, values, strict=True)} for name, *values in columns
    }
    off_N = np.abs(misses_N)
    off = {"mean": round(float(by_set(known, off_N).mean()), 3), "worst": round(float(off_N.max()), 3)}
    return {"level": round(line.level, 4), "features": features, "off": off}
