"""Whether ``--layers`` can be measured, on how many rows, and what that takes: said before anything is trained. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

from rightrank.bank.module_kinds import WORDS, Kind
from rightrank.errors import BudgetError
from rightrank.probe.budget import affordable_plan
from rightrank.probe.plan import SLACK, least_examples, stage_seconds
from rightrank.recommendation_html import minutes
from rightrank.stats.paired import FEWEST_EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.bank.targets import Target
    from rightrank.probe.plan import Job, Plan, Speed

BUDGET_SHARE = 0.5
"""Of the budget, for comparing layers, even where the plan would use it. Chosen: the rank is asked for first, and gets as much."""
HEADROOM = 1.25
"""On the budget that is named as enough: speeds are timed anew, and differ. Assumed."""
RUNS = 9
"""Attention alone, the MLP alone and all layers, each at three learning rates; of all layers some are trained anyway."""


@dataclass(frozen=True)
class LayersPlan:
    """What is measured of it at most."""

    rows: int = 0
    """Training rows; 0: nothing is measured."""
    seconds: float = 0.0
    """Of the budget."""
    line: str = ""
    """What is said of it; where ``rows`` is 0, why not. Empty where nobody asked."""
    named: bool = False
    """Whether the person names the layers to adapt, so that "all" are all of those."""


def not_comparable(targets: Sequence[Target], *, named: bool) -> str | None:
    """Why attention and MLP cannot be compared in this model, in a sentence; None where they can."""
    for kind in get_args(Kind):
        if not any(target.kind == kind for target in targets):
            which = "that your config names" if named else "that can get adapters"
            return f"--layers compares nothing: none of the layers {which} belongs to {WORDS[kind]}."
    return None


def plan_with_layers(
    job: Job,
    speed: Speed,
    ranks: Sequence[int],
    budget_seconds: float | None,
    spent_seconds: float,
    *,
    named: bool,
) -> tuple[Plan, LayersPlan]:
    """The plan with time left for comparing layers, on as many rows as half the budget pays for, or what the plan alone would leave of it.

    At most the plan's own rows. Where nobody set a budget, it grows by what the comparison takes, up to as much again. Raises as
    ``affordable_plan`` does for the plan alone.
    """
    alone = affordable_plan(job, speed, ranks, budget_seconds, spent_seconds)
    if alone.score < FEWEST_EXAMPLES:
        return alone, LayersPlan(line="--layers measures nothing: too few held-out rows score.", named=named)
    most = alone.budget_seconds - spent_seconds
    if budget_seconds is not None:
        most = max(BUDGET_SHARE * most, (1 - SLACK) * budget_seconds - alone.planned_seconds)
    rows, least = alone.final_examples, least_examples(job)
    while rows >= least:
        seconds = _seconds(job, speed, ranks, rows, alone)
        if seconds <= most and (plan := _plan(job, speed, ranks, budget_seconds, spent_seconds + seconds)):
            rows = min(rows, plan.final_examples)
            seconds = _seconds(job, speed, ranks, rows, plan)
            return plan, LayersPlan(rows, seconds, _line(rows, seconds, job), named)
        rows //= 2
    needed = spent_seconds + _seconds(job, speed, ranks, least, alone) / BUDGET_SHARE
    budget = math.ceil(max(HEADROOM * needed, 1.1 * alone.budget_seconds) / 60)
    line = (
        f"--layers measures nothing: the time does not pay for runs of enough steps; try --budget {budget}."
    )
    return alone, LayersPlan(line=line, named=named)


def within(layers: LayersPlan, plan: Plan) -> LayersPlan:
    """Where a resumed run goes on with sizes of its own: no more rows than those."""
    return replace(layers, rows=min(layers.rows, plan.final_examples))


def _plan(
    job: Job, speed: Speed, ranks: Sequence[int], budget_seconds: float | None, spent_seconds: float
) -> Plan | None:
    try:
        plan = affordable_plan(job, speed, ranks, budget_seconds, spent_seconds)
    except BudgetError:
        return None
    return None if plan.starved or plan.score < FEWEST_EXAMPLES else plan


def _seconds(job: Job, speed: Speed, ranks: Sequence[int], rows: int, plan: Plan) -> float:
    """At the largest rank. Of equal size, so that the others take as long."""
    return stage_seconds(job, speed, [max(ranks)] * RUNS, rows, plan.decide + plan.score)


def _line(rows: int, seconds: float, job: Job) -> str:
    on = f"all {rows:,} rows" if rows == job.examples else f"{rows:,} of {job.examples:,} rows"
    return (
        f"Then attention alone and the MLP alone are compared with all layers, at the answer's size and three learning rates, on {on}: "
        f"{minutes(seconds / 60)} of the plan, at most."
    )
