"""Gain lost over rank, learning rate and amount of data, as a valley whose shape is known from other data sets.

On recorded data sets the loss of every setting lies near a function of few parameters, most of which hardly differ between data sets:

* Too small a learning rate trains too little: what is lost falls as a power of the learning rate (about the first). Too large a one loses
  more slowly the larger it is. The sum of both is a valley with one lowest point.
* That point moves linearly with log(rank), hardly at the project's own alpha, and with log(rows): that drift differs between data sets
  in its sign, so that runs on two sizes have to measure it.
* The fewer rows, the steeper the valley. Small ranks lose more (a power of the rank), and so may large ones.

A fit takes all runs at once, those of different sizes, ranks and learning rates, with the other data sets' parameters as prior. It serves
to choose what to train and where the best learning rate lies; nothing is certified by it.

Dimensions: P parameters, O observations (a setting at a size), V sizes, B replicates, U settings.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from rightrank.stats.rungs import Measured

NAMES = (
    "axis",  # log10 of the best learning rate (at the project's alpha) of rank 32 on all rows
    "axis_by_rank",  # … its change for each doubling of the rank
    "axis_by_rows",  # … for each halving of the rows
    "height",  # log of the percent of the gain by which the valley's sides scale
    "height_by_rank",
    "height_by_rows",
    "too_low",  # log of the power with which too small a learning rate loses
    "too_high",  # log of the power with which too large a one does
    "short",  # log of the percent that rank 32 loses for want of parameters
    "short_power",  # log of the power of the rank with which that falls
    "short_by_rows",  # change of "short" for each halving of the rows
    "excess",  # log of the percent that rank 32 loses for having too many; it grows as the root of the rank
    "excess_by_rows",
)
REFERENCE_RANK = 32
EXCESS_POWER = 0.5
"""Of the rank, with which what too many parameters lose grows. Assumed: recorded ranks do not tell it from others."""
FARTHEST = 3.0
"""Decades from the best learning rate beyond which the valley is flat: nothing is known there, and powers overflow."""
MISFIT_PERCENT, MISFIT_SHARE = 0.25, 0.2
"""Standard deviation of a setting from the function: a percentage of the gain, and a share of what the setting loses itself.
Measured on recorded surfaces (0.2 to 0.45 % near the best, seeds included)."""
EDGE_PERCENT = 10.0
"""Of the gain: what a learning rate above its rank's best loses more than this lies beyond the edge from where training diverges by and
by, which is no side of the valley and would pull its lowest point away from the edge. Chosen; recorded edges lie three times as high."""
STARTS = (0.0, -0.4, 0.4)
"""Where the search for the best learning rate starts, in decades from the prior's: it may end in a local optimum."""
LEAST_GAIN = 0.05
"""Gains smaller than this share of the base loss count as that: shares of nothing say nothing."""
LEVEL_SPREAD = 100.0
"""Prior standard deviation of what all settings of a size have in common, in percent: as good as unknown."""


@dataclass(frozen=True)
class Prior:
    """What other data sets say: independent normals."""

    mean_P: Float[np.ndarray, " P"]
    spread_P: Float[np.ndarray, " P"]


@cache
def recorded_prior() -> Prior:
    """Fitted to the recorded data sets (``python -m bench.fit_valley``)."""
    stored = json.loads((files("rightrank.priors") / "valley.json").read_text(encoding="utf-8"))
    return prior_from(stored)


def prior_from(stored: dict[str, Any]) -> Prior:
    """From the file's means and spreads by name. Raises KeyError where one is missing."""
    pairs = [stored["parameters"][name] for name in NAMES]
    return Prior(np.array([p["mean"] for p in pairs]), np.array([p["spread"] for p in pairs]))


