"""The loss of last hidden states, a piece at a time, its gradient taken along: no more logits are held than one piece has.

Dimensions: M rows of hidden states, H hidden width, V words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Head = Callable[[Tensor], Tensor]
    """Hidden states [M, H] to logits [M, V], each row by itself."""
    WithGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """``nats_and_gradient``, or the same compiled."""


class HeadLoss(torch.autograd.Function):
    """Nats of ``targets_M`` under ``head``, row by row; the gradient of each piece is computed before the next piece's logits are.

    A row's loss depends on that row alone, so its gradient is known up to the factor that backward brings.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows_MH: Tensor,
        targets_M: Tensor,
        head: Head,
        size: int,
        by_hand: WithGradient | None = None,
    ) -> Tensor:
        """Float[rows M H], Int[targets M] -> Float[nats M], ``size`` rows at a time. ``by_hand`` in autograd's place where given."""
        losses, gradients = [], []
        for start in range(0, len(rows_MH), size):
            piece = rows_MH[start : start + size].detach().requires_grad_()
            targets = targets_M[start : start + size]
            with torch.enable_grad():
                logits_MV = head(piece)
                if by_hand is None:
                    loss = nats(logits_MV, targets)
                    (gradient,) = torch.autograd.grad(loss.sum(), piece)
                else:
                    loss, wanted_MV = by_hand(logits_MV.detach(), targets)
                    (gradient,) = torch.autograd.grad(logits_MV, piece, wanted_MV)
            losses.append(loss.detach())
            gradients.append(gradient)
        ctx.save_for_backward(torch.cat(gradients) if gradients else torch.zeros_like(rows_MH))
        return torch.cat(losses) if losses else rows_MH.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Returns the gradient of ``rows_MH``."""
        (gradient_MH,) = ctx.saved_tensors
        return (gradient_MH * gradients[0][:, None]).to(gradient_MH.dtype), None, None, None, None


@torch.no_grad()
def judge(rows_MH: Tensor, targets_M: Tensor, head: Head, size: int) -> tuple[Tensor, Tensor]:
    """Nats, and 1 where the target is the greedy choice, without gradients."""
    losses, rights = [], []
    for start in range(0, max(1, len(rows_MH)), size):
        logits_MV, targets = head(rows_MH[start : start + size]), targets_M[start : start + size]
        losses.append(nats(logits_MV, targets))
        rights.append((logits_MV.argmax(-1) == targets).long())
    return torch.cat(losses), torch.cat(rights)


def nats(logits_MV: Tensor, targets_M: Tensor) -> Tensor:
    """-log p of each target, in float32 at least."""
    wide = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    return F.cross_entropy(wide, targets_M, reduction="none")


def nats_and_gradient(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
    """-log p of each target and its gradient by the logits, in their dtype: written so that a compiler needs no copy in float32."""
    wide = logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()
    whole_M1 = wide.logsumexp(-1, keepdim=True)
    chosen_MV = torch.arange(wide.shape[1], device=wide.device) == targets_M[:, None]
    nats_M = whole_M1[:, 0] - wide.gather(1, targets_M[:, None])[:, 0]
    return nats_M, ((wide - whole_M1).exp() - chosen_MV.to(wide.dtype)).to(logits_MV.dtype)
