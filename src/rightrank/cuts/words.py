"""What the answer about an adapter's cuts says in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording
from rightrank.besides.results import CUT_FOLDER
from rightrank.stats.paired import FEWEST_EXAMPLES
from rightrank.stats.support import GAIN_SHARE_PERCENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rightrank.besides.results import CutsOfRun
    from rightrank.cuts.result import CutLine, CutStatus

MARGIN_PERCENT = GAIN_SHARE_PERCENT
TOO_HIGH = "What helps is a smaller update: its learning rate was likely too high. Training again with less may gain more."
MARGIN = f"{MARGIN_PERCENT:g} % of what the adapter gains"


def adapter_line(rank: int, layers: int, base: str, dtype: str) -> str:
    """The adapter in one sentence."""
    return f"An adapter of rank {rank} on {wording.count(layers, 'linear layer')} of {wording.clean(base)} in {dtype}."


def plan_line(versions: int, rows: int, seconds: tuple[float, float]) -> str:
    """What will be measured and about how long that takes."""
    took = wording.minutes_between(*(one / 60 for one in seconds))
    return (
        f"Plan: {versions} versions of the adapter (cuts, the whole, the whole shrunk) and the bare model, on {rows:,} rows at most, fewer"
        f" where those tell: {took}."
    )


def headline(status: CutStatus, chosen: CutLine, lines: Sequence[CutLine]) -> str:
    """One sentence, in the reader's words."""
    if status == "NO_GAIN":
        return "With this adapter the model is no better on these rows than without it."
    if status == "UNDECIDED":
        return "Cannot tell yet which cut is as good as the best."
    if status == "FLAT":
        return f"Every cut down to rank {chosen.rank} is within {MARGIN} of the best: take the smallest."
    if chosen.kind == "whole":
        return f"Keep the adapter whole: every smaller cut loses, or may lose, more than {MARGIN}."
    if chosen.kind == "scaled":
        return (
            f"Keep rank {chosen.rank} and multiply the update by {chosen.factor:g}: every smaller cut loses, or may lose, more than "
            f"{MARGIN}."
        )
    whole = next(line for line in lines if line.kind == "whole")
    scaled = "" if chosen.factor == 1 else f" and multiply the update by {chosen.factor:g}"
    return f"Cut to rank {chosen.rank}{scaled}: neither rank {whole.rank} nor any other cut is better by more than {MARGIN}."


def reasons(status: CutStatus, chosen: CutLine, best: CutLine, lines: Sequence[CutLine]) -> tuple[str, ...]:
    """Why this answer and no other, and what the controls say, a sentence each."""
    whole = next(line for line in lines if line.kind == "whole")
    found: list[str] = []
    if status == "NO_GAIN":
        found.append(
            "Look at the rows first: are they of the kind that it was trained on, through the same chat template?"
        )
        return tuple(found)
    if chosen.gain_lost is None:
        found.append(
            "It is not certain that the adapter gains anything on these rows, so nothing is said to be safe."
        )
        return tuple(found)
    if chosen.rows < FEWEST_EXAMPLES:
        found.append(f"Only {chosen.rows} rows score; at least {FEWEST_EXAMPLES} are needed to be certain.")
    if status == "UNDECIDED":
        high = chosen.gain_lost.high or 0.0
        found.append(
            f"{chosen.label} is safest: it loses at most {wording.percent_beside(high, MARGIN_PERCENT)} of the gain (at 95 %)."
        )
        found.append("More held-out rows would decide it.")
    if best.kind != "whole" and whole.gain_lost is not None and (whole.gain_lost.low or 0.0) > 0:
        what = "cut" if best.factor == 1 else "shrunk adapter"
        found.append(
            f"The {what} is better than what was trained: as it is, the adapter gives away "
            f"{wording.percent_interval(whole.gain_lost)} of the gain."
        )
        if best.factor < 1:
            found.append(TOO_HIGH)
    return (*found, *_controls(chosen, lines))


def _controls(chosen: CutLine, lines: Sequence[CutLine]) -> list[str]:
    """What merely scaling the update down does: one sentence, or none where it does nothing, or was chosen."""
    scaled = [line for line in lines if line.kind == "scaled" and line.gain_lost is not None]
    if chosen.factor < 1:
        return []
    measured = [line for line in scaled if line.loss.source == "measured"]
    if not measured or chosen.gain_lost is None:
        return []
    best = min(measured, key=lambda line: line.loss.value)
    assert best.gain_lost is not None
    apart = chosen.gain_lost.value - best.gain_lost.value
    if apart <= MARGIN_PERCENT:
        return []
    gains = "gains" if (best.gain_lost.high or 0.0) < 0 else "may gain"
    return [
        f"Not cut but scaled by {best.factor:g} the adapter {gains} {wording.percent(apart)} more than {chosen.label}: "
        "its learning rate was likely too high. Train it again with less, or multiply its alpha by that."
    ]


def beside(found: CutsOfRun, better: int | None, as_good: int | None, margin_percent: float) -> str:
    """What the cuts of a run say about the recommended adapter, in a sentence.

    ``better``: the rank that is surely better than it; ``as_good``: the smallest that is within the margin of it.
    """
    trained = f"rank {found.chosen_rank} as trained"
    cut = next((one for one in found.cuts if one.rank == better), None)
    if cut is not None:
        kept = f", and is kept as {CUT_FOLDER}" if found.kept == better else ""
        less = f"{wording.percent(-cut.against.value)} [{wording.number(-cut.against.high, 1)}, {wording.number(-cut.against.low, 1)}]"
        return f"Rank {found.rank} cut to {better} is better than {trained}: it loses {less} less of the gain{kept}."
    if as_good is not None:
        return f"Rank {found.rank} cut to {as_good} is as good as {trained}, to within {margin_percent:.2g} % of the gain."
    if all(one.verdict == "worse" for one in found.cuts):
        return f"No cut of rank {found.rank} is as good as {trained}."
    return (
        f"Whether a cut of rank {found.rank} is as good as {trained} cannot be told from {found.score} rows."
    )
