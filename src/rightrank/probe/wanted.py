"""Which configurations stand between the evidence and an answer, one kind a function. ``ladder`` asks them in turn.

``done``: configurations trained on as many examples as the function is about.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from rightrank.probe.foresee import SAME
from rightrank.probe.loss_table import Configuration
from rightrank.probe.plan import FEW
from rightrank.probe.settings import (
    GUIDE_LEARNING_RATE,
    GUIDE_RANKS,
    configuration,
    on_grid,
    sensible,
    shifted,
    typed,
)
from rightrank.recipe import alpha_for, equivalent_learning_rate
from rightrank.stats.doubt import in_doubt
from rightrank.stats.surface import best_learning_rate, still_possible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.probe.plan import Plan
    from rightrank.stats.evidence import Evidence

SEEDS = (1, 2)


def foreseen(evidence: Evidence, plan: Plan, rank: int) -> float:
    """The learning rate foreseen for ``rank``: between the scouts' best ones, linear in log rank, on the grid."""
    found = [
        (math.log(r), math.log(best[0]))
        for r in plan.scout_ranks
        if (best := best_learning_rate(evidence, plan.scout_examples, r))
    ]
    if not found:
        return on_grid(float(min(evidence.learning_rate_C)))
    x = math.log(rank)
    if x <= found[0][0] or len(found) == 1:
        return on_grid(math.exp(found[0][1]))
    for (x0, y0), (x1, y1) in pairwise(found):
        if x <= x1:
            return on_grid(math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0)))
    return on_grid(math.exp(found[-1][1]))


