"""Loss over rank and learning rate: who stands where, the best learning rate of each rank, and whether it lies inside what was tried.

Dimensions: U settings, K ranks, B replicates, R rivals (settings that can still be the best).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from rightrank.recipe import equivalent_learning_rate
from rightrank.stats.forecast import carry_on, complete
from rightrank.stats.paired import TAIL, Estimate, Sampled, above_the_best, interval, possible_best
from rightrank.stats.rungs import Measured, Rung, measure

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from rightrank.stats.evidence import Evidence

Side = Literal["low", "high", "both"]

# A learning rate with neighbours on one side only counts as interior if it lies this close (log10) to what the ranks around it say.
# Chosen: half a step of a grid of half-decades. Ranks further than a factor of 4 away say nothing.
NEAR_DECADES = 0.25
NEAR_RANKS = 4.0
# Neighbours this far apart (log10) count as a step of the grid. Chosen: half a decade, and the guides' 2e-4 beside 1e-3.
GRID_STEP = 0.75
# Replicates for the questions that a scheduler asks between rungs. Chosen: enough for the 2.5 % tails to about 0.1 standard error.
QUICK_REPLICATES = 500


@dataclass(frozen=True)
class Standing:
    """All settings after training on ``examples``: measured where they were, forecast elsewhere. NaN: no finite loss anywhere."""

    examples: int
    level: Sampled
    """Nats a token, U settings."""
    base: Sampled
    """The untrained model, the token frequencies."""
    chosen: dict[int, int]
    """The setting of each rank that *decide* chooses, by rank ascending."""
    best: int
    """The setting that *decide* chooses of all."""
    gain: Estimate
    """Base loss minus best loss, nats a token."""
    lost_U: Float[np.ndarray, " U"]
    """Percent of the gain that each setting gives away against ``best``."""
    lost_BU: Float[np.ndarray, "B U"]
    """Deviations of ``lost_U``."""
    rivals_R: Int[np.ndarray, " R"]

    def gain_lost(self, value: float, deviation_B: Float[np.ndarray, " B"]) -> Estimate:
        """Percent of the gain given away by a thing on the scale of ``lost_U``, with the interval against whichever setting is best."""
        low, high = above_the_best(
            value, deviation_B, self.lost_U[self.rivals_R], self.lost_BU[:, self.rivals_R]
        )
        return Estimate(value, min(low, value), max(high, value, 0.0))

    def gain_lost_by(self, u: int) -> Estimate:
        """``gain_lost`` of one setting."""
        return self.gain_lost(float(self.lost_U[u]), self.lost_BU[:, u])

    def at(self, level: Sampled) -> Standing:
        """The same with other losses of settings that are neither the best nor its rivals."""
        lost_U, lost_BU = _lost(level, self.base.take([0]), self.best)
        return replace(self, level=level, lost_U=lost_U, lost_BU=lost_BU)


def stand(data: Measured, target: int) -> Standing:
    """Where all settings stand after training on ``target`` examples. ``data`` needs at least one rung."""
    top = data.rungs[-1]
    decide, judge = complete(data)
    _, level, choose_U = carry_on(data, decide, judge, target)
    chosen = {
        rank: min(_latest(data, rank), key=lambda u: (choose_U[u], u))
        for rank in sorted({int(r) for r in data.rank_U[np.isfinite(level.value_K)]})
    }
    at_top = [u for u in chosen.values() if top.measured_U[u]]
    best = min(at_top or list(chosen.values()), key=lambda u: (choose_U[u], u))
    base = top.base.take([0])
    gain = base.plus(level.take([best]), -1.0)
    value, deviation_B = float(gain.value_K[0]), gain.deviation_BK[:, 0]
    lost_U, lost_BU = _lost(level, base, best)
    known_U = np.flatnonzero(np.isfinite(lost_U) & ~_passed_over(data))
    rivals = known_U[possible_best(lost_U[known_U], lost_BU[:, known_U], int(np.searchsorted(known_U, best)))]
    return Standing(
        target, level, top.base, chosen, best, interval(value, deviation_B), lost_U, lost_BU, rivals
    )


def _lost(
    level: Sampled, base: Sampled, best: int
) -> tuple[Float[np.ndarray, " U"], Float[np.ndarray, "B U"]]:
    """Percent of the gain that each setting gives away against ``best``, and its deviations."""
    gain = base.plus(level.take([best]), -1.0)
    value = float(gain.value_K[0])
    # A gain near zero makes every share of it meaningless; the statuses refuse it, this only keeps the numbers finite.
    gain_B = np.maximum(value + gain.deviation_BK[:, 0], max(0.1 * abs(value), 1e-9))
    lost_U = 100 * (level.value_K - level.value_K[best]) / max(abs(value), 1e-9)
    above_BU = level.value_K + level.deviation_BK
    return lost_U, 100 * (above_BU - above_BU[:, [best]]) / gain_B[:, None] - lost_U


def _passed_over(data: Measured) -> Bool[np.ndarray, " U"]:
    """Settings not run at the largest size whose learning rate need not be, by what was run there of their rank.

    What they lost at a smaller size is carried on with wide errors, which say that they might still be the best. But the loss has one
    valley in the learning rate: beyond a neighbour that is worse than the best at 95 % they are worse still. And between two neighbours
    no further apart than the grid they are as little a rival as any other learning rate that nobody tried.
    """
    top = data.rungs[-1]
    passed_U = np.zeros(len(data.settings), bool)
    for u in np.flatnonzero(~top.measured_U):
        best = best_here(data, top, int(data.rank_U[u]))
        if best is None:
            continue
        run_U = top.measured_U & (data.rank_U == data.rank_U[u])
        run_u, worse_u = data.axis_U[run_U], data.axis_U[run_U & _worse(top.decide, best)]
        own, lowest = float(data.axis_U[u]), float(data.axis_U[best])
        beyond = np.any((worse_u - lowest) * (worse_u - own) < -1e-9)
        below, above = run_u[run_u <= own], run_u[run_u >= own]
        near = len(below) and len(above) and float(above.min() - below.max()) <= GRID_STEP
        passed_U[u] = bool(beyond or near)
    return passed_U


def _latest(data: Measured, rank: int) -> list[int]:
    """The settings of a rank that were run on the most training examples of all of that rank's."""
    for rung in reversed(data.rungs):
        here = np.flatnonzero((data.rank_U == rank) & rung.measured_U)
        if len(here):
            return [int(u) for u in here]
    return []


