"""What is said of more data, against what more data showed: every recorded surface as if half of its rows, or fewer, were all there are.

    python -m bench.more_data [--times 2] [--folder bench/surfaces]

Offline. The runs on at most n / ``times`` rows are the evidence (2, 4 or 8); what is foreseen for n is compared with the runs on n: how
much more each doubling of the rank pays at twice the data (percent of the gain, ranks run at both sizes, each at its best learning rate;
``--times 2`` alone), the losses of near-best settings against the best of them, and those of all others, which is what the price of a
guide's setting or of one's own rests on, by the side of the best learning rate on which they lie. Priors leave the data set out; the
lockbox is not looked at.

Dimensions: C runs, E held-out examples.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np

from bench.fit_valley import left_out
from bench.tables import FOLDER, surfaces
from bench.truth import Truth
from rightrank.stats.decision import decide
from rightrank.stats.evidence import Evidence
from rightrank.stats.paired import TAIL
from rightrank.stats.rungs import measure
from rightrank.stats.surface import stand

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from bench.tables import Surface

NEAR_PERCENT = 5.0
"""Settings foreseen to lose more are nobody's choice."""
SAME = 2e-3
"""Learning rates (log10) this close are one."""
ASIDE = 0.25
"""Further from the best learning rate (log10) one is too high or too low: half a step of the grid."""


def first_part(surface: Surface, times: int) -> Evidence:
    """The runs on at most one of ``times`` parts of the rows, as the evidence of someone who has no more."""
    decide_E, _ = surface.sides()
    kept = np.flatnonzero(surface.examples_C <= surface.whole // times)
    return Evidence(
        rank_C=surface.rank_C[kept],
        alpha_C=surface.alpha_C[kept],
        learning_rate_C=surface.learning_rate_C[kept],
        seed_C=surface.seed_C[kept],
        examples_C=surface.examples_C[kept],
        loss_CE=surface.loss_CE[kept],
        right_CE=surface.right_CE[kept],
        base_loss_E=surface.base_loss_E,
        base_right_E=surface.base_right_E,
        tokens_E=surface.tokens_E,
        scores_E=~decide_E,
        frequency_loss_E=surface.frequency_loss_E,
        all_examples=surface.whole // times,
    )


@dataclass(frozen=True)
class Told:
    """Of one surface."""

    slope: tuple[float, float, float] | None
    """Foreseen, lower and upper end; None where nothing is said."""
    slope_seen: float
    foreseen_U: Float[np.ndarray, " U"]
    """Loss of each setting against the best foreseen, percent of the gain."""
    apart_U: Float[np.ndarray, " U"]
    """Foreseen minus seen."""
    held_U: Bool[np.ndarray, " U"]
    """Whether the interval held what was seen."""
    aside_U: Float[np.ndarray, " U"]
    """How far above the learning rate of the best each one lies, log10."""

    @property
    def near_U(self) -> Bool[np.ndarray, " U"]:
        """Settings that someone might choose."""
        return self.foreseen_U <= NEAR_PERCENT


def told(surface: Surface, times: int = 2, replicates: int = 2000) -> Told:
    """What one of ``times`` parts of the rows says of all."""
    evidence = first_part(surface, times)
    decision = decide(evidence, replicates=replicates)
    data = measure(evidence, replicates, 0)
    later = stand(data, surface.whole)
    _, score_E = surface.sides()
    seen = Truth(surface, np.flatnonzero(score_E))
    best = data.settings[later.best]
    zero = seen.regret_percent(best.rank, best.axis)
    found = []
    for u, setting in enumerate(data.settings):
        recorded = any(r == setting.rank and abs(x - setting.axis) < SAME for r, x in seen.settings)
        if not recorded or not np.isfinite(later.lost_U[u]) or u == later.best:
            continue
        truth = seen.regret_percent(setting.rank, setting.axis) - zero
        low, high = later.lost_U[u] + np.quantile(later.lost_BU[:, u], [TAIL, 1 - TAIL])
        lost = float(later.lost_U[u])
        found.append((lost, lost - truth, low <= truth <= high, setting.axis - best.axis))
    foreseen, apart, held, aside = (np.array(column) for column in zip(*found, strict=True))
    slope = decision.drift.rank_slope if times == 2 else None
    return Told(
        None if slope is None else (slope.value, slope.low, slope.high),
        _slope_seen(surface) if times == 2 else float("nan"),
        foreseen,
        apart,
        held,
        aside,
    )


def _slope_seen(surface: Surface) -> float:
    """How much more each doubling of the rank paid on all rows than on half of them, percent of the gain; ranks run on both."""
    _, score_E = surface.sides()
    level_C = surface.level_C(score_E.astype(float))
    best: dict[int, dict[int, float]] = {}
    for c in np.flatnonzero(np.isfinite(level_C) & (surface.seed_C == 0)):
        own = best.setdefault(int(surface.examples_C[c]), {})
        own[int(surface.rank_C[c])] = min(float(level_C[c]), own.get(int(surface.rank_C[c]), np.inf))
    whole, half = best[surface.whole], best[surface.whole // 2]
    ranks = sorted(set(whole) & set(half))
    base = float(surface.base_loss_E[score_E].sum() / surface.tokens_E[score_E].sum())
    moved = [100 * (whole[r] - half[r]) / (base - min(half.values())) for r in ranks]
    return -float(np.polyfit(np.log2(ranks), moved, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--times", type=int, choices=(2, 4, 8), default=2)
    chosen = parser.parse_args()
    folder, times = chosen.folder, chosen.times
    every: list[Told] = []
    for surface in surfaces(folder):
        sizes = {surface.whole // times, surface.whole // min(8, 2 * times)}
        if surface.lockbox or not sizes <= set(surface.sizes):
            continue
        with patch("rightrank.stats.rungs.recorded_prior", lambda name=surface.name: left_out(folder, name)):
            found = told(surface, times)
        every.append(found)
        if times == 2:
            slope = "nothing" if found.slope is None else "{:.2f} [{:.2f}, {:.2f}]".format(*found.slope)
            print(
                f"a doubling of the rank pays {slope} % more at twice the data, seen {found.slope_seen:.2f}:"
            )
        off_u = np.abs(found.apart_U[found.near_U])
        print(
            f"{surface.name:12} {surface.epochs:g} epochs: {len(off_u)} settings off by "
            f"{off_u.mean() if len(off_u) else float('nan'):.2f} %, {int(found.held_U[found.near_U].sum())} inside"
        )
    said = [one for one in every if one.slope is not None]
    inside = sum(one.slope[1] <= one.slope_seen <= one.slope[2] for one in said if one.slope)
    if said:
        print(f"together: slope inside in {inside} of {len(said)}")
    near_U, apart_U, held_U, aside_U = (
        np.concatenate([getattr(one, name) for one in every])
        for name in ("near_U", "apart_U", "held_U", "aside_U")
    )
    for words, which_U in (
        ("near the best", near_U),
        ("too low a learning rate", aside_U < -ASIDE),
        ("too high a learning rate", aside_U > ASIDE),
        ("all settings", np.ones(len(near_U), bool)),
    ):
        print(
            f"together, {words}: off by {np.abs(apart_U[which_U]).mean():.2f} % (median "
            f"{np.median(np.abs(apart_U[which_U])):.2f}), intervals hold {100 * held_U[which_U].mean():.0f} % "
            f"of {int(which_U.sum())}"
        )


if __name__ == "__main__":
    main()
