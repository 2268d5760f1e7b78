"""How much of a run's loss is luck: the seed of its initial matrices and of its order of examples.

Runs of one seed share their luck: they start from nested matrices and see the same batches in the same order. It is the more alike the
nearer their ranks and learning rates lie, so that differences between settings are far surer than the loss of any of them. Whether that
holds here too is a matter of the replicated runs: it is one of two hypotheses (H), the other being that every run's luck is its own.

Dimensions: C runs on one number of training examples, U settings of theirs, F values on a grid, B replicates, M waves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.linalg import eigh, null_space

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Bool, Float, Int

# Standard deviation between seeds as a share of the loss, at an (equivalent) learning rate of 1e-3, and the power of the learning rate
# with which it grows. Measured on recorded surfaces (SmolLM2-135M, ``python -m bench.luck``): 0.19 to 0.23 % on all rows of three data
# sets, power 0.4; on 400 rows 0.3 to 2.2 %.
ASSUMED_SHARE, ASSUMED_POWER, REFERENCE_RATE = 0.002, 0.4, 1e-3
LOWEST_RATE, HIGHEST_RATE = 1e-4, 3e-2  # beyond what was measured nothing is known
# How many degrees of freedom the assumption is worth. Assumed: its 95 % range is 0.6 to 2.9 times the figures above.
ASSUMED_FREEDOM = 4.0
# With fewer degrees of freedom from replicated runs the result is still called assumed. Chosen.
FREEDOM_TO_CALL_MEASURED = 3
# Shares of the variance that all runs of a seed have in common, and that nearby ones have; the rest is each run's own. How far "nearby"
# reaches: doublings of the rank, decades of the learning rate. Measured likewise.
COMMON, NEARBY = 0.45, 0.35
RANK_REACH, RATE_REACH = 5.0, 0.45
# Probability of the first before any replicate was seen, where noise is small, and the factor of noise at which it has halved: the more
# noise, the more of it is each run's own. Assumed from seven sizes of four data sets: shared at factors of 1 to 1.4, half at 3.5, not at
# 12; and not on tiny random models, where luck is a fifth of the loss.
SHARED, SHARED_UNTIL, SHARED_POWER = 0.9, 4.0, 3.0
# Noise measured on fewer examples is taken for less on more: its share of the loss falls as this power of them. Measured: 0.2 to 1.1.
FALLS_WITH_ROWS = 0.3

_FACTOR_F = np.logspace(-1.5, 1.5, 181)
_WAVES = 8


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviation of a run's loss between seeds, as a multiple of what is assumed for its learning rate."""

    factor: float
    """Posterior median."""
    degrees_of_freedom: int
    """Of the replicated runs behind it."""
    source: Literal["measured", "assumed"]
    weight_HF: Float[np.ndarray, "H F"]
    """Posterior probability of each factor of the grid, where luck is shared and where it is not."""

    @property
    def shared(self) -> float:
        """Posterior probability that runs of a seed share their luck."""
        return float(self.weight_HF[0].sum())

    def draw(
        self, rng: np.random.Generator, replicates: int
    ) -> tuple[Float[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
        """A factor a replicate, and whether luck is shared there, so that intervals know how little is known about the noise."""
        drawn_B = rng.choice(self.weight_HF.size, size=replicates, p=self.weight_HF.ravel())
        return _FACTOR_F[drawn_B % len(_FACTOR_F)], drawn_B < len(_FACTOR_F)

    def percent(self, learning_rate: float) -> float:
        """Standard deviation between seeds in percent of the loss at an (equivalent) learning rate."""
        return 100 * self.factor * float(assumed_share(np.array([np.log10(learning_rate)]))[0])


@dataclass(frozen=True)
class Replicated:
    """Runs on one number of training examples, some settings of which have several seeds."""

    loss_C: Float[np.ndarray, " C"]
    """Nats a token."""
    setting_C: Int[np.ndarray, " C"]
    expected_C: Float[np.ndarray, " C"]
    """Standard deviation between seeds that is assumed, nats a token."""
    example_variance_C: Float[np.ndarray, " C"]
    """Variance that the finite held-out set alone causes: seeds differ example by example, and that is no noise of the loss."""
    alike_CC: Float[np.ndarray, "C C"]
    """Correlation of their luck."""

    @property
    def freedom(self) -> int:
        """Runs less settings."""
        return len(self.setting_C) - len(np.unique(self.setting_C))


def assumed_share(axis_C: Float[np.ndarray, " C"]) -> Float[np.ndarray, " C"]:
    """Standard deviation between seeds, as a share of the loss, assumed before any replicate was seen. ``axis_C``: log10 learning rates."""
    bounded_C = np.clip(axis_C, np.log10(LOWEST_RATE), np.log10(HIGHEST_RATE))
    return np.asarray(ASSUMED_SHARE * 10 ** (ASSUMED_POWER * (bounded_C - np.log10(REFERENCE_RATE))))


def alike(
    rank_C: Int[np.ndarray, " C"], axis_C: Float[np.ndarray, " C"], seed_C: Int[np.ndarray, " C"]
) -> Float[np.ndarray, "C C"]:
    """Correlation of the luck of runs on the same training examples: none between seeds."""
    doublings_C = np.log2(rank_C)
    apart_CC = ((doublings_C[:, None] - doublings_C) / RANK_REACH) ** 2
    apart_CC = apart_CC + ((np.asarray(axis_C)[:, None] - axis_C) / RATE_REACH) ** 2
    shared_CC = COMMON + NEARBY * np.exp(-apart_CC / 2)
    same_CC = np.equal.outer(np.asarray(seed_C), np.asarray(seed_C))
    own_CC = (1 - COMMON - NEARBY) * np.eye(len(same_CC))
    return np.asarray(same_CC * shared_CC + own_CC)


class Luck:
    """Draws of the luck of one seed's runs, of variance 1: every setting has numbers of its own, whatever others are asked for."""

    def __init__(self, key: list[int], replicates: int) -> None:
        """``key``: identifies the seed and the training examples."""
        rng = np.random.default_rng(key)
        self._key, self._replicates = key, replicates
        self._common_B = rng.standard_normal(replicates)
        # A sum of waves of random length and direction: a smooth random function with the correlation of ``alike``.
        self._wave_BM2 = rng.standard_normal((replicates, _WAVES, 2)) / [RANK_REACH, RATE_REACH]
        self._phase_BM = rng.uniform(0, 2 * np.pi, (replicates, _WAVES))

    def of(
        self, rank: int, alpha: float, axis: float, shared_B: Bool[np.ndarray, " B"]
    ) -> Float[np.ndarray, " B"]:
        """Of one setting; ``axis``: log10 of its equivalent learning rate. Where not ``shared_B``, its own alone."""
        own = [*self._key, rank, round(alpha * 1e6), round((axis + 20) * 1e6)]
        own_B = np.random.default_rng(own).standard_normal(self._replicates)
        waves_BM = np.cos(self._wave_BM2 @ [np.log2(rank), axis] + self._phase_BM)
        near_B = np.sqrt(2 / _WAVES) * waves_BM.sum(1)
        parts = ((COMMON, self._common_B), (NEARBY, near_B), (1 - COMMON - NEARBY, own_B))
        return np.where(shared_B, sum(np.sqrt(share) * part_B for share, part_B in parts), own_B)


def setting_weights(
    setting_C: Int[np.ndarray, " C"],
    spread_C: Float[np.ndarray, " C"],
    alike_CC: Float[np.ndarray, "C C"],
    shared: float = 1.0,
) -> Float[np.ndarray, "U C"]:
    """How runs are averaged into settings, in ascending order: best linear unbiased, by the covariance of their luck.

    Where every setting has one seed, the same one, each run stands for itself. Where one has several, they also tell how lucky the
    seed is that the others share, and that is taken off: as far as it is likely (``shared``) that luck is shared at all.
    """
    settings_U = np.unique(setting_C)
    belongs_CU = (setting_C[:, None] == settings_U).astype(float)
    if len(settings_U) == len(setting_C):
        return np.asarray(belongs_CU.T, dtype=float)
    inverse_CC = np.linalg.inv(np.outer(spread_C, spread_C) * alike_CC)
    best_UC = np.linalg.solve(belongs_CU.T @ inverse_CC @ belongs_CU, belongs_CU.T @ inverse_CC)
    mean_UC = belongs_CU.T / belongs_CU.sum(0)[:, None]
    return np.asarray(shared * best_UC + (1 - shared) * mean_UC)


def estimate_seed_noise(groups: Iterable[Replicated]) -> SeedNoise:
    """Pool replicated runs with the assumption into one factor.

    Bayes on a grid, under both hypotheses: prior scaled inverse chi-square around 1 with ASSUMED_FREEDOM; likelihood of what is left of
    the losses once every setting's own level is taken off (restricted maximum likelihood), normal with covariance factor² x expected²,
    correlated as ``alike`` says, and the examples' own, which is each run's alone.
    """
    prior_F = -ASSUMED_FREEDOM * (np.log(_FACTOR_F) + 1 / (2 * _FACTOR_F**2))
    shared_F = SHARED / (1 + (_FACTOR_F / SHARED_UNTIL) ** SHARED_POWER)
    log_HF = np.log([shared_F, 1 - shared_F]) + prior_F
    freedom = 0
    for group in groups:
        if group.freedom == 0:
            continue
        freedom += group.freedom
        for h, alike_CC in enumerate((group.alike_CC, np.eye(len(group.loss_C)))):
            log_HF[h] += _log_likelihood_F(group, alike_CC)
    weight_HF = np.exp(log_HF - log_HF.max())
    weight_HF /= weight_HF.sum()
    median = float(_FACTOR_F[int(np.searchsorted(np.cumsum(weight_HF.sum(0)), 0.5))])
    source: Literal["measured", "assumed"] = "measured" if freedom >= FREEDOM_TO_CALL_MEASURED else "assumed"
    return SeedNoise(median, freedom, source, weight_HF)


def _log_likelihood_F(group: Replicated, alike_CC: Float[np.ndarray, "C C"]) -> Float[np.ndarray, " F"]:
    settings_U = np.unique(group.setting_C)
    contrast_CQ = null_space((group.setting_C[:, None] == settings_U).astype(float).T)
    seeds_CC = np.outer(group.expected_C, group.expected_C) * alike_CC
    seeds_QQ = contrast_CQ.T @ seeds_CC @ contrast_CQ
    examples_QQ = contrast_CQ.T @ np.diag(group.example_variance_C) @ contrast_CQ
    # In the axes in which both covariances are diagonal.
    extra_Q, axes_QQ = eigh(examples_QQ, seeds_QQ)
    square_Q = (axes_QQ.T @ contrast_CQ.T @ group.loss_C) ** 2
    variance_FQ = _FACTOR_F[:, None] ** 2 + np.maximum(extra_Q, 0.0)
    volume = np.linalg.slogdet(seeds_QQ)[1]
    found_F: Float[np.ndarray, " F"] = -0.5 * (
        volume + np.sum(np.log(variance_FQ) + square_Q / variance_FQ, axis=1)
    )
    return found_F


def example_variance(loss_SE: Float[np.ndarray, "S E"], tokens_E: Float[np.ndarray, " E"]) -> float:
    """Variance that the examples alone cause in the loss (nats a token) of one of S seeds of a setting.

    The linearised variance of the ratio estimator, from what is left of each example after the runs' and its own mean.
    """
    seeds, examples = loss_SE.shape
    total = float(tokens_E.sum())
    loss_S = loss_SE.sum(axis=1) / total
    residual_SE = loss_SE - loss_S[:, None] * tokens_E
    residual_SE = residual_SE - residual_SE.mean(axis=0)
    variance: float = np.sum(residual_SE**2) / total**2 * examples / max(examples - 1, 1) / (seeds - 1)
    return variance
