"""What is trained where the answer for all rows is foreseen from a part of them."""

from __future__ import annotations

import math

import pytest

from rightrank.probe.foresee import AWAY, STEP, most_worth, pair, rounded, unbracketed
from rightrank.probe.ladder import next_stage
from rightrank.probe.settings import configuration
from test_ladder import simulate
from worlds import World, evidence_of, plan_of

PART = {"scout": 400, "final": 800}
SCOUTS = [(configuration(32, rate, "rank"), 400) for rate in (3e-4, 1e-3, 3e-3)]


def evidence(world, done):
    return evidence_of(world, done, 800)


@pytest.mark.parametrize("best", [6e-4, 1e-3, 2e-3])
def test_two_rates_around_the_foreseen_best(best):
    low, high = pair(evidence(World(best_rate=best), SCOUTS), plan_of("rates", **PART), 32)
    assert math.log10(high / low) == pytest.approx(2 * AWAY, abs=0.03)
    assert math.log10(math.sqrt(low * high) / best) == pytest.approx(0, abs=0.25)


@pytest.mark.parametrize(("best", "further"), [(1e-3, []), (1e-2, [9.5e-3]), (3e-5, [9.5e-5])])
def test_one_rate_further_where_the_best_is_not_known(best, further):
    found = unbracketed(evidence(World(best_rate=best), SCOUTS), plan_of("rates", **PART), 32)
    assert found == pytest.approx(further, rel=0.02)


def test_where_all_diverged_one_further_down():
    world = World(diverges_above=1e-9)
    assert unbracketed(evidence(world, SCOUTS), plan_of("rates", **PART), 32) == [
        rounded(math.log10(3e-4) - STEP)
    ]
    assert pair(evidence(world, SCOUTS), plan_of("rates", **PART), 32) == []
    assert most_worth(evidence(world, SCOUTS), plan_of("rates", **PART), SCOUTS) is None


@pytest.mark.parametrize("breadth", ["rates", "lean"])
def test_rates_first_then_two_on_more_rows_then_other_ranks(breadth):
    stages, done = simulate(World(all_examples=3200), plan_of(breadth, **PART))
    first, second = stages[:2]
    assert (first.examples, len(first.configurations)) == (400, 3)
    assert (second.examples, [c.rank for c in second.configurations]) == (800, [32, 32])
    assert second.with_score
    if breadth == "lean":
        assert sorted(c.rank for c in stages[2].configurations) == [8, 128]
    assert len(done) == len(set(done)), "nothing is trained twice"
    assert {n for _, n in done} == {400, 800}


@pytest.mark.parametrize(("breadth", "then"), [("lean", {8, 128}), ("rates", None)])
@pytest.mark.parametrize("yours", [(8, 16.0, 2e-4), (64, 128.0, 2e-4)])
def test_your_own_setting_is_run_before_what_is_worth_most(breadth, then, yours):
    """Even of a rank that is tried anyway, which gets a learning rate of its own all the same."""
    stages, _ = simulate(World(all_examples=3200), plan_of(breadth, **PART), yours=yours)
    final = [stage for stage in stages if stage.examples == 800]
    assert [stage.why for stage in final[:2]] == ["learning rates", "your setting"]
    (own,) = final[1].configurations
    assert (own.rank, own.alpha, own.learning_rate, own.role) == (*yours, "yours")
    assert final[1].with_score
    if then is not None:
        assert {c.rank for c in final[2].configurations} == then


def test_what_is_worth_most_is_new_and_within_the_plan():
    plan = plan_of("rates", **PART)
    world = World(all_examples=3200)
    done = SCOUTS + [(configuration(32, rate, "rank"), 800) for rate in (5.6e-4, 1.8e-3)]
    run, size = most_worth(evidence(world, done), plan, done)
    assert size in (400, 800) and run.rank in plan.ranks
    assert (run, size) not in done


def test_a_plan_of_all_rows_measures_them():
    stages, done = simulate(World(all_examples=800), plan_of("lean", **PART))
    assert {c.rank for c, n in done if n == 800} == {8, 32, 128}
    assert (
        next_stage(
            evidence(World(all_examples=800), done),
            plan_of("lean", **PART),
            done,
            prior=1e-3,
            widest_rank=256,
            yours=None,
        )
        is None
    )
    assert stages


def test_no_rate_above_one_that_diverged_and_no_search_without_end():
    world = World(best_rate=0.3, diverges_above=2e-3)
    plan = plan_of("rates", **PART)
    assert unbracketed(evidence(world, SCOUTS), plan, 32) == []
    many = [(configuration(32, 3e-4 * 1.5**k, "rank"), 400) for k in range(7)]
    assert unbracketed(evidence(World(best_rate=0.3), many), plan, 32) == []
    stages, done = simulate(
        World(best_rate=0.3, diverges_above=3e-3, saturates_at=1.0, noise=0.0), plan_of("lean"), prior=1e-4
    )
    assert len(done) < 40
    assert stages
