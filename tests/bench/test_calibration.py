"""Planted ranks: what is counted, by hand, and that repeats are drawn without another draw for the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from bench.calibration import COST_PERCENT, Planted, Trial, best_by_rank, summary, within_2x_pct
from bench.invented import Truth, invented

TRIAL = Trial(8, True, False, "SETTLED", 8, 0.2, 0.8, 7, 8, 8, 30.0)


def test_what_a_planted_rank_costs() -> None:
    plain, planted = Truth(), Planted(planted=8)
    for rank, cost in ((1, 3), (2, 2), (4, 1), (8, 0), (64, 0)):
        more = planted.lost(rank, -3.0, 3200, 3200) - plain.lost(rank, -3.0, 3200, 3200)
        assert more == pytest.approx(cost * COST_PERCENT)


def test_the_board_by_hand() -> None:
    found = summary(
        [
            TRIAL,
            replace(TRIAL, rank=2, cost_runs=34.0),
            replace(TRIAL, rank=4, true_lost=0.9),  # wrong
            replace(TRIAL, planted=2, rank=8, equivalent=4),
            replace(TRIAL, planted=1, rank=8, equivalent=1, status="UNDECIDED", intervals=0, covered=0),
        ]
    )
    assert (found["trials"], found["certificates"], found["wrong_certificates"]) == (5, 4, 1)
    assert found["answered_pct"] == 80.0
    assert found["rank_within_2x_pct"] == 50.0
    assert found["rank_within_2x_of_truly_equivalent_pct"] == 75.0
    assert found["rank_within_2x_of_all_trials_pct"] == 40.0
    assert (found["rank_more_than_2x_too_small"], found["rank_more_than_2x_too_large"]) == (1, 1)
    assert found["cost_runs"] == pytest.approx(30.8)
    assert (found["intervals"], found["coverage_pct"]) == (32, 87.5)
    assert found["statuses"] == {"SETTLED": 4, "UNDECIDED": 1}


def test_nothing_certified_is_no_share() -> None:
    assert within_2x_pct([]) is None
    assert summary([replace(TRIAL, status="UNDECIDED")])["rank_within_2x_pct"] is None


def test_the_lowest_of_each_rank() -> None:
    assert best_by_rank([(4, 1.0), (8, 0.5), (4, 0.25), (4, math.inf)]) == {4: 0.25, 8: 0.5}


def test_settings_near_the_best_of_their_rank_have_seeds_and_nothing_else_changes() -> None:
    truth = Truth.drawn(3)
    plain, more = (invented(truth, seed=3, scored=20, repeated_percent=p) for p in (0.0, 3.0))
    C = len(plain.rank_C)
    assert len(more.rank_C) > C
    np.testing.assert_allclose(more.loss_CE[:C], plain.loss_CE, rtol=1e-12)
    whole = (more.examples_C == 3200) & (more.alpha_C != 2.0 * more.rank_C)
    level = {
        (int(r), round(float(x), 3)): truth.lost(int(r), float(x), 3200, 3200)
        for r, x, s, w in zip(more.rank_C, more.axis_C, more.seed_C, whole, strict=True)
        if w and s == 0
    }
    lowest = best_by_rank((rank, lost) for (rank, _), lost in level.items())
    for (rank, axis), lost in level.items():
        own = more.rank_C == rank
        seeds = more.seed_C[whole & own & (np.abs(more.axis_C - axis) < 1e-3)]
        if lost <= lowest[rank] + 3.0:
            assert sorted(seeds) == [0, 1, 2]
    best = whole & (more.rank_C == 8) & (more.seed_C > 0)
    losses = more.loss_CE[best].sum(1)
    assert len(set(losses.round(6))) == len(losses), "each has luck of its own"
