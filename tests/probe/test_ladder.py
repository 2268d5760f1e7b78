"""Which configurations come next, on surfaces whose truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rightrank.probe.ladder import next_stage, smaller_stage
from rightrank.probe.loss_table import Configuration
from rightrank.probe.settings import (
    GUIDE_LEARNING_RATE,
    HIGHEST,
    LOWEST,
    configuration,
    half_decade,
    on_grid,
    prior_learning_rate,
    shifted,
)
from rightrank.recipe import alpha_for
from worlds import World, evidence_of, plan_of


def simulate(world, plan, *, prior=1e-3, widest=256, yours=None, done=(), most=60):
    """Every stage to the end, each trained as proposed; what was done."""
    done, stages = list(done), []
    while True:
        evidence = evidence_of(world, done, plan.final_examples) if done else None
        stage = next_stage(evidence, plan, done, prior=prior, widest_rank=widest, yours=yours)
        if stage is None:
            return stages, done
        stages.append(stage)
        assert len(stages) <= most, [s.why for s in stages]
        done += [(c, stage.examples) for c in stage.configurations]


def rates(stage, rank):
    return sorted(c.learning_rate for c in stage.configurations if c.rank == rank)


def test_the_grid_of_half_decades():
    assert [half_decade(i) for i in (-8, -7, -6, -5, 0, 1)] == [1e-4, 3e-4, 1e-3, 3e-3, 1.0, 3.0]
    assert (on_grid(1.2e-3), on_grid(2.5e-3), on_grid(3e-3)) == (1e-3, 3e-3, 3e-3)
    assert (shifted(1e-3, 1), shifted(1e-3, -1), shifted(3e-3, 2)) == (3e-3, 3e-4, 3e-2)
    for index in range(-12, 3):
        assert on_grid(half_decade(index)) == half_decade(index)


def test_the_prior_falls_with_width_and_stays_in_bounds():
    assert prior_learning_rate(2000) == 3e-4  # 5e-4 lies nearer to it than to 1e-3, in logs
    assert prior_learning_rate(576) == 1e-3
    assert prior_learning_rate(16384) == 1e-4
    assert LOWEST <= prior_learning_rate(10**9) < prior_learning_rate(1) <= HIGHEST


@pytest.mark.parametrize(
    ("breadth", "wanted"),
    [
        ("wide", [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]),
        ("plain", [3e-4, 1e-3, 3e-3]),
        ("lean", [3e-4, 1e-3, 3e-3]),
    ],
)
def test_learning_rates_come_first(breadth, wanted):
    plan = plan_of(breadth)
    stage = next_stage(None, plan, [], prior=1e-3, widest_rank=256, yours=None)
    assert (stage.why, stage.examples, stage.with_score) == ("learning rates", 400, False)
    assert {c.rank for c in stage.configurations} == set(plan.scout_ranks)
    assert all(rates(stage, rank) == wanted for rank in plan.scout_ranks)
    assert all(c.alpha == alpha_for(c.rank) and c.seed == 0 for c in stage.configurations)
    first = stage.configurations[: len(plan.scout_ranks)]
    assert all(c.learning_rate == 1e-3 for c in first), "the prior is the most wanted"


def test_a_grid_that_was_begun_is_completed_first():
    plan = plan_of("plain")
    grid = next_stage(None, plan, [], prior=1e-3, widest_rank=256, yours=None).configurations
    done = [(c, 400) for c in grid[:2]]
    stage = next_stage(evidence_of(World(), done, 1600), plan, done, prior=1e-3, widest_rank=256, yours=None)
    assert stage.configurations == grid[2:]


def test_no_learning_rate_beyond_what_anyone_uses():
    stage = next_stage(None, plan_of("wide"), [], prior=1e-1, widest_rank=256, yours=None)
    assert rates(stage, 32) == [1e-2, 3e-2, 1e-1]


@pytest.mark.parametrize("best", [1e-5, 3e-5, 1e-2, 3e-2])
def test_the_grid_grows_until_the_best_is_inside(best):
    plan = plan_of("plain")
    stages, done = simulate(World(best_rate=best), plan)
    for rank in plan.scout_ranks:
        tried = sorted(c.learning_rate for c, n in done if n == 400 and c.rank == rank and c.seed == 0)
        assert tried[0] < best < tried[-1]
        assert best in tried
    assert [s.why for s in stages[:2]] == ["learning rates", "learning rates"]


def test_where_everything_diverges_the_grid_grows_downward():
    world = World(best_rate=3e-5, diverges_above=1e-4)
    stages, done = simulate(world, plan_of("plain"))
    assert rates(stages[0], 32) == [3e-4, 1e-3, 3e-3]
    assert rates(stages[1], 32) == [1e-4]
    assert any(math.isfinite(world.loss(c, n)) for c, n in done if n == 1600)
    assert 3e-5 in {c.learning_rate for c, n in done if n == 1600}


def test_a_surface_that_always_diverges_comes_to_an_end():
    stages, done = simulate(World(diverges_above=1e-9), plan_of("plain"))
    assert min(c.learning_rate for c, _ in done) == LOWEST
    assert stages[-1] is not None


def test_ranks_take_the_learning_rate_foreseen_between_the_scouts():
    """The best one falls half a decade from 8 to 32 and from 32 to 128: 16 and 64 lie between."""
    world = World(best_rate=1e-3 * 10**0.25, slope=-0.25, noise=0.0)
    stages, _ = simulate(world, plan_of("plain"))
    ranks = next(s for s in stages if s.why == "ranks")
    assert (ranks.examples, ranks.with_score) == (1600, True)
    got = {c.rank: c.learning_rate for c in ranks.configurations}
    assert set(got) == {4, 8, 16, 32, 64, 128}
    assert (got[4], got[8], got[32], got[128]) == (3e-3, 3e-3, 1e-3, 3e-4)
    assert got[16] in (1e-3, 3e-3) and got[64] in (3e-4, 1e-3)
    order = [c.rank for c in ranks.configurations]
    assert order[0] == 32 and order[-1] == 4, "the middle first"


def first_finals(breadth):
    stages, _ = simulate(World(), plan_of(breadth))
    return next(s for s in stages if s.examples == 1600)


def test_wide_plain_and_lean_first_stages_on_the_final_size():
    wide, plain, lean = (first_finals(breadth) for breadth in ("wide", "plain", "lean"))
    own = [c for c in wide.configurations if c.role == "rank"]
    assert len(own) == 18 and all(len(rates(wide, r)) >= 3 for r in (4, 8, 16, 32, 64, 128))
    guides = [c for c in wide.configurations if c.role == "guide"]
    assert {(c.rank, c.alpha, c.learning_rate) for c in guides} == {
        (r, 2.0 * r, GUIDE_LEARNING_RATE) for r in (8, 16, 32, 64, 128)
    }
    assert sorted(c.rank for c in plain.configurations) == [4, 8, 16, 32, 64, 128]
    assert [c.rank for c in lean.configurations] == [32, 8, 128]


def test_a_lean_plan_stays_lean():
    stages, done = simulate(World(best_rate=1e-3, saturates_at=512), plan_of("lean"))
    assert {c.role for c, _ in done} <= {"learning rate", "rank", "seed"}
    assert {c.rank for c, _ in done} == {8, 32, 128}
    assert not any(c.seed for s in stages if s.examples == 400 for c in s.configurations)


def test_scouts_are_repeated_once():
    stages, _ = simulate(World(), plan_of("plain"))
    repeats = [s for s in stages if s.examples == 400 and s.why == "seeds"]
    assert len(repeats) == 1
    assert sorted((c.rank, c.seed) for c in repeats[0].configurations) == [(8, 1), (32, 1), (128, 1)]
    assert all(c.learning_rate == 1e-3 for c in repeats[0].configurations)


def test_finals_are_repeated_at_both_ends_of_what_is_possible():
    stages, _ = simulate(World(saturates_at=8), plan_of("plain"))
    before, repeats = [], None
    for s in (s for s in stages if s.examples == 1600):
        if s.why == "seeds":
            repeats = s
            break
        before += [c for c in s.configurations if c.seed]
    repeated = {*before, *repeats.configurations}
    both = {c.rank for c in repeated if {replace(c, seed=seed) for seed in (1, 2)} <= repeated}
    assert {8, 128} <= both


def test_what_is_not_told_from_the_smallest_rank_is_repeated_seed_by_seed():
    """Rows tell nothing apart here but seeds do: r=8 is as good as the larger ranks, and so noisy that one run does not show it."""
    stages, done = simulate(World(saturates_at=8, noise=0.01), plan_of("plain"))
    apart = [s for s in stages if s.why == "settings not told apart"]
    assert apart
    for stage in apart:
        assert stage.examples == 1600 and stage.with_score
        assert len({c.seed for c in stage.configurations}) == 1
        assert len(stage.configurations) <= 1 + 3
    at = {c for c, n in done if n == 1600}
    assert all(replace(c, seed=0) in at for c in at), "none is repeated that was not run"


def test_a_repeat_is_the_same_setting_with_another_seed():
    """Also where the best of a rank is a setting whose alpha is not ours."""
    world = World(best_rate=2e-4 * 128 / alpha_for(64), curvature=2.0, saturates_at=64)
    _, done = simulate(world, plan_of("plain"), yours=(64, 128.0, 2e-4))
    first = {(c.rank, c.alpha, c.learning_rate, n) for c, n in done if c.seed == 0}
    repeated = {(c.rank, c.alpha, c.learning_rate, n) for c, n in done if c.seed}
    assert repeated <= first
    assert (64, 128.0, 2e-4, 1600) in repeated


@pytest.mark.parametrize(("widest", "reached"), [(2048, 256), (128, 128), (200, 128)])
def test_ranks_beyond_the_largest_where_it_alone_is_possible(widest, reached):
    _, done = simulate(World(saturates_at=4096), plan_of("plain"), widest=widest)
    assert max(c.rank for c, _ in done) >= reached
    assert max(c.rank for c, _ in done) <= widest


def test_ranks_below_the_smallest_where_it_may_be_enough():
    _, done = simulate(World(saturates_at=2), plan_of("plain"))
    assert min(c.rank for c, _ in done) <= 2
    _, done = simulate(World(saturates_at=64), plan_of("plain"))
    assert min(c.rank for c, _ in done) == 4


def every_smaller_stage(world, plan, done, *, narrowest=1):
    """As long as there is one, each trained as proposed; rank 8 is said to be sure."""
    done, stages = list(done), []
    while stage := smaller_stage(
        evidence_of(world, done, plan.final_examples), plan, done, answer=8, narrowest_rank=narrowest
    ):
        assert stage.why == "smaller ranks" and stage.examples == plan.final_examples and stage.with_score
        stages.append(stage)
        assert len(stages) < 30
        done += [(c, stage.examples) for c in stage.configurations]
    return stages, done


def grid(ranks=(4, 8, 16, 32), rates_=(3e-4, 1e-3, 3e-3), n=1600):
    return [(configuration(r, rate, "rank"), n) for r in ranks for rate in rates_]


QUIET = {"noise": 0.0005, "curvature": 2.0}


def test_the_next_smaller_rank_starts_where_the_smallest_has_its_best_learning_rate():
    """Whatever the scouts' is: theirs is 3e-3 here, on a quarter of the rows."""
    world = World(saturates_at=1, **QUIET)
    done = [*grid(), (configuration(8, 3e-3, "learning rate"), 400)]
    stages, _ = every_smaller_stage(world, plan_of("wide"), done)
    assert stages[0].configurations == (configuration(2, 1e-3, "rank"),)
    assert stages[1].configurations == (configuration(1, 1e-3, "rank"),)


