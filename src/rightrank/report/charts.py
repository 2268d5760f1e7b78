"""The report's figures, drawn from their data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rightrank import recommendation_html as wording
from rightrank.report.drawing import Canvas

if TYPE_CHECKING:
    from markupsafe import Markup

    from rightrank.report.figures import CurvePoint, MapFigure, MapPoint, Measure, RankFigure
    from rightrank.report.trends import EpochFigure, SizeFigure

_MARKERS = {"tuned": "o", "guide": "D", "yours": "s"}
_ASIDE = {"tuned": 1.0, "guide": 1.06, "yours": 0.94}
"""Factor on the rank: what shares one stands side by side."""


def rank_chart(figure: RankFigure, name: str, width: int = 1000, height: int = 380) -> Markup:
    """What each rank costs. ``name`` makes its ids unique on a page."""
    canvas = Canvas(name, width, height)
    axes = canvas.axes
    guides = [point for line in figure.guides for point in line.points]
    ranks = sorted({p.rank for p in (*figure.tuned, *figure.yours, *guides)}) or [1]
    canvas.ranks(ranks)
    axes.set_ylim(*figure.view)
    canvas.value_axis(
        "held-out loss, nats a token"
        if figure.measure == "loss"
        else "gain lost, % (0: the best; lower is better)"
    )
    if figure.band is not None:
        canvas.part(axes.axhspan(*figure.band), "band")
    if figure.base is not None:
        canvas.part(axes.axhline(figure.base), "base")
    if len(figure.tuned) > 1:
        canvas.part(axes.plot([p.rank for p in figure.tuned], [p.value for p in figure.tuned]), "curve")
    for line in figure.guides:
        if len(line.points) > 1:
            canvas.part(
                axes.plot([_x(p) for p in line.points], [p.value for p in line.points]), "curve guide"
            )
    for point in (*figure.tuned, *guides, *figure.yours):
        _mark(canvas, point, figure)
    for point, text in _named(figure):
        last = point.rank == ranks[-1] and len(ranks) > 1
        offset, side = ((-12, 6), "right") if last else ((10, -4), "left")
        place = (_x(point), _at_frame(point, figure))
        canvas.part(axes.annotate(text, place, offset, textcoords="offset points", ha=side), "label")
    return canvas.svg("Held-out results against rank", _rank_summary(figure))


def _mark(canvas: Canvas, point: CurvePoint, figure: RankFigure) -> None:
    """A point with its interval; an arrow at the frame where it lies outside, with its value where it belongs to the curve."""
    axes, (low, high) = canvas.axes, figure.view
    css = f"mark {point.kind}{'' if point.measured else ' hollow'}"
    tip = (
        f"{point.label}, lr {wording.learning_rate(point.learning_rate)}: {_in_words(point, figure.measure)}"
    )
    if not low <= point.value <= high:
        above = point.value > high
        y = _at_frame(point, figure)
        arrow = axes.plot(_x(point), y, "^" if above else "v", markersize=9)
        canvas.part(arrow, css, tip)
        if point.kind == "tuned":
            offset = (0, -18) if above else (0, 8)
            text = axes.annotate(
                _value(point, figure.measure),
                (point.rank, y),
                offset,
                textcoords="offset points",
                ha="center",
            )
            canvas.part(text, "label")
        return
    if point.high > point.low:
        line = axes.plot([_x(point)] * 2, [max(point.low, low), min(point.high, high)])
        canvas.part(line, f"interval {point.kind}")
    if point.chosen:
        canvas.part(axes.plot(point.rank, point.value, "o", markersize=20), "ring")
    canvas.part(axes.plot(_x(point), point.value, _MARKERS[point.kind], markersize=9), css, tip)


def _x(point: CurvePoint) -> float:
    return point.rank * _ASIDE[point.kind]


def _at_frame(point: CurvePoint, figure: RankFigure) -> float:
    """Where a point is drawn: just inside the frame where it lies outside."""
    low, high = figure.view
    air = 0.03 * (high - low)
    return min(max(point.value, low + air), high - air)


def _named(figure: RankFigure) -> list[tuple[CurvePoint, str]]:
    """What is named beside its mark: the user's own config, and each line of the guides once, at its last point."""
    lines = [
        (line.points[-1], f"guides' {wording.learning_rate(line.learning_rate)}") for line in figure.guides
    ]
    named = [*((point, "yours") for point in figure.yours), *lines]
    outside = [not figure.view[0] <= point.value <= figure.view[1] for point, _ in named]
    return [
        (point, f"{text}: {_value(point, figure.measure)}" if out else text)
        for (point, text), out in zip(named, outside, strict=True)
    ]


def _value(point: CurvePoint, measure: Measure) -> str:
    return wording.loss(point.value) if measure == "loss" else wording.percent(point.value)


def _in_words(point: CurvePoint, measure: Measure) -> str:
    unit = " nats a token" if measure == "loss" else " % of the gain lost"
    digits = 3 if measure == "loss" else 1
    value, low, high = (wording.number(v, digits) for v in (point.value, point.low, point.high))
    interval = f" [{low}, {high}]" if point.low < point.high else ""
    return f"{value}{unit}{interval}, {'measured' if point.measured else 'extrapolated'}"


def _rank_summary(figure: RankFigure) -> str:
    """The figure for those who do not see it; the table below it has every number."""
    points = [
        f"{p.label}: {_in_words(p, figure.measure)}{', the choice' if p.chosen else ''}"
        for p in (*figure.tuned, *figure.yours, *(p for line in figure.guides for p in line.points))
    ]
    return "; ".join(points) + "."


