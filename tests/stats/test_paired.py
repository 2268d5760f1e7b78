"""Closed forms and properties of paired contrasts, of comparisons with the best, and of the seed noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rightrank.stats.luck import noise_at
from rightrank.stats.paired import (
    Sampled,
    above_the_best,
    interval,
    paired_contrast,
    possible_best,
    resample_counts,
    resampled_ratio,
)
from rightrank.stats.seeds import (
    Luck,
    Replicated,
    alike,
    estimate_seed_noise,
    example_variance,
    setting_weights,
)


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


def replicated(loss_PS: np.ndarray, expected: float, example_variance: float = 0.0) -> Replicated:
    """P settings far apart with S seeds of their own each, so that no luck is shared."""
    settings, seeds = loss_PS.shape
    setting_C, own_C = np.repeat(np.arange(settings), seeds), np.arange(settings * seeds)
    alike_CC = alike(np.full(len(own_C), 8), np.full(len(own_C), -3.0), own_C)
    return Replicated(
        loss_PS.ravel(),
        setting_C,
        np.full(len(own_C), expected),
        np.full(len(own_C), example_variance),
        alike_CC,
    )


def test_example_variance_by_hand() -> None:
    alike_seeds = np.array([[1.0, 3.0], [2.0, 4.0]])  # differ alike on both examples
    assert example_variance(alike_seeds, np.array([2.0, 2.0])) == pytest.approx(0.0)
    other = np.array(
        [[1.0, 3.0], [3.0, 1.0]]
    )  # 1 nat a token each, on 4 tokens; residuals of 1 nat an example
    assert example_variance(other, np.array([2.0, 2.0])) == pytest.approx(4 * 2 / 1 / 1 / 16)


def test_seeds_that_differ_by_example_alone_are_no_seed_noise() -> None:
    rng = np.random.default_rng(8)
    tokens_E = np.full(300, 10.0)
    loss_PSE = 10 * rng.normal(2.0, 0.5, (12, 2, 300))
    variance = float(np.mean([example_variance(loss_SE, tokens_E) for loss_SE in loss_PSE]))
    level_PS = loss_PSE.sum(2) / tokens_E.sum()
    known = estimate_seed_noise([replicated(level_PS, 0.01, variance)])
    mistaken = estimate_seed_noise([replicated(level_PS, 0.01)])
    assert (
        known.factor < 1.6
    )  # the example noise is 0.029: twelve pairs say next to nothing of 0.01, the assumption stays
    assert mistaken.factor > 2.2


@pytest.mark.parametrize("true", [0.2, 1.0, 6.0])
def test_seed_noise_is_found(true: float) -> None:
    rng = np.random.default_rng(11)
    found = estimate_seed_noise([replicated(true * 0.01 * rng.normal(size=(60, 3)), 0.01)])
    assert found.factor == pytest.approx(
        np.sqrt((4 + 120 * true**2) / 124), rel=0.15
    )  # the assumption is worth 4
    assert (found.degrees_of_freedom, found.source) == (120, "measured")


def runs_of_seeds(settings: int, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Settings and correlation of runs of ranks 2, 4, 8, … at one learning rate, each with every seed."""
    setting_C, seed_C = np.repeat(np.arange(settings), seeds), np.tile(np.arange(seeds), settings)
    return setting_C, alike(2 ** (1 + setting_C), np.full(len(setting_C), -3.0), seed_C)


def test_shared_luck_is_not_mistaken_for_little_noise_of_many_runs() -> None:
    """Ten settings that rise and fall together by seed are not ten samples: in this draw of three seeds luck is small."""
    setting_C, alike_CC = runs_of_seeds(10, 3)
    rng = np.random.default_rng(3)
    factors = []
    for _ in range(200):
        loss_C = 0.01 * np.linalg.cholesky(alike_CC) @ rng.normal(size=30)
        group = Replicated(loss_C, setting_C, np.full(30, 0.01), np.zeros(30), alike_CC)
        factors.append(estimate_seed_noise([group]).factor)
    assert np.mean(factors) == pytest.approx(1.0, abs=0.1)
    assert np.std(factors) < 0.2, "0.29 where each run is taken for a sample of its own"


@pytest.mark.parametrize(("share", "wanted"), [(0.8, 0.99), (0.0, 0.3)])
def test_replicates_say_whether_luck_is_shared(share: float, wanted: float) -> None:
    setting_C, alike_CC = runs_of_seeds(6, 3)
    rng = np.random.default_rng(5)
    same_CC = np.equal.outer(np.tile(np.arange(3), 6), np.tile(np.arange(3), 6))
    root_CC = np.linalg.cholesky(share * same_CC + (1 - share) * np.eye(18))
    found = []
    for _ in range(100):
        loss_C = 0.01 * root_CC @ rng.normal(size=18)
        group = Replicated(loss_C, setting_C, np.full(18, 0.01), np.zeros(18), alike_CC)
        found.append(estimate_seed_noise([group]).shared)
    assert (np.median(found) > wanted) if share else (np.median(found) < wanted)


