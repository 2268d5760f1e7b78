"""What a recommendation says, in sentences and table lines: shared by the terminal and the page, so that both say the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.recommendation import Figure, Recommendation, Status
    from rightrank.report.trends import EpochFigure

# stats.paired.FEWEST_EXAMPLES; reports read no statistics.
FEWEST_TO_TRUST = 30
GAIN_LOST = "gain lost: the share of what training gains over the base model that a choice gives away"

STATUS_NAMES: dict[Status, str] = {
    "NO_GAIN": "NO GAIN",
    "UNDECIDED": "UNDECIDED",
    "FLAT": "FLAT",
    "CEILING": "CEILING",
    "SETTLED": "SETTLED",
}
STATUS_MEANINGS: dict[Status, str] = {
    "NO_GAIN": "No rank helps here: look at the data and the template first.",
    "UNDECIDED": "Not certain at 95 % yet. Below: what is ruled out, and what to use meanwhile.",
    "FLAT": "The rank does not matter here. Take the smallest and spare the memory.",
    "CEILING": "The largest rank tried is still short: twice that rank would gain more than the margin.",
    "SETTLED": "The smallest rank that is as good as any tried, certain at 95 %.",
}
NO_GAIN_CAUSES = (
    "The base model already writes these completions, perhaps because it wrote them in the first place.",
    "The prompts are not in the form the base model was trained on: a wrong or missing chat template.",
    "There is too little data to learn from, or what it teaches does not carry over to held-out rows.",
)
METHOD = (
    "Every run sees the same batches in the same order, starts from the same weights and is compared row by row on the same held-out "
    "rows; differences, not levels, are the evidence. Intervals are 95 % and count held-out rows and, where there are several, seeds."
)
RUNS_NOTE = (
    "Here losses are on the held-out rows that choose, and gain lost is against the best run on as many rows; among the choices above both"
    " are on the rows that score, against the best choice."
)
VALIDATED = "validated on SmolLM2-135M only so far"


def measured_to(recommendation: Recommendation) -> int:
    """Training examples of the largest finished run; 0 where none finished."""
    return max((point.examples for point in recommendation.points if point.loss is not None), default=0)


def measured(recommendation: Recommendation) -> str:
    """How much evidence there is, in one sentence."""
    data = recommendation.data
    top = measured_to(recommendation)
    if not top:
        return "No run finished; nothing was measured."
    seeds = len({point.seed for point in recommendation.points})
    runs, on = len(recommendation.points), f"up to {top:,} of {data.train:,} rows"
    if top >= data.train:
        fewer = sum(point.examples < top for point in recommendation.points)
        runs, on = runs - fewer, f"all {data.train:,} rows" + (f" and {fewer:,} on fewer" if fewer else "")
    return f"{wording.count(runs, 'run')} of your recipe on {on}, {wording.count(seeds, 'seed')}, {held_out_used(recommendation)}."


def held_out_used(recommendation: Recommendation) -> str:
    """How many held-out rows judged, and why not all of them where they are fewer."""
    used, there = judged(recommendation), recommendation.data.decide + recommendation.data.score
    if used == there:
        return f"{there:,} held-out rows"
    return f"{used:,} of {there:,} held-out rows (judging by all would take too much of the time)"


def judged(recommendation: Recommendation) -> int:
    """Held-out rows that runs were judged by."""
    data = recommendation.data
    return data.decide + data.score if data.judged is None else data.judged


def extrapolation(recommendation: Recommendation) -> str:
    """What was not measured but continued from smaller runs; empty where everything was measured."""
    data, top = recommendation.data, measured_to(recommendation)
    if not top or not any(option.loss.source == "extrapolated" for option in recommendation.options):
        return ""
    if top >= data.train:  # but not this setting
        return f"Run on fewer than all {data.train:,} rows; the rest is extrapolated."
    included = " (intervals include it)" if intervals_shown(recommendation) else ""
    return f"Measured to {top:,} rows; {data.train:,} extrapolated{included}."


def intervals_shown(recommendation: Recommendation) -> bool:
    """Whether any choice has an interval."""
    lost = [option.gain_lost for option in recommendation.options]
    return recommendation.gains and any(figure is not None and figure.low is not None for figure in lost)


def yours(recommendation: Recommendation) -> str:
    """The verdict on the user's own config, in a sentence; empty where none was named or measured."""
    option = next((option for option in recommendation.options if option.kind == "yours"), None)
    if option is None:
        return ""
    setting = (
        f"r={option.rank}, alpha {wording.short(option.alpha)}, {wording.learning_rate(option.learning_rate)}"
    )
    lost = option.gain_lost
    if not recommendation.gains or lost is None:
        return f"{setting}: {wording.loss(option.loss.value)} nats a token held out."
    costs = f"it gives away {wording.percent_interval(lost)} of the gain"
    if option.verdict in ("best", "as good"):
        return f"Keep it. {setting} is as good as the best: {costs}."
    if option.verdict == "worse":
        return f"Change it. {setting} is worse than the best: {costs}."
    return f"Cannot tell yet. {setting}: {costs}."


