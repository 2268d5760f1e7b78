"""The model with a bank's adapters attached: its own forward over packed rows, its own head, and everything put back afterwards.

Dimensions: K adapters, T tokens of the packed row, N examples in it, L longest of them, H hidden width, S trained positions,
I and O numbers into and out of a layer.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from rightrank.bank import attention
from rightrank.bank.base_model import decoder_of, run_head
from rightrank.bank.head_loss import HeadLoss, judge
from rightrank.bank.products import LoraProduct, grouped_products_run_here
from rightrank.bank.quantized import not_repacked
from rightrank.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from rightrank.bank.adapters import AdapterBank, Module
    from rightrank.bank.base_model import BaseModel
    from rightrank.bank.batch import Batch

# Logits held at once, in numbers: about 2.5 GiB on a GPU with their float32 copies and gradients (assumed); on a CPU few enough to stay in
# the cache, since passes over them are bound by memory (tiny model, 49,152 words: see bench/LOG.md).
LOGITS_ON_GPU = 1 << 28
LOGITS_ON_CPU = 1 << 22


class Forward:
    """Runs ``base`` for every adapter of ``bank`` at once, or bare where ``bank`` is None.

    Use it as a context: leaving it restores the model.

    ``packed``: rows without padding through our attention function; otherwise right-padded rows through the model's own.
    ``dropout`` acts while ``dropout_seed`` is set; a mask depends on that seed, the layer and the example's place in the recipe's
    batch, so that neither neighbours nor micro-batches change it. ``recomputed``: keep only what enters each layer for the backward pass.
    ``shares``: whoever makes its batches lets examples share their first tokens; not with ``dropout``, which differs from one to the next.
    """

    def __init__(
        self,
        base: BaseModel,
        bank: AdapterBank | None = None,
        *,
        packed: bool = True,
        dropout: float = 0.0,
        recomputed: bool = False,
        shares: bool = False,
    ) -> None:
        assert not (shares and (dropout or not packed))
        self.base = base
        self.bank = bank
        self.packed = packed
        self.adapters = len(bank.specs) if bank is not None else 1
        self.dropout = dropout
        self.recomputed = recomputed
        self.shares = shares
        self.dropout_seed: int | None = None
        self._grouped = bank is not None and grouped_products_run_here(bank.device, bank.dtype)
        self._anchor = torch.zeros((), device=base.device, requires_grad=bank is not None)
        self._stack = ExitStack()
        self._output_type: type = object
        self._batch: Batch | None = None

    def __enter__(self) -> Forward:
        model = self.base.model
        with ExitStack() as stack:  # undone at once where one of these fails
            stack.enter_context(frozen(model))
            if self.packed:
                stack.enter_context(_attention(model, attention.NAME))
            if self.recomputed:
                recompute_layers(model, stack)
            if self.bank is not None:
                named = dict(model.named_modules())
                for index, module in enumerate(self.bank.modules):
                    if any(module.ranks_K):
                        handle = named[module.target.name].register_forward_hook(self._hook(module, index))
                        stack.callback(handle.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def hidden(self, batch: Batch) -> Float[Tensor, "K T H"]:
        """Last hidden states of every token, for every adapter."""
        decoder = decoder_of(self.base.model)
        self._batch = batch
        count, longest = batch.pad_index_NL.shape
        if self.packed:
            with attention.packed_as(batch):
                out = decoder(
                    input_ids=batch.token_ids_T.expand(self.adapters, -1),
                    position_ids=batch.position_ids_T.expand(self.adapters, -1),
                    use_cache=False,
                )
            self._output_type = type(out)
            hidden_KTH: Tensor = out.last_hidden_state
            return hidden_KTH
        ids_NL = batch.token_ids_T[batch.pad_index_NL]
        mask_NL = torch.zeros(count * longest, dtype=torch.long, device=ids_NL.device)
        mask_NL[batch.unpad_index_T] = 1
        out = decoder(
            input_ids=ids_NL.repeat(self.adapters, 1),
            attention_mask=mask_NL.view(count, longest).repeat(self.adapters, 1),
            use_cache=False,
        )
        self._output_type = type(out)
        hidden = out.last_hidden_state.reshape(self.adapters, count * longest, -1)
        kept: Tensor = hidden.index_select(1, batch.unpad_index_T)
        return kept

    def token_losses(self, batch: Batch) -> tuple[Float[Tensor, "K S"], Int[Tensor, "K S"]]:
        """Nats of every trained token, and 1 where it is the greedy choice, for every adapter.

        While gradients are recorded no token is judged greedily: all zeros there.
        """
        rows_MH = self.hidden(batch).index_select(1, batch.predicts_S).flatten(0, 1)
        targets_M = batch.targets_S.repeat(self.adapters)
        limit = LOGITS_ON_GPU if self.base.device.type == "cuda" else LOGITS_ON_CPU
        size = max(1, limit // self.base.vocabulary)
        if torch.is_grad_enabled():
            loss_M: Tensor = HeadLoss.apply(rows_MH, targets_M, self._head, size)
            right_M = torch.zeros_like(targets_M)
        else:
            loss_M, right_M = judge(rows_MH, targets_M, self._head, size)
        shape = (self.adapters, len(batch.targets_S))
        return loss_M.view(shape), right_M.view(shape)

    def _head(self, rows_MH: Tensor) -> Tensor:
        return run_head(self.base.model, rows_MH[None], self._output_type)[0]

    def _hook(self, module: Module, index: int) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def add_adapters(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            x_KTI = self._by_adapter(inputs[0], module)
            x_KTI = self._drop(x_KTI.to(module.a_RI.dtype), index)
            base_KTO = output.reshape(self.adapters, -1, output.shape[-1]).to(x_KTI.dtype)
            y_KTO: Tensor = LoraProduct.apply(x_KTI, base_KTO, self._anchor, module, self._grouped)
            return y_KTO.view(output.shape).to(output.dtype)

        return add_adapters

    def _by_adapter(self, x: Tensor, module: Module) -> Tensor:
        """A layer's input as [K, T, I]. Raises ModelError where the layer does not see every token of every adapter."""
        x_KTI = x.reshape(-1, x.shape[-1])
        assert self._batch is not None
        tokens = self._batch.tokens if self.packed else self._batch.pad_index_NL.numel()
        if len(x_KTI) != self.adapters * tokens and (self.adapters > 1 or self.dropout):
            raise ModelError(
                f"{module.target.name} sees {len(x_KTI)} of {self.adapters * tokens} tokens: routed layers are not supported.",
                "Name a model without a mixture of experts.",
            )
        return x_KTI.view(self.adapters, -1, x.shape[-1])

    def _drop(self, x_KTI: Tensor, index: int) -> Tensor:
        """LoRA dropout, one mask for all adapters: paired runs lose the same inputs."""
        batch = self._batch
        if self.dropout_seed is None or not self.dropout or batch is None:
            return x_KTI
        generator = torch.Generator(x_KTI.device)
        noise = []
        for place, length in enumerate(batch.lengths_N, start=batch.first):
            generator.manual_seed((self.dropout_seed * 100_003 + index) * 10_007 + place)
            noise.append(torch.rand(length, x_KTI.shape[2], generator=generator, device=x_KTI.device))
        kept_TI = (torch.cat(noise) >= self.dropout).to(x_KTI.dtype) / (1 - self.dropout)
        return x_KTI * (kept_TI if self.packed else kept_TI[batch.pad_index_NL.flatten()])


