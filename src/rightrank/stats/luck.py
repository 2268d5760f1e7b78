"""The luck of finished runs: what their replicates say of it, and how several seeds of a setting are averaged.

Dimensions: C finished runs (c: some of them, on one number of training examples), U settings (u: theirs), E held-out examples,
B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rightrank.stats.seeds import (
    FALLS_WITH_ROWS,
    Luck,
    Replicated,
    SeedNoise,
    alike,
    assumed_share,
    estimate_seed_noise,
    example_variance,
    setting_weights,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float, Int

    from rightrank.stats.evidence import Evidence
    from rightrank.stats.rungs import Setting

# Seed noise is proportional to the loss, but to no less than this share of the base loss (or of all tokens). Assumed from the one
# measured data set with a final loss near zero (banking77), where runs differ by far more than 0.2 % of it.
FLOOR_SHARE = 0.15


@dataclass(frozen=True)
class AveragedLuck:
    """Luck of the settings u on one number of training examples, and how their runs are averaged."""

    settings_u: Int[np.ndarray, " u"]
    mean_uc: Float[np.ndarray, "u c"]
    """Best linear unbiased, for losses."""
    plain_uc: Float[np.ndarray, "u c"]
    """Plain means, for shares of wrong tokens."""
    share_Bu: Float[np.ndarray, "B u"]
    """Relative deviations; the same draw moves the loss and the share of wrong tokens (assumed)."""


@dataclass(frozen=True)
class LuckOfRuns:
    """All finished runs, as far as luck is concerned."""

    data: Evidence
    settings: Sequence[Setting]
    setting_C: Int[np.ndarray, " C"]
    seed: int
    """Of the draws."""

    def replicated(self, run_c: Int[np.ndarray, " c"], example_e: Int[np.ndarray, " e"]) -> Replicated | None:
        """Those runs whose setting has several finite seeds, on some examples; None where none has, or with too few examples."""
        if len(example_e) < 2:
            return None
        data = self.data
        tokens_e = data.tokens_E[example_e].astype(float)
        run_c = run_c[np.all(np.isfinite(data.loss_CE[np.ix_(run_c, example_e)]), axis=1)]
        several = [u for u in np.unique(self.setting_C[run_c]) if np.sum(self.setting_C[run_c] == u) > 1]
        run_c = run_c[np.isin(self.setting_C[run_c], several)]
        if len(run_c) == 0:
            return None
        loss_ce, own_c = data.loss_CE[np.ix_(run_c, example_e)], self.setting_C[run_c]
        level_c = loss_ce.sum(axis=1) / tokens_e.sum()
        variance = {u: example_variance(loss_ce[own_c == u], tokens_e) for u in several}
        expected_c = np.maximum(self._share(run_c) * self._level(run_c, example_e), 1e-12)
        return Replicated(
            level_c, own_c, expected_c, np.array([variance[u] for u in own_c]), self._alike(run_c)
        )

    def averaged(
        self, examples: int, run_c: Int[np.ndarray, " c"], noise: SeedNoise, replicates: int
    ) -> AveragedLuck:
        """Draws of the luck of runs on ``examples`` training examples, averaged as the runs are."""
        decide_e = np.flatnonzero(~self.data.scores_E & ~np.isnan(self.data.loss_CE[run_c]).any(0))
        owner_c, level_c = self.setting_C[run_c], self._level(run_c, decide_e)
        spread_c = self._share(run_c) * level_c
        mean_uc = setting_weights(owner_c, spread_c, self._alike(run_c), noise.shared)
        plain_uc = setting_weights(owner_c, spread_c, self._alike(run_c), 0.0)
        factor_B, shared_B = noise.draw(np.random.default_rng([self.seed, 2]), replicates)
        seeds = {
            int(s): Luck([self.seed, 3, examples, int(s)], replicates)
            for s in np.unique(self.data.seed_C[run_c])
        }
        draw_Bc = np.stack(
            [
                seeds[int(self.data.seed_C[c])].of(one.rank, one.alpha, one.axis, shared_B)
                for c, one in ((c, self.settings[self.setting_C[c]]) for c in run_c)
            ],
            axis=1,
        )
        # In nats, since a setting's luck may be taken off another's loss; then against the setting's own level.
        nats_Bu = factor_B[:, None] * (draw_Bc * spread_c) @ mean_uc.T
        return AveragedLuck(np.unique(owner_c), mean_uc, plain_uc, nats_Bu / (plain_uc @ level_c))

    def _level(
        self, run_c: Int[np.ndarray, " c"], example_e: Int[np.ndarray, " e"]
    ) -> Float[np.ndarray, " c"]:
        """Nats a token of each run's setting on some examples, and no less than what noise is proportional to at least."""
        data = self.data
        tokens = max(float(data.tokens_E[example_e].sum()), 1.0)
        floor = FLOOR_SHARE * float(data.base_loss_E[example_e].sum()) / tokens
        loss_c = data.loss_CE[np.ix_(run_c, example_e)].sum(1) / tokens
        owner_c = self.setting_C[run_c]
        mean_c = np.array([float(loss_c[owner_c == u].mean()) for u in owner_c])
        level_c: Float[np.ndarray, " c"] = np.maximum(mean_c, max(floor, 1e-12))
        return level_c

    def _axis(self, run_c: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
        """log10 equivalent learning rate."""
        return np.array([self.settings[u].axis for u in self.setting_C[run_c]])

    def _share(self, run_c: Int[np.ndarray, " c"]) -> Float[np.ndarray, " c"]:
        return assumed_share(self._axis(run_c))

    def _alike(self, run_c: Int[np.ndarray, " c"]) -> Float[np.ndarray, "c c"]:
        return alike(self.data.rank_C[run_c], self._axis(run_c), self.data.seed_C[run_c])


def noise_at(examples: int, replicated: Mapping[int, Replicated]) -> SeedNoise:
    """By replicated runs on so many training examples; where there are none, by those on others."""
    if examples in replicated:
        return estimate_seed_noise([replicated[examples]])
    return estimate_seed_noise(
        replace(one, expected_C=one.expected_C * (examples / n) ** FALLS_WITH_ROWS)
        for n, one in replicated.items()
    )