@pytest.mark.parametrize("breadth", ["wide", "plain"])
@pytest.mark.parametrize(
    ("enough", "narrowest", "reached"), [(1, 1, 1), (2, 1, 1), (4, 1, 2), (1, 2, 2), (8, 1, 4)]
)
def test_smaller_ranks_are_tried_until_one_loses(breadth, enough, narrowest, reached):
    world = World(saturates_at=enough, **QUIET)
    _, done = every_smaller_stage(world, plan_of(breadth), grid(), narrowest=narrowest)
    assert min(c.rank for c, _ in done) == reached


def test_a_rank_that_lost_at_one_learning_rate_is_given_others():
    """r=4 was run at 3e-3 alone, where it loses 46 % more than at 1e-3; so was r=2, whose turn comes once r=4 does not lose."""
    world = World(saturates_at=4, **QUIET)
    done = [*grid((8, 16, 32)), *grid((2, 4), (3e-3,))]
    stages, after = every_smaller_stage(world, plan_of("plain"), done)
    first = [(c.rank, c.learning_rate) for c in stages[0].configurations if c.rank < 8]
    assert sorted(first) == [(4, 1e-3), (4, 1e-2)]
    assert [sorted({c.learning_rate for c, _ in after if c.rank == r}) for r in (4, 2, 1)] == [
        [1e-3, 3e-3, 1e-2],
        [1e-3, 3e-3, 1e-2],
        [],
    ]


