"""Cuts of a run's adapter against adapters that were trained: are they as good as the one that the answer recommends, at no more rank?

About these very adapters, one run each, so that seeds are no samples. The cut that may be called better is chosen on the examples that
decide and compared on those that score, so that one comparison is made; whoever is called better beside it pays for all comparisons
(Bonferroni). The recommended adapter was chosen with a look at the same scores, which flatters it, not the cut.

Dimensions: V cuts, E held-out examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import stats

from rightrank.stats.paired import (
    CONFIDENCE,
    FEWEST_EXAMPLES,
    TAIL,
    Estimate,
    PairedContrast,
    paired_contrast,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

RivalVerdict = Literal["better", "as good", "worse", "cannot tell"]


@dataclass(frozen=True)
class CutRivals:
    """Held-out results of the cuts and of what was trained, on the same examples. NaN and -1 where a cut was not evaluated."""

    rank_V: Int[np.ndarray, " V"]
    loss_VE: Float[np.ndarray, "V E"]
    """Nats, summed over the trained tokens of each example; so are the others."""
    right_VE: Int[np.ndarray, "V E"]
    chosen_loss_E: Float[np.ndarray, " E"]
    """Of the adapter that the answer recommends."""
    chosen_right_E: Int[np.ndarray, " E"]
    best_loss_E: Float[np.ndarray, " E"]
    """Of the best setting, which gains lost refer to."""
    base_loss_E: Float[np.ndarray, " E"]
    tokens_E: Int[np.ndarray, " E"]
    scores_E: Bool[np.ndarray, " E"]


@dataclass(frozen=True)
class ComparedCut:
    """One cut. The gain that shares are taken of counts as known: its own error is a small share of a small difference."""

    rank: int
    above_best: Estimate
    """Nats a token."""
    gain_lost: Estimate
    """Percent, against the best setting."""
    against: Estimate
    """Percent of the gain that it loses more than the recommended adapter."""
    verdict: RivalVerdict
    """Of it against the recommended adapter."""
    rows: int
    scored: bool
    """False: it was left behind on the examples that decide, and its figures are of those."""


@dataclass(frozen=True)
class CutComparison:
    """What the cuts are worth."""

    cuts: tuple[ComparedCut, ...]
    better: int | None
    """Rank of the cut that is surely better than the recommended adapter."""
    as_good: int | None
    """Smallest rank whose cut is surely within the margin of it."""


def compare_cuts(rivals: CutRivals, *, margin_percent: float) -> CutComparison | None:
    """The cuts against the recommended adapter; None where the best setting gains nothing on the examples that score."""
    score_E, tokens_E = rivals.scores_E, rivals.tokens_E
    gained = float((rivals.base_loss_E - rivals.best_loss_E)[score_E].sum())
    if gained <= 0 or not score_E.any():
        return None
    percent = 100 * float(tokens_E[score_E].sum()) / gained
    scored_V = np.isfinite(rivals.loss_VE).all(1)
    able = np.flatnonzero(scored_V)
    decide_V = rivals.loss_VE[:, ~score_E].sum(1)
    picked = int(min(able, key=lambda v: (decide_V[v], rivals.rank_V[v]))) if len(able) else None
    cuts = tuple(
        _compared(rivals, v, percent, margin_percent, rivals_of_it=1 if v == picked else len(able))
        for v in range(len(rivals.rank_V))
    )
    good = [cut.rank for cut in cuts if cut.scored and cut.verdict in ("better", "as good")]
    better = None if picked is None or cuts[picked].verdict != "better" else cuts[picked].rank
    within = [cut.rank for cut in cuts if cut.rank in good and cut.against.high <= margin_percent]
    return CutComparison(cuts, better, min(within, default=None))


def _compared(
    rivals: CutRivals, v: int, percent: float, margin_percent: float, *, rivals_of_it: int
) -> ComparedCut:
    scored = bool(np.isfinite(rivals.loss_VE[v]).all())
    seen_E = rivals.scores_E if scored else np.isfinite(rivals.loss_VE[v])
    loss_E, tokens_E = rivals.loss_VE[v, seen_E], rivals.tokens_E[seen_E]
    above = paired_contrast(loss_E, rivals.best_loss_E[seen_E], tokens_E)
    against = paired_contrast(loss_E, rivals.chosen_loss_E[seen_E], tokens_E)
    lost = _share(against, percent)
    verdict: RivalVerdict = "cannot tell"
    rows = len(tokens_E)
    if not scored or lost.low > margin_percent or _less_accurate(rivals, v, seen_E):
        verdict = "worse"
    elif rows >= FEWEST_EXAMPLES and _surely_below(against, rows, rivals_of_it):
        verdict = "better"
    elif rows >= FEWEST_EXAMPLES and lost.high <= margin_percent:
        verdict = "as good"
    nats = Estimate(above.difference, above.low, above.high)
    return ComparedCut(int(rivals.rank_V[v]), nats, _share(above, percent), lost, verdict, int(rows), scored)


def _share(contrast: PairedContrast, percent: float) -> Estimate:
    return Estimate(*(percent * nats for nats in (contrast.difference, contrast.low, contrast.high)))


def _surely_below(contrast: PairedContrast, rows: int, comparisons: int) -> bool:
    critical = float(stats.t.ppf(1 - TAIL / comparisons, rows - 1))
    return contrast.difference + critical * contrast.standard_error < 0


def _less_accurate(rivals: CutRivals, v: int, seen_E: Bool[np.ndarray, " E"]) -> bool:
    """Whether it gets significantly fewer tokens or completions right than the recommended adapter (one-sided, 95 % for both)."""
    tokens_E = rivals.tokens_E[seen_E]
    mine_E, its_E = tokens_E - rivals.right_VE[v, seen_E], tokens_E - rivals.chosen_right_E[seen_E]
    critical = float(stats.norm.ppf(1 - (1 - CONFIDENCE) / 2))
    ones_E = np.ones_like(tokens_E)
    found = (
        paired_contrast(mine_E, its_E, tokens_E),
        paired_contrast((mine_E > 0).astype(float), (its_E > 0).astype(float), ones_E),
    )
    return any(one.difference > critical * one.standard_error + 1e-9 for one in found)
