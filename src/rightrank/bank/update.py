"""Clip, AdamW and the working copies of all adapters in one pass over flat vectors, with nothing the host must wait for.

The arithmetic of ``torch.nn.utils.clip_grad_norm_`` and ``torch.optim.AdamW``, an adapter at a time; a diverged adapter is set to zero
and stays so. Written twice: in plain PyTorch, and as a Triton kernel that reads and writes every number once.

Dimensions: K adapters, P numbers of all of them, N blocks of ``BLOCK`` numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rightrank.bank.flat import BLOCK
from rightrank.recipe import Recipe, learning_rate_factor

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.adapters import AdapterBank


def working_copy(bank: AdapterBank) -> Float[Tensor, " P"]:
    """The masters in the base's dtype, for the products: the masters themselves where that is theirs."""
    return bank.flat_master.to(bank.dtype)


class FlatUpdate:
    """One update of every adapter of ``bank`` after another, each a few launches without a synchronisation: it can be captured."""

    def __init__(self, bank: AdapterBank, recipe: Recipe, steps: int) -> None:
        self.bank, self.recipe, self.steps = bank, recipe, steps
        self.done = 0
        device, count = bank.device, len(bank.specs)
        self.moment, self.square = torch.zeros_like(bank.flat_master), torch.zeros_like(bank.flat_master)
        self.working = working_copy(bank)
        self.alive_K = torch.ones(count, device=device)
        """1 until an adapter diverges, 0 from then on."""
        self.numbers_3K = torch.tensor([[0.0], [1.0], [1.0]], device=device).repeat(1, count)
        """Learning rates now, and the two bias corrections: what ``prepare`` brings up to date before every update."""
        self.loss_K = torch.zeros(count, device=device)
        """Training loss of the batch, nats a token: micro-steps add to it, the update forgets it."""
        self.kept_loss_K = torch.zeros(count, device=device)
        """Training loss of the batch of the last update."""
        owner = torch.zeros(bank.flat_master.numel() // BLOCK, dtype=torch.int32)
        for k, begin in enumerate(bank.plan.begins_K):
            owner[begin // BLOCK :] = k
        self._owner_N = owner.to(device)

    def prepare(self) -> None:
        """Bring the numbers of the next update to the device; the host does not wait."""
        factor = learning_rate_factor(self.recipe, self.done, self.steps)
        self.done += 1
        (one, two), now = self.recipe.adam_betas, self.done
        rates = [spec.learning_rate * factor for spec in self.bank.specs]
        count = len(rates)
        numbers = torch.tensor([rates, [1 - one**now] * count, [1 - two**now] * count], dtype=torch.float32)
        if self.bank.device.type == "cuda":
            numbers = numbers.pin_memory()
        self.numbers_3K.copy_(numbers, non_blocking=True)

    @torch.no_grad()
    def apply(self) -> None:
        """One update from the gradients that lie in the bank, which are zero afterwards."""
        norm_K = torch.stack(torch._foreach_norm(self.bank.gradients)).float()
        fine_K = torch.isfinite(norm_K) & torch.isfinite(self.loss_K)
        self.alive_K.mul_(fine_K)
        shrink_K = torch.ones_like(norm_K)
        if self.recipe.max_grad_norm > 0:
            shrink_K = (self.recipe.max_grad_norm / (norm_K + 1e-6)).clamp(max=1.0)
        if self.bank.device.type == "cuda":
            self._apply_fused(shrink_K)
        else:
            self._apply_plainly(shrink_K)
        self.kept_loss_K.copy_(self.loss_K)
        self.loss_K.zero_()

    def _apply_plainly(self, shrink_K: Float[Tensor, " K"]) -> None:
        one, two = self.recipe.adam_betas
        master, gradient = self.bank.flat_master, self.bank.flat_gradient

        def spread(value_K: Tensor) -> Tensor:
            return value_K[self._owner_N.long()].repeat_interleave(BLOCK).to(master.dtype)

        alive = spread(self.alive_K) > 0
        rate, first, second = (spread(row_K) for row_K in self.numbers_3K)
        gradient.mul_(spread(shrink_K))
        gradient.masked_fill_(~alive, 0.0)
        self.moment.lerp_(gradient, 1 - one)
        self.square.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        master.mul_(1 - rate * self.recipe.weight_decay)
        master.sub_(
            rate / first * self.moment / (self.square.sqrt() / second.sqrt() + self.recipe.adam_epsilon)
        )
        for vector in (master, self.moment, self.square):
            vector.masked_fill_(~alive, 0.0)
        gradient.zero_()
        self.working.copy_(master)

    def _apply_fused(self, shrink_K: Float[Tensor, " K"]) -> None:
        from rightrank.bank.kernels import update

        update(
            self.bank.flat_master,
            self.bank.flat_gradient,
            self.moment,
            self.square,
            self.working,
            self._owner_N,
            torch.cat([self.numbers_3K, shrink_K[None], self.alive_K[None]]),
            betas=self.recipe.adam_betas,
            epsilon=self.recipe.adam_epsilon,
            weight_decay=self.recipe.weight_decay,
        )

    def diverged(self) -> list[bool]:
        """Which adapters have diverged so far. Waits for the device."""
        return [not alive for alive in self.alive_K.tolist()]
