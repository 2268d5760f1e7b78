"""The settings that a probe may train: learning rates by half-decades, the project's own alpha, the guides' settings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rightrank.probe.foresee import SAME, rounded
from rightrank.probe.loss_table import Configuration
from rightrank.recipe import alpha_for

if TYPE_CHECKING:
    from rightrank.probe.loss_table import Role
    from rightrank.recipe import Layers

# The grid of learning rates: half-decades, 1 and 3 times powers of ten, within what anyone trains adapters with.
LOWEST, HIGHEST = 1e-6, 1e-1
GUIDE_RANKS = (16, 8, 32, 64, 128)
GUIDE_LEARNING_RATE = 2e-4
"""alpha = 2r and 2e-4: what most guides to LoRA print (QLoRA's appendix, Unsloth's and Axolotl's examples)."""


def prior_learning_rate(hidden: int) -> float:
    """Where to start looking, at rank 16 and alpha 32.

    Published: 10 × full fine-tuning's 5e-5, growing as (2000 / hidden width)^0.78, fitted to Llama models from 1B to 70B (Thinking
    Machines, LoRA Without Regret, 2025). A start only: the grid grows from there until the best is inside.
    """
    return min(max(on_grid(5e-4 * (2000 / hidden) ** 0.78), LOWEST), HIGHEST)


def on_grid(learning_rate: float) -> float:
    """The nearest half-decade."""
    return half_decade(round(2 * math.log10(learning_rate)))


def half_decade(index: int) -> float:
    """1, 3, 10, 30, …: ``half_decade(-6)`` is 1e-3, ``half_decade(-5)`` 3e-3."""
    return float(f"{'3' if index % 2 else '1'}e{index // 2}")


def shifted(learning_rate: float, halves: int) -> float:
    """``halves`` half-decades further on the grid."""
    return half_decade(round(2 * math.log10(learning_rate)) + halves)


def sensible(learning_rate: float) -> bool:
    """Whether anyone trains adapters so."""
    return LOWEST <= learning_rate <= HIGHEST


def configuration(
    rank: int, learning_rate: float, role: Role, seed: int = 0, layers: Layers = "all"
) -> Configuration:
    """A configuration under the project's own scale, on whatever layers."""
    return Configuration(rank, alpha_for(rank), learning_rate, seed, role, layers)


def typed(learning_rate: float) -> float:
    """As a person would type it: the point of the grid that it stands for, else two digits."""
    return (
        near
        if abs(math.log10((near := on_grid(learning_rate)) / learning_rate)) < SAME
        else rounded(math.log10(learning_rate))
    )
