"""What ``rightrank estimate`` and ``rightrank check`` print: one screen, 80 columns wide."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rightrank import recommendation_html as wording
from rightrank.report.facts import GAIN_LOST_SHORT

if TYPE_CHECKING:
    from rich.console import Console

    from rightrank.estimates.estimation import (
        Check,
        DataProfile,
        Estimate,
        GainLost,
        ModelShape,
        Range,
        Setting,
        SettingEstimate,
    )

_VERDICTS = {
    "keep it": ("KEEP IT", "bold green"),
    "change these lines": ("CHANGE THESE LINES", "bold red"),
    "cannot tell without measuring": ("CANNOT TELL WITHOUT MEASURING", "bold yellow"),
    "cannot tell yet": ("CANNOT TELL YET", "bold yellow"),
}


def print_estimate(estimate: Estimate, console: Console, command: str) -> None:
    """Print an estimate; ``command`` is what would measure it."""
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
    _say(console, floor_line(estimate))
    _say(console, resolvable_line(estimate))
    for sentence in (*estimate.cautions, *estimate.notes):
        _say(console, f"Note: {sentence}", "yellow")
    _say(console, "To measure it:")
    console.print(Text(f"  {wording.clean(command)}", style="bold"), soft_wrap=True)


def print_check(check: Check, console: Console, command: str) -> None:
    """Print whether to keep a config; ``command`` is what would measure it."""
    name, style = _VERDICTS[check.verdict]
    _say(console, name, style)
    _say(
        console,
        "Measured on your model and data." if check.source == "measured" else f"An {check.source}.",
        "dim",
    )
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
            _say(console, f"That is {setting(check.better)}, as far as recorded runs can tell.", indent=2)
    console.print()
    for sentence in (*check.cautions, *check.notes):
        _say(console, f"Note: {sentence}", "yellow")
    if check.unread:
        _say(console, f"Not read: {', '.join(check.unread)}", "dim")
    if check.cost is not None:
        _say(console, GAIN_LOST_SHORT, "dim")
    if check.recommendation is not None:
        _say(console, "The whole answer:")
        again = f"  rightrank report {check.recommendation.provenance.run_directory}"
        console.print(Text(wording.clean_lines(again), style="bold"), soft_wrap=True)
        return
    time = "" if check.estimate is None or check.estimate.timing is None else _probe_time(check.estimate)
    _say(console, f"To measure it{time}:")
    console.print(Text(f"  {wording.clean(command)}", style="bold"), soft_wrap=True)


def data_lines(data: DataProfile) -> list[str]:
    """The data set in three lines."""
    sampled = f" (sampled: {data.at_hand:,} looked at)" if data.at_hand < data.train else ""
    first = f"{data.name}: {data.format}, {data.train:,} train{sampled} / {data.held_out:,} held out"
    tokens = (
        f"{data.trained_tokens:,} trained tokens a pass, {data.trained_tokens_a_row:.0f} a row, {data.distinct_tokens:,} different ones;"
        f" {data.total_tokens:,} tokens in all"
    )
    cut = f"{wording.count(data.truncated, 'row')} cut there" if data.truncated else "none cut"
    twice = f"{data.duplicates:,}" if data.duplicates else "no"
    both = (
        f"{wording.count(data.overlap, 'training row')} also held out"
        if data.overlap
        else "none on both sides"
    )
    lengths = (
        f"Rows of {data.median_length:,} tokens (median), 95 % up to {data.length_95:,}, longest {data.longest:,}, {cut};"
        f" {twice} duplicates, {both}"
    )
    return [first, tokens, lengths]


def model_line(model: ModelShape) -> str:
    """The model on a line."""
    where = ", ".join(model.target_modules)
    return f"{model.name}: {_size(model.parameters)} weights, {model.weights_gib:.1f} GiB in {model.weights}; adapters on {where}"


def run_line(estimate: Estimate) -> str:
    """The recipe on a line."""
    recipe = estimate.recipe
    return (
        f"{wording.epochs(recipe.epochs)}, batch {recipe.batch_size}, up to {recipe.max_length:,} tokens, {recipe.schedule} schedule:"
        f" {wording.count(estimate.steps, 'step')}"
    )


def recorded_line(estimate: Estimate) -> str:
    """Where the last column comes from."""
    sets = max((s.gain_lost.sets for s in estimate.settings if s.gain_lost), default=0)
    if not sets:
        why = f": {estimate.doubts[-1]}" if estimate.doubts else ""
        return f"gain lost: not known; nothing like this run was recorded{why}."
    # Of n + 1 exchangeable values the last is neither the least nor the most with probability (n - 1) / (n + 1).
    often = "" if estimate.doubts else f" Another such data set falls inside {sets - 1} times in {sets + 1}."
    return (
        f"gain lost: an estimate; mean [least, most] of {sets} recorded data sets on one 135M model at this learning rate.{often}"
        f" Most like yours: {estimate.nearest}."
    )


def time_lines(estimate: Estimate) -> list[str]:
    """Minutes of a run and of a probe."""
    timing = estimate.timing
    if timing is None:
        return ["Time: this GPU is not in the table. `--gpu NAME` estimates for another."]
    whole = "" if timing.every_rank is None else f"; every rank on all rows {minutes(timing.every_rank)}"
    return [
        f"On {timing.device}: one run {minutes(timing.run)}, `rightrank recommend` {minutes(timing.probe)}{whole} ({_kind(timing.run)})."
    ]


def floor_line(estimate: Estimate) -> str:
    """What capacity rules say."""
    rank = estimate.floor.rank
    said = "less than rank 1" if rank < 1 else f"rank {rank:.0f}" if rank >= 10 else f"rank {rank:.1f}"
    return f"Capacity: the trained tokens fit into {said} ({estimate.floor.source}). {estimate.floor.caution}"


def resolvable_line(estimate: Estimate) -> str:
    """What the held-out rows can tell apart."""
    found = estimate.resolvable
    return (
        f"Held out: {estimate.data.score:,} rows that score can tell apart {found.low:.1f} to {found.high:.1f} % of the gain, judging by"
        " the recorded data sets."
    )


def cost_line(check: Check) -> str:
    """What the person's setting costs."""
    mine = setting(check.yours)
    if check.cost is None:
        return f"Yours, {mine}: what it costs is not known; nothing near it was {'run' if check.source == 'measured' else 'recorded'}."
    about = "" if check.source == "measured" else "about "
    return f"Yours, {mine}: it costs {about}{gain_lost(check.cost)} of the gain{_over(check)}."


