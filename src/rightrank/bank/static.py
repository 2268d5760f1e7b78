"""A bank's micro-step on tensors of fixed size: forward, loss and backward with nothing the host decides on the way.

Run as it is, or captured as a CUDA graph (``graphs.py``). Every adapter's row lies behind the other's in one row of the model; the
loss's gradient is taken a piece of the logits at a time, so that all of them never exist.

Dimensions: K adapters, C tokens a row, M = K·C, S trained positions a row, H hidden width, V vocabulary.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from rightrank.bank import varlen
from rightrank.bank.base_model import decoder_of, run_head
from rightrank.bank.forward import (
    LOGITS_ON_CPU,
    LOGITS_ON_GPU,
    _attention,
    frozen,
    layers_of,
    recompute_layers,
    replace_forward,
)
from rightrank.bank.groups import groups_on
from rightrank.bank.head_loss import HeadLoss, judge, nats_and_gradient
from rightrank.bank.rows import STEP, StaticRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from rightrank.bank.adapters import AdapterBank
    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.batch import Batch
    from rightrank.bank.groups import Group
    from rightrank.bank.head_loss import WithGradient
    from rightrank.bank.rows import SharedKeys


class StaticForward:
    """``base`` with the adapters of ``bank`` in every target. Use it as a context: leaving it restores the model.

    ``working``: the bank's masters in the base's dtype (``update.working_copy``). ``longest``: tokens of the longest sequence.
    ``compiled``: fuse each layer's elementwise work by torch.compile, for any K, any ranks and any capacity at once.
    ``recomputed``: keep only what enters each layer for the backward pass. ``shares``: tokens that all examples of a row begin with are
    computed once.
    """

    def __init__(
        self,
        base: BaseModel,
        bank: AdapterBank,
        working: Float[Tensor, " P"],
        *,
        longest: int,
        compiled: bool = False,
        recomputed: bool = False,
        shares: bool = False,
    ) -> None:
        self.base, self.bank, self.working, self.compiled = base, bank, working, compiled
        self.recomputed, self.shares = recomputed, shares
        self.adapters = len(bank.specs)
        self._longest = -(-longest // STEP) * STEP
        limit = LOGITS_ON_GPU if bank.device.type == "cuda" else LOGITS_ON_CPU
        self._piece = max(STEP, limit // base.vocabulary // STEP * STEP)
        """Rows whose logits exist at the same time."""
        self._by_hand = _compiled_by_hand() if compiled else None
        self._stack = ExitStack()
        self._groups: list[Group] = []
        """Captured graphs read what these hold, so they live as long as this does."""
        self._start: Tensor | None = None
        self._output_type: type = object
        self._judging = False

    def __enter__(self) -> StaticForward:
        model = self.base.model
        varlen.register()
        self._groups = self._groups or groups_on(self.base, self.bank, self.working)
        with ExitStack() as stack:  # undone at once where one of these fails
            stack.enter_context(frozen(model))
            stack.enter_context(_attention(model, varlen.NAME))
            handle = model.get_input_embeddings().register_forward_hook(self._begin)
            stack.callback(handle.remove)
            for group in self._groups:
                group.attach(stack)
            if self.compiled:
                # The adapters' tables hang on the layers, whose shapes would otherwise count as fixed.
                stack.enter_context(torch._dynamo.config.patch(force_nn_module_property_static_shapes=False))
                for layer in layers_of(model):
                    replace_forward(layer, torch.compile(layer.forward, fullgraph=True, dynamic=True), stack)
            if self.recomputed:
                recompute_layers(model, stack)
            for layer in layers_of(model):
                replace_forward(layer, self._forgetting(layer.forward), stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def micro_step(self, row: StaticRow, loss_K: Float[Tensor, " K"]) -> None:
        """Add to every adapter's gradients and to ``loss_K`` what ``row`` contributes to the batch's mean loss."""
        targets_M = row.targets_S.repeat(self.adapters)
        with torch.enable_grad():
            rows_MH = self.hidden(row).index_select(1, row.predicts_S).flatten(0, 1)
            loss_M: Tensor = HeadLoss.apply(rows_MH, targets_M, self._head, self._piece, self._by_hand)
            share_K = (loss_M.view(self.adapters, -1) * row.weight_S.to(loss_M.dtype)).sum(1)
            assert self._start is not None
            torch.autograd.grad(share_K.sum(), self._start)
        loss_K += share_K.detach()
        self._start = None

    def through(self, row: StaticRow) -> None:
        """Forward and backward pass without the loss: what these two alone take."""
        with torch.enable_grad():
            hidden_KCH = self.hidden(row)
            assert self._start is not None
            torch.autograd.grad(hidden_KCH, self._start, torch.zeros_like(hidden_KCH))
        self._start = None

    def judged(self, row: StaticRow) -> Float[Tensor, "K C H"]:
        """``hidden`` without what a backward pass would need. Compiled layers run as in training, so that nothing is compiled twice."""
        self._judging = True
        try:
            with torch.set_grad_enabled(self.compiled):
                return self.hidden(row).detach()
        finally:
            self._judging, self._start = False, None

    def token_losses(self, batch: Batch) -> tuple[Float[Tensor, "K S"], Int[Tensor, "K S"]]:
        """Nats of every trained token, and 1 where it is the greedy choice, for every adapter."""
        hidden_KCH = self.judged(StaticRow.of(batch, self.adapters, shares=self.shares))
        rows_MH = hidden_KCH.index_select(1, batch.predicts_S).flatten(0, 1)
        targets_M = batch.targets_S.repeat(self.adapters)
        loss_M, right_M = judge(rows_MH, targets_M, self._head, self._piece)
        shape = (self.adapters, len(batch.targets_S))
        return loss_M.view(shape), right_M.view(shape)

    def hidden(self, row: StaticRow) -> Float[Tensor, "K C H"]:
        """Last hidden states of every token, for every adapter."""
        tables = {} if row.keys is None else _tables(row.keys, self.adapters)
        out = decoder_of(self.base.model)(
            input_ids=row.token_ids_C.repeat(self.adapters)[None],
            position_ids=row.position_ids_C.repeat(self.adapters)[None],
            use_cache=False,
            cu_seq_lens_q=row.ends_N,
            cu_seq_lens_k=row.ends_N if row.keys is None else row.keys.ends_N,
            max_length_q=self._longest,
            max_length_k=self._longest,
            **tables,
        )
        self._output_type = type(out)
        hidden: Tensor = out.last_hidden_state.view(self.adapters, row.shape.tokens, -1)
        return hidden

    def _forgetting(self, own: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's ``forward`` that, where rows are judged, lets go of what a backward pass would need."""

        def forward(*arguments: Any, **options: Any) -> Any:
            out = own(*arguments, **options)
            if not self._judging:
                return out
            if isinstance(out, tuple):
                return (out[0].detach().requires_grad_(), *out[1:])
            return out.detach().requires_grad_()

        return forward

    def _head(self, rows_MH: Tensor) -> Tensor:
        return run_head(self.base.model, rows_MH[None], self._output_type)[0]

    def _begin(self, _: nn.Module, __: Any, embedded: Tensor) -> Tensor:
        """Where autograd starts: the embeddings are frozen, and the first layer's adapters have gradients all the same."""
        self._start = embedded.detach().requires_grad_()
        return self._start


def _tables(keys: SharedKeys, adapters: int) -> dict[str, Tensor]:
    """As ``varlen_attention`` takes them."""
    source, first, times = keys.of_all(adapters)
    return {"shared_source": source, "shared_first": first, "shared_times": times}


def _compiled_by_hand() -> WithGradient:
    compiled = torch.compile(nats_and_gradient, fullgraph=True)

    def by_hand(logits_MV: Tensor, targets_M: Tensor) -> tuple[Tensor, Tensor]:
        torch._dynamo.mark_dynamic(logits_MV, 0)
        torch._dynamo.mark_dynamic(targets_M, 0)
        found: tuple[Tensor, Tensor] = compiled(logits_MV, targets_M)
        return found

    return by_hand
