"""Triton kernels of the LoRA products: K adapters of unlike rank in one launch, every tensor read once and nothing padded.

``torch._grouped_mm`` does the same in more passes: it cannot add to what is there, nor write float32 gradients from bfloat16 operands.
All sums are in float32. Which adapter and which rows a program works on stands in a table, so that neither the number of adapters nor
their ranks are compiled in. Rows of x and y may lie further apart than they are long, as those of parts of a tensor do.

Dimensions: K adapters, T tokens of the row each of them sees, R rows of all ranks together, I numbers in, O numbers out; W either of
I and O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import triton
import triton.language as tl

from rightrank.bank.flat import BLOCK
from rightrank.bank.flat import ROWS_A_TILE as ROWS

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from rightrank.bank.flat import Side


class Tile(NamedTuple):
    """How much one program of a kernel works on at a time, and with what."""

    tokens: int
    width: int
    warps: int
    stages: int


# The fastest of 8 to 12 each on an H100, 24 adapters of ranks 1 to 128 on 1,152 tokens: within 25 % of a copy's bandwidth at 576 numbers,
# 45 % at 1,536. Flat optima: neighbours are within 10 %.
SHRINK, EXPAND = Tile(64, 64, 4, 3), Tile(64, 128, 4, 2)
SHRINK_FEW = Tile(32, 128, 4, 3)
OUTER, OUTER_WIDE = Tile(128, 64, 4, 4), Tile(64, 128, 4, 2)
WIDE = 1024
PROGRAMS = 264
"""Enough to fill the card: two for each of an H100's multiprocessors."""


@triton.jit
def _shrink(
    x_ptr, a_ptr, places_ptr, scale_ptr, h_ptr, tiles_ptr, tokens, width, stride, rows_all,
    BT: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """h[t, column + r] = scale[column + r] · Σ_w x[k, t, w] a_k[r, w] for the rows r of tile (k, first row, rank, column of row 0)."""
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
            x_ptr + (k * tokens + t[:, None]) * stride + w[None, :],
            mask=here_t[:, None] & here_w[None, :],
            other=0.0,
        )
        a = tl.load(
            a_ptr + r[None, :] * width + w[:, None], mask=here_r[None, :] & here_w[:, None], other=0.0
        )
        sums += tl.dot(x, a)
    scale = tl.load(scale_ptr + column + r, mask=here_r, other=0.0)
    out = (sums * scale[None, :]).to(h_ptr.dtype.element_ty)
    tl.store(
        h_ptr + t[:, None] * rows_all + (column + r)[None, :], out, mask=here_t[:, None] & here_r[None, :]
    )


