"""Sentences for people in a hurry: why this answer and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rightrank.stats.decision import Candidate
    from rightrank.stats.paired import Estimate
    from rightrank.stats.results import Margin
    from rightrank.stats.rungs import Setting
    from rightrank.stats.surface import Standing

NOTHING_FINITE = "No run ended with a finite loss, so nothing can be compared; try lower learning rates."
STARVED = "Some runs had fewer than 35 optimiser steps; too few to rely on."
UNCLEAR_GAIN = (
    "It is not yet sure that training gains anything over the base model and over token frequencies."
)
NOT_SCORED = "The examples that choose the learning rate also score it, because no others were evaluated."
NO_ACCURACY = "How many completions are right was not evaluated; the answer rests on the loss alone."


def few_ranks(ranks: int) -> str:
    """Too few ranks to compare."""
    return f"Only {ranks} rank{'s' if ranks != 1 else ''} could be compared; at least 3 are needed."


def one_size(measured: int, wanted: int) -> str:
    """No drift known."""
    return f"Runs on {measured:,} training examples only; how the answer moves up to all {wanted:,} is not known."


def foreseen_only(measured: int, wanted: int) -> str:
    """Drift known from other data sets alone."""
    return (
        "Fewer than two settings were run at both of the two largest sizes, so how the answer moves from "
        f"{measured:,} training examples to all {wanted:,} is known from other data sets alone."
    )


def few_examples(examples: int) -> str:
    """Too few held-out examples."""
    return f"Only {examples} held-out examples; fewer than 30 give no reliable interval."


def no_gain(standing: Standing) -> tuple[str, ...]:
    """Training does not help."""
    base, frequency = (float(v) for v in standing.base.value_K)
    best = float(standing.level.value_K[standing.best])
    if frequency < base:
        first = f"Knowing how often each token occurs does as well ({frequency:.3f}) as the best training ({best:.3f})."
    else:
        first = f"The base model does as well ({base:.3f}) as the best training ({best:.3f})."
    return first, "Training buys nothing here that a rank could change; the smallest rank does no harm."


def flat(candidates: Sequence[Candidate], margin: Margin) -> tuple[str, ...]:
    """All ranks alike."""
    worst = max(c.lost.high for c in candidates)
    return (
        f"Ranks {candidates[0].rank} to {candidates[-1].rank}, each at its own best learning rate, differ by less than "
        f"{_percent(margin.percent)} of the gain (at most {_percent(worst)}).",
        "So the smallest is as good and saves memory"
        + ("; a still smaller one was not tried." if candidates[0].rank > 1 else "."),
    )


def ceiling(best: Candidate, next_gain: Estimate, standing: Standing) -> tuple[str, ...]:
    """Higher ranks would still help."""
    share = 100 / standing.gain.value
    return (
        f"The largest rank tried, {best.rank}, is the best, and by the trend up to it doubling it would gain another "
        f"{_percent(share * next_gain.value)} of the gain (at least {_percent(share * next_gain.low)}).",
    )


def settled(chosen: Candidate, candidates: Sequence[Candidate], margin: Margin) -> tuple[str, ...]:
    """The smallest equivalent rank."""
    top = candidates[-1].rank
    said = [f"No rank up to {top} is better by more than {_percent(margin.percent)} of what training gains."]
    smaller = [c for c in candidates if c.rank < chosen.rank]
    worse = [c for c in smaller if c.lost.low > margin.percent]
    inaccurate = [c for c in smaller if c not in worse and not c.accurate]
    unsure = [c for c in smaller if c not in worse and c not in inaccurate]
    if worse:
        said.append(f"Smaller ranks ({_ranks(worse)}) lose more than that.")
    if inaccurate:
        said.append(f"Smaller ranks ({_ranks(inaccurate)}) get fewer completions or tokens right.")
    if unsure:
        said.append(f"Whether a smaller rank ({_ranks(unsure)}) would do cannot be told from these runs.")
    if not smaller and chosen.rank > 1:
        said.append("A still smaller rank was not tried.")
    return tuple(said)


def between_runs(setting: Setting) -> str:
    """Why a setting is advised that was not run."""
    return f"No run had a learning rate of {setting.learning_rate:.1e}: the best one for all rows is foreseen there, near those run."


def nothing_certain(
    candidates: Sequence[Candidate], margin: Margin, safe: Setting, worst_percent: float
) -> tuple[str, ...]:
    """No rank is surely good enough."""
    said = [
        f"No rank is surely within {_percent(margin.percent)} of the best; the smallest that may be and is safe, rank {safe.rank} at "
        f"learning rate {safe.learning_rate:.1e}, may lose up to {_percent(worst_percent)} of the gain."
    ]
    if any(c.lost.high <= margin.percent for c in candidates):
        said = [
            "Ranks whose loss is close enough get significantly fewer completions or tokens right than the best."
        ]
    return tuple(said)


def open_edge(candidate: Candidate, setting: Setting) -> str:
    """The best learning rate may lie outside."""
    rate = f"At rank {candidate.rank} the best learning rate ({setting.learning_rate:.1e})"
    if candidate.open_side == "both":
        return f"{rate} is the only one tried; another may be better."
    which, other = ("highest", "higher") if candidate.open_side == "high" else ("lowest", "lower")
    return f"{rate} is the {which} one tried; a {other} one may be better still."


def more_data(
    slope: Estimate | None,
    holds: Mapping[int, tuple[Standing, Estimate]],
    settings: Sequence[Setting],
    margin_percent: float,
) -> tuple[str, ...]:
    """How the answer would move with more data, or that it cannot be told."""
    if slope is None or not holds:
        return ("How more data would move the answer cannot be told from these runs.",)
    if slope.low > 0:
        said = [
            f"More data favours higher ranks: twice the data makes each doubling worth {_percent(slope.value)} more."
        ]
    elif slope.high < 0:
        said = [
            f"More data favours lower ranks: twice the data makes each doubling worth {_percent(-slope.value)} less."
        ]
    else:
        said = ["Whether more data favours higher or lower ranks cannot be told from these runs."]
    for times, (standing, lost) in holds.items():
        best = settings[standing.best].rank
        if not lost.high < 100:
            said.append(
                f"Whether the choice would hold with {times} times the data cannot be told from these runs."
            )
        elif lost.high <= margin_percent:
            said.append(f"With {times} times the data the choice would hold (extrapolated).")
        elif lost.low > margin_percent:
            said.append(
                f"With {times} times the data rank {best} would be better: this choice would lose "
                f"{lost.low:.1f} to {lost.high:.1f} % of the gain (extrapolated)."
            )
        else:
            said.append(
                f"With {times} times the data the choice may lose up to {_percent(lost.high)} (extrapolated)."
            )
    return tuple(said)


def _percent(value: float) -> str:
    return f"{value:.2g} %" if abs(value) < 1 else f"{value:.1f} %" if abs(value) < 100 else f"{value:.0f} %"


def _ranks(candidates: Sequence[Candidate]) -> str:
    return ", ".join(str(c.rank) for c in candidates)
