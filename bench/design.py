"""Which runs the recorded loss surfaces consist of: stated beforehand, so that nothing is chosen by its result but what is said here.

For every data set and recipe (3 epochs and 1):

* Sizes n, n/2, n/4, n/8, n/16 of the training rows (n: all, up to 3,200, long texts 1,600), those of under 50 optimiser steps left out
  but for n/8 of 37, which a probe of one run needs; of mbpp and legalbench_mix, the small sets, n and n/2 alone, the latter though it has
  only 44 and 47 steps.
* Ranks 1 to 256 at n and n/4; 2, 8, 32 and 128 at the other sizes.
* Learning rates 3e-4, 1e-3 and 3e-3; then, at every rank whose best so far is the lowest or the highest tried, one half-decade more, until
  the best lies inside or 1e-4 or 3e-2 is reached.
* At n the guides' settings (alpha = 2r, 2e-4) for r = 8, 16 and 64.
* Seeds 1 and 2 at the best point, and at six drawn from those within 3 % of its gain, at n and n/8: the noise floor.
* At n, for ranks 8, 32 and 128, the two learning rates a quarter of a decade from the best: how the loss runs between half-decades.

Three disjoint sets of rows: those trained on, up to 500 that decide, up to 1,000 that score.

Besides, on three sets, whether a scale of r^-1/2, r^-3/4 or r^-1 lets one learning rate serve every rank: runs at r = 4 and 256.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rightrank.probe.pack import Configuration
from rightrank.probe.settings import GUIDE_LEARNING_RATE, configuration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rightrank.recipe import Recipe

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
FIRST_RATES = RATES[1:4]
RANKS, FEW_RANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (2, 8, 32, 128)
GUIDE_RANKS = (8, 16, 64)
FEWEST_STEPS, FEWEST_STEPS_OF_AN_EIGHTH = 50, 35
NEAR_PERCENT, NEAR_POINTS, SEEDS = 3.0, 6, (1, 2)
DECIDE, SCORE = 500, 1000
SCALE_SETS, SCALE_RANKS, SCALE_EXPONENTS = ("nl2bash", "klingon", "gsm8k"), (4, 256), (0.5, 1.0)
BETWEEN_RANKS = (8, 32, 128)
EPOCHS = (3.0, 1.0)


class Point(NamedTuple):
    """A rank and a learning rate, at the project's own alpha."""

    rank: int
    rate: float


