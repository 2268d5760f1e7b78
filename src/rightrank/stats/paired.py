"""Held-out results compared example by example: how they vary, and who can still be the best.

Dimensions: K things compared (runs, settings), J sums of them, B replicates, E held-out examples, R rivals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

# Two-sided confidence of every interval, and so 97.5 % of each of its ends. Chosen: the customary one.
CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
# A rival this many standard errors above the best cannot be the best. Chosen: wrong once in 700, so that it costs no coverage; what
# is pruned no longer widens the intervals of the others (generalised moment selection; Hansen 2005, JBES 23:365).
HOPELESS_SE = 3.0
# Below either of these a standard error is not to be trusted. Assumed: customary rules of thumb.
FEWEST_EXAMPLES = 30
FEWEST_EFFECTIVE = 10.0


@dataclass(frozen=True)
class Estimate:
    """A number and the ends of its 95 % interval; NaN ends: none that is to be trusted."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedContrast:
    """How much more nats a token ``a`` loses than ``b``, and how far that is to be trusted."""

    difference: float
    standard_error: float
    low: float
    high: float
    warning: str | None
    """Why the standard error is not to be trusted, or None."""


@dataclass(frozen=True)
class Sampled:
    """Estimates of K things with B replicates of their errors, by what causes them. NaN: the thing does not exist."""

    value_K: Float[np.ndarray, " K"]
    example_BK: Float[np.ndarray, "B K"]
    """Deviations due to the sample of held-out examples."""
    seed_BK: Float[np.ndarray, "B K"]
    """Deviations due to everything else that is random: seeds, and assumed spreads."""

    @property
    def deviation_BK(self) -> Float[np.ndarray, "B K"]:
        """All deviations of a replicate together."""
        total_BK: Float[np.ndarray, "B K"] = self.example_BK + self.seed_BK
        return total_BK

    def take(self, index: Int[np.ndarray, " J"] | Bool[np.ndarray, " K"] | list[int]) -> Sampled:
        """Some of the things."""
        return Sampled(self.value_K[index], self.example_BK[:, index], self.seed_BK[:, index])

    def combine(self, weights_JK: Float[np.ndarray, "J K"]) -> Sampled:
        """Weighted sums of the things, errors included; a weight of zero leaves out even what does not exist."""
        used_K = np.any(weights_JK != 0, axis=0)
        weights_KJ = weights_JK[:, used_K].T
        kept = self.take(used_K)
        return Sampled(kept.value_K @ weights_KJ, kept.example_BK @ weights_KJ, kept.seed_BK @ weights_KJ)

    def plus(self, other: Sampled, times: float = 1.0) -> Sampled:
        """This plus ``times`` the other, thing by thing (or one other for all)."""
        return Sampled(
            self.value_K + times * other.value_K,
            self.example_BK + times * other.example_BK,
            self.seed_BK + times * other.seed_BK,
        )


def paired_contrast(
    a_E: Float[np.ndarray, " E"], b_E: Float[np.ndarray, " E"], tokens_E: Int[np.ndarray, " E"]
) -> PairedContrast:
    """Difference of two losses in nats a token, from sums over the same examples.

    Ratio estimator sum(a - b) / sum(tokens), linearised standard error (Cochran 1977, ch. 6), Student's t with E - 1 degrees of
    freedom. Assumes that examples are drawn independently. Fewer than two examples: infinite standard error.
    """
    examples, tokens = len(tokens_E), float(tokens_E.sum())
    difference_E = np.asarray(a_E - b_E, dtype=float)
    difference = float(difference_E.sum()) / tokens
    if examples < 2:
        return PairedContrast(
            difference, math.inf, -math.inf, math.inf, "A single held-out example tells nothing."
        )
    residual_E = difference_E - difference * tokens_E
    square = float(np.sum(residual_E**2))
    standard_error = math.sqrt(square * examples / (examples - 1)) / tokens
    half = float(stats.t.ppf(1 - TAIL, examples - 1)) * standard_error
    return PairedContrast(
        difference, standard_error, difference - half, difference + half, _distrust(residual_E)
    )


def _distrust(residual_E: Float[np.ndarray, " E"]) -> str | None:
    """Why a standard error from these residuals is not to be trusted, or None."""
    examples = len(residual_E)
    if examples < FEWEST_EXAMPLES:
        return f"Only {examples} held-out examples; fewer than {FEWEST_EXAMPLES} give no reliable interval."
    fourth = float(np.sum(residual_E**4))
    effective = 3 * float(np.sum(residual_E**2)) ** 2 / fourth if fourth > 0 else float(examples)
    if effective < FEWEST_EFFECTIVE:
        return f"The difference hangs on about {effective:.0f} of {examples} held-out examples."
    return None