@contextmanager
def frozen(model: Any) -> Iterator[None]:
    """eval() and no gradients for the base's own weights, which stay packed as they are; all as before on leaving."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with not_repacked(model):
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


@contextmanager
def _attention(model: Any, name: str) -> Iterator[None]:
    """The model's attention function replaced by the registered one of that ``name``."""
    attention.register()
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values()
    before = [config._attn_implementation for config in configs]
    try:
        model.set_attn_implementation(name)
        if model.config._attn_implementation != name:
            raise attention.UnsupportedAttentionError("the attention function cannot be chosen")
        yield
    finally:
        for config, own in zip(
            configs, before, strict=True
        ):  # the whole model's first: it sets its parts' too
            config._attn_implementation = own


def recompute_layers(model: Any, stack: ExitStack) -> None:
    """Until ``stack`` closes each layer is run again in the backward pass, so that only what enters it is kept meanwhile.

    Nothing random happens inside: LoRA dropout has a generator of its own, which is seeded by the layer's number.
    """
    for layer in layers_of(model):
        replace_forward(layer, _recomputed(layer.forward), stack)


def _recomputed(own: Callable[..., Any]) -> Callable[..., Any]:
    def forward(*arguments: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return own(*arguments, **options)
        again = partial(copy_context().run, own)  # attention looks up there which row it is in
        return checkpoint(
            again, *arguments, use_reentrant=False, preserve_rng_state=False, determinism_check="none", **options
        )  # fmt: skip

    return forward


def layers_of(model: Any) -> list[nn.Module]:
    """The decoder's layers."""
    lists = [module for module in decoder_of(model).children() if isinstance(module, torch.nn.ModuleList)]
    return list(max(lists, key=len, default=[]))


def replace_forward(module: nn.Module, forward: Callable[..., Any], stack: ExitStack) -> None:
    """``module.forward`` for as long as ``stack`` lasts."""
    had = "forward" in vars(module)
    before = module.forward
    module.forward = forward
    stack.callback(lambda: setattr(module, "forward", before) if had else delattr(module, "forward"))
