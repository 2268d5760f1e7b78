"""The table of choices as text: shared by the terminal and the page, so that both show the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.recommendation import Figure, Option, Recommendation


@dataclass(frozen=True)
class Row:
    """One line of the table of choices, as text; ``chosen`` marks the answer, ``extrapolated`` a loss that was not measured."""

    label: str
    names: str
    """What a rank's best setting is besides: ``yours``, ``guide``; empty otherwise."""
    kind: str
    chosen: bool
    extrapolated: bool
    rank: str
    alpha: str
    learning_rate: str
    loss: str
    gain_lost: str
    exact: str
    tokens_right: str
    train_gib: str
    train_time: str
    adapter_mb: str
    verdict: str


def is_chosen(recommendation: Recommendation, option: Option) -> bool:
    """Whether ``option`` is the line of the table that ``recommendation.choice`` comes from."""
    choice = recommendation.choice
    return (option.rank, option.alpha, option.learning_rate) == (
        choice.rank,
        choice.alpha,
        choice.learning_rate,
    )


def marks(recommendation: Recommendation) -> tuple[str, ...]:
    """Why the arrow stands on another row than "best", and what a gain lost below zero means; nothing where neither is there."""
    tuned = [option for option in recommendation.options if option.kind == "tuned"]
    best = next((option for option in tuned if option.verdict == "best"), None)
    chosen = next((option for option in tuned if is_chosen(recommendation, option)), None)
    if best is None or chosen is None or not recommendation.gains:
        return ()
    said = []
    if chosen is not best and chosen.loss.source != "derived":
        said.append(f"<-- {_WHY.get(recommendation.lead, _WHY_USED)}")
    lost = [option.gain_lost.value for option in tuned if option is not best and option.gain_lost is not None]
    if min(lost, default=0.0) <= -0.05:  # as printed
        said.append("below zero: better on the rows that score than the best by the rows that choose")
    return tuple(said)


_WHY_USED = "the smallest rank that is as good as the best"
_WHY = {
    "Safe meanwhile": "the smallest rank that may be as good as the best, and safe",
    "Best guess meanwhile": "the best guess; nothing bounds what it may lose",
}


def rows(recommendation: Recommendation) -> tuple[Row, ...]:
    """The table of choices: ranks at their best learning rate in order, then the user's own config, then the guides'."""
    return tuple(_row(recommendation, option, names) for option, names in wording.distinct(recommendation))


def _row(recommendation: Recommendation, option: Option, names: str) -> Row:
    if not recommendation.gains or option.gain_lost is None:
        # A share of a gain that does not exist is no number.
        gain_lost = "–"
    elif option.verdict == "best":
        gain_lost = "best"
    else:
        gain_lost = wording.percent_cell(option.gain_lost)
    return Row(
        label=wording.clean(option.label),
        names=names if option.kind == "tuned" else "",
        kind=option.kind,
        chosen=is_chosen(recommendation, option),
        extrapolated=option.loss.source != "measured",
        rank=str(option.rank),
        alpha=wording.short(option.alpha),
        learning_rate=wording.learning_rate(option.learning_rate),
        loss=wording.loss(option.loss.value),
        gain_lost=gain_lost,
        exact=_whole_percent(option.exact),
        tokens_right=_whole_percent(option.tokens_right),
        train_gib=wording.number(option.train_gib.value, 1),
        train_time="–" if option.train_minutes is None else wording.minutes(option.train_minutes.value),
        adapter_mb=wording.number(option.adapter_mb, 0 if option.adapter_mb >= 10 else 1),
        verdict=option.verdict,
    )


def _whole_percent(figure: Figure | None) -> str:
    return "–" if figure is None else f"{wording.number(figure.value, 0)} %"
