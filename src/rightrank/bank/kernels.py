"""Triton kernels of the LoRA products: K adapters of unlike rank in one launch, every tensor read once and nothing padded.

``torch._grouped_mm`` does the same in more passes: it cannot add to what is there, nor write float32 gradients from bfloat16 operands.
All sums are in float32. Which adapter and which rows a program works on stands in a table, so that neither the number of adapters nor
their ranks are compiled in.

Dimensions: K adapters, T tokens of the row each of them sees, R rows of all ranks together, I numbers in, O numbers out; W either of
I and O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from rightrank.bank.flat import BLOCK
from rightrank.bank.flat import ROWS_A_TILE as ROWS

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from rightrank.bank.flat import Layout

# Numbers of one program's tile along tokens and widths. Chosen, not tuned.
TOKENS, WIDTH = 64, 64


@triton.jit
def _shrink(
    x_ptr, a_ptr, places_ptr, scale_ptr, h_ptr, tiles_ptr, tokens, width, rows_all,
    BT: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """h[t, start + r] = scale · Σ_w x[k, t, w] a_k[r, w] for the rows r of tile (k, first row, rank, column of row 0)."""
    tile = tl.program_id(1)
    k = tl.load(tiles_ptr + 4 * tile).to(tl.int64)
    first = tl.load(tiles_ptr + 4 * tile + 1)
    rank = tl.load(tiles_ptr + 4 * tile + 2)
    column = tl.load(tiles_ptr + 4 * tile + 3)
    a_ptr += tl.multiple_of(tl.load(places_ptr + k), 8)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    r = first + tl.arange(0, BR)
    here_t, here_r = t < tokens, r < rank
    sums = tl.zeros((BT, BR), dtype=tl.float32)
    for start in range(0, width, BW):
        w = start + tl.arange(0, BW)
        here_w = w < width
        x = tl.load(
            x_ptr + (k * tokens + t[:, None]) * width + w[None, :],
            mask=here_t[:, None] & here_w[None, :],
            other=0.0,
        )
        a = tl.load(
            a_ptr + r[None, :] * width + w[:, None], mask=here_r[None, :] & here_w[:, None], other=0.0
        )
        sums += tl.dot(x, a)
    out = (sums * tl.load(scale_ptr + k)).to(h_ptr.dtype.element_ty)
    tl.store(
        h_ptr + t[:, None] * rows_all + (column + r)[None, :], out, mask=here_t[:, None] & here_r[None, :]
    )


@triton.jit
def _expand(
    y_ptr, out_ptr, h_ptr, b_ptr, places_ptr, starts_ptr, tokens, width, rows_all,
    BT: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """out[k, t, w] = y[k, t, w] + Σ_r h[t, start + r] b_k[r, w] over adapter k's rows; ``starts`` holds (column of row 0, rank)."""
    k = tl.program_id(2).to(tl.int64)
    column = tl.load(starts_ptr + 2 * k)
    rank = tl.load(starts_ptr + 2 * k + 1)
    b_ptr += tl.multiple_of(tl.load(places_ptr + k), 8)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    w = tl.program_id(1) * BW + tl.arange(0, BW)
    here = (t < tokens)[:, None] & (w < width)[None, :]
    sums = tl.zeros((BT, BW), dtype=tl.float32)
    for start in range(0, rank, BR):
        r = start + tl.arange(0, BR)
        here_r = r < rank
        h = tl.load(
            h_ptr + t[:, None] * rows_all + (column + r)[None, :],
            mask=(t < tokens)[:, None] & here_r[None, :],
            other=0.0,
        )
        b = tl.load(
            b_ptr + r[:, None] * width + w[None, :], mask=here_r[:, None] & (w < width)[None, :], other=0.0
        )
        sums += tl.dot(h, b)
    place = (k * tokens + t[:, None]) * width + w[None, :]
    sums += tl.load(y_ptr + place, mask=here, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, sums.to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _outer(
    h_ptr, x_ptr, grad_ptr, places_ptr, tiles_ptr, tokens, width, rows_all,
    BT: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """gradient_k[r, w] += Σ_t h[t, start + r] x[k, t, w], in float32, for the rows r of tile (k, first row, rank, column of row 0)."""
    tile = tl.program_id(0)
    k = tl.load(tiles_ptr + 4 * tile).to(tl.int64)
    first = tl.load(tiles_ptr + 4 * tile + 1)
    rank = tl.load(tiles_ptr + 4 * tile + 2)
    column = tl.load(tiles_ptr + 4 * tile + 3)
    grad_ptr += tl.multiple_of(tl.load(places_ptr + k), 8)
    r = first + tl.arange(0, BR)
    w = tl.program_id(1) * BW + tl.arange(0, BW)
    here_r, here_w = r < rank, w < width
    sums = tl.zeros((BR, BW), dtype=tl.float32)
    for start in range(0, tokens, BT):
        t = start + tl.arange(0, BT)
        here_t = t < tokens
        h = tl.load(
            h_ptr + t[None, :] * rows_all + (column + r)[:, None],
            mask=here_t[None, :] & here_r[:, None],
            other=0.0,
        )
        x = tl.load(
            x_ptr + (k * tokens + t[:, None]) * width + w[None, :],
            mask=here_t[:, None] & here_w[None, :],
            other=0.0,
        )
        sums += tl.dot(h, x)
    place = r[:, None] * width + w[None, :]
    here = here_r[:, None] & here_w[None, :]
    tl.store(grad_ptr + place, tl.load(grad_ptr + place, mask=here, other=0.0) + sums, mask=here)


def shrink(
    x_KTW: Float[Tensor, "K T W"], working: Float[Tensor, " P"], which: int, layout: Layout
) -> Float[Tensor, "T R"]:
    """Each adapter's x projected onto its own matrix in ``working``, scaled. ``which``: 0 for A [rank, W], 1 for B [rank, W]."""
    _, tokens, width = x_KTW.shape
    columns = len(layout.rows_R)
    h_TR = x_KTW.new_empty(tokens, columns)
    grid = (triton.cdiv(tokens, TOKENS), len(layout.tiles_N4) - 1)
    _shrink[grid](
        x_KTW, working, layout.places_2K[which], layout.scale_K, h_TR, layout.tiles_N4, tokens, width, columns,
        BT=TOKENS, BR=ROWS, BW=WIDTH,
    )  # fmt: skip
    return h_TR


def expand(
    y_KTW: Float[Tensor, "K T W"],
    h_TR: Float[Tensor, "T R"],
    working: Float[Tensor, " P"],
    which: int,
    layout: Layout,
) -> Float[Tensor, "K T W"]:
    """y plus each adapter's h through its own matrix in ``working``. ``which``: 0 for A [rank, W], 1 for B [rank, W]."""
    adapters, tokens, width = y_KTW.shape
    out_KTW = torch.empty_like(y_KTW)
    grid = (triton.cdiv(tokens, TOKENS), triton.cdiv(width, WIDTH), adapters)
    _expand[grid](
        y_KTW, out_KTW, h_TR, working, layout.places_2K[which], layout.starts_K2, tokens, width, h_TR.shape[1],
        BT=TOKENS, BR=ROWS, BW=WIDTH,
    )  # fmt: skip
    return out_KTW


def add_outer(
    gradient: Float[Tensor, " P"],
    h_TR: Float[Tensor, "T R"],
    x_KTW: Float[Tensor, "K T W"],
    which: int,
    layout: Layout,
) -> None:
    """Add hᵀ x of each adapter to its own matrix in the float32 ``gradient``. ``which``: 0 for A [rank, W], 1 for B [rank, W]."""
    _, tokens, width = x_KTW.shape
    grid = (len(layout.tiles_N4) - 1, triton.cdiv(width, WIDTH))
    _outer[grid](
        h_TR, x_KTW, gradient, layout.places_2K[which], layout.tiles_N4, tokens, width, h_TR.shape[1],
        BT=TOKENS, BR=ROWS, BW=WIDTH,
    )  # fmt: skip


@triton.jit
def _update(
    master_ptr, grad_ptr, moment_ptr, square_ptr, working_ptr, owner_ptr, numbers_ptr, adapters,
    one: tl.constexpr, two: tl.constexpr, epsilon: tl.constexpr, decay: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """AdamW on one block of numbers, all of one adapter; its gradient is zero afterwards, its working copy up to date."""
    block = tl.program_id(0).to(tl.int64)
    k = tl.load(owner_ptr + block)
    rate = tl.load(numbers_ptr + k)
    first = tl.load(numbers_ptr + adapters + k)
    second = tl.load(numbers_ptr + 2 * adapters + k)
    shrink = tl.load(numbers_ptr + 3 * adapters + k)
    alive = tl.load(numbers_ptr + 4 * adapters + k) > 0
    at = block * BLOCK + tl.arange(0, BLOCK)
    gradient = tl.where(alive, tl.load(grad_ptr + at) * shrink, 0.0)
    moment = tl.load(moment_ptr + at)
    moment += (gradient - moment) * (1 - one)
    square = tl.load(square_ptr + at) * two + gradient * gradient * (1 - two)
    master = tl.load(master_ptr + at) * (1 - rate * decay)
    master -= rate / first * moment / (tl.sqrt(square) / tl.sqrt(second) + epsilon)
    master, moment, square = (
        tl.where(alive, master, 0.0),
        tl.where(alive, moment, 0.0),
        tl.where(alive, square, 0.0),
    )
    tl.store(master_ptr + at, master)
    tl.store(moment_ptr + at, moment)
    tl.store(square_ptr + at, square)
    tl.store(grad_ptr + at, tl.zeros((BLOCK,), dtype=tl.float32))
    tl.store(working_ptr + at, master.to(working_ptr.dtype.element_ty))


def update(
    master: Float[Tensor, " P"],
    gradient: Float[Tensor, " P"],
    moment: Float[Tensor, " P"],
    square: Float[Tensor, " P"],
    working: Float[Tensor, " P"],
    owner_N: Int[Tensor, " N"],
    numbers_5K: Float[Tensor, "5 K"],
    *,
    betas: tuple[float, float],
    epsilon: float,
    weight_decay: float,
) -> None:
    """AdamW on every number. ``numbers_5K``: learning rate, both bias corrections, factor on the gradient, 0 where diverged."""
    _update[(len(owner_N),)](
        master, gradient, moment, square, working, owner_N, numbers_5K, numbers_5K.shape[1],
        one=betas[0], two=betas[1], epsilon=epsilon, decay=weight_decay, BLOCK=BLOCK,
    )  # fmt: skip
