"""The valley that data sets share: its shape, and what a fit to a few runs finds of a planted one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rightrank.stats.valley import (
    NAMES,
    STARTS,
    Observations,
    Prior,
    Valley,
    beyond_edge,
    fit,
    lost_percent,
    prior_from,
    recorded_prior,
)

WHOLE = 3200


def theta(**changes: float) -> np.ndarray:
    values = dict(zip(NAMES, recorded_prior().mean_P, strict=True)) | changes
    return np.array([values[name] for name in NAMES])


def lost(parameters: np.ndarray, rank: float, axis: float, halvings: float = 0.0) -> float:
    return float(lost_percent(parameters, *(np.array([v]) for v in (rank, axis, halvings)))[0])


def observed(
    parameters: np.ndarray, runs: list[tuple[int, float, int]], noise: float = 0.0, seed: int = 0
) -> Observations:
    """``runs``: rank, axis, rows. Every size on a level of its own, noise between runs."""
    rng = np.random.default_rng(seed)
    rank_O, axis_O, rows_O = (np.array(column, dtype=float) for column in zip(*runs, strict=True))
    halvings_O = np.log2(WHOLE / rows_O)
    lost_O = lost_percent(parameters, rank_O, axis_O, halvings_O) + noise * rng.normal(size=len(runs))
    for h in np.unique(halvings_O):
        lost_O[halvings_O == h] -= lost_O[halvings_O == h].min()
    deviation_BO = noise * rng.normal(size=(400, len(runs)))
    return Observations(rank_O, axis_O, halvings_O, lost_O, deviation_BO)


TWO_SIZES = [(32, axis, 400) for axis in (-3.5, -3.0, -2.5)] + [(32, axis, 800) for axis in (-3.25, -2.75)]


def test_the_lowest_point_lies_at_the_axis_and_moves_as_its_parameters_say() -> None:
    parameters = theta(axis=-2.8, axis_by_rank=-0.1, axis_by_rows=0.2)
    x = np.linspace(-5, -1, 4001)
    for rank, halvings, best in ((32, 0, -2.8), (128, 0, -3.0), (32, 3, -2.2), (8, 1, -2.4)):
        flat = np.full(len(x), float(halvings))
        assert x[np.argmin(lost_percent(parameters, np.full(len(x), rank), x, flat))] == pytest.approx(
            best, abs=1e-3
        )


def test_far_from_the_best_what_is_lost_grows_with_the_powers() -> None:
    parameters = theta(axis=-3.0, too_low=0.0, too_high=math.log(0.5), short=-12, excess=-12, height=3.0)
    height = math.exp(3.0)
    low, high = lost(parameters, 32, -5.0) + height, lost(parameters, 32, -1.0) + height
    # 10 times too low: a tenth of the power 1 and nothing of the other; sides weigh (high, low) / (low + high)
    assert low == pytest.approx(height * (1 / 3 * 10**2.0 + 2 / 3 * 10**-1.0), rel=1e-6)
    assert high == pytest.approx(height * (1 / 3 * 10**-2.0 + 2 / 3 * 10**1.0), rel=1e-6)


def test_small_ranks_lose_for_want_of_parameters() -> None:
    parameters = theta(axis_by_rank=0.0, height_by_rank=0.0, short=0.0, short_power=0.0, excess=-12)
    at_best = [lost(parameters, rank, float(parameters[0])) for rank in (4, 16, 32)]
    assert at_best == pytest.approx([8.0, 2.0, 1.0], abs=1e-4)


def test_a_fit_to_five_runs_on_two_sizes_finds_the_best_rate_on_all_rows() -> None:
    for seed in range(6):
        axis, drift = -3.0 + 0.1 * seed, 0.15 - 0.06 * seed
        parameters = theta(axis=axis, axis_by_rows=drift, height=1.5)
        found = fit(observed(parameters, TWO_SIZES, noise=0.1, seed=seed), WHOLE, recorded_prior())
        value, error = found.best_axis(32, WHOLE)
        assert abs(value - axis) < 0.25, (seed, value, axis, error)
        assert error < 0.3


def test_its_standard_errors_are_about_right() -> None:
    prior = recorded_prior()
    away = []
    for seed in range(40):
        parameters = np.random.default_rng([seed, 1]).normal(prior.mean_P, prior.spread_P)
        value, error = fit(observed(parameters, TWO_SIZES, noise=0.3, seed=seed), WHOLE, prior).best_axis(
            32, WHOLE
        )
        away.append((value - parameters[0]) / error)
    assert 0.6 < math.sqrt(float(np.mean(np.square(away)))) < 1.7
    assert abs(float(np.mean(away))) < 0.5


def test_without_a_second_size_the_prior_says_how_little_is_known_of_all_rows() -> None:
    parameters = theta(axis=-3.0)
    one, two = (
        fit(observed(parameters, runs, noise=0.1), WHOLE, recorded_prior()).best_axis(32, WHOLE)[1]
        for runs in (TWO_SIZES[:3], TWO_SIZES)
    )
    assert one > 1.5 * two
    spread = dict(zip(NAMES, recorded_prior().spread_P, strict=True))
    # the best rate on an eighth of the rows is known: what is left is the prior of the axis, and of three halvings' drift
    left = 1 / math.hypot(1 / spread["axis"], 1 / (3 * spread["axis_by_rows"]))
    assert one == pytest.approx(left, rel=0.15)


def test_the_order_of_runs_does_not_matter() -> None:
    seen = observed(theta(axis=-2.7), TWO_SIZES, noise=0.1)
    order = [3, 0, 4, 2, 1]
    turned = Observations(
        seen.rank_O[order],
        seen.axis_O[order],
        seen.halvings_O[order],
        seen.lost_O[order],
        seen.deviation_BO[:, order],
    )
    assert fit(turned, WHOLE, recorded_prior()).theta_P == pytest.approx(
        fit(seen, WHOLE, recorded_prior()).theta_P, abs=1e-3
    )


def test_what_moves_between_sizes_is_the_difference_of_both() -> None:
    valley = fit(observed(theta(), TWO_SIZES), WHOLE, recorded_prior())
    rank_U, axis_U = np.array([8.0, 32.0]), np.array([-3.0, -2.5])
    value_U, value_BU = valley.moved(rank_U, axis_U, 800, WHOLE)
    expected = [
        lost(valley.theta_P, r, x) - lost(valley.theta_P, r, x, 2.0) for r, x in ((8, -3.0), (32, -2.5))
    ]
    assert value_U == pytest.approx(expected)
    assert value_BU.shape == (400, 2)


def test_the_recorded_prior_is_whole() -> None:
    prior = recorded_prior()
    assert len(prior.mean_P) == len(prior.spread_P) == len(NAMES)
    assert (prior.spread_P > 0).all() and np.isfinite(prior.mean_P).all()
    assert STARTS[0] == 0.0
    with pytest.raises(KeyError):
        prior_from({"parameters": {}})
    assert isinstance(prior, Prior)


def test_the_best_rate_and_its_error_by_hand() -> None:
    # Rank 128 is two doublings from 32, 800 of 3,200 rows two halvings: -3.0 - 2 x 0.1 + 2 x 0.2 = -2.8.
    theta_P = theta(axis=-3.0, axis_by_rank=-0.1, axis_by_rows=0.2)
    # Two replicates, 0.1 + 2 x 0.05 - 2 x 0.2 = -0.2 away and as far on the other side; the other parameters do not matter.
    away_P = np.array([0.1, 0.05, -0.2, *[9.0] * (len(NAMES) - 3)])
    valley = Valley(theta_P, np.stack([theta_P + away_P, theta_P - away_P]), WHOLE)
    assert valley.best_axis(128, 800) == pytest.approx((-2.8, 0.2))
    assert valley.best_axis(32, WHOLE) == pytest.approx((-3.0, 0.1))
    assert valley.best_axis(16, WHOLE) == pytest.approx((-2.9, 0.05))


def test_beyond_the_edge_by_hand() -> None:
    runs = [
        # rank, axis, halvings, lost, beyond: ten percent more than the best of its rank and size, at a higher rate
        (32, -3.5, 0, 40.0, False),  # too low a rate is a side of the valley
        (32, -3.0, 0, 1.0, False),
        (32, -2.5, 0, 11.0, False),  # just ten more
        (32, -2.0, 0, 11.5, True),
        (32, -3.5, 1, 0.0, False),  # the best is the lowest tried: the valley may lie below
        (32, -3.0, 1, 30.0, False),
        (8, -3.5, 0, 13.0, False),
        (8, -3.0, 0, 12.0, False),
        (8, -2.5, 0, 21.0, False),  # 20 more than rank 32 at its best, 9 than its own
        (8, -2.0, 0, 23.0, True),
    ]
    rank_O, axis_O, halvings_O, lost_O, beyond_O = (np.array(column) for column in zip(*runs, strict=True))
    assert beyond_edge(rank_O, axis_O, halvings_O, lost_O).tolist() == beyond_O.tolist()
