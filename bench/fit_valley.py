"""The shape of the valley that all recorded data sets share: the prior of ``rightrank.stats.valley``.

    python -m bench.fit_valley [--folder bench/surfaces] [--out src/rightrank/priors/valley.json]

Every surface outside the lockbox is fitted by itself, under a wide prior; mean and spread of the parameters over data sets are kept (the
recipes of a set count as one). Spreads are kept above floors, since a few data sets that agree do not show that all do.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.tables import FOLDER, Surface, surfaces
from rightrank.stats.valley import (
    NAMES,
    Observations,
    Prior,
    Valley,
    beyond_edge,
    fit,
    lost_percent,
    prior_from,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDE = Prior(
    np.array([-2.9, 0.0, 0.0, 1.5, 0.05, 0.4, 0.0, -0.6, -1.0, -0.8, 0.25, -1.5, 0.0]),
    np.array([0.6, 0.08, 0.2, 1.2, 0.12, 0.4, 0.4, 0.4, 1.0, 0.4, 0.4, 1.0, 0.3]),
)
"""Assumed, for the fits of single surfaces: many runs on several sizes overrule it."""
FLOOR_P = np.array([0.8, 0.02, 0.12, 0.7, 0.04, 0.2, 0.15, 0.15, 0.7, 0.15, 0.2, 0.5, 0.15])
"""Spreads are no smaller. Chosen: about a third of what is plausible beforehand; for the best learning rate itself all of it, since it
hangs on the model, and these are of one."""
BEFOREHAND = 2.0
"""Data sets that what is plausible beforehand counts as in the means. Chosen: a handful of sets that agree in a sign do not show it."""
WIDER = 1.3
"""Spreads over a handful of sets are too small on average. Chosen: the 80 % point of the standard deviation of five."""


def observed(surface: Surface) -> Observations:
    """All runs of a surface, seeds averaged, on all held-out rows that every size was judged by."""
    decide_E, _ = surface.sides()
    level_C = surface.level_C(decide_E.astype(float))
    base = float(surface.base_loss_E[decide_E].sum() / surface.tokens_E[decide_E].sum())
    whole_C = surface.examples_C == surface.whole
    gain = base - float(np.nanmin(np.where(np.isfinite(level_C) & whole_C, level_C, np.nan)))
    groups: dict[tuple[int, int, float], list[float]] = {}
    for c in np.flatnonzero(np.isfinite(level_C)):
        key = (int(surface.examples_C[c]), int(surface.rank_C[c]), round(float(surface.axis_C[c]), 3))
        groups.setdefault(key, []).append(float(level_C[c]))
    lowest = {n: min(float(np.mean(v)) for (m, _, _), v in groups.items() if m == n) for n in surface.sizes}
    lost_O = np.array([100 * (float(np.mean(v)) - lowest[n]) / gain for (n, _, _), v in groups.items()])
    keys = np.array(list(groups), dtype=float)
    rank_O, axis_O, halvings_O = keys[:, 1], keys[:, 2], np.log2(surface.whole / keys[:, 0])
    kept_O = ~beyond_edge(rank_O, axis_O, halvings_O, lost_O)
    return Observations(
        rank_O[kept_O], axis_O[kept_O], halvings_O[kept_O], lost_O[kept_O], np.zeros((2, int(kept_O.sum())))
    )


def residuals(seen: Observations, valley: Valley) -> np.ndarray:
    """What the fit misses, in percent of the gain, level of every size taken off; only settings that lose under 3 %."""
    miss_O = lost_percent(valley.theta_P, seen.rank_O, seen.axis_O, seen.halvings_O) - seen.lost_O
    near_O = seen.lost_O < 3.0
    found = [miss_O[near_O & (seen.halvings_O == h)] for h in np.unique(seen.halvings_O)]
    return np.concatenate([part - part.mean() for part in found if len(part)])


def shared(fits: Sequence[tuple[str, Valley]]) -> dict[str, Any]:
    """Mean and spread of every parameter over data sets."""
    names = sorted({name for name, _ in fits})
    theta_SP = np.stack([np.mean([v.theta_P for name, v in fits if name == one], axis=0) for one in names])
    spread_P = WIDER * theta_SP.std(0, ddof=1) if len(names) > 1 else WIDE.spread_P
    spread_P = np.maximum(spread_P, FLOOR_P)
    mean_P = (theta_SP.sum(0) + BEFOREHAND * WIDE.mean_P) / (len(names) + BEFOREHAND)
    pairs = zip(NAMES, mean_P, spread_P, strict=True)
    return {
        "about": "Parameters of rightrank.stats.valley over recorded data sets: mean, and spread between data sets.",
        "sets": names,
        "parameters": {
            name: {"mean": round(float(m), 4), "spread": round(float(s), 4)} for name, m, s in pairs
        },
    }


def left_out(folder: Path, name: str) -> Prior:
    """The prior without one data set (all its recipes), and without the lockbox."""
    kept = [s for s in surfaces(folder) if s.name != name and not s.lockbox]
    return prior_from(shared([(s.name, fit(observed(s), s.whole, WIDE)) for s in kept])) if kept else WIDE


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    fits = []
    for surface in surfaces(chosen.folder):
        if surface.lockbox:
            continue
        seen = observed(surface)
        valley = fit(seen, surface.whole, WIDE)
        fits.append((surface.name, valley))
        miss = math.sqrt(float(np.mean(residuals(seen, valley) ** 2)))
        words = ", ".join(f"{n} {v:.2f}" for n, v in zip(NAMES, valley.theta_P, strict=True))
        print(f"{surface.name} {surface.epochs:g}: misses {miss:.2f} % near the best; {words}")
    found = shared(fits)
    for name, one in found["parameters"].items():
        print(f"{name:16} {one['mean']:7.2f} ± {one['spread']:.2f}")
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
