"""How much of a run's loss is luck: the seed of its initial matrices and of its order of examples.

Dimensions: P replicated settings (one setting, one size of the training set, several seeds), F values on a grid, B replicates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Standard deviation between seeds as a share of the loss, below and above a learning rate (equivalent, at ``recipe.alpha_for``).
# Assumed from measured roughness across ranks (SmolLM2-135M, five data sets): 0.02-0.2 % at 1e-3 and below, 0.2-0.7 % at 3e-3.
ASSUMED_LOW, ASSUMED_HIGH = 0.002, 0.005
HIGH_FROM = 1.7e-3  # halfway (in log) between the learning rates that were measured
# How many degrees of freedom the assumption is worth. Assumed: its 95 % range is 0.6 to 2.9 times the figures above.
ASSUMED_FREEDOM = 4.0
# With fewer degrees of freedom from replicated runs the result is still called assumed. Chosen.
FREEDOM_TO_CALL_MEASURED = 3

_FACTOR_F = np.logspace(-1.5, 1.5, 181)


@dataclass(frozen=True)
class SeedNoise:
    """Standard deviation of a run's loss between seeds, as a multiple of what is assumed for its learning rate."""

    factor: float
    """Posterior median."""
    degrees_of_freedom: int
    """Of the replicated runs behind it."""
    source: Literal["measured", "assumed"]
    weight_F: Float[np.ndarray, " F"]
    """Posterior probability of each factor of the grid."""

    def draw_factors(self, rng: np.random.Generator, replicates: int) -> Float[np.ndarray, " B"]:
        """One factor a replicate, so that intervals know how little is known about the noise."""
        return rng.choice(_FACTOR_F, size=replicates, p=self.weight_F)

    def percent(self, learning_rate: float) -> float:
        """Standard deviation between seeds in percent of the loss at an (equivalent) learning rate."""
        return 100 * self.factor * float(assumed_share(np.array([learning_rate]))[0])


def assumed_share(learning_rate_K: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """Standard deviation between seeds, as a share of the loss, assumed before any replicate was seen."""
    return np.where(learning_rate_K < HIGH_FROM, ASSUMED_LOW, ASSUMED_HIGH)


def estimate_seed_noise(
    square_P: Float[np.ndarray, " P"],
    freedom_P: Int[np.ndarray, " P"],
    example_variance_P: Float[np.ndarray, " P"],
    expected_P: Float[np.ndarray, " P"],
) -> SeedNoise:
    """Pool replicated settings with the assumption into one factor.

    ``square_P``: sum of squared deviations of the runs' losses from their mean; ``freedom_P``: runs less one; ``example_variance_P``:
    variance of one run's deviation that the finite held-out set alone causes (seeds differ example by example, and that is no seed
    noise of the loss); ``expected_P``: standard deviation assumed. Bayes on a grid: prior scaled inverse chi-square around 1 with
    ASSUMED_FREEDOM, likelihood chi-square with variance factor² expected² + example variance. Assumes normal, independent seeds.
    """
    log_F = -ASSUMED_FREEDOM * (np.log(_FACTOR_F) + 1 / (2 * _FACTOR_F**2))
    for square, freedom, example_variance, expected in zip(
        square_P, freedom_P, example_variance_P, expected_P, strict=True
    ):
        variance_F = (_FACTOR_F * expected) ** 2 + example_variance
        log_F = log_F - 0.5 * (freedom * np.log(variance_F) + square / variance_F)
    weight_F = np.exp(log_F - log_F.max())
    weight_F /= weight_F.sum()
    median = float(_FACTOR_F[int(np.searchsorted(np.cumsum(weight_F), 0.5))])
    freedom = int(freedom_P.sum())
    return SeedNoise(
        median, freedom, "measured" if freedom >= FREEDOM_TO_CALL_MEASURED else "assumed", weight_F
    )


def replicate_squares(
    loss_SE: Float[np.ndarray, "S E"], tokens_E: Float[np.ndarray, " E"]
) -> tuple[float, int, float]:
    """Of S seeds of one setting: sum of squares of the losses (nats a token), degrees of freedom, variance due to the examples alone.

    The last is the linearised variance of the ratio estimator, from what is left of each example after the runs' and its own mean.
    """
    seeds, examples = loss_SE.shape
    total = float(tokens_E.sum())
    loss_S = loss_SE.sum(axis=1) / total
    square = float(np.sum((loss_S - loss_S.mean()) ** 2))
    residual_SE = loss_SE - loss_S[:, None] * tokens_E
    residual_SE = residual_SE - residual_SE.mean(axis=0)
    scale = examples / max(examples - 1, 1) / (seeds - 1) / total**2
    return square, seeds - 1, float(np.sum(residual_SE**2)) * scale
