"""What a learning rate far from the best loses on more data than it was run on: what prices of the guides and of one's own rest on.

Scouts on a part of the rows try many rates, and only those near the best are run again. What the others lost there does not stay: too low
a rate catches up, too high a one may do either. Of contrasts of more than 2 % of the gain on five recorded data sets, 241 too low ones
fell to 0.1 to 1.0 of themselves with a doubling of the rows (medians 0.6 after three epochs, 0.8 after one; 0.3 and 0.4 with two doublings,
0.1 with three), the middle half of 163 too high ones went to 0.6 to 1.2 (bench/LOG.md). 12 changed their sign, none that had lost more
than 3.3 %.

Certificates do not rest on it: there what was dropped counts as it was, with wide errors.

Dimensions: U settings, B replicates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rightrank.stats.paired import Sampled

if TYPE_CHECKING:
    from jaxtyping import Float

    from rightrank.stats.rungs import Measured, Rung
    from rightrank.stats.surface import Standing

# Further from the best learning rate than this (log10), one is too low or too high. Chosen: half a step of the grid.
ASIDE = 0.25
# What loses less, in percent of the gain, may yet turn out to be the best.
LEAST_PERCENT = 3.0
# What too low a rate loses shrinks by this factor with every doubling of the rows. Standard error, as a share of what was lost: for one
# doubling or more.
LOW_SHRINKS, LOW_ERROR = 0.65, 0.35
# What too high a rate loses is carried on as it is. Standard error for each doubling. ``forecast`` carries what grew on by it too: straight
# lines held what was seen in 56 and 59 % of such cases (``python -m bench.more_data``).
HIGH_ERROR = 0.35
LEFT = 0.03
"""This share of what was lost is left at least."""


def priced(data: Measured, standing: Standing) -> Standing:
    """``standing`` with settings off the best learning rate, run on one smaller size alone, as they are foreseen to lose on all rows.

    For prices only. What may yet be the best, or is what its rank is judged by, stays as it is.
    """
    level, found = standing.level, {}
    kept = {standing.best, *standing.chosen.values(), *map(int, standing.rivals_R)}
    for u in sorted(set(np.flatnonzero(np.isfinite(level.value_K)).tolist()) - kept):
        ran = [rung for rung in data.rungs if rung.measured_U[u]]
        if len(ran) == 1 and ran[0].examples < standing.examples:
            apart = _foreseen(data, ran[0], u, standing.examples)
            if apart is not None:
                found[u] = apart
    if not found:
        return standing
    value_U, example_BU, seed_BU = (
        np.array(part) for part in (level.value_K, level.example_BK, level.seed_BK)
    )
    for u, (lost, error_B) in found.items():
        value_U[u] = level.value_K[standing.best] + lost
        example_BU[:, u] = level.example_BK[:, standing.best]
        seed_BU[:, u] = level.seed_BK[:, standing.best] + error_B
    return standing.at(Sampled(value_U, example_BU, seed_BU))


def _foreseen(
    data: Measured, rung: Rung, u: int, examples: int
) -> tuple[float, Float[np.ndarray, " B"]] | None:
    """Nats that setting ``u``, run at ``rung``, will lose on ``examples``, and errors; None where it is not off the best there."""
    table = rung.judge
    best = int(np.nanargmin(np.where(rung.measured_U, table.value_K, np.nan)))
    lost = float(table.value_K[u] - table.value_K[best])
    gain = float(rung.base.value_K[0] - table.value_K[best])
    above = float(data.axis_U[u] - data.axis_U[best])
    if abs(above) <= ASIDE or lost <= LEAST_PERCENT / 100 * gain:
        return None
    doublings = math.log2(examples / rung.examples)
    left = LOW_SHRINKS**doublings if above < 0 else 1.0
    error = LOW_ERROR * min(1.0, doublings) if above < 0 else HIGH_ERROR * doublings
    own_B = left * (table.deviation_BK[:, u] - table.deviation_BK[:, best])
    drawn_B = np.maximum(error * data.normal_BU[:, u], LEFT - left)
    return left * lost, own_B + lost * drawn_B