def lost_percent(
    theta: Float[np.ndarray, "*b P"],
    rank_U: Float[np.ndarray, " U"],
    axis_U: Float[np.ndarray, " U"],
    halvings_U: Float[np.ndarray, " U"],
) -> Float[np.ndarray, "*b U"]:
    """Percent of the gain that settings lose, up to what all settings of a size have in common.

    ``axis_U``: log10 of the equivalent learning rate; ``halvings_U``: log2 of how many times as many rows the whole data has.
    """
    p = dict(zip(NAMES, np.moveaxis(np.asarray(theta)[..., None, :], -1, 0), strict=True))
    doublings_U = np.log2(np.asarray(rank_U) / REFERENCE_RANK)
    best_U = p["axis"] + p["axis_by_rank"] * doublings_U + p["axis_by_rows"] * halvings_U
    height_U = p["height"] + p["height_by_rank"] * doublings_U + p["height_by_rows"] * halvings_U
    low, high = np.exp(p["too_low"]) * math.log(10), np.exp(p["too_high"]) * math.log(10)
    away_U = np.clip(axis_U - best_U, -FARTHEST, FARTHEST)
    sides_U = (high * np.exp(-low * away_U) + low * np.exp(high * away_U)) / (low + high) - 1
    short_U = p["short"] - math.log(2) * (
        np.exp(p["short_power"]) * doublings_U + p["short_by_rows"] * halvings_U
    )
    excess_U = p["excess"] + EXCESS_POWER * math.log(2) * doublings_U + p["excess_by_rows"] * halvings_U
    return np.asarray(
        np.exp(np.clip(height_U, -8, 8)) * sides_U
        + np.exp(np.clip(short_U, -12, 6))
        + np.exp(np.clip(excess_U, -12, 6))
    )


@dataclass(frozen=True)
class Observations:
    """Settings at sizes, with what they lose in percent of the gain, up to a constant a size."""

    rank_O: Float[np.ndarray, " O"]
    axis_O: Float[np.ndarray, " O"]
    halvings_O: Float[np.ndarray, " O"]
    lost_O: Float[np.ndarray, " O"]
    """Against the best at the same size."""
    deviation_BO: Float[np.ndarray, "B O"]
    """Replicates of the errors of ``lost_O``."""


@dataclass(frozen=True)
class Valley:
    """A fit and replicates of its errors."""

    theta_P: Float[np.ndarray, " P"]
    theta_BP: Float[np.ndarray, "B P"]
    whole: int
    """Rows of the whole data."""

    def lost(
        self, rank_U: Float[np.ndarray, " U"], axis_U: Float[np.ndarray, " U"], examples: int
    ) -> tuple[Float[np.ndarray, " U"], Float[np.ndarray, "B U"]]:
        """Percent of the gain lost on ``examples`` rows against the best of these settings, and in every replicate."""
        halvings_U = np.full(len(rank_U), math.log2(self.whole / examples))
        value_U = lost_percent(self.theta_P, rank_U, axis_U, halvings_U)
        value_BU = lost_percent(self.theta_BP, rank_U, axis_U, halvings_U)
        return value_U - value_U.min(), value_BU - value_BU.min(1, keepdims=True)

    def moved(
        self, rank_U: Float[np.ndarray, " U"], axis_U: Float[np.ndarray, " U"], examples: int, target: float
    ) -> tuple[Float[np.ndarray, " U"], Float[np.ndarray, "B U"]]:
        """Percent of the gain by which settings lose more on ``target`` rows than on ``examples``, up to what they have in common."""
        now_U, then_U = (np.full(len(rank_U), math.log2(self.whole / n)) for n in (examples, target))
        value_U, value_BU = (
            lost_percent(theta, rank_U, axis_U, then_U) - lost_percent(theta, rank_U, axis_U, now_U)
            for theta in (self.theta_P, self.theta_BP)
        )
        return value_U, value_BU

    def best_axis(self, rank: int, examples: int) -> tuple[float, float]:
        """log10 of the best equivalent learning rate of ``rank`` on ``examples`` rows, and its standard error."""
        doublings, halvings = math.log2(rank / REFERENCE_RANK), math.log2(self.whole / examples)
        weights = np.array([1.0, doublings, halvings])
        value_B = self.theta_BP[:, :3] @ weights
        return float(self.theta_P[:3] @ weights), float(np.std(value_B))


def beyond_edge(
    rank_O: Float[np.ndarray, " O"],
    axis_O: Float[np.ndarray, " O"],
    halvings_O: Float[np.ndarray, " O"],
    lost_O: Float[np.ndarray, " O"],
) -> Bool[np.ndarray, " O"]:
    """Which settings lie above the best learning rate of their rank and size and lose ``EDGE_PERCENT`` more than at that.

    None where that best one is the lowest tried: then they say on which side the valley lies.
    """
    found_O = np.zeros(len(lost_O), bool)
    for o, (rank, halvings) in enumerate(zip(rank_O, halvings_O, strict=True)):
        alike_O = (rank_O == rank) & (halvings_O == halvings)
        best, least = axis_O[alike_O][np.argmin(lost_O[alike_O])], lost_O[alike_O].min()
        found_O[o] = axis_O[alike_O].min() < best < axis_O[o] and lost_O[o] > least + EDGE_PERCENT
    return found_O


