"""The answer in a terminal, 80 columns wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rightrank import recommendation_html as wording
from rightrank.report import choices, facts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console

    from rightrank.recommendation import Recommendation, Status

_STYLES: dict[Status, str] = {
    "NO_GAIN": "bold red",
    "UNDECIDED": "bold yellow",
    "FLAT": "bold cyan",
    "CEILING": "bold magenta",
    "SETTLED": "bold green",
}
_LABEL_WIDTH = 29


def print_recommendation(
    recommendation: Recommendation, console: Console, paths: Mapping[str, str | Path]
) -> None:
    """Print the answer, its table and its cost; ``paths`` are the files written, by label.

    Everything is printed as text, never as rich's markup, after ``wording.clean``: names of models and data sets are other people's.
    """
    status = recommendation.status
    _lead(recommendation, console)
    _say(console, recommendation.headline)
    if status == "NO_GAIN":
        _no_gain(recommendation, console)
    console.print()
    _say(console, facts.data(recommendation))
    _say(console, facts.model(recommendation))
    _say(console, facts.recipe(recommendation))
    assumed = facts.assumed_names(recommendation)
    if assumed:
        _say(console, f"Assumed: {assumed}", "dim")
    console.print()
    _table(recommendation, console)
    if status == "UNDECIDED":
        _undecided(recommendation, console)
    _closing(recommendation, console, paths)


def _say(console: Console, text: str, style: str = "", indent: int = 0, first: str = "") -> None:
    """Print ``text`` wrapped to the console, every line indented by ``indent``, the first beginning with ``first`` instead."""
    lines = Text(wording.clean(text), style=style).wrap(console, max(20, console.width - indent))
    for index, line in enumerate(lines):
        line.rstrip()
        lead = first if index == 0 else ""
        console.print(Text(f"{lead:<{indent}}").append_text(line), soft_wrap=True)


def _lead(recommendation: Recommendation, console: Console) -> None:
    status = recommendation.status
    line = Text(facts.STATUS_NAMES[status], style=_STYLES[status])
    if status == "UNDECIDED":
        ruled_out, open_ = recommendation.ruled_out, facts.still_possible(recommendation)
        line.append(f"   Ruled out: {facts.ranks(ruled_out) or 'no rank yet'}", style="not dim default")
        if open_:
            line.append(f"   Tried and open: {facts.ranks(open_)}", style="not dim default")
    elif status == "NO_GAIN":
        line.append("   Do not train on this as it is", style="bold default")
    else:
        line.append(
            f"   Use {wording.use(recommendation.choice, recommendation.model)}", style="bold default"
        )
    console.print(line)


def _no_gain(recommendation: Recommendation, console: Console) -> None:
    _say(console, facts.no_gain(recommendation))
    console.print()
    console.print("What that usually means:", highlight=False)
    for cause in facts.NO_GAIN_CAUSES:
        _say(console, cause, indent=3, first=" -")


def _table(recommendation: Recommendation, console: Console) -> None:
    rows = choices.rows(recommendation)
    head = f"{'':{_LABEL_WIDTH}}{'loss':>7}  {' gain lost [95 %]':<21}{'exact':>6}{'train GiB':>11}"
    console.print(Text(head, style="dim"), soft_wrap=True)
    for row in rows:
        label = row.label if row.kind != "tuned" else f"{row.label:<5} lr {row.learning_rate}"
        if len(label) > _LABEL_WIDTH - 6:
            label = label[: _LABEL_WIDTH - 7] + "…"
        arrow = "<--" if row.chosen else ""
        loss = ("~" if row.extrapolated else "") + row.loss
        value, bracket, interval = row.gain_lost.partition(" [")
        lost = f"{value:>6}{bracket}{interval}"
        line = (
            f" {label:<{_LABEL_WIDTH - 6}} {arrow:<3} {loss:>7}  {lost:<21}{row.exact:>6}{row.train_gib:>11}"
        )
        console.print(Text(line, style="bold" if row.chosen else ""), soft_wrap=True)
    if recommendation.gains:
        _say(console, facts.GAIN_LOST_SHORT, "dim")


def _undecided(recommendation: Recommendation, console: Console) -> None:
    console.print()
    _say(console, f"Safe meanwhile: {wording.use(recommendation.choice, recommendation.model)}", "bold")
    _say(console, facts.safe_worst(recommendation), indent=16)
    for reason in recommendation.reasons:
        _say(console, reason, indent=16)
    if recommendation.to_decide:
        console.print("To decide:", highlight=False)
    for step in recommendation.to_decide:
        # Unwrapped, so that the command can be copied.
        console.print(Text(f"  {wording.clean(step.command)}", style="bold"), soft_wrap=True)
        _say(console, f"{facts.price(step.minutes)}. {step.why}", indent=4)


def _closing(recommendation: Recommendation, console: Console, paths: Mapping[str, str | Path]) -> None:
    console.print()
    extrapolation = facts.extrapolation(recommendation)
    _say(console, facts.measured(recommendation))
    if extrapolation:
        _say(console, f"~ {extrapolation}")
    if any(option.loss.source == "derived" for option in recommendation.options):
        _say(console, "~ Popular settings that were not run are priced from runs nearby.")
    if recommendation.provenance.interrupted:
        _say(console, "Interrupted: answered from what was measured until then.", "yellow")
    _say(console, f"{facts.cost(recommendation)}.")
    for warning in recommendation.warnings:
        _say(console, f"Note: {warning}", "yellow")
    if recommendation.status == "NO_GAIN":
        _say(console, f"If you train anyway: {wording.use(recommendation.choice, recommendation.model)}")
    files = [f"{wording.clean(label)}: {wording.clean(str(path))}" for label, path in paths.items()]
    together = "   ".join(files)
    for line in [together] if len(together) <= console.width else files:
        console.print(Text(line), soft_wrap=True)
