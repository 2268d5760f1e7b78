"""Closed forms and properties of paired contrasts, of comparisons with the best, and of the seed noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rightrank.stats.paired import (
    Sampled,
    above_the_best,
    interval,
    paired_contrast,
    possible_best,
    resample_counts,
    resampled_ratio,
)
from rightrank.stats.seeds import estimate_seed_noise, replicate_squares


def test_contrast_by_hand() -> None:
    # Differences 2, 4, 0 on 10, 10, 20 tokens: 6/40 = 0.15 a token; residuals 0.5, 2.5, -3; squares sum to 15.5.
    found = paired_contrast(np.array([12.0, 14.0, 5.0]), np.array([10.0, 10.0, 5.0]), np.array([10, 10, 20]))
    assert found.difference == pytest.approx(0.15)
    assert found.standard_error == pytest.approx(np.sqrt(15.5 * 3 / 2) / 40)
    assert found.high - found.difference == pytest.approx(4.302653 * found.standard_error, rel=1e-6)
    assert found.warning is not None
    assert "3 held-out" in found.warning


def test_one_example_tells_nothing() -> None:
    found = paired_contrast(np.array([2.0]), np.array([1.0]), np.array([4]))
    assert found.difference == 0.25
    assert found.low == -np.inf
    assert found.warning


def test_a_difference_that_hangs_on_one_example_is_not_trusted() -> None:
    tokens_E = np.full(200, 10)
    a_E = np.zeros(200)
    assert paired_contrast(a_E + np.random.default_rng(0).normal(size=200), a_E, tokens_E).warning is None
    a_E[7] = 1000.0
    warning = paired_contrast(a_E, np.zeros(200), tokens_E).warning
    assert warning is not None
    assert "hangs on about 3 of 200" in warning


losses = st.lists(
    st.tuples(st.floats(-50, 50), st.floats(-50, 50), st.integers(1, 90)), min_size=3, max_size=40
)


@settings(max_examples=60, deadline=None)
@given(losses, st.randoms(use_true_random=False), st.floats(0.1, 10))
def test_contrast_knows_no_order_scales_and_changes_sign(rows, random, scale) -> None:
    a_E, b_E, tokens_E = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    one = paired_contrast(a_E, b_E, tokens_E)
    order = list(range(len(rows)))
    random.shuffle(order)
    other = paired_contrast(a_E[order], b_E[order], tokens_E[order])
    close = {"rel": 1e-6, "abs": 1e-6}
    assert other.difference == pytest.approx(one.difference, **close)
    assert other.standard_error == pytest.approx(one.standard_error, **close)
    swapped = paired_contrast(scale * b_E, scale * a_E, tokens_E)
    assert swapped.difference == pytest.approx(-scale * one.difference, **close)
    assert swapped.standard_error == pytest.approx(scale * one.standard_error, **close)


@settings(max_examples=30, deadline=None)
@given(losses)
def test_every_example_twice_leaves_the_difference_and_shrinks_the_error(rows) -> None:
    a_E, b_E, tokens_E = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    one, two = (paired_contrast(np.tile(a_E, k), np.tile(b_E, k), np.tile(tokens_E, k)) for k in (1, 2))
    E = len(rows)
    assert two.difference == pytest.approx(one.difference, abs=1e-9)
    assert two.standard_error == pytest.approx(
        one.standard_error * np.sqrt((E - 1) / (2 * E - 1)), rel=1e-6, abs=1e-9
    )


def test_counts_draw_every_example_equally() -> None:
    counts_BE = resample_counts(np.random.default_rng(3), 4000, 7)
    assert np.all(counts_BE.sum(axis=1) == 7)
    assert counts_BE.mean(axis=0) == pytest.approx(np.ones(7), abs=0.06)
    assert counts_BE.var() == pytest.approx(6 / 7, abs=0.03)  # binomial: 7 · 1/7 · 6/7


def test_resampling_agrees_with_the_linearised_error() -> None:
    rng = np.random.default_rng(5)
    tokens_E = rng.integers(5, 60, 300)
    a_E, b_E = tokens_E * rng.normal(2, 0.5, (2, 300))
    value_K, deviation_BK = resampled_ratio(np.stack([a_E, b_E]), tokens_E, resample_counts(rng, 4000, 300))
    known = paired_contrast(a_E, b_E, tokens_E)
    assert value_K[0] - value_K[1] == pytest.approx(known.difference)
    assert np.std(deviation_BK[:, 0] - deviation_BK[:, 1]) == pytest.approx(known.standard_error, rel=0.06)


def test_few_examples_widen_by_student() -> None:
    rng = np.random.default_rng(5)
    value_K, deviation_BK = resampled_ratio(
        np.array([[0.0, 1.0]]), np.ones(2), resample_counts(rng, 20000, 2)
    )
    # Draws of the mean: 0, 1/2, 1 with 1/4, 1/2, 1/4, variance 1/8; times sqrt(2) and t(1 df) / normal = 12.706 / 1.960.
    assert value_K[0] == 0.5
    assert deviation_BK.std() == pytest.approx(np.sqrt(1 / 8) * np.sqrt(2) * 12.706 / 1.960, rel=0.03)


def test_combine_carries_errors_and_ignores_what_does_not_exist() -> None:
    sampled = Sampled(np.array([1.0, 3.0, np.nan]), np.array([[0.1, 0.2, 0.0]]), np.array([[0.0, 1.0, 9.0]]))
    out = sampled.combine(np.array([[-1.0, 1.0, 0.0]]))
    assert out.value_K == pytest.approx([2.0])
    assert out.deviation_BK[0] == pytest.approx([0.1 + 1.0])


def test_above_the_best_with_one_rival_is_a_plain_interval() -> None:
    noise_B = np.random.default_rng(1).normal(0, 1, 200_000)
    low, high = above_the_best(1.0, noise_B, np.array([0.0]), np.zeros((200_000, 1)))
    assert (low, high) == pytest.approx((1 - 1.96, 1 + 1.96), abs=0.02)


def test_the_lower_end_pays_for_choosing_among_rivals_the_upper_does_not() -> None:
    rng = np.random.default_rng(2)
    noise_BR = rng.normal(0, 1, (50_000, 10))
    low, high = above_the_best(0.0, np.zeros(50_000), np.zeros(10), noise_BR)
    together = stats.norm.ppf(0.5 + 0.95 ** (1 / 10) / 2)  # all ten at once
    assert low == pytest.approx(-together, abs=0.05)
    assert high == pytest.approx(1.96, abs=0.06)


def test_noise_of_rivals_widens_the_best_things_own_interval() -> None:
    rng = np.random.default_rng(4)
    noise_BR = rng.normal(0, 1, (4000, 2))
    ends = [
        above_the_best(0.0, np.zeros(4000), np.array([1.0, 1.0]), s * noise_BR)[1] for s in (0.1, 1.0, 5.0)
    ]
    assert ends[0] < 0 < ends[1] < ends[2]


def test_a_twin_is_no_rival() -> None:
    noise_B = np.random.default_rng(1).normal(0, 1, 500)
    assert above_the_best(2.0, noise_B, np.array([2.0]), noise_B[:, None]) == (0.0, 0.0)


def test_the_hopeless_are_no_rivals() -> None:
    noise_BK = np.random.default_rng(1).normal(0, 1, (4000, 3))
    assert list(possible_best(np.array([0.0, 3.0, 6.0]), noise_BK, keep=0)) == [0, 1]  # 3 × sqrt(2) = 4.24
    assert list(possible_best(np.array([0.0, 3.0, 6.0]), noise_BK, keep=2)) == [0, 1, 2]


def test_interval_contains_its_value() -> None:
    found = interval(5.0, np.full(100, 2.0))
    assert (found.low, found.value, found.high) == (5.0, 5.0, 7.0)


def test_replicates_by_hand() -> None:
    loss_SE = np.array(
        [[1.0, 3.0], [2.0, 4.0]]
    )  # 1 and 1.5 a token on 4 tokens: the seeds differ alike on both examples
    square, freedom, example_variance = replicate_squares(loss_SE, np.array([2.0, 2.0]))
    assert (square, freedom) == (pytest.approx(2 * 0.25**2), 1)
    assert example_variance == pytest.approx(0.0)


def test_seeds_that_differ_by_example_alone_are_no_seed_noise() -> None:
    rng = np.random.default_rng(8)
    rows = [replicate_squares(10 * rng.normal(2.0, 0.5, (2, 300)), np.full(300, 10.0)) for _ in range(12)]
    square_P, freedom_P, variance_P = (np.array(column) for column in zip(*rows, strict=True))
    expected_P = np.full(12, 0.01)
    known = estimate_seed_noise(square_P, freedom_P, variance_P, expected_P)
    mistaken = estimate_seed_noise(square_P, freedom_P, 0 * variance_P, expected_P)
    assert (
        known.factor < 1.6
    )  # the example noise is 0.029: twelve pairs say next to nothing of 0.01, the assumption stays
    assert mistaken.factor > 2.2


@pytest.mark.parametrize("true", [0.2, 1.0, 6.0])
def test_seed_noise_is_found(true: float) -> None:
    rng = np.random.default_rng(11)
    square_P = (true * 0.01) ** 2 * rng.chisquare(2, 60)
    found = estimate_seed_noise(square_P, np.full(60, 2), np.zeros(60), np.full(60, 0.01))
    assert found.factor == pytest.approx(
        np.sqrt((4 + 120 * true**2) / 124), rel=0.15
    )  # the assumption is worth 4
    assert (found.degrees_of_freedom, found.source) == (120, "measured")


def test_without_replicates_the_noise_is_assumed_and_uncertain() -> None:
    nothing = np.zeros(0)
    found = estimate_seed_noise(nothing, nothing.astype(int), nothing, nothing)
    assert (found.degrees_of_freedom, found.source) == (0, "assumed")
    assert found.factor == pytest.approx(
        1 / np.sqrt(stats.chi2.ppf(0.5, 4) / 4), rel=0.03
    )  # scaled inverse chi-square
    factor_B = found.draw_factors(np.random.default_rng(0), 20_000)
    low, high = np.quantile(factor_B, [0.025, 0.975])
    assert (low, high) == pytest.approx((0.6, 2.9), rel=0.05)
    assert found.percent(3e-3) == pytest.approx(2.5 * found.percent(1e-3))
