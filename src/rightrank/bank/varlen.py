"""Attention over all adapters' rows laid end to end, registered with transformers: every example attends to itself alone.

Where the examples begin comes in a tensor of fixed length, so that one captured graph serves every batch.

Dimensions: M tokens of all adapters together, H heads, G key heads, D numbers a head, N sequences.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from rightrank.bank.attention import UNSAID, _refuse_hidden_window, _refuse_unknown

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "rightrank_varlen"


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
    if query.is_cuda:
        out = _flash(query, key, value, cu_seq_lens_q, max_length_q, scaling, sliding_window)
    else:
        out = _written_out(query, key, value, cu_seq_lens_q, scaling, sliding_window)
    return out[None], None


@cache
def _takes_groups() -> bool:
    from torch.nn.attention.varlen import varlen_attn

    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    options: dict[str, Any] = {"scale": scaling, "window_size": (-1 if window is None else window - 1, 0)}
    if key.shape[1] != query.shape[1]:
        if _takes_groups():
            options["enable_gqa"] = True
        else:
            times = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(times, 1) for x in (key, value))
    out = varlen_attn(query, key, value, ends, ends, longest, longest, **options)
    assert isinstance(out, torch.Tensor)
    return out


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
