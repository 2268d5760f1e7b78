"""How many evaluations a race of cuts takes, and what it names, on adapters whose losses are known.

    python bench/race_price.py [--races 6]

Four shapes of loss against rank, three sizes of noise; 600 rows to decide and as many to score. The noise of two ranks is the more alike
the larger both are, as cuts of one adapter are. Prints evaluations of a row (the bare model's included) and the names.
"""

from __future__ import annotations

import argparse
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rightrank.bank.cut import Update
from rightrank.bank.evaluate import HeldOut
from rightrank.bank.targets import Target
from rightrank.cuts.race import race, versions_of
from rightrank.stats.cuts import decide_cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rightrank.bank.cut import Cut

RANK, BASE_LOSS, ROWS = 128, 3.0, 600
SHAPES: dict[str, Callable[[int, float], float]] = {
    "flat from 4": lambda rank, c: 2 + {1: 0.03, 2: 0.012}.get(rank, 0) + (1 - c) * 0.05,
    "slowly flat": lambda rank, c: 2 + 0.04 / rank + (1 - c) * 0.05,
    "rate too high": lambda rank, c: 2 + 0.02 / rank + (c - 0.7) ** 2 * 0.2,
    "every rank counts": lambda rank, c: 2 + 0.6 / rank + (1 - c) * 0.05,
}
NOISES = (0.02, 0.06, 0.15)
"""Nats a token of a row, of the smallest ranks; gains are about 1."""


class Known:
    """In the place of ``CutEvaluation``."""

    def __init__(self, loss: Callable[[int, float], float], noise: float, seed: int) -> None:
        self.loss, self.noise, self.seed, self.evaluated = loss, noise, seed, 0

    def bare(self, examples: Sequence[Any]) -> HeldOut:
        self.evaluated += len(examples)
        return _held_out([[(BASE_LOSS + e.hard) * e.trained_tokens for e in examples]])

    def cuts(self, cuts: Sequence[Cut], examples: Sequence[Any]) -> HeldOut:
        self.evaluated += len(cuts) * len(examples)
        return _held_out([[self._one(cut.rank, cut.factor, e) for e in examples] for cut in cuts])

    def _one(self, rank: int, factor: float, example: Any) -> float:
        luck = np.random.default_rng((self.seed, example.number)).standard_normal(9)
        left_out = luck[int(math.log2(rank)) : 7].sum() / math.sqrt(3)
        noise = self.noise * (left_out + 2 * (1 - factor) * luck[8])
        return float((self.loss(rank, factor) + example.hard + noise) * example.trained_tokens)


def _held_out(losses: list[list[float]]) -> HeldOut:
    return HeldOut(np.array(losses), np.zeros((len(losses), len(losses[0])), dtype=np.int64))


def rows(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [
        SimpleNamespace(trained_tokens=int(rng.integers(4, 40)), hard=rng.normal(), number=number)
        for number in range(2 * ROWS)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=6)
    races = parser.parse_args().races
    eye = torch.eye(2 * RANK)
    updates = (Update(Target("m", 2 * RANK, 2 * RANK), eye[:, :RANK], torch.ones(RANK), eye[:RANK]),)
    for name, loss in SHAPES.items():
        for noise in NOISES:
            evaluated, named = [], []
            for seed in range(races):
                known, examples = Known(loss, noise, seed), rows(seed + 1)
                found = race(versions_of(updates, RANK), updates, examples[:ROWS], examples[ROWS:], known)
                decision = decide_cut(found.evidence, replicates=300)
                evaluated.append(known.evaluated)
                named.append(f"{decision.status} {found.versions[decision.chosen].label}")
            print(f"{name:18} noise {noise:.2f}: {np.mean(evaluated):6.0f} evaluations; {', '.join(named)}")


if __name__ == "__main__":
    main()
