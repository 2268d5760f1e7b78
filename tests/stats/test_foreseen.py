"""Settings between runs: where the best learning rate on all rows is foreseen to lie."""

from __future__ import annotations

import numpy as np
import pytest

from planted import ALL, World, draw
from rightrank.recipe import alpha_for
from rightrank.stats.decision import decide
from rightrank.stats.foreseen import BEYOND, SAME_AXIS, _highest, foreseen_best, foreseen_setting
from rightrank.stats.rungs import Measured, measure
from tabled import DIVERGED, RUN_NOT, tabled

PART = World(
    sizes=(ALL // 8, ALL // 4), ranks=(8, 32, 128), curvature=0.3, own=0.01, smooth=0.005, seed_share=0.0005
)


def measured(world: World) -> Measured:
    return measure(draw(world), 300, 0)


@pytest.mark.parametrize("best", [-3.25, -3.0, -2.8])
def test_the_foreseen_rate_follows_the_best_one_between_the_runs(best: float) -> None:
    found = foreseen_setting(measured(PART.but(best_log_rate=best)), 32)
    assert found.rank == 32 and found.alpha == alpha_for(32)
    assert found.axis == pytest.approx(best, abs=0.2)


def test_it_stays_near_what_was_run() -> None:
    data = measured(PART.but(best_log_rate=-1.0))
    for rank in PART.ranks:
        axis_u = data.axis_U[data.rank_U == rank]
        assert foreseen_setting(data, rank).axis <= axis_u.max() + BEYOND + 0.03


def test_a_rate_that_was_run_is_taken_as_it_is() -> None:
    data = measured(PART)
    for rank in PART.ranks:
        found = foreseen_setting(data, rank)
        near = np.abs(data.axis_U[data.rank_U == rank] - found.axis).min()
        assert found in data.settings or near > SAME_AXIS - 0.03


def test_of_the_ranks_the_one_that_loses_least() -> None:
    starving = World(
        lost=lambda rank: 0.1 if rank < 100 else 0.0,
        sizes=PART.sizes,
        ranks=PART.ranks,
        own=0.01,
        smooth=0.005,
    )
    assert foreseen_best(measured(starving)).rank == 128


def test_only_what_is_extrapolated_and_undecided_is_answered_between_runs() -> None:
    whole = decide(draw(World()), replicates=200)
    assert whole.foreseen == whole.best and not whole.extrapolated
    part = decide(draw(PART.but(own=0.15, smooth=0.1, best_log_rate=-3.25)), replicates=200)
    assert part.extrapolated and part.status == "UNDECIDED"
    assert part.choice in {price.setting for price in part.choices}
    run = {price.setting for price in part.choices if price.source != "derived"}
    assert any("is foreseen there" in reason for reason in part.reasons) is (part.choice not in run)
    assert part.worst_case_percent is not None


@pytest.mark.parametrize(
    ("small", "large", "expected"),
    [
        # Base 3, best 1: a tenth of the gain is 0.2 nats. Rates 1e-4, 1e-3, 1e-2.
        ([1.5, 1.4, 1.5], [1.2, 1.0, 1.19], -1.75),
        ([1.5, 1.4, 1.5], [1.2, 1.0, 1.21], -2.9),
        ([1.5, 1.4, 1.5], [1.2, 1.0, DIVERGED], -2.9),
        ([1.5, 1.4, DIVERGED], [1.2, 1.0, RUN_NOT], -2.9),  # not run again: the smaller size speaks
        ([1.5, 1.4, 1.7], [1.2, 1.0, 1.1], -1.75),  # run again: the larger one overrules
        ([1.5, 1.4, 1.7], [RUN_NOT, 1.0, RUN_NOT], -2.9),  # against the best of its own size
        ([1.5, 1.4, 1.5], [RUN_NOT, 1.0, RUN_NOT], -1.75),
        ([1.9, 1.4, 1.5], [1.9, 1.0, 1.1], -1.75),  # too low a rate is no edge
    ],
)
def test_the_highest_rate_that_may_be_foreseen_by_hand(
    small: list[float], large: list[float], expected: float
) -> None:
    """A quarter of a decade above the highest run that is good, a tenth where a higher one fell off the edge."""
    axes = [(8, -4.0), (8, -3.0), (8, -2.0), (32, -1.0)]
    data = tabled(axes, {400: [*small, DIVERGED], 800: [*large, RUN_NOT]})
    assert _highest(data, 8) == pytest.approx(expected)


def test_where_every_rate_fell_off_a_lower_one_is_foreseen() -> None:
    axes = [(8, -3.0), (8, -2.0), (32, -3.0)]
    data = tabled(axes, {400: [1.4, 1.7, 1.4], 800: [DIVERGED, RUN_NOT, 1.0]})
    assert _highest(data, 8) == pytest.approx(-3.1)