def epochs_seen(figure: EpochFigure) -> str:
    """What the looks at a run on its way show, in two sentences."""
    best, last = figure.best, figure.points[-1]
    run = f"r={figure.rank} at {wording.learning_rate(figure.learning_rate)} on {figure.examples:,} rows."
    if best is None or best is last:
        return f"{run} Held-out loss was lowest at the end."
    lowest = (
        f"{run} Held-out loss was lowest at epoch {wording.short(round(best.epoch, 2))}, "
        f"{wording.loss(last.held_out - best.held_out)} nats a token below the end"
    )
    if not best.surely_better:
        return f"{lowest}, which these rows cannot tell from chance."
    return f"{lowest}: it overfits. A shorter recipe has a schedule of its own: try it with --epochs."


def would_change(recommendation: Recommendation) -> tuple[str, ...]:
    """What would change the answer, a sentence each."""
    if recommendation.more_data:
        return tuple(wording.clean(sentence) for sentence in recommendation.more_data)
    return ("Another recipe: the answer holds for these epochs, this batch size and this maximum length.",)


def data(recommendation: Recommendation) -> str:
    """The data set on a line."""
    d = recommendation.data
    parts = [f"{wording.clean(d.format)}, {d.train:,} train / {d.decide + d.score:,} held out"]
    parts += [
        f"{wording.count(n, 'row')} {what}"
        for n, what in (
            (d.truncated, "truncated"),
            (d.dropped, f"dropped ({recommendation.recipe.why_dropped})"),
        )
        if n
    ]
    return f"{wording.clean(d.name)}: {', '.join(parts)}"


def model(recommendation: Recommendation) -> str:
    """The model on a line, with the weights other than embeddings and output head that got no adapter."""
    m = recommendation.model
    line = f"{wording.clean(m.name)}, {_size(m.parameters)} parameters, {wording.clean(m.dtype)}"
    fused = [
        wording.clean(n)
        for n in m.not_adapted
        if not any(word in n for word in ("embed", "wte", "wpe", "head", "norm"))
    ]
    return f"{line}; not adapted: {', '.join(fused)}" if fused else line


def _size(parameters: int) -> str:
    for unit, name in ((10**9, "billion"), (10**6, "million")):
        if parameters >= unit:
            return f"{parameters / unit:.3g} {name}"
    return f"{parameters:,}"


def cost(recommendation: Recommendation) -> str:
    """What the answer took and what had been planned."""
    c = recommendation.cost
    took, planned = wording.minutes(c.took_minutes), wording.minutes(c.planned_minutes)
    return f"{took} (planned {planned}) on {wording.clean(c.device)}; {c.runs:.2g} × the tokens of one run; peak {c.peak_gib:.1f} GiB"


def resolvable(recommendation: Recommendation) -> str:
    """What the held-out rows can tell apart; empty where that is not known."""
    figure = recommendation.cost.resolvable
    return (
        ""
        if figure is None
        else f"{judged(recommendation):,} held-out rows tell apart differences of {wording.percent(figure.value)} of the gain."
    )


