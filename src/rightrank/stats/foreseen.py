"""Settings between those that were run: where the best learning rate is foreseen to lie on all the data.

The best learning rate moves with the amount of data, and runs lie half a decade apart. Nothing is certified of what was not run.

Dimensions: U settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rightrank.recipe import alpha_for
from rightrank.stats.prices import price
from rightrank.stats.rungs import Setting
from rightrank.stats.valley import EDGE_PERCENT

if TYPE_CHECKING:
    from rightrank.stats.results import Price
    from rightrank.stats.rungs import Measured
    from rightrank.stats.surface import Standing

# A foreseen learning rate (log10) this close to one that was run is that one. Chosen: a factor of 1.15, which loses next to nothing.
SAME_AXIS = 0.06
# How far beyond the learning rates that were run, in decades. Chosen: half a step of the grid.
BEYOND = 0.25
# The same where the next one diverged or lost more than ``EDGE_PERCENT``. Chosen.
BEYOND_NEAR_EDGE = 0.1
# A bound wider than this, in percent of the gain, protects from nothing: what is foreseen to be best is advised then. Chosen.
USELESS_BOUND_PERCENT = 5.0


@dataclass(frozen=True)
class Advice:
    """What to use meanwhile."""

    setting: Setting
    worst_percent: float
    """Upper end of what it may lose of the gain."""
    price: Price | None = None
    """Where it is another than the safe one."""


def foreseen_setting(data: Measured, rank: int) -> Setting:
    """``rank`` at the best learning rate foreseen for it on all rows, to two digits; the nearest that was run where that is as good."""
    run_U = np.any([rung.measured_U for rung in data.rungs], axis=0) & (data.rank_U == rank)
    axis_u = data.axis_U[run_U]
    best = float(
        np.clip(data.valley.best_axis(rank, data.whole)[0], axis_u.min() - BEYOND, _highest(data, rank))
    )
    nearest = int(np.flatnonzero(run_U)[np.argmin(np.abs(axis_u - best))])
    if abs(data.axis_U[nearest] - best) <= SAME_AXIS:
        return data.settings[nearest]
    return Setting(rank, float(alpha_for(rank)), float(f"{10**best:.2g}"))


def _highest(data: Measured, rank: int) -> float:
    """log10 of the highest learning rate that may be foreseen for ``rank``: hardly beyond the runs, where one of them fell off the edge,
    and below all of them, where all did."""
    gain = max(float(data.rungs[-1].base.value_K[0] - np.nanmin(data.rungs[-1].judge.value_K)), 1e-9)
    own_U = data.rank_U == rank
    bad_U, ran_U = np.zeros(len(own_U), bool), np.zeros(len(own_U), bool)
    for rung in data.rungs:  # a later one, on more rows, overrules
        here_U = own_U & (rung.measured_U | rung.diverged_U)
        finite_U = own_U & rung.measured_U
        least = float(rung.decide.value_K[finite_U].min()) if finite_U.any() else 0.0
        with np.errstate(invalid="ignore"):
            off_U = rung.diverged_U | (100 * (rung.decide.value_K - least) / gain > EDGE_PERCENT)
        bad_U = np.where(here_U, off_U, bad_U)
        ran_U |= finite_U
    good_u = data.axis_U[ran_U & ~bad_U]
    if not len(good_u):
        return float(data.axis_U[ran_U].min()) - BEYOND_NEAR_EDGE
    highest = float(good_u.max())
    edge = bool(np.any(bad_U & (data.axis_U > highest)))
    return highest + (BEYOND_NEAR_EDGE if edge else BEYOND)


def foreseen_best(data: Measured) -> Setting:
    """Of the ranks that were run, each at its foreseen learning rate, the one that loses least on average over what is possible."""
    ranks = sorted({int(r) for rung in data.rungs for r in data.rank_U[rung.measured_U]})
    settings = [foreseen_setting(data, rank) for rank in ranks]
    rank_U, axis_U = np.array([float(s.rank) for s in settings]), np.array([s.axis for s in settings])
    _, lost_BU = data.valley.lost(rank_U, axis_U, data.whole)
    return settings[int(np.argmin(lost_BU.mean(0)))]


def advised(
    data: Measured, standing: Standing, safe: int, margin_percent: float, *, between: bool, comparable: bool
) -> Advice:
    """Setting ``safe``, or what is foreseen to be better on all rows where ``between`` allows it and the runs are on a part of them.

    Its rank at the learning rate foreseen for it, if that may lose a margin more at worst; and the best of all foreseen, where nothing
    bounds what ``safe`` may lose (not ``comparable``) or the bound is useless.
    """
    as_run = Advice(data.settings[safe], standing.gain_lost_by(safe).high)
    if not between or standing.examples <= data.rungs[-1].examples:
        return as_run
    useful = comparable and as_run.worst_percent <= USELESS_BOUND_PERCENT
    wanted = foreseen_setting(data, as_run.setting.rank) if useful else foreseen_best(data)
    found = price(data, standing, wanted, "tuned", margin_percent)
    if found.gain_lost is None or (useful and found.gain_lost.high > as_run.worst_percent + margin_percent):
        return as_run
    return Advice(wanted, found.gain_lost.high, found)