def best_here(data: Measured, rung: Rung, rank: int) -> int | None:
    """The setting of ``rank`` with the lowest *decide* loss at one rung, or None where none is finite."""
    here = np.flatnonzero((data.rank_U == rank) & rung.measured_U)
    return int(here[np.argmin(rung.decide.value_K[here])]) if len(here) else None


def edge(data: Measured, k: int, u: int) -> Side | None:
    """The side on which setting ``u`` has no worse neighbour in learning rate at rung ``k``; None where it is interior.

    A neighbour is a learning rate of the same rank that was run at that rung (also one that diverged), or at a smaller one and,
    carried on to this rung, is worse than ``u`` at 95 %. Failing those, ``u`` counts as interior if it lies within a quarter of a
    decade of the best learning rate of the ranks around it that are interior themselves: the best one moves slowly with rank.
    """
    lower_U, higher_U = _bracketed(data, k)
    if lower_U[u] and higher_U[u]:
        return None
    expected = _expected_axis(data, k, int(data.rank_U[u]), lower_U & higher_U)
    if expected is not None and abs(expected - data.axis_U[u]) <= NEAR_DECADES:
        return None
    return "high" if lower_U[u] else "low" if higher_U[u] else "both"


def _bracketed(data: Measured, k: int) -> tuple[Bool[np.ndarray, " U"], Bool[np.ndarray, " U"]]:
    """Which settings have a neighbour below, and above, in learning rate by runs of their own rank."""
    below = data if k + 1 == len(data.rungs) else replace(data, rungs=data.rungs[: k + 1])
    table = complete(below)[0][-1]
    run_U = data.rungs[k].measured_U | np.any([r.diverged_U for r in data.rungs[: k + 1]], axis=0)
    lower_U, higher_U = np.zeros(len(run_U), bool), np.zeros(len(run_U), bool)
    for u in np.flatnonzero(np.isfinite(table.value_K)):
        found_U = (data.rank_U == data.rank_U[u]) & (run_U | _worse(table, int(u)))
        gap_U = data.axis_U - data.axis_U[u]
        lower_U[u] = np.any(found_U & (gap_U < -1e-6))
        higher_U[u] = np.any(found_U & (gap_U > 1e-6))
    return lower_U, higher_U


def _worse(table: Sampled, u: int) -> Bool[np.ndarray, " U"]:
    """Which settings lose more than ``u`` at 95 %, by the noise of rows and of seeds; none that has no finite loss."""
    noise_BU = table.deviation_BK - table.deviation_BK[:, [u]]
    with np.errstate(invalid="ignore"):
        worse_U: Bool[np.ndarray, " U"] = (
            table.value_K - table.value_K[u] + np.quantile(noise_BU, TAIL, axis=0) > 0
        )
    return worse_U


