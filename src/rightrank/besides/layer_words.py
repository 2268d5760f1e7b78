"""What a comparison of layers says, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.besides.results import Change, LayersAlone

NAMES = {"attention": "attention alone", "mlp": "the MLP alone"}
MOST_NAMES = 8
"""Names of modules that a sentence lists."""


def sentence(
    alone: Sequence[LayersAlone], *, score: int, margin_percent: float, named: bool, max_rank: int | None
) -> str:
    """What each kind alone loses, and what to do. ``named``: "all" are the layers that the person names."""
    every = "all the layers that you name" if named else "all linear layers"
    lost = ", ".join(
        f"{NAMES[one.layers]} {'loses ' if i == 0 else ''}{wording.percent(one.gain_lost.value)}"
        f"{' of the gain' if i == 0 else ''} {_ends(one.gain_lost)}"
        for i, one in enumerate(alone)
    )
    return f"At the same size {lost}. {_advice(alone, every, score, margin_percent, max_rank)}"


def _advice(
    alone: Sequence[LayersAlone], every: str, score: int, margin_percent: float, max_rank: int | None
) -> str:
    better = [one for one in alone if one.verdict == "better"]
    as_good = [one for one in alone if one.verdict == "as good"]
    if better:
        best = min(better, key=lambda one: one.gain_lost.value)
        return f"{_capital(NAMES[best.layers])} is better here than {every}: {_how(best, max_rank)}."
    if as_good:
        best = min(as_good, key=lambda one: one.gain_lost.value)
        return (
            f"{_capital(NAMES[best.layers])} does as well, to within {margin_percent:.2g} % of the gain. "
            f"Keep {every}, or {_how(best, max_rank)}."
        )
    if all(one.verdict == "worse" for one in alone):
        return f"Keep {every}."
    unclear = " and ".join(NAMES[one.layers] for one in alone if one.verdict != "worse")
    do = "do" if " and " in unclear else "does"
    return f"Whether {unclear} {do} as well cannot be told from {wording.count(score, 'row')}: keep {every}."


def _how(one: LayersAlone, max_rank: int | None) -> str:
    """What to type for it."""
    names = ", ".join(wording.clean(name) for name in one.modules)
    if len(one.modules) > MOST_NAMES:
        names = f"the {len(one.modules)} modules that recommendation.json names"
    rate = wording.learning_rate(one.learning_rate)
    setting = f"adapt {names} alone with r={one.rank}, alpha={wording.short(one.alpha)}, lr {rate}"
    if max_rank is not None and one.rank > max_rank:
        return f"{setting}, which is beyond your largest rank of {max_rank}"
    return setting


def _ends(change: Change) -> str:
    digits = 1 if max(abs(change.low), abs(change.high)) < 100 else 0
    return f"[{wording.number(change.low, digits)}, {wording.number(change.high, digits)}]"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
