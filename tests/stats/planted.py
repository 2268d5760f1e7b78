"""Held-out tables drawn from loss surfaces whose truth is known. Nats a token; the base model loses 3.0, the best training 1.5.

Dimensions: C runs, E held-out examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from rightrank.recipe import alpha_for, equivalent_learning_rate
from rightrank.stats.evidence import Evidence

BASE, BEST, FREQUENCY = 3.0, 1.5, 6.0
GAIN = BASE - BEST
RANKS = (4, 8, 16, 32, 64, 128)
RATES = (3e-4, 1e-3, 3e-3)
ALL = 3200


def settled(rank: int) -> float:
    """Share of the gain lost: 4 % a halving below 16, nothing above."""
    return 0.04 * max(0.0, math.log2(16 / rank))


def flat(rank: int) -> float:
    return 0.0 * rank


def ceiling(rank: int) -> float:
    """Every doubling gains 5 % of the gain, without end."""
    return 0.05 * math.log2(128 / rank)


def barely(rank: int) -> float:
    """Ranks 8 and 16 lose just more than the margin: the hardest case for a certificate."""
    return {4: 0.06, 8: 0.013, 16: 0.013}.get(rank, 0.0)


@dataclass(frozen=True)
class World:
    """A true loss surface and how it is sampled."""

    lost: object = settled
    curvature: float = 0.15
    """Share of the gain lost a squared decade from the best learning rate."""
    best_log_rate: float = -3.0
    per_log_examples: float = 0.2
    """Nats a token that each unit of ln(training examples) buys at the best."""
    drift: float = 0.0
    """Share of the gain by which a doubling of the rank pays more at e times the data."""
    seed_share: float = 0.002
    alone: bool = False
    """Whether every run has luck of its own; else runs of a seed share most of it."""
    shared: float = 0.6
    """Standard deviation of what all settings have in common on an example, nats a token."""
    smooth: float = 0.03
    """… of what changes smoothly with rank and learning rate."""
    own: float = 0.03
    """… of what is particular to a run."""
    ranks: tuple[int, ...] = RANKS
    rates: tuple[float, ...] = RATES
    sizes: tuple[int, ...] = (ALL // 2, ALL)
    seeds: int = 1
    examples: int = 800
    base: float = BASE
    frequency: float = FREQUENCY
    extra: tuple[tuple[int, float], ...] = field(default=())
    """Further (rank, learning rate) at every size."""

    def truth(self, rank: int, rate: float, n: int = ALL) -> float:
        x = math.log10(rate) - self.best_log_rate
        more = math.log(ALL / n)
        share = self.lost(rank) + self.curvature * x**2 + self.drift * more * math.log2(rank / 16)  # type: ignore[operator]
        return BEST + GAIN * share + self.per_log_examples * more

    def gain_lost(self, rank: int, rate: float) -> float:
        best = min(self.truth(r, lr) for r in self.ranks for lr in self.rates)
        return 100 * (self.truth(rank, rate) - best) / (self.base - best)

    def but(self, **changes: object) -> World:
        return replace(self, **changes)  # type: ignore[arg-type]


def draw(world: World, seed: int = 0) -> Evidence:
    """Evidence from ``world``: examples with common, smooth and own parts, and one draw of luck a run."""
    rng = np.random.default_rng([17, seed])
    E = world.examples
    grid = [(r, lr) for r in world.ranks for lr in world.rates] + list(world.extra)
    runs = [(r, lr, s, n) for n in world.sizes for r, lr in grid for s in range(world.seeds)]
    tokens_E = np.maximum(2, rng.lognormal(3.0, 0.5, E)).astype(int)
    common_E = rng.normal(0, world.shared, E)
    by_rank_E, by_rate_E, to_base_E = rng.normal(0, world.smooth, (3, E))
    right_E = rng.binomial(tokens_E, 0.8)
    luck_C = _luck(world, runs, seed)
    loss_CE = np.empty((len(runs), E))
    for c, (rank, rate, run_seed, n) in enumerate(runs):
        own = np.random.default_rng([18, seed, rank, round(rate * 1e7), run_seed, n])
        level = world.truth(rank, rate, n)
        level *= 1 + world.seed_share * (rate / 1e-3) ** 0.4 * luck_C[c]
        smooth_E = by_rank_E * math.log2(rank / 16) / 3 + by_rate_E * (math.log10(rate) + 3)
        loss_CE[c] = tokens_E * (level + common_E + smooth_E + own.normal(0, world.own, E))
    rank_C = np.array([r for r, *_ in runs])
    return Evidence(
        rank_C=rank_C,
        alpha_C=np.array([float(alpha_for(int(r))) for r in rank_C]),
        learning_rate_C=np.array([lr for _, lr, *_ in runs]),
        seed_C=np.array([s for _, _, s, _ in runs]),
        examples_C=np.array([n for *_, n in runs]),
        loss_CE=loss_CE,
        right_CE=np.tile(right_E, (len(runs), 1)),
        tokens_E=tokens_E,
        scores_E=np.arange(E) % 2 == 1,
        base_loss_E=tokens_E * (world.base + 1.2 * common_E + to_base_E),
        base_right_E=np.zeros(E, int),
        frequency_loss_E=tokens_E * (world.frequency + common_E),
        all_examples=ALL,
    )


def _luck(world: World, runs: list[tuple[int, float, int, int]], seed: int) -> np.ndarray:
    """Of variance 1: 45 % shared by all runs of a seed at a size, 35 % by those of similar rank and learning rate, the rest their own."""
    found = np.empty(len(runs))
    for n in world.sizes:
        for s in range(world.seeds):
            here = [c for c, (_, _, run_seed, size) in enumerate(runs) if (run_seed, size) == (s, n)]
            x = np.array([[math.log2(runs[c][0]) / 5, math.log10(runs[c][1]) / 0.45] for c in here])
            near = 0.35 * np.exp(-0.5 * np.sum((x[:, None] - x) ** 2, axis=2))
            own = 1.0 if world.alone else 0.2
            covariance = own * np.eye(len(here)) + (0.0 if world.alone else 1.0) * (0.45 + near)
            rng = np.random.default_rng([19, seed, s, n])
            found[here] = np.linalg.cholesky(covariance) @ rng.standard_normal(len(here))
    return found


def take(evidence: Evidence, runs: np.ndarray | None = None, examples: np.ndarray | None = None) -> Evidence:
    """Some of the runs and examples, in the order given."""
    C = np.arange(len(evidence.rank_C)) if runs is None else runs
    E = np.arange(len(evidence.tokens_E)) if examples is None else examples
    return replace(
        evidence,
        **{
            f"{k}_C": getattr(evidence, f"{k}_C")[C]
            for k in ("rank", "alpha", "learning_rate", "seed", "examples")
        },
        **{f"{k}_CE": getattr(evidence, f"{k}_CE")[np.ix_(C, E)] for k in ("loss", "right")},
        **{
            f"{k}_E": getattr(evidence, f"{k}_E")[E]
            for k in ("tokens", "scores", "base_loss", "base_right", "frequency_loss")
        },
    )


__all__ = ["ALL", "BASE", "BEST", "GAIN", "RANKS", "RATES", "World", "barely", "ceiling", "draw", "equivalent_learning_rate",
           "flat", "settled", "take"]  # fmt: skip