def setting(values: Setting) -> str:
    """``r=16 alpha=32 lr 2e-4``."""
    rank, alpha, rate = values
    return f"r={rank} alpha={alpha:.3g} lr {wording.learning_rate(rate)}"


def gain_lost(cost: GainLost) -> str:
    """``1.9 % [0.3, 6.3]``."""
    return f"{wording.percent(cost.mean)} [{wording.number(cost.low, 1)}, {wording.number(cost.high, 1)}]"


def minutes(found: Range) -> str:
    """``3 min``, ``2 to 5 min``, ``1.2 to 3.4 h``."""
    low, high = max(found.low, 0.0), found.high
    if high < 1:
        return "less than a minute"
    if high >= 119.5:
        return f"{low / 60:.1f} to {high / 60:.1f} h"
    if round(low) == round(high):
        return f"{high:.0f} min"
    return f"{low:.0f} to {high:.0f} min" if low >= 1 else f"up to {high:.0f} min"


def _over(check: Check) -> str:
    if check.source == "measured" or check.cost is None:
        return ""
    return f" (mean and range of {check.cost.sets} data sets)"


def _probe_time(estimate: Estimate) -> str:
    assert estimate.timing is not None
    return f", {minutes(estimate.timing.probe)} on {estimate.timing.device}"


def _kind(found: Range) -> str:
    return found.source.split(":")[0]


def _shown(value: str | None) -> str:
    return "(not there)" if value is None else wording.clean(value)


def _table(estimate: Estimate, console: Console) -> None:
    head = f"{'':23}{'parameters':>10}{'MB':>7}{'optimiser':>11}{'train':>8}   {'gain lost elsewhere'}"
    units = f"{'':23}{'':>10}{'':>7}{'GiB':>11}{'GiB':>8}   {'mean [least, most]'}"
    console.print(Text(head, style="dim"), soft_wrap=True)
    console.print(Text(units, style="dim"), soft_wrap=True)
    most = max((row.gain_lost.sets for row in estimate.settings if row.gain_lost), default=0)
    for row in estimate.settings:
        console.print(Text(_row(row, most)), soft_wrap=True)


def _row(row: SettingEstimate, most: int) -> str:
    """A line of the table; ``most``: data sets that the best known setting was recorded on."""
    rate = "" if row.learning_rate is None else wording.learning_rate(row.learning_rate)
    alpha = f"a={row.alpha:.3g}"
    label = (
        f"r={row.rank:<4} {alpha:<5} {rate}"
        if row.kind == "rank"
        else f"{row.kind} r={row.rank} {alpha} {rate}"
    )
    lost = "not recorded" if row.gain_lost is None else gain_lost(row.gain_lost)
    few = "" if row.gain_lost is None or row.gain_lost.sets == most else f" ({row.gain_lost.sets} sets)"
    return f" {label:<22}{_size(row.parameters):>10}{row.adapter_mb:>7,.1f}{row.optimiser_gib:>11.2f}{row.train_gib:>8.1f}   {lost}{few}"


def _size(parameters: int) -> str:
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)


def _say(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Print ``text``, made harmless, wrapped to the console."""
    for line in Text(wording.clean(text), style=style).wrap(console, max(20, console.width - indent)):
        line.rstrip()
        console.print(Text(" " * indent).append_text(line), soft_wrap=True)
