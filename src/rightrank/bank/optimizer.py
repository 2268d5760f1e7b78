"""Clip and AdamW, each adapter by its own norm and learning rate. PyTorch's own AdamW: one parameter group an adapter."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rightrank.recipe import Recipe, learning_rate_factor

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.adapters import AdapterBank


class BankOptimizer:
    """Updates every adapter of a bank by its own gradient; an adapter that diverges is silenced and stays so."""

    def __init__(self, bank: AdapterBank, recipe: Recipe, steps: int) -> None:
        self.bank = bank
        self.recipe = recipe
        self.steps = steps
        self.done = 0
        self.diverged = [False] * len(bank.specs)
        self._adamw = torch.optim.AdamW(
            [{"params": [master], "lr": 0.0} for master in bank.masters],
            betas=recipe.adam_betas,
            eps=recipe.adam_epsilon,
            weight_decay=recipe.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def step(self, loss_K: Float[Tensor, " K"]) -> list[float]:
        """One update from the gradients that lie in the bank; ``loss_K`` tells which adapters diverged.

        Returns each adapter's gradient norm before clipping.
        """
        gradients = self.bank.gradients
        norm_K = torch.stack(torch._foreach_norm(gradients))
        norms, losses = torch.stack([norm_K.double(), loss_K.to(norm_K.device).double()]).tolist()
        for k, (norm, loss) in enumerate(zip(norms, losses, strict=True)):
            if not self.diverged[k] and not (math.isfinite(norm) and math.isfinite(loss)):
                self.diverged[k] = True
                self.bank.silence(k)
        if self.recipe.max_grad_norm > 0:
            # As torch.nn.utils.clip_grad_norm_ does it, an adapter at a time.
            shrink_K = (self.recipe.max_grad_norm / (norm_K + 1e-6)).clamp(max=1.0).nan_to_num(0.0)
            for gradient, shrink, norm in zip(gradients, shrink_K.unbind(), norms, strict=True):
                if (
                    not norm + 1e-6 < self.recipe.max_grad_norm
                ):  # a factor of 1 is spared, a pass over all the numbers
                    gradient.mul_(shrink)
        factor = learning_rate_factor(self.recipe, self.done, self.steps)
        for k, (group, spec) in enumerate(zip(self._adamw.param_groups, self.bank.specs, strict=True)):
            group["lr"] = 0.0 if self.diverged[k] else spec.learning_rate * factor
        self._adamw.step()
        for k in (k for k, lost in enumerate(self.diverged) if lost):
            self.bank.silence(k)
        self.bank.refresh()
        self.done += 1
        return list(norms)
