"""Which cut of a trained adapter is as good as the best of them. One adapter, many versions of it, the same held-out examples.

The house's rule: chosen on the examples that decide, reported on those that score, every upper bound one against whichever version is truly
best. There are no seeds in it: the question is about this one adapter, not about others that might have been trained.

Dimensions: V versions of the adapter, E held-out examples, B replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.stats import norm

from rightrank.stats.decision import LARGE_GAIN, RELEVANT_GAIN, REPLICATES
from rightrank.stats.paired import (
    CONFIDENCE,
    FEWEST_EXAMPLES,
    Estimate,
    Sampled,
    above_the_best,
    interval,
    paired_contrast,
    possible_best,
    resample_counts,
    resampled_ratio,
)
from rightrank.stats.support import GAIN_SHARE_PERCENT

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CutStatus = Literal["NO_GAIN", "UNDECIDED", "FLAT", "SETTLED"]
CutVerdict = Literal["best", "as good", "worse", "cannot tell"]


@dataclass(frozen=True)
class CutEvidence:
    """Held-out results of every version. NaN losses and -1 rights where an example was not evaluated, or no longer."""

    loss_VE: Float[np.ndarray, "V E"]
    """Nats, summed over the trained tokens of each example."""
    right_VE: Int[np.ndarray, "V E"]
    tokens_E: Int[np.ndarray, " E"]
    scores_E: Bool[np.ndarray, " E"]
    """False: the example decides."""
    base_loss_E: Float[np.ndarray, " E"]
    parameters_V: Int[np.ndarray, " V"]
    candidate_V: Bool[np.ndarray, " V"]
    """False: a control, which is compared and never chosen."""


@dataclass(frozen=True)
class VersionResult:
    """One version of the adapter."""

    loss: Estimate
    """Nats a token, on the examples that score; where it was dropped before, the best's loss there plus the difference measured."""
    gain_lost: Estimate | None
    """Percent, against whichever candidate is best; None where no gain is certain."""
    verdict: CutVerdict
    exact: Estimate | None
    """Percent of completions wholly right; None where it was dropped before scoring."""
    tokens_right: Estimate | None
    rows: int
    """Examples that this rests on."""
    scored: bool


@dataclass(frozen=True)
class CutDecision:
    """What to keep of the adapter."""

    status: CutStatus
    chosen: int
    best: int
    versions: tuple[VersionResult, ...]
    base_loss: Estimate
    gain: Estimate
    """Base loss minus best loss, nats a token."""
    margin_nats: float
    certain_gain: bool


def losing(evidence: CutEvidence, alive_V: Bool[np.ndarray, " V"], looks: int) -> Bool[np.ndarray, " V"]:
    """Which of the versions that are ``alive`` can be neither chosen nor best, by the examples evaluated for all of them so far.

    That is: surely worse than the best by more than the margin, or surely worse than a smaller candidate (which is chosen before it); a
    control: surely worse than the best candidate. "Surely" is 95 % for all versions at all ``looks`` together (Bonferroni).
    """
    seen_E = np.isfinite(evidence.loss_VE[alive_V]).all(0)
    tokens_E, losing_V = evidence.tokens_E[seen_E], np.zeros(len(alive_V), bool)
    loss_VE = evidence.loss_VE[:, seen_E]
    living = np.flatnonzero(alive_V)
    able = [v for v in living if evidence.candidate_V[v]]
    if seen_E.sum() < FEWEST_EXAMPLES or not able:
        return losing_V
    best = min(able, key=lambda v: float(loss_VE[v].sum()))
    gain = float((evidence.base_loss_E[seen_E] - loss_VE[best]).sum()) / float(tokens_E.sum())
    critical = float(norm.ppf(1 - (1 - CONFIDENCE) / (looks * max(1, len(living)))))
    for v in living:
        for rival in able:
            smaller = evidence.parameters_V[rival] < evidence.parameters_V[v] or not evidence.candidate_V[v]
            if rival == v or not (rival == best or smaller):
                continue
            apart = paired_contrast(loss_VE[v], loss_VE[rival], tokens_E)
            allowed = 0.0 if smaller else max(0.0, GAIN_SHARE_PERCENT / 100 * gain)
            losing_V[v] |= apart.difference - critical * apart.standard_error > allowed
    losing_V[best] = False
    return losing_V


