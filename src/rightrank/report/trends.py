"""What the figures of data size and of epochs show, as data. ``charts.py`` draws them; tests assert on this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rightrank.recommendation import Check, MeasuredPoint, Recommendation


@dataclass(frozen=True)
class SizePoint:
    """The best run on ``examples`` training rows."""

    examples: int
    loss: float
    """Held-out nats a token."""
    rank: int
    learning_rate: float


@dataclass(frozen=True)
class SizeFigure:
    """How the best run moves with the amount of data."""

    points: tuple[SizePoint, ...]
    """By size, two at least; none where everything was measured on the same rows."""
    base: float
    """The untrained model's held-out loss, nats a token."""


@dataclass(frozen=True)
class EpochPoint:
    """A look at a run while it trained."""

    epoch: float
    held_out: float
    """Nats a token."""
    training: float | None
    """Nats a token on the rows trained since the look before; None where that is not known."""
    surely_better: bool = False
    """Whether the held-out loss was below the end's, certain at 95 %."""


@dataclass(frozen=True)
class EpochFigure:
    """Held-out and training loss of one run by epoch, on one and the same schedule."""

    rank: int
    learning_rate: float
    examples: int
    points: tuple[EpochPoint, ...]
    """In order, two at least; none where no run was looked at before its end."""

    @property
    def best(self) -> EpochPoint | None:
        """The look with the lowest held-out loss."""
        return min(self.points, key=lambda point: point.held_out, default=None)


def size_figure(recommendation: Recommendation) -> SizeFigure:
    """The best finished run on each number of rows, seeds apart."""
    sizes = sorted({point.examples for point in recommendation.points})
    best = []
    for size in sizes:
        runs = [p for p in recommendation.points if p.examples == size and p.loss is not None]
        if runs:
            run = min(runs, key=_loss)
            best.append(SizePoint(size, _loss(run), run.rank, run.learning_rate))
    return SizeFigure(tuple(best) if len(best) > 1 else (), recommendation.base_loss.value)


def epoch_figure(recommendation: Recommendation) -> EpochFigure | None:
    """The run of the chosen configuration on the most rows, the first seed; None where no run was looked at on its way."""
    choice = recommendation.choice
    runs = [
        point
        for point in recommendation.points
        if (point.rank, point.learning_rate) == (choice.rank, choice.learning_rate) and point.checks
    ]
    if not runs:
        return None
    run = min(runs, key=lambda point: (-point.examples, point.seed))
    looks = tuple(
        EpochPoint(check.epoch, check.loss, check.train_loss, _below(check)) for check in run.checks
    )
    return EpochFigure(run.rank, run.learning_rate, run.examples, looks) if len(looks) > 1 else None


def _below(check: Check) -> bool:
    above = check.above_end
    return above is not None and above.high is not None and above.high < 0


def _loss(point: MeasuredPoint) -> float:
    assert point.loss is not None
    return point.loss
