"""What an answer on a recorded surface is worth: one score an answer, and means over data sets."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from bench.replay import Replayed, replay
from bench.rivals import Purse, rivals
from bench.truth import MARGIN_PERCENT, Truth

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Int

    from bench.tables import Surface
    from rightrank.stats.valley import Prior


@dataclass(frozen=True)
class Score:
    """One answer on one surface."""

    surface: str
    data_set: str
    epochs: float
    lockbox: bool
    budget: float
    who: str
    rank: int
    """Recommended."""
    best_point_percent: float
    """Gain lost by the point of the lowest foreseen loss."""
    standard_error_percent: float
    recommended_percent: float
    margin_percent: float
    cost_runs: float
    smallest_ranks: tuple[int, ...]
    """What the smallest equivalent rank may be, by resampled rows and seeds."""
    status: str = ""
    covered: int = 0
    intervals: int = 0
    guides_covered: int = 0
    guides: int = 0
    """Intervals of the guides' settings, measured, extrapolated or derived."""
    interpolated_share: float = 0.0

    @property
    def within_margin(self) -> bool:
        """Whether the recommended point is as good as the best."""
        return self.recommended_percent <= self.margin_percent

    @property
    def rank_within_2x(self) -> bool:
        """Neither under half of the smallest equivalent rank nor over twice the largest that it may be."""
        return min(self.smallest_ranks) / 2 <= self.rank <= 2 * max(self.smallest_ranks)

    @property
    def settled_wrong(self) -> bool:
        """A certificate on a point that loses more than the margin."""
        return self.status in ("SETTLED", "FLAT", "CEILING") and not self.within_margin


