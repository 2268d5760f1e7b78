"""Looks at a run on its way: held-out loss before the end, which tells overfitting from learning. Read without torch.

A look is not what a shorter run would have reached: its learning rate had not come down.

Dimensions: K configurations, L looks, X held-out examples that are looked at (the first of those that decide).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from rightrank.recipe import Recipe

# What looks may cost: with so few, and on a quarter of the rows that decide, a run that is also judged at its end costs a tenth more
# evaluation an epoch at most. Chosen.
MOST_LOOKS = 4
SHARE_OF_DECIDE = 4
FEWEST_ROWS = 32


@dataclass(frozen=True)
class Looks:
    """Held-out and training loss of K configurations on their way."""

    epochs_L: tuple[float, ...]
    """Passes through the data done by then."""
    loss_KLX: Float[np.ndarray, "K L X"]
    """Nats summed per held-out example; infinite where the configuration had diverged."""
    train_loss_KL: Float[np.ndarray, "K L"]
    """Training nats a token since the look before."""

    @classmethod
    def joined(cls, parts: Sequence[Looks | None]) -> Looks | None:
        """Of configurations that were trained in parts; None where one was not looked at."""
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return None
        return cls(
            known[0].epochs_L,
            np.concatenate([part.loss_KLX for part in known]),
            np.concatenate([part.train_loss_KL for part in known]),
        )


def look_steps(recipe: Recipe, examples: int) -> tuple[int, ...]:
    """Steps after which a run over ``examples`` rows is looked at: whole epochs, halfway in a run of one; never its last step."""
    steps = recipe.steps(examples)
    a_pass = math.ceil(examples / recipe.batch_size)
    whole = [step for step in range(a_pass, steps, a_pass) if step < steps] or [steps // 2]
    if len(whole) > MOST_LOOKS:
        whole = [whole[round(i * (len(whole) - 1) / (MOST_LOOKS - 1))] for i in range(MOST_LOOKS)]
    return tuple(step for step in whole if step)


def look_rows(decide: int) -> int:
    """Of ``decide`` held-out rows, how many a look takes in."""
    return min(decide, max(FEWEST_ROWS, decide // SHARE_OF_DECIDE))
