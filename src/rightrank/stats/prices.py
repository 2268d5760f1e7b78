"""What a choice costs: ranks at their best learning rate, the guides' settings, the user's own.

Dimensions: U settings, u settings of one rank, J sources of interpolation error, B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from rightrank.stats.paired import Estimate, Sampled, interval
from rightrank.stats.results import Kind, Price, Source, Verdict

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from rightrank.stats.rungs import Measured, Rung, Setting
    from rightrank.stats.surface import Standing

# Cited: the settings that guides and trainers' examples agree on (alpha = 2 r, learning rate 2e-4), at the ranks people ask about.
GUIDE_RANKS = (8, 16, 32, 64, 128)
GUIDE_ALPHA_PER_RANK = 2.0
GUIDE_LEARNING_RATE = 2e-4
# How far (log10 of the learning rate) from the nearest run a price may be derived, beyond the runs as between them. Chosen: one step of
# a grid of half-decades.
BEYOND = 0.5
SAME = 1e-6
# Share of their difference taken as the standard error of a straight line between two points. Assumed: nothing else is known there.
TWO_POINT_ERROR = 0.25


@dataclass(frozen=True)
class Interpolation:
    """A setting that was not run as a weighted sum of some that were, and the errors of doing so (each one standard deviation)."""

    weight_U: Float[np.ndarray, " U"]
    error_JU: Float[np.ndarray, "J U"]


def price(
    data: Measured, standing: Standing, setting: Setting, kind: Kind, margin_percent: float | None
) -> Price:
    """The price of one setting: measured or extrapolated where it was run, else derived from its neighbours.

    ``margin_percent`` None: training gains nothing for sure, so that no share of the gain is given.
    """
    same_U = [
        s.rank == setting.rank
        and np.isclose(s.alpha, setting.alpha, rtol=1e-6)
        and np.isclose(s.learning_rate, setting.learning_rate, rtol=1e-6)
        for s in data.settings
    ]
    run = np.flatnonzero(np.array(same_U) & np.isfinite(standing.level.value_K))
    source: Source
    exact = right = None
    worse = False
    if len(run):
        u = int(run[0])
        source = "measured" if _at_top(data, standing, u) else "extrapolated"
        weight_U, error_JU = np.eye(len(data.settings))[u], np.zeros((0, len(data.settings)))
        exact, right = accuracy(data, u)
        worse = less_accurate(data, standing, u)
    else:
        found = interpolate(data, standing, setting)
        if isinstance(found, str):
            return Price(kind, setting, "cannot tell", None, None, None, None, None, found)
        weight_U, error_JU, source = found.weight_U, found.error_JU, "derived"
    used_U = (weight_U != 0) | np.any(error_JU != 0, axis=0)
    normal_BJ = _normals(setting, len(standing.lost_BU), len(error_JU))
    level = standing.level.take(used_U)
    loss = interval(
        float(level.value_K @ weight_U[used_U]),
        level.deviation_BK @ weight_U[used_U] + normal_BJ @ (error_JU[:, used_U] @ level.value_K),
    )
    if margin_percent is None:
        return Price(kind, setting, "cannot tell", source, loss, None, exact, right)
    lost_u = standing.lost_U[used_U]
    deviation_B = standing.lost_BU[:, used_U] @ weight_U[used_U] + normal_BJ @ (error_JU[:, used_U] @ lost_u)
    lost = standing.gain_lost(float(lost_u @ weight_U[used_U]), deviation_B)
    is_best = len(run) > 0 and int(run[0]) == standing.best
    return Price(
        kind, setting, _verdict(lost, margin_percent, worse, is_best), source, loss, lost, exact, right
    )


def _verdict(lost: Estimate, margin_percent: float, less_accurate: bool, is_best: bool) -> Verdict:
    if is_best:
        return "best"
    if lost.low > margin_percent or less_accurate:
        return "worse"
    return "as good" if lost.high <= margin_percent else "cannot tell"


def _at_top(data: Measured, standing: Standing, u: int) -> bool:
    top = data.rungs[-1]
    return bool(top.measured_U[u]) and top.examples >= standing.examples


def _normals(setting: Setting, replicates: int, sources: int) -> Float[np.ndarray, "B J"]:
    key = [4, setting.rank, round(setting.alpha * 1e6), round((setting.axis + 20) * 1e6)]
    return np.random.default_rng(key).standard_normal((replicates, sources))


def _rung_of(data: Measured, u: int) -> Rung:
    """The largest rung that setting ``u`` was run at."""
    return next(r for r in reversed(data.rungs) if r.measured_U[u])


def accuracy(data: Measured, u: int) -> tuple[Estimate | None, Estimate | None]:
    """Percent of held-out completions wholly right and of tokens right, where the setting was run on the most examples."""
    wrong = _rung_of(data, u).wrong
    if wrong is None:
        return None, None
    found = []
    for at in (u, u + len(data.settings)):
        e = interval(float(wrong.value_K[at]), wrong.deviation_BK[:, at])
        found.append(Estimate(100 - e.value, max(0.0, 100 - e.high), min(100.0, 100 - e.low)))
    return found[0], found[1]


def less_accurate(data: Measured, standing: Standing, u: int) -> bool:
    """Whether a setting gets significantly fewer completions or tokens right than the best one (paired, one-sided, 95 %).

    The 5 % are shared among all looks (Bonferroni: two measures of every rank but the best), or several ranks that are truly equal
    would often fail one. Compared at the largest size at which both were run; False where there is none, or accuracy is not known.
    """
    common = [r for r in data.rungs if r.measured_U[u] and r.measured_U[standing.best]]
    if u == standing.best or not common or common[-1].wrong is None:
        return False
    wrong: Sampled = common[-1].wrong
    critical = float(norm.ppf(1 - 0.05 / (2 * max(1, len(standing.chosen) - 1))))
    units = len(data.settings)
    for mine, its in ((u, standing.best), (u + units, standing.best + units)):
        excess = float(wrong.value_K[mine] - wrong.value_K[its])
        error = float(np.sqrt(np.mean((wrong.deviation_BK[:, mine] - wrong.deviation_BK[:, its]) ** 2)))
        if excess > critical * error + 1e-9:
            return True
    return False


def interpolate(data: Measured, standing: Standing, setting: Setting) -> Interpolation | str:
    """``setting`` as a weighted sum of settings that were run, or why that cannot be done.

    At a measured rank: along log learning rate. Between measured ranks: linear in log rank between its two neighbours, at the same
    equivalent learning rate; half their difference's half is taken as its standard error (assumed).
    """
    ranks = [int(r) for r in np.unique(data.rank_U[np.isfinite(standing.level.value_K)])]
    if setting.rank in ranks:
        return _along_rate(data, standing, setting.rank, setting.axis)
    if not ranks or not ranks[0] < setting.rank < ranks[-1]:
        return f"r={setting.rank} lies outside the ranks that were tried."
    below = max(r for r in ranks if r < setting.rank)
    above = min(r for r in ranks if r > setting.rank)
    low = _along_rate(data, standing, below, setting.axis)
    high = _along_rate(data, standing, above, setting.axis)
    if isinstance(low, str):
        return low
    if isinstance(high, str):
        return high
    share = float(np.log(setting.rank / below) / np.log(above / below))
    across_U = high.weight_U - low.weight_U
    errors = [(1 - share) * low.error_JU, share * high.error_JU, TWO_POINT_ERROR * across_U[None]]
    return Interpolation(low.weight_U + share * across_U, np.concatenate(errors))


def _along_rate(data: Measured, standing: Standing, rank: int, axis: float) -> Interpolation | str:
    """A learning rate (log10, equivalent) of a rank that was run, from the learning rates that were."""
    here = np.flatnonzero((data.rank_U == rank) & np.isfinite(standing.level.value_K))
    x_u, first = np.unique(np.round(data.axis_U[here] / SAME) * SAME, return_index=True)
    here = here[first]
    diverged_U = (data.rank_U == rank) & np.any([r.diverged_U for r in data.rungs[-1:]], axis=0)
    if np.any(data.axis_U[diverged_U] <= axis + SAME) and axis > x_u[-1]:
        return f"Training r={rank} diverged at a learning rate no higher than this."
    kept = _not_exploded(x_u, standing.level.value_K[here] > standing.base.value_K[0], axis)
    kept = kept[_stretch(x_u[kept], axis)]
    x_u, here = x_u[kept], here[kept]
    found = _line_and_curve(x_u, standing.level.value_K[here], axis)
    if found is None:
        return f"No learning rate near this was tried at r={rank}."
    weight_U = np.zeros(len(data.settings))
    error_JU = np.zeros((1, len(data.settings)))
    weight_U[here], error_JU[0, here] = found
    return Interpolation(weight_U, error_JU)


def _not_exploded(
    x_u: Float[np.ndarray, " u"], exploded_u: Bool[np.ndarray, " u"], x: float
) -> Int[np.ndarray, " p"]:
    """Points that may tell of ``x``: all but those worse than the untrained model, unless ``x`` lies right beside them.

    A parabola through one of them is as steep on the other side, where nothing explodes.
    """
    place = int(np.searchsorted(x_u, x))
    beside_u = np.isin(np.arange(len(x_u)), (place - 1, place))
    return np.flatnonzero(~exploded_u | beside_u)


def _stretch(x_u: Float[np.ndarray, " u"], x: float) -> Int[np.ndarray, " p"]:
    """The points that hang together with the one nearest to ``x``: a wider gap than ``BEYOND`` to either side parts them.

    Across one, a single far point would say what lies between: 1e-6 and 1e-3 nothing of 2e-4.
    """
    stretch_u = np.cumsum(np.diff(x_u, prepend=x_u[:1]) > 2 * BEYOND + 1e-9)
    return np.flatnonzero(stretch_u == stretch_u[np.argmin(np.abs(x_u - x))])


def _line_and_curve(
    x_u: Float[np.ndarray, " u"], y_u: Float[np.ndarray, " u"], x: float
) -> tuple[Float[np.ndarray, " u"], Float[np.ndarray, " u"]] | None:
    """Weights of the value at ``x`` and of its error; None where it lies too far out.

    A parabola through three neighbouring points (of the two possible triples the one that bends less, so that a loss which explodes
    at one end does not bend the other), its error half its distance from the straight line (assumed). Two points: the line.
    """
    at = int(np.argmin(np.abs(x_u - x)))
    if abs(x_u[at] - x) < 1e-3:
        return np.eye(len(x_u))[at], np.zeros(len(x_u))
    outside = max(x_u[0] - x, x - x_u[-1])
    if outside > BEYOND + 1e-9 or len(x_u) < (3 if outside > 0 else 2):
        return None
    left = int(np.clip(np.searchsorted(x_u, x) - 1, 0, len(x_u) - 2))
    line_u = _lagrange(x_u, np.array([left, left + 1]), x)
    if len(x_u) == 2:
        return line_u, TWO_POINT_ERROR * np.array([1.0, -1.0])
    triples = [np.arange(i, i + 3) for i in (left - 1, left) if 0 <= i <= len(x_u) - 3]
    triple = min(triples, key=lambda t: abs(np.polyfit(x_u[t], y_u[t], 2)[0]))
    curve_u = _lagrange(x_u, triple, x)
    return curve_u, (curve_u - line_u) / 2


def _lagrange(x_u: Float[np.ndarray, " u"], at: Int[np.ndarray, " p"], x: float) -> Float[np.ndarray, " u"]:
    """Weights of the polynomial through the points ``at``, evaluated at ``x``."""
    weight_u = np.zeros(len(x_u))
    for i in at:
        others = x_u[[j for j in at if j != i]]
        weight_u[i] = np.prod((x - others) / (x_u[i] - others))
    return weight_u
