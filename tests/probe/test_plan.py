"""What a probe will do and cost: within the budget, as large as it allows, and refused with a mend that mends."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rightrank.errors import BudgetError
from rightrank.estimates.cautions import FEWEST_TO_SCORE
from rightrank.probe.plan import (
    CANDIDATE_RANKS,
    FEW,
    FEWEST_HELD_OUT,
    LEAST_STEPS,
    LEAST_STEPS_OF_ALL,
    Job,
    Plan,
    Speed,
    _squeezed,
    evaluation_seconds,
    judged_rows,
    least_examples,
    make_plan,
    run_seconds,
    train_seconds,
)
from rightrank.probe.plan_words import plan_lines
from rightrank.recipe import Recipe
from rightrank.stats.paired import FEWEST_EXAMPLES

RECIPE = Recipe()
SPEED = Speed(
    floor_seconds=0.0,
    step_seconds=1.0,
    step_seconds_per_parameter=1e-7,
    evaluate_seconds_per_token=1e-4,
    together=1,
)


def job_of(examples=3000, recipe=RECIPE):
    held_out = max(1, examples // 8)
    return Job(examples, recipe, 100_000, decide_pool=held_out, score_pool=held_out, held_out_tokens=60.0)


speeds = st.builds(
    Speed,
    floor_seconds=st.floats(0, 1),
    step_seconds=st.floats(1e-3, 30),
    step_seconds_per_parameter=st.floats(0, 1e-6),
    evaluate_seconds_per_token=st.floats(1e-6, 1e-2),
    together=st.integers(1, 32),
)
recipes = st.builds(
    Recipe, epochs=st.sampled_from([0.5, 1.0, 2.0, 3.0, 10.0]), batch_size=st.integers(1, 128)
)
jobs = st.builds(job_of, st.integers(16, 100_000), recipes)
rank_lists = st.sets(st.sampled_from([1, 2, 3, *CANDIDATE_RANKS, 256]), min_size=1).map(
    lambda ranks: tuple(sorted(ranks))
)
runs = st.floats(-2, 3).map(lambda x: 10**x)
"""Of the recipe on all the data, as a budget."""


def planned(job, speed, ranks, runs, spent=0.0):
    budget = spent + runs * run_seconds(job, speed, 16, job.examples)
    try:
        return make_plan(job, speed, ranks, budget, spent)
    except BudgetError:
        return None


@given(jobs, speeds, rank_lists, runs, st.floats(0, 100))
def test_a_plan_keeps_to_its_budget_and_its_sizes(job, speed, ranks, runs, spent):
    plan = planned(job, speed, ranks, runs, spent)
    assume(plan is not None)
    assert plan.budget_seconds == spent + runs * run_seconds(job, speed, 16, job.examples)
    assert spent < plan.planned_seconds <= plan.budget_seconds
    assert 1 <= plan.scout_examples < plan.final_examples <= job.examples
    assert set(plan.scout_ranks) <= set(plan.ranks) <= set(ranks)
    assert plan.ranks == ranks or plan.breadth in FEW
    assert 1 <= plan.decide <= job.decide_pool and 1 <= plan.score <= job.score_pool


@given(jobs, speeds, rank_lists, runs)
def test_starved_means_fewer_than_35_steps_though_the_data_have_more(job, speed, ranks, runs):
    plan = planned(job, speed, ranks, runs)
    assume(plan is not None)
    final, everything = (job.recipe.steps(n) for n in (plan.final_examples, job.examples))
    assert plan.starved == (final < LEAST_STEPS and final < everything)
    if not plan.starved and plan.final_examples < job.examples:
        assert final >= min(LEAST_STEPS, everything)


@given(jobs, speeds, rank_lists, runs)
def test_no_run_is_planned_that_is_only_warm_up(job, speed, ranks, runs):
    plan = planned(job, speed, ranks, runs)
    assume(plan is not None)
    steps = job.recipe.steps(plan.scout_examples)
    assert steps >= min(LEAST_STEPS_OF_ALL, job.recipe.steps(job.examples) // 2)


def test_a_budget_that_pays_for_one_step_is_refused():
    """160 rows of one epoch, batch 8: it took scouts of 5 rows, one step at a learning rate of zero."""
    job = job_of(160, Recipe().given(epochs=1.0, batch_size=8))
    with pytest.raises(BudgetError) as refused:
        make_plan(job, replace(SPEED, step_seconds=10.0), CANDIDATE_RANKS, 120.0)
    again = make_plan(job, replace(SPEED, step_seconds=10.0), CANDIDATE_RANKS, refused.value.least_seconds)
    assert job.recipe.steps(again.scout_examples) == LEAST_STEPS_OF_ALL


def test_a_recipe_of_few_steps_is_told_so_before_it_pays():
    job = job_of(160, Recipe().given(epochs=1.0, batch_size=8))
    said = plan_lines(make_plan(job, SPEED, CANDIDATE_RANKS, 3600.0), job, 1, 8)
    assert any("has only 20 optimiser steps" in line and "more time does not" in line for line in said)
    usual = job_of(3000)
    assert not any(
        "optimiser steps" in line
        for line in plan_lines(make_plan(usual, SPEED, CANDIDATE_RANKS, 36000.0), usual, 1, 8)
    )


def test_starved_begins_below_35_steps():
    """Batch 16, 3 epochs: 35 steps' worth of rows are 186, which make 36; then half of those, and so on."""
    job = job_of(1000)
    assert least_examples(job) == 186
    found = {}
    for k in range(200):
        plan = planned(job, SPEED, CANDIDATE_RANKS, 0.1 * 1.03**k)
        if plan is not None:
            found[plan.final_examples] = plan.starved
    assert {n: found[n] for n in (1000, 500, 186, 93)} == {1000: False, 500: False, 186: False, 93: True}


