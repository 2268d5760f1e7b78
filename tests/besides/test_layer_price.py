"""Time for comparing layers is taken from the budget before anything is trained, or one sentence says why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rightrank.bank.targets import Target
from rightrank.besides.layer_price import BUDGET_SHARE, RUNS, not_comparable, plan_with_layers, within
from rightrank.probe.budget import affordable_plan
from rightrank.probe.plan import Job, Speed, least_examples, stage_seconds
from rightrank.recipe import Recipe

RANKS = (4, 8, 16, 32, 64, 128)
JOB = Job(3000, Recipe(), 100_000, decide_pool=400, score_pool=300, held_out_tokens=50.0)
SPEED = Speed(0.0, 0.05, 1e-9, 1e-5, together=1)


def planned(budget, *, speed=SPEED, job=JOB, spent=10.0):
    return plan_with_layers(job, speed, RANKS, budget, spent, named=False)


@pytest.mark.parametrize("budget", [200.0, 400.0, 800.0, 1600.0, 3200.0, 20_000.0])
def test_at_most_half_the_budget_or_what_is_left_of_it_and_the_plan_has_the_rest(budget):
    plan, layers = planned(budget)
    assert layers.rows >= least_examples(JOB)
    assert layers.rows <= plan.final_examples
    left = 0.9 * budget - affordable_plan(JOB, SPEED, RANKS, budget, 10.0).planned_seconds
    assert 0 < layers.seconds <= 1.05 * max(BUDGET_SHARE * budget, left), "held-out rows are planned anew"
    assert plan.planned_seconds <= budget
    assert plan.planned_seconds >= 0.95 * layers.seconds + 10.0, "what it takes is in the plan's price"
    assert not plan.starved
    nine = stage_seconds(JOB, SPEED, [128] * RUNS, layers.rows, plan.decide + plan.score)
    assert layers.seconds == nine
    on = "all 3,000 rows" if layers.rows == 3000 else f"{layers.rows:,} of 3,000 rows"
    assert on in layers.line


def test_more_time_is_more_rows_up_to_all():
    rows = [planned(budget)[1].rows for budget in (200.0, 800.0, 3200.0, 20_000.0)]
    assert rows == sorted(rows) and rows[-1] == 3000


def test_a_budget_that_nobody_set_grows_by_what_it_takes():
    alone, (plan, layers) = affordable_plan(JOB, SPEED, RANKS, None, 10.0), planned(None)
    assert layers.rows and layers.seconds <= alone.budget_seconds
    assert plan.budget_seconds == pytest.approx(alone.budget_seconds + layers.seconds, rel=0.02)
    assert plan.final_examples == alone.final_examples, "the rank gets what it would have had"


def test_too_little_time_is_said_with_what_would_do():
    slow = replace(SPEED, step_seconds=0.5)
    plan, layers = planned(200.0, speed=slow)
    assert (layers.rows, layers.seconds) == (0, 0.0)
    assert plan == affordable_plan(JOB, slow, RANKS, 200.0, 10.0), "as if nobody had asked"
    minutes = int(layers.line.rpartition("--budget ")[2].rstrip("."))
    assert planned(60.0 * minutes, speed=slow)[1].rows


def test_too_few_held_out_rows_are_said():
    few = replace(JOB, decide_pool=20, score_pool=20)
    assert "too few held-out rows" in planned(3600.0, job=few)[1].line


def test_a_resumed_run_of_fewer_rows_compares_on_as_many():
    plan, layers = planned(20_000.0)
    assert within(layers, replace(plan, final_examples=750)).rows == 750


@pytest.mark.parametrize(
    ("kinds", "named", "words"),
    [
        (("attention", "mlp"), False, None),
        (("attention", None), False, "that can get adapters belongs to the MLP"),
        (("mlp",), False, "that can get adapters belongs to attention"),
        (("attention",), True, "that your config names belongs to the MLP"),
    ],
)
def test_a_kind_that_is_missing_is_named(kinds, named, words):
    why = not_comparable([Target(str(i), 4, 4, kind=kind) for i, kind in enumerate(kinds)], named=named)
    assert why is None if words is None else words in why