def margin(recommendation: Recommendation) -> str:
    """How close two choices must be to count as the same, and from which reading that comes."""
    m = recommendation.margin
    if m is None:
        return ""
    same = (
        f"Two choices closer than {wording.loss(m.used.value)} nats a token ({wording.percent(m.as_percent_of_gain)} of the gain) "
        "count as the same"
    )
    one_percent = f"1 % of the gain ({wording.loss(m.one_percent_of_gain.value)})"
    if m.ten_percent_more_data is None:
        return f"{same}: {one_percent}. What 10 % more data would buy cannot be told from these runs."
    return (
        f"{same}: the smaller of {one_percent} and the loss that 10 % more data would buy "
        f"({wording.loss(m.ten_percent_more_data.value)})."
    )


def no_gain(recommendation: Recommendation) -> str:
    """What training was compared with and did not beat."""
    base, best, frequency = (
        recommendation.base_loss.value,
        recommendation.best_loss.value,
        recommendation.frequency_loss.value,
    )
    if best >= frequency:
        return (
            f"The best run has {wording.loss(best)} nats a token; knowing only how often each token occurs gives "
            f"{wording.loss(frequency)}. Training does not beat mere token frequencies."
        )
    return f"The best run has {wording.loss(best)} nats a token, the base model without training {wording.loss(base)}."


def ranks(values: tuple[int, ...]) -> str:
    """``r=4, r=8``."""
    return ", ".join(f"r={rank}" for rank in values)


def still_possible(recommendation: Recommendation) -> str:
    """Ranks in the table that nothing has ruled out, each with learning rates of its own: ``r=4, r=16 (yours alone), r=32``.

    The person's own rank too, where it was run: no learning rate but theirs rules it neither in nor out.
    """
    tuned = {
        option.rank
        for option in recommendation.options
        if option.kind == "tuned" and wording.searched(recommendation, option.rank)
    }
    own = {point.rank for point in recommendation.points if point.role == "yours"} - tuned
    named = {rank: f"r={rank}{' (yours alone)' if rank in own else ''}" for rank in tuned | own}
    return ", ".join(named[rank] for rank in sorted(set(named) - set(recommendation.ruled_out)))


def no_intervals(recommendation: Recommendation) -> str:
    """Why the table has dashes in place of intervals; empty where it has none."""
    lost = [option.gain_lost for option in recommendation.options if option.verdict != "best"]
    if not recommendation.gains or not any(figure is not None and figure.low is None for figure in lost):
        return ""
    if recommendation.data.score >= FEWEST_TO_TRUST:
        return "–: no interval; runs of so few steps are not to be relied on."
    return f"–: no interval; {FEWEST_TO_TRUST} held-out rows must score for one, and fewer do."


def gguf(recommendation: Recommendation) -> str:
    """That no trainer runs the configs as they are, where they name a GGUF file; empty where they do not."""
    if not recommendation.model.name.endswith(".gguf"):
        return ""
    return (
        "These configs cannot run as they are: they name a GGUF file, which no trainer reads. Put the name of the model that it was made"
        " from in its place."
    )


def trained_on(recommendation: Recommendation) -> str:
    """On which rows the configs train, where those are not the ones that were trained on here; else empty."""
    if recommendation.data.held_out_from == "--eval-data":
        return ""
    return "The configs train on all your rows, those held out here too."


def price(figure: Figure | None) -> str:
    """Of a next step: ``About 25 min``, or that it cannot be told."""
    return "Time unknown" if figure is None else _capital(wording.about_minutes(figure.value))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def safe_worst(recommendation: Recommendation) -> str:
    """The worst case of the choice that is used meanwhile."""
    if recommendation.worst_case is None:
        return "what it may lose at worst cannot be told from these runs"
    return f"at worst {wording.percent(recommendation.worst_case.value)} of the gain lost (at 95 %)"


def how_it_ran(path: str) -> str:
    """``ModelFacts.path`` in the reader's words."""
    text = wording.clean(path)
    slower = any(word in text for word in ("padded", "slower", "one by one"))
    why = re.sub(r"^(packed|padded)( rows)?\W*(slower)?", "", text).replace(" (", ": ").strip(" -–:;,()")
    name = "on the slower path" if slower else "on the fast path"
    return f"{name} ({why})" if why else name
