"""Attention over a packed row, registered with transformers: each example attends to itself alone, and no mask is built.

A row is unfolded into its examples (padded to the longest), attended causally, and folded back. Padding sits behind each example, so
under causal attention nothing that is kept ever looks at it.

Dimensions: K rows (one an adapter), H heads, T tokens, D numbers a head, N examples in a row, L longest of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

    from rightrank.bank.batch import Batch

NAME = "rightrank_packed"

_current: ContextVar[Batch] = ContextVar("rightrank_packed_batch")

# PyTorch's fused attention on CPUs is the slower one on short rows: backward in bfloat16 took 4 × as long at 70 tokens and 1.4 × at 128
# and at 512 (measured, one thread).
SHORT_ON_CPU = 512

# Arguments that do not change what attention computes on a full, uncached, causal pass. Anything else that is not empty is refused.
_HARMLESS = {
    "position_ids",
    "cache_position",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
    "past_key_values",
    "logits_to_keep",
    "position_embeddings",
    "is_causal",
}


UNSAID = -1
"""For a sliding window that the model does not pass to its attention function."""


class UnsupportedAttentionError(Exception):
    """The model asks of attention something that this function does not know."""


@contextmanager
def packed_as(batch: Batch) -> Iterator[None]:
    """Within this context, attention reads rows as packed like ``batch``."""
    token = _current.set(batch)
    try:
        yield
    finally:
        _current.reset(token)


def packed_attention(
    module: nn.Module,
    query_KHTD: Tensor,
    key_KHTD: Tensor,
    value_KHTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = UNSAID,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each example of a packed row; returns [K, T, H, D] and no weights, as transformers wants it.

    ``softcap`` (Gemma 2) squeezes scores into ±softcap by a tanh; ``s_aux`` (GPT-OSS) is a score for each head that takes its share of
    the softmax and gives no value. Raises UnsupportedAttentionError for biases and whatever else is unknown here.
    """
    _refuse_unknown(module, attention_mask, dropout, rest)
    if sliding_window == UNSAID:
        _refuse_hidden_window(module)
        sliding_window = None
    batch = _current.get()
    adapters, heads, tokens, _ = query_KHTD.shape
    if tokens != batch.tokens:
        raise UnsupportedAttentionError(f"{tokens} tokens in a row of {batch.tokens}")

    def unfold(x_KHTD: Tensor) -> Tensor:  # -> [K·N, H, L, D]
        count, longest = batch.pad_index_NL.shape
        x = x_KHTD.index_select(2, batch.pad_index_NL.flatten())
        heads, width = x_KHTD.shape[1], x_KHTD.shape[3]
        x = x.view(adapters, heads, count, longest, width).transpose(1, 2)
        return x.reshape(adapters * count, heads, longest, width)

    query, key, value = unfold(query_KHTD), unfold(key_KHTD), unfold(value_KHTD)
    longest = query.shape[2]
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    unusual = softcap is not None or s_aux is not None
    if unusual or (query.device.type == "cpu" and longest <= SHORT_ON_CPU):
        out = _attend_plainly(query, key, value, scaling, window, softcap, s_aux)
    else:
        mask = None if window is None else _look_back(longest, window, query.device)
        grouped = key.shape[1] != heads
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped
        )
    # [K·N, H, L, D] -> [K, N·L, H, D] -> the tokens that are there
    out = out.transpose(1, 2).reshape(adapters, -1, heads, out.shape[3])
    return out.index_select(1, batch.unpad_index_T), None


def _refuse_unknown(module: nn.Module, mask: Tensor | None, dropout: float, rest: dict[str, Any]) -> None:
    if mask is not None or dropout:
        raise UnsupportedAttentionError("a mask or dropout inside attention")
    if getattr(module, "is_causal", True) is False or rest.get("is_causal") is False:
        raise UnsupportedAttentionError("attention that looks ahead")
    for name, value in rest.items():
        if name not in _HARMLESS and value is not None and value is not False:
            raise UnsupportedAttentionError(name)


def _refuse_hidden_window(module: nn.Module) -> None:
    """A model that keeps its window in the mask, which is never built here, would look back too far on rows longer than the window."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None) or ()
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if windowed or any(kind in ("sliding_attention", "chunked_attention") for kind in kinds):
        raise UnsupportedAttentionError("a window that only the mask knows")


def _attend_plainly(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
    sink_H: Tensor | None,
) -> Tensor:
    """Causal attention written out, [N, H, L, D] -> [N, H, L, D]; each key head serves a group of query heads."""
    count, heads, length, width = query.shape
    groups = key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    scores = (
        query.view(count, groups, heads // groups, length, width) @ key[:, :, None].transpose(-1, -2) * scale
    )
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    hidden = ~_look_back(length, length if window is None else window, query.device)
    scores = scores.masked_fill(hidden, float("-inf"))
    if sink_H is not None:
        sink = sink_H.to(scores.dtype).view(1, groups, -1, 1, 1).expand(count, -1, -1, length, 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = scores.softmax(-1)[..., :length]
    return (weights @ value[:, :, None]).view(count, heads, length, -1)


def _look_back(length: int, window: int, device: torch.device) -> Tensor:
    """[L, L], true where a query may look: back at most ``window`` - 1 tokens, itself included, as transformers counts it."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def register() -> None:
    """Make the function known to transformers under ``NAME``. No mask function goes with it, so none is built."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
