"""The answer about an adapter's cuts: in a terminal, 80 columns wide, and as a page of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from rightrank import recommendation_html as wording
from rightrank.recommendation_html import GAIN_LOST_SHORT
from rightrank.report.facts import STATUS_NAMES
from rightrank.report.page import page_parts
from rightrank.report.terminal import STYLES, say

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from rightrank.cuts.result import CutLine, CutResult
    from rightrank.recommendation import Figure

FILE_NAME = "report.html"
UNSEEN = "Right only if the adapter has seen none of these rows: on rows it was trained on, the whole adapter looks best."
EARLY = "~ Dropped early: its difference from the best on the rows that it was measured on."
_LABEL_WIDTH = 19


@dataclass(frozen=True)
class Row:
    """One version of the adapter, as text."""

    label: str
    chosen: bool
    loss: str
    gain_lost: str
    exact: str
    megabytes: str
    rows: str
    verdict: str


def rows(result: CutResult) -> tuple[Row, ...]:
    """The table: the cuts by rank, the whole adapter, then the best of it shrunk. Shrunk cuts that were dropped early are left out."""
    return tuple(
        Row(
            wording.clean(line.label) + (" (whole)" if line.kind == "whole" else ""),
            line.label == result.choice and result.status != "NO_GAIN",
            ("" if line.loss.source == "measured" else "~") + wording.loss(line.loss.value),
            _lost(line, result),
            "–" if line.exact is None else f"{wording.number(line.exact.value, 0)} %",
            _size(line.megabytes),
            f"{line.rows:,}",
            line.verdict,
        )
        for line in _shown(result)
    )


def _shown(result: CutResult) -> list[CutLine]:
    """Of the whole adapter shrunk by several factors, one line says what there is to say."""
    known = [line for line in result.lines if line.kind == "scaled" and line.gain_lost is not None]
    best = min(known, key=lambda line: line.loss.value, default=None)
    named = (result.choice, result.best, None if best is None else best.label)
    return [
        line
        for line in result.lines
        if line.factor == 1 or line.label in named or (line.kind == "cut" and line.loss.source == "measured")
    ]


def left_out(result: CutResult) -> str:
    """How many versions were measured and have no line; empty where all have one."""
    tried = len(result.lines) if result.tried is None else result.tried
    few = tried - len(_shown(result))
    if not few:
        return ""
    return f"{few} of {tried} versions, all shrunk, were dropped early and are left out."


def _lost(line: CutLine, result: CutResult) -> str:
    if line.gain_lost is None:
        return "–"
    if line.label == result.best:
        return "best"
    return wording.interval_beside(line.gain_lost, result.margin_percent)


def _size(megabytes: float) -> str:
    return wording.number(megabytes, 0 if megabytes >= 100 else 1 if megabytes >= 1 else 3)


def lead(result: CutResult) -> str:
    """What to do, in a few words."""
    if result.status == "NO_GAIN":
        return "Nothing to cut"
    if result.chosen.kind == "whole":
        keep = f"Keep r={result.whole.rank}"
        return f"Safe meanwhile: {keep.lower()}" if result.status == "UNDECIDED" else keep
    scaled = "" if result.chosen.factor == 1 else f" × {result.chosen.factor:g}"
    use = f"r={result.whole.rank} → r={result.chosen.rank}{scaled}"
    if result.chosen.kind == "scaled":
        use = f"r={result.chosen.rank}{scaled}"
        return f"Safe meanwhile: {use}" if result.status == "UNDECIDED" else f"Keep {use}"
    return f"Safe meanwhile: {use}" if result.status == "UNDECIDED" else f"Cut {use}"


def spared(result: CutResult) -> str | None:
    """What the cut spares, in a sentence; None where nothing is cut."""
    if result.chosen.kind == "whole" or result.status == "NO_GAIN":
        return None
    before, after = result.whole, result.chosen
    share = 100 * (1 - after.parameters / before.parameters)
    text = []
    if share > 0:
        text.append(
            f"{_size(before.megabytes)} → {_size(after.megabytes)} MB, {before.parameters:,} → {after.parameters:,} numbers "
            f"({wording.number(share, 0)} % less)."
        )
    if result.against_whole is not None:
        text.append(f"Loss against the whole adapter: {_signed(result.against_whole)} nats a token.")
    if after.factor < 1:
        text.append("The adapter that is written holds the factor: load it as any other.")
    return " ".join(text)


def _signed(figure: Figure) -> str:
    low, high = figure.low or 0.0, figure.high or 0.0
    return f"{figure.value:+.4f} [{low:+.4f}, {high:+.4f}]"


def basis(result: CutResult) -> str:
    """What it rests on."""
    return (
        f"{wording.clean(result.data_name)}: {wording.clean(result.data_format)}, {result.decide:,} rows chose and "
        f"{result.score:,} others scored, of {result.rows_given:,}. "
        f"{wording.count(result.layers, 'linear layer')} of {wording.clean(result.base_name)}; "
        f"base {wording.loss(result.base_loss.value)} nats a token. No training."
    )


def checked(result: CutResult) -> str | None:
    """Whether the adapter that was written computes what was measured."""
    served = result.served
    if served is None:
        return None
    lead = "Loaded again" if served.holds else "Do not use it: loaded again"
    where = "PEFT" if served.loader == "PEFT" else "its own reader"
    return (
        f"{lead} with {where}, it gives the measured loss on {wording.count(served.rows, 'row')} "
        f"to {abs(served.mean_difference):.1e} nats a token (largest of a row {served.largest_difference:.1e})."
    )


def print_cut(result: CutResult, console: Console, page: Path) -> None:
    """Print the answer, its table and what was written; ``page`` is the report."""
    line = Text(STATUS_NAMES[result.status], style=STYLES[result.status])
    console.print(line.append(f"   {lead(result)}", style="bold default"))
    say(console, result.headline)
    for reason in result.reasons:
        say(console, reason)
    console.print()
    say(console, basis(result))
    console.print()
    head = f"{'':{_LABEL_WIDTH}}{'loss':>7}  {' gain lost [95 %]':<21}{'exact':>6}{'MB':>8}{'rows':>7}"
    console.print(Text(head, style="dim"), soft_wrap=True)
    for row in rows(result):
        value, bracket, interval = row.gain_lost.partition(" [")
        lost = f"{value:>6}{bracket}{interval}"
        name = f"{row.label:<{_LABEL_WIDTH - 5}}{'<--' if row.chosen else '':<4}"
        text = f" {name}{row.loss:>7}  {lost:<21}{row.exact:>6}{row.megabytes:>8}{row.rows:>7}"
        console.print(Text(text, style="bold" if row.chosen else ""), soft_wrap=True)
    if any(row.gain_lost != "–" for row in rows(result)):
        say(console, GAIN_LOST_SHORT, "dim")
    if any(row.loss.startswith("~") for row in rows(result)):
        say(console, EARLY, "dim")
    if left_out(result):
        say(console, left_out(result), "dim")
    console.print()
    for sentence in (spared(result), checked(result), f"{_took(result)} on {result.device}.", UNSEEN):
        if sentence:
            say(console, sentence)
    for warning in result.warnings:
        say(console, f"Note: {warning}", "yellow")
    files = {"Cut adapter": result.written, "Report": str(page), "Answer": f"{result.directory}/cut.json"}
    for label, path in files.items():
        if path is not None:
            console.print(Text(f"{label}: {wording.clean(path)}"), soft_wrap=True)


def _took(result: CutResult) -> str:
    return f"{result.seconds / 60:.1f} min" if result.seconds >= 90 else f"{result.seconds:.0f} s"


def write_page(result: CutResult, directory: Path) -> Path:
    """Write ``report.html`` into ``directory`` and return its path."""
    template, parts = page_parts("cut.html.j2")
    path = directory / FILE_NAME
    text = template.render(
        r=result,
        rows=rows(result),
        lead=lead(result),
        status=STATUS_NAMES[result.status],
        sentences=[s for s in (spared(result), checked(result)) if s],
        basis=basis(result),
        took=_took(result),
        unseen=UNSEEN,
        early=EARLY,
        left_out=left_out(result),
        dropped=any(line.loss.source != "measured" for line in result.lines),
        **parts,
    )
    path.write_text(text, encoding="utf-8")
    return path
