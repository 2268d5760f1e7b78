"""What the figures of rank and of rank × learning rate show, as data. ``charts.py`` draws them; tests assert on this."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from rightrank import recommendation_html as wording
from rightrank.recipe import equivalent_learning_rate
from rightrank.report.choices import is_chosen

if TYPE_CHECKING:
    from rightrank.recommendation import MeasuredPoint, Option, Recommendation

Measure = Literal["gain lost", "loss"]

# A rank that loses more than CURVE_MARGINS margins is an arrow at the frame with its number, and so is another choice that loses more
# than OTHER_MARGINS and than the ranks: one awful choice would flatten the differences that matter. Chosen by eye.
CURVE_MARGINS = 30
OTHER_MARGINS = 10


@dataclass(frozen=True)
class CurvePoint:
    """A choice in the rank figure: a value with its 95 % interval, in the figure's measure."""

    label: str
    kind: Literal["tuned", "guide", "yours"]
    rank: int
    learning_rate: float
    value: float
    low: float
    high: float
    """``low`` = ``high`` = ``value`` where there is no interval."""
    measured: bool
    """False: extrapolated from smaller runs, drawn hollow."""
    chosen: bool


@dataclass(frozen=True)
class GuideLine:
    """The popular defaults that share a learning rate."""

    learning_rate: float
    points: tuple[CurvePoint, ...]
    """By rank."""


@dataclass(frozen=True)
class RankFigure:
    """What each rank costs at its best learning rate, with the popular defaults and the user's own config beside it."""

    measure: Measure
    tuned: tuple[CurvePoint, ...]
    """By rank."""
    yours: tuple[CurvePoint, ...]
    """The user's own config, where there is one."""
    guides: tuple[GuideLine, ...]
    """By learning rate."""
    band: tuple[float, float] | None
    """Between these a choice counts as good as the best; None where there is no gain to take a margin of."""
    base: float | None
    """The untrained model's value, where it is of interest: training gains nothing over it."""
    view: tuple[float, float]
    """Lowest and highest value shown; what lies beyond is an arrow at the frame."""


@dataclass(frozen=True)
class MapPoint:
    """All runs of one rank and learning rate on the most rows either was trained on, averaged over seeds."""

    rank: int
    learning_rate: float
    """At the alpha that belongs to the rank; configs with another alpha are placed where their first steps are the same size."""
    value: float | None
    """Percent of the gain lost; None: diverged, or not a number because nothing is gained."""
    diverged: bool
    runs: int
    examples: int
    full: bool
    """Trained on as many rows as the largest runs of all."""
    level: int | None
    """0: within the margin, 1: within 3 margins, 2: within 10, 3: beyond. None where there is no value."""
    guide: bool
    """Only a popular default or the user's own config asked for this run."""


@dataclass(frozen=True)
class MapFigure:
    """Every rank and learning rate measured, and how much of the gain each loses."""

    points: tuple[MapPoint, ...]
    """By rank, then learning rate."""
    levels: tuple[str, ...]
    """What each level means, for the legend."""
    chosen: tuple[int, float]
    """Rank and learning rate of the answer, on the figure's scale."""


def rank_figure(recommendation: Recommendation) -> RankFigure:
    """Gain lost against rank; held-out loss where training gains nothing, since there is no gain to lose then."""
    margin = recommendation.margin if recommendation.gains else None
    measure: Measure = "loss" if margin is None else "gain lost"
    points = [_curve_point(recommendation, option, measure) for option, _ in wording.distinct(recommendation)]
    tuned, yours, guides = (
        tuple(sorted((p for p in points if p.kind == kind), key=lambda p: (p.learning_rate, p.rank)))
        for kind in ("tuned", "yours", "guide")
    )
    tuned = tuple(sorted(tuned, key=lambda p: p.rank))
    lines = tuple(
        GuideLine(rate, tuple(same)) for rate, same in groupby(guides, key=lambda p: p.learning_rate)
    )
    if margin is None:
        best, base, band = recommendation.best_loss.value, recommendation.base_loss.value, None
        # No margin to go by: intervals and the distance to the base say what a visible difference is.
        unit = max([abs(base - best), *(p.high - p.low for p in tuned)]) / OTHER_MARGINS
    else:
        best, base, unit = 0.0, None, margin.as_percent_of_gain
        band = (-unit, unit)
    values = [best, *(band or ()), *(() if base is None else (base,))]
    view = _view(tuned, (*yours, *guides), best, unit, values)
    return RankFigure(measure, tuned, yours, lines, band, base, view)


