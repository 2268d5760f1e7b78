"""Which run is worth its price: how much less the choice would lose, on average, once its result is known.

The knowledge gradient (Frazier, Powell and Dayanik 2009, INFORMS J. Comput. 21:599) on a ``Valley``'s replicates: what a run would show
is linear in what all settings lose on all rows, by their covariance over the replicates. A run's loss says nothing by itself, since the
level of its size is not known: only against the runs at hand of that size. So no run at a size without runs is worth anything alone.

Dimensions: B replicates, U settings that may be chosen, M runs that may be made, O runs at hand, Z nodes of a normal distribution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rightrank.stats.valley import MISFIT_PERCENT, MISFIT_SHARE, Observations, Valley, lost_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
"""Gauss-Hermite quadrature of a standard normal."""
NOISE_PERCENT = 0.3
"""Standard deviation of a run's loss by its seed and its held-out rows, in percent of the gain. Assumed from recorded seeds (0.1 to
0.7 %); it only weighs runs against one another."""


class Run(NamedTuple):
    """One that may be made: rank, log10 of the equivalent learning rate, training examples."""

    rank: int
    axis: float
    examples: int


def worth_percent(
    valley: Valley,
    seen: Observations,
    choice_rank_U: Float[np.ndarray, " U"],
    choice_axis_U: Float[np.ndarray, " U"],
    runs: Sequence[Run],
) -> Float[np.ndarray, " M"]:
    """Percent of the gain by which the best choice on all rows would lose less on average, for each of ``runs``."""
    _, lost_BU = valley.lost(choice_rank_U, choice_axis_U, valley.whole)
    mean_U = lost_BU.mean(0)
    shown_BM, variance_M = _shown(valley, seen, runs)
    centred_BM = shown_BM - shown_BM.mean(0)
    total_M = (centred_BM**2).mean(0) + variance_M
    slope_UM = (lost_BU - mean_U).T @ centred_BM / len(lost_BU) / np.sqrt(total_M)
    after_M = np.zeros(len(runs))
    for node, weight in zip(NODES, WEIGHTS / WEIGHTS.sum(), strict=True):
        after_M += weight * (mean_U[:, None] + node * slope_UM).min(0)
    worth_M = float(mean_U.min()) - after_M
    known_M = np.array(
        [math.log2(valley.whole / run.examples) in set(seen.halvings_O.tolist()) for run in runs]
    )
    return np.where(known_M, np.maximum(worth_M, 0.0), 0.0)


def _shown(
    valley: Valley, seen: Observations, runs: Sequence[Run]
) -> tuple[Float[np.ndarray, "B M"], Float[np.ndarray, " M"]]:
    """What each run would show against those at hand of its size, in every replicate, and the variance of its noise."""
    rank_M, axis_M = np.array([float(r.rank) for r in runs]), np.array([r.axis for r in runs])
    halvings_M = np.array([math.log2(valley.whole / r.examples) for r in runs])
    value_BM = lost_percent(valley.theta_BP, rank_M, axis_M, halvings_M)
    base_BO = lost_percent(valley.theta_BP, seen.rank_O, seen.axis_O, seen.halvings_O)
    shown_BM, variance_M = value_BM.copy(), np.full(len(runs), np.inf)
    for halvings in np.unique(seen.halvings_O):
        here_M, at_O = halvings_M == halvings, seen.halvings_O == halvings
        if not here_M.any():
            continue
        shown_BM[:, here_M] -= base_BO[:, at_O].mean(1, keepdims=True)
        above_M = value_BM[:, here_M].mean(0) - value_BM[:, here_M].mean(0).min()
        misfit_M = MISFIT_PERCENT + MISFIT_SHARE * above_M
        variance_M[here_M] = misfit_M**2 + NOISE_PERCENT**2 * (1 + 1 / int(at_O.sum()))
    return shown_BM, np.where(np.isfinite(variance_M), variance_M, 1e12)
