"""Losses carried from one number of training examples to the next.

Contrasts between settings, not levels, are what is carried. What was not run at a larger size is forecast there from the smaller ones,
so that settings dropped on the way stay in the comparison.

Dimensions: U settings, B replicates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rightrank.stats.off_best import ASIDE, HIGH_ERROR
from rightrank.stats.paired import Sampled
from rightrank.stats.valley import EDGE_PERCENT

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from rightrank.stats.rungs import Measured

# How a setting's loss moves, per unit of ln(training examples), is smooth in rank at one learning rate: where a setting was run at one
# size only, it is interpolated between the ranks around it, with this standard error as a share of the gain, below and above HIGH_FROM.
# Assumed from ranks 16 and 64 between 8, 32 and 128, n/8 to n (SmolLM2-135M, five data sets: 0.08 % up to 1e-3, 0.6 % at 3e-3).
SMOOTH_DRIFT_LOW, SMOOTH_DRIFT_HIGH = 0.001, 0.006
HIGH_FROM = 1.7e-3  # halfway (in log) between the learning rates that were measured
# The same without ranks on both sides: the mean of the better half of all settings. Assumed from near-best settings of the same runs
# (0.8-1.6 % on four data sets).
ASSUMED_DRIFT = 0.012
# Learning rates (log10) this close count as one for the purpose above. Chosen: a quarter of a half-decade step.
SAME_RATE = 0.13
NEAR_RATE = 0.55  # a step of the grid, and a little
# With fewer settings than this run at both of the last two sizes, drift is that of the valley which other data sets share, fitted to all
# runs; its errors are wide, and where runs show the drift, they tell it. What the valley misses has this standard error, in percent of
# the gain and as a share of the drift. Assumed until recorded.
FEWEST_SHARED = 1
# What one setting shows is no drift between settings: a certificate needs two.
FEWEST_TO_CERTIFY = 2
VALLEY_ERROR_PERCENT, VALLEY_ERROR_SHARE = 0.2, 0.1
# How much a setting may lose to count, by a factor of e less, where the valley says how two sizes' losses lie. Chosen.
NEAR_PERCENT = 2.0
# A contrast that shrank is carried on as shrinking by the same factor again, not as crossing zero: the first share of the way to the
# straight line is taken off, and the second is its standard error. Of 0, 0.1 and 0.25, the first that held most of what twice the data
# showed (``python -m bench.more_data``); the second assumed: on banking77 a straight line from n/8 makes rank 1 the best at 2n.
STRAIGHT_SHARE, BEND_ERROR = 0.1, 0.25


def _borrowed(
    data: Measured, both_U: Bool[np.ndarray, " U"], reference_U: Bool[np.ndarray, " U"]
) -> tuple[Float[np.ndarray, "U U"], Float[np.ndarray, " U"]]:
    """Whose drift each setting takes (weights that sum to 1), and the standard error of doing so as a share of the gain."""
    weight_UU, share_U = np.eye(len(both_U)), np.zeros(len(both_U))
    log_rank_U = np.log(data.rank_U)
    for u in np.flatnonzero(~both_U):
        alike_U = both_U & (np.abs(data.axis_U - data.axis_U[u]) <= SAME_RATE)
        below = [v for v in np.flatnonzero(alike_U) if log_rank_U[v] <= log_rank_U[u]]
        above = [v for v in np.flatnonzero(alike_U) if log_rank_U[v] >= log_rank_U[u]]
        weight_UU[u] = _nearest(data, both_U, reference_U, int(u))
        share_U[u] = ASSUMED_DRIFT
        if below and above:
            low, high = max(below, key=lambda v: log_rank_U[v]), min(above, key=lambda v: log_rank_U[v])
            gap = log_rank_U[high] - log_rank_U[low]
            part = (log_rank_U[u] - log_rank_U[low]) / gap if gap > 0 else 0.5
            weight_UU[u] = 0.0
            weight_UU[u, low] += 1 - part
            weight_UU[u, high] += part
            share_U[u] = SMOOTH_DRIFT_LOW if 10 ** data.axis_U[u] < HIGH_FROM else SMOOTH_DRIFT_HIGH
    return weight_UU, share_U


def _nearest(
    data: Measured, both_U: Bool[np.ndarray, " U"], reference_U: Bool[np.ndarray, " U"], u: int
) -> Float[np.ndarray, " U"]:
    """Weights of those whose drift setting ``u`` takes, for want of ranks on both sides: the nearest learning rate's, or the better half's.

    Too small a learning rate is made up for by more data and too large a one is not: only settings of one side move alike.
    """
    apart_U = np.where(both_U, np.abs(data.axis_U - data.axis_U[u]), np.inf)
    near_U = apart_U <= min(float(apart_U.min()) + SAME_RATE, NEAR_RATE)
    chosen_U = near_U if near_U.any() else reference_U
    return np.asarray(chosen_U / chosen_U.sum(), dtype=float)


def _forecast(
    data: Measured, tables: list[Sampled], target: float, gain: float
) -> tuple[Sampled, Float[np.ndarray, " U"]]:
    """The last table carried on to ``target`` training examples, and values that serve to choose. ``gain``: nats, scales what is assumed.

    Every setting moves as it moved between the last two tables, linear in ln(training examples), so that errors grow by themselves; one
    whose learning rate is too high, and which lost more than before, as the best does.
    The values to choose by are shrunk towards the common drift as noise demands (James-Stein: the variance of the true drifts over
    that plus the noise); they certify nothing.
    """
    last = tables[-1]
    sizes = [float(r.examples) for r in data.rungs[: len(tables)]]
    step = math.log(target / sizes[-1])
    if step <= 0:
        return last, last.value_K
    both_U = (
        np.isfinite(last.value_K) & np.isfinite(tables[-2].value_K) if len(tables) > 1 else np.zeros(1, bool)
    )
    if _shared(data, len(tables)) < FEWEST_SHARED:
        ahead = _along_valley(data, last, int(sizes[-1]), target, gain)
        return ahead, ahead.value_K
    if not both_U.any():
        unknown = step * ASSUMED_DRIFT * gain * data.normal_BU
        return Sampled(last.value_K, last.example_BK, last.seed_BK + unknown), last.value_K
    log_ratio = math.log(sizes[-1] / sizes[-2])
    reference_U = both_U & (last.value_K <= np.median(last.value_K[both_U]))
    run_U = both_U & _run_at_both(data, len(tables))
    moved = last.plus(tables[-2], -1.0)
    weight_UU, share_U = _borrowed(data, both_U, reference_U)
    best = _best_run(last.value_K, tables[-2].value_K, run_U)
    high_U = (data.axis_U > data.axis_U[best] + ASIDE) & (last.value_K > last.value_K[best])
    grew_U = high_U & (weight_UU @ np.nan_to_num(moved.value_K) > moved.value_K[best])
    weight_UU[grew_U], share_U[grew_U] = np.eye(len(both_U))[best], 0.0
    drift = moved.combine(weight_UU / log_ratio)
    mean = moved.combine(reference_U[None] / reference_U.sum() / log_ratio)
    bend_U = weight_UU @ _bend(last.value_K, tables[-2].value_K, step / log_ratio, run_U)
    error_U = step * share_U * gain + BEND_ERROR * np.abs(bend_U)
    error_U += HIGH_ERROR * step / math.log(2) * np.where(high_U, last.value_K - last.value_K[best], 0.0)
    straight = last.plus(drift, step)
    ahead = Sampled(
        straight.value_K + (1 - STRAIGHT_SHARE) * bend_U,
        straight.example_BK,
        straight.seed_BK + error_U * data.normal_BU,
    )
    contrast_U = drift.value_K - mean.value_K
    noise_U = np.mean((drift.deviation_BK - mean.deviation_BK) ** 2, axis=0)
    true = max(0.0, float(np.mean(contrast_U[reference_U] ** 2) - np.mean(noise_U[reference_U])))
    shrink_U = true / np.maximum(true + noise_U, 1e-300)
    return ahead, straight.value_K + bend_U - step * (1 - shrink_U) * contrast_U


def _run_at_both(data: Measured, tables: int) -> Bool[np.ndarray, " U"]:
    """Settings that were run at the sizes of the last two of so many tables, not forecast at either."""
    return np.asarray(data.rungs[tables - 1].measured_U & data.rungs[max(tables - 2, 0)].measured_U)


def _shared(data: Measured, tables: int) -> int:
    """Settings that were run at the size of the last of so many tables and at the next larger one, or at the one before where none is."""
    at = min(tables, len(data.rungs) - 1)
    return int(np.sum(data.rungs[at].measured_U & data.rungs[max(at - 1, 0)].measured_U)) if at > 0 else 0


def drift_was_measured(data: Measured) -> bool:
    """Whether enough settings were run at both of the two largest sizes to show how losses move, without what other data sets share."""
    return _shared(data, len(data.rungs)) >= FEWEST_TO_CERTIFY


def _along_valley(data: Measured, last: Sampled, examples: int, target: float, gain: float) -> Sampled:
    """Every setting moves against the last best as the valley does between the two sizes."""
    finite_U = np.isfinite(last.value_K)
    best = int(np.nanargmin(last.value_K))
    moved_U, moved_BU = data.valley.moved(data.rank_U, data.axis_U, examples, target)
    moved_U, moved_BU = moved_U - moved_U[best], moved_BU - moved_BU[:, [best]]
    halvings = abs(math.log2(target / examples))
    error_U = (VALLEY_ERROR_PERCENT + VALLEY_ERROR_SHARE * np.abs(moved_U)) * math.sqrt(halvings)
    spread_BU = moved_BU - moved_U + error_U * data.normal_BU
    return Sampled(
        np.where(finite_U, last.value_K + gain / 100 * moved_U, np.nan),
        last.example_BK,
        last.seed_BK + gain / 100 * spread_BU,
    )


def _best_run(
    last_U: Float[np.ndarray, " U"], before_U: Float[np.ndarray, " U"], run_U: Bool[np.ndarray, " U"]
) -> int:
    """The setting with the lowest last loss of ``run_U``, or, where that is none, of those known at both sizes."""
    known_U = np.isfinite(before_U) & np.isfinite(last_U)
    return int(np.nanargmin(np.where(run_U if run_U.any() else known_U, last_U, np.nan)))


def _bend(
    last_U: Float[np.ndarray, " U"],
    before_U: Float[np.ndarray, " U"],
    steps: float,
    run_U: Bool[np.ndarray, " U"],
) -> Float[np.ndarray, " U"]:
    """How far shrinking by a constant factor ends from the straight line, for contrasts to the last best that shrank; else 0.

    ``run_U``: the settings that were run at both sizes. One of them is the best: what was forecast to be better has shrunk by forecast.
    """
    best = _best_run(last_U, before_U, run_U)
    near_U, far_U = last_U - last_U[best], before_U - before_U[best]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_U = near_U / far_U
        bend_U = near_U * ratio_U**steps - (near_U + steps * (near_U - far_U))
    return np.where((ratio_U > 0) & (ratio_U < 1), bend_U, 0.0)


def _merge(data: Measured, examples: int, measured: Sampled, forecast: Sampled, gain: float) -> Sampled:
    """Measured where there is a measurement; elsewhere the forecast, shifted by what settings like it, known in both, show."""
    here_U, there_U = np.isfinite(measured.value_K), np.isfinite(forecast.value_K)
    both_U = here_U & there_U
    if both_U.any():
        reference_U = both_U & (measured.value_K <= np.median(measured.value_K[both_U]))
        weight_UU, _ = _borrowed(data, both_U, reference_U)
        forecast = forecast.plus(measured.plus(forecast, -1.0).combine(weight_UU))
    elif there_U.any():
        forecast = forecast.plus(_by_valley(data, examples, measured, forecast, gain))
    value_U = np.where(here_U, measured.value_K, forecast.value_K)
    diverged_U = next(rung.diverged_U for rung in data.rungs if rung.examples == examples)
    return Sampled(
        np.where(diverged_U, np.nan, value_U),
        np.where(here_U, measured.example_BK, forecast.example_BK),
        np.where(here_U, measured.seed_BK, forecast.seed_BK),
    )


def _by_valley(data: Measured, examples: int, measured: Sampled, forecast: Sampled, gain: float) -> Sampled:
    """What to add to a forecast that shares no setting with what was measured: both lie on one valley, best settings counting most."""
    value_U, value_BU = data.valley.lost(data.rank_U, data.axis_U, examples)
    weights = []
    for part in (measured, forecast):
        # What fell off the valley's edge lies on no valley.
        with np.errstate(invalid="ignore"):
            on_it_U = part.value_K <= np.nanmin(part.value_K) + EDGE_PERCENT / 100 * gain
        weights.append(np.where(on_it_U, np.exp(-value_U / NEAR_PERCENT), 0.0))
    here_U, there_U = (weight_U / max(float(weight_U.sum()), 1e-300) for weight_U in weights)
    apart = measured.combine(here_U[None]).plus(forecast.combine(there_U[None]), -1.0)
    valley_B = gain / 100 * value_BU @ (there_U - here_U)
    expected = gain / 100 * float(value_U @ (there_U - here_U))
    return Sampled(apart.value_K + expected, apart.example_BK, apart.seed_BK + (valley_B - expected)[:, None])


def carry_on(
    data: Measured, decide: list[Sampled], judge: list[Sampled], target: float
) -> tuple[Sampled, Sampled, Float[np.ndarray, " U"]]:
    """The last tables of *decide* and *judge* losses carried on to ``target``, and the values that serve to choose.

    Drift is taken on *judge* where the last two rungs were judged on the same kind of examples, otherwise on *decide*.
    """
    last = len(decide) - 1
    rung = data.rungs[last]
    gain = abs(float(rung.base.value_K[0] - np.nanmin(rung.judge.value_K)))
    decide_ahead, choose_U = _forecast(data, decide, target, gain)
    if rung.on_score == data.rungs[max(last - 1, 0)].on_score:
        judge_ahead, _ = _forecast(data, judge, target, gain)
    else:
        judge_ahead = judge[-1].plus(decide_ahead.plus(decide[-1], -1.0))
    return decide_ahead, judge_ahead, choose_U


def complete(data: Measured) -> tuple[list[Sampled], list[Sampled]]:
    """Tables of *decide* and of *judge* losses at every rung, with the settings that were run at smaller ones only forecast."""
    decide, judge = [data.rungs[0].decide], [data.rungs[0].judge]
    for rung in data.rungs[1:]:
        decide_ahead, judge_ahead, _ = carry_on(data, decide, judge, rung.examples)
        gain = abs(float(rung.base.value_K[0] - np.nanmin(rung.judge.value_K)))
        decide.append(_merge(data, rung.examples, rung.decide, decide_ahead, gain))
        judge.append(_merge(data, rung.examples, rung.judge, judge_ahead, gain))
    return decide, judge