def test_a_rank_that_lost_is_run_where_the_next_larger_has_its_best_learning_rate():
    """Between points of the grid, in a valley so steep that both of its neighbours there lose 3 % more."""
    world = World(best_rate=10**-2.75, saturates_at=1, noise=0.0005, curvature=0.5)
    done = [*grid((4, 8, 16, 32)), (configuration(8, 1.8e-3, "rank"), 1600)]
    stages, after = every_smaller_stage(world, plan_of("plain"), done)
    assert stages[0].configurations == (configuration(4, 1.8e-3, "learning rate"),)
    assert {c.rank for c, _ in after if c.learning_rate == 1.8e-3 and not c.seed} >= {1, 2, 4, 8}


def test_nothing_smaller_is_asked_of_plans_that_certify_nothing():
    world = World(saturates_at=1, **QUIET)
    for plan in (plan_of("lean"), plan_of("rates"), plan_of("plain", starved=True)):
        assert smaller_stage(evidence_of(world, grid(), 1600), plan, grid(), answer=4) is None


def test_your_own_setting_is_measured_with_the_ranks_and_first():
    stages, _ = simulate(World(), plan_of("plain"), yours=(24, 12.0, 5e-5))
    final = [s for s in stages if s.examples == 1600]
    own = final[0].configurations[0]
    assert (own, own.role) == (Configuration(24, 12.0, 5e-5), "yours")
    assert final[0].with_score


