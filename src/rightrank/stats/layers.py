"""Adapters on some layers alone against adapters on all of them, of equal size. No torch, no files.

Dimensions: R learning rates, E held-out examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from rightrank.stats.paired import FEWEST_EXAMPLES, TAIL, Estimate, paired_contrast

if TYPE_CHECKING:
    from jaxtyping import Float, Int

LayersVerdict = Literal["better", "as good", "worse", "cannot tell"]
KINDS_COMPARED = 2
"""Attention alone and the MLP alone: either may look better by chance."""


@dataclass(frozen=True)
class Against:
    """What some layers alone lose against all of them."""

    lost: Estimate
    """Percent of what all layers gain over the base model; below zero: they lose less."""
    verdict: LayersVerdict


def best_rate(loss_RE: Float[np.ndarray, "R E"]) -> int | None:
    """The learning rate of the lowest loss on these examples; one that diverged has infinite ones. None where all did."""
    total_R = loss_RE.sum(axis=1)
    return int(np.argmin(total_R)) if np.isfinite(total_R).any() else None


def against_all(
    some_E: Float[np.ndarray, " E"],
    all_E: Float[np.ndarray, " E"],
    base_E: Float[np.ndarray, " E"],
    tokens_E: Int[np.ndarray, " E"],
    *,
    margin_percent: float,
) -> Against | None:
    """Paired, from nats summed over the examples that score; None where all layers gain nothing on them.

    *better*: surely less is lost, with the 5 % shared between both kinds; *as good*: at most the margin is; *worse*: more than it. The
    interval counts examples, not seeds.
    """
    gained = float((base_E - all_E).sum())
    if gained <= 0:
        return None
    percent, examples = 100 * float(tokens_E.sum()) / gained, len(tokens_E)
    contrast = paired_contrast(some_E, all_E, tokens_E)
    lost = Estimate(*(percent * nats for nats in (contrast.difference, contrast.low, contrast.high)))
    verdict: LayersVerdict = "cannot tell"
    if examples < FEWEST_EXAMPLES or contrast.warning is not None:
        return Against(lost, verdict)
    critical = float(stats.t.ppf(1 - TAIL / KINDS_COMPARED, examples - 1))
    if lost.low > margin_percent:
        verdict = "worse"
    elif contrast.difference + critical * contrast.standard_error < 0:
        verdict = "better"
    elif lost.high <= margin_percent:
        verdict = "as good"
    return Against(lost, verdict)
