"""What every adapter adds to its layer: y = base + scale · (x Aᵀ) Bᵀ, for K adapters in one call.

Written twice: a loop over the adapters that anyone can read and every device can run, and grouped matrix products, ragged in the rank,
for bfloat16 on CUDA. Gradients of A and B go straight into the adapters' own gradient vectors; autograd only carries x's and the base's.

Dimensions: K adapters, T tokens of the row each of them sees, R rows of all ranks together, I numbers in, O numbers out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rightrank.bank.adapters import Module


def grouped_products_run_here(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch's grouped matrix product serves this device and dtype (CUDA of compute capability 8 up, bfloat16)."""
    return (
        device.type == "cuda"
        and dtype == torch.bfloat16
        and hasattr(torch, "_grouped_mm")
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


class LoraProduct(torch.autograd.Function):
    """base + scale · (x Aᵀ) Bᵀ for every adapter. ``anchor`` makes autograd come by even where neither x nor base needs a gradient."""

    @staticmethod
    def forward(
        ctx: Any, x_KTI: Tensor, base_KTO: Tensor, anchor: Tensor, module: Module, grouped: bool
    ) -> Tensor:
        """Float[x K T I], Float[base K T O] of one dtype -> Float[y K T O]."""
        ctx.module, ctx.grouped = module, grouped
        ctx.save_for_backward(x_KTI)
        return _down_up(x_KTI, base_KTO, module, grouped)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        """Adds dA and dB to the adapters' gradients; returns dx, and the base's, which is y's."""
        (x_KTI,) = ctx.saved_tensors
        dy_KTO = gradients[0].contiguous()
        backward = _backward_grouped if ctx.grouped else _backward_loop
        return backward(ctx.module, x_KTI, dy_KTO, ctx.needs_input_grad[0]), dy_KTO, None, None, None


def _down_up(x_KTI: Tensor, base_KTO: Tensor, module: Module, grouped: bool) -> Tensor:
    if grouped:
        h_TR = torch._grouped_mm(x_KTI, module.a_RI.T, offs=module.row_ends_K) * module.scale_R
        return base_KTO + torch._grouped_mm(h_TR, module.b_RO, offs=module.row_ends_K)
    y_KTO = torch.empty_like(base_KTO)
    for k, rank in enumerate(module.ranks_K):
        if rank:
            rows = module.rows(k)
            h_Tr = (x_KTI[k] @ module.a_RI[rows].T) * module.scale_R[rows]
            torch.addmm(base_KTO[k], h_Tr, module.b_RO[rows], out=y_KTO[k])
        else:
            y_KTO[k] = base_KTO[k]
    return y_KTO


def _backward_loop(module: Module, x_KTI: Tensor, dy_KTO: Tensor, wants_dx: bool) -> Tensor | None:
    dx_KTI = torch.empty_like(x_KTI) if wants_dx else None
    for k, rank in enumerate(module.ranks_K):
        if not rank:
            if dx_KTI is not None:
                dx_KTI[k].zero_()
            continue
        rows = module.rows(k)
        a_rI, b_rO, scale_r = module.a_RI[rows], module.b_RO[rows], module.scale_R[rows]
        h_Tr = (x_KTI[k] @ a_rI.T) * scale_r
        dh_Tr = (dy_KTO[k] @ b_rO.T) * scale_r
        module.grad_b[k].add_(h_Tr.T @ dy_KTO[k])
        module.grad_a[k].add_(dh_Tr.T @ x_KTI[k])
        if dx_KTI is not None:
            torch.mm(dh_Tr, a_rI, out=dx_KTI[k])
    return dx_KTI


def _backward_grouped(module: Module, x_KTI: Tensor, dy_KTO: Tensor, wants_dx: bool) -> Tensor | None:
    ends = module.row_ends_K
    h_TR = torch._grouped_mm(x_KTI, module.a_RI.T, offs=ends) * module.scale_R
    dh_TR = torch._grouped_mm(dy_KTO, module.b_RO.T, offs=ends) * module.scale_R
    _add_by_adapter(module, module.grad_b, torch._grouped_mm(h_TR.T, dy_KTO, offs=ends))
    _add_by_adapter(module, module.grad_a, torch._grouped_mm(dh_TR.T, x_KTI, offs=ends))
    return torch._grouped_mm(dh_TR, module.a_RI, offs=ends) if wants_dx else None


def _add_by_adapter(module: Module, gradients: list[Tensor], product_RW: Float[Tensor, "R W"]) -> None:
    ranked = [k for k, rank in enumerate(module.ranks_K) if rank]
    torch._foreach_add_(
        [gradients[k] for k in ranked], [product_RW[module.rows(k)].to(gradients[k].dtype) for k in ranked]
    )