def map_chart(figure: MapFigure, name: str, width: int = 1000, height: int = 420) -> Markup:
    """Rank × learning rate. ``name`` makes its ids unique on a page."""
    canvas = Canvas(name, width, height)
    axes = canvas.axes
    ranks = sorted({p.rank for p in figure.points}) or [figure.chosen[0]]
    rates = [p.learning_rate for p in figure.points] or [figure.chosen[1]]
    low, high = min(rates) / 1.8, max(rates) * 1.8
    canvas.ranks(ranks)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    canvas.ticks("y", [(tick, wording.learning_rate(tick)) for tick in rate_ticks(low, high)])
    canvas.value_axis("learning rate")
    for point in figure.points:
        _cell(canvas, point)
    rank, rate = figure.chosen
    if rank in ranks and low <= rate <= high:
        canvas.part(axes.plot(rank, rate, "o", markersize=32), "ring", "the choice")
    described = f"{len(figure.points)} combinations of rank and learning rate were trained; the table of runs has every number."
    return canvas.svg("Gain lost for every rank and learning rate measured", described)


def _cell(canvas: Canvas, point: MapPoint) -> None:
    if point.diverged:
        text, css = "×", "cell diverged"
    elif point.value is None:
        text, css = "", "cell"
    else:
        text = wording.number(point.value, 1 if abs(point.value) < 9.95 else 0)
        css = f"cell level-{point.level}"
    lost = "diverged" if point.diverged else f"{text} % of the gain lost" if text else "no gain to lose"
    runs = f"{wording.count(point.runs, 'run')} on {point.examples:,} rows"
    tip = f"r={point.rank}, lr {wording.learning_rate(point.learning_rate)}: {lost}, {runs}"
    place = (point.rank, point.learning_rate)
    circle = canvas.axes.plot(*place, "o", markersize=26 if point.full else 20)
    canvas.part(circle, css + (" guide" if point.guide else ""), tip)
    value = canvas.axes.annotate(text, place, ha="center", va="center")
    canvas.part(value, f"{css} value" if point.full else f"{css} value small")


def rate_ticks(low: float, high: float) -> list[float]:
    """Learning rates from ``low`` to ``high``: 1, 2 and 5 times the powers of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for p in powers for m in (1, 2, 5) if low <= (t := float(f"{m}e{p}")) <= high]


def size_chart(figure: SizeFigure, name: str, width: int = 480, height: int = 280) -> Markup:
    """The best run against the number of training rows."""
    canvas = Canvas(name, width, height)
    axes = canvas.axes
    axes.set_xscale("log", base=2)
    axes.margins(x=0.18, y=0.2)
    canvas.part(axes.plot([p.examples for p in figure.points], [p.loss for p in figure.points]), "curve")
    canvas.ticks("x", [(p.examples, f"{p.examples:,}") for p in figure.points])
    canvas.part(axes.set_xlabel("training rows"), "axis-title")
    canvas.value_axis("held-out loss of the best run, nats a token")
    for point in figure.points:
        setting = f"r={point.rank}, {wording.learning_rate(point.learning_rate)}"
        tip = f"{point.examples:,} rows: {wording.loss(point.loss)}, {setting}"
        canvas.part(axes.plot(point.examples, point.loss, "o", markersize=9), "mark tuned", tip)
        label = axes.annotate(
            setting, (point.examples, point.loss), (0, 10), textcoords="offset points", ha="center"
        )
        canvas.part(label, "label")
    said = [
        f"{p.examples:,} rows: {wording.loss(p.loss)} with r={p.rank} at {wording.learning_rate(p.learning_rate)}"
        for p in figure.points
    ]
    return canvas.svg("The best run by number of training rows", "; ".join(said) + ".")


def epoch_chart(figure: EpochFigure, name: str, width: int = 480, height: int = 280) -> Markup:
    """Held-out and training loss of one run by epoch."""
    canvas = Canvas(name, width, height)
    axes = canvas.axes
    axes.margins(x=0.12, y=0.2)
    epochs = [p.epoch for p in figure.points]
    canvas.part(axes.plot(epochs, [p.held_out for p in figure.points]), "curve")
    trained = [(p.epoch, p.training) for p in figure.points if p.training is not None]
    if trained:
        canvas.part(axes.plot([e for e, _ in trained], [loss for _, loss in trained]), "curve yours")
    canvas.ticks("x", [(epoch, wording.short(round(epoch, 2))) for epoch in epochs])
    canvas.part(axes.set_xlabel("epoch"), "axis-title")
    canvas.value_axis("loss, nats a token")
    for p in figure.points:
        tip = f"epoch {wording.short(round(p.epoch, 2))}: {wording.loss(p.held_out)} held out"
        canvas.part(axes.plot(p.epoch, p.held_out, "o", markersize=8), "mark tuned", tip)
    for epoch, loss in trained:
        tip = f"epoch {wording.short(round(epoch, 2))}: {wording.loss(loss)} in training"
        canvas.part(axes.plot(epoch, loss, "s", markersize=7), "mark yours", tip)
    said = [f"epoch {wording.short(round(p.epoch, 2))}: {wording.loss(p.held_out)}" for p in figure.points]
    return canvas.svg("Held-out loss by epoch", "; ".join(said) + ".")
