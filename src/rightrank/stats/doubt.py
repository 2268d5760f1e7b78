"""Which runs stand between a small rank and its certificate. Read by the scheduler, which repeats them with other seeds.

Dimensions: B replicates, R rivals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rightrank.stats.paired import CONFIDENCE
from rightrank.stats.prices import less_accurate
from rightrank.stats.rungs import measure
from rightrank.stats.support import equivalence_margin
from rightrank.stats.surface import QUICK_REPLICATES, stand

if TYPE_CHECKING:
    from rightrank.stats.evidence import Evidence
    from rightrank.stats.rungs import Measured, Setting
    from rightrank.stats.surface import Standing

# Rivals repeated with one rank at once, those that bound it most first. Chosen: more of them cost more than they tell.
MOST_RIVALS = 3
# What is left of an interval's half-width once both sides were repeated with two more seeds. Derived: the root of a third, were all of
# it luck.
REPEATED_WIDTH = 0.6


def in_doubt(evidence: Evidence, below: int | None = None) -> list[list[Setting]]:
    """Of every rank smaller than those surely within the margin that is within it by its estimate: its setting, then the rivals that it
    is not told from. Those first that repeats are likely to certify, and of these the smallest.

    ``below``: the smallest rank surely within the margin, where that was found out with more replicates.
    """
    data = measure(evidence, QUICK_REPLICATES, 0)
    if not data.rungs:
        return []
    standing = stand(data, max(evidence.all_examples, data.rungs[-1].examples))
    if standing.gain.low <= 0:
        return []
    margin = equivalence_margin(data, standing).percent
    likely: list[list[Setting]] = []
    others: list[list[Setting]] = []
    for rank, u in standing.chosen.items():
        lost = standing.gain_lost_by(u)
        if lost.value > margin or less_accurate(data, standing, u):
            continue
        if rank >= below if below is not None else lost.high <= margin:
            break
        hoped = lost.value + REPEATED_WIDTH * (lost.high - lost.value) <= margin
        (likely if hoped else others).append(_with_rivals(data, standing, u, margin))
    return likely + others


def _with_rivals(data: Measured, standing: Standing, u: int, margin: float) -> list[Setting]:
    noise_BR = standing.lost_BU[:, [u]] - standing.lost_BU[:, standing.rivals_R]
    bound_R = standing.lost_U[u] - standing.lost_U[standing.rivals_R]
    bound_R = bound_R + np.quantile(np.abs(noise_BR), CONFIDENCE, axis=0)
    order = [int(r) for r in np.argsort(-bound_R, kind="stable") if standing.rivals_R[r] != u]
    rivals = [int(standing.rivals_R[r]) for i, r in enumerate(order) if i == 0 or bound_R[r] > margin]
    return [data.settings[v] for v in (u, *rivals[:MOST_RIVALS])]
