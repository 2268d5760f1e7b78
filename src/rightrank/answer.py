"""From the statistics' decision and the facts of the probe to the recommendation that people, reports and trainers read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rightrank.recommendation import (
    Check,
    Choice,
    Figure,
    Margin,
    MeasuredPoint,
    Option,
    Recommendation,
    Source,
)
from rightrank.stats.paired import Estimate, paired_contrast
from rightrank.stats.results import NO_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Int

    from rightrank.probe.loss_table import LossTable, PackResult
    from rightrank.recipe import Recipe
    from rightrank.recommendation import Cost, DataFacts, ModelFacts, NextStep, Provenance
    from rightrank.stats.results import Decision, Price
    from rightrank.stats.rungs import Setting

NATS, PERCENT = "nats a token", "% of the gain"


def make_recommendation(
    decision: Decision,
    *,
    recipe: Recipe,
    model: ModelFacts,
    data: DataFacts,
    cost: Cost,
    provenance: Provenance,
    points: tuple[MeasuredPoint, ...],
    next_steps: tuple[NextStep, ...],
    train_gib: Callable[[int], float],
    train_minutes: Callable[[int], float],
    adapter_mb: Callable[[int], float],
    warnings: Sequence[str],
) -> Recommendation:
    """Assemble the answer. ``train_gib``, ``train_minutes`` and ``adapter_mb`` give memory, time and size of one adapter of a rank."""
    base, best, gain, frequency = (
        decision.base_loss,
        decision.best_loss,
        decision.gain,
        decision.frequency_loss,
    )
    assert base is not None and best is not None and gain is not None and frequency is not None
    level: Source = "extrapolated" if decision.extrapolated else "measured"
    chosen = decision.choice
    return Recommendation(
        status=decision.status,
        headline=_headline(decision),
        reasons=decision.reasons,
        choice=Choice(chosen.rank, chosen.alpha, chosen.learning_rate, recipe.epochs, model.target_modules),
        worst_case=None
        if decision.worst_case_percent is None
        else Figure(decision.worst_case_percent, PERCENT, level),
        options=tuple(
            option
            for price in decision.choices
            if (option := _option(price, train_gib, train_minutes, adapter_mb)) is not None
        ),
        points=points,
        margin=_margin(decision, level),
        base_loss=_loss(base, "measured"),
        best_loss=_loss(best, level),
        gain=_figure(gain, NATS, level),
        frequency_loss=_loss(frequency, "measured"),
        ruled_out=tuple(rank for rank in decision.ruled_out if rank in searched_ranks(points)),
        to_decide=next_steps,
        more_data=decision.drift.sentences,
        model=model,
        data=data,
        recipe=recipe,
        cost=cost,
        provenance=provenance,
        warnings=(
            *warnings,
            *(said for said in decision.warnings if said not in decision.reasons),
            *_unpriced(decision),
        ),
    )


def searched_ranks(points: Sequence[MeasuredPoint]) -> frozenset[int]:
    """Ranks tried at a learning rate that was looked for: not only at the person's own or a guide's."""
    return frozenset(point.rank for point in points if point.role not in ("yours", "guide"))


def _unpriced(decision: Decision) -> list[str]:
    """One sentence for all the popular settings that nothing measured comes near, one for those that no interval can be given of."""
    bare = [_label(price) for price in decision.choices if price.why_not == NO_INTERVAL]
    far = [_label(price) for price in decision.choices if price.why_not not in (None, NO_INTERVAL)]
    return [
        f"Not priced, since {why}: {', '.join(names)}."
        for why, names in (
            ("nothing near was tried", far),
            ("they were not run and these runs bear no interval", bare),
        )
        if names
    ]


def measured_points(
    table: LossTable, decision: Decision, recipe: Recipe, tokens_E: Int[np.ndarray, " E"]
) -> tuple[MeasuredPoint, ...]:
    """Every finished run, in the order it was trained. ``tokens_E``: trained tokens of the held-out examples.

    No run has a share of a gain that is not certain: neither has a choice.
    """
    runs, certain = iter(decision.runs), decision.margin is not None
    points = []
    for pack, result in zip(table.packs, table.results, strict=True):
        for k, c in enumerate(pack.configurations):
            run = next(runs)
            points.append(
                MeasuredPoint(
                    rank=c.rank,
                    alpha=c.alpha,
                    learning_rate=c.learning_rate,
                    seed=c.seed,
                    examples=pack.examples,
                    steps=recipe.steps(pack.examples),
                    loss=run.decide_loss,
                    gain_lost=_figure(run.gain_lost, PERCENT, "measured")
                    if certain and run.gain_lost
                    else None,
                    train_loss=result.train_loss_K[k],
                    role=c.role,
                    checks=_checks(result, k, recipe, tokens_E),
                )
            )
    return tuple(points)


def _checks(result: PackResult, k: int, recipe: Recipe, tokens_E: Int[np.ndarray, " E"]) -> tuple[Check, ...]:
    """The looks at configuration ``k``, and its end on the same rows; none where it diverged."""
    looks = result.looks
    if looks is None:
        return ()
    seen_LX = looks.loss_KLX[k]
    tokens_X = tokens_E[: seen_LX.shape[1]]
    end_X = result.loss_KE[k, : len(tokens_X)]
    if not (np.isfinite(seen_LX).all() and np.isfinite(end_X).all()):
        return ()
    checks = []
    for epoch, loss_X, training in zip(looks.epochs_L, seen_LX, looks.train_loss_KL[k], strict=True):
        above = paired_contrast(loss_X, end_X, tokens_X)
        figure = _figure(Estimate(above.difference, above.low, above.high), NATS, "measured")
        checks.append(Check(epoch, float(loss_X.sum() / tokens_X.sum()), float(training), figure))
    end = float(end_X.sum() / tokens_X.sum())
    return (*checks, Check(recipe.epochs, end, result.train_loss_K[k], None))


def _headline(decision: Decision) -> str:
    tried = sorted({price.setting.rank for price in decision.choices if price.kind == "tuned"})
    margin = decision.margin
    share = f"{margin.percent:.2g} %" if margin is not None else "1 %"
    largest = tried[-1] if tried else decision.choice.rank
    if decision.status == "SETTLED":
        return f"No rank up to {largest} is better by more than {share} of what training gains."
    if decision.status == "FLAT":
        return (
            f"The rank makes no difference: every rank from {tried[0]} to {largest} is within {share} of what training gains, each at"
            " its own learning rate. Take the smallest and spare the memory."
        )
    if decision.status == "CEILING":
        return f"Still rising: doubling the rank beyond {largest} would gain more than {share} again."
    if decision.status == "NO_GAIN":
        return "Training does not help here: no rank beats what needs no training."
    return f"Cannot tell yet which rank is best to within {share} of what training gains."


def _option(
    price: Price,
    train_gib: Callable[[int], float],
    train_minutes: Callable[[int], float],
    adapter_mb: Callable[[int], float],
) -> Option | None:
    if price.source is None or price.loss is None:
        return None
    setting, source = price.setting, price.source
    known: Source = "measured" if source == "extrapolated" else source
    return Option(
        label=_label(price),
        kind=price.kind,
        rank=setting.rank,
        alpha=setting.alpha,
        learning_rate=setting.learning_rate,
        verdict=price.verdict,
        loss=_loss(price.loss, source),
        gain_lost=None if price.gain_lost is None else _figure(price.gain_lost, PERCENT, source),
        exact=None if price.exact is None else _figure(price.exact, "% of completions", known),
        tokens_right=None
        if price.tokens_right is None
        else _figure(price.tokens_right, "% of tokens", known),
        train_gib=Figure(train_gib(setting.rank), "GiB", "derived"),
        train_minutes=Figure(train_minutes(setting.rank), "minutes", "derived"),
        adapter_mb=adapter_mb(setting.rank),
    )


def _label(price: Price) -> str:
    setting = price.setting
    if price.kind == "tuned":
        return f"r={setting.rank}"
    return f"{price.kind} r={setting.rank} a={setting.alpha:g} {_short_rate(setting)}"


def _short_rate(setting: Setting) -> str:
    mantissa, exponent = f"{setting.learning_rate:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _margin(decision: Decision, level: Source) -> Margin | None:
    margin = decision.margin
    if margin is None:
        return None
    more = margin.ten_percent_more_data
    return Margin(
        used=Figure(margin.nats, NATS, "derived"),
        one_percent_of_gain=_figure(margin.one_percent_of_gain, NATS, level),
        ten_percent_more_data=None if more is None else _figure(more, NATS, "measured"),
        as_percent_of_gain=margin.percent,
    )


def _loss(estimate: Estimate, source: Source) -> Figure:
    """No loss is below zero, however wide its interval."""
    low = max(estimate.low, 0.0)  # in this order: what is not known stays so
    return _figure(Estimate(estimate.value, low, estimate.high), NATS, source)


def _figure(estimate: Estimate, unit: str, source: Source) -> Figure:
    def finite(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return Figure(float(estimate.value), unit, source, low=finite(estimate.low), high=finite(estimate.high))
