"""Which run is worth its price, on valleys of which one thing is unknown."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.stats.next_run import Run, worth_percent
from rightrank.stats.valley import NAMES, Observations, Valley, recorded_prior

WHOLE = 3200
B = 600


def valley(unknown: str, spread: float) -> Valley:
    """The recorded shape, all but one parameter of it known."""
    mean_P = recorded_prior().mean_P
    theta_BP = np.tile(mean_P, (B, 1))
    theta_BP[:, NAMES.index(unknown)] += spread * np.random.default_rng(0).normal(size=B)
    return Valley(mean_P, theta_BP, WHOLE)


def seen(axis: float, rows: int = 400) -> Observations:
    """One run at hand."""
    return Observations(*(np.array([v]) for v in (32.0, axis, np.log2(WHOLE / rows), 0.0)), np.zeros((B, 1)))


AXIS = float(recorded_prior().mean_P[0])
CHOICES = np.arange(AXIS - 1, AXIS + 1.01, 0.125)
RANKS = np.full(len(CHOICES), 32.0)


def worth(shape: Valley, at: Observations, runs: list[Run]) -> np.ndarray:
    return worth_percent(shape, at, RANKS, CHOICES, runs)


def test_a_run_on_the_other_side_of_an_unknown_best_is_worth_much() -> None:
    shape, here = valley("axis", 0.4), seen(AXIS - 0.5)
    across, beside = worth(shape, here, [Run(32, AXIS + 0.5, 400), Run(32, AXIS - 0.49, 400)])
    assert across > 0.1
    assert across > 3 * beside, "half a decade off, beside a run, and across from it"


def test_where_all_is_known_nothing_is_worth_anything() -> None:
    assert worth(valley("axis", 1e-6), seen(AXIS), [Run(32, AXIS + 0.5, 400)]) == pytest.approx([0], abs=1e-6)


def test_what_does_not_change_the_choice_is_worth_nothing() -> None:
    """How steep the valley is: a run tells much of that, and the best point is the same."""
    assert worth(valley("height", 0.7), seen(AXIS), [Run(32, AXIS + 0.5, 400)])[0] < 0.01


def test_a_run_alone_on_its_size_tells_nothing() -> None:
    shape = valley("axis", 0.4)
    assert worth(shape, seen(AXIS - 0.5), [Run(32, AXIS + 0.5, 800)]) == [0.0]
    assert worth(shape, seen(AXIS - 0.5, rows=800), [Run(32, AXIS + 0.5, 800)])[0] > 0.1


def test_no_run_makes_the_choice_worse() -> None:
    runs = [Run(rank, AXIS + step, 400) for rank in (4, 32, 128) for step in (-1.0, -0.3, 0.0, 0.6)]
    assert (worth(valley("axis_by_rows", 0.2), seen(AXIS), runs) >= 0).all()
