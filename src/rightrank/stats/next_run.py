"""Which run is worth its price: how much less the choice would lose, on average, once its result is known.

The knowledge gradient (Frazier, Powell and Dayanik 2009, INFORMS J. Comput. 21:599) on a ``Valley``'s replicates: each is in turn the
truth, shows what a run would show there, and weighs all by how well they agree with it. A run's loss says nothing by itself, since the
level of its size is not known: only against the runs at hand of that size. So no run at a size without runs is worth anything alone.

Dimensions: B replicates, J of them as truths, U settings that may be chosen, M runs that may be made, O runs at hand.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rightrank.stats.valley import MISFIT_PERCENT, MISFIT_SHARE, Observations, Valley, lost_percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

TRUTHS = 48
"""Replicates that are the truth in turn. Chosen: the worth of a run to about a tenth of its own spread."""
LEAST_NOISE_SHARE = 0.25
"""A run's noise counts as no less than this share of what it may show, or single replicates would decide. Chosen."""
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
    shown_BM, noise_M = _shown(valley, seen, runs)
    rng = np.random.default_rng(0)
    truth_J = rng.permutation(len(lost_BU))[:TRUTHS]
    luck_J = rng.standard_normal(len(truth_J))
    now = float(lost_BU.mean(0).min())
    worth_M = np.zeros(len(runs))
    for m in np.flatnonzero(np.isfinite(noise_M)):
        noise = max(float(noise_M[m]), LEAST_NOISE_SHARE * float(shown_BM[:, m].std()))
        heard_J = shown_BM[truth_J, m] + noise * luck_J
        weight_JB = np.exp(-0.5 * ((heard_J[:, None] - shown_BM[:, m]) / noise) ** 2) + 1e-12
        after_JU = (weight_JB @ lost_BU) / weight_JB.sum(1, keepdims=True)
        # The chosen before and after, in the same truths: what all weighings have in common does not count as worth.
        kept_J = after_JU[:, int(np.argmin(lost_BU.mean(0)))]
        worth_M[m] = min(now, float(np.mean(kept_J - after_JU.min(1))))
    return np.maximum(worth_M, 0.0)


def _shown(
    valley: Valley, seen: Observations, runs: Sequence[Run]
) -> tuple[Float[np.ndarray, "B M"], Float[np.ndarray, " M"]]:
    """What each run would show against those at hand of its size, in every replicate, and its noise; infinite where there are none."""
    rank_M, axis_M = np.array([float(r.rank) for r in runs]), np.array([r.axis for r in runs])
    halvings_M = np.array([math.log2(valley.whole / r.examples) for r in runs])
    shown_BM = lost_percent(valley.theta_BP, rank_M, axis_M, halvings_M)
    base_BO = lost_percent(valley.theta_BP, seen.rank_O, seen.axis_O, seen.halvings_O)
    noise_M = np.full(len(runs), np.inf)
    for halvings in np.unique(seen.halvings_O):
        here_M, at_O = halvings_M == halvings, seen.halvings_O == halvings
        if not here_M.any():
            continue
        mean_M = shown_BM[:, here_M].mean(0)
        misfit_M = MISFIT_PERCENT + MISFIT_SHARE * (mean_M - mean_M.min())
        shown_BM[:, here_M] -= base_BO[:, at_O].mean(1, keepdims=True)
        noise_M[here_M] = np.sqrt(misfit_M**2 + NOISE_PERCENT**2 * (1 + 1 / int(at_O.sum())))
    return shown_BM, noise_M
