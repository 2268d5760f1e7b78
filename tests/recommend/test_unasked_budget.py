"""What a run may take where nobody said: one run, else a few minutes, else what the smallest comparison takes, within reason."""

from __future__ import annotations

import pytest

from rightrank.errors import BudgetError
from rightrank.probe.budget import LONGEST_UNASKED_SECONDS, SHORTEST_DEFAULT_SECONDS, affordable_plan
from rightrank.probe.plan import Job, Plan, Speed, make_plan
from rightrank.recipe import Recipe

JOB = Job(60, Recipe(), 100_000, decide_pool=10, score_pool=10, held_out_tokens=100.0)


def plan(step_seconds: float, budget_minutes: float | None = None) -> Plan:
    speed = Speed(0.0, step_seconds, 0.0, 1e-4, together=1)
    return affordable_plan(
        JOB, speed, (4, 8, 16, 32), None if budget_minutes is None else 60 * budget_minutes
    )


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


def test_minutes_rather_than_runs_too_short_to_rely_on() -> None:
    """A run of 34 s pays for runs of a few steps, three minutes pay for all rows."""
    job = Job(1600, Recipe().given(epochs=1), 100_000, decide_pool=200, score_pool=200, held_out_tokens=1.0)
    speed = Speed(0.0, 0.34, 0.0, 1e-4, together=1)
    assert make_plan(job, speed, (8, 32, 128), None).starved
    unasked = affordable_plan(job, speed, (8, 32, 128), None)
    assert not unasked.starved and unasked.budget_seconds == SHORTEST_DEFAULT_SECONDS
    asked = affordable_plan(job, speed, (8, 32, 128), 34.0)
    assert asked.starved and asked.enough_seconds is not None
    assert not make_plan(job, speed, (8, 32, 128), asked.enough_seconds).starved
