"""Triton kernels of causal attention within many short sequences, forward and backward, without atomics: the same bits every time.

Tiles of 64 tokens. FlashAttention's are of 128, half empty on sequences of 70 tokens, and its backward pass adds up in any order.
Grouped queries read their keys where they lie. Every token belongs to a sequence: what lies outside is never written. A sequence may
have more keys than queries, which are its last tokens then.

Dimensions: M tokens of all sequences, Y keys of all sequences, H heads, G key heads, D numbers a head, N sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

TILE = 64
LOG2_E = 1.4426950408889634


@triton.jit
def _scores(q, k, i, j, length, window, scale):
    """Scores of tokens i and keys j of a sequence of ``length`` keys, scaled, minus infinity where one may not look. In units of log 2."""
    seen = (i[:, None] >= j[None, :]) & (i[:, None] - j[None, :] < window) & (j < length)[None, :]
    return tl.where(seen, tl.dot(q, tl.trans(k)) * scale, float("-inf"))


@triton.jit
def _extent(ends_ptr):
    """Where the program's sequence begins, and how long it is."""
    begin = tl.load(ends_ptr + tl.program_id(0))
    return begin, tl.load(ends_ptr + tl.program_id(0) + 1) - begin


@triton.jit
def _rows(ptr, begin, i, length, head, stride_token, stride_head, D: tl.constexpr, DP: tl.constexpr):
    """Rows i of one head of a sequence, zeros beyond its end."""
    d = tl.arange(0, DP)
    place = (begin + i[:, None]).to(tl.int64) * stride_token + head * stride_head + d[None, :]
    return tl.load(ptr + place, mask=(i < length)[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _put(ptr, value, begin, i, length, head, heads, D: tl.constexpr, DP: tl.constexpr):
    """Write rows i of one head into a contiguous [M, heads, D]."""
    d = tl.arange(0, DP)
    place = ((begin + i[:, None]).to(tl.int64) * heads + head) * D + d[None, :]
    tl.store(ptr + place, value.to(ptr.dtype.element_ty), mask=(i < length)[:, None] & (d < D)[None, :])


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, out_ptr, sums_ptr, ends_ptr, key_ends_ptr,
    qt, qh, kt, kh, vt, vh, tokens, heads, group, window, scale,
    D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    begin, length = _extent(ends_ptr)
    key_begin, key_length = _extent(key_ends_ptr)
    first, head, before = tl.program_id(1) * B, tl.program_id(2), key_length - length
    if first >= length:
        return
    i = first + tl.arange(0, B)
    q = _rows(q_ptr, begin, i, length, head, qt, qh, D, DP)
    top = tl.full((B,), float("-inf"), tl.float32)
    total = tl.zeros((B,), tl.float32)
    sums = tl.zeros((B, DP), tl.float32)
    start = tl.maximum(0, before + first - window + 1) // B * B
    for at in range(start, tl.minimum(key_length, before + first + B), B):
        j = at + tl.arange(0, B)
        k = _rows(k_ptr, key_begin, j, key_length, head // group, kt, kh, D, DP)
        s = _scores(q, k, before + i, j, key_length, window, scale)
        now = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(now == float("-inf"), 0.0, now)
        p = tl.exp2(s - safe[:, None])
        keep = tl.exp2(top - safe)
        v = _rows(v_ptr, key_begin, j, key_length, head // group, vt, vh, D, DP)
        sums = sums * keep[:, None] + tl.dot(p.to(v.dtype), v)
        total = total * keep + tl.sum(p, 1)
        top = now
    some = tl.where(total > 0, total, 1.0)
    _put(out_ptr, sums / some[:, None], begin, i, length, head, heads, D, DP)
    tl.store(sums_ptr + head * tokens + begin + i, top + tl.log2(some), mask=i < length)


@triton.jit
def _weights(
    q, k, do, v, out, sums_ptr, begin, i, j, length, before, key_length, head, tokens, window, scale
):  # fmt: skip
    """(weights, gradients of the scores), both [rows i, columns j]; ``before``: keys that stand before the first row."""
    level = tl.load(sums_ptr + head * tokens + begin + i, mask=i < length, other=float("inf"))
    p = tl.exp2(_scores(q, k, before + i, j, key_length, window, scale) - level[:, None])
    mean = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
    return p, p * (tl.dot(do, tl.trans(v)) - mean[:, None])


@triton.jit
def _backward_keys(
    do_ptr, q_ptr, k_ptr, v_ptr, out_ptr, sums_ptr, dk_ptr, dv_ptr, ends_ptr, key_ends_ptr,
    qt, qh, kt, kh, vt, vh, tokens, heads, group, window, scale, natural,
    D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    begin, length = _extent(ends_ptr)
    key_begin, key_length = _extent(key_ends_ptr)
    first, key_head, before = tl.program_id(1) * B, tl.program_id(2), key_length - length
    if first >= key_length:
        return
    j = first + tl.arange(0, B)
    k = _rows(k_ptr, key_begin, j, key_length, key_head, kt, kh, D, DP)
    v = _rows(v_ptr, key_begin, j, key_length, key_head, vt, vh, D, DP)
    dk, dv = tl.zeros((B, DP), tl.float32), tl.zeros((B, DP), tl.float32)
    start = tl.maximum(0, first - before) // B * B
    stop = tl.minimum(length, first + B + window - 1 - before)
    for member in range(group):
        head = key_head * group + member
        for at in range(start, stop, B):
            i = at + tl.arange(0, B)
            q = _rows(q_ptr, begin, i, length, head, qt, qh, D, DP)
            do = _rows(do_ptr, begin, i, length, head, heads * D, D, D, DP)
            out = _rows(out_ptr, begin, i, length, head, heads * D, D, D, DP)
            p, ds = _weights(
                q, k, do, v, out, sums_ptr, begin, i, j, length, before, key_length, head, tokens, window, scale
            )  # fmt: skip
            dv += tl.dot(tl.trans(p).to(do.dtype), do)
            dk += tl.dot(tl.trans(ds).to(q.dtype), q)
    key_heads = heads // group
    _put(dk_ptr, dk * natural, key_begin, j, key_length, key_head, key_heads, D, DP)
    _put(dv_ptr, dv, key_begin, j, key_length, key_head, key_heads, D, DP)


@triton.jit
def _backward_queries(
    do_ptr, q_ptr, k_ptr, v_ptr, out_ptr, sums_ptr, dq_ptr, ends_ptr, key_ends_ptr,
    qt, qh, kt, kh, vt, vh, tokens, heads, group, window, scale, natural,
    D: tl.constexpr, DP: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    begin, length = _extent(ends_ptr)
    key_begin, key_length = _extent(key_ends_ptr)
    first, head, before = tl.program_id(1) * B, tl.program_id(2), key_length - length
    if first >= length:
        return
    i = first + tl.arange(0, B)
    q = _rows(q_ptr, begin, i, length, head, qt, qh, D, DP)
    do = _rows(do_ptr, begin, i, length, head, heads * D, D, D, DP)
    out = _rows(out_ptr, begin, i, length, head, heads * D, D, D, DP)
    dq = tl.zeros((B, DP), tl.float32)
    start = tl.maximum(0, before + first - window + 1) // B * B
    for at in range(start, tl.minimum(key_length, before + first + B), B):
        j = at + tl.arange(0, B)
        k = _rows(k_ptr, key_begin, j, key_length, head // group, kt, kh, D, DP)
        v = _rows(v_ptr, key_begin, j, key_length, head // group, vt, vh, D, DP)
        _, ds = _weights(
            q, k, do, v, out, sums_ptr, begin, i, j, length, before, key_length, head, tokens, window, scale
        )  # fmt: skip
        dq += tl.dot(ds.to(k.dtype), k)
    _put(dq_ptr, dq * natural, begin, i, length, head, heads, D, DP)


def forward(
    query_MHD: Float[Tensor, "M H D"],
    key_YGD: Float[Tensor, "Y G D"],
    value_YGD: Float[Tensor, "Y G D"],
    ends_N: Int[Tensor, " N+1"],
    key_ends_N: Int[Tensor, " N+1"],
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Float[Tensor, "M H D"], Float[Tensor, "H M"]]:
    """Attention of each sequence to itself, and the logarithms (base 2) of what its softmax divides by.

    ``window``: tokens that a token sees, itself included; ``longest``: no sequence has more keys.
    """
    tokens, heads, width = query_MHD.shape
    out_MHD = query_MHD.new_empty(tokens, heads, width)
    sums_HM = query_MHD.new_empty(heads, tokens, dtype=torch.float32)
    grid = (len(ends_N) - 1, triton.cdiv(longest, TILE), heads)
    _forward[grid](
        query_MHD, key_YGD, value_YGD, out_MHD, sums_HM, ends_N, key_ends_N, *_strides(query_MHD, key_YGD, value_YGD),
        tokens, heads, heads // key_YGD.shape[1], window, scaling * LOG2_E, D=width, DP=_padded(width), B=TILE,
    )  # fmt: skip
    return out_MHD, sums_HM


def backward(
    dout_MHD: Float[Tensor, "M H D"],
    query_MHD: Float[Tensor, "M H D"],
    key_YGD: Float[Tensor, "Y G D"],
    value_YGD: Float[Tensor, "Y G D"],
    ends_N: Int[Tensor, " N+1"],
    key_ends_N: Int[Tensor, " N+1"],
    out_MHD: Float[Tensor, "M H D"],
    sums_HM: Float[Tensor, "H M"],
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Float[Tensor, "M H D"], Float[Tensor, "Y G D"], Float[Tensor, "Y G D"]]:
    """Gradients of query, key and value; ``dout`` and ``out`` are contiguous."""
    tokens, heads, width = query_MHD.shape
    keys, key_heads = key_YGD.shape[:2]
    dq_MHD = query_MHD.new_empty(tokens, heads, width)
    dk_YGD, dv_YGD = (query_MHD.new_empty(keys, key_heads, width) for _ in range(2))
    given = (dout_MHD, query_MHD, key_YGD, value_YGD, out_MHD, sums_HM)
    numbers = (
        *_strides(query_MHD, key_YGD, value_YGD), tokens, heads, heads // key_heads, window, scaling * LOG2_E, scaling
    )  # fmt: skip
    sizes = {"D": width, "DP": _padded(width), "B": TILE}
    tiles = triton.cdiv(longest, TILE)
    _backward_keys[len(ends_N) - 1, tiles, key_heads](
        *given, dk_YGD, dv_YGD, ends_N, key_ends_N, *numbers, **sizes
    )
    _backward_queries[len(ends_N) - 1, tiles, heads](*given, dq_MHD, ends_N, key_ends_N, *numbers, **sizes)
    return dq_MHD, dk_YGD, dv_YGD


def _strides(*tensors: Tensor) -> list[int]:
    """Of tokens and heads; the numbers of a head lie side by side."""
    assert all(tensor.stride(2) == 1 for tensor in tensors)
    return [tensor.stride(axis) for tensor in tensors for axis in (0, 1)]


def _padded(width: int) -> int:
    return max(16, int(triton.next_power_of_2(width)))