def test_your_setting_is_not_trained_twice_where_it_is_one_of_ours():
    ours = configuration(32, 1e-3, "rank")
    _, done = simulate(World(), plan_of("plain"), yours=(32, ours.alpha, 1e-3))
    assert done.count((ours, 1600)) == 1


def test_guides_settings_come_before_the_end():
    _, done = simulate(World(), plan_of("plain"))
    guides = {(c.rank, c.alpha, c.learning_rate) for c, n in done if c.role == "guide" and n == 1600}
    assert guides == {(r, 2.0 * r, GUIDE_LEARNING_RATE) for r in (8, 16, 32, 64, 128)}
    narrow = plan_of("plain", ranks=(4, 8), scout_ranks=(8,))
    _, done = simulate(World(), narrow)
    assert {c.rank for c, _ in done if c.role == "guide"} == {8}, "none beyond the ranks in question"


worlds = st.builds(
    World,
    best_rate=st.floats(-7, 0).map(lambda x: 10**x),
    slope=st.floats(-0.5, 0.5),
    curvature=st.floats(0.0, 1.0),
    saturates_at=st.sampled_from([1.0, 8.0, 64.0, 4096.0]),
    diverges_above=st.sampled_from([1e-4, 3e-3, 1.0]),
    noise=st.sampled_from([0.0, 0.01, 0.2]),
)


@settings(max_examples=8, deadline=None)
@given(
    worlds,
    st.sampled_from(["wide", "plain", "lean", "rates"]),
    st.sampled_from([1e-4, 1e-3, 1e-2]),
    st.sampled_from([None, (16, 32.0, 2e-4), (256, 512.0, 1e-1)]),
)
def test_on_any_surface_it_ends_and_never_repeats_itself(world, breadth, prior, yours):
    plan = plan_of(breadth)
    # Where no learning rate matters, every rank asks for others and for other seeds: 63 stages.
    stages, done = simulate(world, plan, prior=prior, yours=yours, most=80)
    assert len(set(done)) == len(done)
    assert all(s.configurations for s in stages)
    own = [c for c, _ in done if c.role not in ("guide", "yours") and c.alpha == alpha_for(c.rank)]
    assert all(LOWEST <= c.learning_rate <= HIGHEST for c in own if c.seed == 0)
    assert all(1 <= c.rank <= 256 for c, _ in done)
    assert {n for _, n in done} == {400, 1600}
    assert set(plan.ranks) <= {c.rank for c, n in done if n == 1600}


def test_one_rank_alone():
    plan = plan_of("plain", ranks=(8,), scout_ranks=(8,))
    stages, done = simulate(World(), plan, widest=8)
    assert {c.rank for c, n in done if n == 1600} >= {8}
    assert len(stages) < 15