@triton.jit
def _expand(
    y_ptr, out_ptr, h_ptr, b_ptr, places_ptr, starts_ptr, tokens, width, y_stride, out_stride, rows_all,
    DIMENSIONS: tl.constexpr, BT: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """out[k, t, w] = y + Σ_r h[t, start + r] b_k[r, w] over adapter k's rows; ``starts`` holds (column of row 0, rank).

    y is nothing, y[w] or y[k, t, w], as ``DIMENSIONS`` is 0, 1 or 3.
    """
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
    row = k * tokens + t[:, None]
    if DIMENSIONS == 3:
        sums += tl.load(y_ptr + row * y_stride + w[None, :], mask=here, other=0.0).to(tl.float32)
    elif DIMENSIONS == 1:
        sums += tl.load(y_ptr + w, mask=w < width, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + row * out_stride + w[None, :], sums.to(out_ptr.dtype.element_ty), mask=here)


@triton.jit
def _outer(
    h_ptr, x_ptr, grad_ptr, parts_ptr, places_ptr, tiles_ptr, tokens, width, stride, rows_all, share,
    DIRECT: tl.constexpr, BT: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """gradient_k[r, w] += Σ_t h[t, start + r] x[k, t, w], in float32, for the rows r of tile (k, first row, rank, column of row 0).

    Not ``DIRECT``: each program sums a ``share`` of the tokens into its own part [part, tile, r, w], for ``_add_up``.
    """
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
    begin = tl.program_id(2) * share
    end = tl.minimum(begin + share, tokens)
    for start in range(begin, end, BT):
        t = start + tl.arange(0, BT)
        here_t = t < end
        h = tl.load(
            h_ptr + t[None, :] * rows_all + (column + r)[:, None],
            mask=here_t[None, :] & here_r[:, None],
            other=0.0,
        )
        x = tl.load(
            x_ptr + (k * tokens + t[:, None]) * stride + w[None, :],
            mask=here_t[:, None] & here_w[None, :],
            other=0.0,
        )
        sums += tl.dot(h, x)
    here = here_r[:, None] & here_w[None, :]
    if DIRECT:
        place = r[:, None] * width + w[None, :]
        tl.store(grad_ptr + place, tl.load(grad_ptr + place, mask=here, other=0.0) + sums, mask=here)
    else:
        part = (tl.program_id(2) * tl.num_programs(0) + tile).to(tl.int64) * BR
        tl.store(parts_ptr + (part + tl.arange(0, BR)[:, None]) * width + w[None, :], sums, mask=here)


@triton.jit
def _add_up(
    parts_ptr, grad_ptr, places_ptr, tiles_ptr, width, count, BR: tl.constexpr, BW: tl.constexpr
):  # fmt: skip
    """gradient_k[r, w] += the parts of ``_outer``, in their order."""
    tile = tl.program_id(0)
    k = tl.load(tiles_ptr + 4 * tile).to(tl.int64)
    rows = tl.arange(0, BR)
    r = tl.load(tiles_ptr + 4 * tile + 1) + rows
    w = tl.program_id(1) * BW + tl.arange(0, BW)
    here = (r < tl.load(tiles_ptr + 4 * tile + 2))[:, None] & (w < width)[None, :]
    place = tl.load(places_ptr + k) + r[:, None] * width + w[None, :]
    sums = tl.load(grad_ptr + place, mask=here, other=0.0)
    for number in range(count):
        part = (number * tl.num_programs(0) + tile).to(tl.int64) * BR
        sums += tl.load(parts_ptr + (part + rows[:, None]) * width + w[None, :], mask=here, other=0.0)
    tl.store(grad_ptr + place, sums, mask=here)


def shrink(
    x_KTW: Float[Tensor, "K T W"],
    working: Float[Tensor, " P"],
    side: Side,
    scale_R: Float[Tensor, " R"],
    h_TR: Float[Tensor, "T R"],
) -> None:
    """Each adapter's x projected onto its own matrix [rank, W] in ``working``, scaled, into its columns of h."""
    _, tokens, width = x_KTW.shape
    tiles = len(side.tiles_N4) - 1
    how = SHRINK if tiles * triton.cdiv(tokens, SHRINK.tokens) >= PROGRAMS else SHRINK_FEW
    _shrink[triton.cdiv(tokens, how.tokens), tiles](
        x_KTW, working, side.places_K, scale_R, h_TR, side.tiles_N4, tokens, width, x_KTW.stride(1), h_TR.shape[1],
        BT=how.tokens, BR=ROWS, BW=how.width, num_warps=how.warps, num_stages=how.stages,
    )  # fmt: skip


def expand(
    y: Float[Tensor, "K T W"] | Float[Tensor, " W"] | None,
    h_TR: Float[Tensor, "T R"],
    working: Float[Tensor, " P"],
    side: Side,
    out_KTW: Float[Tensor, "K T W"],
) -> None:
    """y plus each adapter's h through its own matrix [rank, W] in ``working``, into ``out_KTW``."""
    adapters, tokens, width = out_KTW.shape
    grid = (triton.cdiv(tokens, EXPAND.tokens), triton.cdiv(width, EXPAND.width), adapters)
    start, dimensions = (out_KTW, 0) if y is None else (y, y.ndim)
    _expand[grid](
        start, out_KTW, h_TR, working, side.places_K, side.starts_K2, tokens, width,
        start.stride(-2) if dimensions == 3 else width, out_KTW.stride(1), h_TR.shape[1], DIMENSIONS=dimensions,
        BT=EXPAND.tokens, BR=ROWS, BW=EXPAND.width, num_warps=EXPAND.warps, num_stages=EXPAND.stages,
    )  # fmt: skip


def add_outer(
    gradient: Float[Tensor, " P"], h_TR: Float[Tensor, "T R"], x_KTW: Float[Tensor, "K T W"], side: Side
) -> None:
    """Add hᵀ x of each adapter to its own matrix [rank, W] in the float32 ``gradient``."""
    _, tokens, width = x_KTW.shape
    how = OUTER_WIDE if width >= WIDE else OUTER
    tiles, across = len(side.tiles_N4) - 1, triton.cdiv(width, how.width)
    steps = triton.cdiv(tokens, how.tokens)
    # Where there are too few programs, each takes a share of the tokens; at least four steps, or adding up costs more.
    share = max(1, min(triton.cdiv(PROGRAMS, tiles * across), steps // 4))
    each = triton.cdiv(steps, share) * how.tokens
    count = triton.cdiv(tokens, each)
    parts = gradient if count == 1 else gradient.new_empty(count * tiles * ROWS * width)
    _outer[tiles, across, count](
        h_TR, x_KTW, gradient, parts, side.places_K, side.tiles_N4, tokens, width, x_KTW.stride(1), h_TR.shape[1], each,
        DIRECT=count == 1, BT=how.tokens, BR=ROWS, BW=how.width, num_warps=how.warps, num_stages=how.stages,
    )  # fmt: skip
    if count > 1:
        _add_up[tiles, triton.cdiv(width, 128)](
            parts, gradient, side.places_K, side.tiles_N4, width, count, BR=ROWS, BW=128
        )


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
