"""The person's own measure, what the old skills lose, and cuts, as text: shared by the terminal and the page, so that both say the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.besides.results import Change
    from rightrank.recommendation import Recommendation

KEEPS_PERCENT = 1.0
"""A change surely within this share of the untrained model's loss, either way, counts as none. Chosen: as the margin of the gain."""
_ROLES = {
    "chosen": "chosen",
    "best": "best by the loss",
    "smallest": "smallest not ruled out",
    "yours": "yours",
    "rival": "best of the other ranks",
}
_LAYERS = {"attention": "attention", "mlp": "MLP"}
FORGETTING_NOTE = (
    "Loss lost: how much more nats a token than untrained; below zero: better than before. One run each, so the intervals count rows, "
    "not seeds."
)


@dataclass(frozen=True)
class OwnRow:
    """One finalist, as text; repeats are other seeds of it."""

    label: str
    learning_rate: str
    chosen: bool
    value: str
    repeats: str
    why: str


@dataclass(frozen=True)
class OldRow:
    """What one setting does to the old skills, as text."""

    label: str
    learning_rate: str
    chosen: bool
    change: str
    percent: str
    tokens_right: str
    verdict: str


@dataclass(frozen=True)
class CutRow:
    """One cut of a trained adapter, as text."""

    label: str
    kept: bool
    loss: str
    gain_lost: str
    verdict: str


@dataclass(frozen=True)
class LayersRow:
    """Adapters on all layers, or on some alone, as text."""

    label: str
    learning_rate: str
    chosen: bool
    loss: str
    gain_lost: str
    verdict: str


def first(recommendation: Recommendation) -> str:
    """What must be said before the answer, since the person's own measure speaks against it; empty where it does not."""
    own = recommendation.own_measure
    return "" if own is None or not own.comes_first else wording.clean(own.sentence)


def own_title(recommendation: Recommendation) -> str:
    """Which command it was, and of what."""
    own = recommendation.own_measure
    if own is None:
        return ""
    command = wording.clean(own.command)
    shown = command if len(command) <= 60 else command[:59] + "…"
    return f"Your own measure ({shown}), higher is better; adapters trained on {wording.count(own.examples, 'row')}"


def own_rows(recommendation: Recommendation) -> tuple[OwnRow, ...]:
    """The untrained model, then the finalists in the order they were measured."""
    own = recommendation.own_measure
    if own is None:
        return ()
    rows = [OwnRow("untrained", "", False, _number(own.base), "", "")]
    for value in own.values:
        if not value.roles:
            continue
        setting = (value.rank, value.alpha, value.learning_rate)
        more = [v.value for v in own.values if not v.roles and (v.rank, v.alpha, v.learning_rate) == setting]
        seen = ", ".join(_number(v) for v in more if v is not None)
        rows.append(
            OwnRow(
                label=f"r={value.rank}",
                learning_rate=wording.learning_rate(value.learning_rate),
                chosen="chosen" in value.roles,
                value="failed" if value.value is None else _number(value.value),
                repeats=f"other seeds {seen}" if seen else "",
                why=", ".join(_ROLES[role] for role in value.roles),
            )
        )
    return tuple(rows)


def old_title(recommendation: Recommendation) -> str:
    """Which rows they are, and how the untrained model does on them."""
    old = recommendation.forgetting
    if old is None:
        return ""
    rows = f"{old.rows:,} of {old.of_rows:,} rows" if old.rows < old.of_rows else f"{old.rows:,} rows"
    return (
        f"Old skills ({wording.clean(old.name)}, {rows}): loss {wording.loss(old.base_loss)} and "
        f"{wording.number(old.base_tokens_right, 0)} % of the tokens right untrained; adapters trained on "
        f"{wording.count(old.examples, 'row')}"
    )


def old_rows(recommendation: Recommendation) -> tuple[OldRow, ...]:
    """By rank, then learning rate."""
    old, choice = recommendation.forgetting, recommendation.choice
    if old is None:
        return ()
    chosen = (choice.rank, choice.alpha, choice.learning_rate)
    return tuple(
        OldRow(
            label=f"r={f.rank}",
            learning_rate=wording.learning_rate(f.learning_rate),
            chosen=(f.rank, f.alpha, f.learning_rate) == chosen,
            change=f"{_signed(f.change.value)} [{_signed(f.change.low)}, {_signed(f.change.high)}]",
            percent=f"{f.percent.value + 0.0:+.1f} %",
            tokens_right=f"{wording.number(f.tokens_right, 0)} %",
            verdict=_verdict(f.percent.low, f.percent.high),
        )
        for f in old.settings
    )