@given(jobs, speeds, rank_lists, runs, st.floats(1, 100))
def test_more_budget_never_gives_a_smaller_size_of_the_same_breadth(job, speed, ranks, runs, more):
    """Nor a starved plan in place of a fed one. Across breadths the size may fall: every rank on half the rows before three on all."""
    small, large = planned(job, speed, ranks, runs), planned(job, speed, ranks, runs * more)
    assume(small is not None)
    assert large is not None
    assert small.starved or not large.starved
    if large.breadth == small.breadth:
        assert large.final_examples >= small.final_examples
    elif large.final_examples < small.final_examples:
        assert small.breadth in FEW, "only breadth is worth a smaller size"


@given(jobs, speeds, rank_lists, st.floats(0.001, 10), st.floats(0, 5))
def test_the_mend_of_too_small_a_budget_mends_it(job, speed, ranks, budget, spent):
    with pytest.raises(BudgetError, match="do not pay for a single comparison") as caught:
        make_plan(job, speed, ranks, min(budget, spent), spent)
    minutes = int(re.search(r"at least (\d+) minutes", caught.value.mend)[1])
    assert make_plan(job, speed, ranks, 60.0 * minutes, spent)
    less = 60.0 * (minutes - 1)
    if less > spent and minutes > 1:
        with pytest.raises(BudgetError):
            make_plan(job, speed, ranks, less, spent)


@given(jobs, speeds, rank_lists)
def test_all_rows_where_the_budget_pays_for_them(job, speed, ranks):
    first = planned(job, speed, ranks, 1e9)
    assert first is not None
    assert (first.final_examples, first.breadth, first.starved) == (job.examples, "wide", False)
    plain = make_plan(job, speed, ranks, first.all_rows_seconds * 1.001)
    assert plain.final_examples == job.examples
    assert plain.ranks == ranks


@pytest.mark.parametrize("ranks", [(8,), (3,), (16,), (128,)])
@pytest.mark.parametrize("budget", [400.0, 2_000.0, 1e5])
def test_lists_of_one_rank(ranks, budget):
    plan = make_plan(job_of(), SPEED, ranks, budget)
    assert plan.ranks == plan.scout_ranks == ranks


