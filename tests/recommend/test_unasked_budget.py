"""What a run may take where nobody said: one run, else a few minutes, else what the smallest comparison takes, within reason."""

from __future__ import annotations

import time

import pytest

from rightrank.errors import BudgetError
from rightrank.preparing import LONGEST_UNASKED_SECONDS, SHORTEST_DEFAULT_SECONDS, _affordable_plan
from rightrank.probe.plan import Job, Plan, Speed
from rightrank.recipe import Recipe
from rightrank.request import Request

JOB = Job(60, Recipe(), 100_000, decide_pool=10, score_pool=10, held_out_tokens=100.0)


def plan(step_seconds: float, budget_minutes: float | None = None) -> Plan:
    speed = Speed(0.0, step_seconds, 0.0, 1e-4, together=1)
    request = Request("model", "rows.jsonl", budget_minutes=budget_minutes)
    return _affordable_plan(request, JOB, speed, (4, 8, 16, 32), time.monotonic(), 0.0)


def test_fast_machines_take_a_few_minutes_and_slow_ones_what_the_smallest_comparison_takes() -> None:
    assert plan(0.01).budget_seconds <= SHORTEST_DEFAULT_SECONDS + 1
    slow = plan(15.0)
    assert SHORTEST_DEFAULT_SECONDS + 1 < slow.budget_seconds <= LONGEST_UNASKED_SECONDS
    assert slow.planned_seconds <= slow.budget_seconds


def test_nobody_waits_for_hours_unasked() -> None:
    with pytest.raises(BudgetError, match="do not pay for a single comparison") as caught:
        plan(200.0)
    assert caught.value.least_seconds is not None
    assert caught.value.least_seconds > LONGEST_UNASKED_SECONDS


def test_a_budget_that_was_given_is_kept_to() -> None:
    with pytest.raises(BudgetError):
        plan(15.0, budget_minutes=1.0)
