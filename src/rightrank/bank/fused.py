"""The product that every adapter adds to its layer, y = W x + scale · (x Aᵀ) Bᵀ, for K adapters and all layers that read x in one call.

Two opaque operators that compilers and graphs take as they are: one that owns the layers' own products, which are then added by the
matrix product itself on top of the adapters' part (plain linear layers), and one for layers whose own product is somebody else's (4-bit
ones, Conv1D). What they are made of is written twice: loops over the adapters, and Triton kernels for bfloat16 on CUDA.

The layers' outputs lie side by side in one tensor, so that x is projected once, and its gradient written once, for all of them.
Gradients of A and B go straight into the bank's flat gradient vector, a side effect of the backward operator that autograd does not see.

Dimensions: K adapters, T tokens of the row each of them sees, M = K·T, R rows of all ranks together, I numbers in, O numbers out of
all layers together, W numbers out of one.
"""

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 (operators' schemas are read off their annotations)
from typing import Any

import torch
from torch import Tensor

from rightrank.bank import loops
from rightrank.bank.flat import Layout, adapters_in


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
    weights: Sequence[Tensor],
    bias_O: Tensor | None,
    widths: Sequence[int],
    working: Tensor,
    gradient: Tensor,
    tables: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """(W x + b + adapters [M, O], h [T, R]); x is [M, I], adapter by adapter.

    ``widths``: numbers out of each layer. ``weights``: each layer's [W, I], or all of them in one.
    """
    biases = [None] * len(widths) if bias_O is None else bias_O.split(list(widths))
    y_MO, h_TR = _on_top(biases, x_MI, widths, working, tables)
    for y_MW, weight_WI in zip(_side_by_side(y_MO, weights), weights, strict=True):
        y_MW.addmm_(x_MI, weight_WI.T)
    return y_MO, h_TR


@torch.library.custom_op("rightrank::add_lora", mutates_args=())
def add_lora(
    ys: Sequence[Tensor], x_MI: Tensor, working: Tensor, gradient: Tensor, tables: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """(ys + adapters [M, O], h [T, R]); x is [M, I], adapter by adapter, and every y [M, W]."""
    starts = [_by_adapter(y_MW.contiguous(), tables) for y_MW in ys]
    return _on_top(starts, x_MI, [y_MW.shape[1] for y_MW in ys], working, tables)


@torch.library.custom_op("rightrank::linear_backward", mutates_args=())
def linear_backward(
    dy_MO: Tensor,
    x_MI: Tensor,
    h_TR: Tensor,
    weights: Sequence[Tensor],
    widths: Sequence[int],
    working: Tensor,
    gradient: Tensor,
    tables: Sequence[Tensor],
) -> Tensor:
    """dx [M, I] of the adapters, and of the ``weights`` where there are some; adds dA and dB to ``gradient`` on the way."""
    do, layout = _products(x_MI), Layout.of(tables)
    x_MI, dy_MO, dh_TR = x_MI.contiguous(), dy_MO.contiguous(), torch.empty_like(h_TR)
    dx_MI = torch.empty_like(x_MI)
    for dy_MW, side in zip(dy_MO.split(list(widths), 1), layout.b, strict=True):
        dy_KTW = _by_adapter(dy_MW, tables)
        do.shrink(dy_KTW, working, side, layout.scale_R, dh_TR)
        do.add_outer(gradient, h_TR, dy_KTW, side)
    do.add_outer(gradient, dh_TR, _by_adapter(x_MI, tables), layout.a)
    do.expand(None, dh_TR, working, layout.a, _by_adapter(dx_MI, tables))
    if weights:
        for dy_MW, weight_WI in zip(_side_by_side(dy_MO, weights), weights, strict=True):
            dx_MI.addmm_(dy_MW, weight_WI)
    return dx_MI


def _on_top(
    starts: Sequence[Tensor | None],
    x_MI: Tensor,
    widths: Sequence[int],
    working: Tensor,
    tables: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """What the adapters add to each layer's start, which is whatever ``expand`` takes; and h."""
    do, layout = _products(x_MI), Layout.of(tables)
    x_KTI = _by_adapter(x_MI.contiguous(), tables)
    h_TR = x_MI.new_empty(x_KTI.shape[1], len(layout.scale_R))
    y_MO = x_MI.new_empty(len(x_MI), sum(widths))
    do.shrink(x_KTI, working, layout.a, layout.scale_R, h_TR)
    for start, y_MW, side in zip(starts, y_MO.split(list(widths), 1), layout.b, strict=True):
        do.expand(start, h_TR, working, side, _by_adapter(y_MW, tables))
    return y_MO, h_TR


def _side_by_side(y_MO: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """The parts of ``y_MO`` that come of each of the ``weights``."""
    parts: Sequence[Tensor] = y_MO.split([len(weight_WI) for weight_WI in weights], 1)
    return parts


def _by_adapter(rows_MW: Tensor, tables: Sequence[Tensor]) -> Tensor:
    return rows_MW.view(adapters_in(tables), -1, rows_MW.shape[1])


def _products(x: Tensor) -> Any:
    if not x.is_cuda:
        return loops
    from rightrank.bank import kernels

    return kernels


@linear.register_fake
def _(x: Tensor, weights: Any, bias: Any, widths: Sequence[int], *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake(x, sum(widths), rest[-1])


@add_lora.register_fake
def _(ys: Sequence[Tensor], x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return _fake(x, sum(y.shape[1] for y in ys), rest[-1])


def _fake(x: Tensor, width: int, tables: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    h = x.new_empty(x.shape[0] // adapters_in(tables), tables[0].shape[0])
    return x.new_empty(x.shape[0], width), h


@linear_backward.register_fake
def _(dy: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weights, _, ctx.widths, working, gradient, tables = inputs
    ctx.counts = len(weights), len(tables)
    ctx.save_for_backward(x, output[1], working, gradient, *weights, *tables)
    ctx.mark_non_differentiable(output[1])


def _linear_backward(ctx: Any, dy_MO: Tensor, _: Any) -> tuple[Any, ...]:
    count, more = ctx.counts
    x, h, working, gradient, *rest = ctx.saved_tensors
    dx_MI = linear_backward(dy_MO, x, h, rest[:count], ctx.widths, working, gradient, rest[count:])
    return dx_MI, [None] * count, None, None, None, None, [None] * more


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ys, x, working, gradient, tables = inputs
    ctx.widths = [y.shape[1] for y in ys]
    ctx.save_for_backward(x, output[1], working, gradient, *tables)
    ctx.mark_non_differentiable(output[1])


def _add_backward(ctx: Any, dy_MO: Tensor, _: Any) -> tuple[Any, ...]:
    x, h, working, gradient, *tables = ctx.saved_tensors
    dx_MI = linear_backward(dy_MO, x, h, [], ctx.widths, working, gradient, tables)
    return list(dy_MO.split(ctx.widths, 1)), dx_MI, None, None, [None] * len(tables)


linear.register_autograd(_linear_backward, setup_context=_save_linear)
add_lora.register_autograd(_add_backward, setup_context=_save_add)
