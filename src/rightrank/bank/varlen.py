"""Attention over all adapters' rows laid end to end, registered with transformers: every example attends to itself alone.

Where the examples begin comes in a tensor of fixed length, so that one captured graph serves every batch. An example that leaves the
tokens it shares to another has fewer queries than keys: its queries are then its last tokens.

Dimensions: M tokens of all adapters together, Y keys (as many, but where examples share tokens), H heads, G key heads, D numbers a head,
N sequences.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from rightrank.bank.attention import UNSAID, _refuse_hidden_window, _refuse_unknown
from rightrank.bank.shared_keys import spread

try:
    from torch.nn.attention import varlen as fused
except ImportError:  # PyTorch 2.9
    KNOWN: frozenset[str] = frozenset()
else:
    KNOWN = frozenset(inspect.signature(fused.varlen_attn).parameters)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

NAME = "rightrank_varlen"
SHORT = 256
"""Tokens of the longest example up to which tiles of 64 pay. Assumed: at 40 to 100 tokens tiles of 64 took 0.31 against 0.49 ms a layer."""
EVERYTHING = 1 << 30
"""A window that no sequence is longer than."""
SERVES_LONG, TAKES_GROUPS = "window_size" in KNOWN, "enable_gqa" in KNOWN
"""Whether PyTorch has a fused kernel for any window (2.11 up; else ours serve, however long the rows), and one for grouped queries."""


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
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int = 0,
    shared_source: Tensor | None = None,
    shared_first: Tensor | None = None,
    shared_times: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence; returns [1, M, H, D] and no weights, as transformers wants it.

    ``cu_seq_lens_q``: where each sequence begins, and the end of the last, int32 [N + 1], ``cu_seq_lens_k``: where its keys do, which
    ``spread`` makes of the tables ``shared_*`` where there are some; ``max_length_q``: no sequence has more keys.
    Raises UnsupportedAttentionError for soft caps, sinks, biases and whatever else is unknown here.
    """
    rest.pop("max_length_k", None)
    _refuse_unknown(module, attention_mask, dropout, rest)
    if sliding_window == UNSAID:
        _refuse_hidden_window(module)
        sliding_window = None
    assert cu_seq_lens_q is not None and cu_seq_lens_k is not None
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HMD, key_1GMD, value_1GMD))
    if shared_source is not None:
        key, value = spread(key, value, shared_source, shared_first, shared_times, cu_seq_lens_k)
    ends = (cu_seq_lens_q, cu_seq_lens_k)
    if _fused_here(query):
        out = _flash(query, key, value, *ends, max_length_q, scaling, sliding_window)
    else:
        out = _written_out(query, key, value, *ends, scaling, sliding_window)
    return out[None], None


def _fused_here(query: Tensor) -> bool:
    return query.is_cuda


def _flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    seen = EVERYTHING if window is None else window
    scale = query.shape[2] ** -0.5 if scaling is None else scaling
    if longest <= SHORT or not SERVES_LONG:
        return short_attention(query, key, value, ends, key_ends, longest, scale, seen)[0]  # type: ignore[no-any-return]
    if key.shape[1] != query.shape[1] and not TAKES_GROUPS:
        times = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(times, 1) for x in (key, value))
    return long_attention(query, key, value, ends, key_ends, longest, scale, seen)[0]  # type: ignore[no-any-return]


@torch.library.custom_op("rightrank::short_attention", mutates_args=())
def short_attention(
    query_MHD: Tensor,
    key_YGD: Tensor,
    value_YGD: Tensor,
    ends_N: Tensor,
    key_ends_N: Tensor,
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Tensor, Tensor]:
    """``varlen_attn`` by kernels made for short sequences, which give the same bits every time; see ``attention_kernels``.

    Returns the output and what its gradient needs of the softmax.
    """
    from rightrank.bank import attention_kernels

    return attention_kernels.forward(
        query_MHD, key_YGD, value_YGD, ends_N, key_ends_N, longest, scaling, window
    )


