"""Keys and values of rows whose examples share their first tokens: each example gets its own copy of what is shared, and its gradient back.

All that a layer does but attention is then done once for a shared token, however many examples have it. The copies' gradients are added
up in float32 at least, in one order: the same bits every time.

Dimensions: M tokens of all adapters' rows end to end, Y keys of all of them, N sequences, G key heads, D numbers a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("rightrank::spread", mutates_args=())
def spread(
    key_MGD: Tensor, value_MGD: Tensor, source_Y: Tensor, first_M: Tensor, times_M: Tensor, starts_N: Tensor
) -> tuple[Tensor, Tensor]:
    """Float[key M G D], Float[value M G D] -> Float[key Y G D], Float[value Y G D], each key of the token ``source_Y`` says.

    ``first_M``: the first key of each token; ``times_M``: how many it has; ``starts_N``: how far behind the first the others stand, which
    is where the keys of each example of the first row begin (``SharedKeys.ends_N``, of which no more is read).
    """
    if key_MGD.is_cuda:
        from rightrank.bank import spread_kernels

        return spread_kernels.forward(key_MGD, value_MGD, source_Y)
    key, value = (x.index_select(0, source_Y) for x in (key_MGD, value_MGD))
    return key, value


@torch.library.custom_op("rightrank::spread_backward", mutates_args=())
def spread_backward(
    dkey_YGD: Tensor,
    dvalue_YGD: Tensor,
    source_Y: Tensor,
    first_M: Tensor,
    times_M: Tensor,
    starts_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the tokens' keys and values from those of their copies."""
    if dkey_YGD.is_cuda:
        from rightrank.bank import spread_kernels

        given = (dkey_YGD.contiguous(), dvalue_YGD.contiguous())
        return spread_kernels.backward(*given, first_M, times_M, starts_N)
    key, value = (_added_up(x, first_M, times_M, starts_N) for x in (dkey_YGD, dvalue_YGD))
    return key, value


def _added_up(gradient_YGD: Tensor, first_M: Tensor, times_M: Tensor, starts_N: Tensor) -> Tensor:
    wide = torch.promote_types(gradient_YGD.dtype, torch.float32)
    found_MGD = gradient_YGD.index_select(0, first_M).to(wide)
    for n in range(1, int(times_M.max())):
        shared = torch.nonzero(times_M > n)[:, 0]
        found_MGD[shared] += gradient_YGD.index_select(0, first_M[shared] + starts_N[n]).to(wide)
    return found_MGD.to(gradient_YGD.dtype)


def _fake_spread(
    key_MGD: Tensor, value_MGD: Tensor, source_Y: Tensor, first_M: Tensor, times_M: Tensor, starts_N: Tensor
) -> tuple[Tensor, Tensor]:
    key, value = (x.new_empty((source_Y.shape[0], *x.shape[1:])) for x in (key_MGD, value_MGD))
    return key, value


def _fake_backward(
    dkey_YGD: Tensor,
    dvalue_YGD: Tensor,
    source_Y: Tensor,
    first_M: Tensor,
    times_M: Tensor,
    starts_N: Tensor,
) -> tuple[Tensor, Tensor]:
    key, value = (x.new_empty((first_M.shape[0], *x.shape[1:])) for x in (dkey_YGD, dvalue_YGD))
    return key, value


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[2:])


def _gradients(ctx: Any, dkey_YGD: Tensor, dvalue_YGD: Tensor) -> tuple[Tensor | None, ...]:
    return *spread_backward(dkey_YGD, dvalue_YGD, *ctx.saved_tensors), None, None, None, None


spread.register_fake(_fake_spread)
spread_backward.register_fake(_fake_backward)
spread.register_autograd(_gradients, setup_context=_save)