def surely_as_good(evidence: CutEvidence, alive_V: Bool[np.ndarray, " V"], looks: int) -> int | None:
    """The smallest candidate that is ``alive`` and surely within the margin of every other; None where none is.

    By the examples evaluated for all of them so far; "surely" as for ``losing``.
    """
    seen_E = np.isfinite(evidence.loss_VE[alive_V]).all(0)
    able = by_size(evidence, alive_V)
    if seen_E.sum() < FEWEST_EXAMPLES or not able:
        return None
    tokens_E, loss_VE = evidence.tokens_E[seen_E], evidence.loss_VE[:, seen_E]
    best = min(able, key=lambda v: float(loss_VE[v].sum()))
    gain = paired_contrast(evidence.base_loss_E[seen_E], loss_VE[best], tokens_E)
    critical = float(norm.ppf(1 - (1 - CONFIDENCE) / (looks * len(able))))
    if gain.difference - critical * gain.standard_error <= 0:
        return None
    margin = GAIN_SHARE_PERCENT / 100 * gain.difference
    for one in able:
        apart = (paired_contrast(loss_VE[one], loss_VE[v], tokens_E) for v in able if v != one)
        if all(c.difference + critical * c.standard_error <= margin for c in apart):
            return one
    return None


def settled(evidence: CutEvidence, alive_V: Bool[np.ndarray, " V"], looks: int) -> bool:
    """Whether the smallest candidate that is ``alive`` is ``surely_as_good``: more rows would change nothing."""
    enough = surely_as_good(evidence, alive_V, looks)
    return enough is not None and enough == by_size(evidence, alive_V)[0]


def needless(evidence: CutEvidence, alive_V: Bool[np.ndarray, " V"], looks: int) -> Bool[np.ndarray, " V"]:
    """Which of the candidates that are ``alive`` come after one that is ``surely_as_good``, so that they will not be chosen.

    Not the one with the lowest loss: what is chosen must answer to it.
    """
    found_V = np.zeros(len(alive_V), bool)
    enough = surely_as_good(evidence, alive_V, looks)
    if enough is None:
        return found_V
    able = by_size(evidence, alive_V)
    seen_E = np.isfinite(evidence.loss_VE[alive_V]).all(0)
    best = min(able, key=lambda v: float(evidence.loss_VE[v, seen_E].sum()))
    found_V[[v for v in able[able.index(enough) + 1 :] if v != best]] = True
    return found_V


def by_size(evidence: CutEvidence, alive_V: Bool[np.ndarray, " V"]) -> list[int]:
    """The candidates that are ``alive``, the smallest first: in the order in which they would be chosen."""
    able = (int(v) for v in np.flatnonzero(alive_V & evidence.candidate_V))
    return sorted(able, key=lambda v: int(evidence.parameters_V[v]))