@torch.library.custom_op("rightrank::short_attention_backward", mutates_args=())
def short_attention_backward(
    dout_MHD: Tensor,
    query_MHD: Tensor,
    key_YGD: Tensor,
    value_YGD: Tensor,
    ends_N: Tensor,
    key_ends_N: Tensor,
    out_MHD: Tensor,
    sums_HM: Tensor,
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value."""
    from rightrank.bank import attention_kernels

    given = (query_MHD, key_YGD, value_YGD, ends_N, key_ends_N, out_MHD, sums_HM)
    return attention_kernels.backward(dout_MHD.contiguous(), *given, longest, scaling, window)


@torch.library.custom_op("rightrank::long_attention", mutates_args=())
def long_attention(
    query_MHD: Tensor,
    key_YGD: Tensor,
    value_YGD: Tensor,
    ends_N: Tensor,
    key_ends_N: Tensor,
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Tensor, Tensor]:
    """PyTorch's ``varlen_attn``, whose backward pass adds up in one order here. Returns what ``short_attention`` does."""
    options: dict[str, Any] = {"enable_gqa": True} if TAKES_GROUPS else {}
    out, sums = fused.varlen_attn(
        query_MHD, key_YGD, value_YGD, ends_N, key_ends_N, longest, longest,
        return_aux=fused.AuxRequest(lse=True), scale=scaling, window_size=_before_and_behind(window), **options,
    )  # fmt: skip
    return out.contiguous(), sums.contiguous()


@torch.library.custom_op("rightrank::long_attention_backward", mutates_args=())
def long_attention_backward(
    dout_MHD: Tensor,
    query_MHD: Tensor,
    key_YGD: Tensor,
    value_YGD: Tensor,
    ends_N: Tensor,
    key_ends_N: Tensor,
    out_MHD: Tensor,
    sums_HM: Tensor,
    longest: int,
    scaling: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, the same bits every time."""
    before, behind = _before_and_behind(window)
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=query_MHD.device), query_MHD.new_empty(0)
    with in_one_order():
        dq_MHD, dk_YGD, dv_YGD = _flash_backward(
            dout_MHD, query_MHD, key_YGD, value_YGD, out_MHD, sums_HM, ends_N, key_ends_N, longest, longest,
            0.0, window == EVERYTHING, *no_dropout,
            scale=scaling, window_size_left=before, window_size_right=behind,
        )  # fmt: skip
    return dq_MHD.contiguous(), dk_YGD.contiguous(), dv_YGD.contiguous()


_flash_backward = torch.ops.aten._flash_attention_backward


@contextmanager
def in_one_order() -> Iterator[None]:
    """PyTorch's deterministic algorithms for what runs here, and no longer: a whole step has operations that refuse to run so.

    Merely warned, flash attention would go on as before. New tensors are not filled, which would be one more kernel each.
    """
    tensors: Any = torch.utils.deterministic
    mode, filled = torch.get_deterministic_debug_mode(), tensors.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    tensors.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        tensors.fill_uninitialized_memory = filled


def _before_and_behind(window: int) -> tuple[int, int]:
    """Tokens that a token sees on either side of it; -1: all."""
    return (-1 if window == EVERYTHING else window - 1), 0


def _fake_forward(query: Tensor, *_: Any) -> tuple[Tensor, ...]:
    sums = query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
    return query.new_empty(query.shape), sums


def _fake_backward(dout: Tensor, *tensors: Any) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors[:3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.longest, ctx.scaling, ctx.window = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _make_differentiable(forward: Any, backward: Any) -> None:
    """Tell autograd and the compiler what ``forward`` needs for its gradients, which ``backward`` gives."""

    def gradients(ctx: Any, dout: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        numbers = (ctx.longest, ctx.scaling, ctx.window)
        return *backward(dout, *ctx.saved_tensors, *numbers), *[None] * 5

    forward.register_fake(_fake_forward)
    backward.register_fake(_fake_backward)
    forward.register_autograd(gradients, setup_context=_save)


_make_differentiable(short_attention, short_attention_backward)
_make_differentiable(long_attention, long_attention_backward)


def _written_out(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """The same with one mask over all tokens: for machines without the fused kernel, and small inputs."""
    sequence_M, place_M = _places(ends, query.shape[0])
    sequence_Y, place_Y = _places(key_ends, key.shape[0])
    before_N = key_ends.diff() - ends.diff()  # keys that stand before a sequence's first query
    distance_MY = (place_M + before_N[sequence_M])[:, None] - place_Y[None, :]
    seen_MY = (sequence_M[:, None] == sequence_Y[None, :]) & (distance_MY >= 0)
    if window is not None:
        seen_MY = seen_MY & (distance_MY < window)
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_MY, scale=scaling, enable_gqa=True)
    return out[0].transpose(0, 1)


def _places(ends: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The sequence of each of ``count`` tokens, and its place in it."""
    place = torch.arange(count, device=ends.device)
    sequence = torch.bucketize(place, ends.long(), right=True) - 1
    return sequence, place - ends[sequence]


def register() -> None:
    """Make the function known to transformers under ``NAME``. No mask function goes with it, so none is built."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, varlen_attention)
