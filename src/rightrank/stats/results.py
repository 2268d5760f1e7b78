"""The answer of the statistics. Plain values: no arrays, no formats.

Percentages of the gain: 100 × (loss − best loss) / (base loss − best loss). All intervals are 95 %; their ends are NaN where too few
held-out examples score for them to mean anything (``Decision.trusted``), or runs were too short to rely on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rightrank.stats.paired import Estimate

if TYPE_CHECKING:
    from rightrank.stats.rungs import Setting

Status = Literal["NO_GAIN", "UNDECIDED", "FLAT", "CEILING", "SETTLED"]
Verdict = Literal["best", "as good", "worse", "cannot tell"]
Kind = Literal["tuned", "guide", "yours"]
Source = Literal["measured", "extrapolated", "derived"]
More = Literal["held-out examples", "seeds", "training examples"]


@dataclass(frozen=True)
class Price:
    """What one choice costs: a rank at its best learning rate, a guide's setting, or the user's own."""

    kind: Kind
    setting: Setting
    verdict: Verdict
    source: Source | None
    """None: no figure can be given, and ``why_not`` says why."""
    loss: Estimate | None
    """Nats a token."""
    gain_lost: Estimate | None
    """Percent; None also where training gains nothing that could be lost."""
    exact: Estimate | None
    """Percent of held-out completions wholly right, at the most training examples that the setting was run on."""
    tokens_right: Estimate | None
    """Percent of held-out tokens right, likewise."""
    why_not: str | None = None


@dataclass(frozen=True)
class Margin:
    """Two choices closer than this count as the same: the smaller of its two readings, but never under 0.1 % of the gain."""

    nats: float
    percent: float
    one_percent_of_gain: Estimate
    """Nats a token."""
    ten_percent_more_data: Estimate | None
    """Nats a token; None where it is not significantly above zero or only one size was run."""


@dataclass(frozen=True)
class Drift:
    """How the answer moves with the amount of data."""

    log_rate_per_log_examples: Estimate | None
    """Change of log(best learning rate) per unit of log(training examples), mean over ranks; None where no rank shows it."""
    rank_slope: Estimate | None
    """Percent of the gain by which doubling the rank pays more (> 0) or less at twice the data; None with one size only."""
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Deciding:
    """What keeps the chosen setting from being certified, or what its certificate hangs on."""

    setting: Setting
    rival: Setting
    half_width_percent: float
    """Of the interval of their difference, in percent of the gain."""
    share_examples: float
    """Shares of the variance of that difference: the held-out examples, …"""
    share_seeds: float
    share_extrapolation: float
    """… and not having trained on all examples. The three sum to 1."""
    all_times: float
    """How many times as many held-out examples *and* seeds would bring the half-width to the margin; below 1: it is there."""
    held_out_now: int
    held_out_needed: int | None
    """Examples that would bring the half-width to the margin; None where no number of them would."""
    seeds_now: int
    seeds_needed: int | None
    """Seeds of both settings that would, likewise."""
    helps_most: More
    """The largest of the three shares."""


@dataclass(frozen=True)
class RunPoint:
    """One finished run, in the order of the evidence."""

    decide_loss: float | None
    """Nats a token on the examples that choose; None where it diverged or was hardly evaluated."""
    gain_lost: Estimate | None
    """Percent, against the best setting on the same number of training examples, on the same examples."""


@dataclass(frozen=True)
class SeedNoiseSummary:
    """Standard deviation of a run's loss between seeds, in percent of the loss."""

    low_rate_percent: float
    """At (equivalent) learning rates up to 1e-3."""
    high_rate_percent: float
    degrees_of_freedom: int
    source: Literal["measured", "assumed"]


@dataclass(frozen=True)
class Decision:
    """Status, choice, and what backs them."""

    status: Status
    reasons: tuple[str, ...]
    choice: Setting
    """SETTLED, FLAT, CEILING: the answer. NO_GAIN, UNDECIDED: what is safe meanwhile."""
    worst_case_percent: float | None
    """Upper end of what ``choice`` gives away of the gain, against all settings that were run; None where nothing bounds it: no sure
    gain, or a single setting."""
    choices: tuple[Price, ...]
    """By kind; a rank has two rows where ``choice`` is not the learning rate that *decide* chooses for it."""
    best: Setting
    """The one that *decide* chooses, and that ``best_loss`` and every ``gain_lost`` value refer to."""
    foreseen: Setting
    """The best point on all the data as foreseen, between runs where it lies there; ``best`` where all the data was trained on."""
    margin: Margin | None
    """None where it is not sure that anything is gained."""
    base_loss: Estimate | None
    """Nats a token, as the two below; None where nothing finite was measured."""
    best_loss: Estimate | None
    frequency_loss: Estimate | None
    gain: Estimate | None
    """Base loss minus best loss."""
    ruled_out: tuple[int, ...]
    drift: Drift
    deciding: Deciding | None
    runs: tuple[RunPoint, ...]
    seed_noise: SeedNoiseSummary
    resolvable_difference_percent: float | None
    """Smallest difference in gain lost that the held-out examples can tell from zero, seeds and extrapolation left out."""
    measured_examples: int
    """Training examples of the largest size that the answer rests on."""
    extrapolated: bool
    trusted: bool
    """Whether enough held-out examples score for an interval to mean anything."""
    warnings: tuple[str, ...]


NO_INTERVAL = "It was not run, and these runs bear no interval."


def without_intervals(decision: Decision) -> Decision:
    """``decision`` with every interval's ends NaN, a verdict on no choice but the best, and no price of a guide's or the person's own
    setting that was not run: what is derived from runs nearby says nothing without its interval."""
    bare: Decision = _bare(decision)
    return replace(bare, choices=tuple(map(_unjudged, bare.choices)))


def _unjudged(price: Price) -> Price:
    if price.source == "derived" and price.kind != "tuned":
        return Price(price.kind, price.setting, "cannot tell", None, None, None, None, None, NO_INTERVAL)
    return price if price.verdict == "best" else replace(price, verdict="cannot tell")


def _bare(value: Any) -> Any:
    if isinstance(value, Estimate):
        return Estimate(value.value, math.nan, math.nan)
    if isinstance(value, tuple):
        return tuple(map(_bare, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _bare(getattr(value, f.name)) for f in fields(value)})
    return value
