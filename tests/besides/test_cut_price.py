"""Cuts are paid from what the plan leaves alone, and left out in one line where that does not do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rightrank.besides.cut_price import BUDGET_SHARE, plan_cuts
from rightrank.probe.plan import Job, Speed, make_plan
from rightrank.recipe import Recipe

RANKS = (4, 8, 16, 32, 64, 128)
JOB = Job(3000, Recipe(), 100_000, decide_pool=400, score_pool=300, held_out_tokens=50.0)
SPEED = Speed(0.0, 0.05, 1e-9, 1e-5, together=1)
PLAN = make_plan(JOB, SPEED, RANKS, 3600.0)


def test_all_cuts_on_all_rows_where_there_is_time():
    assert PLAN.final_examples == JOB.examples and PLAN.score == 300
    found = plan_cuts(PLAN, JOB, SPEED, RANKS)
    assert (found.cuts, found.rows) == (5, 300)
    assert found.seconds == pytest.approx(2 * 300 * 6 * 50 * 1e-5), "five cuts and the whole, twice 300 rows"
    assert "smaller ones, 5 at most, without training, and judged by 300 + 300" in found.line


@pytest.mark.parametrize("slower", [1, 3, 10, 30, 100, 300, 1000])
def test_never_more_than_the_share_nor_than_the_plan_leaves(slower):
    speed = replace(SPEED, evaluate_seconds_per_token=1e-4 * slower)
    found = plan_cuts(PLAN, JOB, speed, RANKS)
    assert found.seconds <= BUDGET_SHARE * PLAN.budget_seconds
    tight = replace(PLAN, planned_seconds=PLAN.budget_seconds - 5.0)
    assert plan_cuts(tight, JOB, speed, RANKS).seconds <= 5.0
    assert found.rows == 0 or found.rows >= 30


def test_where_time_is_short_fewer_cuts_rather_than_too_few_rows():
    slow = replace(SPEED, evaluate_seconds_per_token=0.018)  # a row takes 0.9 s, of 180
    found = plan_cuts(PLAN, JOB, slow, RANKS)
    assert (found.cuts, found.rows) == (1, 50) and "a smaller rank" in found.line
    none = plan_cuts(PLAN, JOB, replace(slow, evaluate_seconds_per_token=0.05), RANKS)
    assert (none.cuts, none.seconds) == (0, 0.0) and "too little time" in none.line


def test_where_there_is_nothing_to_cut_nothing_is_said():
    assert plan_cuts(replace(PLAN, final_examples=1500), JOB, SPEED, RANKS).line == ""
    assert plan_cuts(replace(PLAN, ranks=(4,)), JOB, SPEED, (4, 8)).line == ""
    few = plan_cuts(replace(PLAN, score=20), JOB, SPEED, RANKS)
    assert few.cuts == 0 and "too few held-out rows" in few.line
    assert "several devices" in plan_cuts(PLAN, JOB, SPEED, RANKS, several_devices=True).line
