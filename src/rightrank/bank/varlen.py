"""Attention over all adapters' rows laid end to end, registered with transformers: every example attends to itself alone.

Where the examples begin comes in a tensor of fixed length, so that one captured graph serves every batch.

Dimensions: M tokens of all adapters together, H heads, G key heads, D numbers a head, N sequences.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from rightrank.bank.attention import UNSAID, _refuse_hidden_window, _refuse_unknown

if TYPE_CHECKING:
    from torch import nn

NAME = "rightrank_varlen"
SHORT = 256
"""Tokens of the longest example up to which tiles of 64 pay. Assumed: at 40 to 100 tokens tiles of 64 took 0.31 against 0.49 ms a layer."""
EVERYTHING = 1 << 30
"""A window that no sequence is longer than."""
TAKES_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters


def varlen_attention(
    module: nn.Module,
    query_1HMD: Tensor,
    key_1GMD: Tensor,
    value_1GMD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = UNSAID,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence; returns [1, M, H, D] and no weights, as transformers wants it.

    ``cu_seq_lens_q``: where each sequence begins, and the end of the last, int32 [N + 1]; ``max_length_q``: no sequence is longer.
    Raises UnsupportedAttentionError for soft caps, sinks, biases and whatever else is unknown here.
    """
    for name in ("cu_seq_lens_k", "max_length_k"):
        rest.pop(name, None)
    _refuse_unknown(module, attention_mask, dropout, rest)
    if sliding_window == UNSAID:
        _refuse_hidden_window(module)
        sliding_window = None
    assert cu_seq_lens_q is not None
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HMD, key_1GMD, value_1GMD))
    if _fused_here(query):
        out = _flash(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        out = _written_out(query, key, value, cu_seq_lens_q, scaling, sliding_window)
    return out[None], None


def _fused_here(query: Tensor) -> bool:
    return query.is_cuda


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    if longest <= SHORT:
        seen = EVERYTHING if window is None else window
        scale = query.shape[2] ** -0.5 if scaling is None else scaling
        short: Tensor = short_attention(query, key, value, ends, longest, scale, seen)[0]
        return short
    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    if key.shape[1] != query.shape[1]:
        if TAKES_GROUPS:
            options["enable_gqa"] = True
        else:
            times = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(times, 1) for x in (key, value))
    out = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    assert isinstance(out, torch.Tensor)
    return out


@torch.library.custom_op("rightrank::short_attention", mutates_args=())
def short_attention(
    query_MHD: Tensor,
    key_MGD: Tensor,
    value_MGD: Tensor,
    ends_N: Tensor,
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Tensor, Tensor]:
    """``varlen_attn`` by kernels made for short sequences, which give the same bits every time; see ``attention_kernels``.

    Returns the output and what its gradient needs of the softmax.
    """
    from rightrank.bank import attention_kernels

    return attention_kernels.forward(query_MHD, key_MGD, value_MGD, ends_N, longest, scaling, window)


@torch.library.custom_op("rightrank::short_attention_backward", mutates_args=())
def short_attention_backward(
    dout_MHD: Tensor,
    query_MHD: Tensor,
    key_MGD: Tensor,
    value_MGD: Tensor,
    ends_N: Tensor,
    out_MHD: Tensor,
    sums_HM: Tensor,
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    from rightrank.bank import attention_kernels

    given = (query_MHD, key_MGD, value_MGD, ends_N, out_MHD, sums_HM)
    return attention_kernels.backward(dout_MHD.contiguous(), *given, longest, scaling, window)


@short_attention.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, ...]:
    sums = query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
    return query.new_empty(query.shape), sums


@short_attention_backward.register_fake
def _(dout: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (query, key, value))


def _save_short(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.longest, ctx.scaling, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _short_backward(ctx: Any, dout: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    numbers = (ctx.longest, ctx.scaling, ctx.window)
    return *short_attention_backward(dout, *ctx.saved_tensors, *numbers), *[None] * 4


short_attention.register_autograd(_short_backward, setup_context=_save_short)


def _written_out(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """The same with one mask over all tokens: for machines without the fused kernel, and small inputs."""
    place_M = torch.arange(query.shape[0], device=query.device)
    sequence_M = torch.bucketize(place_M, ends.long(), right=True)
    distance_MM = place_M[:, None] - place_M[None, :]
    seen_MM = (sequence_M[:, None] == sequence_M[None, :]) & (distance_MM >= 0)
    if window is not None:
        seen_MM = seen_MM & (distance_MM < window)
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_MM, scale=scaling, enable_gqa=True)
    return out[0].transpose(0, 1)


def register() -> None:
    """Make the function known to transformers under ``NAME``. No mask function goes with it, so none is built."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, varlen_attention)
