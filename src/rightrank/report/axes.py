"""The parts a chart is drawn from, its two axes and their ticks. Pixels, y downwards, as in SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """An outline, drawn relative to (x, y); ``tip`` shows on hovering."""

    d: str
    css: str
    x: float = 0.0
    y: float = 0.0
    tip: str = ""
    clipped: bool = False


@dataclass(frozen=True)
class Label:
    """A text at (x, y); ``anchor`` is SVG's text-anchor."""

    x: float
    y: float
    text: str
    css: str = "tick"
    anchor: str = "middle"


@dataclass(frozen=True)
class Scale:
    """Linear map from numbers to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Pixels where ``value`` lies; the middle where the scale has no extent."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True)
class Frame:
    """The area inside the axes, with a rank axis (logarithmic) below and a value axis on the left."""

    left: float
    top: float
    right: float
    bottom: float
    rank: Scale
    value: Scale

    def x(self, rank: int) -> float:
        """Pixels from the left edge of a rank."""
        return self.rank.at(math.log2(rank))


def make_frame(width: int, height: int, ranks: list[int], low: float, high: float, inset: float) -> Frame:
    """A frame for ``width`` × ``height`` pixels, these ranks and values from ``low`` to ``high``, the last rank ``inset`` px inside."""
    left, top, right, bottom = 46.0, 30.0, width - 8.0, height - 40.0
    logs = [math.log2(rank) for rank in ranks] or [0.0]
    # Labels of other choices stand to the right of their marks: ``inset`` leaves them room at the last rank.
    rank = Scale(min(logs), max(logs), left + 26, right - inset)
    return Frame(left, top, right, bottom, rank, Scale(low, high, bottom, top))


def axes(frame: Frame, ranks: list[int], ticks: list[tuple[float, str]], title: str) -> list[Shape | Label]:
    """Grid lines with their ``ticks`` (value, text), the ranks below, and the value axis' ``title``."""
    items: list[Shape | Label] = [Label(frame.left - 38, 14, title, "axis-title", "start")]
    for value, text in ticks:
        y = frame.value.at(value)
        items += [
            Shape(f"M{frame.left} {y}H{frame.right}", "grid"),
            Label(frame.left - 7, y + 4, text, "tick", "end"),
        ]
    last = -math.inf
    for rank in sorted(set(ranks)):
        x = frame.x(rank)
        items.append(Shape(f"M{x} {frame.bottom}v4", "grid"))
        if x - last >= 22:  # narrower and two three-digit ranks touch
            items.append(Label(x, frame.bottom + 18, str(rank)))
            last = x
    items.append(Label((frame.left + frame.right) / 2, frame.bottom + 35, "rank", "axis-title"))
    return items


def linear_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Round numbers from ``low`` to ``high``, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def rate_ticks(low: float, high: float) -> list[float]:
    """Learning rates from ``low`` to ``high``: 1, 2 and 5 times the powers of ten."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [t for p in powers for m in (1, 2, 5) if low <= (t := float(f"{m}e{p}")) <= high]