def every_rank(evidence: Evidence, plan: Plan, done: set[Configuration]) -> list[Configuration]:
    """Each rank at its foreseen learning rate, in a wide plan at its neighbours too.

    Ranks in the middle first: if time runs out, the ends are missed least.
    """
    tried = {c.rank for c in done if c.role not in ("guide", "yours")}
    middle = math.log(plan.ranks[len(plan.ranks) // 2])
    order = sorted(
        (r for r in plan.ranks if r not in tried), key=lambda r: (round(abs(math.log(r) - middle), 9), r)
    )
    if plan.breadth in FEW:
        order = [r for r in (*plan.scout_ranks, *order) if r not in tried]
    rates = {rank: foreseen(evidence, plan, rank) for rank in order}
    steps = (0, 1, -1) if plan.breadth == "wide" else (0,)
    wanted = [
        configuration(rank, rate, "rank")
        for step in steps
        for rank in order
        if sensible(rate := shifted(rates[rank], step))
    ]
    return wanted + (guides(plan, GUIDE_RANKS) if plan.breadth == "wide" and order else [])


def own(yours: tuple[int, float, float] | None) -> list[Configuration]:
    """The user's."""
    return [Configuration(yours[0], yours[1], yours[2], 0, "yours")] if yours else []


def guides(plan: Plan, ranks: Sequence[int]) -> list[Configuration]:
    """What guides print for each of ``ranks`` that the plan spans."""
    if plan.breadth in FEW:
        return []
    return [
        Configuration(r, 2.0 * r, GUIDE_LEARNING_RATE, 0, "guide")
        for r in ranks
        if min(plan.ranks) <= r <= max(plan.ranks)
    ]


def beyond_edges(
    evidence: Evidence,
    plan: Plan,
    examples: int,
    ranks: Sequence[int],
    done: set[Configuration],
    *,
    one_will_do: bool = False,
) -> list[Configuration]:
    """For every rank whose best learning rate is the lowest or highest tried there, the next one out; both, where only one was tried,
    unless ``one_will_do`` that is where the ranks around it have their best.

    Where every run of a rank diverged, the next one down.
    """
    wanted = []
    for rank in ranks:
        if plan.breadth in FEW and examples == plan.final_examples and rank not in plan.scout_ranks:
            continue
        tried = {
            c.learning_rate for c in done if c.rank == rank and c.seed == 0 and c.alpha == alpha_for(rank)
        }
        best = best_learning_rate(evidence, examples, rank)
        if best is not None:
            rate, edge = best
            alone = len(tried) == 1 and not one_will_do
            steps = [s for s, name in ((1, "high"), (-1, "low")) if edge in (name, "both") or alone]
        elif tried:
            rate, steps = min(tried), [-1]
        else:
            continue
        for step in steps:
            next_rate = shifted(rate, step)
            if sensible(next_rate) and next_rate not in tried:
                wanted.append(configuration(rank, next_rate, "learning rate"))
    return wanted


def beyond_ranks(
    evidence: Evidence, plan: Plan, done: set[Configuration], narrowest: int, widest: int
) -> list[Configuration]:
    """One rank further, where the best is the largest tried or the smallest may still be as good as the best."""
    if plan.breadth in FEW:
        return []
    tried = sorted({c.rank for c in done if c.role in ("rank", "learning rate")})
    possible = still_possible(evidence, plan.final_examples)
    wanted = []
    if tried and possible and tried[0] in possible and tried[0] // 2 >= narrowest:
        wanted.append(tried[0] // 2)
    if tried and possible and min(possible) == tried[-1] and tried[-1] * 2 <= widest:
        wanted.append(tried[-1] * 2)
    return [beside(evidence, plan, rank, tried) for rank in wanted]


def beside(evidence: Evidence, plan: Plan, rank: int, tried: Sequence[int]) -> Configuration:
    """A new rank at the best learning rate of the nearest one tried on the final size.

    The best learning rate moves slowly with the rank, and more between the sizes: what the scouts say of it is further away.
    """
    near = min(tried, key=lambda r: abs(math.log(r / rank)))
    best = best_learning_rate(evidence, plan.final_examples, near)
    return configuration(rank, typed(best[0]) if best else foreseen(evidence, plan, rank), "rank")


def at_the_next_ones(
    evidence: Evidence, plan: Plan, rank: int, larger: int, done: set[Configuration]
) -> list[Configuration]:
    """``rank`` where ``larger`` has its best learning rate, if it was run nowhere near: in a steep valley a quarter of a decade is worth
    more than the margin, and one learning rate serves most ranks."""
    best = best_learning_rate(evidence, plan.final_examples, larger)
    made = [
        equivalent_learning_rate(c.rank, c.alpha, c.learning_rate)
        for c in done
        if c.rank == rank and not c.seed
    ]
    if best is None or any(abs(math.log10(rate / best[0])) < SAME for rate in made):
        return []
    return [configuration(rank, typed(best[0]), "learning rate")]


def not_run(evidence: Evidence, plan: Plan, done: set[Configuration]) -> list[Configuration]:
    """Settings that were run on few rows only, from which a rank that may be as good as the best is not told for want of a run on all."""
    if plan.breadth in FEW or plan.final_examples < evidence.all_examples:
        return []
    return [
        c
        for together in in_doubt(evidence)
        for s in together
        if (c := Configuration(s.rank, s.alpha, s.learning_rate, 0, "learning rate")) not in done
    ]


def told_apart(
    evidence: Evidence, plan: Plan, done: set[Configuration], *, below: int | None = None
) -> list[Configuration]:
    """What would tell a rank that may be as good as the best from what it is not yet told from: runs that were made on few rows only,
    then other seeds, one by one. ``below``: of ranks smaller than this one."""
    if plan.breadth in FEW or plan.final_examples < evidence.all_examples:
        return []
    for together in in_doubt(evidence, below):
        made = [Configuration(s.rank, s.alpha, s.learning_rate, 0, "learning rate") for s in together]
        if fresh := [c for c in made if c not in done]:
            return fresh
        for seed in SEEDS:
            if fresh := [again for c in made if (again := replace(c, seed=seed, role="seed")) not in done]:
                return fresh
    return []


def ends(evidence: Evidence, examples: int) -> list[int]:
    """The smallest and the largest rank that may still be as good as the best: the answer lies between them."""
    possible = [
        r for r in still_possible(evidence, examples) if best_learning_rate(evidence, examples, r) is not None
    ]
    return list(dict.fromkeys((min(possible), max(possible)))) if possible else []


def repeats(
    evidence: Evidence, examples: int, ranks: Sequence[int], seeds: Sequence[int], done: set[Configuration]
) -> list[Configuration]:
    """Other seeds for the best of each of ``ranks``, with its own alpha: the noise that a single run hides."""
    best = []
    for rank in ranks:
        found = best_learning_rate(evidence, examples, rank)
        if found is not None:
            best.append(min((c for c in done if c.rank == rank), key=lambda c: _apart(c, found[0])))
    return [replace(c, seed=seed, role="seed") for seed in seeds for c in best]


def _apart(c: Configuration, rate: float) -> tuple[float, bool]:
    """How far a configuration's equivalent learning rate is from ``rate``; our own alpha first where two have the same."""
    own = equivalent_learning_rate(c.rank, c.alpha, c.learning_rate)
    return round(abs(math.log(own / rate)), 6), c.alpha != alpha_for(c.rank)
