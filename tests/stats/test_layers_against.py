"""Some layers against all: closed forms, and what each verdict needs."""

from __future__ import annotations

import numpy as np
import pytest

from rightrank.stats.layers import against_all, best_rate

E = 200
TOKENS_E = np.full(E, 10)
BASE_E = np.full(E, 30.0)
ALL_E = np.full(E, 20.0)
"""One nat a token is gained."""
NOISE_E = np.where(np.arange(E) % 2, 1.0, -1.0)


def lost(some_E, *, margin=1.0, rows=E):
    return against_all(some_E[:rows], ALL_E[:rows], BASE_E[:rows], TOKENS_E[:rows], margin_percent=margin)


def test_percent_of_what_all_layers_gain():
    """0.3 of 10 nats a row, give or take 1: 3 %, and 1.97 standard errors of 10 % / sqrt(199) either way."""
    found = lost(ALL_E + 0.3 + NOISE_E)
    assert found.lost.value == pytest.approx(3.0)
    half = 1.97196 * 10 / np.sqrt(E - 1)
    assert (found.lost.low, found.lost.high) == pytest.approx((3 - half, 3 + half), rel=1e-4)


@pytest.mark.parametrize(
    ("shift", "noise", "verdict"),
    [
        (0.3, 0.1, "worse"),
        (0.05, 0.1, "as good"),
        (-0.03, 0.1, "better"),
        (-0.015, 0.1, "as good"),  # 2.1 standard errors below: enough for one comparison, not for two
        (0.1, 0.1, "cannot tell"),
        (0.0, 1.0, "cannot tell"),
    ],
)
def test_verdicts(shift, noise, verdict):
    assert lost(ALL_E + shift + noise * NOISE_E).verdict == verdict


def test_few_rows_and_rows_that_hang_on_one_tell_nothing():
    assert lost(ALL_E + 5.0 + 0.1 * NOISE_E, rows=29).verdict == "cannot tell"
    assert lost(ALL_E + 5.0 + 0.1 * NOISE_E, rows=30).verdict == "worse"
    one_E = ALL_E + 0.001 * NOISE_E
    one_E[3] -= 9.0
    assert lost(one_E).verdict == "cannot tell"


def test_where_all_layers_gain_nothing_there_is_no_share_of_it():
    assert against_all(ALL_E, BASE_E, BASE_E, TOKENS_E, margin_percent=1.0) is None


def test_the_best_learning_rate_is_one_that_did_not_diverge():
    diverged = np.full(E, np.inf)
    assert best_rate(np.stack([ALL_E + 1, ALL_E, diverged])) == 1
    assert best_rate(diverged[None]) is None
