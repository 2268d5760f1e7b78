"""Losses as they are printed: none below zero, no end where none is known, and no share of a gain that is not certain."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from rightrank.answer import _loss, measured_points
from rightrank.probe.loss_table import Configuration
from rightrank.recipe import Recipe
from rightrank.stats.paired import Estimate
from rightrank.stats.results import RunPoint


def test_no_loss_is_said_to_lie_below_zero() -> None:
    found = _loss(Estimate(0.5, -0.1, 1.2), "extrapolated")
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.2)
    assert _loss(Estimate(0.5, 0.3, 1.2), "measured").low == 0.3
    bare = _loss(Estimate(0.5, math.nan, math.nan), "measured")
    assert (bare.low, bare.high) == (None, None)


@pytest.mark.parametrize("margin", [None, 1.0])
def test_a_run_has_a_gain_lost_only_where_the_choices_have_one(margin: float | None) -> None:
    pack = SimpleNamespace(configurations=(Configuration(8, 27.0, 1e-3),), examples=40)
    table = SimpleNamespace(packs=[pack], results=[SimpleNamespace(train_loss_K=[1.0], looks=None)])
    decision = SimpleNamespace(margin=margin, runs=(RunPoint(2.0, Estimate(3.0, 1.0, 5.0)),))
    (point,) = measured_points(table, decision, Recipe(), np.ones(4, int))  # type: ignore[arg-type]
    assert (point.gain_lost is None) == (margin is None)
    assert point.loss == 2.0
