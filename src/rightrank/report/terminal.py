"""The answer in a terminal, 80 columns wide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from rightrank import recommendation_html as wording
from rightrank.report import besides, choices, facts, recipe_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from rightrank.recommendation import Recommendation, Status

STYLES: dict[Status, str] = {
    "NO_GAIN": "bold red",
    "UNDECIDED": "bold yellow",
    "FLAT": "bold cyan",
    "CEILING": "bold magenta",
    "SETTLED": "bold green",
}
# Of the column before the loss, arrow included; it grows up to the second, at which lines have 80 characters.
_LABEL_WIDTH, _LONGEST_LABEL = 29, 27


def print_recommendation(
    recommendation: Recommendation, console: Console, paths: Mapping[str, str | Path]
) -> None:
    """Print the answer, its table and its cost; ``paths`` are the files written, by label.

    Everything is printed as text, never as rich's markup, after ``wording.clean``: names of models and data sets are other people's.
    """
    status = recommendation.status
    if besides.first(recommendation):
        say(console, besides.first(recommendation), "bold yellow")
        console.print()
    _lead(recommendation, console)
    say(console, recommendation.headline)
    if status == "NO_GAIN":
        _no_gain(recommendation, console)
    console.print()
    say(console, facts.data(recommendation))
    say(console, facts.model(recommendation))
    say(console, recipe_words.line(recommendation))
    assumed = recipe_words.assumed_names(recommendation)
    if assumed:
        say(console, f"Assumed: {assumed}", "dim")
    console.print()
    _table(recommendation, console)
    if status == "UNDECIDED":
        _undecided(recommendation, console)
    _besides(recommendation, console)
    _closing(recommendation, console, paths)


def say(console: Console, text: str, style: str = "", indent: int = 0, first: str = "") -> None:
    """Print ``text`` wrapped to the console, every line indented by ``indent``, the first beginning with ``first`` instead."""
    lines = Text(wording.clean(text), style=style).wrap(console, max(20, console.width - indent))
    for index, line in enumerate(lines):
        line.rstrip()
        lead = first if index == 0 else ""
        console.print(Text(f"{lead:<{indent}}").append_text(line), soft_wrap=True)


def _lead(recommendation: Recommendation, console: Console) -> None:
    status = recommendation.status
    line = Text(facts.STATUS_NAMES[status], style=STYLES[status])
    if status == "UNDECIDED":
        ruled_out, open_ = recommendation.ruled_out, facts.still_possible(recommendation)
        line.append(f"   Ruled out: {facts.ranks(ruled_out) or 'no rank yet'}", style="not dim default")
        if open_:
            line.append(f"   Tried and open: {open_}", style="not dim default")
    elif status == "NO_GAIN":
        line.append("   Do not train on this as it is", style="bold default")
    else:
        line.append(
            f"   Use {wording.use(recommendation.choice, recommendation.model)}", style="bold default"
        )
    console.print(line)


def _no_gain(recommendation: Recommendation, console: Console) -> None:
    say(console, facts.no_gain(recommendation))
    console.print()
    console.print("What that usually means:", highlight=False)
    for cause in facts.NO_GAIN_CAUSES:
        say(console, cause, indent=3, first=" -")


def _table(recommendation: Recommendation, console: Console) -> None:
    rows = choices.rows(recommendation)
    labels = [_label(row) for row in rows]
    width = max(_LABEL_WIDTH, *(min(len(label), _LONGEST_LABEL) + 6 for label in labels))
    head = f"{'':{width}}{'loss':>7}  {' gain lost [95 %]':<21}{'exact':>6}{'train GiB':>11}"
    console.print(Text(head, style="dim"), soft_wrap=True)
    for row, name in zip(rows, labels, strict=True):
        label = name if len(name) <= width - 6 else name[: width - 7] + "…"
        arrow = "<--" if row.chosen else ""
        loss = ("~" if row.extrapolated else "") + row.loss
        value, bracket, interval = row.gain_lost.partition(" [")
        lost = f"{value:>6}{bracket}{interval}"
        line = f" {label:<{width - 6}} {arrow:<3} {loss:>7}  {lost:<21}{row.exact:>6}{row.train_gib:>11}"
        console.print(Text(line, style="bold" if row.chosen else ""), soft_wrap=True)
    if recommendation.gains:
        say(console, wording.GAIN_LOST_SHORT, "dim")
    for mark in choices.marks(recommendation):
        say(console, mark, "dim")
    if facts.no_intervals(recommendation):
        say(console, facts.no_intervals(recommendation), "dim")


def _label(row: choices.Row) -> str:
    if row.kind != "tuned":
        return row.label
    return f"{row.label:<5} lr {row.learning_rate}{f' ({row.names})' if row.names else ''}"


def _undecided(recommendation: Recommendation, console: Console) -> None:
    console.print()
    say(console, f"{recommendation.lead}: {wording.use(recommendation.choice, recommendation.model)}", "bold")
    say(console, facts.safe_worst(recommendation), indent=16)
    for reason in recommendation.reasons:
        say(console, reason, indent=16)
    if recommendation.to_decide:
        console.print("To decide:", highlight=False)
    for step in recommendation.to_decide:
        # Unwrapped, so that the command can be copied.
        console.print(Text(f"  {wording.clean(step.command)}", style="bold"), soft_wrap=True)
        say(console, f"{facts.price(step.minutes)}. {step.why}", indent=4)


def _besides(recommendation: Recommendation, console: Console) -> None:
    """What was measured besides the loss, where it was asked for."""
    own, old = recommendation.own_measure, recommendation.forgetting
    if own is not None:
        console.print()
        say(console, besides.own_title(recommendation))
        for one in besides.own_rows(recommendation):
            setting = f"{one.label:<5} lr {one.learning_rate}" if one.learning_rate else one.label
            line = f" {setting:<23} {'<--' if one.chosen else '':<3} {one.value:>9}"
            why = "; ".join(part for part in (one.why, one.repeats) if part)
            if why:
                say(console, why, indent=len(line) + 2, first=line)
            else:
                console.print(Text(line), soft_wrap=True)
        if not own.comes_first:
            say(console, own.sentence)
    if old is not None:
        console.print()
        say(console, besides.old_title(recommendation))
        head = f"{'':{_LABEL_WIDTH}}{'loss lost [95 %]':<24}{'of loss':>8}{'right':>6}"
        console.print(Text(head, style="dim"), soft_wrap=True)
        for row in besides.old_rows(recommendation):
            setting = f"{row.label:<5} lr {row.learning_rate}"
            line = (
                f" {setting:<23} {'<--' if row.chosen else '':<3} "
                f"{row.change:<24}{row.percent:>8}{row.tokens_right:>6}  {row.verdict}"
            )
            console.print(Text(line, style="bold" if row.chosen else ""), soft_wrap=True)
        say(console, besides.FORGETTING_NOTE, "dim")
    _layers(recommendation, console)
    _cuts(recommendation, console)


def _layers(recommendation: Recommendation, console: Console) -> None:
    """Attention alone and the MLP alone against all layers."""
    found = recommendation.layers
    if found is None:
        return
    console.print()
    say(console, besides.layers_title(recommendation))
    head = f"{'':{_LABEL_WIDTH}}{'loss':>7}  {' gain lost [95 %]':<21}  against all"
    console.print(Text(head, style="dim"), soft_wrap=True)
    for row in besides.layers_rows(recommendation):
        value, bracket, interval = row.gain_lost.partition(" [")
        label = f"{row.label} lr {row.learning_rate}"
        line = (
            f" {label:<27} {row.loss:>7}  {value:>6}{bracket}{interval:<{15 - len(bracket)}}  {row.verdict}"
        )
        console.print(Text(line.rstrip(), style="bold" if row.chosen else ""), soft_wrap=True)
    say(console, found.sentence)
    say(console, besides.layers_basis(recommendation), "dim")


def _cuts(recommendation: Recommendation, console: Console) -> None:
    """What cutting the largest rank gives, and what it says of the choice."""
    cuts = recommendation.cuts
    if cuts is None:
        return
    console.print()
    say(console, besides.cut_title(recommendation))
    against = f"against r={cuts.chosen_rank}"
    head = f"{'':{_LABEL_WIDTH}}{'loss':>7}  {' gain lost [95 %]':<21}  {against}"
    console.print(Text(head, style="dim"), soft_wrap=True)
    for row in besides.cut_rows(recommendation):
        value, bracket, interval = row.gain_lost.partition(" [")
        line = f" {row.label:<27} {row.loss:>7}  {value:>6}{bracket}{interval:<{15 - len(bracket)}}  {row.verdict}"
        console.print(Text(line, style="bold" if row.kept else ""), soft_wrap=True)
    say(console, cuts.sentence)
    say(console, besides.cut_basis(recommendation), "dim")


def _closing(recommendation: Recommendation, console: Console, paths: Mapping[str, str | Path]) -> None:
    console.print()
    extrapolation = facts.extrapolation(recommendation)
    say(console, facts.measured(recommendation))
    if extrapolation:
        say(console, f"~ {extrapolation}")
    if any(option.loss.source == "derived" for option in recommendation.options):
        say(console, "~ Popular settings that were not run are priced from runs nearby.")
    if recommendation.provenance.interrupted:
        say(console, "Interrupted: answered from what was measured until then.", "yellow")
    say(console, f"{facts.cost(recommendation)}.")
    for warning in recommendation.warnings:
        say(console, f"Note: {warning}", "yellow")
    if recommendation.status == "NO_GAIN":
        say(console, f"If you train anyway: {wording.use(recommendation.choice, recommendation.model)}")
    _files(recommendation, console, paths)


def _files(recommendation: Recommendation, console: Console, paths: Mapping[str, str | Path]) -> None:
    """What was written: what lies in the report's folder and needs no more said by its name alone."""
    folder = Path(paths["Report"]).parent if "Report" in paths else None
    beside = [label for label, path in paths.items() if label != "Report" and Path(path).parent == folder]
    beside = [label for label in beside if not str(paths[label]).endswith(")")]
    files = [
        f"{wording.clean(label)}: {wording.clean(str(path))}"
        for label, path in paths.items()
        if label not in beside or len(beside) == 1
    ]
    together = "   ".join(files)
    for line in [together] if len(together) <= console.width else files:
        console.print(Text(line), soft_wrap=True)
    if len(beside) > 1:
        say(console, f"Beside it: {', '.join(Path(paths[label]).name for label in beside)}")
    if len(paths) > 2 and facts.trained_on(recommendation):
        say(console, facts.trained_on(recommendation))
    if len(paths) > 2 and facts.gguf(recommendation):
        say(console, facts.gguf(recommendation), "yellow")
