"""Which configurations to train next. Pure: from what is measured and the plan to the next stage, or to "enough".

Learning rates first, at a few ranks and on little data; then every rank at the learning rate foreseen for it, on more data; then
whatever still stands between the evidence and an answer: neighbouring learning rates where the best is not bracketed, ranks beyond
the edge, the guides' setting and the user's own, repeats with other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank.probe.foresee import foreseen_axes, most_worth, pair, rounded, unbracketed
from rightrank.probe.plan import FEW
from rightrank.probe.settings import GUIDE_RANKS, configuration, sensible, shifted
from rightrank.probe.wanted import (
    SEEDS,
    at_the_next_ones,
    beside,
    beyond_edges,
    beyond_ranks,
    ends,
    every_rank,
    guides,
    not_run,
    own,
    repeats,
    told_apart,
)
from rightrank.stats.surface import still_possible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rightrank.probe.loss_table import Configuration
    from rightrank.probe.plan import Plan
    from rightrank.stats.evidence import Evidence

FEWEST_SCOUTS = 3
"""Learning rates of one rank that say where the best lies, by the shape that other data sets have."""


@dataclass(frozen=True)
class Stage:
    """Configurations to train next, the most wanted first, on the first ``examples`` training examples."""

    why: str
    examples: int
    configurations: tuple[Configuration, ...]
    with_score: bool


def next_stage(
    evidence: Evidence | None,
    plan: Plan,
    done: Sequence[tuple[Configuration, int]],
    *,
    prior: float,
    widest_rank: int,
    narrowest_rank: int = 1,
    yours: tuple[int, float, float] | None,
) -> Stage | None:
    """The next configurations, or None where the plan is carried out. ``done``: what has been trained, each with its examples.

    ``widest_rank``, ``narrowest_rank``: the largest and smallest rank that may be tried.
    ``yours``: the user's own rank, alpha and learning rate.
    """
    scout, final = plan.scout_examples, plan.final_examples
    at = {n: {c for c, examples in done if examples == n} for n in (scout, final)}
    if evidence is None or not at[final]:
        steps = (0, 1, -1, 2, -2) if plan.breadth == "wide" else (0, 1, -1)
        rates = [rate for step in steps if sensible(rate := shifted(prior, step))]
        grid = [configuration(r, rate, "learning rate") for rate in rates for r in plan.scout_ranks]
        stage = _stage("learning rates", scout, grid, at[scout])
        if stage is not None or evidence is None:
            return stage
    part = final < evidence.all_examples and not plan.starved
    if plan.breadth in FEW and part and len(at[scout]) >= FEWEST_SCOUTS:
        stage = _few(evidence, plan, done, at, yours)
        if stage is not None:
            return stage
    if scout < final and not at[final]:
        grown = _stage(
            "learning rates",
            scout,
            beyond_edges(evidence, plan, scout, plan.scout_ranks, at[scout]),
            at[scout],
        )
        repeated = plan.breadth in FEW or any(c.seed for c in at[scout])
        again = [] if repeated else repeats(evidence, scout, plan.scout_ranks, SEEDS[:1], at[scout])
        stage = grown or _stage("seeds", scout, again, at[scout])
        if stage is not None:
            return stage
    for why, wanted in (
        ("ranks", [*own(yours), *every_rank(evidence, plan, at[final])]),
        ("settings not told apart", lambda: not_run(evidence, plan, at[final])),
        (
            "learning rates",
            lambda: beyond_edges(evidence, plan, final, still_possible(evidence, final), at[final]),
        ),
        ("ranks", lambda: beyond_ranks(evidence, plan, at[final], narrowest_rank, widest_rank)),
        ("guides' setting", guides(plan, GUIDE_RANKS[:1])),
        ("settings not told apart", lambda: told_apart(evidence, plan, at[final])),
        ("seeds", lambda: repeats(evidence, final, ends(evidence, final), SEEDS, at[final])),
        ("guides' settings", guides(plan, GUIDE_RANKS)),
        ("learning rates", lambda: beyond_edges(evidence, plan, final, plan.ranks, at[final])),
    ):
        stage = _stage(why, final, wanted() if callable(wanted) else wanted, at[final], with_score=True)
        if stage is not None:
            return stage
    return None


def smaller_stage(
    evidence: Evidence,
    plan: Plan,
    done: Sequence[tuple[Configuration, int]],
    *,
    answer: int,
    narrowest_rank: int = 1,
) -> Stage | None:
    """Where rank ``answer`` is surely as good as the best: what would tell whether a smaller one is, or None where nothing would.

    The next smaller rank, down to ``narrowest_rank``; further learning rates of the one that lost, since it may have lost for want of
    them; other seeds of one that cannot be told from the best, and of what it cannot be told from.
    """
    final = plan.final_examples
    if plan.breadth in FEW or plan.starved:
        return None
    at = {c for c, examples in done if examples == final}
    tried = sorted({c.rank for c in at if c.role in ("rank", "learning rate")})
    possible = still_possible(evidence, final)
    lost = [rank for rank in tried if possible and rank < min(possible)]
    narrower: list[Configuration] = []
    if tried and not lost and tried[0] // 2 >= narrowest_rank:
        narrower = [beside(evidence, plan, tried[0] // 2, tried)]
    for wanted in (
        lambda: narrower,
        lambda: beyond_edges(evidence, plan, final, possible[:1], at, one_will_do=True),
        lambda: beyond_edges(evidence, plan, final, lost[-1:], at),
        lambda: [c for rank in lost[-1:] for c in at_the_next_ones(evidence, plan, rank, possible[0], at)],
        lambda: told_apart(evidence, plan, at, below=answer),
    ):
        stage = _stage("smaller ranks", final, wanted(), at, with_score=True)
        if stage is not None:
            return stage
    return None


def _few(
    evidence: Evidence,
    plan: Plan,
    done: Sequence[tuple[Configuration, int]],
    at: Mapping[int, set[Configuration]],
    yours: tuple[int, float, float] | None,
) -> Stage | None:
    """Where all rows are foreseen from a part of them: how the best learning rate moves, the user's own setting, the other ranks, then
    what is worth most."""
    final, middle = plan.final_examples, plan.scout_ranks[0]
    if not at[final]:
        further = [
            configuration(middle, rate, "learning rate")
            for rate in unbracketed(evidence, plan, middle)
            if sensible(rate)
        ]
        if stage := _stage("learning rates", plan.scout_examples, further, at[plan.scout_examples]):
            return stage
        rates = [rate for rate in pair(evidence, plan, middle) if sensible(rate)]
        wanted = [configuration(middle, rate, "rank") for rate in rates]
        return _stage("learning rates", final, wanted, at[final], with_score=True)
    if stage := _stage("your setting", final, own(yours), at[final], with_score=True):
        return stage
    others = [r for r in plan.ranks if r not in {c.rank for c in at[final] if c.role != "yours"}]
    if (
        plan.breadth == "lean"
        and others
        and (axes := foreseen_axes(evidence, others, [evidence.all_examples]))
    ):
        wanted = [configuration(r, rate, "rank") for r in others if sensible(rate := rounded(axes[r]))]
        if stage := _stage("ranks", final, wanted, at[final], with_score=True):
            return stage
    found = most_worth(evidence, plan, done)
    if found is None or not sensible(found[0].learning_rate):
        return None
    run, size = found
    return _stage("ranks", size, [run], at[size], with_score=size == final)


def _stage(
    why: str,
    examples: int,
    wanted: Iterable[Configuration],
    done: set[Configuration],
    *,
    with_score: bool = False,
) -> Stage | None:
    fresh = tuple(dict.fromkeys(c for c in wanted if c not in done))
    return Stage(why, examples, fresh, with_score) if fresh else None
