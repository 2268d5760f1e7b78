"""Recorded surfaces whose truth is known: the design of ``bench.design``, filled by a formula and noise instead of training.

Dimensions: C runs, E held-out examples.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.design import DECIDE, SEEDS, Point, guides, next_points, ranks_at
from bench.tables import Surface, save
from rightrank.probe.settings import configuration
from rightrank.recipe import Recipe, equivalent_learning_rate
from rightrank.stats.seeds import alike
from rightrank.stats.valley import lost_percent, recorded_prior

if TYPE_CHECKING:
    from pathlib import Path

BASE, GAIN = 3.0, 1.5


@dataclass(frozen=True)
class Truth:
    """A valley as recorded data sets have them, what no valley knows, and seeds. Percent of the gain."""

    theta: tuple[float, ...] = tuple(recorded_prior().mean_P)
    """Parameters of ``rightrank.stats.valley``."""
    misfit: float = 0.2
    """Standard deviation of a setting from the valley, the same for every seed and size."""
    noise: float = 0.25
    """Standard deviation between seeds, most of it shared by the runs of one."""
    halving: float = 6.0
    """What half the rows cost at the best setting."""

    @classmethod
    def drawn(cls, seed: int, **changes: float) -> Truth:
        """One of the data sets that the prior is about."""
        prior = recorded_prior()
        rng = np.random.default_rng([seed, 3])
        return replace(cls(tuple(rng.normal(prior.mean_P, prior.spread_P))), **changes)

    def lost(self, rank: int, axis: float, size: int, whole: int) -> float:
        """Against nothing in particular: levels of sizes apart."""
        halvings = math.log2(whole / size)
        valley = lost_percent(np.array(self.theta), *(np.array([v]) for v in (rank, axis, halvings)))
        own = np.random.default_rng(
            [5, rank, round(100 * axis) + 1000, zlib.crc32(repr(self.theta).encode())]
        )
        return float(valley[0]) + self.misfit * own.normal() + self.halving * halvings

    def best_axis(self, rank: int) -> float:
        """log10 of the best learning rate on all rows."""
        return self.theta[0] + self.theta[1] * math.log2(rank / 32)


def invented(
    truth: Truth | None = None,
    *,
    name: str = "nl2bash",
    rows: int = 3200,
    epochs: float = 3.0,
    scored: int = 600,
    seed: int = 0,
    repeated_percent: float = 0.0,
) -> Surface:
    """All runs that the design asks for of ``truth``.

    ``repeated_percent``: on all rows, also other seeds of every setting that loses no more than this against the best of its rank, so
    that what a probe repeats is drawn and not stood in for by its neighbour's luck. All other numbers are the same without.
    """
    truth = truth or Truth()
    rng = np.random.default_rng([seed, 7])
    recipe = Recipe(epochs=epochs)
    sizes = [n for n in (rows, rows // 2, rows // 4, rows // 8) if recipe.steps(n) >= 50]
    E = DECIDE + scored
    tokens_E = np.maximum(2, rng.lognormal(3.0, 0.5, E)).astype(int)
    common_E, by_rank_E, by_rate_E = rng.normal(0, 1, (3, E)) * [[0.5], [0.03], [0.03]]
    runs: list[tuple[int, float, float, int, int]] = []
    for size in sizes:
        level: dict[Point, float] = {}
        while points := next_points(level, ranks_at(size, rows)):
            level |= {p: truth.lost(p.rank, math.log10(p.rate), size, rows) for p in points}
        runs += [(p.rank, configuration(*p, "rank").alpha, p.rate, 0, size) for p in level]
        near = sorted(level, key=lambda p: level[p])[:6]
        if size in (rows, rows // 8):
            runs += [(p.rank, configuration(*p, "rank").alpha, p.rate, s, size) for p in near for s in SEEDS]
        if size == rows:
            repeated = [p for p in _near_each_rank(level, repeated_percent) if p not in near]
    runs += [(c.rank, c.alpha, c.learning_rate, 0, rows) for c in guides()]
    besides = [(p.rank, configuration(*p, "rank").alpha, p.rate, s, rows) for p in repeated for s in SEEDS]
    runs += besides
    loss_CE = np.empty((len(runs), E))
    axis_C = np.array([math.log10(equivalent_learning_rate(r, a, lr)) for r, a, lr, *_ in runs])
    luck_C = _luck(runs, axis_C, rng, len(besides), np.random.default_rng([seed, 11]))
    for c, (rank, _, _, _, size) in enumerate(runs):
        axis = float(axis_C[c])
        share = (truth.lost(rank, axis, size, rows) + truth.noise * luck_C[c]) / 100
        level_E = (
            BASE
            - GAIN * (1 - share)
            + common_E
            + by_rank_E * math.log2(rank / 16) / 3
            + by_rate_E * (axis + 3)
        )
        loss_CE[c] = tokens_E * np.maximum(0.01, level_E + rng.normal(0, 0.02, E))
    return Surface(
        name=name, epochs=epochs, batch_size=16, sizes=tuple(sizes),
        train_tokens=tuple(70 * n for n in sizes), trained_tokens=tuple(20 * n for n in sizes), decide=DECIDE,
        rank_C=np.array([r[0] for r in runs]), alpha_C=np.array([float(r[1]) for r in runs]),
        learning_rate_C=np.array([r[2] for r in runs]), seed_C=np.array([r[3] for r in runs]),
        examples_C=np.array([r[4] for r in runs]), loss_CE=loss_CE,
        right_CE=np.tile(tokens_E // 2, (len(runs), 1)), tokens_E=tokens_E, lengths_E=3 * tokens_E,
        base_loss_E=tokens_E * np.maximum(0.01, BASE + common_E), base_right_E=np.zeros(E, int),
        frequency_loss_E=tokens_E * 6.0, about={"device": "invented"},
    )  # fmt: skip


def _near_each_rank(level: dict[Point, float], percent: float) -> list[Point]:
    lowest: dict[int, float] = {}
    for p, lost in level.items():
        lowest[p.rank] = min(lost, lowest.get(p.rank, math.inf))
    return [p for p, lost in level.items() if percent and lost <= lowest[p.rank] + percent]


def _luck(
    runs: list[tuple[int, float, float, int, int]],
    axis_C: np.ndarray,
    rng: np.random.Generator,
    besides: int = 0,
    rng_besides: np.random.Generator | None = None,
) -> np.ndarray:
    """Of variance 1, as alike as that of real runs. The last ``besides`` runs draw from a generator of their own."""
    rank_C, seed_C, size_C = (np.array([run[i] for run in runs]) for i in (0, 3, 4))
    found = np.empty(len(runs))
    first_C = np.arange(len(runs)) < len(runs) - besides
    for size in np.unique(size_C):
        here = size_C == size
        root = np.linalg.cholesky(alike(rank_C[here], axis_C[here], seed_C[here]))
        drawn = rng.standard_normal(int((here & first_C).sum()))
        if rng_besides is not None:
            drawn = np.append(drawn, rng_besides.standard_normal(int((here & ~first_C).sum())))
        found[here] = root @ drawn
    return found


def invent(folder: Path, count: int, seed: int = 100) -> None:
    """Surfaces of ``count`` data sets drawn from what the recorded ones have in common, every other one of 1,600 rows."""
    for i in range(count):
        drawn = Truth.drawn(seed + i)
        surface = invented(drawn, name=f"invented{i}", rows=3200 if i % 2 else 1600, scored=1000, seed=i)
        save(surface, folder / f"invented{i}-3.npz")
