"""What carries losses from one size to the next, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rightrank.stats.forecast import _bend, _by_valley, _forecast, _nearest
from rightrank.stats.off_best import HIGH_ERROR
from tabled import RUN_NOT, FlatShape, noisy, tabled


def test_shrinking_by_a_factor_against_the_straight_line_by_hand() -> None:
    # Setting 0 is the last best. Setting 1 lost 0.4 against it, then 0.2: by the same factor 0.1 and 0.05, in a straight line 0 and -0.2.
    before_U = np.array([2.0, 2.4, 2.1, 2.2, 1.9, RUN_NOT, 2.1])
    last_U = np.array([1.0, 1.2, 1.3, 1.2, 1.1, 1.4, RUN_NOT])
    run_U = np.isfinite(before_U) & np.isfinite(last_U)
    assert _bend(last_U, before_U, 2.0, run_U)[1] == pytest.approx(0.25)
    assert _bend(last_U, before_U, 1.0, run_U)[1] == pytest.approx(0.1)
    # What grew, stayed, changed its sign, or was run once only is carried straight on.
    assert np.delete(_bend(last_U, before_U, 2.0, run_U), 1).tolist() == [0.0] * 6


def test_contrasts_are_to_the_last_best_that_was_run_before() -> None:
    # Setting 2 is best now but new: contrasts to setting 0 count, not to it.
    run_U = np.array([True, True, False])
    found_U = _bend(np.array([1.0, 1.2, 0.5]), np.array([2.0, 2.4, RUN_NOT]), 2.0, run_U)
    assert found_U.tolist() == pytest.approx([0.0, 0.25, 0.0])
    # The same where setting 2 was run at neither size and is best by forecast alone; it is carried on as its own contrast says.
    found_U = _bend(np.array([1.0, 1.2, 0.5]), np.array([2.0, 2.4, 1.6]), 2.0, run_U)
    assert found_U.tolist() == pytest.approx([0.0, 0.25, 0.0])
    # Nothing was run at both: then the best of what is known at both.
    found_U = _bend(np.array([1.0, 1.2, 0.5]), np.array([2.0, 2.4, RUN_NOT]), 2.0, np.zeros(3, bool))
    assert found_U.tolist() == pytest.approx([0.0, 0.25, 0.0])


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (-3.0, [0, 1 / 2, 1 / 2, 0, 0]),  # 0 and 0.1 away; what was run once, right there, shows no drift
        (-2.7, [0, 1 / 2, 1 / 2, 0, 0]),  # 0.3 and 0.2
        (-3.28, [1, 0, 0, 0, 0]),  # 0.12 away; 0.28 is 0.16 further
        (-1.5, [0, 0, 0, 1, 0]),  # 0.5: a step of the grid
        (-1.4, [1 / 2, 1 / 2, 0, 0, 0]),  # 0.6: too far, so the better half's
    ],
)
def test_whose_drift_is_taken_by_hand(axis: float, expected: list[float]) -> None:
    data = tabled(
        [(8, -3.4), (8, -3.0), (16, -2.9), (32, -2.0), (32, -3.0), (64, axis)],
        {400: [1.0] * 6, 800: [1.0] * 6},
    )
    both_U = np.array([True, True, True, True, False, False])
    better_U = np.array([True, True, False, False, False, False])
    assert _nearest(data, both_U, better_U, 5).tolist() == pytest.approx([*expected, 0.0])


def test_what_a_too_high_learning_rate_loses_is_not_carried_on_as_growing_by_hand() -> None:
    """r=16 at five learning rates and r=64 at a too high one, run once; twice the rows once more. Gain 1 nat."""
    settings = [(16, -3.5), (16, -3.0), (16, -2.5), (16, -2.0), (16, -1.5), (64, -2.5)]
    sizes = {400: [2.2, 2.0, 2.1, 2.5, 2.2, RUN_NOT], 800: [2.0, 1.8, 2.0, 2.2, 2.0, 2.3]}
    data = tabled(settings, sizes)
    data.normal_BU[:] = np.linspace(-1, 1, len(data.normal_BU))[:, None]
    ahead, choose_U = _forecast(data, [rung.judge for rung in data.rungs], 1600, 1.0)
    # The best went from 2.0 to 1.8 and goes on to 1.6. What is too low lost 0.2 against it and goes on losing that.
    assert ahead.value_K[:2].tolist() == pytest.approx([1.8, 1.6])
    # Too high: 0.1 grew to 0.2 and 0.0 to 0.2, which stay 0.2; so does the 0.5 of the one that was run once, whose likes grew.
    assert ahead.value_K[[2, 4, 5]].tolist() == pytest.approx([1.8, 1.8, 2.1])
    assert choose_U[[2, 5]].tolist() == pytest.approx([1.8, 2.1])
    # 0.5 shrank to 0.4, and goes on shrinking as anything does.
    assert 1.6 + 0.3 < ahead.value_K[3] < 1.6 + 0.33
    # A doubling costs a share of what is lost as a standard error, in either case; what is not too high has none of its own.
    spread_U = ahead.deviation_BK[-1]
    assert spread_U[[0, 1]].tolist() == [0.0, 0.0]
    assert spread_U[[2, 4, 5]].tolist() == pytest.approx([HIGH_ERROR * lost for lost in (0.2, 0.2, 0.5)])
    assert spread_U[3] > HIGH_ERROR * 0.4


def test_four_times_the_rows_are_two_doublings_of_a_too_high_rates_error() -> None:
    data = tabled([(16, -3.0), (16, -2.5)], {400: [2.0, 2.1], 800: [1.8, 2.0]})
    data.normal_BU[:] = 1.0
    for rows, doublings in ((1600, 1), (3200, 2)):
        ahead, _ = _forecast(data, [rung.judge for rung in data.rungs], rows, 1.0)
        assert ahead.value_K[1] - ahead.value_K[0] == pytest.approx(0.2)
        assert ahead.deviation_BK[0, 1] == pytest.approx(doublings * HIGH_ERROR * 0.2)


def test_a_forecast_that_shares_no_setting_is_moved_onto_the_valley_by_hand() -> None:
    """Gain 2 nats. Weights fall by a factor of two for every 2 ln 2 percent that the valley loses."""
    a_half = 2 * math.log(2)
    lost_U = np.array([0.0, a_half, a_half, 2 * a_half, 0.0, 0.0])
    lost_BU = np.stack([lost_U, lost_U])
    lost_BU[:, 2] += [3.0, -3.0]
    up_B = np.array([0.3, -0.3])
    # Weights 1 and 1/2: (2 x 1.00 + 1 x 1.03) / 3 = 1.01; the last two lost more than a tenth of the gain and lie on no valley.
    measured = noisy([1.00, 1.03, RUN_NOT, RUN_NOT, 1.21, RUN_NOT], {0: up_B}, {}, 2)
    # Weights 1/2 and 1/4: (2 x 2.00 + 1 x 2.06) / 3 = 2.02.
    forecast = noisy([RUN_NOT, RUN_NOT, 2.00, 2.06, RUN_NOT, 2.21], {}, {3: up_B}, 2)
    data = tabled(
        [(8, -4.0), (8, -3.0), (16, -4.0), (16, -3.0), (32, -4.0), (32, -3.0)],
        {400: [1.0] * 6},
        valley=FlatShape(lost_U, lost_BU),
    )
    found = _by_valley(data, 800, measured, forecast, 2.0)
    # The valley has the forecast's settings lose (4/3 - 1/3) a_half percent of 2 nats more than the measured ones.
    assert found.value_K.tolist() == pytest.approx([1.01 - 2.02 + 0.02 * a_half])
    assert found.example_BK[:, 0].tolist() == pytest.approx([0.2, -0.2])  # two thirds of 0.3
    # A third of 0.3 comes off, and two thirds of 3 % of 2 nats come to it.
    assert found.seed_BK[:, 0].tolist() == pytest.approx([-0.1 + 0.04, 0.1 - 0.04])