@pytest.mark.parametrize("examples", [16, 20, 40, 100])
@pytest.mark.parametrize("budget", [1e3, 1e5])
def test_small_data_sets_are_measured_whole_where_time_allows(examples, budget):
    job = job_of(examples)
    assert least_examples(job) == examples  # fewer than 50 steps in all
    plan = make_plan(job, SPEED, CANDIDATE_RANKS, budget)
    assert (plan.final_examples, plan.starved) == (examples, False)
    assert plan.scout_examples == examples // 2
    assert (plan.decide, plan.score) == (examples // 8, examples // 8)  # every held-out row judges


def test_without_a_budget_one_run_of_the_recipe_an_hour_at_most():
    job, fast = job_of(30_000), SPEED.slower(0.01)
    one_run = run_seconds(job, fast, 32, job.examples)
    assert one_run < 3600
    plan = make_plan(job, fast, CANDIDATE_RANKS, None, spent_seconds=10.0)
    assert plan.budget_seconds == pytest.approx(one_run + 10)
    assert plan.run_seconds == pytest.approx(one_run)
    assert make_plan(job, SPEED, CANDIDATE_RANKS, None).budget_seconds == 3600.0


def test_prices_by_hand():
    job = job_of(320)  # 20 batches, 60 steps
    speed = Speed(2.0, 0.5, 1e-6, 1e-3, together=3)
    assert run_seconds(job, speed, 10, 320) == pytest.approx(60 * (2 + 0.5 + 1e-6 * 100_000 * 10))
    # four in two packs: two floors
    assert train_seconds(job, speed, [10, 10, 20, 40], 320) == pytest.approx(
        60 * (2 * 2 + 4 * 0.5 + 0.1 * 80)
    )
    assert evaluation_seconds(job, speed, 7) == pytest.approx(7 * 60 * 1e-3)
    twice = speed.slower(2.0)
    assert train_seconds(job, twice, [10, 20], 320) == pytest.approx(
        2 * train_seconds(job, speed, [10, 20], 320)
    )
    assert evaluation_seconds(job, twice, 7) == pytest.approx(2 * evaluation_seconds(job, speed, 7))


@given(jobs)
def test_the_least_size_is_the_smallest_with_50_steps(job):
    least = least_examples(job)
    steps = job.recipe.steps
    assert steps(least) >= LEAST_STEPS or least == job.examples
    if least > 1 and steps(job.examples) >= LEAST_STEPS:
        assert (
            steps(least - 1) < LEAST_STEPS
            or least - 1 < LEAST_STEPS * job.recipe.batch_size / job.recipe.epochs
        )


def test_the_persons_own_setting_is_paid_for():
    job = job_of()
    budget = 4 * make_plan(job, SPEED, CANDIDATE_RANKS, 2_000.0).all_rows_seconds
    plain = make_plan(job, SPEED, CANDIDATE_RANKS, budget)
    with_own = make_plan(replace(job, own_rank=16), SPEED, CANDIDATE_RANKS, budget)
    assert (plain.final_examples, plain.breadth) == (with_own.final_examples, with_own.breadth)
    judged = evaluation_seconds(job, SPEED, judged_rows(job, plain, plain.final_examples, with_score=True))
    run = run_seconds(job, SPEED, 16, plain.final_examples)
    assert with_own.planned_seconds == pytest.approx(plain.planned_seconds + run + judged)
    assert plan_lines(plain, job, 1.5, 8.0)[0].endswith("until it is decided.")
    tight = replace(plain, budget_seconds=plain.planned_seconds / 0.95)
    assert plan_lines(tight, job, 1.5, 8.0)[0].endswith("GiB.")


def test_the_plan_in_words():
    job = job_of()
    plan = make_plan(job, SPEED, CANDIDATE_RANKS, 2_000.0)
    lines = plan_lines(plan, job, 1.5, 8.0)
    assert f"about {plan.planned_seconds / 60:.1f} min of 33.3 allowed" in lines[0]
    assert "peak 1.5 of 8.0 GiB" in lines[0]
    assert f"{plan.decide} held-out rows choose, {plan.score} others score" in lines[1]
    for more in (0, 1):
        pool = replace(job, decide_pool=plan.decide, score_pool=plan.score + more)
        said = plan_lines(plan, pool, 1.5, 8.0)[1]
        assert ("would take too much of the time" in said) == bool(more)
    assert lines[-1].startswith("The step from there to all rows is extrapolated")
    starved = make_plan(job, SPEED, CANDIDATE_RANKS, 250.0)
    assert starved.starved
    said = plan_lines(starved, job, 1, 8)
    assert said[-2].startswith("Too little time for runs of 35 steps")
    needed = int(said[-1].removeprefix("--budget ").split()[0])
    paid_for = make_plan(job, SPEED, CANDIDATE_RANKS, 60.0 * needed)
    assert paid_for.final_examples == job.examples and paid_for.breadth != "lean"
    whole = make_plan(job, SPEED, CANDIDATE_RANKS, 1e6)
    assert "on all;" in plan_lines(whole, job, 1, 8)[1] and len(plan_lines(whole, job, 1, 8)) == 3


def test_where_too_few_rows_score_no_time_is_sold():
    job = replace(job_of(), decide_pool=12, score_pool=12)
    said = plan_lines(make_plan(job, SPEED, CANDIDATE_RANKS, 250.0), job, 1, 8)
    assert said[-1].startswith(
        "Only 12 rows score, and 30 are the least for an interval: the answer can only"
    )
    assert not any("--budget" in line or "told apart" in line for line in said)


def test_a_plan_leaves_enough_rows_to_score_for_an_interval_where_there_are_any():
    dear = Speed(0.0, 1.0, 1e-7, evaluate_seconds_per_token=0.1, together=1)
    assert FEWEST_HELD_OUT == FEWEST_EXAMPLES == FEWEST_TO_SCORE
    assert make_plan(job_of(), dear, CANDIDATE_RANKS, 10**6).score >= FEWEST_EXAMPLES


def test_more_held_out_rows_resolve_more():
    job = job_of(10_000)
    dear = Speed(0.0, 1.0, 1e-7, evaluate_seconds_per_token=3e-3, together=1)
    small, large = (make_plan(job, dear, CANDIDATE_RANKS, budget) for budget in (3_000.0, 300_000.0))
    assert small.score < large.score
    assert large.resolvable_percent < small.resolvable_percent
    assert large.resolvable_percent == pytest.approx(1.96 * 0.75 * (300 / large.score) ** 0.5)


@given(st.integers(200, 10**7), st.integers(20, 200_000), speeds, st.floats(0.5, 600))
def test_of_a_sampled_data_set_no_run_is_longer_than_the_sample(examples, at_hand, speed, minutes):
    """What a run costs is still the price of all rows."""
    whole = job_of(examples)
    job = replace(whole, at_hand=at_hand)
    try:
        plan = make_plan(job, speed, (4, 8, 16, 32, 64, 128), minutes * 60)
    except BudgetError:
        return
    assert plan.final_examples <= job.most == min(at_hand, examples)
    assert plan.run_seconds == pytest.approx(run_seconds(whole, speed, 32, examples))
    assert plan.most == (job.most if at_hand < examples else None)
    assert not (
        plan.final_examples == job.most < examples and "on all;" in " ".join(plan_lines(plan, job, 1, 2))
    )


def test_a_sample_is_not_promised_to_be_all_rows():
    job = replace(job_of(5_000_000), at_hand=198_000)
    plan = make_plan(job, SPEED, (4, 8, 16), 10**7)
    words = " ".join(plan_lines(plan, job, 1, 2))
    assert plan.final_examples == 198_000
    assert (
        "on 198,000 of 5,000,000;" in words and "extrapolated" in words and "A larger --budget" not in words
    )


def test_a_run_is_what_the_person_s_own_trainer_takes():
    """Captured steps are many times faster than a trainer's: one run's time pays for the grid on all rows."""
    job, ranks = job_of(3200), CANDIDATE_RANKS
    fast = replace(
        SPEED, floor_seconds=0.008, step_seconds=0.003, step_seconds_per_parameter=0.0, together=32
    )
    fast = replace(fast, evaluate_seconds_per_token=1e-7, pack_seconds=1.5)
    as_trainers_do = replace(fast, trainer_step_seconds=0.3)
    steps = RECIPE.steps(3200)
    plan = make_plan(job, as_trainers_do, ranks, None)
    assert plan.run_seconds == pytest.approx(0.3 * steps)
    assert (plan.final_examples, plan.breadth) == (3200, "wide")
    assert plan.planned_seconds < plan.budget_seconds == pytest.approx(0.3 * steps)
    assert make_plan(job, fast, ranks, 60.0).run_seconds == run_seconds(job, fast, 32, 3200)
    assert as_trainers_do.slower(2.0).trainer_step_seconds == 0.3, "the person's trainer is not slowed by us"


def test_a_plan_a_little_too_dear_is_judged_by_fewer_rows():
    job = Job(1600, RECIPE, 100_000, decide_pool=500, score_pool=500, held_out_tokens=200.0)
    speed = replace(SPEED, step_seconds=1 / RECIPE.steps(1600), step_seconds_per_parameter=0.0, together=32)
    speed = replace(speed, evaluate_seconds_per_token=1e-6)
    roomy, tight = (make_plan(job, speed, CANDIDATE_RANKS, 1.0 / 0.9 * runs) for runs in (1.05, 0.98))
    assert (roomy.scout_examples, roomy.final_examples) == (tight.scout_examples, tight.final_examples)
    assert 0.5 * roomy.score <= tight.score < roomy.score
    assert tight.planned_seconds <= 0.98 < roomy.planned_seconds


@pytest.mark.parametrize(
    ("rows", "usable", "expected", "price"),
    [
        ((100, 100), 900.0, (100, 100), 900.0),
        ((100, 100), 899.0, (95, 95), 855.0),
        ((100, 100), 700.0, (75, 75), 675.0),  # 80 rows: 720 s
        ((100, 100), 450.0, (50, 50), 450.0),
        ((100, 100), 449.0, (100, 100), 900.0),  # not even half of them
        ((200, 100), 900.0, (120, 60), 6 * 120 + 3 * 60),
        ((40, 40), 300.0, (32, 32), 288.0),
        ((40, 40), 271.0, (30, 30), 270.0),
        ((40, 40), 269.0, (40, 40), 360.0),  # 30 rows are the least
        ((20, 100), 450.0, (20, 100), 6 * 20 + 3 * 100),  # fewer than that as they are
        ((20, 100), 300.0, (20, 60), 6 * 20 + 3 * 60),
    ],
)
def test_rows_are_taken_off_until_the_plan_is_paid_for_by_hand(rows, usable, expected, price):
    """A second a row and no training. Three runs look for a learning rate, two decide, the base is judged once.

    5 % of the rows are taken off at a time. Six times those that choose (the scouts and the others), three times those that score.
    """
    recipe = Recipe(epochs=1.0, batch_size=16)
    job = Job(
        16, recipe, 1, decide_pool=999, score_pool=999, held_out_tokens=1.0
    )  # one step: no looks on the way
    speed = Speed(0.0, 0.0, 0.0, evaluate_seconds_per_token=1.0, together=1)
    plan = Plan(8, 16, (8,), (8,), "rates", starved=False, decide=rows[0], score=rows[1])
    found, cost = _squeezed(job, speed, plan, usable)
    assert (found.decide, found.score) == expected
    assert cost == pytest.approx(price)
    assert replace(found, decide=rows[0], score=rows[1]) == plan