def decide_cut(evidence: CutEvidence, *, seed: int = 0, replicates: int = REPLICATES) -> CutDecision:
    """What the versions' losses say. Raises ValueError where no candidate was evaluated on every example."""
    score_E = evidence.scores_E
    whole_V = np.isfinite(evidence.loss_VE).all(1)
    able = by_size(evidence, whole_V)
    if not able:
        raise ValueError("no candidate was evaluated on every example")
    decide_V = evidence.loss_VE[:, ~score_E].sum(1)
    best = min(able, key=lambda v: float(decide_V[v]))
    judged = np.flatnonzero(whole_V)
    tokens_E = evidence.tokens_E[score_E].astype(float)
    counts_BE = resample_counts(np.random.default_rng(seed), replicates, len(tokens_E))
    amounts = np.concatenate(
        [evidence.loss_VE[judged][:, score_E], evidence.base_loss_E[None, score_E]]
    ).astype(float)
    value_K, deviation_BK = resampled_ratio(amounts, tokens_E, counts_BE)
    place = {int(v): k for k, v in enumerate(judged)}
    gain = interval(
        float(value_K[-1] - value_K[place[best]]), deviation_BK[:, -1] - deviation_BK[:, place[best]]
    )
    certain = gain.low > 0
    lost = _gain_lost(value_K, deviation_BK, place[best], [place[v] for v in able])
    worse_V = _less_accurate(evidence, judged, best)
    versions = [
        _judged(evidence, v, place[v], best, value_K, deviation_BK, lost if certain else None, worse_V[v])
        if v in place
        else _dropped(evidence, v, best, float(value_K[place[best]]), gain.value if certain else None)
        for v in range(len(evidence.loss_VE))
    ]
    status, chosen = _status(evidence, versions, gain, certain, able, float(value_K[-1]))
    margin = GAIN_SHARE_PERCENT / 100 * max(gain.value, 0.0)
    base = interval(float(value_K[-1]), deviation_BK[:, -1])
    return CutDecision(status, chosen, best, tuple(versions), base, gain, margin, certain)


def _gain_lost(
    value_K: Float[np.ndarray, " K"], deviation_BK: Float[np.ndarray, "B K"], best: int, able: list[int]
) -> list[Estimate]:
    """Percent of the gain that each version gives away, with intervals against whichever candidate is best. The last of K is the base."""
    gain = float(value_K[-1] - value_K[best])
    # A gain near zero makes every share of it meaningless; the statuses refuse it, this only keeps the numbers finite.
    gain_B = gain + deviation_BK[:, -1] - deviation_BK[:, best]
    gain_B = np.maximum(gain_B, max(0.1 * abs(gain), 1e-9))
    lost_K = 100 * (value_K - value_K[best]) / max(abs(gain), 1e-9)
    above_BK = value_K + deviation_BK
    lost_BK = 100 * (above_BK - above_BK[:, [best]]) / gain_B[:, None] - lost_K
    possible = possible_best(lost_K[able], lost_BK[:, able], able.index(best))
    rivals = Sampled(lost_K, lost_BK, np.zeros_like(lost_BK)).take([able[i] for i in possible])
    found = []
    for k in range(len(lost_K) - 1):
        low, high = above_the_best(float(lost_K[k]), lost_BK[:, k], rivals.value_K, rivals.example_BK)
        value = float(lost_K[k])
        # A candidate cannot be better than the best of them; a control can.
        floor = 0.0 if k in able else value
        found.append(Estimate(value, min(low, value), max(high, value, floor)))
    return found


def _less_accurate(evidence: CutEvidence, judged: Int[np.ndarray, " K"], best: int) -> Bool[np.ndarray, " V"]:
    """Versions that get significantly fewer completions or tokens right than the best (paired, one-sided, 95 % for all looks together)."""
    score_E, found_V = evidence.scores_E, np.zeros(len(evidence.loss_VE), bool)
    tokens_E = evidence.tokens_E[score_E]
    wrong_VE = tokens_E - evidence.right_VE[:, score_E]
    critical = float(norm.ppf(1 - (1 - CONFIDENCE) / (2 * max(1, len(judged) - 1))))
    for v in judged:
        tokens = paired_contrast(wrong_VE[v], wrong_VE[best], tokens_E)
        whole = paired_contrast(
            (wrong_VE[v] > 0).astype(float), (wrong_VE[best] > 0).astype(float), np.ones_like(tokens_E)
        )
        found_V[v] = v != best and any(
            c.difference > critical * c.standard_error + 1e-9 for c in (tokens, whole)
        )
    return found_V


