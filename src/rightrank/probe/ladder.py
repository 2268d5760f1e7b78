"""Which configurations to train next. Pure: from what is measured and the plan to the next stage, or to "enough".

Learning rates first, at a few ranks and on little data; then every rank at the learning rate foreseen for it, on more data; then
whatever still stands between the evidence and an answer: neighbouring learning rates where the best is not bracketed, ranks beyond
the edge, the guides' setting and the user's own, repeats with other seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from rightrank.probe.foresee import SAME, foreseen_axes, most_worth, pair, rounded, unbracketed
from rightrank.probe.loss_table import Configuration, Role
from rightrank.probe.plan import FEW
from rightrank.recipe import alpha_for, equivalent_learning_rate
from rightrank.stats.doubt import in_doubt
from rightrank.stats.surface import best_learning_rate, still_possible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rightrank.probe.plan import Plan
    from rightrank.stats.evidence import Evidence

# The grid of learning rates: half-decades, 1 and 3 times powers of ten, within what anyone trains adapters with.
LOWEST, HIGHEST = 1e-6, 1e-1
SEEDS = (1, 2)
FEWEST_SCOUTS = 3
"""Learning rates of one rank that say where the best lies, by the shape that other data sets have."""
GUIDE_RANKS = (16, 8, 32, 64, 128)
GUIDE_LEARNING_RATE = 2e-4
"""alpha = 2r and 2e-4: what most guides to LoRA print (QLoRA's appendix, Unsloth's and Axolotl's examples)."""


@dataclass(frozen=True)
class Stage:
    """Configurations to train next, the most wanted first, on the first ``examples`` training examples."""

    why: str
    examples: int
    configurations: tuple[Configuration, ...]
    with_score: bool


def prior_learning_rate(hidden: int) -> float:
    """Where to start looking, at rank 16 and alpha 32.

    Published: 10 × full fine-tuning's 5e-5, growing as (2000 / hidden width)^0.78, fitted to Llama models from 1B to 70B (Thinking
    Machines, LoRA Without Regret, 2025). A start only: the grid grows from there until the best is inside.
    """
    return min(max(on_grid(5e-4 * (2000 / hidden) ** 0.78), LOWEST), HIGHEST)


def on_grid(learning_rate: float) -> float:
    """The nearest half-decade."""
    return half_decade(round(2 * math.log10(learning_rate)))


def half_decade(index: int) -> float:
    """1, 3, 10, 30, …: ``half_decade(-6)`` is 1e-3, ``half_decade(-5)`` 3e-3."""
    return float(f"{'3' if index % 2 else '1'}e{index // 2}")


def shifted(learning_rate: float, halves: int) -> float:
    """``halves`` half-decades further on the grid."""
    return half_decade(round(2 * math.log10(learning_rate)) + halves)


def _sensible(learning_rate: float) -> bool:
    return LOWEST <= learning_rate <= HIGHEST


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
        rates = [rate for step in steps if _sensible(rate := shifted(prior, step))]
        grid = [configuration(r, rate, "learning rate") for rate in rates for r in plan.scout_ranks]
        stage = _stage("learning rates", scout, grid, at[scout])
        if stage is not None or evidence is None:
            return stage
    part = final < evidence.all_examples and not plan.starved
    if plan.breadth in FEW and part and len(at[scout]) >= FEWEST_SCOUTS:
        stage = _few(evidence, plan, done, at)
        if stage is not None:
            return stage
    if scout < final and not at[final]:
        grown = _stage(
            "learning rates",
            scout,
            _beyond_edges(evidence, plan, scout, plan.scout_ranks, at[scout]),
            at[scout],
        )
        repeated = plan.breadth in FEW or any(c.seed for c in at[scout])
        repeats = [] if repeated else _repeats(evidence, scout, plan.scout_ranks, SEEDS[:1], at[scout])
        stage = grown or _stage("seeds", scout, repeats, at[scout])
        if stage is not None:
            return stage
    for why, wanted in (
        ("ranks", [*_own(yours), *_every_rank(evidence, plan, at[final])]),
        ("settings not told apart", lambda: _not_run(evidence, plan, at[final])),
        (
            "learning rates",
            lambda: _beyond_edges(evidence, plan, final, still_possible(evidence, final), at[final]),
        ),
        ("ranks", lambda: _beyond_ranks(evidence, plan, at[final], narrowest_rank, widest_rank)),
        ("guides' setting", _guides(plan, GUIDE_RANKS[:1])),
        ("settings not told apart", lambda: _told_apart(evidence, plan, at[final])),
        ("seeds", lambda: _repeats(evidence, final, _ends(evidence, final), SEEDS, at[final])),
        ("guides' settings", _guides(plan, GUIDE_RANKS)),
        ("learning rates", lambda: _beyond_edges(evidence, plan, final, plan.ranks, at[final])),
    ):
        stage = _stage(why, final, wanted() if callable(wanted) else wanted, at[final], with_score=True)
        if stage is not None:
            return stage
    return None


def _few(
    evidence: Evidence,
    plan: Plan,
    done: Sequence[tuple[Configuration, int]],
    at: Mapping[int, set[Configuration]],
) -> Stage | None:
    """Where all rows are foreseen from a part of them: how the best learning rate moves, the other ranks, then what is worth most."""
    final, middle = plan.final_examples, plan.scout_ranks[0]
    if not at[final]:
        further = [
            configuration(middle, rate, "learning rate")
            for rate in unbracketed(evidence, plan, middle)
            if _sensible(rate)
        ]
        if stage := _stage("learning rates", plan.scout_examples, further, at[plan.scout_examples]):
            return stage
        rates = [rate for rate in pair(evidence, plan, middle) if _sensible(rate)]
        wanted = [configuration(middle, rate, "rank") for rate in rates]
        return _stage("learning rates", final, wanted, at[final], with_score=True)
    others = [r for r in plan.ranks if r not in {c.rank for c in at[final]}]
    if (
        plan.breadth == "lean"
        and others
        and (axes := foreseen_axes(evidence, others, [evidence.all_examples]))
    ):
        wanted = [configuration(r, rate, "rank") for r in others if _sensible(rate := rounded(axes[r]))]
        return _stage("ranks", final, wanted, at[final], with_score=True)
    found = most_worth(evidence, plan, done)
    if found is None or not _sensible(found[0].learning_rate):
        return None
    run, size = found
    return _stage("ranks", size, [run], at[size], with_score=size == final)


def configuration(rank: int, learning_rate: float, role: Role, seed: int = 0) -> Configuration:
    """A configuration under the project's own scale."""
    return Configuration(rank, alpha_for(rank), learning_rate, seed, role)


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


def _foreseen(evidence: Evidence, plan: Plan, rank: int) -> float:
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


def _every_rank(evidence: Evidence, plan: Plan, done: set[Configuration]) -> list[Configuration]:
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
    rates = {rank: _foreseen(evidence, plan, rank) for rank in order}
    steps = (0, 1, -1) if plan.breadth == "wide" else (0,)
    wanted = [
        configuration(rank, rate, "rank")
        for step in steps
        for rank in order
        if _sensible(rate := shifted(rates[rank], step))
    ]
    return wanted + (_guides(plan, GUIDE_RANKS) if plan.breadth == "wide" and order else [])


def _own(yours: tuple[int, float, float] | None) -> list[Configuration]:
    return [Configuration(yours[0], yours[1], yours[2], 0, "yours")] if yours else []


def _guides(plan: Plan, ranks: Sequence[int]) -> list[Configuration]:
    if plan.breadth in FEW:
        return []
    return [
        Configuration(r, 2.0 * r, GUIDE_LEARNING_RATE, 0, "guide")
        for r in ranks
        if min(plan.ranks) <= r <= max(plan.ranks)
    ]


def _beyond_edges(
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
            if _sensible(next_rate) and next_rate not in tried:
                wanted.append(configuration(rank, next_rate, "learning rate"))
    return wanted


def _beyond_ranks(
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
    return [_beside(evidence, plan, rank, tried) for rank in wanted]


def _beside(evidence: Evidence, plan: Plan, rank: int, tried: Sequence[int]) -> Configuration:
    """A new rank at the best learning rate of the nearest one tried on the final size.

    The best learning rate moves slowly with the rank, and more between the sizes: what the scouts say of it is further away.
    """
    near = min(tried, key=lambda r: abs(math.log(r / rank)))
    best = best_learning_rate(evidence, plan.final_examples, near)
    return configuration(rank, _typed(best[0]) if best else _foreseen(evidence, plan, rank), "rank")


def _typed(learning_rate: float) -> float:
    """As a person would type it: the point of the grid that it stands for, else two digits."""
    return (
        near
        if abs(math.log10((near := on_grid(learning_rate)) / learning_rate)) < SAME
        else rounded(math.log10(learning_rate))
    )


def _at_the_next_ones(
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
    return [configuration(rank, _typed(best[0]), "learning rate")]


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
        narrower = [_beside(evidence, plan, tried[0] // 2, tried)]
    for wanted in (
        narrower,
        lambda: _beyond_edges(evidence, plan, final, possible[:1], at, one_will_do=True),
        lambda: _beyond_edges(evidence, plan, final, lost[-1:], at),
        lambda: [c for rank in lost[-1:] for c in _at_the_next_ones(evidence, plan, rank, possible[0], at)],
        lambda: _told_apart(evidence, plan, at, below=answer),
    ):
        stage = _stage("smaller ranks", final, wanted() if callable(wanted) else wanted, at, with_score=True)
        if stage is not None:
            return stage
    return None


def _not_run(evidence: Evidence, plan: Plan, done: set[Configuration]) -> list[Configuration]:
    """Settings that were run on few rows only, from which a rank that may be as good as the best is not told for want of a run on all."""
    if plan.breadth in FEW or plan.final_examples < evidence.all_examples:
        return []
    return [
        c
        for together in in_doubt(evidence)
        for s in together
        if (c := Configuration(s.rank, s.alpha, s.learning_rate, 0, "learning rate")) not in done
    ]


def _told_apart(
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


def _ends(evidence: Evidence, examples: int) -> list[int]:
    """The smallest and the largest rank that may still be as good as the best: the answer lies between them."""
    possible = [
        r for r in still_possible(evidence, examples) if best_learning_rate(evidence, examples, r) is not None
    ]
    return list(dict.fromkeys((min(possible), max(possible)))) if possible else []


def _repeats(
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