def cut_title(recommendation: Recommendation) -> str:
    """Which adapter was cut."""
    cuts = recommendation.cuts
    if cuts is None:
        return ""
    rate = wording.learning_rate(cuts.learning_rate)
    return f"Cut instead of trained: the adapter of r={cuts.rank} lr {rate}, its smallest directions left out"


def cut_rows(recommendation: Recommendation) -> tuple[CutRow, ...]:
    """By rank."""
    cuts = recommendation.cuts
    if cuts is None:
        return ()
    return tuple(
        CutRow(
            label=f"r={cut.rank} cut from r={cuts.rank}",
            kept=cut.rank == cuts.kept,
            loss=("" if cut.scored else "~") + wording.loss(cut.loss),
            gain_lost=_percent_interval(cut.gain_lost),
            verdict=cut.verdict,
        )
        for cut in cuts.cuts
    )


def cut_basis(recommendation: Recommendation) -> str:
    """What the figures of the cuts rest on."""
    cuts = recommendation.cuts
    if cuts is None:
        return ""
    text = (
        f"{cuts.decide:,} held-out rows chose, {cuts.score:,} others scored; one run each, so the intervals "
        "count rows, not seeds."
    )
    if all(cut.scored for cut in cuts.cuts):
        return text
    return f"{text} ~ Left behind early, by the rows that choose."


def layers_title(recommendation: Recommendation) -> str:
    """What was compared, and on how many rows it was trained."""
    found = recommendation.layers
    if found is None:
        return ""
    rows = wording.count(found.examples, "row")
    if found.examples < found.of_examples:
        rows = f"{found.examples:,} of {found.of_examples:,} rows"
    return (
        f"Which layers, at the same size (about {found.parameters:,} parameters): each at the best of its "
        f"learning rates, trained on {rows}"
    )


def layers_rows(recommendation: Recommendation) -> tuple[LayersRow, ...]:
    """All layers, then attention and MLP alone."""
    found = recommendation.layers
    if found is None:
        return ()
    rate = wording.learning_rate(found.learning_rate)
    every = LayersRow(f"all layers r={found.rank}", rate, True, wording.loss(found.loss), "", "")
    return (
        every,
        *(
            LayersRow(
                label=f"{_LAYERS[one.layers]} r={one.rank}",
                learning_rate=wording.learning_rate(one.learning_rate),
                chosen=False,
                loss=wording.loss(one.loss),
                gain_lost=_percent_interval(one.gain_lost),
                verdict=one.verdict,
            )
            for one in found.alone
        ),
    )


def layers_basis(recommendation: Recommendation) -> str:
    """What the figures rest on."""
    found = recommendation.layers
    if found is None:
        return ""
    text = (
        f"Gain lost: of what all layers gain on these {found.score:,} held-out rows, which chose no learning rate; "
        "one run each, so the intervals count rows, not seeds."
    )
    ends = [f"{_LAYERS[one.layers]} alone" for one in found.alone if one.at_the_end]
    if found.learning_rate in (min(found.learning_rates), max(found.learning_rates)):
        ends.append("all layers")
    if not ends:
        return text
    return (
        f"{text} Best at the end of the learning rates tried, and perhaps better beyond: {', '.join(ends)}."
    )


def _percent_interval(change: Change) -> str:
    digits = 1 if max(abs(change.low), abs(change.high)) < 100 else 0
    ends = f"{wording.number(change.low, digits)}, {wording.number(change.high, digits)}"
    return f"{wording.percent(change.value)} [{ends}]"


def _verdict(low: float, high: float) -> str:
    if low >= -KEEPS_PERCENT and high <= KEEPS_PERCENT:
        return "keeps"
    if low > 0:
        return "loses"
    return "gains" if high < 0 else "cannot tell"


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"


def _number(value: float) -> str:
    return f"{value:.4g}"
