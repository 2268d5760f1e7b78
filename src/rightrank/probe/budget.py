"""How much time a probe is given where nobody says, and how much would be enough. Pure arithmetic, shared by what measures and what
only estimates, so that both name the same minutes for the same speed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rightrank.errors import BudgetError
from rightrank.probe.plan import make_plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.probe.plan import Job, Plan, Speed

SHORTEST_DEFAULT_SECONDS = 180.0
"""What anyone waits for an answer without being asked. Assumed."""
LONGEST_UNASKED_SECONDS = 900.0
"""What anyone waits without being asked where less would give no answer at all. Assumed."""
NEXT_BUDGET = 1.1
"""Budgets tried one after the other for the least that is long enough. Chosen: a price to a tenth."""


def affordable_plan(
    job: Job, speed: Speed, ranks: Sequence[int], budget_seconds: float | None, spent_seconds: float = 0.0
) -> Plan:
    """What the budget pays for, and, where that is runs too short to rely on, the budget that pays for longer ones.

    Where nobody set one and a run's time pays for too little: a few minutes instead, or what the smallest comparison takes.
    Raises BudgetError where nothing fits.
    """
    plan = _affordable(job, speed, ranks, budget_seconds, spent_seconds)
    if not plan.starved:
        return plan
    return replace(plan, enough_seconds=enough_seconds(job, speed, ranks, plan.budget_seconds, spent_seconds))


def enough_seconds(
    job: Job, speed: Speed, ranks: Sequence[int], tried_seconds: float, spent_seconds: float = 0.0
) -> float:
    """The least budget, from ``tried_seconds`` up to a tenth, whose runs are long enough to rely on."""
    budget = max(SHORTEST_DEFAULT_SECONDS, tried_seconds)
    while True:
        try:
            if not make_plan(job, speed, ranks, budget, spent_seconds).starved:
                return budget
        except BudgetError:
            pass
        budget *= NEXT_BUDGET


def _affordable(
    job: Job, speed: Speed, ranks: Sequence[int], budget_seconds: float | None, spent_seconds: float
) -> Plan:
    tried = (
        (budget_seconds,) if budget_seconds is not None else (None, SHORTEST_DEFAULT_SECONDS + spent_seconds)
    )
    found: list[Plan] = []
    for seconds in tried:
        try:
            found.append(make_plan(job, speed, ranks, seconds, spent_seconds=spent_seconds))
        except BudgetError as error:
            least = error
        else:
            if not found[-1].starved:
                break
    if found:
        return max(found, key=lambda plan: plan.budget_seconds)
    needed = least.least_seconds
    if budget_seconds is None and needed is not None and needed <= LONGEST_UNASKED_SECONDS:
        return make_plan(job, speed, ranks, needed, spent_seconds=spent_seconds)
    raise least
