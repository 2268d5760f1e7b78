"""Tables of losses written out by hand, for functions whose results a reader can check.

Dimensions: U settings, B replicates, V sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rightrank.recipe import alpha_for
from rightrank.stats.paired import Sampled
from rightrank.stats.rungs import Measured, Rung, Setting
from rightrank.stats.seeds import estimate_seed_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLICATES = 201
EVEN_B = np.linspace(-1.0, 1.0, REPLICATES)
"""Errors of which 2.5 % lie below -0.95."""
RUN_NOT, DIVERGED = np.nan, np.inf


def exact(values: Sequence[float]) -> Sampled:
    """Without errors."""
    return noisy(values, {}, {})


def noisy(
    values: Sequence[float],
    example: dict[int, np.ndarray],
    seed: dict[int, np.ndarray],
    replicates: int = REPLICATES,
) -> Sampled:
    """With errors of rows and of seeds for some of the things."""
    value_U = np.array(values, dtype=float)
    example_BU, seed_BU = np.zeros((2, replicates, len(value_U)))
    for part_BU, errors in ((example_BU, example), (seed_BU, seed)):
        for u, error_B in errors.items():
            part_BU[:, u] = error_B
    return Sampled(np.where(np.isfinite(value_U), value_U, np.nan), example_BU, seed_BU)


def tabled(
    settings: Sequence[tuple[int, float]],
    rungs: dict[int, Sequence[float] | Sampled],
    base: float = 3.0,
    valley: object = None,
) -> Measured:
    """``settings``: rank and log10 learning rate, ascending; ``rungs``: losses by number of examples, the same for choosing and judging."""
    made = tuple(Setting(rank, float(alpha_for(rank)), 10**axis) for rank, axis in settings)
    found = []
    for examples, losses in rungs.items():
        table = losses if isinstance(losses, Sampled) else exact(losses)
        diverged_U = np.zeros(len(made), bool) if isinstance(losses, Sampled) else np.isinf(np.array(losses))
        found.append(
            Rung(examples, table, table, False, exact([base, base]), np.arange(2), diverged_U, wrong=None)
        )
    data = Measured(
        None,  # type: ignore[arg-type]
        made,
        np.arange(len(made)),
        tuple(found),
        estimate_seed_noise([]),
        np.zeros((REPLICATES, len(made))),
    )
    if valley is not None:
        data.__dict__["valley"] = valley  # instead of a fit
    return data


@dataclass(frozen=True)
class FlatShape:
    """A valley that loses what it is told to."""

    lost_U: np.ndarray
    lost_BU: np.ndarray

    def lost(self, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        """On any number of rows."""
        return self.lost_U, self.lost_BU
