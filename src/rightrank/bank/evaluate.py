"""Held-out loss and greedy accuracy of every adapter, example by example, from one forward pass.

Dimensions: K adapters, E held-out examples, S trained positions of a packed row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from rightrank.bank.batch import Batch, split_to_capacity

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from rightrank.bank.base_model import BaseModel
    from rightrank.data import TokenizedExample


class Judge(Protocol):
    """``Forward`` and ``StaticForward``, in their contexts."""

    base: BaseModel
    adapters: int
    shares: bool

    def token_losses(self, batch: Batch) -> tuple[Float[Tensor, "K S"], Int[Tensor, "K S"]]:
        """Nats of every trained token, and 1 where it is the greedy choice, for every adapter."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out results of K adapters on E examples."""

    loss_KE: Float[np.ndarray, "K E"]
    """Nats, summed over each example's trained tokens."""
    right_KE: Int[np.ndarray, "K E"]
    """Trained tokens that are the greedy choice under teacher forcing."""


@torch.no_grad()
def evaluate(
    forward: Judge,
    examples: Sequence[TokenizedExample],
    *,
    capacity: int,
    on_rows: Callable[[int], None] = lambda examples_done: None,
) -> HeldOut:
    """Evaluate every adapter on every example, in rows of at most ``capacity`` tokens of like length."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].token_ids_T))
    loss_KE = np.zeros((forward.adapters, len(examples)))
    right_KE = np.zeros((forward.adapters, len(examples)), dtype=np.int64)
    place = 0
    for group in split_to_capacity([examples[i] for i in order], capacity):
        batch = Batch.of(group, forward.base.device, shares=forward.shares)
        loss_KS, right_KS = forward.token_losses(batch)
        size = (forward.adapters, len(group))
        sums = torch.zeros(size, dtype=torch.float64, device=loss_KS.device).index_add_(
            1, batch.example_S, loss_KS.double()
        )
        hits = torch.zeros(size, dtype=torch.long, device=loss_KS.device).index_add_(
            1, batch.example_S, right_KS
        )
        where = order[place : place + len(group)]
        loss_KE[:, where] = sums.cpu().numpy()
        right_KE[:, where] = hits.cpu().numpy()
        place += len(group)
        on_rows(len(group))
    return HeldOut(loss_KE, right_KE)