def test_luck_is_drawn_as_it_is_said_to_be_alike() -> None:
    places = [(2, -3.0), (8, -3.0), (256, -3.0), (8, -2.5), (8, -1.0)]
    luck = Luck([1, 2], 40_000)
    every = np.ones(40_000, bool)
    draw_CB = np.stack([luck.of(rank, 16.0, axis, every) for rank, axis in places])
    rank_C, axis_C = (np.array(column) for column in zip(*places, strict=True))
    assert np.cov(draw_CB) == pytest.approx(alike(rank_C, axis_C, np.zeros(5)), abs=0.025)
    assert np.array_equal(luck.of(8, 16.0, -3.0, every), draw_CB[1]), "whatever else is asked for"
    own_CB = np.stack([luck.of(rank, 16.0, axis, ~every) for rank, axis in places])
    assert np.cov(own_CB) == pytest.approx(np.eye(5), abs=0.025)
    assert abs(np.corrcoef(draw_CB[1], Luck([1, 3], 40_000).of(8, 16.0, -3.0, every))[0, 1]) < 0.02


def test_a_setting_of_one_seed_is_freed_of_the_luck_that_others_show() -> None:
    """Rank 2 has seeds 0, 1, 2, rank 4 seed 0 alone: with luck all but shared, its level is its loss less what seed 0 had of luck."""
    setting_C, seed_C = np.array([0, 0, 0, 1]), np.array([0, 1, 2, 0])
    alike_CC = alike(np.array([2, 2, 2, 4]), np.full(4, -3.0), seed_C)
    weight_UC = setting_weights(setting_C, np.ones(4), alike_CC)
    assert weight_UC.sum(1) == pytest.approx([1, 1])
    assert weight_UC[0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    shared = alike_CC[0, 3]
    assert weight_UC[1] == pytest.approx([-2 / 3 * shared, shared / 3, shared / 3, 1])
    assert np.array_equal(setting_weights(np.array([1, 0]), np.ones(2), alike_CC[:2, :2]), [[0, 1], [1, 0]])


def test_without_replicates_the_noise_is_assumed_and_uncertain() -> None:
    found = estimate_seed_noise([])
    assert (found.degrees_of_freedom, found.source) == (0, "assumed")
    assert found.factor == pytest.approx(
        1 / np.sqrt(stats.chi2.ppf(0.5, 4) / 4), rel=0.03
    )  # scaled inverse chi-square
    factor_B, shared_B = found.draw(np.random.default_rng(0), 20_000)
    assert shared_B[factor_B < 1].mean() == pytest.approx(0.9, abs=0.02)
    assert shared_B[factor_B > 6].mean() < 0.25
    low, high = np.quantile(factor_B, [0.025, 0.975])
    assert (low, high) == pytest.approx((0.6, 2.9), rel=0.05)
    assert found.percent(3e-3) == pytest.approx(3**0.4 * found.percent(1e-3))


def test_runs_are_averaged_by_hand() -> None:
    # Setting 5 twice, with spreads 1 and 2: squared and inverted 4 to 1. Setting 2 once, in between. No luck is shared.
    setting_C, spread_C = np.array([5, 2, 5]), np.array([1.0, 7.0, 2.0])
    for shared, first, last in ((1.0, 0.8, 0.2), (0.0, 0.5, 0.5), (0.5, 0.65, 0.35)):
        found_UC = setting_weights(setting_C, spread_C, np.eye(3), shared)
        assert found_UC[0] == pytest.approx([0, 1, 0])
        assert found_UC[1] == pytest.approx([first, 0, last])


def pairs(expected: float) -> Replicated:
    """60 settings of two seeds each, whose standard deviation is 0.02 nats."""
    return replicated(np.tile([0.02, -0.02], (60, 1)) / np.sqrt(2) + np.arange(60.0)[:, None], expected)


def test_noise_by_runs_of_the_same_size_or_else_of_others() -> None:
    """Twice what is assumed in 60 pairs, the assumption worth 4 more: (4 x 1 + 60 x 4) over the median of chi-square with 64."""
    middle = stats.chi2.ppf(0.5, 64)
    here = noise_at(1000, {1000: pairs(0.01), 100: pairs(0.0001)})
    assert here.factor == pytest.approx(np.sqrt((4 + 60 * 4) / middle), rel=0.03)
    assert here.degrees_of_freedom == 60
    # Ten times the rows, to the power of 0.3: twice. Noise is half of what it was on a tenth of them, and twice on ten times as many.
    fewer, more = (noise_at(n, {1000: pairs(0.01)}) for n in (10_079, 99))
    assert fewer.factor == pytest.approx(np.sqrt((4 + 60 * 1) / middle), rel=0.03)
    assert more.factor == pytest.approx(np.sqrt((4 + 60 * 16) / middle), rel=0.03)
    both = noise_at(10_079, {1000: pairs(0.01), 500: pairs(0.01)})
    assert both.degrees_of_freedom == 120
    assert noise_at(1000, {}).source == "assumed"
