"""The product that every adapter adds to its layer: y = W x + scale · (x Aᵀ) Bᵀ, for K adapters in one call.

Two opaque operators that compilers and graphs take as they are: one that owns the layer's own product, which is then added by the matrix
product itself on top of the adapters' part (plain linear layers), and one for layers whose own product is somebody else's (4-bit ones,
Conv1D). Written twice: a loop over the adapters that anyone can read and every device can run, and Triton kernels for bfloat16 on CUDA.

Gradients of A and B go straight into the bank's flat gradient vector, a side effect of the backward operators that autograd does not see.

Dimensions: K adapters, T tokens of the row each of them sees, R rows of all ranks together, I numbers in, O numbers out, W either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rightrank.bank.flat import Layout, adapters_in

if TYPE_CHECKING:
    from collections.abc import Iterator


def fused_products_run_here(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the Triton kernels serve this device and dtype (CUDA of compute capability 8 up, bfloat16, Triton installed)."""
    if device.type != "cuda" or dtype != torch.bfloat16 or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


@torch.library.custom_op("rightrank::linear", mutates_args=())
def linear(
    x_MI: Tensor,
    weight_OI: Tensor,
    bias_O: Tensor | None,
    working: Tensor,
    gradient: Tensor,
    places_2K: Tensor,
    starts_K2: Tensor,
    tiles_N4: Tensor,
    scale_K: Tensor,
    rows_R: Tensor,
) -> tuple[Tensor, Tensor]:
    """(W x + b + adapters [K·T, O], h [T, R]); x is [K·T, I], adapter by adapter."""
    layout = Layout(places_2K, starts_K2, tiles_N4, scale_K, rows_R)
    if not x_MI.is_cuda:
        return _add(torch.nn.functional.linear(x_MI, weight_OI, bias_O), x_MI, working, layout)
    from rightrank.bank import kernels

    x_KTI = x_MI.contiguous().view(adapters_in(layout), -1, x_MI.shape[1])
    h_TR = kernels.shrink(x_KTI, working, 0, layout)
    y_KTO = kernels.expand(bias_O, h_TR, working, 1, layout, weight_OI.shape[0])
    return y_KTO.view(len(x_MI), -1).addmm_(x_MI, weight_OI.T), h_TR


@torch.library.custom_op("rightrank::add_lora", mutates_args=())
def add_lora(
    y_MO: Tensor,
    x_MI: Tensor,
    working: Tensor,
    gradient: Tensor,
    places_2K: Tensor,
    starts_K2: Tensor,
    tiles_N4: Tensor,
    scale_K: Tensor,
    rows_R: Tensor,
) -> tuple[Tensor, Tensor]:
    """(y + adapters [K·T, O], h [T, R]); x is [K·T, I], adapter by adapter."""
    return _add(y_MO, x_MI, working, Layout(places_2K, starts_K2, tiles_N4, scale_K, rows_R))


@torch.library.custom_op("rightrank::linear_backward", mutates_args=())
def linear_backward(
    dy_MO: Tensor,
    x_MI: Tensor,
    h_TR: Tensor,
    weight_OI: Tensor | None,
    working: Tensor,
    gradient: Tensor,
    places_2K: Tensor,
    starts_K2: Tensor,
    tiles_N4: Tensor,
    scale_K: Tensor,
    rows_R: Tensor,
) -> Tensor:
    """dx [K·T, I] of the adapters, and of W where it is given; adds dA and dB to ``gradient`` on the way."""
    layout = Layout(places_2K, starts_K2, tiles_N4, scale_K, rows_R)
    back = _backward_fused if x_MI.is_cuda else _backward_loop
    return back(dy_MO.contiguous(), x_MI, h_TR, weight_OI, working, gradient, layout)


@linear.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Any, working: Tensor, gradient: Tensor, *tables: Tensor
) -> tuple[Tensor, Tensor]:
    adapters = adapters_in(tables)
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0] // adapters, tables[4].shape[0])


