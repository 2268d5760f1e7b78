"""What an estimate says, in sentences and numbers as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording

if TYPE_CHECKING:
    from rightrank.estimates.estimation import (
        Check,
        DataProfile,
        Estimate,
        GainLost,
        ModelShape,
        Range,
        Setting,
    )
    from rightrank.priors.characteristics import Foretold, Guess


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
    return f"{model.name}: {size(model.parameters)} weights, {model.weights_gib:.1f} GiB in {model.weights}; adapters on {where}"


def run_line(estimate: Estimate) -> str:
    """The recipe on a line."""
    recipe = estimate.recipe
    return (
        f"{wording.epochs(recipe.epochs)}, batch {recipe.batch_size}, up to {recipe.max_length:,} tokens, {recipe.schedule} schedule:"
        f" {wording.count(estimate.steps, 'step')}"
    )


def recorded_line(estimate: Estimate) -> str:
    """Where the last column comes from."""
    if estimate.outside:
        return f"gain lost: no estimate: {'; '.join(estimate.outside)}."
    sets = max((s.gain_lost.sets for s in estimate.settings if s.gain_lost), default=0)
    if not sets:
        return "gain lost: not known; no setting near these was recorded."
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
        f"On {timing.device}: one run {minutes(timing.run)}, `rightrank recommend` {minutes(timing.probe)}{whole} (estimated, as long as"
        " nothing else runs there; `rightrank recommend --dry-run` times it)."
    ]


def floor_line(estimate: Estimate) -> str:
    """What capacity rules say."""
    rank = estimate.floor.rank
    said = "less than rank 1" if rank < 1 else f"rank {rank:.0f}" if rank >= 10 else f"rank {rank:.1f}"
    return f"Capacity: the trained tokens fit into {said} ({estimate.floor.source}). {estimate.floor.caution}"


def foretold_lines(found: Foretold | None) -> list[str]:
    """Rank and learning rate that the rows let one expect, what moves them, and whether that is better than r=32."""
    if found is None:
        return []
    rank, rate = found.rank, found.learning_rate
    against = f"{found.lost:.1f} % of the gain lost there, {found.lost_32:.1f} % at r=32 and the same learning rates"
    return [
        f"Smallest rank within 1 % of the best: about {rank.value:.0f}, {rank.low:.0f} to {rank.high:.0f} (an estimate; foretelling each of"
        f" {found.sets} recorded data sets from the others was off {rank.off_mean:.1f}-fold on average, {rank.off_worst:.0f}-fold at most)."
        f" {_moved(rank, found.tried)} It {'beat' if found.better else 'does not beat'} r=32: {against}.",
        f"Learning rate at these alphas: about {wording.learning_rate(rate.value)}, {wording.learning_rate(rate.low)} to"
        f" {wording.learning_rate(rate.high)} (an estimate, too: off {rate.off_mean:.1f}-fold, {rate.off_worst:.1f}-fold at most)."
        f" {_moved(rate, found.tried)}",
    ]


def _moved(guess: Guess, tried: int) -> str:
    """What in the rows and the recipe moves a guess."""
    if not guess.used:
        return f"Nothing about your rows moves it: choosing among {tried} characteristics foretold no better than those sets' mean."
    causes = [(guess.up, "Raised"), (guess.down, "Lowered")]
    moved = [
        f"{verb} here by {' and '.join(words)} than on average there." for words, verb in causes if words
    ]
    return " ".join(moved) or "In what moves it your rows are like those on average."


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
    if check.cost is None and check.estimate is not None and check.estimate.outside:
        return f"No estimate for {mine}: {'; '.join(check.estimate.outside)}."
    own = [o for o in check.recommendation.options if o.kind == "yours"] if check.recommendation else []
    if check.cost is None and own:
        nats = wording.loss(own[0].loss.value)
        return f"Yours, {mine}: {nats} nats a token held out; no share of a gain, since no gain is certain."
    if check.cost is None:
        return f"Yours, {mine}: what it costs is not known; nothing near it was {'run' if check.source == 'measured' else 'recorded'}."
    about = "" if check.source == "measured" else "about "
    return f"Yours, {mine}: it costs {about}{gain_lost(check.cost)} of the gain{_over(check)}."


def setting(values: Setting) -> str:
    """``r=16 alpha=32 lr 2e-4``."""
    rank, alpha, rate = values
    return f"r={rank} alpha={alpha:.3g} lr {wording.learning_rate(rate)}"


def gain_lost(cost: GainLost) -> str:
    """``1.9 % [0.3, 6.3]``; the value alone where there is no interval."""
    if cost.low is None or cost.high is None:
        return wording.percent(cost.mean)
    return f"{wording.percent(cost.mean)} [{wording.number(cost.low, 1)}, {wording.number(cost.high, 1)}]"


def minutes(found: Range) -> str:
    """``3 min``, ``2 to 5 min``, ``1.2 to 3.4 h``."""
    return wording.minutes_between(max(found.low, 0.0), found.high)


def _over(check: Check) -> str:
    if check.cost is None or check.source == "measured":
        unsure = check.cost is not None and check.cost.low is None
        return ", measured on too few rows for an interval" if unsure else ""
    return f" (mean and range of {check.cost.sets} data sets)"


def size(parameters: int) -> str:
    """``135M``, ``8.03B``."""
    for unit, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return str(parameters)