@dataclass(frozen=True)
class DataSet:
    """A file of rows, the file of its official test split where it has one, and the largest size."""

    name: str
    rows: str
    test: str | None
    most: int
    small: bool = False
    """Recorded at n and n/2 alone."""
    lockbox: bool = False
    """Scored once a release, never tuned on."""

    def sizes(self, rows: int, recipe: Recipe) -> list[int]:
        """Training rows of every size, in the order in which they are recorded; none where n itself has too few steps."""
        whole = min(rows, self.most)
        if self.small:
            return [whole, whole // 2] if recipe.steps(whole) >= FEWEST_STEPS else []
        sizes = [whole // share for share in (1, 4, 2, 16)]
        kept = [size for size in sizes if recipe.steps(size) >= FEWEST_STEPS]
        return kept + ([whole // 8] if kept and recipe.steps(whole // 8) >= FEWEST_STEPS_OF_AN_EIGHTH else [])


SETS = {
    one.name: one
    for one in (
        DataSet("nl2bash", "nl2bash.jsonl.gz", None, 3200),
        DataSet("klingon", "klingon.jsonl.gz", None, 3200),
        DataSet("banking77", "banking77.train.jsonl.gz", "banking77.test.jsonl.gz", 3200),
        DataSet("gsm8k", "gsm8k.train.jsonl.gz", "gsm8k.test.jsonl.gz", 1600),
        DataSet("medquad", "medquad.jsonl.gz", None, 1600),
        DataSet("mbpp", "mbpp.train.jsonl.gz", "mbpp.test.jsonl.gz", 1600, small=True, lockbox=True),
        DataSet("legalbench_mix", "legalbench_mix.jsonl.gz", None, 1600, small=True, lockbox=True),
        DataSet("scitldr", "scitldr.train.jsonl.gz", "scitldr.test.jsonl.gz", 1600, lockbox=True),
    )
}


def ranks_at(size: int, whole: int) -> tuple[int, ...]:
    """Ranks that are recorded at ``size`` of ``whole`` training rows."""
    return RANKS if size in (whole, whole // 4) else FEW_RANKS


def next_points(level: Mapping[Point, float], ranks: Sequence[int]) -> list[Point]:
    """What is trained next, knowing the loss of some points: empty where the best lies inside at every rank."""
    wanted = []
    for rank in ranks:
        known = {
            point.rate: loss for point, loss in level.items() if point.rank == rank and point.rate in RATES
        }
        if not known:
            wanted += [Point(rank, rate) for rate in FIRST_RATES]
            continue
        places = sorted(RATES.index(rate) for rate in known)
        best = RATES.index(min(known, key=lambda rate: known[rate]))
        if best == places[0] and best > 0:
            wanted.append(Point(rank, RATES[best - 1]))
        elif best == places[-1] and best < len(RATES) - 1:
            wanted.append(Point(rank, RATES[best + 1]))
    return wanted


def near_best(level: Mapping[Point, float], base: float, seed: int) -> list[Point]:
    """The best point and six drawn from those that lose at most ``NEAR_PERCENT`` of its gain over ``base``; fewer where there are fewer."""
    best = min(level, key=lambda p: level[p])
    near = sorted(
        p for p, loss in level.items() if loss - level[best] <= NEAR_PERCENT / 100 * (base - level[best])
    )
    return sorted({best, *random.Random(seed).sample(near, min(NEAR_POINTS, len(near)))})


def between(level: Mapping[Point, float]) -> list[Point]:
    """The learning rates next to the best, off the grid of half-decades."""
    found = []
    for rank in BETWEEN_RANKS:
        known = {p.rate: loss for p, loss in level.items() if p.rank == rank and p.rate in RATES}
        if known:
            best = min(known, key=lambda rate: known[rate])
            found += [Point(rank, float(f"{best * 10**away:.2g}")) for away in (-0.25, 0.25)]
    return found


def guides() -> list[Configuration]:
    """What the guides print."""
    return [Configuration(rank, 2.0 * rank, GUIDE_LEARNING_RATE, 0, "guide") for rank in GUIDE_RANKS]


def other_scales(level: Mapping[Point, float]) -> list[Configuration]:
    """The best learning rate of rank 32 and its neighbours at every other scale, given the losses at our own.

    At rank 32 all scales are ours, so that the three start from one point; at r the scale is (r / 32) to the minus exponent of it.
    """
    own = {point.rate: loss for point, loss in level.items() if point.rank == 32 and point.rate in RATES}
    best = RATES.index(min(own, key=lambda rate: own[rate]))
    alpha = configuration(32, 1.0, "rank").alpha
    rates = [RATES[i] for i in range(max(0, best - 1), min(len(RATES), best + 2))]
    return [
        Configuration(rank, round(alpha * (rank / 32) ** (1 - exponent), 3), rate)
        for exponent in SCALE_EXPONENTS
        for rank in SCALE_RANKS
        for rate in rates
    ]


def runs_foreseen(size: int, whole: int) -> int:
    """Runs at a size, for the price said beforehand: 4.3 learning rates a rank (assumed until recorded), guides and seeds."""
    runs = round(4.3 * len(ranks_at(size, whole)))
    if size == whole:
        runs += len(GUIDE_RANKS) + 2 * len(BETWEEN_RANKS)
    return runs + ((1 + NEAR_POINTS) * len(SEEDS) if size in (whole, whole // 8) else 0)
