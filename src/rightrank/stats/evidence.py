"""What the decision rests on: every finished training run as rows of arrays. No torch, no files.

Dimensions: C finished runs (a configuration at a size of the training set), E held-out examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Evidence:
    """Held-out results of every finished run. Runs that diverged carry ``inf`` losses. All on the same held-out examples, in one order."""

    rank_C: Int[np.ndarray, " C"]
    alpha_C: Float[np.ndarray, " C"]
    learning_rate_C: Float[np.ndarray, " C"]
    seed_C: Int[np.ndarray, " C"]
    examples_C: Int[np.ndarray, " C"]
    """Training examples of the run (nested subsets: a larger one contains every smaller one)."""
    loss_CE: Float[np.ndarray, "C E"]
    """Nats, summed over the trained tokens of each held-out example; NaN where that example was not evaluated."""
    right_CE: Int[np.ndarray, "C E"]
    """Trained tokens of the example that are the greedy choice under teacher forcing; -1 where not evaluated."""
    tokens_E: Int[np.ndarray, " E"]
    """Trained tokens of each held-out example."""
    scores_E: Bool[np.ndarray, " E"]
    """True: the example only scores ("score"). False: it chooses ("decide")."""
    base_loss_E: Float[np.ndarray, " E"]
    """Nats, summed per example, of the model before any training; NaN where not evaluated."""
    base_right_E: Int[np.ndarray, " E"]
    frequency_loss_E: Float[np.ndarray, " E"]
    """Nats, summed per example, under the frequencies of tokens in the training completions: what needs no model at all."""
    all_examples: int
    """Training examples of the user's own full run."""
    starved: bool = False
    """Some rung had fewer than 35 optimiser steps because the budget forbade more: nothing may then be certified."""