def _judged(
    evidence: CutEvidence,
    v: int,
    k: int,
    best: int,
    value_K: Float[np.ndarray, " K"],
    deviation_BK: Float[np.ndarray, "B K"],
    lost_K: list[Estimate] | None,
    less_accurate: bool,
) -> VersionResult:
    score_E = evidence.scores_E
    tokens_E, right_E = evidence.tokens_E[score_E], evidence.right_VE[v, score_E]
    exact = _percent((right_E == tokens_E).astype(float), np.ones(len(tokens_E), int))
    lost = None if lost_K is None else lost_K[k]
    verdict: CutVerdict = "cannot tell"
    if v == best:
        verdict = "best"
    elif lost is not None and (lost.low > GAIN_SHARE_PERCENT or less_accurate):
        verdict = "worse"
    elif lost is not None and lost.high <= GAIN_SHARE_PERCENT:
        verdict = "as good"
    return VersionResult(
        interval(float(value_K[k]), deviation_BK[:, k]),
        lost,
        verdict,
        exact,
        _percent(right_E, tokens_E),
        int(score_E.sum()),
        True,
    )


def _percent(part_E: np.ndarray, whole_E: np.ndarray) -> Estimate:
    found = paired_contrast(part_E.astype(float), np.zeros(len(part_E)), whole_E)
    low, high = max(0.0, found.low), min(1.0, found.high)
    return Estimate(100 * found.difference, 100 * low, 100 * high)


def _dropped(evidence: CutEvidence, v: int, best: int, best_loss: float, gain: float | None) -> VersionResult:
    """A version that was left behind: its difference from the best on the examples that both were evaluated on."""
    seen_E = np.isfinite(evidence.loss_VE[v])
    apart = paired_contrast(
        evidence.loss_VE[v, seen_E], evidence.loss_VE[best, seen_E], evidence.tokens_E[seen_E]
    )
    loss = Estimate(best_loss + apart.difference, best_loss + apart.low, best_loss + apart.high)
    lost: Estimate | None = None
    verdict: CutVerdict = "worse"
    if gain is not None:
        lost = Estimate(*(100 * x / gain for x in (apart.difference, apart.low, apart.high)))
        if lost.low <= 0:  # left behind since a smaller one will do
            verdict = "as good" if lost.high <= GAIN_SHARE_PERCENT else "cannot tell"
    return VersionResult(loss, lost, verdict, None, None, int(seen_E.sum()), False)


def _status(
    evidence: CutEvidence,
    versions: list[VersionResult],
    gain: Estimate,
    certain: bool,
    able: list[int],
    base_loss: float,
) -> tuple[CutStatus, int]:
    """The first of NO_GAIN, UNDECIDED, FLAT, SETTLED that applies, and the version to use. ``able``: candidates ``by_size``."""
    enough = int(evidence.scores_E.sum()) >= FEWEST_EXAMPLES
    share = LARGE_GAIN if gain.value <= 0 else RELEVANT_GAIN
    if enough and not certain and gain.high < share * base_loss:
        return "NO_GAIN", able[0]

    def bound(v: int) -> float:
        lost = versions[v].gain_lost
        return math.inf if lost is None else lost.high

    accurate = [v for v in able if versions[v].verdict != "worse"] or able
    lowest = min(bound(v) for v in accurate)
    near = (v for v in accurate if bound(v) <= lowest + 0.1 * GAIN_SHARE_PERCENT)
    # Where nothing bounds what a cut loses, none is safe: the whole adapter, the first of the largest, stays as it is.
    largest = max(able, key=lambda v: int(evidence.parameters_V[v]))
    safe = largest if math.isinf(lowest) else next(near)
    equivalent = [v for v in accurate if bound(v) <= GAIN_SHARE_PERCENT]
    if not (enough and certain and equivalent):
        return "UNDECIDED", safe
    every = [versions[int(v)].verdict for v in np.flatnonzero(evidence.candidate_V)]
    if len(every) > 1 and all(verdict in ("best", "as good") for verdict in every):
        return "FLAT", equivalent[0]
    return "SETTLED", equivalent[0]