def resample_counts(rng: np.random.Generator, replicates: int, examples: int) -> Float[np.ndarray, "B E"]:
    """How often each example is drawn in each replicate of ``examples`` draws with replacement."""
    drawn_BE = rng.integers(examples, size=(replicates, examples))
    drawn_BE += np.arange(replicates)[:, None] * examples
    return (
        np.bincount(drawn_BE.ravel(), minlength=replicates * examples)
        .reshape(replicates, examples)
        .astype(float)
    )


def resampled_ratio(
    amount_KE: Float[np.ndarray, "K E"], size_E: Float[np.ndarray, " E"], counts_BE: Float[np.ndarray, "B E"]
) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, "B K"]]:
    """sum(amount) / sum(size) of each row, and the deviations from it when the examples are drawn anew.

    The deviations are widened for small samples: by sqrt(E / (E - 1)), the variance that resampling misses, and by Student's t over
    the normal quantile. One example has no deviations; callers refuse to conclude anything from fewer than FEWEST_EXAMPLES.
    """
    examples = len(size_E)
    size_B = np.maximum(counts_BE @ size_E, 1e-300)
    value_K = amount_KE.sum(axis=1) / max(float(size_E.sum()), 1e-300)
    deviation_BK = (counts_BE @ amount_KE.T) / size_B[:, None] - value_K
    if examples > 1:
        student = float(stats.t.ppf(1 - TAIL, examples - 1) / stats.norm.ppf(1 - TAIL))
        deviation_BK *= student * math.sqrt(examples / (examples - 1))
    return value_K, deviation_BK


def interval(value: float, deviation_B: Float[np.ndarray, " B"]) -> Estimate:
    """The 95 % interval of one number: its value plus the outer percentiles of its deviations."""
    low, high = np.quantile(deviation_B, [TAIL, 1 - TAIL])
    return Estimate(float(value), float(value + min(low, 0.0)), float(value + max(high, 0.0)))


def possible_best(
    value_K: Float[np.ndarray, " K"], deviation_BK: Float[np.ndarray, "B K"], keep: int
) -> Int[np.ndarray, " R"]:
    """Indices of the things (lower is better) that are not hopelessly above the lowest; ``keep`` always among them."""
    lowest = int(np.nanargmin(value_K))
    error_K = np.sqrt(np.mean((deviation_BK - deviation_BK[:, [lowest]]) ** 2, axis=0))
    with np.errstate(invalid="ignore"):
        possible_K = value_K - value_K[lowest] <= HOPELESS_SE * error_K
    possible_K[keep] = True
    return np.flatnonzero(possible_K)


def above_the_best(
    value: float,
    deviation_B: Float[np.ndarray, " B"],
    rival_value_R: Float[np.ndarray, " R"],
    rival_deviation_BR: Float[np.ndarray, "B R"],
) -> tuple[float, float]:
    """Ends of the 95 % interval of how far one thing lies above the best of its rivals, whichever of them that is.

    The distance to the best is the largest of the distances to each rival. *Upper end*: the largest of the upper ends against each
    rival, each taken alone; whichever rival is truly the best, its own end covers (intersection-union), so nothing need be known about
    who that is, and noisy rivals widen even the best thing's own interval. *Lower end*: the largest of the lower ends, at the critical
    value at which all hold together (max-t over the replicates; multiple comparisons with the best, Hsu 1996), since the largest of
    many would otherwise be too high. Rivals identical to the thing itself count for nothing. No rivals: (0, 0).
    """
    contrast_R = value - rival_value_R
    noise_BR = deviation_B[:, None] - rival_deviation_BR
    error_R = np.sqrt(np.mean(noise_BR**2, axis=0))
    itself_R = (error_R < 1e-12) & (np.abs(contrast_R) < 1e-12)
    if bool(np.all(itself_R)):
        return 0.0, 0.0
    contrast_R, noise_BR, error_R = contrast_R[~itself_R], noise_BR[:, ~itself_R], error_R[~itself_R]
    size_BR = np.abs(noise_BR) / np.maximum(
        error_R, 1e-12
    )  # both signs together: the errors are near symmetric
    alone_R = np.quantile(size_BR, CONFIDENCE, axis=0)
    together = float(np.quantile(size_BR.max(axis=1), CONFIDENCE))
    return float(np.max(contrast_R - together * error_R)), float(np.max(contrast_R + alone_R * error_R))
