"""Losses as they are printed: none below zero, and no end where none is known."""

from __future__ import annotations

import math

from rightrank.answer import _loss
from rightrank.stats.paired import Estimate


def test_no_loss_is_said_to_lie_below_zero() -> None:
    found = _loss(Estimate(0.5, -0.1, 1.2), "extrapolated")
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.2)
    assert _loss(Estimate(0.5, 0.3, 1.2), "measured").low == 0.3
    bare = _loss(Estimate(0.5, math.nan, math.nan), "measured")
    assert (bare.low, bare.high) == (None, None)
