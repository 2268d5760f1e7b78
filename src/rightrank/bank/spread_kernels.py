"""Triton kernels that copy shared keys and values to every example, and add up the copies' gradients: see ``shared_keys``.

Dimensions: M tokens of all adapters' rows end to end, Y keys of all of them, N sequences, G key heads, D numbers a head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor


@triton.jit
def _copy(
    key_ptr, value_ptr, key_out_ptr, value_out_ptr, source_ptr, kt, kh, vt, vh,
    D: tl.constexpr, DP: tl.constexpr, G: tl.constexpr, GP: tl.constexpr,
):  # fmt: skip
    """One key, all its heads."""
    y = tl.program_id(0).to(tl.int64)
    token = tl.load(source_ptr + y).to(tl.int64)
    g, d = tl.arange(0, GP)[:, None], tl.arange(0, DP)[None, :]
    inside = (g < G) & (d < D)
    out = (y * G + g) * D + d
    tl.store(key_out_ptr + out, tl.load(key_ptr + token * kt + g * kh + d, mask=inside), mask=inside)
    tl.store(value_out_ptr + out, tl.load(value_ptr + token * vt + g * vh + d, mask=inside), mask=inside)


@triton.jit
def _add_up(
    dkey_ptr, dvalue_ptr, key_out_ptr, value_out_ptr, first_ptr, times_ptr, starts_ptr,
    W: tl.constexpr, WP: tl.constexpr,
):  # fmt: skip
    """One token: its copies' gradients, in the order of the examples."""
    m = tl.program_id(0).to(tl.int64)
    first, times = tl.load(first_ptr + m).to(tl.int64), tl.load(times_ptr + m)
    w = tl.arange(0, WP)
    inside = w < W
    dkey, dvalue = tl.zeros((WP,), tl.float32), tl.zeros((WP,), tl.float32)
    for n in range(times):
        place = (first + tl.load(starts_ptr + n)) * W + w
        dkey += tl.load(dkey_ptr + place, mask=inside, other=0.0).to(tl.float32)
        dvalue += tl.load(dvalue_ptr + place, mask=inside, other=0.0).to(tl.float32)
    out = m * W + w
    tl.store(key_out_ptr + out, dkey.to(key_out_ptr.dtype.element_ty), mask=inside)
    tl.store(value_out_ptr + out, dvalue.to(value_out_ptr.dtype.element_ty), mask=inside)


def forward(key_MGD: Tensor, value_MGD: Tensor, source_Y: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of its token's key and value for every key."""
    _, heads, width = key_MGD.shape
    assert key_MGD.stride(2) == value_MGD.stride(2) == 1
    key, value = (x.new_empty(len(source_Y), heads, width) for x in (key_MGD, value_MGD))
    strides = (*key_MGD.stride()[:2], *value_MGD.stride()[:2])
    sizes = {"D": width, "DP": _power(width), "G": heads, "GP": _power(heads)}
    warps = _warps(heads * width)
    _copy[(len(source_Y),)](key_MGD, value_MGD, key, value, source_Y, *strides, **sizes, num_warps=warps)
    return key, value


def backward(
    dkey_YGD: Tensor, dvalue_YGD: Tensor, first_M: Tensor, times_M: Tensor, starts_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Every token's gradient, from contiguous ones of its copies. Those of the first example begin at 0 in ``starts_N``."""
    _, heads, width = dkey_YGD.shape
    key, value = (x.new_empty(len(first_M), heads, width) for x in (dkey_YGD, dvalue_YGD))
    tables, numbers = (first_M, times_M, starts_N), heads * width
    _add_up[(len(first_M),)](
        dkey_YGD, dvalue_YGD, key, value, *tables, W=numbers, WP=_power(numbers), num_warps=_warps(numbers)
    )
    return key, value


def _warps(numbers: int) -> int:
    """Of 16 numbers a thread at most, up to eight."""
    return min(8, max(1, _power(numbers) // 512))


def _power(width: int) -> int:
    return int(triton.next_power_of_2(width))
