"""The decision: first of NO_GAIN, UNDECIDED, FLAT, CEILING, SETTLED that applies, a setting safe to use, and what backs them.

Who is the best is never taken for granted: every upper bound of a gain lost is one against whichever setting is truly best
(``paired.above_the_best``). Hence no correction for the number of ranks is needed to certify: FLAT is false only if some rank truly
loses more than the margin, and that rank's own bound fails in 97.5 % of cases (intersection-union test).

Dimensions: U settings, B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rightrank.stats import words
from rightrank.stats.forecast import drift_was_measured
from rightrank.stats.foreseen import advised, foreseen_best
from rightrank.stats.paired import FEWEST_EXAMPLES, TAIL, Estimate, Sampled, interval
from rightrank.stats.prices import less_accurate
from rightrank.stats.results import Decision, Drift, Margin, RunPoint, Status, without_intervals
from rightrank.stats.rungs import Measured, measure
from rightrank.stats.support import (
    deciding_contrast,
    equivalence_margin,
    noise_summary,
    price_list,
    resolvable_percent,
    run_points,
    warnings_for,
    with_more_data,
)
from rightrank.stats.surface import Side, Standing, edge, stand

if TYPE_CHECKING:
    from rightrank.stats.evidence import Evidence

# Replicates of the joint resampling. Chosen: the 2.5 % tails to about 0.05 standard errors.
REPLICATES = 2000
# Gain over token frequencies that counts as learning, as a share of their loss. Chosen: as large as the error that counting
# frequencies on a training set makes; on random tokens an adapter can beat the counts by about that much and has learnt nothing.
FREQUENCY_SLACK = 0.01
# A gain surely below this share of the loss is none; one estimated at zero or less is none if it is surely below the second. Chosen:
# with noise larger than that an estimate below zero is a coin's throw, and the answer is "cannot tell yet".
RELEVANT_GAIN, LARGE_GAIN = 0.01, 0.05
# FLAT needs this many ranks over this wide a range; every certificate needs FEWEST_RANKS. Chosen.
FLAT_RANKS, FLAT_RANGE, FEWEST_RANKS = 4, 8, 3


@dataclass(frozen=True)
class Candidate:
    """What certifying a rank, at its best learning rate, depends on."""

    rank: int
    u: int
    lost: Estimate
    accurate: bool
    open_side: Side | None
    """Where a better learning rate may still lie: worth more than the margin."""

    def equivalent(self, margin_percent: float) -> bool:
        """Surely within the margin of whichever setting is best, and not significantly less accurate."""
        return self.lost.high <= margin_percent and self.accurate


def decide(
    evidence: Evidence,
    *,
    yours: tuple[int, float, float] | None = None,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Decision:
    """The answer that the finished runs support. ``yours``: rank, alpha and learning rate of the person's own config.

    Deterministic for a given ``seed``, whatever the order of runs and examples. Raises ValueError where no run was recorded at all.
    """
    if len(evidence.rank_C) == 0:
        raise ValueError("no finished run")
    data = measure(evidence, replicates, seed)
    if not data.rungs:
        return _nothing_finite(evidence, data)
    top = data.rungs[-1]
    standing = stand(data, max(evidence.all_examples, top.examples))
    gain = _gain_over_floor(data, standing)
    margin = equivalence_margin(data, standing)
    candidates = _candidates(data, standing, margin)
    status, u, reasons = _status(data, standing, candidates, margin, gain)
    extrapolated = standing.examples > top.examples
    certain = (
        gain == "sure" and standing.gain.low > 0
    )  # otherwise there is nothing that a share could be taken of
    # A bound on what a choice may lose needs something to compare it with, and runs and rows that are to be trusted.
    trusted = len(top.judge_E) >= FEWEST_EXAMPLES
    basis = not evidence.starved and len(candidates) > 1 and trusted
    comparable = certain and basis
    choices = price_list(data, standing, u, margin.percent if certain else None, yours)
    advice = advised(
        data,
        standing,
        u,
        margin.percent,
        # A learning rate that nobody ran is no advice from runs that are too short to rely on.
        between=status == "UNDECIDED" and certain and not evidence.starved,
        comparable=comparable,
    )
    if advice.price is not None and advice.setting not in {c.setting for c in choices}:
        choices = (advice.price, *choices)
    if advice.setting not in data.settings:
        reasons = (*reasons, words.between_runs(advice.setting))
    decision = Decision(
        status=status,
        reasons=reasons,
        choice=advice.setting,
        worst_case_percent=advice.worst_percent if comparable else None,
        choices=choices,
        best=data.settings[standing.best],
        foreseen=foreseen_best(data) if extrapolated else data.settings[standing.best],
        margin=margin if certain else None,
        base_loss=_level(standing.base, 0),
        best_loss=_level(standing.level, standing.best),
        frequency_loss=_level(standing.base, 1),
        gain=standing.gain,
        ruled_out=tuple(c.rank for c in candidates if c.lost.low > margin.percent) if comparable else (),
        drift=with_more_data(data, standing, u, margin) if certain and trusted else Drift(None, None, ()),
        deciding=deciding_contrast(data, standing, u, margin) if comparable else None,
        runs=run_points(evidence, data),
        seed_noise=noise_summary(data),
        resolvable_difference_percent=resolvable_percent(data, standing) if certain and trusted else None,
        measured_examples=top.examples,
        extrapolated=extrapolated,
        trusted=trusted,
        warnings=warnings_for(data, standing, u),
    )
    return decision if trusted and not evidence.starved else without_intervals(decision)


def _candidates(data: Measured, standing: Standing, margin: Margin) -> list[Candidate]:
    """Every rank at the learning rate that *decide* chooses, by rank."""
    return [
        Candidate(
            rank,
            u,
            standing.gain_lost_by(u),
            not less_accurate(data, standing, u),
            _open_side(data, standing, u, margin.percent),
        )
        for rank, u in standing.chosen.items()
    ]


def _nothing_finite(evidence: Evidence, data: Measured) -> Decision:
    """Every run diverged, or nothing was evaluated: the smallest rank at its lowest learning rate is the best guess there is."""
    setting = data.settings[0]
    nothing = tuple(RunPoint(None, None) for _ in evidence.rank_C)
    return Decision(
        "UNDECIDED", (words.NOTHING_FINITE,), setting, None, (), setting, setting, None, None, None, None, None, (),
        Drift(None, None, ()), None, nothing, noise_summary(data), None, int(evidence.examples_C.max()), False, False, (),
    )  # fmt: skip


def _gain_over_floor(data: Measured, standing: Standing) -> Literal["sure", "none", "unclear"]:
    """Whether training beats the lower of base loss and token-frequency loss.

    "none" (nothing is gained): the gain is surely below 1 % of the floor, or estimated at zero or less and surely below 5 %. Both after
    training on all data and, measured, at the largest size; while the drift to all data is unknown, or with too few held-out examples,
    it is "unclear".
    """
    top = data.rungs[-1]
    sure, none = True, True
    for here in {standing.examples: standing, top.examples: stand(data, top.examples)}.values():
        floor = Sampled(here.base.value_K * [1, 1 - FREQUENCY_SLACK], here.base.example_BK, here.base.seed_BK)
        over = floor.plus(here.level.take([here.best]), -1.0)
        ends = [_level(over, 0), _level(over, 1)]
        value, high = min(e.value for e in ends), min(e.high for e in ends)
        sure = sure and min(e.low for e in ends) > 0
        none = none and high < (LARGE_GAIN if value <= 0 else RELEVANT_GAIN) * float(np.min(floor.value_K))
    unknown = standing.examples > top.examples and not drift_was_measured(data)
    if sure:
        return "sure"
    return "none" if none and not unknown and len(top.judge_E) >= FEWEST_EXAMPLES else "unclear"


def _status(
    data: Measured,
    standing: Standing,
    candidates: list[Candidate],
    margin: Margin,
    gain: Literal["sure", "none", "unclear"],
) -> tuple[Status, int, tuple[str, ...]]:
    """Status, the setting to use and the reasons."""
    trusted = len(data.rungs[-1].judge_E) >= FEWEST_EXAMPLES
    safe = _safe(data, standing, candidates, margin.percent, bounded=gain == "sure" and trusted)
    obstacles = _obstacles(data, standing, candidates)
    if gain == "none" and not data.evidence.starved:
        return "NO_GAIN", standing.chosen[candidates[0].rank], words.no_gain(standing)
    if gain != "sure":
        obstacles.append(words.UNCLEAR_GAIN)
    if obstacles:
        return "UNDECIDED", safe, tuple(obstacles)
    equivalent = [c for c in candidates if c.equivalent(margin.percent)]
    best = next(c for c in candidates if c.u == standing.best)
    ranks = [c.rank for c in candidates]
    spread = len(ranks) >= FLAT_RANKS and ranks[-1] >= FLAT_RANGE * ranks[0]
    if spread and len(equivalent) == len(ranks) and not any(c.open_side for c in candidates):
        return "FLAT", candidates[0].u, words.flat(candidates, margin)
    next_gain = _next_doubling(data, standing, candidates)
    if next_gain is not None and next_gain.low > margin.nats and best.open_side is None:
        return "CEILING", best.u, words.ceiling(best, next_gain, standing)
    if not equivalent:
        return (
            "UNDECIDED",
            safe,
            words.nothing_certain(candidates, margin, data.settings[safe], standing.gain_lost_by(safe).high),
        )
    smallest = equivalent[0]
    for c in (smallest, best):
        if c.open_side is not None:
            return "UNDECIDED", safe, (words.open_edge(c, data.settings[c.u]),)
    return "SETTLED", smallest.u, words.settled(smallest, candidates, margin)


def _obstacles(data: Measured, standing: Standing, candidates: list[Candidate]) -> list[str]:
    """Why nothing may be certified, whatever the numbers say."""
    top = data.rungs[-1]
    found = []
    if data.evidence.starved:
        found.append(words.STARVED)
    if len(candidates) < FEWEST_RANKS:
        found.append(words.few_ranks(len(candidates)))
    if len(data.rungs) < 2 and standing.examples > top.examples:
        found.append(words.one_size(top.examples, standing.examples))
    elif standing.examples > top.examples and not drift_was_measured(data):
        found.append(words.foreseen_only(top.examples, standing.examples))
    if len(top.judge_E) < FEWEST_EXAMPLES:
        found.append(words.few_examples(len(top.judge_E)))
    return found


def _safe(
    data: Measured,
    standing: Standing,
    candidates: list[Candidate],
    margin_percent: float,
    *,
    bounded: bool,
) -> int:
    """The smallest rank whose interval includes being as good as the best, if it may lose at most a margin more than any such rank.

    Ranks that are significantly less accurate than the best are none of them. Chosen by what it lost on recorded data sets
    (bench/LOG.md). Not ``bounded``: where it is not certain that anything is gained, or too few rows score, intervals are noise, and
    the lowest loss of all settings is the best guess there is.
    """
    if not bounded:
        known = [int(u) for u in np.flatnonzero(np.isfinite(standing.lost_U))]
        accurate = [u for u in known if not less_accurate(data, standing, u)] or known
        return min(accurate, key=lambda u: (standing.lost_U[u], data.settings[u].rank))
    as_good = [c for c in candidates if c.accurate and c.lost.low <= 0]  # the best is one
    lowest = min(c.lost.high for c in as_good)
    return next(c.u for c in as_good if c.lost.high <= lowest + margin_percent)


def _open_side(data: Measured, standing: Standing, u: int, margin_percent: float) -> Side | None:
    """The side on which a better learning rate of this rank may still be worth more than the margin, or None.

    An edge is harmless if the last step of learning rate towards it gained less than the margin (upper bound): the loss being convex
    in log learning rate around its minimum, a further step of that size gains no more than the last one did.
    """
    k = max(i for i, r in enumerate(data.rungs) if r.measured_U[u])
    side = edge(data, k, u)
    if side is None or side == "both":
        return side
    inside_U = (data.rank_U == data.rank_U[u]) & np.isfinite(standing.lost_U)
    inside_U &= (
        (data.axis_U > data.axis_U[u] + 1e-6) if side == "low" else (data.axis_U < data.axis_U[u] - 1e-6)
    )
    if not inside_U.any():
        return side
    near = int(min(np.flatnonzero(inside_U), key=lambda v: abs(data.axis_U[v] - data.axis_U[u])))
    noise_B = standing.lost_BU[:, near] - standing.lost_BU[:, u]
    last_step = float(standing.lost_U[near] - standing.lost_U[u] + np.quantile(noise_B, 1 - TAIL))
    return None if last_step <= margin_percent else side


def _next_doubling(data: Measured, standing: Standing, candidates: list[Candidate]) -> Estimate | None:
    """Nats a token that doubling the largest rank would still gain; None unless the largest rank is the best and was run last.

    Derived: the gains of the doublings before it form a geometric series whose ratio, from the last two intervals between ranks, is
    clipped to [0, 1]; a ratio that cannot be told (the interval before gained nothing) counts as 1.
    """
    last = candidates[-3:]
    if len(last) < 3 or last[-1].u != standing.best or not data.rungs[-1].measured_U[standing.best]:
        return None
    doublings = np.diff(np.log2([c.rank for c in last]))
    level = standing.level.take([c.u for c in last])
    loss_B3 = np.concatenate([[level.value_K], level.value_K + level.deviation_BK])
    gain_B2 = -np.diff(loss_B3, axis=1)
    rate_B2 = gain_B2 / doublings
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_B = np.where(rate_B2[:, 0] > 0, rate_B2[:, 1] / rate_B2[:, 0], 1.0)
    ratio_B = np.clip(ratio_B, 0.0, 1.0) ** (1 / float(np.mean(doublings)))
    steps = max(1, round(float(doublings[1])))
    series_B = np.sum(ratio_B[:, None] ** np.arange(steps), axis=1)
    next_B = np.minimum(gain_B2[:, 1], gain_B2[:, 1] * ratio_B**steps / series_B)
    return interval(float(next_B[0]), next_B[1:] - next_B[0])


def _level(levels: Sampled, k: int) -> Estimate:
    return interval(float(levels.value_K[k]), levels.deviation_BK[:, k])
