"""Figure data to inline SVG: positions here, markup in ``chart.svg.j2`` (which escapes), colours in ``page.css``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rightrank import recommendation_html as wording
from rightrank.report.axes import Frame, Label, Shape, axes, linear_ticks, make_frame, rate_ticks

if TYPE_CHECKING:
    from rightrank.report.figures import CurvePoint, MapFigure, MapPoint, Measure, RankFigure

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters["clean"] = wording.clean
TEMPLATES.filters["tight"] = lambda text: text.replace(" %", "\u00a0%").replace(" ×", "\u00a0×")

# Outlines around the point they mark, px.
_SHAPES = {
    "tuned": "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "guide": "M0-6 6 0 0 6-6 0z",
    "yours": "M-5-5H5V5H-5z",
}
_UP, _DOWN = "M-5 5 0-5 5 5z", "M-5-5 0 5 5-5z"
_LABEL_HEIGHT = 14


def rank_chart(figure: RankFigure, name: str, width: int = 1000, height: int = 380) -> Markup:
    """The rank figure as SVG. ``name`` makes its ids unique on a page."""
    low, high = figure.view
    ranks = [p.rank for p in (*figure.tuned, *figure.others)]
    frame = make_frame(width, height, ranks, low, high, inset=64)
    ticks = linear_ticks(low, high)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 1
    title = (
        "held-out loss, nats a token"
        if figure.measure == "loss"
        else "gain lost, % (0: the best; lower is better)"
    )
    items: list[Shape | Label] = []
    if figure.band is not None:
        bottom, top = map(frame.value.at, figure.band)
        items.append(Shape(f"M{frame.left} {top}H{frame.right}V{bottom}H{frame.left}z", "band"))
    labelled = [(tick, wording.number(tick, digits)) for tick in ticks]
    items += axes(frame, [p.rank for p in figure.tuned] or ranks, labelled, title)
    if figure.base is not None:
        items.append(Shape(f"M{frame.left} {frame.value.at(figure.base)}H{frame.right}", "base"))
    line = " ".join(f"{frame.x(p.rank)} {frame.value.at(p.value)}" for p in figure.tuned)
    if len(figure.tuned) > 1:
        items.append(Shape(f"M{line}", "curve", clipped=True))
    for point in figure.tuned:
        items += _mark(frame, point, frame.x(point.rank), figure.measure)
    items += _others(frame, figure)
    return _draw(name, width, height, frame, items, "Held-out results against rank", _summary(figure))


def _mark(frame: Frame, point: CurvePoint, x: float, measure: Measure) -> list[Shape | Label]:
    """A point with its interval; an arrow at the frame with the value where it lies outside."""
    low, high = frame.value.low, frame.value.high
    css = f"mark {point.kind}{'' if point.measured else ' hollow'}"
    tip = f"{point.label}, lr {wording.learning_rate(point.learning_rate)}: {_in_words(point, measure)}"
    if not low <= point.value <= high:
        above = point.value > high
        y = frame.top + 9 if above else frame.bottom - 9
        arrow = Shape(_UP if above else _DOWN, css, x, y, tip)
        return (
            [arrow, Label(x, y + (20 if above else -12), _value(point, measure), "label")]
            if point.kind == "tuned"
            else [arrow]
        )
    y, top, bottom = (
        frame.value.at(point.value),
        frame.value.at(min(point.high, high)),
        frame.value.at(max(point.low, low)),
    )
    items: list[Shape | Label] = [Shape(f"M{x} {top}V{bottom}", f"interval {point.kind}")]
    if point.chosen:
        items.append(Shape("M-10 0a10 10 0 1 0 20 0a10 10 0 1 0-20 0z", "ring", x, y))
    return [*items, Shape(_SHAPES[point.kind], css, x, y, tip)]


def _others(frame: Frame, figure: RankFigure) -> list[Shape | Label]:
    """The user's own config and the guides', moved aside where they share a rank, their labels kept apart."""
    items: list[Shape | Label] = []
    taken = {p.rank: 1 for p in figure.tuned}
    labels: list[tuple[float, float, str]] = []
    for point in figure.others:
        step = taken.get(point.rank, 0)
        taken[point.rank] = step + 1
        x = frame.x(point.rank) + 13 * step
        items += _mark(frame, point, x, figure.measure)
        y = min(max(frame.value.at(point.value), frame.top + 9), frame.bottom - 9) + 4
        while any(
            abs(x - other_x) < 96 and abs(y - other_y) < _LABEL_HEIGHT for other_x, other_y, _ in labels
        ):
            y += 2
        text = "yours" if point.kind == "yours" else f"guide {wording.learning_rate(point.learning_rate)}"
        outside = not figure.view[0] <= point.value <= figure.view[1]
        labels.append((x, y, f"{text}: {_value(point, figure.measure)}" if outside else text))
    for x, y, text in labels:
        fits = x + 10 + 6.5 * len(text) < frame.right
        items.append(Label(x + (10 if fits else -10), y, text, "label", "start" if fits else "end"))
    return items


def _value(point: CurvePoint, measure: Measure) -> str:
    return wording.loss(point.value) if measure == "loss" else wording.percent(point.value)


def _in_words(point: CurvePoint, measure: Measure) -> str:
    unit = " nats a token" if measure == "loss" else " % of the gain lost"
    digits = 3 if measure == "loss" else 1
    value, low, high = (wording.number(v, digits) for v in (point.value, point.low, point.high))
    interval = f" [{low}, {high}]" if point.low < point.high else ""
    return f"{value}{unit}{interval}, {'measured' if point.measured else 'extrapolated'}"


def _summary(figure: RankFigure) -> str:
    """The figure for those who do not see it; the table below it has every number."""
    points = [
        f"{p.label}: {_in_words(p, figure.measure)}{', the choice' if p.chosen else ''}"
        for p in (*figure.tuned, *figure.others)
    ]
    return "; ".join(points) + "."


def map_chart(figure: MapFigure, name: str, width: int = 1000, height: int = 420) -> Markup:
    """The rank × learning-rate map as SVG. ``name`` makes its ids unique on a page."""
    ranks = sorted({p.rank for p in figure.points})
    rates = [p.learning_rate for p in figure.points] or [figure.chosen[1]]
    low, high = min(rates) / 1.5, max(rates) * 1.5
    frame = make_frame(width, height, ranks, math.log10(low), math.log10(high), inset=26)
    ticks = [(math.log10(t), wording.learning_rate(t)) for t in rate_ticks(low, high)]
    items = axes(frame, ranks, ticks, "learning rate")
    for point in figure.points:
        items += _map_mark(frame, point)
    rank, rate = figure.chosen
    if rank in ranks and low <= rate <= high:
        d = "M-16 0a16 16 0 1 0 32 0a16 16 0 1 0-32 0z"
        items.append(Shape(d, "ring", frame.x(rank), frame.value.at(math.log10(rate)), "the choice"))
    described = f"{len(figure.points)} combinations of rank and learning rate were trained; the table of runs has every number."
    return _draw(
        name, width, height, frame, items, "Gain lost for every rank and learning rate measured", described
    )


def _map_mark(frame: Frame, point: MapPoint) -> list[Shape | Label]:
    x, y = frame.x(point.rank), frame.value.at(math.log10(point.learning_rate))
    radius = 13 if point.full else 10
    if point.diverged:
        text, css = "×", "cell diverged"
    elif point.value is None:
        text, css = "", "cell"
    else:
        text, css = (
            wording.number(point.value, 1 if abs(point.value) < 9.95 else 0),
            f"cell level-{point.level}",
        )
    lost = "diverged" if point.diverged else f"{text} % of the gain lost" if text else "no gain to lose"
    runs = f"{wording.count(point.runs, 'run')} on {point.examples:,} rows"
    tip = f"r={point.rank}, lr {wording.learning_rate(point.learning_rate)}: {lost}, {runs}"
    circle = f"M{-radius} 0a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0z"
    marked = Shape(circle, css + (" guide" if point.guide else ""), x, y, tip)
    return [marked, Label(x, y + 4, text, f"{css} value" if point.full else f"{css} value small")]


def _draw(
    name: str, width: int, height: int, frame: Frame, items: list[Shape | Label], title: str, summary: str
) -> Markup:
    template = TEMPLATES.get_template("chart.svg.j2")
    shapes = [item for item in items if isinstance(item, Shape)]
    labels = [item for item in items if isinstance(item, Label)]
    return Markup(
        template.render(
            name=name,
            width=width,
            height=height,
            frame=frame,
            shapes=shapes,
            labels=labels,
            title=title,
            summary=summary,
        )
    )