def _expected_axis(data: Measured, k: int, rank: int, interior_U: Bool[np.ndarray, " U"]) -> float | None:
    """Best learning rate (log10) of a rank, interpolated between the nearest ranks whose own is interior; None where there is none."""
    rung = data.rungs[k]
    points: list[tuple[float, float]] = []
    for other in sorted({int(r) for r in data.rank_U[rung.measured_U]} - {rank}):
        u = best_here(data, rung, other)
        if u is not None and interior_U[u]:
            points.append((math.log(other / rank), float(data.axis_U[u])))
    below = [p for p in points if -math.log(NEAR_RANKS) - 1e-9 <= p[0] < 0][-1:]
    above = [p for p in points if 0 < p[0] <= math.log(NEAR_RANKS) + 1e-9][:1]
    near = below + above
    if not near:
        return None
    return float(np.interp(0.0, [p[0] for p in near], [p[1] for p in near]))


def best_learning_rate(evidence: Evidence, n: int, rank: int) -> tuple[float, Side | None] | None:
    """Best measured learning rate of ``rank`` after ``n`` training examples (chosen on *decide*), and at which edge it lies.

    As an equivalent learning rate, at ``alpha_for(rank)``. None where the rank has no finite loss at ``n``.
    """
    data = measure(evidence, QUICK_REPLICATES, 0, up_to=n)
    if not data.rungs or data.rungs[-1].examples != n:
        return None
    u = best_here(data, data.rungs[-1], rank)
    if u is None:
        return None
    best = data.settings[u]
    rate = equivalent_learning_rate(best.rank, best.alpha, best.learning_rate)
    return rate, edge(data, len(data.rungs) - 1, u)


def still_possible(evidence: Evidence, n: int) -> list[int]:
    """Ranks that may still be within the margin of the best on all data, by what was run on at most ``n`` examples.

    A rank is dropped when the lower end of its gain lost, forecast to all data, exceeds 1 % of the gain: the drift counts, measured
    where two sizes were run and assumed where not. Nothing measured: every rank in the evidence.
    """
    data = measure(evidence, QUICK_REPLICATES, 0, up_to=n)
    if not data.rungs:
        return sorted({int(r) for r in evidence.rank_C})
    standing = stand(data, max(evidence.all_examples, data.rungs[-1].examples))
    return [rank for rank, u in standing.chosen.items() if standing.gain_lost_by(u).low <= 1.0]


def learning_rate_drift(data: Measured) -> Estimate | None:
    """Change of log10(best learning rate) per unit of log10(training examples) between the last two rungs, mean over ranks.

    From the vertex of the parabola through the best learning rate and its neighbours, for ranks that have both at both rungs;
    None where there are none. The vertex is kept within its neighbours.
    """
    if len(data.rungs) < 2:
        return None
    slopes: list[tuple[float, Float[np.ndarray, " B"]]] = []
    before, after = data.rungs[-2:]
    log_ratio = math.log10(after.examples / before.examples)
    for rank in sorted({int(r) for r in data.rank_U}):
        ends = [_vertex(data, rung, rank) for rung in (before, after)]
        if ends[0] is not None and ends[1] is not None:
            slopes.append(((ends[1][0] - ends[0][0]) / log_ratio, (ends[1][1] - ends[0][1]) / log_ratio))
    if not slopes:
        return None
    value = float(np.mean([s[0] for s in slopes]))
    return interval(value, np.mean([s[1] for s in slopes], axis=0) - value)


def _vertex(data: Measured, rung: Rung, rank: int) -> tuple[float, Float[np.ndarray, " B"]] | None:
    """log10 of the best learning rate of a rank at a rung, and its replicates; None where the lowest loss has no two neighbours."""
    here = np.flatnonzero((data.rank_U == rank) & rung.measured_U)
    at = int(np.argmin(rung.decide.value_K[here])) if len(here) else 0
    if not 0 < at < len(here) - 1:
        return None
    three = here[at - 1 : at + 2]
    x = data.axis_U[three]
    if np.min(np.diff(x)) < 1e-6:
        return None
    loss_B3 = np.concatenate(
        [[rung.decide.value_K[three]], rung.decide.value_K[three] + rung.decide.deviation_BK[:, three]]
    )
    slope_low = (loss_B3[:, 1] - loss_B3[:, 0]) / (x[1] - x[0])
    slope_high = (loss_B3[:, 2] - loss_B3[:, 1]) / (x[2] - x[1])
    bend = (slope_high - slope_low) / (x[2] - x[0])
    middle = (x[0] + x[1]) / 2 - slope_low / (2 * np.where(np.abs(bend) < 1e-12, 1e-12, bend))
    lowest = x[np.argmin(loss_B3, axis=1)]
    vertex_B = np.where(bend > 0, np.clip(middle, x[0], x[2]), lowest)
    return float(vertex_B[0]), vertex_B[1:]