def score_probe(
    surface: Surface, budget: float, resample: int | None = None, prior: Prior | None = None
) -> Score | None:
    """The product at ``budget`` runs. ``resample``: on a random half of the rows of either side, other seeds first.

    ``prior``: instead of the one that ships, which knows this data set.
    """
    decide_E, score_E = (np.flatnonzero(side) for side in surface.sides())
    rng = np.random.default_rng([resample or 0, 11])
    if resample is not None:
        decide_E, score_E = (rng.permutation(side) for side in (decide_E, score_E))
        decide_E = decide_E[: len(decide_E) // 2]
        surface = reseeded(surface, rng)
    half = len(score_E) // 2
    shown_E = np.concatenate([decide_E, score_E[:half]])
    with patch("rightrank.stats.rungs.recorded_prior", lambda: prior) if prior else nullcontext():
        found = replay(surface, budget, shown_E=shown_E, decide_rows=len(decide_E), seed=resample or 0)
    if found is None:
        return None
    every = Truth(surface, score_E if resample is None else score_E[half:])
    return probe_scored(surface, budget, found, every, Truth(surface, score_E[half:]))


def probe_scored(surface: Surface, budget: float, found: Replayed, every: Truth, apart: Truth) -> Score:
    """``found`` against the truth on all scoring rows, and on those that it has not seen.

    The point foreseen to be best is chosen by the rows that decide alone, so that all scoring rows may judge it; so it is where an
    UNDECIDED answer names it. What was certified by scoring rows is judged by the others.
    """
    decision = found.decision
    best, choice = decision.foreseen, decision.choice
    judge = every if decision.status == "UNDECIDED" and choice == best else apart
    margin = decision.margin.percent if decision.margin else MARGIN_PERCENT
    # What is said is said of the settings that were run, whichever of them is best.
    run = {(int(r), float(x)) for r, x in zip(found.evidence.rank_C, found.axis_C, strict=True)}
    best_run = min(apart.regret_percent(*setting) for setting in run)

    def held(kind: str) -> list[bool]:
        return [
            p.gain_lost.low
            <= apart.regret_percent(p.setting.rank, p.setting.axis) - best_run
            <= p.gain_lost.high
            for p in decision.choices
            if p.kind == kind and p.gain_lost is not None
        ]

    tuned, guides = held("tuned"), held("guide")
    return Score(
        **place(surface),
        budget=budget,
        who="rightrank",
        rank=choice.rank,
        best_point_percent=every.regret_percent(best.rank, best.axis),
        standard_error_percent=every.standard_error_percent(best.rank, best.axis),
        recommended_percent=judge.regret_percent(choice.rank, choice.axis),
        margin_percent=margin,
        cost_runs=found.cost_runs,
        smallest_ranks=tuple(every.smallest_ranks(margin)),
        status=decision.status,
        covered=sum(tuned),
        intervals=len(tuned),
        guides_covered=sum(guides),
        guides=len(guides),
        interpolated_share=found.interpolated_share,
    )


def place(surface: Surface) -> dict[str, Any]:
    """What a score says of its surface."""
    name = f"{surface.name}-{surface.epochs:g}"
    return {"surface": name, "data_set": surface.name, "epochs": surface.epochs, "lockbox": surface.lockbox}


def reseeded(surface: Surface, rng: np.random.Generator) -> Surface:
    """The same surface with another of the recorded seeds in the place of the first, the same one for all settings of a size."""
    loss_CE, right_CE = surface.loss_CE.copy(), surface.right_CE.copy()
    groups: dict[tuple[int, int, float], list[int]] = {}
    for c in range(len(surface.rank_C)):
        key = (int(surface.examples_C[c]), int(surface.rank_C[c]), round(float(surface.axis_C[c]), 3))
        groups.setdefault(key, []).append(c)
    order: dict[int, Int[np.ndarray, " s"]] = {}
    for (size, *_), group in groups.items():
        if len(group) > 1:
            # One order a size: runs of a seed share its luck. A setting that lacks a seed goes on with the next.
            seeds = np.unique(surface.seed_C[surface.examples_C == size])
            order.setdefault(size, rng.permutation(seeds))
            chosen = sorted(group, key=lambda c: order[size].tolist().index(surface.seed_C[c]))
            loss_CE[group], right_CE[group] = surface.loss_CE[chosen], surface.right_CE[chosen]
    return replace(surface, loss_CE=loss_CE, right_CE=right_CE)


def score_rivals(surface: Surface, budget: float, others: Sequence[Truth]) -> list[Score]:
    """Everyone else at ``budget`` runs; one who cannot afford to measure is left out."""
    decide_E, score_E = (np.flatnonzero(side) for side in surface.sides())
    truth = Truth(surface, score_E)
    smallest = tuple(truth.smallest_ranks())
    found = []
    for who, rival in rivals(others).items():
        named = rival(Purse(surface, decide_E, budget))
        if named is not None:
            lost = truth.regret_percent(named.rank, named.axis)
            error = truth.standard_error_percent(named.rank, named.axis)
            found.append(
                Score(**place(surface), budget=budget, who=who, rank=named.rank, best_point_percent=lost,
                      standard_error_percent=error, recommended_percent=lost, margin_percent=MARGIN_PERCENT,
                      cost_runs=named.cost, smallest_ranks=smallest)
            )  # fmt: skip
    return found


def summary(scores: Iterable[Score]) -> dict[str, Any]:
    """Means over data sets and recipes. Standard errors over data sets: the recipes of one are no two samples."""
    scores = list(scores)
    if not scores:
        return {"surfaces": 0}
    lost = np.array([s.best_point_percent for s in scores])
    by_set = {
        name: np.mean([s.best_point_percent for s in scores if s.data_set == name])
        for name in dict.fromkeys(s.data_set for s in scores)
    }
    sets = np.array(list(by_set.values()))
    spread = float(np.std(sets, ddof=1) / np.sqrt(len(sets))) if len(sets) > 1 else None
    answered = [s for s in scores if s.status and s.status != "UNDECIDED"]
    intervals = sum(s.intervals for s in scores)
    guides = sum(s.guides for s in scores)

    def share(flags: Iterable[bool]) -> float | None:
        known = list(flags)
        return 100 * float(np.mean(known)) if known else None

    found: dict[str, Any] = {
        "surfaces": len(scores),
        "best_point_regret_pct": {
            "mean": float(lost.mean()),
            "worst": float(lost.max()),
            "standard_error": spread,
        },
        "recommended_regret_pct": {
            "mean": float(np.mean([s.recommended_percent for s in scores])),
            "worst": float(max(s.recommended_percent for s in scores)),
        },
        "recommended_within_margin_pct": share(s.within_margin for s in scores),
        "rank_within_2x_pct": share(s.rank_within_2x for s in scores),
        "mean_cost_runs": float(np.mean([s.cost_runs for s in scores])),
    }
    if any(s.status for s in scores):
        found |= {
            "answered_pct": share(s.status != "UNDECIDED" for s in scores),
            "settled_wrong_pct": share(s.settled_wrong for s in answered) if answered else 0.0,
            "interval_coverage_pct": 100 * sum(s.covered for s in scores) / intervals if intervals else None,
            "intervals": intervals,
            "guide_interval_coverage_pct": 100 * sum(s.guides_covered for s in scores) / guides
            if guides
            else None,
            "guide_intervals": guides,
            "statuses": {
                status: sum(s.status == status for s in scores)
                for status in sorted({s.status for s in scores})
            },
            "interpolated_pct": 100 * float(np.mean([s.interpolated_share for s in scores])),
        }
    return found


def against(ours: Sequence[Score], theirs: Sequence[Score]) -> dict[str, float] | None:
    """How much less we lose than a rival, mean over data sets with its standard error; None where no two share a surface."""
    lost = {s.surface: s for s in theirs}
    both = [
        (s.data_set, lost[s.surface].best_point_percent - s.best_point_percent)
        for s in ours
        if s.surface in lost
    ]
    sets = {name: float(np.mean([d for other, d in both if other == name])) for name, _ in both}
    if len(sets) < 2:
        return None
    values = np.array(list(sets.values()))
    return {"mean": float(values.mean()), "standard_error": float(values.std(ddof=1) / np.sqrt(len(values)))}
