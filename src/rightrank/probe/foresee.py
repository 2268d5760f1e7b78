"""What a probe on part of the rows trains where the answer for all of them is foreseen and not measured. Pure.

The best learning rate moves with the amount of data, so two sizes have to show how: one rank at three learning rates on few rows, then
at two around the foreseen best on more, then whatever run is worth most for its price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rightrank.probe.pack import Configuration
from rightrank.recipe import alpha_for
from rightrank.stats.next_run import Run, worth_percent
from rightrank.stats.rungs import measure
from rightrank.stats.surface import QUICK_REPLICATES, best_here
from rightrank.stats.valley import observations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.probe.plan import Plan
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.rungs import Measured

# How far (log10) the two learning rates of one rank lie from the foreseen best. Chosen: together half a decade, as on the grid.
AWAY = 0.25
# The best learning rate of the first size is known if its standard error (log10) is below this. Chosen: half of AWAY and a little.
WELL_KNOWN, STEP = 0.15, 0.5
# What a further run has to be worth, in percent of the gain, for each run of the recipe on the plan's final size that it costs. Chosen:
# a fiftieth of the margin.
LEAST_WORTH = 0.02
# Most learning rates of one rank on the first size, and most runs in all: then what is left to the time is seeds and guides. Chosen.
MOST_SCOUTS, MOST_RUNS = 7, 20
OFFSETS = (-0.25, 0.0, 0.25)
SAME = 0.06
"""A run this close (log10) to one that was made shows little else."""
DIGITS = 2
"""Of a learning rate that lies off the grid."""


def foreseen_axes(evidence: Evidence, ranks: Sequence[int], sizes: Sequence[int]) -> dict[int, float] | None:
    """log10 of the best learning rate foreseen for each of ``ranks``, mean over ``sizes``; None where nothing finite was measured."""
    data = measure(evidence, QUICK_REPLICATES, 0)
    if not data.rungs:
        return None
    return {rank: float(np.mean([data.valley.best_axis(rank, n)[0] for n in sizes])) for rank in ranks}


def unbracketed(evidence: Evidence, plan: Plan, rank: int) -> list[float]:
    """One learning rate further than those tried on the plan's first size, where the best lies at their edge and is not known well."""
    data = measure(evidence, QUICK_REPLICATES, 0, up_to=plan.scout_examples)
    if not data.rungs:
        return [rounded(float(data.axis_U.min()) - STEP)]
    axis_u = data.axis_U[data.rank_U == rank]
    if len(axis_u) >= MOST_SCOUTS:
        return []
    best, error = data.valley.best_axis(rank, plan.scout_examples)
    if error <= WELL_KNOWN and axis_u.min() - AWAY < best < axis_u.max() + AWAY:
        return []
    lowest = best_here(data, data.rungs[-1], rank)
    if lowest is not None and axis_u.min() < data.axis_U[lowest] < axis_u.max():
        return []
    upward = best > (axis_u.min() + axis_u.max()) / 2
    if upward and np.any(data.rungs[-1].diverged_U[data.rank_U == rank]):
        return []
    return [rounded(float(axis_u.max()) + STEP if upward else float(axis_u.min()) - STEP)]


def pair(evidence: Evidence, plan: Plan, rank: int) -> list[float]:
    """Two learning rates around the best one foreseen for ``rank``, between the plan's final size and all rows."""
    axes = foreseen_axes(evidence, [rank], [plan.final_examples, evidence.all_examples])
    return [] if axes is None else [rounded(axes[rank] + away) for away in (-AWAY, AWAY)]


def rounded(axis: float) -> float:
    """The learning rate of ``axis``, to two digits."""
    return float(f"{10**axis:.{DIGITS}g}")


def most_worth(
    evidence: Evidence, plan: Plan, done: Sequence[tuple[Configuration, int]]
) -> tuple[Configuration, int] | None:
    """The run that lets the choice lose least for its price, and its training examples; None where none is worth it."""
    data = measure(evidence, QUICK_REPLICATES, 0) if len(done) < MOST_RUNS else None
    if data is None or not data.rungs:
        return None
    runs = _candidates(data, plan, done)
    if not runs:
        return None
    tried = sorted({c.rank for c, _ in done} | set(plan.ranks))
    choices = [
        (rank, data.valley.best_axis(rank, data.whole)[0] + step)
        for rank in tried
        for step in np.arange(-0.75, 0.76, 0.125)
    ]
    rank_U, axis_U = (np.array(column, dtype=float) for column in zip(*choices, strict=True))
    worth_M = worth_percent(data.valley, observations(data, data.whole), rank_U, axis_U, runs)
    price_M = np.array([run.examples / plan.final_examples for run in runs])
    best = int(np.argmax(worth_M / price_M))
    if worth_M[best] / price_M[best] < LEAST_WORTH:
        return None
    run = runs[best]
    return Configuration(run.rank, alpha_for(run.rank), rounded(run.axis), 0, "rank"), run.examples


def _candidates(data: Measured, plan: Plan, done: Sequence[tuple[Configuration, int]]) -> list[Run]:
    """Every rank of the plan around its best learning rate, on either size, what was run left out."""
    found = []
    for size in dict.fromkeys((plan.final_examples, plan.scout_examples)):
        for rank in plan.ranks:
            made = [
                np.log10(c.learning_rate)
                for c, n in done
                if n == size and c.rank == rank and c.alpha == alpha_for(rank)
            ]
            centres = {data.valley.best_axis(rank, n)[0] for n in (size, data.whole)}
            axes = sorted({float(np.log10(rounded(centre + step))) for centre in centres for step in OFFSETS})
            found += [
                Run(rank, axis, size) for axis in axes if all(abs(axis - other) > SAME for other in made)
            ]
    return found
