"""Do certificates and intervals hold where the truth is known? Planted ranks, probes starved and fed.

    python -m bench.calibration [--trials 200] [--fed-runs 40] [--out bench/results/calibration.json]

Each trial invents a data set (``bench/invented.py``: learning rates, drift, misfit, rows and seeds as recorded ones have them) in which
every halving of the rank below a planted one, 1 to 32, costs 4 % of the gain and nothing above it costs anything, and replays the
product's probe on it: fed (``--fed-runs``; 40 pay for the whole grid on all rows) or starved (one run of the recipe). The probe sees
held-out rows and seeds; its intervals and certificates are judged by the formula.

What is counted: intervals that hold the truth, of all; certificates (SETTLED, FLAT, CEILING) on a setting that truly loses more than the
margin; how often the certified rank is within a factor of two of the planted one, and, beside it, of the smallest rank that truly is
within the margin at a recorded learning rate: settings stray from the valley by 0.2 % of the gain, and half-decades do not fall on every
rank's best alike, so that the planted rank itself may truly lose more than the margin. Every fifth trial draws luck that is less alike
between runs of a seed than recorded seeds say (each run's own half of the variance instead of a fifth): what if that constant is wrong.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from bench import invented
from bench.replay import replay
from rightrank.stats import seeds
from rightrank.stats.valley import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rightrank.stats.prices import Price

PLANTED = (1, 2, 4, 8, 16, 32)
COST_PERCENT = 4.0
"""Of the gain, for each halving of the rank below the planted one."""
FED, STARVED = 40.0, 1.0
REPEATED_PERCENT = 3.0
"""Of the gain: settings this near to the best of their rank have seeds of their own."""
LOOSE = (0.25, 0.25)
"""Shares of the luck that are common and nearby in every fifth trial."""


@dataclass(frozen=True)
class Planted(invented.Truth):
    """A valley in which ranks below ``planted`` lose, and others nothing."""

    planted: int = 8

    def lost(self, rank: int, axis: float, size: int, whole: int) -> float:
        """As ``Truth.lost``."""
        return super().lost(rank, axis, size, whole) + COST_PERCENT * max(0.0, math.log2(self.planted / rank))


@dataclass(frozen=True)
class Trial:
    """What one probe said, and what was true."""

    planted: int
    fed: bool
    loose: bool
    status: str
    rank: int
    true_lost: float
    margin: float
    covered: int
    intervals: int
    equivalent: int
    """The smallest rank that truly loses no more than the margin against the best, at its best recorded learning rate."""
    cost_runs: float

    @property
    def certified(self) -> bool:
        return self.status in ("SETTLED", "FLAT", "CEILING")


def trial(number: int, fed: bool, runs: float) -> Trial | None:
    """None where the budget pays for no plan."""
    planted, loose = PLANTED[number % len(PLANTED)], number % 5 == 4
    drawn = Planted.drawn(5000 + number, planted=planted)
    # What too few and too many parameters cost is planted; the rest is as other data sets have it.
    theta = list(drawn.theta)
    for name in ("short", "excess"):
        theta[NAMES.index(name)] = -9.0
    truth = Planted(tuple(theta), planted=planted)
    shares = LOOSE if loose else (seeds.COMMON, seeds.NEARBY)
    with patch.object(seeds, "COMMON", shares[0]), patch.object(seeds, "NEARBY", shares[1]):
        surface = invented.invented(
            truth, name=f"planted{number}", seed=9000 + number, scored=1000, repeated_percent=REPEATED_PERCENT
        )
    decide_E, score_E = (np.flatnonzero(side) for side in surface.sides())
    shown_E = np.concatenate([decide_E, score_E])
    found = replay(surface, runs, shown_E=shown_E, decide_rows=len(decide_E), seed=number)
    if found is None:
        return None
    decision, whole = found.decision, surface.whole
    run = {(int(r), x) for r, x in zip(found.evidence.rank_C, found.axis_C, strict=True)}
    best_run = min(truth.lost(r, x, whole, whole) for r, x in run)
    lost_by_rank = best_by_rank(
        (int(r), truth.lost(int(r), float(x), whole, whole))
        for r, x, n in zip(surface.rank_C, surface.axis_C, surface.examples_C, strict=True)
        if n == whole
    )
    anywhere, margin = min(lost_by_rank.values()), decision.margin.percent if decision.margin else 1.0

    def lost(price: Price) -> float:
        return truth.lost(price.setting.rank, price.setting.axis, whole, whole) - best_run

    tuned = [p for p in decision.choices if p.kind == "tuned" and p.gain_lost is not None]
    covered = sum(p.gain_lost.low <= lost(p) <= p.gain_lost.high for p in tuned if p.gain_lost is not None)
    choice = decision.choice
    return Trial(
        planted, fed, loose, decision.status, choice.rank,
        truth.lost(choice.rank, choice.axis, whole, whole) - anywhere,
        margin, covered, len(tuned),
        min(rank for rank, lost in lost_by_rank.items() if lost <= anywhere + margin), found.cost_runs,
    )  # fmt: skip


def best_by_rank(losses: Iterable[tuple[int, float]]) -> dict[int, float]:
    """The lowest of each rank."""
    found: dict[int, float] = {}
    for rank, lost in losses:
        found[rank] = min(lost, found.get(rank, math.inf))
    return found


def within_2x_pct(trials: list[Trial], rank: str = "planted") -> float | None:
    """How often the rank named is within a factor of two of the trial's ``rank``."""
    if not trials:
        return None
    return 100 * float(np.mean([0.5 <= t.rank / getattr(t, rank) <= 2 for t in trials]))


def summary(trials: list[Trial]) -> dict[str, Any]:
    """Counts, with what they are out of."""
    certified = [t for t in trials if t.certified]
    intervals = sum(t.intervals for t in trials)
    return {
        "trials": len(trials),
        "answered_pct": 100 * len(certified) / len(trials) if trials else None,
        "wrong_certificates": sum(t.true_lost > t.margin for t in certified),
        "certificates": len(certified),
        "rank_within_2x_pct": within_2x_pct(certified),
        "rank_within_2x_of_truly_equivalent_pct": within_2x_pct(certified, "equivalent"),
        "rank_within_2x_of_all_trials_pct": within_2x_pct(trials),
        "rank_more_than_2x_too_small": sum(t.rank < t.planted / 2 for t in certified),
        "rank_more_than_2x_too_large": sum(t.rank > t.planted * 2 for t in certified),
        "cost_runs": float(np.mean([t.cost_runs for t in trials])) if trials else None,
        "intervals": intervals,
        "coverage_pct": 100 * sum(t.covered for t in trials) / intervals if intervals else None,
        "true_loss_of_choice_pct": float(np.mean([t.true_lost for t in trials])) if trials else None,
        "statuses": {s: sum(t.status == s for t in trials) for s in sorted({t.status for t in trials})},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--fed-runs", type=float, default=FED)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    with ProcessPoolExecutor(2) as pool:
        asked = [
            pool.submit(trial, number, fed, runs)
            for fed, runs in ((True, chosen.fed_runs), (False, STARVED))
            for number in range(chosen.trials)
        ]
        trials = [found for one in asked if (found := one.result()) is not None]
    board = {
        "fed": summary([t for t in trials if t.fed and not t.loose]),
        "fed, luck less alike than assumed": summary([t for t in trials if t.fed and t.loose]),
        "starved": summary([t for t in trials if not t.fed]),
        "fed, by planted rank": {
            str(rank): summary([t for t in trials if t.fed and t.planted == rank]) for rank in PLANTED
        },
    }
    text = json.dumps(board, indent=1)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
