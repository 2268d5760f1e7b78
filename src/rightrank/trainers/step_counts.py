"""Steps, which some trainers count in, against epochs and shares of a run, which is what a recipe holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rightrank.errors import UserError
from rightrank.trainers.settings import is_here

if TYPE_CHECKING:
    from rightrank.recommendation import Recommendation


def exported_rows(recommendation: Recommendation) -> int:
    """Rows that a trainer finds in the rows written for it: all of the data set that can be trained on, held out here or not."""
    data = recommendation.data
    if data.held_out_from == "--eval-data":
        return max(1, data.train)
    return max(1, data.rows - data.dropped)


def steps_of(recommendation: Recommendation) -> int:
    """Optimiser steps of the recommended recipe on all rows."""
    return recommendation.recipe.given(epochs=recommendation.choice.epochs).steps(
        exported_rows(recommendation)
    )


def warmup_steps_of(recommendation: Recommendation) -> int:
    """Steps of them over which the learning rate rises, rounded up as transformers does."""
    return math.ceil(recommendation.recipe.warmup_ratio * steps_of(recommendation))


def rows_in(source: str | None, split: str | None = None) -> int | None:
    """Rows of a data set on this machine; None where ``source`` is none, or cannot be read."""
    from rightrank.data.reading import stream_rows

    try:
        if source is None or not is_here(source):
            return None
        _, located = stream_rows(source, split=split)
        return sum(1 for _ in located) or None
    except (UserError, OSError, ValueError):
        return None


def epochs_of(steps: int, rows: int, batch_size: int) -> float:
    """Passes over ``rows`` that ``steps`` steps of ``batch_size`` rows are."""
    return steps / math.ceil(rows / batch_size)


def share_of(warmup_steps: int, steps: int) -> float:
    """The ``warmup_ratio`` whose ``ceil(ratio * steps)`` is ``warmup_steps``; at most 99 % of the run."""
    if not 0 < warmup_steps < steps:
        return 0.0 if warmup_steps <= 0 else 0.99
    ratio = warmup_steps / steps
    return ratio if math.ceil(ratio * steps) == warmup_steps else (warmup_steps - 0.5) / steps