def _curve_point(recommendation: Recommendation, option: Option, measure: Measure) -> CurvePoint:
    figure = option.loss if measure == "loss" or option.gain_lost is None else option.gain_lost
    bounded = figure.low is not None and figure.high is not None
    return CurvePoint(
        label=wording.clean(option.label),
        kind=option.kind,
        rank=option.rank,
        learning_rate=option.learning_rate,
        value=figure.value,
        low=figure.low if bounded and figure.low is not None else figure.value,
        high=figure.high if bounded and figure.high is not None else figure.value,
        measured=figure.source == "measured",
        chosen=is_chosen(recommendation, option),
    )


def _view(
    tuned: tuple[CurvePoint, ...],
    others: tuple[CurvePoint, ...],
    best: float,
    unit: float,
    values: list[float],
) -> tuple[float, float]:
    """Lowest and highest value to show, where ``unit`` is a margin; ``values`` are inside in any case."""
    curve = [p for p in tuned if abs(p.value - best) <= CURVE_MARGINS * unit]
    reach = max([best + OTHER_MARGINS * unit, *(p.value for p in curve)])
    shown = [*curve, *(p for p in others if p.value <= reach)]
    # An interval may be as wide as it likes: what reaches far below the best or beyond the worst is cut at the frame.
    lows = [max(p.low, best - OTHER_MARGINS * unit) for p in shown]
    highs = [min(p.high, reach + OTHER_MARGINS * unit) for p in shown]
    bottom, top = min(*values, *lows, *highs), max(*values, *lows, *highs)
    air = 0.08 * (top - bottom) or 1.0
    return bottom - air, top + air


def map_figure(recommendation: Recommendation) -> MapFigure:
    """Rank × learning rate, each point at the gain lost against the best run on as many rows."""
    margin = 1.0 if recommendation.margin is None else recommendation.margin.as_percent_of_gain
    bounds = (margin, 3 * margin, OTHER_MARGINS * margin)
    largest = max((point.examples for point in recommendation.points), default=0)
    placed = sorted(recommendation.points, key=_place)
    points = tuple(_map_point(list(group), largest, bounds) for _, group in groupby(placed, key=_place))
    limits = [wording.percent(bound) for bound in bounds]
    levels = (
        f"within {limits[0]} (the margin)",
        f"within {limits[1]}",
        f"within {limits[2]}",
        f"above {limits[2]}",
    )
    choice = recommendation.choice
    rate = equivalent_learning_rate(choice.rank, choice.alpha, choice.learning_rate)
    return MapFigure(points, levels, (choice.rank, rate))


def _place(point: MeasuredPoint) -> tuple[int, float]:
    """Rank and learning rate at the rank's own alpha, to three digits: closer points are one point on any screen."""
    rate = equivalent_learning_rate(point.rank, point.alpha, point.learning_rate)
    return point.rank, float(f"{rate:.2e}")


def _map_point(runs: list[MeasuredPoint], largest: int, bounds: tuple[float, ...]) -> MapPoint:
    examples = max(run.examples for run in runs)
    runs = [run for run in runs if run.examples == examples]
    lost = [run.gain_lost.value for run in runs if run.gain_lost is not None]
    value = math.fsum(lost) / len(lost) if lost else None
    rank, rate = _place(runs[0])
    return MapPoint(
        rank=rank,
        learning_rate=rate,
        value=value,
        diverged=any(run.loss is None for run in runs),
        runs=len(runs),
        examples=examples,
        full=examples == largest,
        level=None if value is None else sum(value > bound for bound in bounds),
        guide=all(run.role in ("guide", "yours") for run in runs),
    )