def observations(data: Measured, whole: int) -> Observations:
    """Every setting at every size where it has a finite loss on the rows that decide."""
    gain = _gain(data)
    parts: list[tuple[Any, ...]] = []
    for rung in data.rungs:
        here = np.flatnonzero(rung.measured_U)
        best = here[np.argmin(rung.decide.value_K[here])]
        lost = 100 * (rung.decide.value_K[here] - rung.decide.value_K[best]) / gain
        halvings = np.full(len(here), math.log2(whole / rung.examples))
        parts.append(
            (
                data.rank_U[here],
                data.axis_U[here],
                halvings,
                lost,
                100 * rung.decide.deviation_BK[:, here] / gain,
            )
        )
    rank_O, axis_O, halvings_O, lost_O = (np.concatenate([p[i] for p in parts]) for i in range(4))
    deviation_BO = np.concatenate([p[4] for p in parts], axis=1)
    kept_O = ~beyond_edge(rank_O, axis_O, halvings_O, lost_O)
    return Observations(
        rank_O[kept_O], axis_O[kept_O], halvings_O[kept_O], lost_O[kept_O], deviation_BO[:, kept_O]
    )


def _gain(data: Measured) -> float:
    """Nats a token between the untrained model and the best setting of the largest size, both on rows that decide."""
    clean, top = data.evidence, data.rungs[-1]
    tokens = float(clean.tokens_E[~clean.scores_E].sum())
    base = float(clean.base_loss_E[~clean.scores_E].sum()) / max(tokens, 1.0)
    return max(base - float(np.nanmin(top.decide.value_K)), LEAST_GAIN * base, 1e-9)


def fit(seen: Observations, whole: int, prior: Prior, seed: int = 0) -> Valley:
    """The most probable parameters, and replicates from a linearisation around them.

    In every replicate the measured losses are moved by their resampled errors and the misfit, the prior by its spread (randomised
    maximum a posteriori: exact for a linear model).
    """
    misfit_O = MISFIT_PERCENT + MISFIT_SHARE * seen.lost_O
    covariance_OO = np.cov(seen.deviation_BO, rowvar=False).reshape(len(misfit_O), -1) + np.diag(misfit_O**2)
    whiten_OO = np.linalg.inv(np.linalg.cholesky(covariance_OO))
    size_O: Int[np.ndarray, " O"] = np.unique(seen.halvings_O, return_inverse=True)[1]
    sizes = int(size_O.max()) + 1
    wide_PV = np.concatenate([prior.spread_P, np.full(sizes, LEVEL_SPREAD)])
    start_PV = np.concatenate([prior.mean_P, np.zeros(sizes)])

    def residuals(theta_PV: Float[np.ndarray, " q"]) -> Float[np.ndarray, " w"]:
        theta_P, level_V = theta_PV[: len(NAMES)], theta_PV[len(NAMES) :]
        model_O = lost_percent(theta_P, seen.rank_O, seen.axis_O, seen.halvings_O) - level_V[size_O]
        return np.concatenate([whiten_OO @ (model_O - seen.lost_O), (theta_PV - start_PV) / wide_PV])

    found = [
        least_squares(residuals, start_PV + _moved(start, len(start_PV)), max_nfev=200) for start in STARTS
    ]
    best = min(found, key=lambda one: float(one.cost))
    rng = np.random.default_rng([seed, 5])
    replicates = len(seen.deviation_BO)
    noise_BO = seen.deviation_BO + misfit_O * rng.standard_normal((replicates, len(misfit_O)))
    shift_BW = np.concatenate(
        [noise_BO @ whiten_OO.T, rng.standard_normal((replicates, len(start_PV)))], axis=1
    )
    jacobian_WQ = np.asarray(best.jac)
    step_QW = np.linalg.solve(jacobian_WQ.T @ jacobian_WQ, jacobian_WQ.T)
    theta_BQ = best.x + shift_BW @ step_QW.T
    return Valley(best.x[: len(NAMES)], theta_BQ[:, : len(NAMES)], whole)


def _moved(start: float, length: int) -> Float[np.ndarray, " q"]:
    moved = np.zeros(length)
    moved[0] = start
    return moved