@add_lora.register_fake
def _(y: Tensor, x: Tensor, working: Tensor, gradient: Tensor, *tables: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), x.new_empty(x.shape[0] // adapters_in(tables), tables[4].shape[0])


@linear_backward.register_fake
def _(dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, working, gradient, *tables = inputs
    ctx.save_for_backward(x, weight, output[1], working, gradient, *tables)
    ctx.mark_non_differentiable(output[1])


def _linear_backward(ctx: Any, dy_MO: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, weight, h, working, gradient, *tables = ctx.saved_tensors
    return linear_backward(dy_MO, x, h, weight, working, gradient, *tables), *[None] * 9


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, x, working, gradient, *tables = inputs
    ctx.save_for_backward(x, output[1], working, gradient, *tables)
    ctx.mark_non_differentiable(output[1])


def _add_backward(ctx: Any, dy_MO: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, h, working, gradient, *tables = ctx.saved_tensors
    return dy_MO, linear_backward(dy_MO, x, h, None, working, gradient, *tables), *[None] * 7


linear.register_autograd(_linear_backward, setup_context=_save_linear)
add_lora.register_autograd(_add_backward, setup_context=_save_add)


def _add(y_MO: Tensor, x_MI: Tensor, working: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    adapters = adapters_in(layout)
    x_KTI, y_KTO = x_MI.view(adapters, -1, x_MI.shape[1]), y_MO.view(adapters, -1, y_MO.shape[1])
    if x_MI.is_cuda:
        from rightrank.bank import kernels

        h_TR = kernels.shrink(x_KTI, working, 0, layout)
        out_KTO = kernels.expand(y_KTO, h_TR, working, 1, layout, y_MO.shape[1])
        return out_KTO.view(y_MO.shape), h_TR
    h_TR, out_KTO = x_MI.new_zeros(x_KTI.shape[1], len(layout.rows_R)), y_KTO.clone()
    for k, a_rI, b_rO, span in _adapters(working, layout, x_MI.shape[1], y_MO.shape[1]):
        h_TR[:, span] = (x_KTI[k] @ a_rI.T) * layout.scale_K[k]
        out_KTO[k] += h_TR[:, span] @ b_rO
    return out_KTO.view(y_MO.shape), h_TR


def _backward_loop(
    dy_MO: Tensor,
    x_MI: Tensor,
    h_TR: Tensor,
    weight_OI: Tensor | None,
    working: Tensor,
    gradient: Tensor,
    layout: Layout,
) -> Tensor:
    adapters, (width_in, width_out) = adapters_in(layout), (x_MI.shape[1], dy_MO.shape[1])
    x_KTI, dy_KTO = x_MI.view(adapters, -1, width_in), dy_MO.view(adapters, -1, width_out)
    dx_MI = torch.zeros_like(x_MI) if weight_OI is None else dy_MO @ weight_OI
    dx_KTI = dx_MI.view(adapters, -1, width_in)
    gradient = (
        gradient.data
    )  # autograd would take the side effect for a mistake, as it keeps the vector for the next layer
    for k, a_rI, b_rO, span in _adapters(working, layout, width_in, width_out):
        dh_Tr = (dy_KTO[k] @ b_rO.T) * layout.scale_K[k]
        for place, product in (
            (layout.places_2K[0], dh_Tr.T @ x_KTI[k]),
            (layout.places_2K[1], h_TR[:, span].T @ dy_KTO[k]),
        ):
            begin = int(place[k])
            gradient[begin : begin + product.numel()] += product.flatten().to(gradient.dtype)
        dx_KTI[k] += dh_Tr @ a_rI
    return dx_MI


def _adapters(
    working: Tensor, layout: Layout, width_in: int, width_out: int
) -> Iterator[tuple[int, Tensor, Tensor, slice]]:
    """For each adapter of rank above 0: its number, A [r, I], Bᵀ [r, O] and its columns of h."""
    for k, (column, rank) in enumerate(layout.starts_K2.tolist()):
        if rank:
            a, b = int(layout.places_2K[0, k]), int(layout.places_2K[1, k])
            yield (
                k,
                working[a : a + rank * width_in].view(rank, width_in),
                working[b : b + rank * width_out].view(rank, width_out),
                slice(column, column + rank),
            )


def _backward_fused(
    dy_MO: Tensor,
    x_MI: Tensor,
    h_TR: Tensor,
    weight_OI: Tensor | None,
    working: Tensor,
    gradient: Tensor,
    layout: Layout,
) -> Tensor:
    from rightrank.bank import kernels

    adapters = adapters_in(layout)
    x_KTI, dy_KTO = x_MI.view(adapters, -1, x_MI.shape[1]), dy_MO.view(adapters, -1, dy_MO.shape[1])
    dh_TR = kernels.shrink(dy_KTO, working, 1, layout)
    kernels.add_outer(gradient, h_TR, dy_KTO, 1, layout)
    kernels.add_outer(gradient, dh_TR, x_KTI, 0, layout)
    dx_MI = kernels.expand(None, dh_TR, working, 0, layout, x_MI.shape[1]).view(x_MI.shape)
    return dx_MI if weight_OI is None else dx_MI.addmm_(dy_MO, weight_OI)
