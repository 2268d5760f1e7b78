"""What backs a decision: the margin, the price list, how more data would move it, what would decide it, and the single runs.

Dimensions: U settings, B replicates.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from rightrank.stats import words
from rightrank.stats.forecast import complete
from rightrank.stats.off_best import priced
from rightrank.stats.paired import TAIL, Estimate, interval, paired_contrast
from rightrank.stats.prices import GUIDE_ALPHA_PER_RANK, GUIDE_LEARNING_RATE, GUIDE_RANKS, price
from rightrank.stats.results import Deciding, Drift, Margin, More, Price, RunPoint, SeedNoiseSummary
from rightrank.stats.rungs import Measured, Setting
from rightrank.stats.surface import Standing, learning_rate_drift, stand

if TYPE_CHECKING:
    from rightrank.stats.evidence import Evidence

# Margin: a share of the gain, and what this much more data would buy (DESIGN); never below the last. Chosen: a tenth of the first,
# since on saturated data more examples buy next to nothing and no experiment could certify such a margin.
GAIN_SHARE_PERCENT, MORE_DATA, SMALLEST_PERCENT = 1.0, 1.10, 0.1


def equivalence_margin(data: Measured, standing: Standing) -> Margin:
    """The smaller of 1 % of the gain and of what 10 % more data would buy."""
    gain = standing.gain
    share = GAIN_SHARE_PERCENT / 100
    buys = _more_data_buys(data)
    scale = max(abs(gain.value), 1e-12)
    percent = min(GAIN_SHARE_PERCENT, 100 * buys.value / scale if buys else math.inf)
    percent = max(percent, SMALLEST_PERCENT)
    one = Estimate(share * gain.value, share * gain.low, share * gain.high)
    return Margin(percent / 100 * scale, percent, one, buys)


def _more_data_buys(data: Measured) -> Estimate | None:
    """Nats a token that 10 % more training examples buy at the best setting: from the last two sizes, linear in their logarithm."""
    if len(data.rungs) < 2:
        return None
    before, after = data.rungs[-2:]
    same = before.on_score == after.on_score
    tables = [(r.judge if same else r.decide) for r in (before, after)]
    ends = [
        t.take([int(np.nanargmin(r.decide.value_K))]) for t, r in zip(tables, (before, after), strict=True)
    ]
    fall = ends[0].plus(ends[1], -1.0)
    factor = math.log(MORE_DATA) / math.log(after.examples / before.examples)
    bought = interval(factor * float(fall.value_K[0]), factor * fall.deviation_BK[:, 0])
    return bought if bought.low > 0 else None


def price_list(
    data: Measured,
    standing: Standing,
    choice: int,
    margin_percent: float | None,
    yours: tuple[int, float, float] | None,
) -> tuple[Price, ...]:
    """Every rank at its best learning rate, the guides' settings within the ranks tried, and the person's own.

    ``choice`` gets a row of its own where it is another setting than the one that *decide* chooses for its rank.
    """
    ranks = list(standing.chosen)
    tuned = sorted({*standing.chosen.values(), choice})
    rows = [price(data, standing, data.settings[u], "tuned", margin_percent) for u in tuned]
    standing = priced(data, standing)
    for rank in GUIDE_RANKS:
        if ranks[0] <= rank <= ranks[-1]:
            guide = Setting(rank, GUIDE_ALPHA_PER_RANK * rank, GUIDE_LEARNING_RATE)
            rows.append(price(data, standing, guide, "guide", margin_percent))
    if yours is not None:
        rows.append(price(data, standing, Setting(*yours), "yours", margin_percent))
    return tuple(rows)


def with_more_data(data: Measured, standing: Standing, u: int, margin: Margin) -> Drift:
    """How best learning rate and rank move with the amount of data."""
    later = (
        {times: stand(data, times * standing.examples) for times in (2, 10)} if len(data.rungs) > 1 else {}
    )
    slope = _rank_slope(data, standing, later[2]) if later else None
    holds = {times: (s, s.gain_lost_by(u)) for times, s in later.items()}
    sentences = words.more_data(slope, holds, data.settings, margin.percent)
    return Drift(learning_rate_drift(data), slope, sentences)


def _rank_slope(data: Measured, standing: Standing, later: Standing) -> Estimate | None:
    """Percent of the gain by which each doubling of the rank pays more at the later size than at this one (least squares)."""
    chosen = [u for u in standing.chosen.values() if sum(bool(r.measured_U[u]) for r in data.rungs) > 1]
    if len(chosen) < 2 or standing.gain.value <= 0:
        return None
    x = np.log2(data.rank_U[chosen])
    weights = np.zeros(len(data.settings))
    weights[chosen] = -(x - x.mean()) / np.sum((x - x.mean()) ** 2)
    moved = later.level.plus(standing.level, -1.0).combine(weights[None])
    scale = 100 / standing.gain.value
    return interval(scale * float(moved.value_K[0]), scale * moved.deviation_BK[:, 0])


def deciding_contrast(data: Measured, standing: Standing, u: int, margin: Margin) -> Deciding | None:
    """The contrast that bounds the gain lost of setting ``u``, and what its uncertainty is made of."""
    rivals = standing.rivals_R[standing.rivals_R != u]
    if len(rivals) == 0:
        return None
    noise_BR = standing.lost_BU[:, [u]] - standing.lost_BU[:, rivals]
    error_R = np.sqrt(np.mean(noise_BR**2, axis=0))
    contrast_R = standing.lost_U[u] - standing.lost_U[rivals]
    at = int(np.argmax(contrast_R + norm.ppf(1 - TAIL) * error_R))
    rival, error = int(rivals[at]), float(error_R[at])
    critical = max((standing.gain_lost_by(u).high - float(contrast_R[at])) / max(error, 1e-12), 1.0)
    _, judged = complete(data)
    weights = np.zeros((1, len(data.settings)))
    weights[0, [u, rival]] = 1.0, -1.0
    scale = 100 / standing.gain.value
    here, there = judged[-1].combine(weights), standing.level.combine(weights)
    examples, seeds = (scale**2 * float(np.mean(s**2)) for s in (here.example_BK, here.seed_BK))
    examples_all, seeds_all = (scale**2 * float(np.mean(s**2)) for s in (there.example_BK, there.seed_BK))
    beyond = max(0.0, examples_all + seeds_all - examples - seeds)
    total = max(examples + seeds + beyond, 1e-300)
    total_all, goal = examples_all + seeds_all, (margin.percent / critical) ** 2
    now = len(data.rungs[-1].judge_E)
    seeds_now = min(
        int(np.sum(data.setting_C[data.evidence.examples_C == data.rungs[-1].examples] == v))
        for v in (u, rival)
    )
    shares: dict[More, float] = {"held-out examples": examples, "seeds": seeds, "training examples": beyond}
    return Deciding(
        setting=data.settings[u],
        rival=data.settings[rival],
        half_width_percent=critical * math.sqrt(total_all),
        share_examples=examples / total,
        share_seeds=seeds / total,
        share_extrapolation=beyond / total,
        all_times=total_all / goal,
        held_out_now=now,
        held_out_needed=_needed(now, examples_all, goal - seeds_all),
        seeds_now=seeds_now,
        seeds_needed=_needed(max(seeds_now, 1), seeds_all, goal - examples_all),
        helps_most=max(shares, key=lambda name: shares[name]),
    )


def _needed(now: int, variance: float, allowed: float) -> int | None:
    """How many instead of ``now`` bring a variance that falls with their number down to what is allowed; None where none do."""
    return max(1, math.ceil(now * variance / allowed)) if allowed > 0 else None


def resolvable_percent(data: Measured, standing: Standing) -> float | None:
    """Median over the ranks of 1.96 standard errors of the difference to the best at the largest size, held-out examples only."""
    top = data.rungs[-1]
    others = [u for u in standing.chosen.values() if u != standing.best and top.measured_U[u]]
    if not others or not top.measured_U[standing.best]:
        return None
    noise_BK = top.judge.example_BK[:, others] - top.judge.example_BK[:, [standing.best]]
    error_K = np.sqrt(np.mean(noise_BK**2, axis=0))
    return float(norm.ppf(1 - TAIL) * np.median(error_K) * 100 / standing.gain.value)


def run_points(evidence: Evidence, data: Measured) -> tuple[RunPoint, ...]:
    """Every run on *decide*, against the best setting at its own size."""
    clean = data.evidence
    found: dict[tuple[float, ...], RunPoint] = {}
    for rung in data.rungs:
        run_c = np.flatnonzero(clean.examples_C == rung.examples)
        best = int(np.nanargmin(rung.decide.value_K))
        example_E = ~clean.scores_E & np.all(
            ~np.isnan(clean.loss_CE[run_c[rung.measured_U[data.setting_C[run_c]]]]), axis=0
        )
        tokens = float(clean.tokens_E[example_E].sum())
        base = float(clean.base_loss_E[example_E].sum()) / tokens
        gain = base - float(rung.decide.value_K[best])
        for c in run_c:
            loss = float(clean.loss_CE[c, example_E].sum()) / tokens
            u = data.setting_C[c]
            lost = None
            if math.isfinite(loss) and rung.measured_U[u] and gain > 0:
                noise_B = rung.decide.deviation_BK[:, u] - rung.decide.deviation_BK[:, best]
                lost = interval(100 * (loss - float(rung.decide.value_K[best])) / gain, 100 * noise_B / gain)
            found[_key(clean, int(c))] = RunPoint(loss if math.isfinite(loss) else None, lost)
    return tuple(found.get(_key(evidence, c), RunPoint(None, None)) for c in range(len(evidence.rank_C)))


def _key(evidence: Evidence, c: int) -> tuple[float, ...]:
    columns = (
        evidence.examples_C,
        evidence.rank_C,
        evidence.alpha_C,
        evidence.learning_rate_C,
        evidence.seed_C,
    )
    return tuple(float(column[c]) for column in columns)


def warnings_for(data: Measured, standing: Standing, u: int) -> tuple[str, ...]:
    """What a reader should know before trusting an interval."""
    top, clean = data.rungs[-1], data.evidence
    found = [] if top.on_score else [words.NOT_SCORED]
    if top.wrong is None:
        found.append(words.NO_ACCURACY)
    at = {v: int(np.flatnonzero((clean.examples_C == top.examples) & (data.setting_C == v))[0])
          for v in {u, standing.best} if top.measured_U[v]}  # fmt: skip
    if len(at) == 2:
        a, b = at[u], at[standing.best]
        E = top.judge_E
        contrast = paired_contrast(clean.loss_CE[a, E], clean.loss_CE[b, E], clean.tokens_E[E])
        if contrast.warning:
            found.append(contrast.warning)
    return tuple(found)


def noise_summary(data: Measured) -> SeedNoiseSummary:
    """The seed noise at a low and at a high learning rate."""
    noise = data.noise
    return SeedNoiseSummary(noise.percent(1e-3), noise.percent(3e-3), noise.degrees_of_freedom, noise.source)
