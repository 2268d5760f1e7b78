"""How much of a run's loss is its seed's luck, and how alike the luck of runs of one seed is: the constants of ``rightrank.stats.seeds``.

    python -m bench.luck [--folder bench/surfaces]

Of every size at which settings were recorded with several seeds: standard deviation between seeds, of a setting alone and of the
differences between settings of one seed; then the most likely constants, and how much more likely they make the recorded seeds than
independent luck does. The lockbox is left out.

Dimensions: U settings, S seeds, D contrasts between seeds.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from bench.tables import FOLDER, Surface, surfaces
from rightrank.stats.luck import FLOOR_SHARE
from rightrank.stats.seeds import example_variance

if TYPE_CHECKING:
    from jaxtyping import Float

FEWEST = 4
"""Settings of several seeds at a size."""


@dataclass(frozen=True)
class Seeds:
    """Settings of one size, each with all of the same seeds."""

    name: str
    doublings_U: Float[np.ndarray, " U"]
    axis_U: Float[np.ndarray, " U"]
    percent_US: Float[np.ndarray, "U S"]
    """Loss in percent of the setting's mean loss, which is taken off."""
    of_gain: float
    """Percent of the gain that one of these percents is, on average."""
    example_percent_U: Float[np.ndarray, " U"]
    """Standard deviation that the finite held-out set alone causes."""

    @property
    def contrast_UD(self) -> Float[np.ndarray, "U D"]:
        """Uncorrelated between the D contrasts; seeds less one of them."""
        seeds = self.percent_US.shape[1]
        basis_SD = np.linalg.qr(np.column_stack([np.ones(seeds), np.eye(seeds)[:, 1:]]))[0][:, 1:]
        return np.asarray(self.percent_US @ basis_SD)

    @property
    def alone(self) -> float:
        """Standard deviation between the seeds of a setting."""
        return float(np.sqrt(np.mean(self.contrast_UD**2)))

    @property
    def within(self) -> float:
        """Standard deviation of a setting against the mean of all of its seed."""
        left_UD = self.contrast_UD - self.contrast_UD.mean(0)
        return float(np.sqrt(np.sum(left_UD**2) / (left_UD.size - left_UD.shape[1])))


def seeds_of(surface: Surface) -> list[Seeds]:
    """Every size with enough settings."""
    level_C = surface.level_C(np.ones(len(surface.tokens_E)))
    base = float(surface.base_loss_E.sum() / surface.tokens_E.sum())
    gain = base - float(np.nanmin(np.where(surface.examples_C == surface.whole, level_C, np.nan)))
    found = []
    for size in surface.sizes:
        runs: dict[tuple[int, float], dict[int, int]] = {}
        for c in np.flatnonzero((surface.examples_C == size) & np.isfinite(level_C)):
            key = (int(surface.rank_C[c]), round(float(surface.axis_C[c]), 2))
            runs.setdefault(key, {})[int(surface.seed_C[c])] = int(c)
        several = {key: own for key, own in runs.items() if len(own) > 1}
        if len(several) < FEWEST:
            continue
        common = sorted(set.intersection(*(set(own) for own in several.values())))
        run_US = np.array([[own[s] for s in common] for own in several.values()])
        mean_U = np.maximum(level_C[run_US].mean(1), FLOOR_SHARE * base)
        variance_U = [example_variance(surface.loss_CE[run_S], surface.tokens_E) for run_S in run_US]
        rank_U, axis_U = np.array(list(several)).T
        found.append(
            Seeds(
                f"{surface.name} {surface.epochs:g}, {size} rows",
                np.log2(rank_U),
                axis_U,
                100 * (level_C[run_US] - level_C[run_US].mean(1, keepdims=True)) / mean_U[:, None],
                float(mean_U.mean() / gain),
                100 * np.sqrt(variance_U) / mean_U,
            )
        )
    return found


def unlikely(theta: Float[np.ndarray, " p"], groups: list[Seeds], *, alone: bool) -> float:
    """Negative log posterior of: power of the learning rate, shares (as logits), reaches (logs), and a log factor a group.

    ``alone``: luck is every run's own. Weak priors keep what a few groups do not tell near what is plausible.
    """
    power, to_common, to_nearby, rank_reach, rate_reach, *factors = theta
    shares = np.exp([to_common, to_nearby, 0.0])
    common, nearby, own = (0.0, 0.0, 1.0) if alone else shares / shares.sum()
    found = 0.5 * ((rank_reach - np.log(4)) ** 2 + (rate_reach - np.log(0.5)) ** 2)
    found += 0.02 * (to_common**2 + to_nearby**2)
    for group, factor in zip(groups, factors, strict=True):
        apart_UU = ((group.doublings_U[:, None] - group.doublings_U) / np.exp(rank_reach)) ** 2
        apart_UU = apart_UU + ((group.axis_U[:, None] - group.axis_U) / np.exp(rate_reach)) ** 2
        alike_UU = common + nearby * np.exp(-apart_UU / 2) + own * np.eye(len(apart_UU))
        spread_U = np.exp(factor) * 0.2 * 10 ** (power * (group.axis_U + 3))
        covariance_UU = np.outer(spread_U, spread_U) * alike_UU + np.diag(group.example_percent_U**2)
        root_UU = np.linalg.cholesky(covariance_UU)
        whitened_UD = np.linalg.solve(root_UU, group.contrast_UD)
        found += 0.5 * np.sum(whitened_UD**2) + whitened_UD.shape[1] * np.sum(np.log(np.diag(root_UU)))
        found += 0.5 * factor**2
    return float(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    chosen = parser.parse_args()
    groups = [group for s in surfaces(chosen.folder) if not s.lockbox for group in seeds_of(s)]
    print("standard deviation, percent of the gain: between seeds of a setting; of a setting within a seed")
    for group in groups:
        print(f"  {group.name:26} {group.of_gain * group.alone:5.2f} {group.of_gain * group.within:5.2f}")
    zeros = [0.0] * len(groups)
    fits = {}
    for alone in (False, True):
        starts = ([0.5, a, b, np.log(4), np.log(0.5), *zeros] for a, b in ((0, 0), (1, 0), (0, 1), (-2, 1)))
        options = {"args": (groups,), "method": "L-BFGS-B"}
        found = (
            minimize(lambda t, g, alone=alone: unlikely(t, g, alone=alone), s, **options) for s in starts
        )
        fits[alone] = min(found, key=lambda one: float(one.fun))
    power, to_common, to_nearby, rank_reach, rate_reach, *factors = fits[False].x
    shares = np.exp([to_common, to_nearby, 0.0])
    common, nearby, own = shares / shares.sum()
    print(f"power of the learning rate {power:.2f}; common {common:.2f}, nearby {nearby:.2f}, own {own:.2f}")
    print(
        f"reach: {np.exp(rank_reach):.1f} doublings of the rank, {np.exp(rate_reach):.2f} decades of the rate"
    )
    for group, factor in zip(groups, factors, strict=True):
        print(f"  {group.name:26} {0.2 * np.exp(factor):.2f} % of the loss at 1e-3")
    print(f"log likelihood above independent luck's: {fits[True].fun - fits[False].fun:.1f}")


if __name__ == "__main__":
    main()
