"""Loss surfaces whose truth is known, and measurements drawn from them without any training.

The loss of a configuration: a quadratic in log learning rate around a best one that may move with rank, on a function of rank that
saturates. Dimensions: K configurations, E held-out examples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rightrank.probe.loss_table import Configuration, Pack, PackResult
from rightrank.probe.plan import Plan
from rightrank.recipe import equivalent_learning_rate
from rightrank.stats.evidence import Evidence

E = 60
TOKENS_E = 10 + np.arange(E) % 7
SCORES_E = np.arange(E) >= E // 2
BASE, GAIN = 3.0, 1.5


@dataclass(frozen=True)
class World:
    """Nats a token."""

    best_rate: float = 1e-3
    slope: float = 0.0
    """Decades by which the best learning rate moves for each doubling of the rank above 16."""
    curvature: float = 0.3
    """Share of the gain lost a squared decade from the best learning rate."""
    saturates_at: float = 16.0
    """Above this rank nothing is gained; each halving below loses 4 % of the gain."""
    diverges_above: float = 1.0
    """Equivalent learning rate."""
    all_examples: int = 1600
    noise: float = 0.003

    def loss(self, c: Configuration, examples: int) -> float:
        rate = equivalent_learning_rate(c.rank, c.alpha, c.learning_rate)
        if rate > self.diverges_above:
            return math.inf
        away = math.log10(rate / self.best_rate) - self.slope * math.log2(c.rank / 16)
        short = max(0.0, math.log2(self.saturates_at / c.rank))
        share = self.curvature * away**2 + 0.04 * short + 0.05 * math.log2(self.all_examples / examples)
        return BASE - GAIN * (1 - share)

    def losses_E(self, c: Configuration, examples: int) -> np.ndarray:
        key = [c.rank, round(c.learning_rate * 1e9), round(c.alpha * 1e3), c.seed, examples]
        own = np.random.default_rng(key)
        shared = np.random.default_rng(0).normal(0, 0.3, E)
        level = self.loss(c, examples) + own.normal(0, self.noise)
        return TOKENS_E * (level + shared + own.normal(0, 0.02, E))

    def result(self, pack: Pack, seconds: float = 1.0) -> PackResult:
        loss_KE = np.stack([self.losses_E(c, pack.examples) for c in pack.configurations])
        right_KE = np.where(np.isfinite(loss_KE), TOKENS_E // 2, 0)
        if not pack.with_score:
            loss_KE[:, SCORES_E], right_KE[:, SCORES_E] = np.nan, -1
        trained = tuple(float(v) if np.isfinite(v) else None for v in loss_KE[:, 0])
        return PackResult(loss_KE, right_KE, trained, 100, 1000, seconds)

    def base(self) -> PackResult:
        shared = np.random.default_rng(0).normal(0, 0.3, E)
        return PackResult((TOKENS_E * (BASE + shared))[None], np.zeros((1, E), int), (None,), 0, 0, 1.0)


FREQUENCY_E = TOKENS_E * 6.0


def evidence_of(
    world: World, done: list[tuple[Configuration, int]], final: int, *, starved: bool = False
) -> Evidence:
    """What a probe would know after training ``done``; whatever is smaller than ``final`` was not scored."""
    results = [world.result(Pack(0, n, (c,), with_score=n == final)) for c, n in done]
    return Evidence(
        rank_C=np.array([c.rank for c, _ in done]),
        alpha_C=np.array([float(c.alpha) for c, _ in done]),
        learning_rate_C=np.array([c.learning_rate for c, _ in done]),
        seed_C=np.array([c.seed for c, _ in done]),
        examples_C=np.array([n for _, n in done]),
        loss_CE=np.concatenate([r.loss_KE for r in results]),
        right_CE=np.concatenate([r.right_KE for r in results]),
        tokens_E=TOKENS_E,
        scores_E=SCORES_E,
        base_loss_E=world.base().loss_KE[0],
        base_right_E=np.zeros(E, int),
        frequency_loss_E=FREQUENCY_E,
        all_examples=world.all_examples,
        starved=starved,
    )


def plan_of(breadth: str = "plain", scout: int = 400, final: int = 1600, **changes) -> Plan:
    ranks = {"lean": (8, 32, 128), "rates": (8, 32, 128)}.get(breadth, (4, 8, 16, 32, 64, 128))
    scouts = {"lean": (32,), "rates": (32,)}.get(breadth, (8, 32, 128))
    facts = {"ranks": ranks, "scout_ranks": scouts, "breadth": breadth, "starved": False, **changes}
    return Plan(scout, final, decide=E // 2, score=E // 2, **facts)
