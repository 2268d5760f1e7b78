"""What ``rightrank estimate`` and ``rightrank check`` print, and Python and notebooks with them: one screen, 80 columns wide."""

from __future__ import annotations

import io
import math
from html import escape
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from rightrank import recommendation_html as wording
from rightrank.estimates.words import (
    cost_line,
    data_lines,
    floor_line,
    foretold_lines,
    gain_lost,
    minutes,
    model_line,
    recorded_line,
    resolvable_line,
    run_line,
    setting,
    size,
    time_lines,
)

if TYPE_CHECKING:
    from rightrank.estimates.estimation import Check, Estimate, SettingEstimate

_VERDICTS = {
    "keep it": ("KEEP IT", "bold green"),
    "change these lines": ("CHANGE THESE LINES", "bold red"),
    "cannot tell without measuring": ("CANNOT TELL WITHOUT MEASURING", "bold yellow"),
    "cannot tell yet": ("CANNOT TELL YET", "bold yellow"),
}


def as_text(found: Estimate | Check) -> str:
    """What the command prints, but for how to measure it."""
    from rightrank.estimates.estimation import Check

    file = io.StringIO()
    console = Console(file=file, width=80, highlight=False, color_system=None)
    if isinstance(found, Check):
        print_check(found, console)
    else:
        print_estimate(found, console)
    return file.getvalue().rstrip()


def as_html(found: Estimate | Check) -> str:
    """``as_text`` for a notebook."""
    return f"<pre>{escape(as_text(found))}</pre>"


def print_estimate(estimate: Estimate, console: Console, command: str = "") -> None:
    """Print an estimate; ``command`` is what would measure it, not mentioned where it is empty."""
    _say(console, "ESTIMATE   Nothing was measured; no weights were read.", "bold")
    console.print()
    for line in data_lines(estimate.data):
        _say(console, line)
    _say(console, model_line(estimate.model))
    _say(console, run_line(estimate))
    console.print()
    _table(estimate, console)
    _say(console, recorded_line(estimate), "dim")
    for doubt in estimate.doubts:
        _say(console, f"Unsure: {doubt}.", "dim")
    console.print()
    for line in time_lines(estimate):
        _say(console, line)
    for line in foretold_lines(estimate.foretold):
        _say(console, line)
    _say(console, floor_line(estimate))
    if not estimate.no_answer:
        _say(console, resolvable_line(estimate))
    for sentence in (*estimate.cautions, *estimate.notes):
        _say(console, f"Note: {sentence}", "yellow")
    _measuring(estimate, console, command)


def print_check(check: Check, console: Console, command: str = "") -> None:
    """Print whether to keep a config; ``command`` is what would measure it, not mentioned where it is empty."""
    name, style = _VERDICTS[check.verdict]
    _say(console, name, style)
    source = "Measured on your model and data." if check.source == "measured" else f"An {check.source}."
    if check.estimate is not None and check.estimate.outside:
        source = "Nothing was measured."
    _say(console, source, "dim")
    _say(console, cost_line(check))
    for reason in check.reasons:
        _say(console, reason)
    if check.changes and check.better is not None:
        console.print()
        sure = check.verdict == "change these lines"
        lead = f"In {check.config}:" if sure else f"Worth trying meanwhile, in {check.config}:"
        _say(console, lead, "bold")
        for key, before, after in check.changes:
            console.print(
                Text(f"  {wording.clean(key)}: {_shown(before)} -> {_shown(after)}"), soft_wrap=True
            )
        if not sure or check.source != "measured":
            how = (
                "the best guess so far" if check.source == "measured" else "as far as recorded runs can tell"
            )
            _say(console, f"That is {setting(check.better)}, {how}.", indent=2)
    console.print()
    for sentence in (*check.cautions, *check.notes):
        _say(console, f"Note: {sentence}", "yellow")
    unread = [key for key in check.unread if not any(key in note for note in check.notes)]
    if unread:
        _say(console, f"Not read: {', '.join(unread)}", "dim")
    if check.cost is not None:
        _say(console, wording.GAIN_LOST_SHORT, "dim")
    if check.recommendation is not None:
        _say(console, "The whole answer:")
        again = f"  rightrank report {check.recommendation.provenance.run_directory}"
        console.print(Text(wording.clean_lines(again), style="bold"), soft_wrap=True)
        return
    if check.estimate is not None:
        _measuring(check.estimate, console, command)


def _measuring(estimate: Estimate, console: Console, command: str) -> None:
    """What would measure it and how long that takes; where no measurement can end in an answer, that and no command."""
    if estimate.no_answer:
        _say(console, estimate.no_answer, "yellow")
        return
    if not command:
        return
    timing, again = estimate.timing, command
    if timing is None:
        _say(console, "To measure it:")
    elif timing.long_enough is None:
        _say(console, f"To measure it, {minutes(timing.probe)} on {timing.device} (estimated):")
    else:
        needed = math.ceil(timing.long_enough.high)
        again = f"{command} --budget {needed}"
        _say(
            console,
            f"To measure it, {minutes(timing.long_enough)} on {timing.device} (estimated; `rightrank recommend --dry-run` times it);"
            f" in less, as by default ({minutes(timing.probe)}), runs are too short for an answer:",
        )
    console.print(Text(f"  {wording.clean(again)}", style="bold"), soft_wrap=True)


def _shown(value: str | None) -> str:
    return "(not there)" if value is None else wording.clean(value)


def _table(estimate: Estimate, console: Console) -> None:
    head = f"{'':23}{'parameters':>10}{'MB':>7}{'optimiser':>11}{'train':>8}   {'gain lost elsewhere'}"
    units = f"{'':23}{'':>10}{'':>7}{'GiB':>11}{'GiB':>8}   {'mean [least, most]'}"
    console.print(Text(head, style="dim"), soft_wrap=True)
    console.print(Text(units, style="dim"), soft_wrap=True)
    most = max((row.gain_lost.sets for row in estimate.settings if row.gain_lost), default=0)
    for row in estimate.settings:
        console.print(Text(_row(row, most, "–" if estimate.outside else "not recorded")), soft_wrap=True)


def _row(row: SettingEstimate, most: int, unknown: str) -> str:
    """A line of the table; ``most``: data sets that the best known setting was recorded on."""
    rate = "" if row.learning_rate is None else wording.learning_rate(row.learning_rate)
    alpha = f"a={row.alpha:.3g}"
    label = (
        f"r={row.rank:<4} {alpha:<5} {rate}"
        if row.kind == "rank"
        else f"{row.kind} r={row.rank} {alpha} {rate}"
    )
    lost = unknown if row.gain_lost is None else gain_lost(row.gain_lost)
    few = "" if row.gain_lost is None or row.gain_lost.sets == most else f" ({row.gain_lost.sets} sets)"
    return f" {label:<22}{size(row.parameters):>10}{row.adapter_mb:>7,.1f}{row.optimiser_gib:>11.2f}{row.train_gib:>8.1f}   {lost}{few}"


def _say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print ``text``, made harmless, wrapped to the console."""
    for line in Text(wording.clean(text), style=style).wrap(console, max(20, console.width - indent)):
        line.rstrip()
        console.print(Text(" " * indent).append_text(line), soft_wrap=True)
