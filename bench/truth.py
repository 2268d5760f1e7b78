"""What a recorded surface says of every setting after training on all the data, on rows that no chooser saw.

Dimensions: U settings recorded at the whole size, E held-out examples, B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bench.replay import Runs
from rightrank.stats.seeds import alike, assumed_share

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from bench.tables import Surface

MARGIN_PERCENT = 1.0
REPLICATES = 400
LIKELY = 0.05
"""A rank belongs to the set of smallest equivalent ones if it is that in this share of the replicates."""


@dataclass(frozen=True)
class Truth:
    """Seed means on the rows that score."""

    surface: Surface
    rows_E: Int[np.ndarray, " E"]
    """Which held-out examples tell the truth."""

    @cached_property
    def settings(self) -> list[tuple[int, float]]:
        """Rank and axis of everything recorded on all the data with a finite loss."""
        s = self.surface
        finite_C = (s.examples_C == s.whole) & np.isfinite(s.loss_CE[:, self.rows_E]).all(1)
        return sorted({(int(s.rank_C[c]), round(float(s.axis_C[c]), 3)) for c in np.flatnonzero(finite_C)})

    @cached_property
    def loss_UE(self) -> Float[np.ndarray, "U E"]:
        """Nats summed per example, mean over the seeds of a setting."""
        s = self.surface
        found = []
        for rank, axis in self.settings:
            same_C = (s.examples_C == s.whole) & (s.rank_C == rank) & (np.abs(s.axis_C - axis) < 2e-3)
            found.append(s.loss_CE[same_C][:, self.rows_E].mean(0))
        return np.stack(found)

    @cached_property
    def _tokens(self) -> float:
        return float(self.surface.tokens_E[self.rows_E].sum())

    @cached_property
    def base(self) -> float:
        """Nats a token of the untrained model."""
        return float(self.surface.base_loss_E[self.rows_E].sum()) / self._tokens

    @cached_property
    def level_U(self) -> Float[np.ndarray, " U"]:
        """Nats a token."""
        return np.asarray(self.loss_UE.sum(1)) / self._tokens

    @cached_property
    def best(self) -> int:
        """The setting of the lowest loss."""
        return int(np.argmin(self.level_U))

    @property
    def gain(self) -> float:
        """Nats a token that the best setting gains over the untrained model."""
        return self.base - float(self.level_U[self.best])

    def regret_percent(self, rank: int, axis: float) -> float:
        """Percent of the gain that a setting gives away against the best recorded one; interpolated where it was not recorded."""
        for u, (r, x) in enumerate(self.settings):
            if r == rank and abs(x - axis) < 2e-3:
                return 100 * float(self.level_U[u] - self.level_U[self.best]) / self.gain
        loss = float(self._runs.run(rank, axis, self.surface.whole).loss_E[self.rows_E].sum()) / self._tokens
        return 100 * (loss - float(self.level_U[self.best])) / self.gain

    @cached_property
    def _runs(self) -> Runs:
        return Runs(self.surface)

    def standard_error_percent(self, rank: int, axis: float) -> float:
        """Of ``regret_percent``, by the rows alone (linearised, paired)."""
        loss_E = self._runs.run(rank, axis, self.surface.whole).loss_E[self.rows_E]
        difference_E = loss_E - self.loss_UE[self.best]
        tokens_E = self.surface.tokens_E[self.rows_E]
        residual_E = difference_E - tokens_E * (difference_E.sum() / self._tokens)
        return 100 * float(np.sqrt(np.sum(residual_E**2))) / self._tokens / self.gain

    @cached_property
    def best_by_rank(self) -> dict[int, float]:
        """Percent of the gain that each recorded rank loses at its own best learning rate."""
        found: dict[int, float] = {}
        for (rank, _), level in zip(self.settings, self.level_U, strict=True):
            lost = 100 * float(level - self.level_U[self.best]) / self.gain
            found[rank] = min(lost, found.get(rank, np.inf))
        return found

    def smallest_ranks(self, margin_percent: float = MARGIN_PERCENT, seed: int = 0) -> list[int]:
        """The smallest rank within the margin of the best: all that it may be, by resampled rows and seeds."""
        rng = np.random.default_rng(seed)
        ranks = np.array([rank for rank, _ in self.settings])
        tokens_E = self.surface.tokens_E[self.rows_E]
        count_BE = rng.multinomial(len(tokens_E), np.full(len(tokens_E), 1 / len(tokens_E)), REPLICATES)
        total_B = count_BE @ tokens_E
        level_BU = (count_BE @ self.loss_UE.T) / total_B[:, None]
        axis_U = np.array([axis for _, axis in self.settings])
        root_UU = np.linalg.cholesky(alike(ranks, axis_U, np.zeros(len(ranks))))
        luck_BU = rng.standard_normal(level_BU.shape) @ root_UU.T
        level_BU = level_BU + luck_BU * assumed_share(axis_U) * self.level_U
        base_B = (count_BE @ self.surface.base_loss_E[self.rows_E]) / total_B
        best_B = level_BU.min(1)
        allowed_B = best_B + margin_percent / 100 * (base_B - best_B)
        smallest_B = np.array(
            [ranks[level_U <= allowed].min() for level_U, allowed in zip(level_BU, allowed_B, strict=True)]
        )
        return [int(r) for r in np.unique(smallest_B) if np.mean(smallest_B == r) >= LIKELY]
